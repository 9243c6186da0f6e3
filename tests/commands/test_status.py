"""``pytail status`` shows the cache directory and the server."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

import pytest

from pytail.config.settings import Settings
from pytail.server.server import Server
from pytail.web.app import create_app
from tests.commands.conftest import Installation
from tests.support.fakeindex import FakeIndex, wheel
from tests.support.running import free_port

pytestmark = pytest.mark.process


def test_status_shows_stored_files_and_the_hit_ratio(installation: Installation, index: FakeIndex):
    dist = wheel("demo", payload=b"x" * 100_000)
    index.add(dist)
    for _ in range(2):
        installation.store(dist)
    shown = installation.json("status")
    assert shown["held"]["files"] == shown["projects"] == 1
    assert shown["held"]["bytes"] >= len(dist.data)
    assert shown["server"]["hit_ratio"]["requests"] == 0.5
    out = installation.run("status").stdout
    rows = {line.split()[0]: line.split(maxsplit=1)[1] for line in out.splitlines()}
    assert rows["hits"].startswith("50.0% of 4 requests, ")
    assert rows["catalog"] == f"1 project of {index.url}"
    assert f"{index.url}: circuit breaker closed" in rows["upstream"]


def test_status_without_a_server_shows_the_directory(installation: Installation, index: FakeIndex):
    dist = wheel("demo")
    index.add(dist)
    installation.store(dist)
    bind = f"127.0.0.1:{free_port()}"
    shown = installation.json("status", "--bind", bind)
    assert (shown["held"]["files"], shown["server"]) == (1, None)
    assert f"no pytail answers at {bind}" in installation.call("status", "--bind", bind).stdout


def test_another_http_server_is_not_taken_for_pytail(installation: Installation, index: FakeIndex):
    bind = index.url.removeprefix("http://")
    assert installation.json("status", "--bind", bind)["server"] is None


def test_status_reaches_a_server_on_a_unix_socket(
    installation: Installation, index: FakeIndex, tmp_path: Path
):
    path = tmp_path / "socket"
    settings = Settings(cache_dir=installation.cache, upstream_base_url=index.url)
    with socket.socket(socket.AF_UNIX) as listener, contextlib.closing(create_app(settings)) as app:
        listener.bind(str(path))
        listener.listen()
        server = Server(listener, app)
        server.start()
        try:
            out = installation.run("status", "--bind", f"unix:{path}").stdout
        finally:
            server.stop(timeout=5)
    assert f"at unix:{path}, up " in out
    assert "no requests yet" in out


def test_status_shows_the_used_share_of_the_limit(installation: Installation):
    assert "% of 1.0 GiB;" in installation.call("status", "--cache-max-size", "1GiB").stdout


def test_status_masks_credentials(installation: Installation, index: FakeIndex):
    url = index.url.replace("//", "//user:secret@")
    out = installation.call("status", "--upstream-base-url", url)
    assert f"0 projects of {index.url}" in out.stdout
    assert "secret" not in out.stdout + out.stderr
