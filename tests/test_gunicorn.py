"""gunicorn with pytail's worker."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.support.fakeindex import JSON, FakeIndex, wheel
from tests.support.running import file_path, under_gunicorn

pytestmark = pytest.mark.process

WORKER = ("-k", "pytail.gunicorn.Worker")


def test_pages_files_and_ranges_are_served(tmp_path: Path, index: FakeIndex, gunicorn_log: Path):
    dist = wheel("demo", payload=os.urandom(3_000_000))
    index.add(dist)
    with under_gunicorn(tmp_path / "cache", index.url, gunicorn_log, *WORKER) as running:
        path = file_path(running.client.json("demo")["files"][0])
        for _ in range(2):
            assert running.client.get(path).data == dist.data
        part = running.client.get(path, Range="bytes=1000000-1999999")
        assert (part.status, part.data) == (206, dist.data[1_000_000:2_000_000])
        assert running.client.get("/simple/nope/").status == 404
        assert running.client.request("POST", "/simple/", body=b"x" * 200_000).status == 405


def test_two_workers_share_a_cache(tmp_path: Path, index: FakeIndex, gunicorn_log: Path):
    index.add(wheel("demo"))
    with under_gunicorn(tmp_path / "cache", index.url, gunicorn_log, *WORKER, "-w", "2") as running:
        for _ in range(20):
            assert running.client.get("/simple/demo/", Accept=JSON).status == 200
    assert index.page_count("demo") == 1


def test_stop_closes_idle_connections_and_ends_others_after_their_response(
    tmp_path: Path, index: FakeIndex, gunicorn_log: Path
):
    dist = wheel("demo", payload=os.urandom(30_000_000))
    index.add(dist)
    with under_gunicorn(tmp_path / "cache", index.url, gunicorn_log, *WORKER) as running:
        path = file_path(running.client.json("demo")["files"][0])
        running.client.get(path)
        idle = running.client.open("GET", "/simple/")
        idle.getresponse().read()
        busy = running.client.open("GET", path)
        response = busy.getresponse()
        running.process.send_signal(signal.SIGTERM)
        assert idle.sock.recv(1) == b""
        assert running.process.poll() is None
        assert response.read() == dist.data
        ended = time.monotonic()
        assert running.process.wait(10) == 0
        assert time.monotonic() - ended < 5
        for connection in (idle, busy):
            connection.close()


def test_requests_are_in_gunicorns_access_log(tmp_path: Path, index: FakeIndex, gunicorn_log: Path):
    index.add(wheel("demo"))
    options = (
        *WORKER,
        "--access-logfile",
        "-",
        "--access-logformat",
        "%(r)s %(s)s %(a)s %({accept}i)s",
    )
    with under_gunicorn(tmp_path / "cache", index.url, gunicorn_log, *options) as running:
        running.client.get("/simple/demo/?x", Accept=JSON, User_Agent="someone/1")
    # It is written after the response.
    assert f"GET /simple/demo/?x HTTP/1.1 200 someone/1 {JSON}" in running.output()
