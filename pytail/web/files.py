"""The files below ``/root/pypi/+f/``, held or arriving, whole or in part.

A file is sent byte for byte as upstream has it: never compressed, always as a stream of bytes, so
that no client is tempted to decode it.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from urllib.parse import quote

import falcon
import gevent

from pytail.cache.files import Files
from pytail.cache.lookup import FileLookup
from pytail.errors import DownloadInterrupted
from pytail.model import ByteRange, File, Outcome
from pytail.telemetry.access import Readable, TimedStream, UpstreamWait, count_handed_over
from pytail.web.conditional import Unsatisfiable, matches, span
from pytail.web.middleware import STILL_VALID

_PIECE = 256 * 1024
#: Bytes of a body up to which it is worth a copy to say it again.
_REPEATED = 256 * 1024


class FileResource:
    """One file; its URL holds a digest, so it never changes."""

    def __init__(self, lookup: FileLookup, downloads: Files, accel_redirect: str = "") -> None:
        """Held files are sent by the nginx in front from its location `accel_redirect`, if any."""
        self._lookup, self._downloads = lookup, downloads
        self._accel_redirect = accel_redirect

    def on_get(
        self, req: falcon.Request, resp: falcon.Response, *, first: str, rest: str, filename: str
    ) -> None:
        file = self._lookup.file(f"{first}/{rest}", filename)
        _describe(resp, file)
        if self._is_unchanged(req, resp, file):
            return
        part = self._part(req, resp, file)
        if resp.status == falcon.HTTP_416:
            return
        with UpstreamWait() as wait:
            opened = self._downloads.open(file, part)
            wait.counts = opened.outcome is not Outcome.HIT
        stream = TimedStream(opened.stream) if wait.counts else opened.stream
        if part is None:
            length = opened.size
        elif part.size == opened.size:
            length = part.stop - part.start
        else:
            opened.stream.close()
            raise DownloadInterrupted(file.filename, f"it has {opened.size} bytes, not {part.size}")
        if opened.outcome is Outcome.HIT and length is not None and self._is_for_nginx(req, part):
            opened.stream.close()
            self._leave_to_nginx(resp, file, length, is_whole=part is None)
        else:
            _send(resp, FileBody(file.filename, stream, length), length)
            if opened.stored_at is not None and length is not None and length <= _REPEATED:
                req.env[STILL_VALID] = self._lookup.still_stored(file, opened.stored_at)
        age = None if opened.stored_at is None else self._lookup.age(opened.stored_at)
        _tell(resp, opened.outcome, age)

    def on_head(
        self, req: falcon.Request, resp: falcon.Response, *, first: str, rest: str, filename: str
    ) -> None:
        file = self._lookup.file(f"{first}/{rest}", filename)
        _describe(resp, file)
        if not self._is_unchanged(req, resp, file):
            age = self._lookup.stored_age(file)
            _tell(resp, Outcome.MISS if age is None else Outcome.HIT, age)
            resp.content_length = self._downloads.size(file)
            # Given a stream, falcon does not take an unknown length for none.
            resp.stream = iter(())

    def _is_unchanged(self, req: falcon.Request, resp: falcon.Response, file: File) -> bool:
        """Whether the client has it: then a 304 is all, held or not, as the URL says what it is."""
        if not matches(req.get_header("If-None-Match"), etag_of(file)):
            return False
        _tell(resp, Outcome.HIT, self._lookup.stored_age(file))
        resp.status = falcon.HTTP_304
        return True

    def _is_for_nginx(self, req: falcon.Request, part: ByteRange | None) -> bool:
        """Whether nginx is to send what is held: it reads the Range of the request itself.

        Not where it would understand something else by it than `part`, nor when it asks again, by
        ``X-Accel-Redirect: no``, because the file went before it was there.
        """
        if not self._accel_redirect or req.get_header("X-Accel-Redirect") == "no":
            return False
        conditions = ["If-Match", "If-Unmodified-Since", *(["Range"] if part is None else [])]
        return all(req.get_header(name) is None for name in conditions)

    def _leave_to_nginx(
        self, resp: falcon.Response, file: File, length: int, *, is_whole: bool
    ) -> None:
        count_handed_over(length)
        resp.set_header("X-Accel-Redirect", self._accel_redirect + quote(file.key))
        if is_whole:
            # nginx says it once more.
            resp.delete_header("Accept-Ranges")

    def _part(self, req: falcon.Request, resp: falcon.Response, file: File) -> ByteRange | None:
        """The part that is asked for, None for the whole; the head is made ready for it."""
        asked = req.get_header("Range"), req.get_header("If-Range")
        size = None if asked[0] is None else self._downloads.size(file)
        if size is None:
            return None
        try:
            found = span(*asked, etag_of(file), size)
        except Unsatisfiable:
            resp.status = falcon.HTTP_416
            resp.set_header("Content-Range", f"bytes */{size}")
            resp.set_header("Cache-Control", "no-store")
            _tell(resp, Outcome.HIT, None)
            return None
        if found is None:
            return None
        resp.status = falcon.HTTP_206
        resp.set_header("Content-Range", f"bytes {found.start}-{found.stop - 1}/{size}")
        return found


class FileBody:
    """What is to be sent of an opened file, as a WSGI body; closing it closes the file."""

    def __init__(self, filename: str, stream: Readable, length: int | None) -> None:
        """`length` is in bytes, None for all that `stream` gives."""
        self._filename, self._stream, self._left = filename, stream, length
        self._length, self._ready = length, b""

    def start(self) -> None:
        """Make ready to send. Raises what reading the first bytes raises."""
        if not isinstance(self._stream, io.FileIO) and self.held() is None:
            self._ready = self._read()

    def held(self) -> tuple[int, int, int] | None:
        """The descriptor, offset and length in bytes of what is to be sent.

        Of an arriving file it is what has come, as soon as there is some. Whoever sends it so tells
        by `advance`. None where the rest, if any, has to be iterated. Raises DownloadInterrupted.
        """
        if not self._left or self._ready:
            return None
        if isinstance(self._stream, io.FileIO):
            return self._stream.fileno(), self._stream.tell(), self._left
        return self._stream.span(self._left) if isinstance(self._stream, TimedStream) else None

    def advance(self, count: int) -> None:
        """Take `count` bytes of what `held` told for sent."""
        assert self._left is not None
        if isinstance(self._stream, io.FileIO):
            self._stream.seek(count, os.SEEK_CUR)
        else:
            assert isinstance(self._stream, TimedStream), "the rest is iterated"
            self._stream.advance(count)
        self._left -= count

    def copy(self) -> bytes | None:
        """The whole of it where it is held and all was sent, None otherwise."""
        if self._left != 0 or not isinstance(self._stream, io.FileIO) or self._length is None:
            return None
        data = os.pread(self._stream.fileno(), self._length, self._stream.tell() - self._length)
        return data if len(data) == self._length else None

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
        piece = self._stream.read(_PIECE if self._left is None else min(_PIECE, self._left))
        if self._left is not None:
            if not piece:
                # The head promised more: only a closed connection tells the client.
                raise DownloadInterrupted(
                    self._filename, "the held file was truncated while it was sent"
                )
            self._left -= len(piece)
        return piece


def _describe(resp: falcon.Response, file: File) -> None:
    """Say what is true of every response for `file`."""
    resp.set_headers(
        {
            "Accept-Ranges": "bytes",
            "Cache-Control": "max-age=365000000, immutable, public",
            "ETag": etag_of(file),
            # For an nginx in front: bytes that it gathers, nobody has yet.
            "X-Accel-Buffering": "no",
        }
    )
    resp.content_type = "application/octet-stream"


def _send(resp: falcon.Response, body: FileBody, length: int | None) -> None:
    try:
        # The first bytes before the head: an error is still an answer until then.
        body.start()
    except BaseException:
        body.close()
        raise
    if length is not None:
        resp.content_length = length
    resp.stream = body


def _tell(resp: falcon.Response, outcome: Outcome, age: float | None) -> None:
    """Say how the response came to be; `age` in seconds, None for a file that is not held."""
    resp.set_header("X-Cache", outcome.value)
    resp.set_header("Age", str(int(age or 0)))


def etag_of(file: File) -> str:
    """The strong validator of `file`, quoted: known before the file is, and the same for ever.

    It is the end of the URL, so that a server in front can tell it as well.
    """
    return f'"{quote(file.key, safe="/+!")}"'
