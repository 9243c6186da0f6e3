"""gunicorn with pytail's worker."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path

import pytest

from tests.support.fakeindex import JSON, FakeIndex, wheel
from tests.support.raw_http import received_until_reset
from tests.support.running import Program, file_path, free_port, program, under_gunicorn
from tests.support.watching import until

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
        "%(r)s %(s)s %(a)s %({accept}i)s %(q)s %(u)s %(f)s %({authorization}i)s",
    )
    with under_gunicorn(tmp_path / "cache", index.url, gunicorn_log, *options) as running:
        running.client.get(
            "/simple/demo/?token=S3cr3t",
            Accept=JSON,
            User_Agent="someone/1",
            Authorization="Basic UzNjcjN0OlMzY3IzdA==",
            Referer="http://S3cr3t@example.org/?S3cr3t",
        )
    # It is written after the response.
    assert f"GET /simple/demo/ HTTP/1.1 200 someone/1 {JSON}" in running.output()
    assert "S3cr3t" not in running.output()
    assert "UzNjcjN0" not in running.output()


@pytest.mark.parametrize("kind", ["gevent", "pytail.gunicorn.Worker"])
@pytest.mark.parametrize("trusted", ["127.0.0.1", ""])
def test_the_log_names_the_client_behind_a_trusted_proxy(
    tmp_path: Path, index: FakeIndex, gunicorn_log: Path, kind: str, trusted: str
):
    environ = {"PYTAIL_TRUSTED_PROXIES": trusted}
    with under_gunicorn(
        tmp_path / "cache", index.url, gunicorn_log, "-k", kind, **environ
    ) as running:
        running.client.get("/simple/", X_Forwarded_For="192.0.2.66, 203.0.113.7")
    client = "203.0.113.7" if trusted else "127.0.0.1"
    assert re.search(rf"GET /simple/ 200 .* ms {client} \S+$", running.output(), re.MULTILINE)


@pytest.mark.parametrize("kind", ["gevent", "pytail.gunicorn.Worker"])
def test_the_log_names_the_client_of_a_proxy_at_a_unix_socket(
    tmp_path: Path, index: FakeIndex, gunicorn_log: Path, kind: str
):
    path = tmp_path / "pytail.sock"
    environ = {"PYTAIL_TRUSTED_PROXIES": "unix"}
    with (
        under_gunicorn(
            tmp_path / "cache", index.url, gunicorn_log, "-k", kind, "-b", f"unix:{path}", **environ
        ) as running,
        socket.socket(socket.AF_UNIX) as proxy,
    ):
        proxy.connect(str(path))
        proxy.sendall(
            b"GET /simple/ HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 203.0.113.7\r\n"
            b"Connection: close\r\n\r\n"
        )
        while proxy.recv(10_000):
            pass
    assert re.search(r"GET /simple/ 200 .* ms 203\.0\.113\.7 \S+$", running.output(), re.MULTILINE)


@contextlib.contextmanager
def session(
    tmp_path: Path, index: FakeIndex, log: Path, *options: str, **environ: str
) -> Iterator[Program]:
    """Run gunicorn as a terminal does, in a process group of its own."""
    port = free_port()
    command = ["setsid", sys.executable, "-m", "gunicorn", *WORKER, "-b", f"127.0.0.1:{port}"]
    command += ["--no-control-socket", *options, "pytail.wsgi"]
    environ = {
        "PYTAIL_CACHE_DIR": str(tmp_path / "cache"),
        "PYTAIL_UPSTREAM_BASE_URL": index.url,
        **environ,
    }
    with program(command, log, f"http://127.0.0.1:{port}", **environ) as running:
        yield running


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGQUIT])
def test_a_signal_to_all_processes_prints_no_traceback(
    tmp_path: Path, index: FakeIndex, gunicorn_log: Path, number: int
):
    # Its fixture looks for tracebacks.
    with (
        session(tmp_path, index, gunicorn_log, "-w", "2") as running,
        contextlib.ExitStack() as stack,
    ):
        for path in ("/simple/", "/simple/"):
            connection = running.client.open("GET", path)
            stack.callback(connection.close)
            connection.getresponse().read()
        stack.callback(running.client.open("GET", "/simple/demo/").close)
        os.killpg(running.process.pid, number)
        os.killpg(running.process.pid, number)
        assert running.process.wait(10) == 0
    assert "Exception" not in running.output()


def worker_ids(running: Program) -> set[str]:
    return set(re.findall(r"Booting worker with pid: (\d+)", running.output()))


@pytest.mark.parametrize("path", ["/simple/demo/", "/simple/absent/"])
def test_max_requests_replaces_the_worker_also_for_repeated_responses(
    tmp_path: Path, index: FakeIndex, gunicorn_log: Path, path: str
):
    index.add(wheel("demo"))
    options = ("--max-requests", "200", "--max-requests-jitter", "50")
    with session(tmp_path, index, gunicorn_log, *options) as running:
        connection = running.client.connection()
        count = 0
        with contextlib.suppress(ConnectionError, HTTPException):
            while count < 100_000 and len(worker_ids(running)) == 1:
                connection.request("GET", path)
                connection.getresponse().read()
                count += 1
        connection.close()
        assert count >= 198
        until(lambda: len(worker_ids(running)) == 2, seconds=10)
        assert running.client.get(path).status in (200, 404)
        assert "Autorestarting worker" in running.output()


def test_a_worker_at_max_requests_ends_after_its_responses(
    tmp_path: Path, index: FakeIndex, gunicorn_log: Path
):
    dist = wheel("demo", payload=os.urandom(30_000_000))
    index.add(dist)
    with session(tmp_path, index, gunicorn_log, "--max-requests", "5") as running:
        path = file_path(running.client.json("demo")["files"][0])
        busy = running.client.open("GET", path)
        response = busy.getresponse()
        for _ in range(5):
            running.client.get("/simple/demo/")
        until(lambda: len(worker_ids(running)) == 1 and "Autorestarting" in running.output())
        assert response.read() == dist.data
        busy.close()
        until(lambda: len(worker_ids(running)) == 2, seconds=10)


def test_sighup_starts_workers_with_the_settings_of_the_file(
    tmp_path: Path, index: FakeIndex, gunicorn_log: Path
):
    config = tmp_path / "pytail.toml"
    config.write_text('log-level = "error"\n')
    with session(tmp_path, index, gunicorn_log, PYTAIL_CONFIG=str(config)) as running:
        assert "worker started" not in running.output()
        config.write_text('log-level = "info"\n')
        os.killpg(running.process.pid, signal.SIGHUP)
        until(lambda: "worker started" in running.output(), seconds=10)
        assert running.client.get("/simple/").status == 200


@pytest.mark.parametrize("conf", [True, False])
def test_an_error_in_the_file_keeps_the_settings_in_force(
    tmp_path: Path, index: FakeIndex, gunicorn_log: Path, *, conf: bool
):
    config, port = tmp_path / "pytail.toml", free_port()
    good = f'bind = "127.0.0.1:{port}"\nmissing-ttl-secs = 77\n'
    config.write_text(good)
    environ = {
        "PYTAIL_CONFIG": str(config),
        "PYTAIL_CACHE_DIR": str(tmp_path / "cache"),
        "PYTAIL_UPSTREAM_BASE_URL": index.url,
    }
    command = [sys.executable, "-m", "gunicorn", "-w", "2"]
    conf_file = Path(__file__).parents[1] / "conf" / "gunicorn.conf.py"
    if conf:
        command += ["-c", str(conf_file)]
    else:
        command += [*WORKER, "--no-control-socket", "-b", f"127.0.0.1:{port}", "pytail.wsgi"]
    with program(command, gunicorn_log, f"http://127.0.0.1:{port}", **environ) as running:
        config.write_text("missing-ttl-secs = 'soon\n")
        for _ in range(2):
            before = len(worker_ids(running))
            running.process.send_signal(signal.SIGHUP)
            until(lambda before=before: len(worker_ids(running)) == before + 2, seconds=15)
            assert running.client.get("/simple/").status == 200
        assert running.output().count("settings not reloaded") == 1
        config.write_text(good)
        running.process.send_signal(signal.SIGHUP)
        until(lambda: len(worker_ids(running)) == 8, seconds=15)
        assert running.client.get("/simple/").status == 200
        assert running.process.poll() is None


@pytest.mark.parametrize("kind", ["gevent", "pytail.gunicorn.Worker"])
def test_a_body_without_length_that_breaks_off_ends_by_a_reset(tmp_path: Path, kind: str):
    (tmp_path / "breaking.py").write_text(BREAKING)
    port = free_port()
    command = [sys.executable, "-m", "gunicorn", "-k", kind, "-b", f"127.0.0.1:{port}"]
    command += ["--no-control-socket", "breaking"]
    url = f"http://127.0.0.1:{port}"
    log = tmp_path / "breaking.log"
    with program(command, log, url, PYTHONPATH=os.pathsep.join(sys.path)):
        for path in ("/error", "/interrupted"):
            with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
                client.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
                assert received_until_reset(client).endswith(b"half")


BREAKING = """
import errno
from pytail.web.middleware import AccessRecording

def breaking(environ, start_response):
    start_response("200 OK", [])
    if environ["PATH_INFO"] == "/":
        return
    yield b"half"
    if environ["PATH_INFO"] == "/error":
        raise RuntimeError("broken")
    raise ConnectionResetError(errno.ECONNRESET, "upstream")

application = AccessRecording(breaking)
"""
