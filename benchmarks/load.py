"""Clients that verify the responses of a server, then count and time them.

Each response is verified before the measurement: status, length and content. A measurement with
errors or with too few bytes raises WrongResponse, so that a fast mistake never counts.
"""

from __future__ import annotations

import asyncio
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
local requests, number = {}, 0
function init(args)
  for _, each in ipairs(%s) do requests[#requests + 1] = wrk.format("GET", each[1], each[2]) end
end
function request()
  number = number %% #requests + 1
  return requests[number]
end
function done(summary, latency)
  local e = summary.errors
  io.write(string.format('\\n{"requests": %%d, "microseconds": %%d, "bytes": %%d, "errors": %%d, ' ..
    '"p50": %%d}\\n', summary.requests, summary.duration, summary.bytes,
    e.connect + e.read + e.write + e.status + e.timeout,
    latency:percentile(50)))
end
"""


class WrongResponse(Exception):
    """A server sent another response than it should."""


@dataclass(frozen=True)
class Request:
    """Path and headers of a request, and the bytes of its verified response."""

    path: str
    headers: Mapping[str, str]
    length: int


@dataclass(frozen=True)
class Response:
    """A response, read to its end; names of headers in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """Return the body, decoded."""
        return json.loads(_DECODERS[self.headers.get("content-encoding")](self.body))


@dataclass(frozen=True)
class Load:
    """The results of a measurement with wrk."""

    #: Requests a second.
    rate: float
    #: Milliseconds that half of the requests took at most.
    p50: float
    #: Microseconds of the server's processor time a request.
    cost: float


def get(server: Server, path: str, headers: Mapping[str, str] = PLAIN) -> Response:
    """Send a request over a new connection; return the response."""
    with contextlib.closing(server.connect()) as connection:
        response = _send(connection, path, headers)
        return Response(response.status, _lower(response), response.read())


def page_request(
    server: Server, project: str, count: int, headers: Mapping[str, str] = PLAIN
) -> Request:
    """Return a request for a page; the response is verified to list `count` files.

    Raises WrongResponse.
    """
    path = server.page(project)
    response = _expect(server, path, get(server, path, headers), 200)
    files = response.json()["files"]
    if len({file["filename"] for file in files}) != count or not all(
        file["hashes"]["sha256"] for file in files
    ):
        raise WrongResponse(f"{server.name}: {project} has {len(files)} files, not {count}")
    return Request(path, headers, len(response.body))


def unchanged_request(server: Server, request: Request) -> Request:
    """Return `request` with If-None-Match; the response is verified to be 304."""
    etag = get(server, request.path, request.headers).headers["etag"]
    headers = {**request.headers, "If-None-Match": etag}
    _expect(server, request.path, get(server, request.path, headers), 304)
    return Request(request.path, headers, 0)


def file_paths(server: Server, project: str) -> dict[str, str]:
    """Return the path of each file of a project, by sha256."""
    path = server.page(project)
    files = _expect(server, path, get(server, path), 200).json()["files"]
    return {file["hashes"]["sha256"]: urlsplit(urljoin(path, file["url"])).path for file in files}


def paths_of(server: Server, digests: Mapping[str, str]) -> dict[str, str]:
    """Return the sha256 by path of the file of each project, `digests` by project."""

    def path(project: str) -> str:
        return file_paths(server, project)[digests[project]]

    with ThreadPoolExecutor(8) as pool:
        return dict(zip(pool.map(path, digests), digests.values(), strict=True))


def file_request(
    server: Server, project: str, digest: str, span: tuple[int, int] | None = None
) -> Request:
    """Return a request for a file, or for the offsets `span` of it; the response is verified."""
    path = file_paths(server, project)[digest]
    whole = _expect(server, path, get(server, path, {}), 200).body
    if hashlib.sha256(whole).hexdigest() != digest:
        raise WrongResponse(f"{server.name}: {path} has another digest")
    if span is None:
        return Request(path, {}, len(whole))
    headers = {"Range": f"bytes={span[0]}-{span[1] - 1}"}
    if _expect(server, path, get(server, path, headers), 206).body != whole[slice(*span)]:
        raise WrongResponse(f"{server.name}: another range of {path}")
    return Request(path, headers, span[1] - span[0])


def measured(
    server: Server, requests: list[Request], seconds: float, connections: int = 16
) -> Load:
    """Send `requests` in turn with wrk, one thread, as fast as `server` responds.

    Raises WrongResponse where one failed, or where the responses are too short.
    """
    table = ",".join(f"{{{json.dumps(r.path)},{_lua(r.headers)}}}" for r in requests)
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(_WRK % f"{{{table}}}")
        script.flush()
        command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s"]
        command += ["--timeout", "60s", "-s", script.name, server.url]
        before = server.busy()
        ran = subprocess.run(command, check=True, capture_output=True, text=True)
    # wrk stops in the middle of responses.
    server.settle()
    busy = server.busy() - before
    result = json.loads(ran.stdout.splitlines()[-1])
    expected = sum(request.length for request in requests) / len(requests) * result["requests"]
    if result["requests"] == 0 and seconds < 30:
        return measured(server, requests, seconds * 4, connections)
    # wrk stops slow servers in the middle of the list, so that the sizes are not evenly mixed.
    even = result["requests"] > 10 * (len(requests) + connections)
    if result["errors"] or result["requests"] == 0 or (even and result["bytes"] < 0.95 * expected):
        raise WrongResponse(f"{server.name}: {result}, {expected:.0f} bytes expected")
    rate = result["requests"] / result["microseconds"] * 1e6
    return Load(rate, result["p50"] / 1000, busy * 1e6 / result["requests"])


def drained(server: Server, due: Mapping[str, int], clients: int = 1) -> float:
    """Return the seconds in which `clients` get all of `due`, bytes by path, all at once.

    Raises WrongResponse where a body is shorter or longer.
    """
    paths = [path for path in due for _ in range(clients)]
    with ThreadPoolExecutor(len(paths)) as pool:
        before = time.perf_counter()
        lengths = list(pool.map(lambda path: _drain(server, path), paths))
        seconds = time.perf_counter() - before
    if lengths != [due[path] for path in paths]:
        raise WrongResponse(f"{server.name}: {lengths} bytes, not {list(due.values())}")
    return seconds


def fetched(server: Server, due: Mapping[str, str], connections: int) -> float:
    """Return the seconds in which `connections`, each kept alive, get all of `due`: sha256 by path.

    Each body is hashed after the measurement. Raises WrongResponse where one has another digest.
    """
    left, bodies = [*due], dict[str, bytes]()

    async def fetch_some() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=2**20)
        with contextlib.closing(writer):
            while left:
                path, host = left.pop(), f"127.0.0.1:{server.port}"
                writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
                bodies[path] = await _read_body(reader, f"{server.name}: {path}")

    async def fetch_all() -> float:
        before = time.perf_counter()
        await asyncio.gather(*(fetch_some() for _ in range(connections)))
        return time.perf_counter() - before

    seconds = asyncio.run(fetch_all())
    for path, digest in due.items():
        if hashlib.sha256(bodies[path]).hexdigest() != digest:
            raise WrongResponse(f"{server.name}: {path} has another digest")
    return seconds


def probed(
    server: Server, request: Request, until: Callable[[], bool], interval: float = 0.01
) -> list[float]:
    """Return the milliseconds of requests that are due every `interval` seconds, until `until()`.

    Each counts from its due time, so that a stall counts for all requests it delays.
    """
    taken: list[float] = []
    with contextlib.closing(server.connect()) as connection:
        connection.connect()
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        due = time.perf_counter()
        while not until():
            response = _send(connection, request.path, request.headers)
            if len(response.read()) != request.length:
                raise WrongResponse(f"{server.name}: {request.path} {response.status}")
            now = time.perf_counter()
            taken.append((now - due) * 1000)
            due += interval
            time.sleep(max(0.0, due - now))
    return taken


def timed_page(server: Server, project: str, headers: Mapping[str, str]) -> tuple[float, Response]:
    """Return the seconds from a request for a page to its last byte, and the response."""
    with contextlib.closing(server.connect()) as connection:
        connection.connect()
        before = time.perf_counter()
        response = _send(connection, server.page(project), headers)
        body = response.read()
        seconds = time.perf_counter() - before
    return seconds, Response(response.status, _lower(response), body)


def get_pages(server: Server, projects: Iterable[str], headers: Mapping[str, str]) -> None:
    """Get the pages of `projects`, eight at a time; repeat after 503 for 60 s.

    Raises WrongResponse.
    """

    def get_page(project: str) -> None:
        path, response = server.page(project), Response(503, {}, b"")
        deadline = time.monotonic() + 60
        while response.status == 503 and time.monotonic() < deadline:
            response = get(server, path, headers)
        _expect(server, path, response, 200)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(get_page, projects))


def refresh_pages(server: Server, etags: Mapping[str, str], headers: Mapping[str, str]) -> float:
    """Return the seconds for a 304 for each page of `etags`, by project, which upstream confirms first.

    Raises WrongResponse.
    """
    before = time.perf_counter()
    with contextlib.closing(server.connect()) as connection:
        for project, etag in etags.items():
            path = server.page(project)
            sent = _send(connection, path, {**headers, "If-None-Match": etag})
            response = Response(sent.status, _lower(sent), sent.read())
            if _expect(server, path, response, 304).headers["x-cache"] != "REVALIDATED":
                raise WrongResponse(f"{server.name}: upstream was not asked for {path}")
    return time.perf_counter() - before


def uv_headers(uv: Path) -> dict[str, str]:
    """Return the headers of uv's request for a page, less Host."""
    seen: list[dict[str, str]] = []

    class Listener(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(dict(self.headers.items()))
            self.send_error(404)

        def log_message(self, *_: Any) -> None:
            pass

    with (
        HTTPServer(("127.0.0.1", 0), Listener) as listener,
        tempfile.TemporaryDirectory() as target,
    ):
        Thread(target=listener.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{listener.server_port}/simple"
        command = (
            f"{uv} pip install --no-config --no-cache --target {target} --index-url {url} mix-5"
        )
        subprocess.run(shlex.split(command), check=False, capture_output=True, env=bare_environ())
        listener.shutdown()
    return {name: value for name, value in seen[0].items() if name.lower() != "host"}


def _send(connection: HTTPConnection, path: str, headers: Mapping[str, str]) -> HTTPResponse:
    connection.putrequest("GET", path, skip_accept_encoding=True)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    return connection.getresponse()


def _lower(response: HTTPResponse) -> dict[str, str]:
    return {name.lower(): value for name, value in response.getheaders()}


def _expect(server: Server, path: str, response: Response, status: int) -> Response:
    if response.status != status:
        start = response.body[:300]
        raise WrongResponse(f"{server.name}: {path} is {response.status}, not {status}: {start!r}")
    return response


async def _read_body(reader: asyncio.StreamReader, what: str) -> bytes:
    """Return the body of one response. Raises WrongResponse where its status is not 200."""
    try:
        status, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        fields = dict(line.lower().split(": ", 1) for line in lines if line)
        if status.split()[1] != "200":
            raise WrongResponse(f"{what} is {status}")
        if fields.get("transfer-encoding") != "chunked":
            return await reader.readexactly(int(fields["content-length"]))
        body = b""
        while length := int(await reader.readuntil(b"\r\n"), 16):
            body += (await reader.readexactly(length + 2))[:-2]
        await reader.readuntil(b"\r\n")
    except (asyncio.IncompleteReadError, ConnectionError) as error:
        raise WrongResponse(f"{what} broke off: {error!r}") from error
    return body


def _lua(headers: Mapping[str, str]) -> str:
    inside = ",".join(f"[{json.dumps(name)}]={json.dumps(v)}" for name, v in headers.items())
    return f"{{{inside}}}"


def _drain(server: Server, path: str) -> int:
    buffer, length = bytearray(2**20), 0
    with contextlib.closing(server.connect()) as connection:
        response = _send(connection, path, {})
        if response.status == 200:
            while got := response.readinto(buffer):
                length += got
    return length
