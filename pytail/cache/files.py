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

from pytail.cache.core_metadata import Metadata
from pytail.cache.download import Arrival, Tail
from pytail.cache.passthrough import Passing, small
from pytail.errors import (
    DigestMismatch,
    FileGone,
    GivenUp,
    NotKept,
    TransferCut,
    UpstreamError,
    UpstreamOffline,
    UpstreamRefused,
    UpstreamUnreachable,
    UpstreamWithoutRanges,
)
from pytail.model import File, Outcome
from pytail.runtime.singleflight import SingleFlight, StillFlying
from pytail.runtime.threads import off_hub
from pytail.storage.catalog import Catalog
from pytail.storage.digests import Check
from pytail.storage.quota import Bounds
from pytail.storage.store import Store
from pytail.telemetry.access import for_client
from pytail.upstream.client import Upstream
from pytail.upstream.resume import ResumingTransfer, Source
from pytail.urls import masked

log = logging.getLogger("pytail.cache")

Answer = TypeVar("Answer")
Stream: TypeAlias = "io.FileIO | Tail | Passing | io.BytesIO"

#: Seconds for which a client waits for upstream's first word; the least patient wait for ten.
PATIENCE = 9.0
#: Bytes ahead of what has come for which waiting is shorter than asking upstream apart.
_NEAR = 1024 * 1024
#: Bytes of a file beside another, at most, where it is passed on.
_MOST_BESIDE = 16 * 1024 * 1024
#: How often a file is asked for anew that another process gives up, or removes.
_TRIES = 3


@dataclass(frozen=True, slots=True)
class Part:
    """The bytes from `start` to before `stop` of a file of `size` bytes."""

    start: int
    stop: int
    size: int


@dataclass(frozen=True, slots=True)
class Opened:
    """A file to read from; closing `stream` is the caller's."""

    #: Held, arriving, or on its way to this client only.
    stream: Stream
    #: Bytes of the whole file; None where nobody says before its end.
    size: int | None
    outcome: Outcome = Outcome.HIT
    #: Seconds since the epoch, when a held one came; None for others.
    came: float | None = None


class Downloads:
    """The files that can be had: held ones from the store, others from upstream."""

    def __init__(
        self,
        catalog: Catalog,
        store: Store,
        upstream: Upstream,
        metadata: Metadata,
        bounds: Bounds,
    ) -> None:
        self._catalog = catalog
        self._store, self._upstream, self._metadata = store, upstream, metadata
        self._bounds = bounds
        self._arrivals: dict[str, Arrival] = {}
        self._starts: SingleFlight[Arrival | None] = SingleFlight()
        self._verdicts: SingleFlight[bool] = SingleFlight()

    @property
    def arriving(self) -> int:
        """The files that are arriving in this process."""
        return len(self._arrivals)

    def open(self, file: File, part: Part | None = None) -> Opened:
        """`file`, or a `part` of it, to be read from its start on.

        Raises FileGone, DigestMismatch, TransferCut or an UpstreamError.
        """
        start = 0 if part is None else part.start
        for _ in range(_TRIES):
            held = self.held(file)
            if held is not None:
                held.seek(start)
                found = os.fstat(held.fileno())
                return Opened(held, found.st_size, came=found.st_mtime)
            if part is not None and self._is_far(file, part):
                apart = self._apart(file, part)
                if apart is not None:
                    return apart
            try:
                opened = self._arriving(file, start)
            except GivenUp:
                continue
            except NotKept:
                break
            if opened is not None:
                return opened
        return (part and self._apart(file, part)) or self._passing(file, start)

    def hold(self, file: File, advance: Callable[[int], object]) -> None:
        """Have `file` held, however long that takes; `advance` is called with the bytes that come.

        Raises NotKept where it cannot be, FileGone, DigestMismatch, TransferCut, WheelUnreadable or
        an UpstreamError.
        """
        for _ in range(_TRIES):
            try:
                arrival = self._arrivals.get(file.location) or self._begun(file, patience=None)
                if arrival is not None:
                    arrival.outlast(advance)
            except GivenUp:
                continue
            return
        raise GivenUp

    def held(self, file: File) -> io.FileIO | None:
        """`file` open where it is held and right, else None; what someone else put there is verified first."""
        held = self._store.open(file)
        if held is None or self._store.is_verified(held):
            return held
        held.close()
        if not self._verdicts.run(file.location, lambda: self._is_right(file)):
            return None
        return self._store.open(file)

    def size(self, file: File) -> int | None:
        """The size of `file` in bytes without fetching it, None when nobody says.

        Raises FileGone or an UpstreamError.
        """
        held = self._store.size(file)
        if held is not None:
            return held
        arrival = self._arrivals.get(file.location)
        if arrival is not None and arrival.size is not None:
            return arrival.size
        if file.is_beside_another:
            # Fetching it costs no more than asking, and tells that it is right.
            opened = self.open(file)
            opened.stream.close()
            return opened.size
        if file.size is not None:
            return file.size
        return _or_gone(file, lambda: self._upstream.size(file.url))

    def _is_right(self, file: File) -> bool:
        held, check = self._store.open(file), Check(file)
        if held is None:
            return False
        with held:
            size = os.fstat(held.fileno()).st_size
            try:
                off_hub(lambda: check.add_start(held.fileno(), size))
                check.require(size)
            except (DigestMismatch, TransferCut, OSError) as error:
                log.warning("removing %s, which someone else put there: %s", file.location, error)
            else:
                self._store.vouch(held)
                log.info("%s was there already and is right", file.location)
                return True
        off_hub(lambda: self._store.drop(file))
        return False

    def _arriving(self, file: File, start: int) -> Opened | None:
        """`file` from `start` on at the tail of its fetch, None when it is held by now. Raises also NotKept."""
        arrival, is_first = self._arrivals.get(file.location), False
        if arrival is None:
            is_first = file.location not in self._starts
            arrival = self._begun(file, PATIENCE)
        tail = None if arrival is None else arrival.join()
        if arrival is None or tail is None:
            return None
        tail.seek(start)
        is_ours = is_first and not arrival.is_followed
        return Opened(tail, arrival.size, Outcome.MISS if is_ours else Outcome.COALESCED)

    def _begun(self, file: File, patience: float | None) -> Arrival | None:
        try:
            start = for_client(lambda: self._start(file))
            return self._starts.run(file.location, start, patience)
        except StillFlying:
            reason = f"no answer within {PATIENCE:g} seconds; it is still waited for"
            raise UpstreamUnreachable(masked(file.url), reason) from None

    def _start(self, file: File) -> Arrival | None:
        """A fetch of `file` that has its first answer, None when another process made it held."""

        def ask(position: int, etag: str | None) -> Source:
            return self._source(file, position, etag)

        try:
            arrival = Arrival(file, self._store.partial(file), self._bounds, ask)
        except OSError as error:
            trouble = NotKept(str(error))
            self._bounds.trouble(trouble, file.size)
            raise trouble from error
        if self._store.holds(file):
            arrival.abandon()
            return None
        try:
            arrival.prepare(lambda: self._size_elsewhere(file))
        except BaseException as error:
            arrival.abandon(error)
            raise
        self._arrivals[file.location] = arrival
        gevent.spawn(self._run, arrival)
        return arrival

    def _run(self, arrival: Arrival) -> None:
        try:
            arrival.run()
        finally:
            # Before any other greenlet runs: whoever asks next must not find what is over.
            del self._arrivals[arrival.file.location]
        if arrival.is_kept and arrival.file.size is None and arrival.size is not None:
            self._catalog.measure(arrival.file.location, arrival.size)

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
                    file, lambda: ResumingTransfer.whole(self._upstream, file, start, etag)
                )
        except (FileGone, UpstreamOffline):
            if file.wheel is None:
                raise
        if file.wheel is None:
            raise FileGone(file.filename)
        return self._metadata.of(file.wheel)

    def _is_far(self, file: File, part: Part) -> bool:
        """Whether waiting until `part` has come is longer than asking for it apart."""
        arrival = self._arrivals.get(file.location)
        return part.start > _NEAR + (0 if arrival is None else arrival.arrived)

    def _apart(self, file: File, part: Part) -> Opened | None:
        """`part` by a request of its own, None where upstream sends only the whole."""
        if not file.url or file.is_beside_another:
            return None

        def ask() -> Source:
            return ResumingTransfer.part(self._upstream, file, part.start, part.stop, part.size)

        try:
            source = _or_gone(file, ask)
        except UpstreamWithoutRanges:
            return None
        log.info("passing on bytes %d to %d of %s", part.start, part.stop, file.location)
        return Opened(Passing(file, source, None, part.size), part.size, Outcome.PASS)

    def _passing(self, file: File, start: int) -> Opened:
        source = self._source(file)
        if file.is_beside_another:
            try:
                data = small(file, source, _MOST_BESIDE)
            finally:
                source.close()
            whole = io.BytesIO(data)
            whole.seek(start)
            return Opened(whole, len(data), Outcome.PASS)
        size = file.size if file.size is not None else source.size
        passing = Passing(file, source, Check(file), size)
        passing.skip(start)
        return Opened(passing, size, Outcome.PASS)


def _or_gone(file: File, ask: Callable[[], Answer]) -> Answer:
    try:
        return ask()
    except UpstreamRefused as error:
        if error.status in (404, 410):
            raise FileGone(file.filename) from error
        raise
