"""The files below ``/root/pypi/+f/``: whole files and ranges, stored or downloading.

A file with a digest has an ETag from its URL and never changes. One without a digest has an ETag once it
is stored, from its time and size on disk, and is fresh until upstream has to be asked again.

The content type is always a stream of bytes without a content coding, so that no client decodes it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from urllib.parse import quote

import falcon
import gevent

from pytail.cache.files import Files, OpenedFile
from pytail.cache.lookup import FileLookup
from pytail.errors import (
    DigestMismatch,
    DownloadInterrupted,
    FileGone,
    PytailError,
    UpstreamError,
    UpstreamGarbled,
    WheelUnreadable,
)
from pytail.model import DIGEST_LENGTHS, ByteRange, File, Outcome
from pytail.telemetry.access import UpstreamWait, count_sent_elsewhere
from pytail.web.conditional import RangeNotSatisfiable, etag_matches, requested_range
from pytail.web.middleware import STILL_VALID

#: Bytes of a file read at once.
_CHUNK = 256 * 1024
#: How often a file is opened whose size is not the one that its page or a HEAD request gave.
_TRIES = 2
#: Maximum ``max-age`` in seconds of a file without a digest, as of a page.
_MAX_AGE = 600
#: Digits of a digest in an ETag.
_ETAG_DIGITS = 32
#: Maximum bytes of a body that the microcache may copy.
_MAX_REPLAYED = 256 * 1024


class FileResource:
    """One file."""

    def __init__(self, lookup: FileLookup, files: Files, accel_redirect: str = "") -> None:
        """`accel_redirect` is the nginx location that sends stored files; "": pytail sends them."""
        self._lookup, self._files = lookup, files
        self._accel_redirect = accel_redirect

    def on_get(
        self, req: falcon.Request, resp: falcon.Response, *, first: str, rest: str, filename: str
    ) -> None:
        file = self._lookup.file(f"{first}/{rest}", filename)
        etag = self._etag(file)
        if self._is_not_modified(req, resp, file, etag):
            return
        with UpstreamWait() as wait:
            try:
                opened, range_ = self._open(req, file, etag)
            except RangeNotSatisfiable as error:
                _refuse_range(resp, error.size)
                return
            wait.counts = opened.outcome is not Outcome.HIT
        try:
            self._send(req, resp, file, opened, range_)
        except BaseException:
            opened.stream.close()
            raise

    def on_head(
        self, req: falcon.Request, resp: falcon.Response, *, first: str, rest: str, filename: str
    ) -> None:
        file = self._lookup.file(f"{first}/{rest}", filename)
        etag = self._etag(file)
        if not self._is_not_modified(req, resp, file, etag):
            self._set_headers(resp, file, etag, self._lookup.stored_at(file))
            resp.content_length = self._size(file)
            # Without a stream, Falcon sends an unknown length as Content-Length 0.
            resp.stream = iter(())

    def _send(
        self,
        req: falcon.Request,
        resp: falcon.Response,
        file: File,
        opened: OpenedFile,
        range_: ByteRange | None,
    ) -> None:
        """Set headers and body to those of an opened file, which `resp` then owns."""
        length = opened.size if range_ is None else range_.stop - range_.start
        self._set_headers(resp, file, _etag_of_opened(file, opened), opened.stored_at)
        if opened.stored_at is None:
            _set_outcome(resp, opened.outcome)
        if range_ is not None:
            _set_range_headers(resp, range_)
        is_stored = opened.outcome is Outcome.HIT and length is not None
        if length is not None and is_stored and self._is_for_nginx(req, range_):
            opened.stream.close()
            self._send_by_nginx(resp, file, length, is_whole=range_ is None)
            return
        body = FileBody(file.filename, opened, length, lambda: self._files.distrust(opened))
        _send_body(resp, body, length)
        if opened.stored_at is not None and length is not None and length <= _MAX_REPLAYED:
            req.env[STILL_VALID] = self._lookup.still_stored(file, opened.stored_at)

    def _etag(self, file: File) -> str | None:
        """Return the ETag of `file`; None before a file without a digest is stored."""
        if file.has_digest:
            return etag_of(file)
        stored = self._files.open_stored(file)
        if stored is None:
            return None
        with stored:
            return _etag_of_stored(os.fstat(stored.fileno()))

    def _is_not_modified(
        self, req: falcon.Request, resp: falcon.Response, file: File, etag: str | None
    ) -> bool:
        """Return whether If-None-Match names `etag`, and set the status to 304 then.

        A file with a digest need not be stored, because its URL determines the content.
        """
        if etag is None or not etag_matches(req.get_header("If-None-Match"), etag):
            return False
        self._set_headers(resp, file, etag, self._lookup.stored_at(file))
        resp.set_header("X-Cache", Outcome.HIT.value)
        resp.status = falcon.HTTP_304
        return True

    def _open(
        self, req: falcon.Request, file: File, etag: str | None
    ) -> tuple[OpenedFile, ByteRange | None]:
        """Open `file` at the requested range; None for the whole file. Raises RangeNotSatisfiable.

        Where a stored file has another size than was known, the range is computed again. Where the
        response of upstream has, either may be wrong: a login page has a size too. Then the whole
        file is the answer, because its end is verified.
        """
        range_header, if_range = req.get_header("Range"), req.get_header("If-Range")
        size = None if range_header is None else self._size(file)
        for _ in range(_TRIES):
            range_, refused = None, None
            try:
                if size is not None:
                    range_ = requested_range(range_header, if_range, etag, size)
            except RangeNotSatisfiable as error:
                refused = error
            try:
                opened = self._files.open(file, range_)
            except UpstreamGarbled:
                if range_ is None:
                    raise
                # Upstream sends another range than asked for: its file has another size.
                break
            is_right = size is None or opened.size == size
            if opened.outcome is not Outcome.HIT and size is not None:
                # Without a size on the page, nothing proves that a range lies beyond the end.
                is_right = opened.size == (file.size or (None if refused else size))
            if is_right and refused is None and etag in (None, _etag_of_opened(file, opened)):
                return opened, range_
            opened.stream.close()
            if is_right and refused is not None:
                raise refused
            if opened.outcome is not Outcome.HIT:
                break
            size = opened.size
        return self._files.open(file), None

    def _size(self, file: File) -> int | None:
        """Return the size of `file` in bytes as far as it is known; None also where upstream fails.

        It is a hint only, unless the file is stored or downloading. Only GET tells whether upstream
        has the file: some hosts refuse HEAD, and a signed URL is for GET alone.
        """
        try:
            return self._files.size(file) or None
        except (UpstreamError, FileGone, DigestMismatch, DownloadInterrupted, WheelUnreadable):
            return None

    def _set_headers(
        self, resp: falcon.Response, file: File, etag: str | None, stored_at: float | None
    ) -> None:
        """Set the headers of every response for `file`; `stored_at` None: it is not stored."""
        age = None if stored_at is None else self._lookup.age(stored_at)
        outcome = Outcome.MISS if stored_at is None else Outcome.HIT
        if file.is_immutable:
            caching = "max-age=365000000, immutable, public"
        else:
            caching = "no-cache, public"
        if not file.has_digest and stored_at is not None:
            freshness = self._lookup.freshness(file, stored_at)
            if freshness.fresh_for >= 1:
                # Clients such as pip do not subtract Age, so max-age is the rest of the TTL.
                caching = f"max-age={min(int(freshness.fresh_for), _MAX_AGE)}, public"
            elif file.url:
                outcome = Outcome.STALE
            age = age if freshness.age is None else freshness.age
        resp.set_headers(
            {
                "Accept-Ranges": "bytes",
                "Cache-Control": caching,
                # An nginx in front would otherwise collect a download before sending it on.
                "X-Accel-Buffering": "no",
                "Age": str(int(age or 0)),
            }
        )
        if etag is not None:
            resp.set_header("ETag", etag)
        _set_outcome(resp, outcome)
        resp.content_type = "application/octet-stream"

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

    def __init__(
        self, filename: str, opened: OpenedFile, length: int | None, at_fault: Callable[[], None]
    ) -> None:
        """`length` is in bytes; None: up to the end of the file.

        `at_fault` is called where the disk cannot read the file.
        """
        self._filename, self._opened, self._stream = filename, opened, opened.stream
        self._at_fault = at_fault
        self._length, self._left, self._ready = length, length, b""

    def start(self) -> None:
        """Read the first bytes of a stream without a descriptor. Raises the errors of `read`."""
        if self._length == 0:
            # Without bytes to wait for, a download may not be verified yet.
            with self._waiting():
                self._stream.read(1)
        elif self.sendable() is None:
            self._ready = self._read()

    def sendable(self) -> tuple[int, int, int] | None:
        """Return the descriptor, offset and length in bytes of the next bytes of the body.

        Of a downloading file, return the bytes downloaded so far, and wait for the first of them.
        The server sends them and reports them to `advance`. None: the rest has to be iterated.
        Raises DownloadInterrupted.
        """
        if not self._left or self._ready:
            return None
        with self._waiting():
            return self._stream.sendable(self._left)

    def advance(self, count: int) -> None:
        """Skip `count` bytes that the server has sent from the descriptor."""
        assert self._left is not None, "a body of unknown length is iterated"
        self._stream.advance(count)
        self._left -= count

    def copy(self) -> bytes | None:
        """Return the whole body of a stored file once all of it is sent, None otherwise."""
        if self._left != 0 or self._length is None or self._opened.stored is None:
            return None
        span = self._stream.sendable(0)
        data = b"" if span is None else os.pread(span[0], self._length, span[1] - self._length)
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

    def _waiting(self) -> contextlib.AbstractContextManager[object]:
        """Count a ``with`` block as time of waiting for upstream, unless the file is stored."""
        return UpstreamWait() if self._opened.stored is None else contextlib.nullcontext()

    def _read(self) -> bytes:
        if self._left == 0:
            return b""
        try:
            with self._waiting():
                chunk = self._stream.read(_CHUNK if self._left is None else min(_CHUNK, self._left))
        except OSError as error:
            if isinstance(error, PytailError):
                raise
            self._at_fault()
            raise DownloadInterrupted(self._filename, error) from error
        if self._left is not None:
            if not chunk:
                # Content-Length is sent: only a closed connection tells the client of the error.
                raise DownloadInterrupted(
                    self._filename, "the stored file was truncated while pytail sent it"
                )
            self._left -= len(chunk)
        return chunk


def etag_of(file: File) -> str:
    """Return the strong ETag of a `file` with a digest, quoted; known before the download.

    The end of the URL, so a server in front of pytail can derive it. For core metadata a digest
    follows, because a page may give another one for the same URL.
    """
    digest = ""
    if file.is_sidecar:
        algorithm = next(name for name in DIGEST_LENGTHS if name in file.hashes)
        digest = f";{file.hashes[algorithm][:_ETAG_DIGITS]}"
    return f'"{quote(file.key, safe="/+!")}{digest}"'


def _etag_of_opened(file: File, opened: OpenedFile) -> str | None:
    """Return the ETag of the bytes of `opened`; None for a file without a digest that is not stored."""
    if file.has_digest:
        return etag_of(file)
    return None if opened.stored is None else _etag_of_stored(opened.stored)


def _etag_of_stored(status: os.stat_result) -> str:
    """Return the strong ETag of a stored file. A file that replaces it has another mtime."""
    return f'"{status.st_mtime_ns:x}-{status.st_size:x}"'


def _set_range_headers(resp: falcon.Response, range_: ByteRange) -> None:
    resp.status = falcon.HTTP_206
    content_range = f"bytes {range_.start}-{range_.stop - 1}/{range_.size}"
    resp.set_header("Content-Range", content_range)


def _set_outcome(resp: falcon.Response, outcome: Outcome) -> None:
    resp.set_header("X-Cache", outcome.value)


def _refuse_range(resp: falcon.Response, size: int) -> None:
    resp.status = falcon.HTTP_416
    resp.set_header("Content-Range", f"bytes */{size}")
    resp.set_headers({"Cache-Control": "no-store", "Accept-Ranges": "bytes"})
    resp.content_type = "application/octet-stream"
    _set_outcome(resp, Outcome.HIT)


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
