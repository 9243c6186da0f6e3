"""Parses request heads (RFC 9112) strictly; pure functions.

A head that two parsers could read differently is refused, against request smuggling (RFC 9112 section
11.2): each line ends in CRLF, no line is folded, and there is at most one length. A field whose name
has an underscore is dropped, since a WSGI environment has the same key for the name with a hyphen.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import unquote

#: Bytes of a request line, bytes of a head, and fields of a head; larger heads are refused.
MAX_LINE, MAX_HEAD, MAX_FIELDS = 8192, 64 * 1024, 100

#: All bytes but control characters; a tab is white space.
_PLAIN = bytes({9, *range(32, 127), *range(128, 256)})
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_VERSION = re.compile(r"HTTP/1\.[0-9]")
_ORIGIN = re.compile(r"https?://([^/?#@]+)(?=[/?]|\Z)", re.IGNORECASE)
_LENGTH = re.compile(r"[0-9]{1,18}")
_WHITE = " \t"
_TOO_LARGE = "431 Request Header Fields Too Large"


class RequestRefused(ValueError):
    """A request head is malformed, ambiguous or too large."""

    def __init__(self, reason: str, status: str = "400 Bad Request") -> None:
        super().__init__(reason)
        #: The response's code and phrase.
        self.status = status


@dataclass(slots=True)
class RequestHead:
    """A parsed request head."""

    #: The bytes as sent, without the empty line.
    data: bytes
    #: The request line, for logs.
    line: str
    method: str
    target: str
    #: ``HTTP/1.1`` or ``HTTP/1.0``.
    version: str
    #: The keys of a WSGI environment (PEP 3333) that come from the head.
    environ: dict[str, str]
    #: Whether the client expects the connection to stay open.
    keeps_alive: bool
    #: Bytes of the body; None for a chunked one.
    length: int | None


def parse(head: bytes) -> RequestHead:
    """Return the parsed `head`, which is without the empty line. Raises RequestRefused."""
    lines = head.split(b"\r\n")
    if control_characters(head) != b"\r\n" * (len(lines) - 1):
        raise RequestRefused("control characters, or a line that does not end in CRLF")
    check_size(head)
    if len(lines) > MAX_FIELDS + 1:
        raise RequestRefused("too many fields", _TOO_LARGE)
    line, *fields = head.decode("latin-1").split("\r\n")
    method, target, version = _request_line(line)
    environ = _environ(fields)
    path = _origin_form(method, target, environ)
    path, _, query = path.partition("?")
    environ["REQUEST_METHOD"] = method
    environ["PATH_INFO"] = unquote(path, "latin-1") if "%" in path else path
    environ["QUERY_STRING"] = query
    environ["SERVER_PROTOCOL"] = version
    if version == "HTTP/1.1" and "HTTP_HOST" not in environ:
        raise RequestRefused("no Host field")
    length = _length(environ, method, version)
    return RequestHead(
        head, line, method, target, version, environ, _keeps_alive(environ, version), length
    )


def check_size(head: bytes) -> None:
    """Raise RequestRefused where `head`, complete or not, is too large."""
    if len(head) > MAX_LINE and b"\r\n" not in head[: MAX_LINE + 2]:
        raise RequestRefused("request line too long", "414 URI Too Long")
    if len(head) > MAX_HEAD:
        raise RequestRefused("head too large", _TOO_LARGE)


def control_characters(head: bytes) -> bytes:
    """Return the control characters of a request's or response's head, with the line ends."""
    return head.translate(None, _PLAIN)


def _request_line(line: str) -> tuple[str, str, str]:
    words = line.split(" ")
    if len(words) != 3 or "\t" in line:
        raise RequestRefused("malformed request line")
    method, target, version = words
    if not _TOKEN.fullmatch(method) or not target:
        raise RequestRefused("malformed request line")
    if not _VERSION.fullmatch(version):
        raise RequestRefused("HTTP version is not 1.x", "505 HTTP Version Not Supported")
    return method, target, "HTTP/1.0" if version == "HTTP/1.0" else "HTTP/1.1"


def _environ(fields: list[str]) -> dict[str, str]:
    environ: dict[str, str] = {}
    for field in fields:
        name, colon, value = field.partition(":")
        key = _key(name)
        if not colon:
            raise RequestRefused("a field without a colon")
        value = value.strip(_WHITE)
        if key not in environ:
            environ[key] = value
        elif key in {"HTTP_HOST", "CONTENT_LENGTH", "CONTENT_TYPE"}:
            raise RequestRefused(f"more than one {name} field")
        else:
            environ[key] += ("; " if key == "HTTP_COOKIE" else ",") + value
    environ.pop("", None)
    return environ


@lru_cache(maxsize=256)
def _key(name: str) -> str:
    """Return the environment's key for a field, "" for a field to drop. Raises RequestRefused."""
    if not _TOKEN.fullmatch(name):
        raise RequestRefused("malformed field name")
    if "_" in name:
        return ""
    key = name.upper().replace("-", "_")
    return key if key in {"CONTENT_LENGTH", "CONTENT_TYPE"} else f"HTTP_{key}"


def _origin_form(method: str, target: str, environ: dict[str, str]) -> str:
    """Return `target` as a path with its query; the host of an absolute target is the Host."""
    if target.startswith("/") or (target == "*" and method == "OPTIONS"):
        return target
    origin = _ORIGIN.match(target)
    if origin is None:
        raise RequestRefused("malformed request target")
    environ["HTTP_HOST"] = origin[1]
    path = target[origin.end() :]
    return path if path.startswith("/") else f"/{path}"


def _keeps_alive(environ: dict[str, str], version: str) -> bool:
    options = environ.get("HTTP_CONNECTION")
    if options is None:
        return version == "HTTP/1.1"
    tokens = {token.strip(_WHITE) for token in options.lower().split(",")}
    return "close" not in tokens and (version == "HTTP/1.1" or "keep-alive" in tokens)


def _length(environ: dict[str, str], method: str, version: str) -> int | None:
    coding, length = environ.get("HTTP_TRANSFER_ENCODING"), environ.get("CONTENT_LENGTH")
    if coding is not None:
        if length is not None or version == "HTTP/1.0" or coding.lower() != "chunked":
            raise RequestRefused("a Transfer-Encoding that leaves the length ambiguous")
        return None
    if length is None:
        return 0
    if not _LENGTH.fullmatch(length):
        raise RequestRefused("malformed Content-Length")
    if method == "HEAD" and int(length):
        raise RequestRefused("a HEAD request with a body")
    return int(length)
