"""Core metadata that upstream lists without having it, or does not list."""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fakeindex import JSON, Dist, FakeIndex, reply, sdist, wheel
from tests.support.running import Client, Clock, file_path, serving
from tests.support.sending import Sending

LARGE = os.urandom(12_000_000)


def path_of(dist: Dist) -> str:
    return f"{dist.served}.metadata"


def remove_metadata(index: FakeIndex, dist: Dist) -> None:
    index.answers[f"{dist.path}.metadata"] = reply(b"", "text/plain", "404 Not Found")


@pytest.fixture
def large(index: FakeIndex) -> Dist:
    """A large wheel; upstream supports ranges of it and lists metadata that it does not have."""
    dist = wheel("demo", payload=LARGE)
    index.add(dist)
    index.answers[dist.path] = Sending(dist.data)
    remove_metadata(index, dist)
    return dist


def test_missing_metadata_is_read_from_a_few_ranges_of_the_wheel(
    pytail: Client, index: FakeIndex, large: Dist
):
    for _ in range(2):
        answer = pytail.get(path_of(large))
        assert (answer.status, answer.data) == (200, large.metadata)  # items 57, 61
    ranges = [seen.headers["RANGE"] for seen in index.seen if seen.path == large.path]
    assert 1 <= len(ranges) <= 3
    asked = [range(*map(int, text.removeprefix("bytes=").split("-"))) for text in ranges]
    assert sum(map(len, asked)) < 200_000


def test_missing_metadata_is_read_from_the_stored_wheel(pytail: Client, index: FakeIndex):
    dist = wheel("demo")
    index.add(dist)
    remove_metadata(index, dist)
    pytail.get(dist.served)
    assert pytail.get(path_of(dist)).data == dist.metadata
    assert index.count(dist.path) == 1


def test_a_small_wheel_is_read_whole_from_an_upstream_without_ranges(
    pytail: Client, index: FakeIndex
):
    dist = wheel("demo")
    index.add(dist)
    remove_metadata(index, dist)
    assert pytail.get(path_of(dist)).data == dist.metadata


def test_metadata_that_cannot_be_read_is_no_longer_listed(
    pytail: Client, index: FakeIndex, large: Dist
):
    index.answers[large.path] = reply(large.data, "application/octet-stream")
    assert "core-metadata" in pytail.json("demo")["files"][0]
    answer = pytail.get(path_of(large))
    assert answer.status == 502
    assert "does not support range requests" in answer.json()["detail"]
    assert pytail.json("demo")["files"][0]["core-metadata"] is False  # item 57
    assert pytail.get(path_of(large)).status == 404


def test_missing_metadata_of_an_sdist_is_404(pytail: Client, index: FakeIndex):
    dist = sdist("demo", **{"core-metadata": True})
    index.add(dist)
    assert pytail.get(path_of(dist)).status == 404


def test_a_wrong_digest_of_metadata_is_corrected(pytail: Client, index: FakeIndex):
    dist = wheel("demo", **{"core-metadata": {"sha256": "0" * 64}})
    index.add(dist)
    remove_metadata(index, dist)
    assert pytail.get(path_of(dist)).status == 502  # with that digest, clients would reject it
    right = {"sha256": hashlib.sha256(dist.metadata or b"").hexdigest()}
    assert pytail.json("demo")["files"][0]["core-metadata"] == right
    assert pytail.get(path_of(dist)).data == dist.metadata


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"demo-1.0.dist-info/METADATA": b"x", "other-1.0.dist-info/METADATA": b"y"},
        {"demo-1.0.dist-info/METADATA": b"0" * 9_000_000},
    ],
    ids=["none", "two", "bomb"],
)
def test_a_wheel_without_exactly_one_usable_metadata_is_502(
    pytail: Client, index: FakeIndex, members: dict[str, bytes]
):
    dist = wheel("demo")
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    dist.data = out.getvalue()
    index.add(dist)
    remove_metadata(index, dist)
    assert pytail.get(path_of(dist)).status == 502


def test_a_wheel_that_is_not_a_zip_file_is_502(pytail: Client, index: FakeIndex):
    dist = wheel("demo")
    dist.data = os.urandom(100_000)
    index.add(dist)
    remove_metadata(index, dist)
    assert pytail.get(path_of(dist)).status == 502


@pytest.fixture
def promising(tmp_path: Path, clock: Clock) -> Iterator[tuple[Client, FakeIndex]]:
    """A pytail with `core_metadata_from_wheels`, and its upstream, which lists no metadata."""
    with (
        FakeIndex(html_only=True) as index,
        serving(tmp_path, index.url, clock, core_metadata_from_wheels=True) as client,
    ):
        yield client, index


def test_metadata_is_listed_and_read_from_wheels_where_upstream_lists_none(
    promising: tuple[Client, FakeIndex],
):
    pytail, index = promising
    dist, source = wheel("demo", **{"core-metadata": None}), sdist("demo")
    index.add(dist, source)
    remove_metadata(index, dist)
    first, second = pytail.json("demo")["files"]
    assert first["core-metadata"] is True
    assert "core-metadata" not in second
    assert pytail.get(file_path(first) + ".metadata").data == dist.metadata
    assert pytail.get(file_path(second) + ".metadata").status == 404
    # The digest is known once the metadata was read.
    digest = hashlib.sha256(dist.metadata or b"").hexdigest()
    assert pytail.json("demo")["files"][0]["core-metadata"] == {"sha256": digest}


def test_no_metadata_is_added_without_the_option(pytail: Client, index: FakeIndex):
    index.add(wheel("demo", **{"core-metadata": None}))
    assert "core-metadata" not in pytail.json("demo")["files"][0]
    assert pytail.get(path_of(index.dists[0])).status == 404
    assert JSON in index.seen[0].headers["ACCEPT"]
