"""The files below ``/root/pypi/+f/``, held or arriving, whole or in part.

A file is sent byte for byte as upstream has it: never compressed, always as a stream of bytes, so
that no client is tempted to decode it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import falcon
import gevent

from pytail.downloads import Downloads
from pytail.errors import TransferCut
from pytail.exchanges import Arriving, Readable, Waiting
from pytail.index import Index
from pytail.model import File, Outcome
from pytail.resources.conditions import Span, Unsatisfiable, matches, span

_PIECE = 256 * 1024


class DistributionFile:
    """One file; its URL holds a digest, so it never changes."""

    def __init__(self, index: Index, downloads: Downloads) -> None:
        self._index, self._downloads = index, downloads

    def on_get(
        self, req: falcon.Request, resp: falcon.Response, *, first: str, rest: str, filename: str
    ) -> None:
        file = self._index.file(f"{first}/{rest}", filename)
        if _head(req, resp, file):
            return
        with Waiting() as wait:
            opened = self._downloads.open(file)
            wait.counts = opened.outcome is not Outcome.HIT
        body = Body(file.filename, Arriving(opened.stream) if wait.counts else opened.stream)
        try:
            part = _part(req, resp, opened.size)
            # The first bytes before the head: an error is still an answer until then.
            body.start(part)
        except BaseException:
            body.close()
            raise
        resp.content_length = part.stop - part.start
        resp.set_header("X-Cache", opened.outcome.value)
        resp.stream = body

    def on_head(
        self, req: falcon.Request, resp: falcon.Response, *, first: str, rest: str, filename: str
    ) -> None:
        file = self._index.file(f"{first}/{rest}", filename)
        if not _head(req, resp, file):
            resp.content_length = self._downloads.size(file)
            # Given a stream, falcon does not take an unknown length for none.
            resp.stream = iter(())


class Body:
    """A part of an opened file as a WSGI body; closing it closes the file."""

    def __init__(self, filename: str, stream: Readable) -> None:
        self._filename, self._stream = filename, stream
        self._left, self._ready = 0, b""

    def start(self, part: Span) -> None:
        """Make ready to send `part`. Raises what reading its first bytes raises."""
        self._stream.seek(part.start)
        self._left = part.stop - part.start
        self._ready = self._read()

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        piece, self._ready = self._ready or self._read(), b""
        if not piece:
            raise StopIteration
        # A fast client never makes the greenlet wait; others want their turn.
        gevent.sleep(0)
        return piece

    def close(self) -> None:
        self._stream.close()

    def _read(self) -> bytes:
        if self._left == 0:
            return b""
        piece = self._stream.read(min(_PIECE, self._left))
        if not piece:
            # The head promised more: only a closed connection tells the client.
            raise TransferCut(self._filename, "the held file was truncated while it was sent")
        self._left -= len(piece)
        return piece


def _head(req: falcon.Request, resp: falcon.Response, file: File) -> bool:
    """Say what is true of every response for `file`; whether that was all, being a 304."""
    etag = etag_of(file)
    resp.set_headers(
        {
            "Accept-Ranges": "bytes",
            "Cache-Control": "max-age=365000000, immutable, public",
            "ETag": etag,
        }
    )
    resp.content_type = "application/octet-stream"
    if matches(req.get_header("If-None-Match"), etag):
        resp.status = falcon.HTTP_304
        return True
    return False


def _part(req: falcon.Request, resp: falcon.Response, size: int) -> Span:
    try:
        part = span(
            req.get_header("Range"), req.get_header("If-Range"), str(resp.get_header("ETag")), size
        )
    except Unsatisfiable:
        resp.status = falcon.HTTP_416
        resp.set_header("Content-Range", f"bytes */{size}")
        resp.set_header("Cache-Control", "no-store")
        return Span(0, 0)
    if part is None:
        return Span(0, size)
    resp.status = falcon.HTTP_206
    resp.set_header("Content-Range", f"bytes {part.start}-{part.stop - 1}/{size}")
    return part


def etag_of(file: File) -> str:
    """The strong validator of `file`, quoted: known before the file is, and the same for ever."""
    return f'"{hashlib.sha256(file.location.encode()).hexdigest()[:32]}"'
