"""The files below ``/root/pypi/+f/``: whole files and ranges, stored or downloading.

The content type is always a stream of bytes without a content coding, so that no client decodes it.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from urllib.parse import quote

import falcon
import gevent

from pytail.cache.files import Files, OpenedFile
from pytail.cache.lookup import FileLookup
from pytail.errors import DownloadInterrupted
from pytail.model import ByteRange, File, Outcome
from pytail.telemetry.access import Readable, TimedStream, UpstreamWait, count_sent_elsewhere
from pytail.web.conditional import RangeNotSatisfiable, etag_matches, requested_range
from pytail.web.middleware import STILL_VALID

#: Bytes of a file read at once.
_CHUNK = 256 * 1024
#: Maximum bytes of a body that the microcache may copy.
_MAX_REPLAYED = 256 * 1024


class FileResource:
    """One file. The URL contains a digest, so the content never changes."""

    def __init__(self, lookup: FileLookup, files: Files, accel_redirect: str = "") -> None:
        """`accel_redirect` is the nginx location that sends stored files; "": pytail sends them."""
        self._lookup, self._files = lookup, files
        self._accel_redirect = accel_redirect

    def on_get(
        self, req: falcon.Request, resp: falcon.Response, *, first: str, rest: str, filename: str
    ) -> None:
        file = self._lookup.file(f"{first}/{rest}", filename)
        _set_file_headers(resp, file)
        if self._is_not_modified(req, resp, file):
            return
        try:
            range_ = self._requested_range(req, file)
        except RangeNotSatisfiable as error:
            _refuse_range(resp, error.size)
            return
        with UpstreamWait() as wait:
            opened = self._files.open(file, range_)
            wait.counts = opened.outcome is not Outcome.HIT
        length = _length(file, opened, range_)
        if range_ is not None:
            _set_range_headers(resp, range_)
        is_stored = opened.outcome is Outcome.HIT and length is not None
        if length is not None and is_stored and self._is_for_nginx(req, range_):
            opened.stream.close()
            self._send_by_nginx(resp, file, length, is_whole=range_ is None)
        else:
            stream = TimedStream(opened.stream) if wait.counts else opened.stream
            _send_body(resp, FileBody(file.filename, stream, length), length)
            if opened.stored_at is not None and length is not None and length <= _MAX_REPLAYED:
                req.env[STILL_VALID] = self._lookup.still_stored(file, opened.stored_at)
        age = None if opened.stored_at is None else self._lookup.age(opened.stored_at)
        _set_cache_headers(resp, opened.outcome, age)

    def on_head(
        self, req: falcon.Request, resp: falcon.Response, *, first: str, rest: str, filename: str
    ) -> None:
        file = self._lookup.file(f"{first}/{rest}", filename)
        _set_file_headers(resp, file)
        if not self._is_not_modified(req, resp, file):
            age = self._lookup.stored_age(file)
            _set_cache_headers(resp, Outcome.MISS if age is None else Outcome.HIT, age)
            resp.content_length = self._files.size(file)
            # Without a stream, Falcon sends an unknown length as Content-Length 0.
            resp.stream = iter(())

    def _is_not_modified(self, req: falcon.Request, resp: falcon.Response, file: File) -> bool:
        """Return whether If-None-Match names the file, and set the status to 304 then.

        The URL determines the content, so the file need not be stored.
        """
        if not etag_matches(req.get_header("If-None-Match"), etag_of(file)):
            return False
        _set_cache_headers(resp, Outcome.HIT, self._lookup.stored_age(file))
        resp.status = falcon.HTTP_304
        return True

    def _requested_range(self, req: falcon.Request, file: File) -> ByteRange | None:
        """Return the requested range, None for the whole file. Raises RangeNotSatisfiable."""
        range_header = req.get_header("Range")
        size = None if range_header is None else self._files.size(file)
        if size is None:
            return None
        return requested_range(range_header, req.get_header("If-Range"), etag_of(file), size)

    def _is_for_nginx(self, req: falcon.Request, range_: ByteRange | None) -> bool:
        """Return whether nginx can send the stored file.

        nginx evaluates the Range header itself, so pytail sends where nginx would choose other
        bytes than `range_`. ``X-Accel-Redirect: no`` marks the second request of nginx for a file
        that was evicted before nginx opened it.
        """
        if not self._accel_redirect or req.get_header("X-Accel-Redirect") == "no":
            return False
        conditions = ["If-Match", "If-Unmodified-Since", *(["Range"] if range_ is None else [])]
        return all(req.get_header(name) is None for name in conditions)

    def _send_by_nginx(
        self, resp: falcon.Response, file: File, length: int, *, is_whole: bool
    ) -> None:
        count_sent_elsewhere(length)
        resp.set_header("X-Accel-Redirect", self._accel_redirect + quote(file.key))
        if is_whole:
            # nginx adds this header, which would stand twice.
            resp.delete_header("Accept-Ranges")


class FileBody:
    """The bytes of an opened file as a WSGI body; `close` closes the file."""

    def __init__(self, filename: str, stream: Readable, length: int | None) -> None:
        """`length` is in bytes; None: up to the end of `stream`."""
        self._filename, self._stream, self._left = filename, stream, length
        self._length, self._ready = length, b""

    def start(self) -> None:
        """Read the first bytes of a stream without a descriptor. Raises the errors of `read`."""
        if not isinstance(self._stream, io.FileIO) and self.sendable() is None:
            self._ready = self._read()

    def sendable(self) -> tuple[int, int, int] | None:
        """Return the descriptor, offset and length in bytes of the next bytes of the body.

        Of a downloading file, return the bytes downloaded so far, and wait for the first of them.
        The server sends them and reports them to `advance`. None: the rest has to be iterated.
        Raises DownloadInterrupted.
        """
        if not self._left or self._ready:
            return None
        if isinstance(self._stream, io.FileIO):
            return self._stream.fileno(), self._stream.tell(), self._left
        return self._stream.sendable(self._left) if isinstance(self._stream, TimedStream) else None

    def advance(self, count: int) -> None:
        """Skip `count` bytes that the server has sent from the descriptor."""
        assert self._left is not None
        if isinstance(self._stream, io.FileIO):
            self._stream.seek(count, os.SEEK_CUR)
        else:
            assert isinstance(self._stream, TimedStream), "other streams are iterated"
            self._stream.advance(count)
        self._left -= count

    def copy(self) -> bytes | None:
        """Return the whole body of a stored file once all of it is sent, None otherwise."""
        if self._left != 0 or not isinstance(self._stream, io.FileIO) or self._length is None:
            return None
        data = os.pread(self._stream.fileno(), self._length, self._stream.tell() - self._length)
        return data if len(data) == self._length else None

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        chunk, self._ready = self._ready or self._read(), b""
        if not chunk:
            raise StopIteration
        # Sending to a fast client never blocks, so other greenlets would not run meanwhile.
        gevent.sleep(0)
        return chunk

    def close(self) -> None:
        self._stream.close()

    def _read(self) -> bytes:
        if self._left == 0:
            return b""
        chunk = self._stream.read(_CHUNK if self._left is None else min(_CHUNK, self._left))
        if self._left is not None:
            if not chunk:
                # Content-Length is sent: only a closed connection tells the client of the error.
                raise DownloadInterrupted(
                    self._filename, "the stored file was truncated while pytail sent it"
                )
            self._left -= len(chunk)
        return chunk


def etag_of(file: File) -> str:
    """Return the strong ETag of `file`, quoted: the end of the URL, known before the download.

    A server in front of pytail can derive the same ETag from the URL.
    """
    return f'"{quote(file.key, safe="/+!")}"'


def _length(file: File, opened: OpenedFile, range_: ByteRange | None) -> int | None:
    """Return the bytes of the body, None where the size is unknown.

    Closes the stream and raises DownloadInterrupted where the file has another size than `range_`.
    """
    if range_ is None:
        return opened.size
    if range_.size == opened.size:
        return range_.stop - range_.start
    opened.stream.close()
    raise DownloadInterrupted(file.filename, f"the file has {opened.size} bytes, not {range_.size}")


def _set_file_headers(resp: falcon.Response, file: File) -> None:
    """Set the headers of every response for `file`."""
    resp.set_headers(
        {
            "Accept-Ranges": "bytes",
            "Cache-Control": "max-age=365000000, immutable, public",
            "ETag": etag_of(file),
            # An nginx in front would otherwise collect a download before sending it on.
            "X-Accel-Buffering": "no",
        }
    )
    resp.content_type = "application/octet-stream"


def _set_range_headers(resp: falcon.Response, range_: ByteRange) -> None:
    resp.status = falcon.HTTP_206
    content_range = f"bytes {range_.start}-{range_.stop - 1}/{range_.size}"
    resp.set_header("Content-Range", content_range)


def _set_cache_headers(resp: falcon.Response, outcome: Outcome, age: float | None) -> None:
    """Set X-Cache and Age; `age` is in seconds, None for a file that is not stored."""
    resp.set_header("X-Cache", outcome.value)
    resp.set_header("Age", str(int(age or 0)))


def _refuse_range(resp: falcon.Response, size: int) -> None:
    resp.status = falcon.HTTP_416
    resp.set_header("Content-Range", f"bytes */{size}")
    resp.set_header("Cache-Control", "no-store")
    _set_cache_headers(resp, Outcome.HIT, None)


def _send_body(resp: falcon.Response, body: FileBody, length: int | None) -> None:
    try:
        # Before the head is sent, an error can still become an error response.
        body.start()
    except BaseException:
        body.close()
        raise
    if length is not None:
        resp.content_length = length
    resp.stream = body
