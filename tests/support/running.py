"""A running pytail: in this process, or as the program that an operator starts."""

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

from pytail.config.settings import Settings
from pytail.server.server import Server
from pytail.web.app import create_app
from tests.support.fakeindex import JSON


class Clock:
    """Seconds since the epoch, moved by the test."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclasses.dataclass
class Answer:
    """A response as it came over the wire."""

    status: int
    headers: Message
    data: bytes

    def json(self) -> Any:
        return json.loads(self.data)


class Client:
    """Asks a pytail under `url`, sending paths and headers exactly as given."""

    def __init__(self, url: str) -> None:
        self.url = url

    def connection(self) -> HTTPConnection:
        """A connection on which nothing was asked yet."""
        return HTTPConnection(self.url.removeprefix("http://"), timeout=20)

    def open(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str] = MappingProxyType({}),
        body: Any = None,
    ) -> HTTPConnection:
        """A connection with a request sent; its `getresponse` and its end are the caller's."""
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
            return Answer(response.status, response.headers, response.read())

    def get(self, path: str, **headers: str) -> Answer:
        return self.request("GET", path, _named(headers))

    def head(self, path: str, **headers: str) -> Answer:
        return self.request("HEAD", path, _named(headers))

    def json(self, project: str) -> Any:
        return self.get(f"/simple/{project}/", Accept=JSON).json()


def _named(headers: dict[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}


def file_path(entry: dict[str, Any]) -> str:
    """The path on the server of a file that a page below ``/simple/`` lists."""
    assert entry["url"].startswith("../../root/pypi/+f/")
    return entry["url"].removeprefix("../..")


@contextlib.contextmanager
def serving(
    cache_dir: Path, upstream: str, clock: Any = time.time, **settings: Any
) -> Iterator[Client]:
    """A pytail in this process on a free port."""
    known = Settings(cache_dir=cache_dir, upstream_base_url=upstream, **settings)
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.closing(create_app(known, clock)) as application:
            server = Server(listener, application)
            server.start()
            client = Client(f"http://127.0.0.1:{server.server_port}")
            try:
                yield client
            finally:
                server.stop(timeout=5)


def free_port() -> int:
    """A port that nobody listens on.

    It is none of those that the system hands out, lest another test of this machine be given it before
    it is used.
    """
    while True:
        port = random.SystemRandom().randrange(10_000, 32_768)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def clean_environ(**more: str) -> dict[str, str]:
    """This process's environment without what would configure a program under test."""
    unwanted = ("PIP_", "UV_", "PYTAIL_", "GUNICORN_", "COV_", "XDG_")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(unwanted)}
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "VIRTUAL_ENV"):
        kept.pop(name, None)
        kept.pop(name.upper(), None)
    return {**kept, **more}


class Program:
    """A pytail in a process of its own."""

    def __init__(self, process: subprocess.Popen[str], client: Client, log: Path) -> None:
        self.process, self.client, self.log = process, client, log

    def output(self) -> str:
        return self.log.read_text()


@contextlib.contextmanager
def program(command: list[str], log: Path, url: str, **environ: str) -> Iterator[Program]:
    """`command` run until the block ends, once it answers under `url`."""
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
        _wait_for_answer(process, client, log)
        yield Program(process, client, log)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for_answer(process: subprocess.Popen[str], client: Client, log: Path) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        with contextlib.suppress(OSError):
            client.get("/")
            return
        time.sleep(0.05)
    raise AssertionError(f"no answer from {client.url}: {log.read_text()}")


@contextlib.contextmanager
def embedded(cache_dir: Path, upstream: str, log: Path, *options: str) -> Iterator[Program]:
    """``python -m pytail`` on a free port."""
    port = free_port()
    command = [sys.executable, "-m", "pytail", "--bind", f"127.0.0.1:{port}"]
    command += ["--cache-dir", str(cache_dir), "--upstream-base-url", upstream, *options]
    with program(command, log, f"http://127.0.0.1:{port}") as running:
        yield running


@contextlib.contextmanager
def under_gunicorn(
    cache_dir: Path, upstream: str, log: Path, *options: str, **environ: str
) -> Iterator[Program]:
    """``gunicorn -k gevent pytail.wsgi`` on a free port."""
    port = free_port()
    command = [sys.executable, "-m", "gunicorn", "-k", "gevent", "-b", f"127.0.0.1:{port}"]
    command += ["--no-control-socket", *options, "pytail.wsgi"]
    environ = {"PYTAIL_CACHE_DIR": str(cache_dir), "PYTAIL_UPSTREAM_BASE_URL": upstream, **environ}
    with program(command, log, f"http://127.0.0.1:{port}", **environ) as running:
        yield running
