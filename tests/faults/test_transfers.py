"""Transfers that break: the clients of a file wait while the rest is asked for again."""

from __future__ import annotations

import os
from http.client import IncompleteRead
from pathlib import Path
from typing import Any

import pytest

from pytail.upstream import resume
from tests.support.fakeindex import Dist, FakeIndex, sdist, wheel
from tests.support.running import Client, file_path

SIZE = 300_000
DATA = os.urandom(SIZE)


class Breaking:
    """An answer that breaks off after each of `lengths` bytes, then goes on to the end."""

    def __init__(
        self, *datas: bytes, lengths: tuple[int, ...], ranges: bool = True, etag: str | None = None
    ) -> None:
        self._datas, self._lengths, self._ranges, self._etag = datas, list(lengths), ranges, etag
        self.asked: list[str | None] = []

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        data = self._datas[min(len(self.asked), len(self._datas) - 1)]
        range_ = environ.get("HTTP_RANGE")
        self.asked.append(range_)
        start, status, headers = 0, "200 OK", [("Connection", "close")]
        if range_ is not None and self._ranges:
            first, _, last = range_.removeprefix("bytes=").partition("-")
            start, stop = int(first), min(int(last or len(data)) + 1, len(data))
            status = "206 Partial Content"
            headers.append(("Content-Range", f"bytes {start}-{stop - 1}/{len(data)}"))
            data = data[:stop]
        if self._etag is not None:
            headers.append(("ETag", self._etag))
        start_response(status, [*headers, ("Content-Length", str(len(data) - start))])
        return [data[start : self._lengths.pop(0)] if self._lengths else data[start:]]


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resume, "PAUSES", (0.01, 0.02, 0.03))


@pytest.fixture
def demo(index: FakeIndex) -> Dist:
    dist = wheel("demo", payload=DATA)
    index.add(dist)
    return dist


def nothing_held(cache: Path) -> bool:
    return not any(path.is_file() for path in (cache / "+files").rglob("*"))


def test_a_broken_transfer_goes_on_where_it_broke(pytail: Client, index: FakeIndex, demo: Dist):
    answer = index.answers[demo.path] = Breaking(demo.data, lengths=(100_000, 200_000))
    for _ in range(2):
        assert pytail.get(demo.served).data == demo.data
    assert answer.asked == [None, "bytes=100000-", "bytes=200000-"]


def test_an_upstream_that_can_only_begin_anew_is_read_past_what_came(
    pytail: Client, index: FakeIndex, demo: Dist
):
    index.answers[demo.path] = Breaking(demo.data, lengths=(100_000, 200_000), ranges=False)
    assert pytail.get(demo.served).data == demo.data


def test_an_upstream_that_breaks_for_good_ends_the_response_short(
    pytail: Client, index: FakeIndex, demo: Dist, tmp_path: Path
):
    answer = index.answers[demo.path] = Breaking(demo.data, lengths=(100_000,) * 50)
    with pytest.raises(IncompleteRead):
        pytail.get(demo.served)
    assert len(answer.asked) == 1 + len(resume.PAUSES)
    assert nothing_held(tmp_path / "cache")
    del index.answers[demo.path]
    assert pytail.get(demo.served).data == demo.data


@pytest.mark.parametrize("ranges", [False, True])
def test_a_file_that_changed_in_between_is_never_complete(
    pytail: Client, index: FakeIndex, demo: Dist, tmp_path: Path, ranges: bool
):
    other = demo.data[:50_000] + bytes(1000) + demo.data[51_000:]
    index.answers[demo.path] = Breaking(other, demo.data, lengths=(100_000,), ranges=ranges)
    with pytest.raises(IncompleteRead):
        pytail.get(demo.served)
    assert nothing_held(tmp_path / "cache")
    assert pytail.get(demo.served).data == demo.data


@pytest.mark.parametrize("etag", ['"one"', None, 'W/"one"'])
def test_a_file_without_digest_goes_on_only_with_the_same_strong_etag(
    pytail: Client, index: FakeIndex, etag: str | None
):
    dist = sdist("demo", hashes={}, size=SIZE)
    dist.data = DATA
    index.add(dist)
    index.answers[dist.path] = Breaking(DATA, lengths=(100_000,), etag=etag)
    path = file_path(pytail.json("demo")["files"][0])
    if etag == '"one"':
        assert pytail.get(path).data == DATA
        assert index.seen[-1].headers["IF_RANGE"] == etag
    else:
        with pytest.raises(IncompleteRead):
            pytail.get(path)
        # Once it arrives in one piece, it is kept.
        assert pytail.get(path).data == DATA


def test_a_file_of_another_size_is_not_taken_for_the_rest(
    pytail: Client, index: FakeIndex, demo: Dist, tmp_path: Path
):
    index.answers[demo.path] = Breaking(demo.data, demo.data + b"x", lengths=(100_000,))
    with pytest.raises(IncompleteRead):
        pytail.get(demo.served)
    assert nothing_held(tmp_path / "cache")
