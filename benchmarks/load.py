"""Clients of a server: they look whether its answers are right, then count and time them.

Nothing is measured before its answer was seen to be whole and right, and a measurement with an
answer that is not, or shorter ones, is an error: a fast mistake never counts.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import shlex
import socket
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from types import MappingProxyType
from typing import Any
from urllib.parse import urljoin, urlsplit

from benchmarks.peers import Server, bare_environ

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

JSON = "application/vnd.pypi.simple.v1+json"
PLAIN: Mapping[str, str] = MappingProxyType({"Accept": JSON})
GZIP: Mapping[str, str] = MappingProxyType({"Accept": JSON, "Accept-Encoding": "gzip"})

_DECODERS: dict[str | None, Callable[[bytes], bytes]] = {
    None: bytes,
    "gzip": gzip.decompress,
    "deflate": zlib.decompress,
    "zstd": zstd.decompress,
}
_WRK = """
local requests, turn = {}, 0
function init(args)
  for _, each in ipairs(%s) do requests[#requests + 1] = wrk.format("GET", each[1], each[2]) end
end
function request()
  turn = turn %% #requests + 1
  return requests[turn]
end
function done(summary, latency)
  local e = summary.errors
  io.write(string.format('\\n{"requests": %%d, "microseconds": %%d, "bytes": %%d, "errors": %%d, ' ..
    '"p50": %%d}\\n', summary.requests, summary.duration, summary.bytes,
    e.connect + e.read + e.write + e.status + e.timeout,
    latency:percentile(50)))
end
"""


class WrongAnswer(Exception):
    """A server answered, but not what it should."""


@dataclass(frozen=True)
class Request:
    """What to ask, and how many bytes of body the right answer was seen to have."""

    path: str
    headers: Mapping[str, str]
    length: int


@dataclass(frozen=True)
class Answer:
    """A response, read to its end."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(_DECODERS[self.headers.get("content-encoding")](self.body))


@dataclass(frozen=True)
class Load:
    """What a server did under load."""

    #: Requests a second.
    rate: float
    #: Milliseconds that half of the requests took at most.
    p50: float
    #: Microseconds of the server's processor time a request.
    cost: float


def get(server: Server, path: str, headers: Mapping[str, str] = PLAIN) -> Answer:
    """The answer, over a connection of its own."""
    with contextlib.closing(server.connect()) as connection:
        response = _asked(connection, path, headers)
        return Answer(response.status, _lower(response), response.read())


def page_request(
    server: Server, project: str, count: int, headers: Mapping[str, str] = PLAIN
) -> Request:
    """A request for a page, seen to list the `count` files that upstream has.

    Raises WrongAnswer.
    """
    path = server.page(project)
    answer = _right(server, path, get(server, path, headers), 200)
    files = answer.json()["files"]
    if len({file["filename"] for file in files}) != count or not all(
        file["hashes"]["sha256"] for file in files
    ):
        raise WrongAnswer(f"{server.name}: {project} has {len(files)} files, not {count}")
    return Request(path, headers, len(answer.body))


def unchanged_request(server: Server, request: Request) -> Request:
    """`request` with the validator of its answer, seen to be answered by 304."""
    etag = get(server, request.path, request.headers).headers["etag"]
    headers = {**request.headers, "If-None-Match": etag}
    _right(server, request.path, get(server, request.path, headers), 304)
    return Request(request.path, headers, 0)


def file_paths(server: Server, project: str) -> dict[str, str]:
    """sha256 -> the path of a file that a project's page lists."""
    path = server.page(project)
    files = _right(server, path, get(server, path), 200).json()["files"]
    return {file["hashes"]["sha256"]: urlsplit(urljoin(path, file["url"])).path for file in files}


def file_request(
    server: Server, project: str, digest: str, part: tuple[int, int] | None = None
) -> Request:
    """A request for a file or the `part` of it from one offset to another, seen to be right."""
    path = file_paths(server, project)[digest]
    whole = _right(server, path, get(server, path, {}), 200).body
    if hashlib.sha256(whole).hexdigest() != digest:
        raise WrongAnswer(f"{server.name}: {path} has another digest")
    if part is None:
        return Request(path, {}, len(whole))
    headers = {"Range": f"bytes={part[0]}-{part[1] - 1}"}
    if _right(server, path, get(server, path, headers), 206).body != whole[slice(*part)]:
        raise WrongAnswer(f"{server.name}: another part of {path}")
    return Request(path, headers, part[1] - part[0])


def hammered(
    server: Server, requests: list[Request], seconds: float, connections: int = 16
) -> Load:
    """`requests` in turn, by wrk with one thread, as fast as they are answered.

    Raises WrongAnswer where one failed, or where less came than the right answers have.
    """
    table = ",".join(f"{{{json.dumps(r.path)},{_lua(r.headers)}}}" for r in requests)
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(_WRK % f"{{{table}}}")
        script.flush()
        command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s"]
        command += ["--timeout", "60s", "-s", script.name, server.url]
        before = server.busy()
        ran = subprocess.run(command, check=True, capture_output=True, text=True)
    # wrk leaves in the middle of answers.
    server.settle()
    busy = server.busy() - before
    said = json.loads(ran.stdout.splitlines()[-1])
    expected = sum(request.length for request in requests) / len(requests) * said["requests"]
    if said["requests"] == 0 and seconds < 30:
        return hammered(server, requests, seconds * 4, connections)
    # Slow servers are cut off in the middle of a turn, so that the mix is not quite even.
    even = said["requests"] > 10 * (len(requests) + connections)
    if said["errors"] or said["requests"] == 0 or (even and said["bytes"] < 0.95 * expected):
        raise WrongAnswer(f"{server.name}: {said} where {expected:.0f} bytes were due")
    rate = said["requests"] / said["microseconds"] * 1e6
    return Load(rate, said["p50"] / 1000, busy * 1e6 / said["requests"])


def drained(server: Server, due: Mapping[str, int], clients: int = 1) -> float:
    """Seconds for `clients` to get all of `due`, path -> bytes, at once, each over its connection.

    Raises WrongAnswer where a body is shorter or longer.
    """
    paths = [path for path in due for _ in range(clients)]
    with ThreadPoolExecutor(len(paths)) as pool:
        before = time.perf_counter()
        lengths = list(pool.map(lambda path: _drain(server, path), paths))
        seconds = time.perf_counter() - before
    if lengths != [due[path] for path in paths]:
        raise WrongAnswer(f"{server.name}: {lengths} bytes instead of {list(due.values())}")
    return seconds


def probed(
    server: Server, request: Request, until: Callable[[], bool], interval: float = 0.01
) -> list[float]:
    """Milliseconds of small requests sent every `interval` seconds over one connection.

    Each counts from when it was due, so that those that a stall held up count in full.
    """
    taken: list[float] = []
    with contextlib.closing(server.connect()) as connection:
        connection.connect()
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        due = time.perf_counter()
        while not until():
            response = _asked(connection, request.path, request.headers)
            if len(response.read()) != request.length:
                raise WrongAnswer(f"{server.name}: {request.path} {response.status}")
            now = time.perf_counter()
            taken.append((now - due) * 1000)
            due += interval
            time.sleep(max(0.0, due - now))
    return taken


def timed_page(server: Server, project: str, headers: Mapping[str, str]) -> tuple[float, Answer]:
    """Seconds from a request for a page to its last byte, over an open connection; the answer."""
    with contextlib.closing(server.connect()) as connection:
        connection.connect()
        before = time.perf_counter()
        response = _asked(connection, server.page(project), headers)
        body = response.read()
        seconds = time.perf_counter() - before
    return seconds, Answer(response.status, _lower(response), body)


def asked_each(server: Server, projects: Iterable[str], headers: Mapping[str, str]) -> None:
    """Get the pages of `projects`, eight at a time, again where told to. Raises WrongAnswer."""

    def ask(project: str) -> None:
        path, answer = server.page(project), Answer(503, {}, b"")
        deadline = time.monotonic() + 60
        while answer.status == 503 and time.monotonic() < deadline:
            answer = get(server, path, headers)
        _right(server, path, answer, 200)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, projects))


def uv_headers(uv: Path) -> dict[str, str]:
    """What uv itself sends when it asks for a page, less the host."""
    seen: list[dict[str, str]] = []

    class Listener(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(dict(self.headers.items()))
            self.send_error(404)

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Listener) as listener, tempfile.TemporaryDirectory() as room:
        Thread(target=listener.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{listener.server_port}/simple"
        command = f"{uv} pip install --no-config --no-cache --target {room} --index-url {url} mix-5"
        subprocess.run(shlex.split(command), check=False, capture_output=True, env=bare_environ())
        listener.shutdown()
    return {name: value for name, value in seen[0].items() if name.lower() != "host"}


def _asked(connection: HTTPConnection, path: str, headers: Mapping[str, str]) -> HTTPResponse:
    connection.putrequest("GET", path, skip_accept_encoding=True)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    return connection.getresponse()


def _lower(response: HTTPResponse) -> dict[str, str]:
    return {name.lower(): value for name, value in response.getheaders()}


def _right(server: Server, path: str, answer: Answer, status: int) -> Answer:
    if answer.status != status:
        said = answer.body[:300]
        raise WrongAnswer(f"{server.name}: {path} is {answer.status}, not {status}: {said!r}")
    return answer


def _lua(headers: Mapping[str, str]) -> str:
    inside = ",".join(f"[{json.dumps(name)}]={json.dumps(v)}" for name, v in headers.items())
    return f"{{{inside}}}"


def _drain(server: Server, path: str) -> int:
    buffer, length = bytearray(2**20), 0
    with contextlib.closing(server.connect()) as connection:
        response = _asked(connection, path, {})
        if response.status == 200:
            while got := response.readinto(buffer):
                length += got
    return length
