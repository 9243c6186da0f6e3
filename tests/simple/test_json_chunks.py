"""Large pages, decoded and encoded in chunks: the result is always the result of the whole."""

from __future__ import annotations

import json as stdlib
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytail.simple import json_chunks

COUNT = 3000


def entries(**more: Any) -> list[dict[str, Any]]:
    return [
        {"filename": f"foo-{n}.zip", "hashes": {"sha256": "ab" * 32}} | more for n in range(COUNT)
    ]


def page(**more: Any) -> bytes:
    return stdlib.dumps(
        {"meta": {"api-version": "1.1"}, "files": entries(), "name": "foo"} | more
    ).encode()


def decoded_and_longest(body: bytes) -> tuple[Any, list[Any], int]:
    """Return the results, and the largest number of bytes decoded at once."""
    lengths, loads = [], orjson.loads

    def measured(data: bytes) -> Any:
        lengths.append(len(data))
        return loads(data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_chunks.orjson, "loads", measured)
        data, files = json_chunks.decoded(body, lambda entry: entry)
    return data, files, max(lengths)


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": "), (" ,\n ", " :\t")])
def test_a_large_page_is_decoded_in_chunks(separators: tuple[str, str]):
    body = stdlib.dumps(stdlib.loads(page()), separators=separators).encode()
    data, files, longest = decoded_and_longest(body)
    assert files == entries()
    assert (data["meta"], data["name"]) == ({"api-version": "1.1"}, "foo")
    assert len(body) > 2 * json_chunks.CHUNK > longest


@pytest.mark.parametrize(
    "listed",
    [
        entries(reason="},{"),
        entries(reason='\\"},{"'),
        entries(members=[{"a": 1}, {"b": 2}]),
        entries(reason='"files":['),
        [*entries(), 1, None, "},{"],
        [[{"a": 1}, {"b": 2}] * 40_000],
    ],
)
def test_text_like_the_end_of_a_file_does_not_change_the_result(listed: list[Any]):
    data, files = json_chunks.decoded(page(files=listed), lambda entry: entry)
    assert files == listed
    assert data["name"] == "foo"


@pytest.mark.parametrize("again", ['"files"', '"\\u0066iles"', '"fil\\u0065s"'])
@pytest.mark.parametrize("value", ["[]", "[1]", "7"])
def test_of_two_lists_of_files_the_last_counts(again: str, value: str):
    body = page()[:-1] + f", {again}: {value}}}".encode()
    _, files = json_chunks.decoded(body, lambda entry: entry)
    last = stdlib.loads(value)
    assert files == (last if isinstance(last, list) else None)


@pytest.mark.parametrize("cut", [1, 2, 1000, 200_000])
def test_a_truncated_large_page_is_an_error(cut: int):
    with pytest.raises(orjson.JSONDecodeError):
        json_chunks.decoded(page()[:-cut], lambda entry: entry)


def test_a_list_of_files_below_the_top_level_does_not_count():
    data, files = json_chunks.decoded(b'{"other": %b}' % page(), lambda entry: entry)
    assert files is None
    assert len(data["other"]["files"]) == COUNT


@settings(max_examples=50, deadline=None)
@given(st.lists(st.dictionaries(st.text(), st.integers(0, 9) | st.text())), st.integers(1, 20))
def test_a_list_encoded_in_chunks_equals_the_whole(listed: list[dict[str, Any]], times: int):
    assert json_chunks.encoded(listed * times) == orjson.dumps(listed * times)


def test_a_large_list_encoded_in_chunks_equals_the_whole():
    assert json_chunks.encoded(entries()) == orjson.dumps(entries())
