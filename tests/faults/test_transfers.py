"""Downloads that break off: clients wait while pytail requests the rest of the file."""

from __future__ import annotations

import os
from http.client import IncompleteRead
from pathlib import Path

import pytest

from pytail.upstream import resume
from tests.support.fakeindex import Dist, FakeIndex, sdist, wheel
from tests.support.running import Client, file_path
from tests.support.sending import Breaking
from tests.support.watching import stored_names

SIZE = 300_000
DATA = os.urandom(SIZE)
#: Where no digest tells, the type has to be right.
PACKED = b"\x1f\x8b\x08" + DATA[3:]


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Resume after milliseconds instead of seconds."""
    monkeypatch.setattr(resume, "PAUSES", (0.01, 0.02, 0.03))


@pytest.fixture
def demo(index: FakeIndex) -> Dist:
    dist = wheel("demo", payload=DATA)
    index.add(dist)
    return dist


def test_a_broken_download_is_resumed_at_its_offset(pytail: Client, index: FakeIndex, demo: Dist):
    answer = index.answers[demo.path] = Breaking(demo.data, lengths=(100_000, 200_000))
    for _ in range(2):
        assert pytail.get(demo.served).data == demo.data
    assert answer.asked == [None, "bytes=100000-", "bytes=200000-"]


def test_from_an_upstream_without_ranges_the_known_bytes_are_skipped(
    pytail: Client, index: FakeIndex, demo: Dist
):
    index.answers[demo.path] = Breaking(demo.data, lengths=(100_000, 200_000), ranges=False)
    assert pytail.get(demo.served).data == demo.data


def test_an_upstream_that_keeps_breaking_off_ends_the_response_early(
    pytail: Client, index: FakeIndex, demo: Dist, tmp_path: Path
):
    answer = index.answers[demo.path] = Breaking(demo.data, lengths=(100_000,) * 50)
    with pytest.raises(IncompleteRead):
        pytail.get(demo.served)
    assert len(answer.asked) == 1 + len(resume.PAUSES)
    assert stored_names(tmp_path / "cache") == set()
    del index.answers[demo.path]
    assert pytail.get(demo.served).data == demo.data


@pytest.mark.parametrize("ranges", [False, True])
def test_a_file_that_changes_between_two_requests_is_never_complete(
    pytail: Client, index: FakeIndex, demo: Dist, tmp_path: Path, ranges: bool
):
    other = demo.data[:50_000] + bytes(1000) + demo.data[51_000:]
    index.answers[demo.path] = Breaking(other, demo.data, lengths=(100_000,), ranges=ranges)
    with pytest.raises(IncompleteRead):
        pytail.get(demo.served)
    assert stored_names(tmp_path / "cache") == set()
    assert pytail.get(demo.served).data == demo.data


@pytest.mark.parametrize("etag", ['"one"', None, 'W/"one"'])
def test_a_file_without_digest_is_resumed_only_under_the_same_strong_etag(
    pytail: Client, index: FakeIndex, etag: str | None
):
    dist = sdist("demo", hashes={}, size=SIZE)
    dist.data = PACKED
    index.add(dist)
    index.answers[dist.path] = Breaking(PACKED, lengths=(100_000,), etag=etag)
    path = file_path(pytail.json("demo")["files"][0])
    if etag == '"one"':
        assert pytail.get(path).data == PACKED
        assert index.seen[-1].headers["IF_RANGE"] == etag
    else:
        with pytest.raises(IncompleteRead):
            pytail.get(path)
        # A download without a break is complete.
        assert pytail.get(path).data == PACKED


def test_a_file_of_another_size_is_not_resumed(
    pytail: Client, index: FakeIndex, demo: Dist, tmp_path: Path
):
    index.answers[demo.path] = Breaking(demo.data, demo.data + b"x", lengths=(100_000,))
    with pytest.raises(IncompleteRead):
        pytail.get(demo.served)
    assert stored_names(tmp_path / "cache") == set()
