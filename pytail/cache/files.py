"""A file to read: stored, downloading, or passed through.

All clients of one file share one download, which continues after they have left. A file that cannot
be stored is passed through to each client, and so is a range that is far ahead of the download: a
client does not wait for bytes that it did not ask for.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import gevent
from gevent.threadpool import ThreadPool

from pytail.cache import former_keys
from pytail.cache.core_metadata import CoreMetadata
from pytail.cache.download import Download, DownloadState
from pytail.cache.fetch import Feeder
from pytail.cache.file_freshness import FileFreshness
from pytail.cache.links import GIVEN, LINK_ERRORS, FileLinks, is_missing
from pytail.cache.passthrough import PassThrough, client_wait, pass_through
from pytail.errors import (
    DigestMismatch,
    DownloadAbandoned,
    DownloadInterrupted,
    FileGone,
    NotStored,
    PytailError,
    UpstreamRefused,
    UpstreamWithoutRanges,
)
from pytail.model import ByteRange, File, FileStream, Outcome, Source
from pytail.runtime.singleflight import SingleFlight
from pytail.runtime.threads import off_loop
from pytail.storage.catalog import Catalog
from pytail.storage.digests import FileVerifier
from pytail.storage.quota import Quota
from pytail.storage.store import Store, StoredFile
from pytail.telemetry.access import for_client
from pytail.upstream.files import FileClient
from pytail.upstream.resume import ResumingSource

log = logging.getLogger("pytail.cache")

Result = TypeVar("Result")

#: Seconds that a client waits for a response to begin. The least patient clients time out after 10.
CLIENT_WAIT = 9.0
#: Bytes ahead of a download for which waiting takes less time than a range request.
_MAX_AHEAD = 1024 * 1024
#: How often a download is started that another process abandons, or whose file is evicted.
_TRIES = 3
#: Files that are synced to the disk at the same time.
_SYNCS = 8


@dataclass(frozen=True, slots=True)
class OpenedFile:
    """A file to read from; the caller closes `stream`."""

    stream: FileStream
    #: Bytes of the whole file; None where it is unknown before the end.
    size: int | None
    outcome: Outcome = Outcome.HIT
    #: The status of a stored file; None for other files.
    stored: os.stat_result | None = None

    @property
    def stored_at(self) -> float | None:
        """Seconds since the epoch at which a stored file was stored; None for other files."""
        return None if self.stored is None else self.stored.st_mtime


class Files:
    """Opens files from the store or from upstream."""

    def __init__(
        self,
        catalog: Catalog,
        store: Store,
        upstream: FileClient,
        metadata: CoreMetadata,
        quota: Quota,
        wait: float = CLIENT_WAIT,
        *,
        freshness: FileFreshness,
        links: FileLinks = GIVEN,
    ) -> None:
        """`wait` is how many seconds a client waits for the first byte of a file."""
        self._catalog, self._freshness = catalog, freshness
        self._store, self._upstream, self._metadata = store, upstream, metadata
        self._quota, self._wait, self._links = quota, wait, links
        self._downloads: dict[str, Download] = {}
        self._verifying: SingleFlight[bool] = SingleFlight()
        # Threads of their own: a slow disk must not keep pages from being parsed.
        self._syncs = ThreadPool(_SYNCS)

    def close(self) -> None:
        """Wait for the files that are synced now, and end the threads for that."""
        self._syncs.kill()

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
                return _opened(stored, start)
            if wanted is not None and self._is_far_ahead(file, wanted):
                opened = self._pass_range(file, wanted)
                if opened is not None:
                    return opened
            if self._is_lost(file):
                break
            try:
                return self._open_download(file, start)
            except DownloadAbandoned:
                continue
            except NotStored:
                break
            except (*LINK_ERRORS, DigestMismatch, DownloadInterrupted):
                # A stored file that upstream has replaced is better than none.
                stored = None if file.has_digest else self._store.open(file)
                if stored is None:
                    raise
                return _opened(stored, start)
        return (wanted and self._pass_range(file, wanted)) or self._pass_file(file, start)

    def fetch(self, file: File, advance: Callable[[int], object]) -> None:
        """Download `file` into the store, without a time limit.

        `advance` is called with the number of new bytes. Raises NotStored, FileGone,
        DigestMismatch, DownloadInterrupted, WheelUnreadable or an UpstreamError.
        """
        for _ in range(_TRIES):
            try:
                stored = self.open_stored(file)
                if stored is None:
                    self._download(file).wait(advance)
                else:
                    stored.close()
            except DownloadAbandoned:
                continue
            return
        raise DownloadAbandoned

    def open_stored(self, file: File) -> StoredFile | None:
        """Open `file` in the store; None where it is not stored, or upstream has another file by now.

        A file that another program wrote is verified first, and removed where it is wrong.
        """
        if not file.has_digest and file.key in self._downloads:
            # The stored file is outdated, or is just replaced.
            return None
        return self._open_current(file, adopts=True)

    def distrust(self, opened: OpenedFile) -> None:
        """Have a stored file that could not be read verified before its next use, or fetched again."""
        if isinstance(opened.stream, StoredFile):
            self._store.distrust(opened.stream)

    def _open_current(self, file: File, *, adopts: bool = False) -> StoredFile | None:
        """Return as `open_stored`; with `adopts`, also a file that is stored under a former key."""
        stored = self._store.open(file)
        if stored is None and adopts and former_keys.adopt(self._store, file):
            stored = self._store.open(file)
        if stored is not None and not self._is_verified(stored, file):
            stored.close()
            if not self._verifying.run(file.key, lambda: self._verify_stored(file)):
                return None
            stored = self._store.open(file)
        if stored is None or self._freshness.is_current(file, stored):
            return stored
        stored.close()
        return None

    def _is_verified(self, stored: StoredFile, file: File) -> bool:
        """Return whether the stored file was verified, also where its page has another size."""
        if self._store.is_verified(stored, file):
            return True
        size = self._catalog.verified_size(file.key)
        return size is not None and self._store.is_verified(
            stored, replace(file, verified_size=size)
        )

    def _is_stored(self, file: File) -> bool:
        """Return whether another process has stored the file, as upstream has it."""
        if file.has_digest:
            stored = self._open_current(file)
        else:
            # The size may be that of the version which upstream has replaced.
            stored = self._store.open(replace(file, size=None, verified_size=None))
        if stored is None:
            return False
        with stored:
            stored_at = os.fstat(stored.fileno()).st_mtime
        return file.has_digest or self._freshness.of(file, stored_at).fresh_for > 0

    def size(self, file: File) -> int | None:
        """Return the size of `file` in bytes without downloading it; None where it is unknown.

        The size of a file that is not stored is a hint, from its page or from a HEAD request: only
        the response that carries the bytes tells for sure.
        """
        stored = self._store.size(file)
        if stored is not None:
            return stored
        download = self._downloads.get(file.key)
        if download is not None and download.size is not None:
            return download.size
        if file.is_sidecar:
            return self._sidecar_size(file)
        if file.size or not file.url:
            return file.size or None
        try:
            with client_wait(self._wait, file):
                # A length of 0 is that of the response to HEAD, not that of a file.
                return self._links.follow(file, self._upstream.size, is_missing) or None
        except LINK_ERRORS as error:
            # Many file hosts refuse HEAD and answer GET.
            log.debug("upstream gives no size of %s: %s", file.key, error)
            return None

    def _sidecar_size(self, file: File) -> int | None:
        # A download takes one request too, and the file is verified.
        opened = self.open(file)
        opened.stream.close()
        return opened.size

    def _verify_stored(self, file: File) -> bool:
        """Return whether the stored file is right; remove it where it is wrong."""
        stored, verifier = self._store.open(file), FileVerifier(file)
        if stored is None:
            return False
        with stored:
            found = os.fstat(stored.fileno())
            try:
                off_loop(lambda: verifier.add_start(stored.fileno(), found.st_size))
                verifier.verify(found.st_size)
            except OSError as error:
                if not isinstance(error, PytailError):
                    # The bytes may be right: a disk that cannot be read is no reason to remove them.
                    log.error("cannot read a stored file, asking upstream: %s: %s", file.key, error)
                    return False
                log.warning("removing %s, written by another program: %s", file.key, error)
            except DigestMismatch as error:
                log.warning("removing %s, written by another program: %s", file.key, error)
            else:
                if verifier.has_digest and found.st_size != file.size:
                    self._catalog.remember_size(file.key, found.st_size)
                self._store.mark_verified(stored)
                log.info("verified %s, written by another program", file.key)
                return True
        off_loop(lambda: self._store.discard(file, found))
        return False

    def _open_download(self, file: File, start: int) -> OpenedFile:
        """Return a reader of the download of `file`, in progress or new.

        Raises NotStored and the errors of `open`.
        """
        is_first = file.key not in self._downloads
        download = self._download(file)
        reader = download.reader(self._wait)
        reader.seek(start)
        is_ours = is_first and not download.is_follower
        return OpenedFile(reader, download.size, Outcome.MISS if is_ours else Outcome.COALESCED)

    def _download(self, file: File) -> Download:
        """Return the download of `file` in progress, or start one, which outlives its clients."""
        known = self._downloads.get(file.key)
        if known is not None:
            return known

        def source_at(position: int, etag: str | None) -> Source:
            source = self._source(file, position, etag)
            if source.validators is not None:
                self._freshness.note_download(file, source.validators)
            return source

        def pass_rest(position: int, descriptor: int, received: int) -> PassThrough:
            return self._pass_rest(file, position, descriptor, received)

        download = self._downloads[file.key] = Download(file, pass_rest)
        feeder = Feeder(download, self._store, self._quota, source_at, self._syncs, self._is_stored)

        def end() -> None:
            # Before another greenlet runs, so that no request finds a finished download.
            del self._downloads[file.key]

        def run() -> None:
            feeder.run(end)
            if download.is_wrong:
                self._links.distrust(file)
            is_stored = download.state is DownloadState.STORED
            stored_at = self._store.stored_at(file) if is_stored else None
            self._freshness.note_end(file, stored_at, download.received)
            if is_stored and file.has_digest and download.size != file.size:
                self._catalog.remember_size(file.key, download.received)

        gevent.spawn(for_client(run))
        return download

    def _pass_rest(self, file: File, position: int, descriptor: int, received: int) -> PassThrough:
        """Return the rest of a file whose first `received` bytes an open file has.

        Raises DownloadInterrupted.
        """
        verifier = FileVerifier(file)
        try:
            if verifier.has_digest and descriptor >= 0:
                off_loop(lambda: verifier.add_start(descriptor, min(position, received)))
            elif position > 0:
                # Upstream may have another file by now, and the reader has bytes of this one.
                raise DownloadInterrupted(file.filename, "the file cannot be stored")
            with client_wait(self._wait, file):
                return pass_through(
                    file, lambda at, etag: self._source(file, at, etag), position, verifier=verifier
                )
        except (PytailError, OSError) as error:
            raise DownloadInterrupted(file.filename, error) from error

    def _source(self, file: File, start: int = 0, etag: str | None = None) -> Source:
        """Return the bytes of `file` from `start` on."""
        if file.is_sidecar:
            return self._metadata.source(
                file, start, download=lambda wheel: self.fetch(wheel, lambda _: None)
            )
        if not file.url:
            raise FileGone(file.filename)

        def ask() -> Source:
            return ResumingSource.open(self._upstream, file, start, etag, follow=self._links.follow)

        return _or_gone(file, ask)

    def _is_lost(self, file: File) -> bool:
        """Return whether `file` is to be requested beside a download that hangs.

        That is where its clients have left, and its host sent nothing since: the host may have
        recovered, and have forgotten the request.
        """
        download = self._downloads.get(file.key)
        if download is None or download.state > DownloadState.STARTING or download.readers:
            return False
        age = time.monotonic() - download.started
        return bool(file.url) and self._upstream.is_lost(file.url, age)

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
                self._upstream,
                file,
                wanted.start,
                wanted.stop,
                wanted.size,
                follow=self._links.follow,
            )

        try:
            with client_wait(self._wait, file):
                source = _or_gone(file, ask)
        except UpstreamWithoutRanges:
            return None
        log.info("passing through bytes %d to %d of %s", wanted.start, wanted.stop, file.key)
        stream = PassThrough(file, source, None, wanted.size)
        return OpenedFile(stream, wanted.size, Outcome.PASS)

    def _pass_file(self, file: File, start: int) -> OpenedFile:
        """Return the bytes of `file` from `start` on, which cannot be stored."""
        size: int | None = None

        def source_at(position: int, etag: str | None) -> Source:
            nonlocal size
            source = self._source(file, position, etag)
            size = source.size
            return source

        with client_wait(self._wait, file):
            if file.is_sidecar:
                # All bytes are in memory, and verified.
                source = self._source(file, start)
                stream = PassThrough(file, source, None, source.size)
                return OpenedFile(stream, source.size, Outcome.PASS)
            return OpenedFile(pass_through(file, source_at, start), size, Outcome.PASS)


def _opened(stored: StoredFile, start: int) -> OpenedFile:
    stored.seek(start)
    found = os.fstat(stored.fileno())
    return OpenedFile(stored, found.st_size, stored=found)


def _or_gone(file: File, ask: Callable[[], Result]) -> Result:
    """Return the result of `ask`. Raises FileGone where upstream has no such file."""
    try:
        return ask()
    except UpstreamRefused as error:
        if error.is_missing:
            raise FileGone(file.filename) from error
        raise
