"""The whole application with ``--cache-max-size``: which files are stored, evicted and served."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest

from tests.support.fakeindex import Dist, FakeIndex, Gated, reply, wheel
from tests.support.running import Client, serving, under_gunicorn
from tests.support.storage import another_process_evicting, bytes_below
from tests.support.watching import partial_sizes, samples, stored_names, timed, until

MB = 1_000_000


@pytest.fixture
def dists(index: FakeIndex) -> list[Dist]:
    """Eight files of upstream, of 1 MB each."""
    made = [wheel("demo", f"{number}.0", payload=os.urandom(MB)) for number in range(8)]
    index.add(*made)
    return made


def fetch(pytail: Client, dist: Dist, cache: Path) -> None:
    """Fetch a file, and wait until it is stored: the client does not wait for the disk."""
    assert pytail.get(dist.served).data == dist.data
    until(lambda: dist.filename in stored_names(cache))


def test_the_cache_stays_within_its_limit_and_serves_each_file(
    tmp_path: Path, index: FakeIndex, dists: list[Dist]
):
    cache = tmp_path / "cache"
    with serving(cache, index.url, cache_max_size=5 * MB) as pytail:
        for dist in dists * 2:
            fetch(pytail, dist, cache)
            assert bytes_below(cache) <= 5 * MB
            fetch(pytail, dists[0], cache)
        assert index.count(dists[0].path) == 1
        assert dists[-1].filename in stored_names(cache)


def test_a_file_larger_than_the_limit_passes_through(
    tmp_path: Path, index: FakeIndex, dists: list[Dist]
):
    large, cache = wheel("large", payload=os.urandom(6 * MB)), tmp_path / "cache"
    index.add(large)
    with serving(cache, index.url, cache_max_size=4 * MB) as pytail:
        fetch(pytail, dists[0], cache)
        for _ in range(2):
            answer = pytail.get(large.served)
            assert answer.data == large.data
            assert answer.headers["Content-Length"] == str(len(large.data))
            assert answer.headers["X-Cache"] == "PASS"
        assert stored_names(cache) == {dists[0].filename}
    assert index.count(large.path) == 2


def test_a_file_of_unknown_size_larger_than_the_limit_passes_through(
    tmp_path: Path, index: FakeIndex
):
    large, cache = wheel("large", payload=os.urandom(6 * MB), size=None), tmp_path / "cache"
    index.add(large)

    def chunked(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield from (large.data[at : at + 100_000] for at in range(0, len(large.data), 100_000))

    index.answers[large.path] = chunked
    with serving(cache, index.url, cache_max_size=4 * MB) as pytail:
        assert pytail.get(large.served).data == large.data
    assert stored_names(cache) == set()
    assert partial_sizes(cache) == []


def test_a_file_that_is_read_is_not_evicted(tmp_path: Path, index: FakeIndex, dists: list[Dist]):
    first, second, cache = dists[0], dists[1], tmp_path / "cache"
    gated = index.answers[first.path] = Gated(
        first.data[:500_000], first.data[500_000:], size=len(first.data)
    )
    with serving(cache, index.url, cache_max_size=int(2.6 * MB)) as pytail:
        reading = gevent.spawn(pytail.get, first.served)
        gated.asked.wait()
        gated.open()
        for dist in dists[1:4]:
            fetch(pytail, dist, cache)
        gated.open()
        assert reading.get().data == first.data
        until(lambda: first.filename in stored_names(cache))
        assert second.filename not in stored_names(cache)


def test_files_above_a_new_limit_are_evicted_at_the_next_start(
    tmp_path: Path, index: FakeIndex, dists: list[Dist]
):
    cache = tmp_path / "cache"
    with serving(cache, index.url) as pytail:
        for dist in dists:
            fetch(pytail, dist, cache)
    assert len(stored_names(cache)) == 8
    with serving(cache, index.url, cache_max_size=4 * MB) as pytail:
        until(lambda: bytes_below(cache) <= 4 * MB)
        fetch(pytail, dists[-1], cache)
    assert index.count(dists[-1].path) == 1


def test_files_that_upstream_does_not_send_evict_none(
    tmp_path: Path, index: FakeIndex, dists: list[Dist]
):
    cache = tmp_path / "cache"
    missing = [wheel("absent", f"{number}.0", payload=os.urandom(3 * MB)) for number in range(4)]
    index.add(*missing)
    with serving(cache, index.url, cache_max_size=5 * MB) as pytail:
        for dist in dists[:4]:
            fetch(pytail, dist, cache)
        stored = stored_names(cache)
        pytail.get("/simple/absent/")
        for dist in missing:
            index.answers[dist.path] = reply(b"", None, "503 Service Unavailable")
        for dist in missing:
            assert pytail.get(dist.served).status >= 500
        gevent.sleep(1.2)
        assert stored_names(cache) == stored


def test_a_stopped_process_that_evicts_delays_no_client_for_long(
    tmp_path: Path, index: FakeIndex, dists: list[Dist]
):
    cache = tmp_path / "cache"
    with serving(cache, index.url, cache_max_size=int(3.5 * MB)) as pytail:
        for dist in dists[:3]:
            fetch(pytail, dist, cache)
        with another_process_evicting(cache) as other:
            os.kill(other.pid, signal.SIGSTOP)
            answer, seconds = timed(lambda: pytail.get(dists[3].served))
            assert answer.data == dists[3].data
            assert answer.headers["X-Cache"] == "PASS"
            assert seconds < 3
            assert pytail.get(dists[0].served).headers["X-Cache"] == "HIT"
        assert pytail.get(dists[3].served).data == dists[3].data
        until(lambda: dists[3].filename in stored_names(cache))


def test_an_error_of_the_background_is_counted(tmp_path: Path, index: FakeIndex, dists: list[Dist]):
    cache = tmp_path / "cache"
    with serving(cache, index.url, cache_max_size=MB // 2) as pytail:
        series = ("pytail_background_errors_total", "eviction")
        assert samples(pytail)[series] == 0
        (cache / "+files/root/pypi/+f/big").write_bytes(bytes(MB))
        with another_process_evicting(cache) as other:
            os.kill(other.pid, signal.SIGSTOP)
            (cache / "+partial/touched").touch()
            until(lambda: samples(pytail)[series] > 0, 15)
        until(lambda: bytes_below(cache / "+files") == 0, 15)


@pytest.mark.process
def test_workers_stay_within_one_limit(tmp_path: Path, index: FakeIndex, dists: list[Dist]):
    cache = tmp_path / "cache"
    limit = {"PYTAIL_CACHE_MAX_SIZE": "6MB"}
    with under_gunicorn(cache, index.url, tmp_path / "log", "-w", "2", **limit) as running:
        for dist in dists * 2:
            fetch(running.client, dist, cache)
        until(lambda: bytes_below(cache) <= 6 * MB, seconds=10)
        assert stored_names(cache)
