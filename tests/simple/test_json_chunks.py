"""Large pages, decoded and encoded a piece at a time: the outcome is always that of the whole."""

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


def decoded_longest(body: bytes) -> tuple[Any, list[Any], int]:
    """What there is, and how long the longest run of bytes was that was decoded at once."""
    lengths, loads = [], orjson.loads

    def measured(data: bytes) -> Any:
        lengths.append(len(data))
        return loads(data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_chunks.orjson, "loads", measured)
        data, files = json_chunks.decoded(body, lambda entry: entry)
    return data, files, max(lengths)


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": "), (" ,\n ", " :\t")])
def test_a_large_page_is_never_decoded_at_once(separators: tuple[str, str]):
    body = stdlib.dumps(stdlib.loads(page()), separators=separators).encode()
    data, files, longest = decoded_longest(body)
    assert files == entries()
    assert (data["meta"], data["name"]) == ({"api-version": "1.1"}, "foo")
    assert len(body) > 2 * json_chunks.CHUNK > longest


@pytest.mark.parametrize(
    "listed",
    [
        entries(reason="},{"),
        entries(reason='\\"},{"'),
        entries(parts=[{"a": 1}, {"b": 2}]),
        entries(reason='"files":['),
        [*entries(), 1, None, "},{"],
        [[{"a": 1}, {"b": 2}] * 40_000],
    ],
)
def test_what_looks_like_the_end_of_a_file_is_not_taken_for_one(listed: list[Any]):
    data, files = json_chunks.decoded(page(files=listed), lambda entry: entry)
    assert files == listed
    assert data["name"] == "foo"


@pytest.mark.parametrize("again", ['"files"', '"\\u0066iles"', '"fil\\u0065s"'])
@pytest.mark.parametrize("value", ["[]", "[1]", "7"])
def test_of_two_lists_the_latter_counts(again: str, value: str):
    body = page()[:-1] + f", {again}: {value}}}".encode()
    _, files = json_chunks.decoded(body, lambda entry: entry)
    latter = stdlib.loads(value)
    assert files == (latter if isinstance(latter, list) else None)


@pytest.mark.parametrize("cut", [1, 2, 1000, 200_000])
def test_a_large_page_that_is_cut_off_is_broken(cut: int):
    with pytest.raises(orjson.JSONDecodeError):
        json_chunks.decoded(page()[:-cut], lambda entry: entry)


def test_a_list_that_is_not_at_the_top_is_not_the_pages():
    data, files = json_chunks.decoded(b'{"other": %b}' % page(), lambda entry: entry)
    assert files is None
    assert len(data["other"]["files"]) == COUNT


@settings(max_examples=50, deadline=None)
@given(st.lists(st.dictionaries(st.text(), st.integers(0, 9) | st.text())), st.integers(1, 20))
def test_what_is_encoded_in_pieces_is_the_list(listed: list[dict[str, Any]], times: int):
    assert json_chunks.encoded(listed * times) == orjson.dumps(listed * times)


def test_a_large_list_is_encoded_as_a_whole_would_be():
    assert json_chunks.encoded(entries()) == orjson.dumps(entries())
