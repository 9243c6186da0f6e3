"""Starts pytail and its peers, each from an environment of its own.

Each start gets a free port and an empty cache directory, which is removed when the program ends.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from benchmarks.environments import Environments

_NGINX = """
{user} daemon off; worker_processes 1; pid {run}/pid; error_log stderr error;
events {{ worker_connections 4096; }}
http {{
  access_log off; sendfile on; tcp_nopush on; gzip_static on; keepalive_requests 1000000000;
  types {{ application/vnd.pypi.simple.v1+json json; }} default_type application/octet-stream;
  client_body_temp_path {run}/t; proxy_temp_path {run}/t; fastcgi_temp_path {run}/t;
  uwsgi_temp_path {run}/t; scgi_temp_path {run}/t;
  {server}
}}
"""
#: Below `BARE`, the same index without ETag and Last-Modified.
_STATIC = """
server {{
  listen 127.0.0.1:{port} backlog=1024; root {root}; index index.json;
  location {bare}/ {{ alias {root}/; etag off; if_modified_since off; add_header Last-Modified ""; }}
}}
"""
BARE = "/bare"

#: A location that stores what it fetches, without verifying it and without a sync to the disk.
_PROXY = """
proxy_cache_path {run}/cache levels=1:2 keys_zone=files:16m max_size=10g;
upstream index {{ server {upstream}; keepalive 64; }}
server {{
  listen 127.0.0.1:{port} backlog=1024;
  proxy_http_version 1.1; proxy_set_header Connection "";
  proxy_cache files; proxy_cache_valid 200 1d; proxy_cache_lock on;
  location / {{ proxy_pass http://index; }}
}}
"""


@dataclass(frozen=True)
class Server:
    """A running program that serves an index at `url` + `index`."""

    name: str
    port: int
    index: str
    pid: int
    #: The monotonic time of its start, in seconds.
    born: float

    @property
    def url(self) -> str:
        """Scheme, host and port."""
        return f"http://127.0.0.1:{self.port}"

    def page(self, project: str) -> str:
        """Return the path of a project's page."""
        return f"{self.index}{project}/"

    def connect(self) -> HTTPConnection:
        """Return a new connection, which the caller closes."""
        return HTTPConnection("127.0.0.1", self.port, timeout=120)

    def memory(self, field: str = "VmRSS") -> float:
        """Return the resident bytes of all its processes: now, or with `VmHWM` at most so far."""
        return 1024 * sum(_kibibytes(pid, field) for pid in _family(self.pid))

    def busy(self) -> float:
        """Return the processor time that its processes have taken, in seconds."""
        return sum(map(_ticks, _family(self.pid))) / os.sysconf("SC_CLK_TCK")

    def settle(self) -> None:
        """Wait until it is idle, for 60 s at most, so that the next measurement has the processor."""
        before, now, deadline = -1.0, self.busy(), time.monotonic() + 60
        while now > before and time.monotonic() < deadline:
            time.sleep(0.1)
            before, now = now, self.busy()


class Peers:
    """Starts programs in directories below `work`; nginx serves the directory `site`.

    `latency`, in seconds, is added to each request from a cache to nginx.
    """

    def __init__(self, work: Path, site: Path, latency: float = 0) -> None:
        self.work, self.site, self.latency = work, site, latency
        self.environments = Environments(work / "environments")
        self._numbers = itertools.count()
        self._upstream = ""

    @contextlib.contextmanager
    def nginx(self) -> Iterator[Server]:
        """Start the upstream index, which is also a peer to measure against."""
        port, run = free_port(), self._run("nginx")
        static = _STATIC.format(port=port, root=self.site, bare=BARE)
        serving = self._nginx("nginx", run, port, static)
        with serving as server, self._behind_latency(server) as upstream:
            self._upstream = upstream.url
            yield server

    @contextlib.contextmanager
    def nginx_proxy(self) -> Iterator[Server]:
        """Start an nginx that fetches files from upstream and stores them (`proxy_cache`)."""
        port, run = free_port(), self._run("nginx-proxy")
        upstream = self._upstream.removeprefix("http://")
        proxy = _PROXY.format(run=run, port=port, upstream=upstream)
        with self._nginx("nginx proxy", run, port, proxy) as server:
            yield server

    @contextlib.contextmanager
    def pytail(self, cache: Path | None = None, *options: str, below: str = "") -> Iterator[Server]:
        """Start pytail in one process, as installed for this interpreter, with more `options`.

        It follows the index `below` that path of upstream.
        """
        port, run = free_port(), self._run("pytail")
        command = [sys.executable, "-m", "pytail"]
        command += [*self._options(port, cache or run / "cache", below), *options]
        with self._serving("pytail", command, run, port, "/simple/") as server:
            yield server

    @contextlib.contextmanager
    def rust(self) -> Iterator[Server]:
        """Start the Rust pytail."""
        port, run = free_port(), self._run("rust")
        command: list[Any] = [
            self.environments.program("rust", "pytail"),
            *self._options(port, run / "cache"),
        ]
        with self._serving("rust", command, run, port, "/simple/") as server:
            yield server

    @contextlib.contextmanager
    def gunicorn(self, workers: int, worker_class: str) -> Iterator[Server]:
        """Start pytail under gunicorn."""
        port, run = free_port(), self._run("gunicorn")
        command = [sys.executable, "-m", "gunicorn", "-b", f"127.0.0.1:{port}", "-w", workers]
        command += ["-k", worker_class, "--keep-alive", 75, "--no-control-socket", "pytail.wsgi"]
        environ = {"PYTAIL_CACHE_DIR": run / "cache", "PYTAIL_UPSTREAM_BASE_URL": self._upstream}
        name = f"{worker_class} -w {workers}"
        with self._serving(name, command, run, port, "/simple/", environ) as server:
            yield server

    @contextlib.contextmanager
    def proxpi(self) -> Iterator[Server]:
        """Start proxpi under gunicorn, as its container image does."""
        port, run = free_port(), self._run("proxpi")
        command: list[Any] = [
            self.environments.program("proxpi", "gunicorn"),
            "-b",
            f"127.0.0.1:{port}",
        ]
        command += ["--threads", 8, "--no-control-socket", "proxpi.server:app"]
        cache = run / "cache"
        cache.mkdir()
        environ = {"PROXPI_INDEX_URL": f"{self._upstream}/simple/", "PROXPI_CACHE_DIR": cache}
        with self._serving("proxpi", command, run, port, "/index/", environ) as server:
            yield server

    @contextlib.contextmanager
    def devpi(self) -> Iterator[Server]:
        """Start devpi-server with a mirror at root/pypi."""
        port, run = free_port(), self._run("devpi")
        directory = ["--serverdir", run / "server"]
        init: list[Any] = [
            self.environments.program("devpi", "devpi-init"),
            *directory,
            "--no-root-pypi",
        ]
        subprocess.run(init, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
        command: list[Any] = [
            self.environments.program("devpi", "devpi-server"),
            *directory,
            "--host",
            "127.0.0.1",
        ]
        # Large pages take longer than its default timeout of 5 s.
        command += ["--request-timeout", 60, "--port", port]
        index = "/root/pypi/+simple/"
        with self._serving("devpi", command, run, port, index) as server:
            _make_mirror(server, f"{self._upstream}/simple/")
            yield server

    def _nginx(
        self, name: str, run: Path, port: int, server: str
    ) -> AbstractContextManager[Server]:
        conf = run / "nginx.conf"
        # By default, root's nginx reads files as the user nobody, who may lack the rights.
        user = "user root;" if os.geteuid() == 0 else ""
        conf.write_text(_NGINX.format(user=user, run=run, server=server))
        return self._serving(name, ["nginx", "-c", conf], run, port, "/simple/")

    @contextlib.contextmanager
    def _behind_latency(self, server: Server) -> Iterator[Server]:
        if not self.latency:
            yield server
            return
        port, run = free_port(), self._run("relay")
        command = [sys.executable, Path(__file__).with_name("relay.py"), port, server.port]
        with self._serving("relay", [*command, self.latency], run, port, "/simple/") as relay:
            yield relay

    def _options(self, port: int, cache: Path, below: str = "") -> list[Any]:
        bind = ["--bind", f"127.0.0.1:{port}", "--cache-dir", cache]
        return [*bind, "--upstream-base-url", f"{self._upstream}{below}"]

    def _run(self, name: str) -> Path:
        run = self.work / "run" / f"{name}-{next(self._numbers)}"
        shutil.rmtree(run, ignore_errors=True)
        run.mkdir(parents=True)
        return run

    @contextlib.contextmanager
    def _serving(
        self,
        name: str,
        command: list[Any],
        run: Path,
        port: int,
        index: str,
        environ: dict[str, Any] | None = None,
    ) -> Iterator[Server]:
        env = bare_environ() | {key: str(value) for key, value in (environ or {}).items()}
        born = time.monotonic()
        with (run / "log").open("wb") as log:
            process = subprocess.Popen(
                [str(word) for word in command],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=env,
                cwd=run,
                start_new_session=True,
            )
        try:
            _wait_for(process, port, run / "log")
            yield Server(name, port, index, process.pid, born)
        finally:
            _end(process)
            shutil.rmtree(run, ignore_errors=True)


def bare_environ() -> dict[str, str]:
    """Return this process's environment, less variables that configure a program under test."""
    unwanted = ("PIP_", "UV_", "PYTAIL_", "PROXPI_", "DEVPI", "GUNICORN_", "PYTHON")
    environ = {key: value for key, value in os.environ.items() if not key.startswith(unwanted)}
    return {key: value for key, value in environ.items() if not key.lower().endswith("_proxy")}


def free_port() -> int:
    """Return a port of the loopback interface without a listener."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def _wait_for(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.005)
    raise RuntimeError(f"{log.parent.name} did not start: {log.read_text()[-2000:]}")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    # Workers may have survived.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _make_mirror(server: Server, upstream: str) -> None:
    with contextlib.closing(server.connect()) as connection:
        connection.request("POST", "/+login", json.dumps({"user": "root", "password": ""}))
        token = json.load(connection.getresponse())["result"]["password"]
        auth = base64.b64encode(f"root:{token}".encode()).decode()
        config = {"type": "mirror", "mirror_url": upstream, "volatile": False}
        headers = {"X-Devpi-Auth": auth, "Content-Type": "application/json"}
    with contextlib.closing(server.connect()) as connection:
        connection.request("PUT", "/root/pypi", json.dumps(config), headers)
        response = connection.getresponse()
        if response.status != 200:
            raise RuntimeError(f"devpi refuses the mirror with status {response.status}")


def _family(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(each for child in children for each in _family(int(child)))]


def _kibibytes(pid: int, field: str) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return float(line.split()[1])
    return 0.0


def _ticks(pid: int) -> int:
    """Return utime and stime, fields 14 and 15 in proc(5), in clock ticks."""
    # Field 2 is the name in parentheses, which may contain spaces and parentheses.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])
