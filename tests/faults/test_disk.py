"""A cache directory without room or rights: hits are served, misses pass through."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

import gevent
import pytest

from tests.support.fakeindex import Dist, FakeIndex, wheel
from tests.support.running import free_port, program, serving
from tests.support.watching import memory, partial_sizes, stored_names

pytestmark = pytest.mark.usefixtures("rights")

LARGE = os.urandom(30_000_000)


@pytest.fixture
def dists(index: FakeIndex) -> tuple[Dist, Dist]:
    small, large = wheel("small"), wheel("large", payload=LARGE)
    index.add(small, large)
    return small, large


def test_with_a_full_disk_files_pass_through_and_hits_are_served(
    small_disk: Path, index: FakeIndex, dists: tuple[Dist, Dist]
):
    small, large = dists
    with serving(small_disk / "cache", index.url) as pytail:
        for _ in range(2):
            for dist in dists:
                assert pytail.get(dist.served).data == dist.data  # item 78
        assert stored_names(small_disk / "cache") == {small.filename}
        assert partial_sizes(small_disk / "cache") == []
        assert (index.count(small.path), index.count(large.path)) == (1, 2)


def test_a_disk_with_room_again_stores_files_again(
    small_disk: Path, index: FakeIndex, dists: tuple[Dist, Dist]
):
    ballast = small_disk / "ballast"
    middle = wheel("small", "2.0", payload=LARGE[:500_000])
    index.add(middle)
    with serving(small_disk / "cache", index.url) as pytail:
        pytail.get("/simple/small/")
        descriptor = os.open(ballast, os.O_WRONLY | os.O_CREAT)
        with contextlib.suppress(OSError):
            while True:
                os.write(descriptor, bytes(4096))
        os.close(descriptor)
        assert pytail.get(middle.served).data == middle.data
        ballast.unlink()
        assert pytail.get(dists[0].served).data == dists[0].data
        assert dists[0].filename in stored_names(small_disk / "cache")


def test_without_partial_files_files_pass_through(
    tmp_path: Path, index: FakeIndex, dists: tuple[Dist, Dist]
):
    small, large = dists
    with serving(tmp_path / "cache", index.url) as pytail:
        pytail.get(small.served)
        directory = tmp_path / "cache" / "+partial"
        directory.rmdir()
        directory.write_text("in the way")
        for dist in (small, large):
            assert pytail.get(dist.served).data == dist.data
        assert pytail.get(large.served).headers["X-Cache"] == "PASS"
        assert pytail.get(large.served + ".metadata").data == large.metadata
        directory.unlink()
        assert pytail.get(large.served).data == large.data
        assert stored_names(tmp_path / "cache") == {small.filename, large.filename}


def test_files_pass_through_where_no_large_file_can_be_written(
    tmp_path: Path, index: FakeIndex, dists: tuple[Dist, Dist]
):
    small, large = dists
    log, port = tmp_path / "log", free_port()
    pytail = f"{sys.executable} -m pytail --bind 127.0.0.1:{port} --cache-dir {tmp_path / 'cache'}"
    # ulimit -f 4000: no file grows beyond 4 MB, also none in the temporary directory.
    command = ["bash", "-c", f"ulimit -f 4000; exec {pytail} --upstream-base-url {index.url}"]
    with program(command, log, f"http://127.0.0.1:{port}") as running:
        for _ in range(3):
            for dist in (small, large):
                answer = running.client.get(dist.served)
                assert answer.data == dist.data
                assert answer.headers["Content-Length"] == str(len(dist.data))
        clients = [gevent.spawn(running.client.get, large.served) for _ in range(8)]
        assert {client.get().data for client in clients} == {large.data}
        assert stored_names(tmp_path / "cache") == {small.filename}
        assert running.output().count("cannot store files, serving them without caching") == 1
        assert memory(running.process.pid, "VmHWM") < 150_000_000
    assert index.count(small.path) == 1


def test_a_wrong_file_does_not_pass_through_completely(
    tmp_path: Path, index: FakeIndex, dists: tuple[Dist, Dist]
):
    _, large = dists
    with serving(tmp_path / "cache", index.url) as pytail:
        pytail.get("/simple/large/")
        directory = tmp_path / "cache" / "+partial"
        directory.rmdir()
        directory.write_text("in the way")
        large.data, path, served = large.data[:-1] + b"x", large.path, large.served
        index.answers[path] = lambda *wsgi: (wsgi[1]("200 OK", []), [large.data])[1]
        with pytest.raises(Exception, match=r"IncompleteRead|ChunkedEncoding"):
            pytail.get(served)
