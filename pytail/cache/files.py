"""The files that can be had: held ones from the store, others from upstream.

One fetch serves all who ask for a file while it arrives, and outlives them. What the cache directory
takes no more of goes to each client straight from upstream, and so does a part of a file that is far
ahead of what has come: nobody waits for bytes that were not asked for.
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
from pytail.cache.passthrough import PassThrough, small
from pytail.errors import (
    DigestMismatch,
    DownloadAbandoned,
    DownloadInterrupted,
    FileGone,
    NotStored,
    UpstreamError,
    UpstreamOffline,
    UpstreamRefused,
    UpstreamUnreachable,
    UpstreamWithoutRanges,
)
from pytail.model import File, Outcome, Source
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

#: Seconds for which a client waits for upstream's first word; the least patient wait for ten.
PATIENCE = 9.0
#: Bytes ahead of what has come for which waiting is shorter than asking upstream apart.
_NEAR = 1024 * 1024
#: Bytes of a file beside another, at most, where it is passed on.
_MOST_BESIDE = 16 * 1024 * 1024
#: How often a file is asked for anew that another process gives up, or removes.
_TRIES = 3


@dataclass(frozen=True, slots=True)
class FileRange:
    """The bytes from `start` to before `stop` of a file of `size` bytes."""

    start: int
    stop: int
    size: int


@dataclass(frozen=True, slots=True)
class OpenedFile:
    """A file to read from; closing `stream` is the caller's."""

    #: Held, arriving, or on its way to this client only.
    stream: Stream
    #: Bytes of the whole file; None where nobody says before its end.
    size: int | None
    outcome: Outcome = Outcome.HIT
    #: Seconds since the epoch, when a held one came; None for others.
    stored_at: float | None = None


class Files:
    """The files that can be had: held ones from the store, others from upstream."""

    def __init__(
        self,
        catalog: Catalog,
        store: Store,
        upstream: FileClient,
        metadata: CoreMetadata,
        bounds: Quota,
    ) -> None:
        self._catalog = catalog
        self._store, self._upstream, self._metadata = store, upstream, metadata
        self._bounds = bounds
        self._arrivals: dict[str, Download] = {}
        self._starts: SingleFlight[Download | None] = SingleFlight()
        self._verdicts: SingleFlight[bool] = SingleFlight()

    @property
    def downloading(self) -> int:
        """The files that are arriving in this process."""
        return len(self._arrivals)

    def open(self, file: File, part: FileRange | None = None) -> OpenedFile:
        """`file`, or a `part` of it, to be read from its start on.

        Raises FileGone, DigestMismatch, DownloadInterrupted or an UpstreamError.
        """
        start = 0 if part is None else part.start
        for _ in range(_TRIES):
            held = self.open_stored(file)
            if held is not None:
                held.seek(start)
                found = os.fstat(held.fileno())
                return OpenedFile(held, found.st_size, stored_at=found.st_mtime)
            if part is not None and self._is_far(file, part):
                apart = self._apart(file, part)
                if apart is not None:
                    return apart
            try:
                opened = self._arriving(file, start)
            except DownloadAbandoned:
                continue
            except NotStored:
                break
            if opened is not None:
                return opened
        return (part and self._apart(file, part)) or self._passing(file, start)

    def fetch(self, file: File, advance: Callable[[int], object]) -> None:
        """Have `file` held, however long that takes; `advance` is called with the bytes that come.

        Raises NotStored where it cannot be, FileGone, DigestMismatch, DownloadInterrupted, WheelUnreadable or
        an UpstreamError.
        """
        for _ in range(_TRIES):
            try:
                arrival = self._arrivals.get(file.key) or self._begun(file, patience=None)
                if arrival is not None:
                    arrival.wait(advance)
            except DownloadAbandoned:
                continue
            return
        raise DownloadAbandoned

    def open_stored(self, file: File) -> io.FileIO | None:
        """`file` open where it is held and right, else None; what someone else put there is verified first."""
        held = self._store.open(file)
        if held is None or self._store.is_verified(held):
            return held
        held.close()
        if not self._verdicts.run(file.key, lambda: self._is_right(file)):
            return None
        return self._store.open(file)

    def size(self, file: File) -> int | None:
        """The size of `file` in bytes without fetching it, None when nobody says.

        Raises FileGone or an UpstreamError.
        """
        held = self._store.size(file)
        if held is not None:
            return held
        arrival = self._arrivals.get(file.key)
        if arrival is not None and arrival.size is not None:
            return arrival.size
        if file.is_sidecar:
            # Fetching it costs no more than asking, and tells that it is right.
            opened = self.open(file)
            opened.stream.close()
            return opened.size
        if file.size is not None:
            return file.size
        return _or_gone(file, lambda: self._upstream.size(file.url))

    def _is_right(self, file: File) -> bool:
        held, check = self._store.open(file), FileVerifier(file)
        if held is None:
            return False
        with held:
            size = os.fstat(held.fileno()).st_size
            try:
                off_loop(lambda: check.add_start(held.fileno(), size))
                check.verify(size)
            except (DigestMismatch, DownloadInterrupted, OSError) as error:
                log.warning("removing %s, which someone else put there: %s", file.key, error)
            else:
                self._store.mark_verified(held)
                log.info("%s was there already and is right", file.key)
                return True
        off_loop(lambda: self._store.discard(file))
        return False

    def _arriving(self, file: File, start: int) -> OpenedFile | None:
        """`file` from `start` on at the tail of its fetch, None when it is held by now. Raises also NotStored."""
        arrival, is_first = self._arrivals.get(file.key), False
        if arrival is None:
            is_first = file.key not in self._starts
            arrival = self._begun(file, PATIENCE)
        tail = None if arrival is None else arrival.reader()
        if arrival is None or tail is None:
            return None
        tail.seek(start)
        is_ours = is_first and not arrival.is_follower
        return OpenedFile(tail, arrival.size, Outcome.MISS if is_ours else Outcome.COALESCED)

    def _begun(self, file: File, patience: float | None) -> Download | None:
        try:
            start = for_client(lambda: self._start(file))
            return self._starts.run(file.key, start, patience)
        except StillRunning:
            reason = f"no answer within {PATIENCE:g} seconds; it is still waited for"
            raise UpstreamUnreachable(masked(file.url), reason) from None

    def _start(self, file: File) -> Download | None:
        """A fetch of `file` that has its first answer, None when another process made it held."""

        def ask(position: int, etag: str | None) -> Source:
            return self._source(file, position, etag)

        try:
            arrival = Download(file, self._store.partial(file), self._bounds, ask)
        except OSError as error:
            trouble = NotStored(str(error))
            self._bounds.report(trouble, file.size)
            raise trouble from error
        if self._store.has(file):
            arrival.abandon()
            return None
        try:
            arrival.prepare(lambda: self._size_elsewhere(file))
        except BaseException as error:
            arrival.abandon(error)
            raise
        self._arrivals[file.key] = arrival
        gevent.spawn(self._run, arrival)
        return arrival

    def _run(self, arrival: Download) -> None:
        try:
            arrival.run()
        finally:
            # Before any other greenlet runs: whoever asks next must not find what is over.
            del self._arrivals[arrival.file.key]
        if arrival.is_stored and arrival.file.size is None and arrival.size is not None:
            self._catalog.remember_size(arrival.file.key, arrival.size)

    def _size_elsewhere(self, file: File) -> int | None:
        """The size of a file that another process is fetching."""
        try:
            return _or_gone(file, lambda: self._upstream.size(file.url)) if file.url else None
        except (UpstreamError, FileGone):
            return None

    def _source(self, file: File, start: int = 0, etag: str | None = None) -> Source:
        try:
            if file.url:
                return _or_gone(
                    file, lambda: ResumingSource.open(self._upstream, file, start, etag)
                )
        except (FileGone, UpstreamOffline):
            if file.wheel is None:
                raise
        if file.wheel is None:
            raise FileGone(file.filename)
        return self._metadata.source_of(file.wheel)

    def _is_far(self, file: File, part: FileRange) -> bool:
        """Whether waiting until `part` has come is longer than asking for it apart."""
        arrival = self._arrivals.get(file.key)
        return part.start > _NEAR + (0 if arrival is None else arrival.received)

    def _apart(self, file: File, part: FileRange) -> OpenedFile | None:
        """`part` by a request of its own, None where upstream sends only the whole."""
        if not file.url or file.is_sidecar:
            return None

        def ask() -> Source:
            return ResumingSource.open_range(self._upstream, file, part.start, part.stop, part.size)

        try:
            source = _or_gone(file, ask)
        except UpstreamWithoutRanges:
            return None
        log.info("passing on bytes %d to %d of %s", part.start, part.stop, file.key)
        return OpenedFile(PassThrough(file, source, None, part.size), part.size, Outcome.PASS)

    def _passing(self, file: File, start: int) -> OpenedFile:
        source = self._source(file)
        if file.is_sidecar:
            try:
                data = small(file, source, _MOST_BESIDE)
            finally:
                source.close()
            whole = io.BytesIO(data)
            whole.seek(start)
            return OpenedFile(whole, len(data), Outcome.PASS)
        size = file.size if file.size is not None else source.size
        passing = PassThrough(file, source, FileVerifier(file), size)
        passing.skip(start)
        return OpenedFile(passing, size, Outcome.PASS)


def _or_gone(file: File, ask: Callable[[], Result]) -> Result:
    try:
        return ask()
    except UpstreamRefused as error:
        if error.status in (404, 410):
            raise FileGone(file.filename) from error
        raise
