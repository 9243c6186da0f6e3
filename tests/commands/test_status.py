"""What an administrator sees at one glance."""

from __future__ import annotations

import contextlib
import socket

import pytest

from pytail.config.settings import Settings
from pytail.server.server import Server
from pytail.web.app import create_app
from tests.commands.conftest import Beside
from tests.support.fakeindex import FakeIndex, wheel
from tests.support.running import free_port

pytestmark = pytest.mark.process


def test_status_tells_that_the_second_install_came_from_the_cache(beside: Beside, index: FakeIndex):
    dist = wheel("demo", payload=b"x" * 100_000)
    index.add(dist)
    for _ in range(2):
        beside.hold(dist)
    shown = beside.json("status")
    assert shown["held"]["files"] == shown["projects"] == 1
    assert shown["held"]["bytes"] >= len(dist.data)
    assert shown["server"]["hit_ratio"]["requests"] == 0.5
    out = beside.run("status").stdout
    rows = {line.split()[0]: line.split(maxsplit=1)[1] for line in out.splitlines()}
    assert rows["hits"].startswith("50.0% of 4 requests, ")
    assert rows["known"] == f"1 project of {index.url}"
    assert f"{index.url}: asked as needed" in rows["upstream"]


def test_status_without_a_server_tells_what_is_held(beside: Beside, index: FakeIndex):
    dist = wheel("demo")
    index.add(dist)
    beside.hold(dist)
    bind = f"127.0.0.1:{free_port()}"
    shown = beside.json("status", "--bind", bind)
    assert (shown["held"]["files"], shown["server"]) == (1, None)
    assert f"none answers at {bind}" in beside.run("status", "--bind", bind).stdout


def test_what_listens_there_and_is_no_pytail_is_no_server(beside: Beside, index: FakeIndex):
    assert beside.json("status", "--bind", index.url.removeprefix("http://"))["server"] is None


def test_a_server_on_a_unix_socket_is_asked_there(beside: Beside, index: FakeIndex, tmp_path):
    path = tmp_path / "socket"
    settings = Settings(cache_dir=beside.cache, upstream_base_url=index.url)
    with socket.socket(socket.AF_UNIX) as listener, contextlib.closing(create_app(settings)) as app:
        listener.bind(str(path))
        listener.listen()
        server = Server(listener, app)
        server.start()
        try:
            out = beside.run("status", "--bind", f"unix:{path}").stdout
        finally:
            server.stop(timeout=5)
    assert f"at unix:{path}, up " in out
    assert "nobody has asked yet" in out


def test_status_tells_the_share_of_the_limit_that_is_taken(beside: Beside):
    assert "% of 1.0 GiB;" in beside.run("status", "--cache-max-size", "1GiB").stdout


def test_status_shows_no_credentials(beside: Beside, index: FakeIndex):
    url = index.url.replace("//", "//user:secret@")
    out = beside.run("status", "--upstream-base-url", url)
    assert f"0 projects of {index.url}" in out.stdout
    assert "secret" not in out.stdout + out.stderr


@pytest.mark.parametrize(
    "command",
    [["status"], ["list"], ["refresh", "x"], ["purge", "--all"], ["verify"], ["gc"]],
    ids=" ".join,
)
def test_a_directory_that_is_no_cache_is_refused_and_left_as_it_is(
    beside: Beside, tmp_path, command
):
    other = tmp_path / "other"
    other.mkdir()
    out = beside.run(*command, "--cache-dir", str(other))
    assert (out.returncode, out.stdout) == (2, "")
    (line,) = out.stderr.splitlines()
    assert line.startswith(f"pytail: cache directory '{other}': ")
    assert list(other.iterdir()) == []
