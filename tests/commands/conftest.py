"""Runs commands with or without a running server, as an operator does or in this process.

A call in this process saves the start of Python, about half a second. Each command also has tests
that run the program.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import logging
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest

from pytail.commands.main import main
from tests.support.fakeindex import Dist, FakeIndex, wheel
from tests.support.running import Client, clean_environ, serving
from tests.support.watching import partial_sizes

PYTAIL = [sys.executable, "-m", "pytail"]


def run_program(
    *arguments: str,
    cwd: Path | None = None,
    stdin: Any = subprocess.DEVNULL,
    stderr: Any = subprocess.PIPE,
    **environ: str,
) -> subprocess.CompletedProcess[str]:
    """Run ``python -m pytail`` to its end."""
    return subprocess.run(
        [*PYTAIL, *arguments],
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        env=clean_environ(**environ),
        cwd=cwd,
        timeout=60,
        check=False,
    )


def call_main(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Call the entry point of the program in this process."""
    out, err = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        process_restored(),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        gevent.Timeout(30),
    ):
        for name in os.environ.keys() - clean_environ().keys():
            patch.delenv(name)
        for name, value in environ.items():
            patch.setenv(name, value)
        patch.setattr(sys, "argv", ["pytail", *arguments])
        with pytest.raises(SystemExit) as exited:
            main()
    code = exited.value.code
    assert isinstance(code, int)
    return subprocess.CompletedProcess(["pytail", *arguments], code, out.getvalue(), err.getvalue())


@contextlib.contextmanager
def process_restored() -> Iterator[None]:
    """Undo the changes that a command makes to loggers and to the handler of SIGINT."""
    loggers = [logging.getLogger(name) for name in (None, "pytail", "pytail.access")]
    before = [(logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    on_interrupt = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, on_interrupt)
        for logger, state in zip(loggers, before, strict=True):
            logger.handlers[:], logger.level, logger.propagate = state


@contextlib.contextmanager
def pseudo_terminal(typed: str = "") -> Iterator[tuple[int, int]]:
    """Open a pseudo terminal on which `typed` is entered; yield both of its descriptors."""
    primary, terminal = pty.openpty()
    try:
        os.write(primary, typed.encode())
        yield primary, terminal
    finally:
        os.close(terminal)
        os.close(primary)


@dataclasses.dataclass
class Commands:
    """The commands, on a cache directory that a server may use at the same time."""

    cache: Path
    environ: dict[str, str]

    def run(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        return run_program(*arguments, **options, **self.environ)

    def call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return call_main(*arguments, **self.environ)

    @contextlib.contextmanager
    def start(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """Start a command; kill it at the end of the block where it still runs."""
        with subprocess.Popen(
            [*PYTAIL, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=clean_environ(**self.environ),
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def run_on_terminal(self, *arguments: str) -> tuple[subprocess.CompletedProcess[str], str]:
        """Run a command with a terminal as standard error; return its end and the shown text."""
        with pseudo_terminal() as (primary, terminal):
            out = self.run(*arguments, stderr=terminal)
            return out, os.read(primary, 10_000).decode()

    def json(self, *arguments: str, code: int = 0) -> Any:
        """Call a command with ``--json`` in this process; it must exit with `code`."""
        return self._json(self.call(*arguments, "--json"), code)

    def run_json(self, *arguments: str, code: int = 0) -> Any:
        """Run a command with ``--json`` in another process; it must exit with `code`."""
        return self._json(self.run(*arguments, "--json"), code)

    @staticmethod
    def _json(out: subprocess.CompletedProcess[str], code: int) -> Any:
        assert out.returncode == code, out.stderr
        return json.loads(out.stdout)

    def path(self, dist: Dist) -> Path:
        """Return the path of a stored file."""
        return self.cache / "+files/root/pypi/+f" / dist.key

    def stored_names(self) -> set[str]:
        """Return the names of all stored files."""
        return {path.name for path in (self.cache / "+files").rglob("*") if path.is_file()}

    def partial_sizes(self) -> list[int]:
        """Return the bytes of each partial file."""
        return partial_sizes(self.cache)


@dataclasses.dataclass
class Installation(Commands):
    """A running server, and the commands on its cache directory."""

    client: Client

    def store(self, *dists: Dist) -> None:
        """Let the server fetch `dists`."""
        for dist in dists:
            assert self.client.get(f"/simple/{dist.project}/").status == 200
            assert self.client.get(dist.served).data == dist.data

    def write_file(self, dist: Dist, used: float) -> None:
        """Write `dist` into the store without the server, last used at `used` (epoch seconds)."""
        path = self.path(dist)
        path.parent.mkdir(parents=True)
        path.write_bytes(dist.data)
        os.utime(path, (used, used))


@pytest.fixture
def installation(tmp_path: Path, index: FakeIndex) -> Iterator[Installation]:
    cache = tmp_path / "cache"
    with serving(cache, index.url, cache_max_size=2**30) as client:
        environ = {
            "PYTAIL_CACHE_DIR": str(cache),
            "PYTAIL_UPSTREAM_BASE_URL": index.url,
            "PYTAIL_BIND": client.url.removeprefix("http://"),
        }
        yield Installation(cache, environ, client)


@pytest.fixture
def commands(tmp_path: Path, index: FakeIndex) -> Commands:
    """Commands on a cache directory that does not exist yet, without a server."""
    cache = tmp_path / "cache"
    environ = {"PYTAIL_CACHE_DIR": str(cache), "PYTAIL_UPSTREAM_BASE_URL": index.url}
    return Commands(cache, environ)


@pytest.fixture
def stored(installation: Installation, index: FakeIndex) -> list[Dist]:
    """A stored file of each of two projects."""
    dists = [wheel("demo"), wheel("other")]
    index.add(*dists)
    installation.store(*dists)
    return dists
