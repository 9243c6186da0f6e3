"""A running pytail, in this process or in another one, and its client."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from email.message import Message
from http.client import HTTPConnection
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import unquote, urlsplit

from pytail.config.settings import Settings
from pytail.server.server import Server
from pytail.web.app import create_app
from tests.support.fakeindex import JSON, Dist


class Clock:
    """Seconds since the epoch; a test changes `now`."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclasses.dataclass
class Answer:
    """A response, its body read and not decoded."""

    status: int
    headers: Message
    data: bytes

    def json(self) -> Any:
        return json.loads(self.data)


class Client:
    """Sends requests to `url`, with paths and headers exactly as given."""

    def __init__(self, url: str, cache_dir: Path | None = None) -> None:
        """`cache_dir` is that of the pytail at `url`."""
        self.url, self.cache_dir = url, cache_dir

    def connection(self) -> HTTPConnection:
        """Return a new connection."""
        return HTTPConnection(self.url.removeprefix("http://"), timeout=20)

    def open(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str] = MappingProxyType({}),
        body: Any = None,
    ) -> HTTPConnection:
        """Send a request; return its connection, which the caller reads and closes."""
        connection = self.connection()
        connection.putrequest(method, path, skip_host="Host" in headers, skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name, value)
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        return connection

    def request(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str] = MappingProxyType({}),
        body: Any = None,
    ) -> Answer:
        with contextlib.closing(self.open(method, path, headers, body)) as connection:
            response = connection.getresponse()
            answer = Answer(response.status, response.headers, response.read())
        if method == "GET" and answer.status == 200:
            self._wait_until_stored(path, answer)
        return answer

    def get(self, path: str, **headers: str) -> Answer:
        return self.request("GET", path, _named(headers))

    def head(self, path: str, **headers: str) -> Answer:
        return self.request("HEAD", path, _named(headers))

    def json(self, project: str) -> Any:
        return self.get(f"/simple/{project}/", Accept=JSON).json()

    def _wait_until_stored(self, path: str, answer: Answer) -> None:
        """Wait for the rename of a downloaded file, which follows the last byte of its response.

        Some files are never stored, so this waits two seconds at most.
        """
        is_downloaded = "/+f/" in path and answer.headers["X-Cache"] in ("MISS", "COALESCED")
        if self.cache_dir is not None and is_downloaded:
            stored = self.cache_dir / "+files" / unquote(urlsplit(path).path[1:])
            deadline = time.monotonic() + 2
            while not stored.exists() and time.monotonic() < deadline:
                time.sleep(0.001)


def _named(headers: dict[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}


def file_path(entry: dict[str, Any]) -> str:
    """Return the path of a file's URL, for its entry on a page below ``/simple/``."""
    assert entry["url"].startswith("../../root/pypi/+f/")
    return entry["url"].removeprefix("../..")


def stored_path(cache_dir: Path, dist: Dist) -> Path:
    """Return the path of `dist` in the store."""
    return cache_dir / "+files" / "root" / "pypi" / "+f" / dist.key


@contextlib.contextmanager
def serving(
    cache_dir: Path, upstream: str, clock: Any = time.time, **settings: Any
) -> Iterator[Client]:
    """Run a pytail in this process, on a free port."""
    known = Settings(cache_dir=cache_dir, upstream_base_url=upstream, **settings)
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.closing(create_app(known, clock)) as application:
            server = Server(listener, application)
            server.start()
            client = Client(f"http://127.0.0.1:{server.server_port}", cache_dir)
            try:
                yield client
            finally:
                server.stop(timeout=5)


def free_port() -> int:
    """Return a port of the loopback interface without a listener.

    It is below the system's ephemeral ports, so that no other test gets the port before its use.
    """
    while True:
        port = random.SystemRandom().randrange(10_000, 32_768)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def clean_environ(**more: str) -> dict[str, str]:
    """Return this process's environment, less variables that configure a program under test."""
    unwanted = ("PIP_", "UV_", "PYTAIL_", "GUNICORN_", "COV_", "XDG_")
    environ = {key: value for key, value in os.environ.items() if not key.startswith(unwanted)}
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "VIRTUAL_ENV"):
        environ.pop(name, None)
        environ.pop(name.upper(), None)
    return {**environ, **more}


class Program:
    """A pytail in a process of its own."""

    def __init__(self, process: subprocess.Popen[str], client: Client, log: Path) -> None:
        self.process, self.client, self.log = process, client, log

    def output(self) -> str:
        return self.log.read_text()


@contextlib.contextmanager
def program(command: list[str], log: Path, url: str, **environ: str) -> Iterator[Program]:
    """Run `command` and wait until `url` responds; send SIGTERM when the block ends."""
    with log.open("w") as out:
        process = subprocess.Popen(
            command,
            stdout=out,
            stderr=subprocess.STDOUT,
            text=True,
            env=clean_environ(**environ),
            cwd=log.parent,
        )
    client = Client(url)
    try:
        _wait_for_response(process, client, log)
        yield Program(process, client, log)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for_response(process: subprocess.Popen[str], client: Client, log: Path) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        with contextlib.suppress(OSError):
            client.get("/")
            return
        time.sleep(0.05)
    raise AssertionError(f"no response from {client.url}: {log.read_text()}")


@contextlib.contextmanager
def embedded(cache_dir: Path, upstream: str, log: Path, *options: str) -> Iterator[Program]:
    """Run ``python -m pytail`` on a free port."""
    port = free_port()
    command = [sys.executable, "-m", "pytail", "--bind", f"127.0.0.1:{port}"]
    command += ["--cache-dir", str(cache_dir), "--upstream-base-url", upstream, *options]
    with program(command, log, f"http://127.0.0.1:{port}") as running:
        running.client.cache_dir = cache_dir
        yield running


@contextlib.contextmanager
def under_gunicorn(
    cache_dir: Path, upstream: str, log: Path, *options: str, **environ: str
) -> Iterator[Program]:
    """Run ``gunicorn -k gevent pytail.wsgi`` on a free port."""
    port = free_port()
    command = [sys.executable, "-m", "gunicorn", "-k", "gevent", "-b", f"127.0.0.1:{port}"]
    command += ["--no-control-socket", *options, "pytail.wsgi"]
    environ = {"PYTAIL_CACHE_DIR": str(cache_dir), "PYTAIL_UPSTREAM_BASE_URL": upstream, **environ}
    with program(command, log, f"http://127.0.0.1:{port}", **environ) as running:
        running.client.cache_dir = cache_dir
        yield running
