"""Core metadata and signatures: small files beside a file, read whole before they are used.

Resolvers fail where a page promises core metadata and the response is an error. So where upstream's
own metadata is absent, refused, late or not what the page says, pytail reads it out of the stored wheel,
or out of a few ranges of the wheel upstream, or downloads the wheel where there are no ranges.
Afterwards, the page promises the digest of that metadata, or no metadata where the wheel is unreadable.
Upstream's own is not asked for again for a minute.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import time
from collections.abc import Callable
from functools import partial
from typing import TypeAlias, TypeVar

from pytail.cache.lazy_wheel import END_SIZE, Reading
from pytail.cache.links import GIVEN, LINK_ERRORS, FileLinks
from pytail.errors import (
    DigestMismatch,
    DownloadInterrupted,
    FileGone,
    NotStored,
    PytailError,
    UpstreamBusy,
    UpstreamGarbled,
    UpstreamNotConnected,
    UpstreamOffline,
    UpstreamRefused,
    UpstreamUnreachable,
    UpstreamWithoutRanges,
    WheelUnreadable,
)
from pytail.model import LARGEST_SIDECAR, File, Validators
from pytail.runtime.threads import off_loop
from pytail.runtime.timeouts import time_limit
from pytail.storage.catalog import Catalog
from pytail.storage.digests import FileVerifier
from pytail.storage.store import Store, StoredFile
from pytail.upstream.files import FileClient, Piece
from pytail.upstream.resume import ResumingSource
from pytail.urls import origin

log = logging.getLogger("pytail.cache")

Result = TypeVar("Result")
#: When, by the monotonic clock, and how.
_Failure: TypeAlias = tuple[float, PytailError]

#: Maximum number of ranges for one wheel. Most need two; a directory is read 4 MiB at a time.
_MAX_RANGES = 24
#: Bytes up to which hashing takes less time than a change to a thread.
_SMALL = 64 * 1024
#: Seconds for which upstream's own metadata is not asked for, after the wheel had it instead.
_AVOIDED_FOR = 60.0
#: Failures to remember for that.
_MAX_FAILURES = 4000
#: One of the fields that core metadata cannot lack, after lines of other fields (RFC 5322, section 2.2).
_REQUIRED_FIELD = re.compile(
    rb"(?:\xef\xbb\xbf)?(?:(?:[!-9;-~]+[ \t]*:|[ \t]+[^\s<])[^\r\n]*\r?\n)*?(?:Metadata-Version|Name)[ \t]*:",
    re.IGNORECASE,
)


class MetadataSource:
    """A `Source` of the bytes of a small file."""

    def __init__(self, data: bytes, validators: Validators | None) -> None:
        """`validators` are those of upstream, None where `data` does not come from there as it is."""
        self.size: int | None = len(data)
        self.etag: str | None = None
        #: Whether the source itself tells a complete file from one whose end is missing.
        self.is_delimited = True
        self.validators = validators
        self._data = data

    def at(self, start: int) -> MetadataSource:
        """Skip the first `start` bytes, and return the source."""
        self._data = self._data[start:]
        return self

    def read(self) -> bytes:
        """Return all bytes at the first call, then none."""
        data, self._data = self._data, b""
        return data

    def close(self) -> None:
        """Do nothing: no connection is open."""


class CoreMetadata:
    """Reads core metadata and signatures from upstream, and core metadata out of wheels."""

    def __init__(
        self,
        catalog: Catalog,
        store: Store,
        upstream: FileClient,
        wait: float = 9.0,
        links: FileLinks = GIVEN,
    ) -> None:
        """A client waits `wait` seconds; upstream's own metadata may take half of them."""
        self._catalog, self._store, self._upstream = catalog, store, upstream
        self._links, self._own_wait = links, wait / 2
        #: By key, the failures of upstream's own metadata that the wheel had.
        self._failures: dict[str, _Failure] = {}

    def source(
        self, sidecar: File, start: int = 0, *, download: Callable[[File], object]
    ) -> MetadataSource:
        """Return the bytes of `sidecar` from `start` on; `download` stores a wheel.

        Core metadata from upstream has the digest that its page promises. Metadata out of a wheel can
        have another one; then the catalog promises that from now on. Raises FileGone,
        DigestMismatch, DownloadInterrupted, WheelUnreadable or an UpstreamError.
        """
        wheel = sidecar.wheel
        if wheel is None:
            return MetadataSource(*self._from_index(sidecar)).at(start)
        failure = self._recent_failure(sidecar.key)
        if wheel.core_metadata is False:
            # Without the digest of the page, nothing tells whether upstream's own is right.
            error = UpstreamGarbled(sidecar.url, "the page no longer promises this core metadata")
            failure = time.monotonic(), error
        if failure is None:
            try:
                return MetadataSource(*self._in_time(sidecar)).at(start)
            except (*LINK_ERRORS, DigestMismatch, DownloadInterrupted) as error:
                failure = time.monotonic(), error.with_traceback(None)
        data = self._instead(wheel, failure[1], download)
        # Only now: where the wheel fails too, upstream's own is asked for again.
        if len(self._failures) >= _MAX_FAILURES:
            self._failures.clear()
        self._failures[sidecar.key] = failure
        return MetadataSource(data, None).at(start)

    def _recent_failure(self, key: str) -> _Failure | None:
        """Forget and return how upstream's own metadata failed; None where that is a minute ago."""
        failure = self._failures.pop(key, None)
        is_recent = failure is not None and time.monotonic() - failure[0] < _AVOIDED_FOR
        return failure if is_recent else None

    def _in_time(self, sidecar: File) -> tuple[bytes, Validators | None]:
        """Return as `_from_index`, while the client has time left for the wheel."""
        reason = f"no core metadata within {self._own_wait:g} seconds"
        with time_limit(self._own_wait, UpstreamUnreachable(sidecar.url, reason)):
            data, validators = self._from_index(sidecar)
        # A digest tells core metadata from a login page; else its fields do.
        if not sidecar.hashes and not _REQUIRED_FIELD.match(data[:_SMALL]):
            raise UpstreamGarbled(sidecar.url, "sends no core metadata")
        return data, validators

    def _from_index(self, sidecar: File) -> tuple[bytes, Validators | None]:
        """Return the bytes that upstream has at the URL of `sidecar`, verified, and their validators."""
        if not sidecar.url:
            raise FileGone(sidecar.filename)
        try:
            source = ResumingSource.open(self._upstream, sidecar, follow=self._links.follow)
        except UpstreamRefused as error:
            raise _gone(sidecar, error) from error
        chunks, left = [], LARGEST_SIDECAR
        with contextlib.closing(source):
            if source.size is None or source.size <= left:
                while left >= 0 and (chunk := source.read()):
                    chunks.append(chunk)
                    left -= len(chunk)
            if left < 0 or (source.size or 0) > LARGEST_SIDECAR:
                found, most = f"over {LARGEST_SIDECAR}", f"{LARGEST_SIDECAR} at most"
                raise DigestMismatch(sidecar.filename, "bytes", most, found)
        data, verifier = b"".join(chunks), FileVerifier(sidecar)
        _hashed(lambda: verifier.add(data), len(data))
        verifier.verify(sidecar.size if sidecar.size is not None else source.size)
        return data, source.validators

    def _instead(
        self, wheel: File, error: PytailError, download: Callable[[File], object]
    ) -> bytes:
        """Return the core metadata out of `wheel`, because of the `error` of upstream's own.

        Raises `error` where the wheel cannot be asked for either.
        """
        try:
            data = self._from_store(wheel)
            if data is None:
                if not wheel.url or _is_no_answer(error, wheel.url):
                    # Another request to the same host would end in the same way.
                    raise error
                data = self._from_upstream(wheel, download)
        except WheelUnreadable as unreadable:
            if isinstance(error, UpstreamUnreachable):
                # Upstream's own metadata may be right, and is asked for again.
                raise error from unreadable
            self._withdraw(wheel, unreadable)
            raise
        except LINK_ERRORS as failure:
            if isinstance(error, DigestMismatch):
                # The promise is wrong for sure. Without it, clients read the wheel themselves.
                self._withdraw(wheel, error)
            if failure is error or isinstance(error, FileGone):
                raise
            raise error from failure
        digest = _hashed(lambda: hashlib.sha256(data).hexdigest(), len(data))
        self._catalog.set_core_metadata(wheel, digest)
        log.info("read the core metadata out of %s, %d bytes: %s", wheel.key, len(data), error)
        return data

    def _withdraw(self, wheel: File, reason: PytailError) -> None:
        log.warning("%s; the page no longer promises core metadata", reason)
        self._catalog.set_core_metadata(wheel, None)

    def _from_store(self, wheel: File) -> bytes | None:
        opened = self._store.open(wheel)
        if opened is None:
            return None
        with opened:
            try:
                return off_loop(lambda: _read_stored(opened, wheel.filename))
            except OSError as error:
                log.warning(
                    "cannot read the stored wheel %s, asking upstream: %s", wheel.key, error
                )
                return None

    def _from_upstream(self, wheel: File, download: Callable[[File], object]) -> bytes:
        """Return the core metadata out of ranges of the wheel upstream, or else out of all of it."""
        try:
            return self._read_ranges(wheel)
        except UpstreamWithoutRanges:
            pass
        except UpstreamRefused as failure:
            if failure.status not in (416, 501):
                raise _gone(wheel, failure) from failure
        # Without core metadata, a client would request the whole wheel too.
        try:
            download(wheel)
        except (NotStored, DigestMismatch, DownloadInterrupted) as failure:
            raise WheelUnreadable(wheel.filename, failure) from failure
        data = self._from_store(wheel)
        if data is None:
            raise WheelUnreadable(wheel.filename, "the wheel cannot be stored")
        return data

    def _read_ranges(self, wheel: File) -> bytes:
        # The size on the page may be wrong or missing; each range tells the right one.
        hint = wheel.size or END_SIZE
        piece = self._piece(wheel, max(0, hint - END_SIZE), hint)
        reading, size = Reading(piece.size, wheel.filename), piece.size
        for _ in range(_MAX_RANGES):
            if reading.needed is None:
                return reading.metadata
            start, stop = reading.needed
            data = piece.bytes_of(start, stop)
            if data is None:
                piece = self._piece(wheel, start, stop)
                data = piece.bytes_of(start, stop)
            if data is None or piece.size != size:
                raise UpstreamGarbled(wheel.url, "sends ranges of files of different sizes")
            off_loop(partial(reading.add, data))
        raise WheelUnreadable(wheel.filename, f"more than {_MAX_RANGES} ranges are needed")

    def _piece(self, wheel: File, start: int, stop: int) -> Piece:
        try:
            return self._links.follow(
                wheel, lambda url: self._upstream.read_range(url, start, stop)
            )
        except UpstreamRefused as error:
            if error.status != 416 or start == 0:
                raise
            # The wheel ends before `start`.
            return self._links.follow(
                wheel, lambda url: self._upstream.read_range(url, 0, END_SIZE)
            )


def _read_stored(opened: StoredFile, filename: str) -> bytes:
    """Return the core metadata of an open wheel. Raises WheelUnreadable or OSError."""
    reading = Reading(os.fstat(opened.fileno()).st_size, filename)
    while reading.needed is not None:
        start, stop = reading.needed
        reading.add(os.pread(opened.fileno(), stop - start, start))
    return reading.metadata


def _is_no_answer(error: PytailError, url: str) -> bool:
    """Return whether `error` shows that no request can be sent to `url`."""
    if isinstance(error, UpstreamNotConnected):
        # The page, which was asked for a new link, may be at another host.
        return origin(error.url) == origin(url)
    return isinstance(error, (UpstreamBusy, UpstreamOffline))


def _gone(file: File, error: UpstreamRefused) -> PytailError:
    """Return FileGone where upstream has no such file, else `error`."""
    return FileGone(file.filename) if error.is_missing else error


def _hashed(work: Callable[[], Result], size: int) -> Result:
    """Return the result of `work`, which hashes `size` bytes; a large file is hashed in a thread."""
    return work() if size <= _SMALL else off_loop(work)
