"""Files on their way in: one fetch, many readers at its tail.

Whoever asks for a file that is arriving reads what has been written so far and waits where a plain
file would end. A fetch outlives its readers; however it ends, they learn of it. The last piece is
let out only when size and digest agree, so that a wrong file can never be a complete response.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import gevent
from gevent.event import Event

from pytail.errors import (
    DigestMismatch,
    FileGone,
    PytailError,
    TransferCut,
    UpstreamOffline,
    UpstreamRefused,
)
from pytail.metadata import Extracted, Metadata
from pytail.model import DIGEST_LENGTHS, File, Outcome
from pytail.singleflight import SingleFlight
from pytail.store import Partial, Spill, Store
from pytail.threads import off_hub
from pytail.transfers import ResumingTransfer
from pytail.upstream import Upstream

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")

#: Bytes at the end of a file that are let out only after the whole was verified.
HELD_BACK = 1024
#: Bytes copied at once from where the disk is full.
_COPIED = 1024 * 1024
#: Seconds between looks at a file that another process is writing.
_POLL = 0.02


@dataclass(frozen=True, slots=True)
class Opened:
    """A file to read from, held or arriving; closing `stream` is the caller's."""

    stream: io.FileIO | Tail
    #: Bytes of the whole file.
    size: int
    outcome: Outcome = Outcome.HIT


class Tail:
    """A reader of an arriving file: where a plain one would end, it waits for more."""

    def __init__(self, arrival: _Arrival) -> None:
        self._arrival: _Arrival | None = arrival
        self._position = 0

    def seek(self, position: int) -> int:
        """Read on from `position`, in bytes from the start, arrived or not."""
        self._position = position
        return position

    def read(self, size: int) -> bytes:
        """Up to `size` bytes, as soon as there is one; empty at the end of the file.

        Raises TransferCut when the fetch ends before that.
        """
        if self._arrival is None:
            raise ValueError("read of a closed file")
        if size == 0:
            return b""
        data = self._arrival.read(self._position, size)
        self._position += len(data)
        return data

    def close(self) -> None:
        """Stop reading; the fetch goes on."""
        arrival, self._arrival = self._arrival, None
        if arrival is not None:
            arrival.leave()


class _Arrival:
    """One fetch and what it has brought so far."""

    def __init__(
        self, file: File, partial: Partial, transfer: ResumingTransfer | Extracted
    ) -> None:
        self._file, self._partial, self._transfer = file, partial, transfer
        #: Bytes of the whole file, None until its end where nobody says.
        self.size = file.size if file.size is not None else transfer.size
        self._written, self._is_verified = 0, False
        self._error: BaseException | None = None
        self._moved = Event()
        # The fetch itself and each reader; the last one closes the file.
        self._users = 1
        self._is_closed = False
        #: Where the disk stopped taking what is now in a spill.
        self._given_up: Partial | None = None

    def join(self) -> Opened | None:
        """The file from its start, None when the arrival is over and the file is held.

        Raises the error that the fetch ended with.
        """
        if self._error is None and self._users == 0:
            return None
        self._users += 1
        try:
            if self.size is None or self._file.is_beside_another:
                # The length must be known up front, and a wrong small file is better an error than
                # a connection cut short.
                self._wait()
            self._check()
        except BaseException:
            self.leave()
            raise
        assert self.size is not None, "the end of a fetch tells the size"
        outcome = Outcome.PASS if self._is_unkept else Outcome.MISS
        return Opened(Tail(self), self.size, outcome)

    def _check(self) -> None:
        if isinstance(self._error, PytailError):
            raise self._error
        if self._error is not None:
            raise TransferCut(self._file.filename, _reason(self._error)) from self._error

    def leave(self) -> None:
        self._users -= 1
        if self._users == 0 and not self._is_closed:
            self._is_closed = True
            self._partial.close()
            if self._given_up is not None:
                self._given_up.close()

    def _wait(self) -> None:
        while not self._is_verified and self._error is None:
            self._moved.wait()

    def read(self, position: int, size: int) -> bytes:
        while True:
            if self._error is not None:
                raise TransferCut(self._file.filename, _reason(self._error)) from self._error
            moved, available = self._moved, self._released() - position
            if available > 0:
                data = os.pread(self._partial.descriptor, min(size, available), position)
                if not data:
                    raise TransferCut(self._file.filename, "the partial file was truncated")
                return data
            if self._is_verified:
                return b""
            moved.wait()

    def run(self) -> None:
        """Fetch, verify, commit; never raises."""
        started = time.monotonic()
        try:
            self._receive()
            off_hub(self._commit)
            self._is_verified = True
            seconds, what = time.monotonic() - started, "passed on" if self._is_unkept else "kept"
            log.info("%s %s, %d bytes in %.2f s", what, self._file.location, self._written, seconds)
        except BaseException as error:  # noqa: BLE001
            # gevent's Timeout and GreenletExit are no Exceptions, and readers must learn of them.
            self._error = error
            self._partial.discard()
            log.error("nothing kept of %s: %s", self._file.location, _reason(error))
        finally:
            self._transfer.close()
            self._move()
            self.leave()

    def _released(self) -> int:
        if self._is_verified or self.size is None:
            return self._written
        return min(self._written, max(0, self.size - HELD_BACK))

    def _move(self) -> None:
        moved, self._moved = self._moved, Event()
        moved.set()

    def _receive(self) -> None:
        kind = next((name for name in DIGEST_LENGTHS if name in self._file.hashes), None)
        digest = None if kind is None else hashlib.new(kind, usedforsecurity=False)

        def keep() -> None:
            try:
                self._partial.write(data)
            except OSError as error:
                self._spill(error)
                self._partial.write(data)
            if digest is not None:
                digest.update(data)

        while data := self._transfer.read():
            off_hub(keep)
            self._written += len(data)
            if self.size is not None and self._written > self.size:
                break
            self._move()
        self._check_size()
        if kind is not None and digest is not None:
            expected, found = self._file.hashes[kind], digest.hexdigest()
            if found != expected:
                raise DigestMismatch(self._file.filename, kind, expected, found)

    def _check_size(self) -> None:
        if self._written == 0 and self._file.size != 0:
            raise TransferCut(self._file.filename, "upstream sent nothing")
        if self.size is None:
            self.size = self._written
        if self._written != self.size:
            raise _wrong_size(self._file, self.size, self._written)

    @property
    def _is_unkept(self) -> bool:
        return isinstance(self._partial, Spill)

    def _commit(self) -> None:
        try:
            self._partial.commit()
        except OSError as error:
            # It is whole and right, and whoever reads it has it open.
            log.error("cannot keep %s: %s", self._file.location, error)
            self._partial.discard()

    def _spill(self, trouble: OSError) -> None:
        """Go on outside the cache directory, whose disk is full or does not let us write."""
        if self._is_unkept:
            raise trouble
        log.error("cannot keep %s, passing it on: %s", self._file.location, trouble)
        with contextlib.ExitStack() as unneeded:
            spill, position = Spill(), 0
            unneeded.callback(spill.close)
            while position < self._written:
                piece = min(_COPIED, self._written - position)
                data = os.pread(self._partial.descriptor, piece, position)
                spill.write(data)
                position += len(data)
            unneeded.pop_all()
        # Closed with the last reader: one may be reading from it at this moment.
        self._given_up, self._partial = self._partial, spill
        self._given_up.discard()


class Downloads:
    """The files that can be had: held ones from the store, others from upstream."""

    def __init__(self, store: Store, upstream: Upstream, metadata: Metadata) -> None:
        self._store, self._upstream, self._metadata = store, upstream, metadata
        self._arrivals: dict[str, _Arrival] = {}
        self._starts: SingleFlight[_Arrival | None] = SingleFlight()

    def open(self, file: File) -> Opened:
        """`file` from its start. Raises FileGone, DigestMismatch or an UpstreamError."""
        while True:
            held = self._store.open(file)
            if held is not None:
                return Opened(held, os.fstat(held.fileno()).st_size)
            arrival, is_first = self._arrivals.get(file.location), False
            if arrival is None:
                is_first = file.location not in self._starts
                arrival = self._starts.run(file.location, lambda: self._start(file))
            opened = None if arrival is None else arrival.join()
            if opened is not None:
                return opened if is_first else replace(opened, outcome=Outcome.COALESCED)

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

    def _start(self, file: File) -> _Arrival | None:
        """A fetch of `file` that has its first answer, None when another process made it held."""
        partial = self._partial(file)
        with contextlib.ExitStack() as unneeded:
            unneeded.callback(partial.close)
            unneeded.callback(partial.discard)
            if self._store.holds(file):
                return None
            transfer = self._transfer(file)
            unneeded.callback(transfer.close)
            if None not in (file.size, transfer.size) and file.size != transfer.size:
                raise _wrong_size(file, file.size, transfer.size)
            unneeded.pop_all()
        return self._receive(file, partial, transfer)

    def _partial(self, file: File) -> Partial:
        """Where to write `file`, once no other process does."""
        try:
            while (partial := self._store.partial(file)) is None:
                gevent.sleep(_POLL)
        except OSError as error:
            log.error("cannot keep %s, passing it on: %s", file.location, error)
            return Spill()
        return partial

    def _transfer(self, file: File) -> ResumingTransfer | Extracted:
        try:
            if file.url:
                return _or_gone(file, lambda: ResumingTransfer(self._upstream, file))
        except (FileGone, UpstreamOffline):
            if file.wheel is None:
                raise
        if file.wheel is None:
            raise FileGone(file.filename)
        return self._metadata.of(file.wheel)

    def _receive(
        self, file: File, partial: Partial, transfer: ResumingTransfer | Extracted
    ) -> _Arrival:
        arrival = self._arrivals[file.location] = _Arrival(file, partial, transfer)

        def run() -> None:
            try:
                arrival.run()
            finally:
                # Before any other greenlet runs: whoever asks next must not find what is over.
                del self._arrivals[file.location]

        gevent.spawn(run)
        return arrival


def _wrong_size(file: File, expected: int | None, found: int | None) -> DigestMismatch:
    return DigestMismatch(file.filename, "bytes", str(expected), str(found))


def _reason(error: BaseException) -> str:
    return str(error) or repr(error)


def _or_gone(file: File, ask: Callable[[], Answer]) -> Answer:
    try:
        return ask()
    except UpstreamRefused as error:
        if error.status in (404, 410):
            raise FileGone(file.filename) from error
        raise
