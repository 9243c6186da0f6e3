"""A file to read: stored, downloading, or passed through.

All clients of one file share one download, which continues after they have left. A file that cannot
be stored is passed through to each client, and so is a range that is far ahead of the download: a
client does not wait for bytes that it did not ask for.
"""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import gevent

from pytail.cache.core_metadata import CoreMetadata
from pytail.cache.download import Download, DownloadReader
from pytail.cache.passthrough import PassThrough, read_verified
from pytail.errors import (
    DigestMismatch,
    DownloadAbandoned,
    DownloadInterrupted,
    FileGone,
    NotStored,
    UpstreamError,
    UpstreamRefused,
    UpstreamUnreachable,
    UpstreamWithoutRanges,
)
from pytail.model import ByteRange, File, Outcome, Source
from pytail.runtime.singleflight import SingleFlight, StillRunning
from pytail.runtime.threads import off_loop
from pytail.storage.catalog import Catalog
from pytail.storage.digests import FileVerifier
from pytail.storage.quota import Quota
from pytail.storage.store import Store
from pytail.telemetry.access import for_client
from pytail.upstream.files import FileClient
from pytail.upstream.resume import ResumingSource
from pytail.urls import masked

log = logging.getLogger("pytail.cache")

Result = TypeVar("Result")
Stream: TypeAlias = "io.FileIO | DownloadReader | PassThrough | io.BytesIO"

#: Seconds to wait for the head of the response. The least patient clients time out after 10.
HEAD_WAIT = 9.0
#: Bytes ahead of a download for which waiting takes less time than a range request.
_MAX_AHEAD = 1024 * 1024
#: Maximum size in bytes of a sidecar that is passed through.
_MAX_SIDECAR = 16 * 1024 * 1024
#: How often a download is started that another process abandons, or whose file is evicted.
_TRIES = 3


@dataclass(frozen=True, slots=True)
class OpenedFile:
    """A file to read from; the caller closes `stream`."""

    stream: Stream
    #: Bytes of the whole file; None where it is unknown before the end.
    size: int | None
    outcome: Outcome = Outcome.HIT
    #: Seconds since the epoch at which a stored file was stored; None for other files.
    stored_at: float | None = None


class Files:
    """Opens files from the store or from upstream."""

    def __init__(
        self,
        catalog: Catalog,
        store: Store,
        upstream: FileClient,
        metadata: CoreMetadata,
        quota: Quota,
    ) -> None:
        self._catalog = catalog
        self._store, self._upstream, self._metadata = store, upstream, metadata
        self._quota = quota
        self._downloads: dict[str, Download] = {}
        self._starting: SingleFlight[Download | None] = SingleFlight()
        self._verifying: SingleFlight[bool] = SingleFlight()

    @property
    def downloading(self) -> int:
        """Return the number of files that this process downloads."""
        return len(self._downloads)

    def open(self, file: File, wanted: ByteRange | None = None) -> OpenedFile:
        """Open `file` at its start, or at the start of the `wanted` range.

        Raises FileGone, DigestMismatch, DownloadInterrupted or an UpstreamError.
        """
        start = 0 if wanted is None else wanted.start
        for _ in range(_TRIES):
            stored = self.open_stored(file)
            if stored is not None:
                stored.seek(start)
                found = os.fstat(stored.fileno())
                return OpenedFile(stored, found.st_size, stored_at=found.st_mtime)
            if wanted is not None and self._is_far_ahead(file, wanted):
                opened = self._pass_range(file, wanted)
                if opened is not None:
                    return opened
            try:
                opened = self._open_download(file, start)
            except DownloadAbandoned:
                continue
            except NotStored:
                break
            if opened is not None:
                return opened
        return (wanted and self._pass_range(file, wanted)) or self._pass_file(file, start)

    def fetch(self, file: File, advance: Callable[[int], object]) -> None:
        """Download `file` into the store, without a time limit.

        `advance` is called with the number of new bytes. Raises NotStored, FileGone,
        DigestMismatch, DownloadInterrupted, WheelUnreadable or an UpstreamError.
        """
        for _ in range(_TRIES):
            try:
                download = self._downloads.get(file.key) or self._started(file, wait=None)
                if download is not None:
                    download.wait(advance)
            except DownloadAbandoned:
                continue
            return
        raise DownloadAbandoned

    def open_stored(self, file: File) -> io.FileIO | None:
        """Open `file` in the store; None where it is not stored.

        A file that another program wrote is verified first, and removed where it is wrong.
        """
        stored = self._store.open(file)
        if stored is None or self._store.is_verified(stored):
            return stored
        stored.close()
        if not self._verifying.run(file.key, lambda: self._verify_stored(file)):
            return None
        return self._store.open(file)

    def size(self, file: File) -> int | None:
        """Return the size of `file` in bytes without downloading it; None where it is unknown.

        Raises FileGone or an UpstreamError.
        """
        stored = self._store.size(file)
        if stored is not None:
            return stored
        download = self._downloads.get(file.key)
        if download is not None and download.size is not None:
            return download.size
        if file.is_sidecar:
            # A download takes one request too, and the file is verified.
            opened = self.open(file)
            opened.stream.close()
            return opened.size
        if file.size is not None:
            return file.size
        return _or_gone(file, lambda: self._upstream.size(file.url))

    def _verify_stored(self, file: File) -> bool:
        """Return whether the stored file is right; remove it where it is wrong."""
        stored, verifier = self._store.open(file), FileVerifier(file)
        if stored is None:
            return False
        with stored:
            size = os.fstat(stored.fileno()).st_size
            try:
                off_loop(lambda: verifier.add_start(stored.fileno(), size))
                verifier.verify(size)
            except (DigestMismatch, DownloadInterrupted, OSError) as error:
                log.warning("removing %s, written by another program: %s", file.key, error)
            else:
                self._store.mark_verified(stored)
                log.info("verified %s, written by another program", file.key)
                return True
        off_loop(lambda: self._store.discard(file))
        return False

    def _open_download(self, file: File, start: int) -> OpenedFile | None:
        """Return a reader of the download; None where the file is stored by now.

        Raises NotStored and the errors of `open`.
        """
        download, is_first = self._downloads.get(file.key), False
        if download is None:
            is_first = file.key not in self._starting
            download = self._started(file, HEAD_WAIT)
        reader = None if download is None else download.reader()
        if download is None or reader is None:
            return None
        reader.seek(start)
        is_ours = is_first and not download.is_follower
        return OpenedFile(reader, download.size, Outcome.MISS if is_ours else Outcome.COALESCED)

    def _started(self, file: File, wait: float | None) -> Download | None:
        """Start a download, or join the start in progress. `wait` is in seconds, None: no limit."""
        try:
            start = for_client(lambda: self._start(file))
            return self._starting.run(file.key, start, wait)
        except StillRunning:
            reason = f"no response within {HEAD_WAIT:g} seconds; the request continues"
            raise UpstreamUnreachable(masked(file.url), reason) from None

    def _start(self, file: File) -> Download | None:
        """Return a download after its response head; None where another process stored the file."""

        def source_at(position: int, etag: str | None) -> Source:
            return self._source(file, position, etag)

        try:
            download = Download(file, self._store.partial(file), self._quota, source_at)
        except OSError as error:
            failure = NotStored(str(error))
            self._quota.report(failure, file.size)
            raise failure from error
        if self._store.has(file):
            download.abandon()
            return None
        try:
            download.prepare(lambda: self._upstream_size(file))
        except BaseException as error:
            download.abandon(error)
            raise
        self._downloads[file.key] = download
        gevent.spawn(self._run, download)
        return download

    def _run(self, download: Download) -> None:
        try:
            download.run()
        finally:
            # Before another greenlet runs, so that no request finds a finished download.
            del self._downloads[download.file.key]
        if download.is_stored and download.file.size is None and download.size is not None:
            self._catalog.remember_size(download.file.key, download.size)

    def _upstream_size(self, file: File) -> int | None:
        """Return the size that upstream gives for a file that another process downloads."""
        try:
            return _or_gone(file, lambda: self._upstream.size(file.url)) if file.url else None
        except (UpstreamError, FileGone):
            return None

    def _source(self, file: File, start: int = 0, etag: str | None = None) -> Source:
        """Return the bytes of `file` from `start` on."""
        if file.is_sidecar:
            return self._metadata.source(file, start)
        if not file.url:
            raise FileGone(file.filename)
        return _or_gone(file, lambda: ResumingSource.open(self._upstream, file, start, etag))

    def _is_far_ahead(self, file: File, wanted: ByteRange) -> bool:
        """Return whether a range request is faster than to wait for the download."""
        download = self._downloads.get(file.key)
        return wanted.start > _MAX_AHEAD + (0 if download is None else download.received)

    def _pass_range(self, file: File, wanted: ByteRange) -> OpenedFile | None:
        """Return the range by its own request; None where upstream does not support ranges."""
        if not file.url or file.is_sidecar:
            return None

        def ask() -> Source:
            return ResumingSource.open_range(
                self._upstream, file, wanted.start, wanted.stop, wanted.size
            )

        try:
            source = _or_gone(file, ask)
        except UpstreamWithoutRanges:
            return None
        log.info("passing through bytes %d to %d of %s", wanted.start, wanted.stop, file.key)
        stream = PassThrough(file, source, None, wanted.size)
        return OpenedFile(stream, wanted.size, Outcome.PASS)

    def _pass_file(self, file: File, start: int) -> OpenedFile:
        source = self._source(file)
        if file.is_sidecar:
            try:
                data = read_verified(file, source, _MAX_SIDECAR)
            finally:
                source.close()
            whole = io.BytesIO(data)
            whole.seek(start)
            return OpenedFile(whole, len(data), Outcome.PASS)
        size = file.size if file.size is not None else source.size
        stream = PassThrough(file, source, FileVerifier(file), size)
        stream.skip(start)
        return OpenedFile(stream, size, Outcome.PASS)


def _or_gone(file: File, ask: Callable[[], Result]) -> Result:
    """Return the result of `ask`; raise FileGone where upstream answers 404 or 410."""
    try:
        return ask()
    except UpstreamRefused as error:
        if error.status in (404, 410):
            raise FileGone(file.filename) from error
        raise
