"""The program as an operator starts it, and the application under gunicorn."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import gevent
import pytest

from pytail import __version__
from tests.commands.conftest import PYTAIL, call_main
from tests.support.fakeindex import JSON, FakeIndex, reply, wheel
from tests.support.running import (
    Client,
    Program,
    clean_environ,
    embedded,
    file_path,
    free_port,
    program,
    under_gunicorn,
)
from tests.support.watching import until

pytestmark = pytest.mark.process

COMMANDS = {"module": PYTAIL, "script": [str(Path(sys.executable).with_name("pytail"))]}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_the_version_is_that_of_the_distribution(command: list[str]):
    out = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
    assert out.stdout == f"pytail {__version__}\n"
    assert metadata.version("pytail") == __version__


def test_help_names_each_option_with_its_variable_and_default():
    out = call_main("--help").stdout
    for name, default in {
        "bind": "127.0.0.1:3141",
        "upstream-base-url": "https://",
        "cache-dir": ".cache/pytail",
        "project-cache-ttl-secs": "900",
        "request-timeout-secs": "15",
        "verbose": "",
    }.items():
        assert f"--{name}" in out
        assert f"PYTAIL_{name.upper().replace('-', '_')}" in out
        assert default in out


def test_the_first_lines_name_the_address_the_upstream_and_the_use(
    tmp_path: Path, index: FakeIndex
):
    url = index.url.replace("//", "//user:secret@")
    with embedded(tmp_path / "cache", url, tmp_path / "log") as running:
        lines = running.output().splitlines()
        assert 1 <= len(lines) <= 2
        for word in (
            running.client.url + "/simple/",
            "--index-url",
            str(tmp_path / "cache"),
            "***@",
        ):
            assert word in "\n".join(lines)
        index.add(wheel("demo"))
        assert running.client.json("demo")["name"] == "demo"
        assert "AUTHORIZATION" in index.seen[0].headers
        assert "secret" not in running.output()


def test_a_unix_socket_is_served_and_removed_at_the_end(tmp_path: Path, index: FakeIndex):
    path = tmp_path / "pytail.sock"
    abandoned = socket.socket(socket.AF_UNIX)
    abandoned.bind(str(path))
    abandoned.close()
    command = [*PYTAIL, "--bind", f"unix:{path}", "--upstream-base-url", index.url]
    process = subprocess.Popen(
        [*command, "--cache-dir", str(tmp_path / "cache")],
        env=clean_environ(),
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert f"unix:{path}" in process.stdout.readline()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            client.sendall(b"GET /simple/ HTTP/1.0\r\n\r\n")
            assert client.recv(100).startswith(b"HTTP/1.1 200 OK")
        # The permissions of its directory say which users may connect.
        assert path.stat().st_mode & 0o777 == 0o666
        process.terminate()
        assert process.wait(10) == 0
    assert not path.exists()


@pytest.mark.parametrize("name", ["{tmp}/notify", "@pytail-{tmp}"])
def test_the_service_manager_is_notified_of_start_and_stop(
    tmp_path: Path, index: FakeIndex, name: str
):
    address = name.format(tmp=tmp_path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address.replace("@", "\0"))
        manager.settimeout(20)
        port = free_port()
        command = [*PYTAIL, "--bind", f"127.0.0.1:{port}"]
        environ = {"PYTAIL_CACHE_DIR": str(tmp_path / "cache"), "NOTIFY_SOCKET": address}
        with program(command, tmp_path / "log", f"http://127.0.0.1:{port}", **environ) as running:
            assert manager.recv(100) == b"READY=1"
            assert running.client.get("/+health").status == 200
        assert manager.recv(100) == b"STOPPING=1"


def test_an_ipv6_address_is_served(tmp_path: Path, index: FakeIndex):
    with contextlib.suppress(OSError), socket.create_server(("::1", 0), family=socket.AF_INET6):
        port = free_port()
        command = [*PYTAIL, "--bind", f"[::1]:{port}", "--upstream-base-url", index.url]
        with program(command, tmp_path / "log", f"http://[::1]:{port}") as running:
            assert running.client.get("/simple/").status == 200
            assert f"http://[::1]:{port}/simple/" in running.output()
        return
    pytest.skip("this machine has no IPv6 loopback")


def test_sigterm_lets_a_response_end_and_exits_with_0(tmp_path: Path, index: FakeIndex):
    dist = wheel("demo", payload=os.urandom(30_000_000))
    index.add(dist)
    with embedded(tmp_path / "cache", index.url, tmp_path / "log") as running:
        (entry,) = running.client.json("demo")["files"]
        idle = running.client.open("GET", "/simple/")
        idle.getresponse().read()
        busy = running.client.open("GET", file_path(entry))
        response = busy.getresponse()
        running.process.send_signal(signal.SIGTERM)
        until(lambda: not is_listening(running.client))
        assert running.process.poll() is None
        assert response.read() == dist.data
        busy.close()
        assert running.process.wait(5) == 0
        idle.close()


def test_responses_get_grace_secs_to_end(tmp_path: Path, index: FakeIndex):
    dist = wheel("demo", payload=os.urandom(30_000_000))
    index.add(dist)
    log = tmp_path / "log"
    with embedded(tmp_path / "cache", index.url, log, "--grace-secs", "1s") as running:
        (entry,) = running.client.json("demo")["files"]
        busy = running.client.open("GET", file_path(entry))
        response = busy.getresponse()
        response.read(1)
        running.process.send_signal(signal.SIGTERM)
        started = time.monotonic()
        assert running.process.wait(10) == 0
        assert 0.9 <= time.monotonic() - started < 9
        busy.close()


def test_the_address_can_be_bound_again_at_once(tmp_path: Path, index: FakeIndex):
    port = free_port()
    command = [*PYTAIL, "--bind", f"127.0.0.1:{port}", "--upstream-base-url", index.url]
    for _ in range(2):
        with program(command, tmp_path / "log", f"http://127.0.0.1:{port}") as running:
            assert running.client.get("/simple/").status == 200


def test_a_second_signal_stops_at_once(tmp_path: Path, index: FakeIndex):
    dist = wheel("demo", payload=os.urandom(30_000_000))
    index.add(dist)
    with embedded(tmp_path / "cache", index.url, tmp_path / "log") as running:
        (entry,) = running.client.json("demo")["files"]
        busy = running.client.open("GET", file_path(entry))
        busy.getresponse()
        running.process.send_signal(signal.SIGTERM)
        until(lambda: not is_listening(running.client))
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(3) != 0
        busy.close()


def test_idle_connections_beyond_max_connections_are_closed_for_new_ones(
    tmp_path: Path, index: FakeIndex
):
    options = ("--max-connections", "10")
    with (
        embedded(tmp_path / "cache", index.url, tmp_path / "log", *options) as running,
        contextlib.ExitStack() as clients,
    ):
        idle = [
            clients.enter_context(socket.create_connection(address(running.client)))
            for _ in range(30)
        ]
        started = time.monotonic()
        assert running.client.get("/simple/").status == 200
        assert time.monotonic() - started < 1
        idle[0].settimeout(5)
        assert idle[0].recv(1) == b""


def test_the_end_does_not_wait_for_half_sent_requests(tmp_path: Path, index: FakeIndex):
    with (
        embedded(tmp_path / "cache", index.url, tmp_path / "log") as running,
        contextlib.ExitStack() as clients,
    ):
        for start in (
            b"",
            b"GET / HT",
            b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nx",
        ):
            clients.enter_context(socket.create_connection(address(running.client))).sendall(start)
        running.client.get("/simple/")
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(3) == 0


def test_few_descriptors_answer_many_clients(tmp_path: Path, index: FakeIndex):
    dist = wheel("demo", payload=os.urandom(300_000))
    index.add(dist)
    port, log = free_port(), tmp_path / "log"
    command = ["bash", "-c", 'ulimit -n 128; exec "$@"', "bash", *PYTAIL]
    command += ["--bind", f"127.0.0.1:{port}", "--upstream-base-url", index.url]
    command += ["--cache-dir", str(tmp_path / "cache")]
    with (
        program(command, log, f"http://127.0.0.1:{port}") as running,
        contextlib.ExitStack() as clients,
    ):
        path = file_path(running.client.json("demo")["files"][0])
        for _ in range(200):
            clients.enter_context(socket.create_connection(address(running.client)))
        sending = [gevent.spawn(running.client.get, path) for _ in range(100)]
        assert {greenlet.get(timeout=30).data for greenlet in sending} == {dist.data}
        assert "the limit of open files permits" in running.output()
        assert "Traceback" not in running.output()


def test_sighup_reloads_level_and_format_of_the_log(tmp_path: Path, index: FakeIndex):
    config, log = tmp_path / "pytail.toml", tmp_path / "log"
    config.write_text('log-level = "info"\n')
    with embedded(tmp_path / "cache", index.url, log, "--config", str(config)) as running:
        config.write_text('log-level = "error"\nlog-format = "json"\nmax-connections = 7\n')
        line = reloaded(running)
        assert line.startswith("{")
        assert "settings reloaded: --log-level error, --log-format json" in line
        assert line.count("; restart to change --max-connections") == 1
        running.client.get("/simple/quiet/")
        config.write_text("log-level = [\n")
        line = reloaded(running, "settings not reloaded")
        assert "TOML" in line
        running.client.get("/simple/quiet/")
        config.write_text('log-level = "info"\n')
        assert not reloaded(running).startswith("{")
        running.client.get("/simple/heard/")
        assert running.process.poll() is None
        until(lambda: "/simple/heard/" in running.output())
        assert "/simple/quiet/" not in running.output()


def reloaded(running: Program, words: str = "settings reloaded") -> str:
    """Send SIGHUP, and return the next line that has `words`."""
    before = len(running.output())
    running.process.send_signal(signal.SIGHUP)
    until(lambda: words in running.output()[before:])
    (line,) = [line for line in running.output()[before:].splitlines() if words in line]
    return line


def test_a_draining_server_leaves_the_socket_of_its_successor(tmp_path: Path, index: FakeIndex):
    dist = wheel("demo", payload=os.urandom(30_000_000))
    index.add(dist)
    path, cache = tmp_path / "pytail.sock", tmp_path / "cache"
    with embedded(cache, index.url, tmp_path / "log") as first:
        entry = file_path(first.client.json("demo")["files"][0])
    with on_socket(path, cache, index) as old, socket.socket(socket.AF_UNIX) as busy:
        busy.connect(str(path))
        busy.sendall(f"GET {entry} HTTP/1.0\r\n\r\n".encode())
        assert busy.recv(100).startswith(b"HTTP/1.1 200 OK")
        old.terminate()
        until(lambda: not accepts(path))
        with on_socket(path, cache, index):
            assert old.poll() is None
            while busy.recv(1 << 20):
                pass
            assert old.wait(10) == 0
            assert accepts(path)


def accepts(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0


@contextlib.contextmanager
def on_socket(path: Path, cache: Path, index: FakeIndex) -> Iterator[subprocess.Popen[str]]:
    """Run a pytail on the Unix socket at `path`."""
    command = [*PYTAIL, "--bind", f"unix:{path}", "--upstream-base-url", index.url]
    process = subprocess.Popen(
        [*command, "--cache-dir", str(cache)],
        env=clean_environ(),
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert f"unix:{path}" in process.stdout.readline()
        try:
            yield process
        finally:
            process.terminate()


def test_verbose_logs_the_outcome_of_each_page(tmp_path: Path, index: FakeIndex):
    index.add(wheel("demo"))
    with embedded(tmp_path / "cache", index.url, tmp_path / "log", "--verbose") as running:
        for _ in range(2):
            running.client.get("/simple/demo/")
        assert "demo: HIT" in running.output()


def is_listening(client: Client) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(address(client)) == 0


def address(client: Client) -> tuple[str, int]:
    host, _, port = client.url.removeprefix("http://").rpartition(":")
    return host, int(port)


def test_the_application_serves_under_gunicorn(
    tmp_path: Path, index: FakeIndex, gunicorn_log: Path
):
    dist = wheel("demo")
    index.add(dist)
    with under_gunicorn(tmp_path / "cache", index.url, gunicorn_log) as running:
        (entry,) = running.client.json("demo")["files"]
        assert running.client.get(file_path(entry)).data == dist.data
        answer = running.client.get("/simple/nope/")
        assert answer.status == 404


def test_gunicorn_closes_the_connection_of_an_interrupted_download(
    tmp_path: Path, index: FakeIndex, gunicorn_log: Path
):
    dist = wheel("demo", payload=os.urandom(300_000))
    index.add(dist)
    wrong = dist.data[:-1] + bytes([dist.data[-1] ^ 1])
    with under_gunicorn(tmp_path / "cache", index.url, gunicorn_log) as running:
        (entry,) = running.client.json("demo")["files"]
        index.answers[dist.path] = reply(wrong, "application/octet-stream")
        with pytest.raises(Exception, match="IncompleteRead"):
            running.client.get(file_path(entry))


@pytest.mark.parametrize("workers", ["sync", "gthread"])
def test_a_worker_without_monkey_patching_is_refused(tmp_path: Path, workers: str):
    command = [sys.executable, "-m", "gunicorn", "-k", workers, "--no-control-socket"]
    out = subprocess.run(
        [*command, "-b", f"127.0.0.1:{free_port()}", "pytail.wsgi"],
        capture_output=True,
        text=True,
        env=clean_environ(PYTAIL_CACHE_DIR=str(tmp_path / "cache")),
        timeout=30,
        check=False,
    )
    assert out.returncode != 0
    assert "gunicorn -k gevent pytail.wsgi" in out.stderr
    assert "Traceback" not in out.stderr
    assert not (tmp_path / "cache").exists()


def test_a_bad_variable_under_gunicorn_is_refused(tmp_path: Path):
    command = [sys.executable, "-m", "gunicorn", "-k", "gevent", "--no-control-socket"]
    out = subprocess.run(
        [*command, "-b", f"127.0.0.1:{free_port()}", "pytail.wsgi"],
        capture_output=True,
        text=True,
        env=clean_environ(PYTAIL_PROJECT_CACHE_TTL_SECS="soon"),
        timeout=30,
        check=False,
    )
    assert out.returncode != 0
    assert "PYTAIL_PROJECT_CACHE_TTL_SECS 'soon'" in out.stderr
    assert "Traceback" not in out.stderr


@pytest.mark.parametrize("start", [embedded, under_gunicorn])
def test_both_servers_write_access_lines_as_json(tmp_path: Path, index: FakeIndex, start: Any):
    index.add(wheel("demo"))
    log = tmp_path / "log"
    environ = {"PYTAIL_LOG_FORMAT": "json"} if start is under_gunicorn else {}
    options = () if environ else ("--log-format", "json")
    with start(tmp_path / "cache", index.url, log, *options, **environ) as running:
        answer = running.client.get("/simple/demo/?secret", Accept=JSON)
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    (line,) = [line for line in lines if line.get("path") == "/simple/demo/"]
    assert line["request_id"] == answer.headers["X-Request-Id"]
    assert (line["status"], line["outcome"], line["bytes"]) == (200, "MISS", len(answer.data))
    assert "secret" not in log.read_text()


def test_workers_share_pages_and_files(tmp_path: Path, index: FakeIndex, gunicorn_log: Path):
    dist = wheel("demo")
    index.add(dist)
    options = ("--workers", "2")
    with under_gunicorn(tmp_path / "cache", index.url, gunicorn_log, *options) as running:
        path = file_path(running.client.json("demo")["files"][0])
        # A connection for each request, so that both workers answer some.
        for _ in range(20):
            assert running.client.get("/simple/demo/", Accept=JSON).status == 200
            assert running.client.get(path).data == dist.data
    assert (index.page_count("demo"), index.count(dist.path)) == (1, 1)


def request_count(client: Client) -> int:
    text = client.get("/+metrics").data.decode()
    return int(sum(float(line.split()[-1]) for line in text.splitlines()
                   if line.startswith("pytail_requests_total{")))  # fmt: skip


def test_each_worker_gives_the_metrics_of_all_also_of_killed_ones(
    tmp_path: Path, index: FakeIndex, gunicorn_log: Path
):
    index.add(wheel("demo"))
    with under_gunicorn(tmp_path / "cache", index.url, gunicorn_log, "--workers", "2") as running:
        shared = tmp_path / "cache" / "+metrics"
        until(lambda: len(list(shared.glob("*/*.lock"))) == 2, seconds=15)
        locks, before = sorted(shared.glob("*/*.lock")), request_count(running.client)
        # A connection for each request, so that both workers answer some.
        for _ in range(30):
            assert running.client.get("/simple/demo/").status == 200
        # A worker counts a request after the client has its response.
        until(lambda: request_count(running.client) == before + 30)
        assert {request_count(running.client) for _ in range(10)} == {before + 30}
        status = running.client.get("/+status").json()
        assert sum(status["requests"].values()) == before + 30
        os.kill(int(locks[0].stem), signal.SIGKILL)
        until(lambda: not locks[0].exists(), seconds=15)
        assert {request_count(running.client) for _ in range(10)} == {before + 30}


def test_gunicorn_starts_with_the_configuration_in_conf(
    tmp_path: Path, index: FakeIndex, gunicorn_log: Path
):
    port, conf = free_port(), Path(__file__).parents[2] / "conf" / "gunicorn.conf.py"
    environ = {
        "PYTAIL_CONFIG": str(tmp_path / "pytail.toml"),
        "PYTAIL_CACHE_DIR": str(tmp_path / "cache"),
    }
    (tmp_path / "pytail.toml").write_text(
        f'bind = "127.0.0.1:{port}"\nupstream-base-url = "{index.url}"\n'
    )
    command = [sys.executable, "-m", "gunicorn", "-c", str(conf)]
    url = f"http://127.0.0.1:{port}"
    with program(command, gunicorn_log, url, **environ) as running:
        assert Client(url).get("/simple/").status == 200
        running.process.terminate()
        assert running.process.wait(10) == 0
