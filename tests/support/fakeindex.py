"""An upstream index on loopback, with real sockets, real wheels and the faults of a test."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import hashlib
import io
import json
import re
import socket
import tarfile
import zipfile
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from gevent.event import Event
from gevent.pool import Pool
from gevent.pywsgi import WSGIServer
from gevent.server import StreamServer

if TYPE_CHECKING:
    from typing_extensions import Self

JSON = "application/vnd.pypi.simple.v1+json"
HTML = "application/vnd.pypi.simple.v1+html"

WSGI = Callable[[dict[str, Any], Any], Iterable[bytes]]


@dataclasses.dataclass
class Dist:
    """A file of a project; `extra` are fields of its entry on the page, which override others."""

    project: str
    filename: str
    data: bytes
    metadata: bytes | None = None
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def path(self) -> str:
        """The path of its URL at the index."""
        return f"/packages/{self.sha256[:8]}/{quote(self.filename)}"

    @property
    def key(self) -> str:
        """Its key in pytail's store."""
        return f"{self.sha256[:3]}/{self.sha256[3:16]}/{self.filename}"

    @property
    def served(self) -> str:
        """The path of its URL at pytail."""
        return f"/root/pypi/+f/{self.key}"

    def entry(self) -> dict[str, Any]:
        entry: dict[str, Any] = {
            "filename": self.filename,
            "url": self.path,
            "hashes": {"sha256": self.sha256},
            "size": len(self.data),
            "upload-time": "2024-05-06T07:08:09.123456Z",
            "yanked": False,
        }
        if self.metadata is not None:
            entry["core-metadata"] = {"sha256": hashlib.sha256(self.metadata).hexdigest()}
        return entry | self.extra

    def anchor(self) -> str:
        entry = self.entry()
        hashes = "".join(f"#{name}={value}" for name, value in list(entry["hashes"].items())[:1])
        metadata = entry.get("core-metadata")
        attribute = f' data-core-metadata="sha256={metadata["sha256"]}"' if metadata else ""
        return f'<a href="{entry["url"]}{hashes}"{attribute}>{self.filename}</a><br>'


def wheel(
    project: str,
    version: str = "1.0",
    requires: Iterable[str] = (),
    payload: bytes = b"",
    tag: str = "py3-none-any",
    **extra: Any,
) -> Dist:
    """Return a wheel that pip and uv install: a package of one module with its version."""
    name = project.replace("-", "_")
    info = f"{name}-{version}.dist-info"
    lines = ["Metadata-Version: 2.1", f"Name: {project}", f"Version: {version}"]
    lines += [f"Requires-Dist: {requirement}" for requirement in requires]
    if "requires-python" in extra:
        lines.append(f"Requires-Python: {extra['requires-python']}")
    members = {
        f"{name}/__init__.py": f"__version__ = {version!r}\n".encode(),
        f"{info}/METADATA": "\n".join([*lines, "", ""]).encode(),
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n".encode(),
    }
    if payload:
        members[f"{name}/payload.bin"] = payload
    record = "".join(
        f"{path},sha256={_urlsafe(data)},{len(data)}\n" for path, data in members.items()
    )
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for path, data in {
            **members,
            f"{info}/RECORD": f"{record}{info}/RECORD,,\n".encode(),
        }.items():
            archive.writestr(zipfile.ZipInfo(path, (2024, 1, 1, 0, 0, 0)), data)
    metadata = members[f"{info}/METADATA"]
    return Dist(project, f"{name}-{version}-{tag}.whl", out.getvalue(), metadata, extra)


def sdist(project: str, version: str = "1.0", **extra: Any) -> Dist:
    """Return a source distribution, which cannot be built."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz", compresslevel=1) as archive:
        data = f"Metadata-Version: 2.1\nName: {project}\nVersion: {version}\n".encode()
        member = tarfile.TarInfo(f"{project}-{version}/PKG-INFO")
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    return Dist(project, f"{project}-{version}.tar.gz", out.getvalue(), None, extra)


def _urlsafe(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


@dataclasses.dataclass
class Seen:
    """A request to the index; names of `headers` are as in WSGI, without ``HTTP_``."""

    method: str
    path: str
    headers: dict[str, str]


class FakeIndex:
    """An index below `root`. `answers` overrides its response at a path; `seen` are all requests."""

    def __init__(
        self, *, html_only: bool = False, root: str = "/simple/", host: str = "127.0.0.1"
    ) -> None:
        self.html_only, self.root = html_only, root
        self.dists: list[Dist] = []
        self.page_extra: dict[str, dict[str, Any]] = {}
        self.answers: dict[str, WSGI] = {}
        self.seen: list[Seen] = []
        listener = socket.create_server((host, 0), backlog=128)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # With a pool, stopping ends open connections too.
        self._server = WSGIServer(listener, self._application, spawn=Pool(), log=None)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        if not self._server.started:
            self._server.start()

    def stop(self) -> None:
        self._server.stop(timeout=0)

    @property
    def url(self) -> str:
        return f"http://{self._server.server_host}:{self._server.server_port}"

    def add(self, *dists: Dist) -> None:
        self.dists += dists

    def count(self, path: str, method: str = "GET") -> int:
        """Return the number of requests for `path`."""
        return sum(seen.path == path and seen.method == method for seen in self.seen)

    def page_count(self, project: str) -> int:
        return self.count(f"{self.root}{project}/")

    def page(self, project: str) -> dict[str, Any]:
        dists = [dist for dist in self.dists if dist.project == project]
        return {
            "meta": {"api-version": "1.4"},
            "name": project,
            "versions": sorted(
                {dist.filename.split("-")[1].removesuffix(".tar.gz") for dist in dists}
            ),
            "files": [dist.entry() for dist in dists],
        } | self.page_extra.get(project, {})

    def _application(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        headers = {key[5:]: value for key, value in environ.items() if key.startswith("HTTP_")}
        self.seen.append(Seen(environ["REQUEST_METHOD"], path, headers))
        answer = self.answers.get(path, self._answer)
        return answer(environ, start_response)

    def _answer(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == self.root:
            return self._list(environ, start_response)
        if page := re.fullmatch(f"{re.escape(self.root)}([^/]+)/", path):
            return self._page(page[1], environ, start_response)
        for dist in self.dists:
            for suffix, data in (("", dist.data), (".metadata", dist.metadata)):
                if path == unquote(dist.path) + suffix and data is not None:
                    return reply(data, "application/octet-stream")(environ, start_response)
        return reply(b"not here", "text/plain", "404 Not Found")(environ, start_response)

    def _list(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        names = sorted({*(dist.project for dist in self.dists), *self.page_extra})
        if self.html_only or JSON not in environ.get("HTTP_ACCEPT", ""):
            anchors = "\n".join(f'<a href="{name}/">{name}</a>' for name in names)
            body = f"<!DOCTYPE html><title>Simple index</title>\n{anchors}\n".encode()
            return reply(body, HTML)(environ, start_response)
        listed = {"meta": {"api-version": "1.4"}, "projects": [{"name": name} for name in names]}
        return reply(json.dumps(listed).encode(), JSON)(environ, start_response)

    def _page(self, project: str, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        page = self.page(project)
        if not page["files"] and project not in self.page_extra:
            return reply(b"not here", "text/plain", "404 Not Found")(environ, start_response)
        if self.html_only or JSON not in environ.get("HTTP_ACCEPT", ""):
            anchors = "\n".join(dist.anchor() for dist in self.dists if dist.project == project)
            body = f"<!DOCTYPE html>\n<html><body>\n{anchors}\n</body></html>\n".encode()
            kind = HTML
        else:
            body, kind = json.dumps(page).encode(), JSON
        etag = f'"{hashlib.sha256(body).hexdigest()[:20]}"'
        return reply(body, kind, etag=etag)(environ, start_response)


def reply(
    body: bytes, kind: str | None, status: str = "200 OK", etag: str | None = None, **headers: str
) -> WSGI:
    """Return a WSGI application with one response; 304 where If-None-Match has its `etag`."""

    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        sent = [(name.replace("_", "-"), value) for name, value in headers.items()]
        if kind is not None:
            sent.append(("Content-Type", kind))
        if etag is not None:
            sent.append(("ETag", etag))
            if environ.get("HTTP_IF_NONE_MATCH") == etag:
                start_response("304 Not Modified", sent)
                return []
        start_response(status, [*sent, ("Content-Length", str(len(body)))])
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]

    return application


class Gated:
    """A response in chunks, each sent when its gate opens; without `size`, of unknown length."""

    def __init__(self, *chunks: bytes, size: int | None = None, **headers: str) -> None:
        self.asked = Event()
        self.gates = [Event() for _ in chunks]
        self._chunks, self._size, self._headers = chunks, size, headers

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        self.asked.set()
        sent = [(name.replace("_", "-"), value) for name, value in self._headers.items()]
        if self._size is not None:
            sent.append(("Content-Length", str(self._size)))
        start_response("200 OK", sent)
        for gate, chunk in zip(self.gates, self._chunks, strict=True):
            gate.wait()
            yield chunk

    def open(self, count: int = 1) -> None:
        """Open the next `count` gates."""
        shut = [gate for gate in self.gates if not gate.is_set()]
        for gate in shut[:count]:
            gate.set()


class RawServer:
    """A server that calls `script` with each connection, and may send bytes that are no HTTP."""

    def __init__(self, script: Callable[[RawConnection], None]) -> None:
        self._script = script
        self.connections = 0
        self._server = StreamServer(("127.0.0.1", 0), self._handle, spawn=Pool())

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(timeout=0)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def _handle(self, connection: socket.socket, _: object) -> None:
        self.connections += 1
        with connection, contextlib.suppress(OSError):
            self._script(RawConnection(connection))


class RawConnection:
    """One connection to a `RawServer`."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection

    def request(self) -> bytes:
        """Return the head of the next request; empty where the client closed the connection."""
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            data = self._socket.recv(1)
            if not data:
                return b""
            head += data
        return head

    def send(self, *lines: str, body: bytes = b"") -> None:
        """Send a head of `lines` (without lines: no head), then `body`."""
        head = "".join(f"{line}\r\n" for line in [*lines, ""]) if lines else ""
        self._socket.sendall(head.encode() + body)
