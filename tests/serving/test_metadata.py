"""Core metadata that upstream promises and does not have, or does not promise."""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.fakeindex import JSON, Dist, FakeIndex, reply, sdist, wheel
from tests.support.running import Client, Clock, file_path, serving

LARGE = os.urandom(12_000_000)


def path_of(dist: Dist) -> str:
    return f"/root/pypi/+f/{dist.key}.metadata"


def ranged(data: bytes) -> Any:
    """An answer that knows ranges."""

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        start, stop = environ["HTTP_RANGE"].removeprefix("bytes=").split("-")
        part = data[int(start) : int(stop) + 1]
        headers = [
            ("Content-Length", str(len(part))),
            ("Content-Range", f"bytes {start}-{stop}/{len(data)}"),
        ]
        start_response("206 Partial Content", headers)
        return [part]

    return application


def lose_metadata(index: FakeIndex, dist: Dist) -> None:
    index.answers[f"{dist.path}.metadata"] = reply(b"", "text/plain", "404 Not Found")


@pytest.fixture
def large(index: FakeIndex) -> Dist:
    """A large wheel whose upstream answers ranges, and promises metadata that it does not have."""
    dist = wheel("demo", payload=LARGE)
    index.add(dist)
    index.answers[dist.path] = ranged(dist.data)
    lose_metadata(index, dist)
    return dist


def test_lost_metadata_is_read_out_of_a_few_stretches_of_the_wheel(
    pytail: Client, index: FakeIndex, large: Dist
):
    for _ in range(2):
        answer = pytail.get(path_of(large))
        assert (answer.status, answer.data) == (200, large.metadata)  # items 57, 61
    ranges = [seen.headers["RANGE"] for seen in index.seen if seen.path == large.path]
    assert 1 <= len(ranges) <= 3
    asked = [range(*map(int, text.removeprefix("bytes=").split("-"))) for text in ranges]
    assert sum(map(len, asked)) < 200_000


def test_lost_metadata_is_read_out_of_the_held_wheel(pytail: Client, index: FakeIndex):
    dist = wheel("demo")
    index.add(dist)
    lose_metadata(index, dist)
    pytail.get(dist.served)
    assert pytail.get(path_of(dist)).data == dist.metadata
    assert index.count(dist.path) == 1


def test_small_wheel_is_read_whole_where_upstream_knows_no_ranges(pytail: Client, index: FakeIndex):
    dist = wheel("demo")
    index.add(dist)
    lose_metadata(index, dist)
    assert pytail.get(path_of(dist)).data == dist.metadata


def test_promise_that_cannot_be_kept_is_taken_back(pytail: Client, index: FakeIndex, large: Dist):
    index.answers[large.path] = reply(large.data, "application/octet-stream")
    assert "core-metadata" in pytail.json("demo")["files"][0]
    answer = pytail.get(path_of(large))
    assert answer.status == 502
    assert "does not support range requests" in answer.json()["detail"]
    assert pytail.json("demo")["files"][0]["core-metadata"] is False  # item 57
    assert pytail.get(path_of(large)).status == 404


def test_promise_for_an_sdist_that_upstream_breaks_is_404(pytail: Client, index: FakeIndex):
    dist = sdist("demo", **{"core-metadata": True})
    index.add(dist)
    assert pytail.get(path_of(dist)).status == 404


def test_digest_that_upstream_got_wrong_is_mended(pytail: Client, index: FakeIndex):
    dist = wheel("demo", **{"core-metadata": {"sha256": "0" * 64}})
    index.add(dist)
    lose_metadata(index, dist)
    assert pytail.get(path_of(dist)).status == 502  # as no client would take it
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
def test_wheel_without_one_sane_metadata_is_502(
    pytail: Client, index: FakeIndex, members: dict[str, bytes]
):
    dist = wheel("demo")
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    dist.data = out.getvalue()
    index.add(dist)
    lose_metadata(index, dist)
    assert pytail.get(path_of(dist)).status == 502


def test_wheel_that_is_no_zip_file_is_502(pytail: Client, index: FakeIndex):
    dist = wheel("demo")
    dist.data = os.urandom(100_000)
    index.add(dist)
    lose_metadata(index, dist)
    assert pytail.get(path_of(dist)).status == 502


@pytest.fixture
def promising(tmp_path: Path, clock: Clock) -> Iterator[tuple[Client, FakeIndex]]:
    """A pytail that promises what it can read out, before an upstream that promises nothing."""
    with (
        FakeIndex(html_only=True) as index,
        serving(tmp_path, index.url, clock, core_metadata_from_wheels=True) as client,
    ):
        yield client, index


def test_metadata_is_promised_and_kept_where_upstream_has_none(
    promising: tuple[Client, FakeIndex],
):
    pytail, index = promising
    dist, source = wheel("demo", **{"core-metadata": None}), sdist("demo")
    index.add(dist, source)
    lose_metadata(index, dist)
    first, second = pytail.json("demo")["files"]
    assert first["core-metadata"] is True
    assert "core-metadata" not in second
    assert pytail.get(file_path(first) + ".metadata").data == dist.metadata
    assert pytail.get(file_path(second) + ".metadata").status == 404
    # What was read out has a digest now.
    digest = hashlib.sha256(dist.metadata or b"").hexdigest()
    assert pytail.json("demo")["files"][0]["core-metadata"] == {"sha256": digest}


def test_nothing_is_promised_without_being_asked_to(pytail: Client, index: FakeIndex):
    index.add(wheel("demo", **{"core-metadata": None}))
    assert "core-metadata" not in pytail.json("demo")["files"][0]
    assert pytail.get(path_of(index.dists[0])).status == 404
    assert JSON in index.seen[0].headers["ACCEPT"]
