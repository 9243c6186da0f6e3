"""An upstream with secrets in every place of a URL, which answers with URLs that have them too."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import hashlib
import io
import json
import logging
import socket
from collections.abc import Callable, Iterator
from urllib.parse import quote, quote_plus

from gevent.pool import Pool
from gevent.server import StreamServer

from pytail.telemetry import logs
from tests.support.fakeindex import wheel

DIST = wheel("demo")
#: Characters that a URL may have as they are (RFC 3986, section 3.3).
PLAIN = "!$&'()*+,;=:@"


@dataclasses.dataclass(frozen=True)
class Secrets:
    """One secret for each place of a URL."""

    userinfo: str
    path: str
    query: str
    fragment: str

    def url(self, origin: str, tail: str = "") -> str:
        """Return the URL at `origin` (with a scheme) with all secrets; `tail` ends the path."""
        scheme, _, host = origin.partition("//")
        userinfo = f"token:{quote(self.userinfo, safe='')}"
        path = f"/{quote(self.path, safe=PLAIN)}/repo{tail}"
        query, fragment = quote(self.query, safe=PLAIN), quote(self.fragment, safe=PLAIN)
        return f"{scheme}//{userinfo}@{host}{path}?X-Signature={query}#{fragment}"

    def base(self, origin: str) -> str:
        """Return the URL of an index at `origin`, which has neither query nor fragment."""
        return self.url(origin, "/python").partition("?")[0]


def forms(secret: str) -> set[bytes]:
    """Return the spellings in which `secret` could stand in an output."""
    raw = secret.encode()
    texts = {secret, quote_plus(secret), *(quote(secret, safe) for safe in ("", "/", PLAIN))}
    texts |= {json.dumps(secret)[1:-1], repr(secret)[1:-1]}
    pairs = (raw, b"token:" + raw)
    encoded = {
        coded.rstrip(b"=")
        for pair in pairs
        for coded in (base64.b64encode(pair), base64.urlsafe_b64encode(pair))
    }
    # The last digits of base64 depend on what follows.
    return {text.encode() for text in texts} | {coded[:-1] for coded in encoded}


def found_in(output: bytes, *secrets: str) -> list[str]:
    """Return those of `secrets` that stand in `output` in any spelling."""
    return [secret for secret in secrets if any(form in output for form in forms(secret))]


def _answer(status: str, body: bytes = b"", *fields: str) -> bytes:
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *fields]
    return "\r\n".join([*head, "", ""]).encode() + body


def _page(secrets: Secrets, origin: str, **more: object) -> bytes:
    url = secrets.url(origin, f"/{DIST.filename}")
    entry = {
        "filename": DIST.filename,
        "url": url,
        "hashes": {"sha256": DIST.sha256},
        "core-metadata": {"sha256": hashlib.sha256(DIST.metadata or b"").hexdigest()},
        # It is for clients, as it is, unless it lies where the index does.
        "provenance": url.replace("http:", "https:").partition("?")[0],
        "x-home": [url],
        secrets.url(origin): 1,
    }
    page = {"meta": {"api-version": "1.4"}, "name": "demo", "files": [entry], "x-mirror": url}
    return _answer(
        "200 OK",
        json.dumps(page | more).encode(),
        "Content-Type: application/vnd.pypi.simple.v1+json",
    )


def _html(secrets: Secrets, origin: str) -> bytes:
    url = secrets.url(origin, f"/{DIST.filename}")
    body = f'<!DOCTYPE html><html><body><a href="{url}">demo</a></body></html>'.encode()
    return _answer("200 OK", body, "Content-Type: text/html")


def _file(secrets: Secrets, origin: str) -> bytes:
    return _answer("200 OK", DIST.data)


def _status(status: str) -> Callable[[Secrets, str], bytes]:
    def make(secrets: Secrets, origin: str) -> bytes:
        problem = json.dumps({"detail": secrets.url(origin)}).encode()
        return _answer(f"{status} {secrets.url(origin)}", problem, f"X-Url: {secrets.url(origin)}")

    return make


def _location(form: Callable[[str], str]) -> Callable[[Secrets, str], bytes]:
    def make(secrets: Secrets, origin: str) -> bytes:
        return _answer("302 Found", b"", f"Location: {form(secrets.url(origin))}")

    return make


Maker = Callable[[Secrets, str], bytes]

#: Answers to any request, by name.
TROUBLES: dict[str, Maker] = {
    "400": _status("400"),
    "403": _status("403"),
    "404": _status("404"),
    "429": _status("429"),
    "500": _status("500"),
    "redirect": _location(lambda url: url),
    "redirect to ftp": _location(lambda url: url.replace("http:", "ftp:")),
    "redirect with backslashes": _location(lambda url: url.replace("/", "\\")),
    "redirect to no host": _location(lambda url: url.replace("127.0.0.1", "[::1")),
    "redirect to a bad port": _location(lambda url: url.replace("@127.0.0.1:", "@127.0.0.1:99")),
    "redirect with a tab": _location(lambda url: url.replace("/repo", "/\t repo")),
    "redirect without a scheme": _location(lambda url: url.partition(":")[2] + "\x7f"),
    "redirect to a path": _location(lambda url: "/" + url.split("/", 3)[3]),
    "type": lambda secrets, origin: _answer("200 OK", b"x", f"Content-Type: {secrets.url(origin)}"),
    "no HTTP": lambda secrets, origin: f"{secrets.url(origin)} is no HTTP\r\n\r\n".encode(),
    "bad chunk": lambda secrets, origin: (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/vnd.pypi.simple.v1+json\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n" + secrets.url(origin).encode() + b"\r\n"
    ),
    "broken gzip": lambda secrets, origin: _answer(
        "200 OK", secrets.url(origin).encode(), "Content-Encoding: gzip", "Content-Type: text/html"
    ),
    "bad field": lambda secrets, origin: (
        f"HTTP/1.1 200 OK\r\n {secrets.url(origin)}\r\nX\r\n\r\n".encode()
    ),
    "cut": lambda secrets, origin: b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx",
    "nothing": lambda secrets, origin: b"",
}
PAGES: dict[str, Maker] = {
    "page": _page,
    "HTML": _html,
    "page of another project": lambda secrets, origin: _page(
        secrets, origin, name=secrets.url(origin)
    ),
    "page of another version": lambda secrets, origin: _page(
        secrets, origin, meta={"api-version": secrets.url(origin)}
    ),
    **TROUBLES,
}
FILES: dict[str, Maker] = {"file": _file, **TROUBLES}


class SecretIndex:
    """An upstream that answers requests for pages and for files in one way each."""

    def __init__(self, secrets: Secrets, page: str = "page", file: str = "file") -> None:
        self.secrets, self.page, self.file = secrets, page, file
        self._server = StreamServer(("127.0.0.1", 0), self._handle, spawn=Pool())

    @contextlib.contextmanager
    def running(self) -> Iterator[str]:
        """Answer during the block, which gets the URL of the index."""
        self._server.start()
        try:
            yield self.secrets.base(self.origin)
        finally:
            self._server.stop(timeout=0)

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def _handle(self, connection: socket.socket, _: object) -> None:
        with connection, contextlib.suppress(OSError):
            head = connection.makefile("rb")
            with head:
                line = head.readline().split()
                while head.readline().strip():
                    pass
            if len(line) == 3:
                is_page = b"/simple/" in line[1]
                maker = PAGES[self.page] if is_page else FILES[self.file]
                connection.sendall(maker(self.secrets, self.origin))


@contextlib.contextmanager
def logged(form: str) -> Iterator[io.StringIO]:
    """Collect the log of pytail and urllib3, at each level, as pytail formats it."""
    out = io.StringIO()
    formatter = logs.JsonFormatter() if form == "json" else logs.TextFormatter()
    handler = logs.BatchingHandler(out, formatter)
    logging.getLogger().addHandler(handler)
    logs.log.addHandler(handler)
    loggers = [logging.getLogger(name) for name in ("pytail", "urllib3")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.DEBUG)
    try:
        yield out
    finally:
        handler.flush()
        logging.getLogger().removeHandler(handler)
        logs.log.removeHandler(handler)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
