"""One file on its way in, and its readers at the tail of what has come.

It is fetched by one process and followed by the others, which see the partial file grow; one whose
process is killed is gone on with by a process that follows. Whoever reads waits where a plain file
would end. The last piece is let out only when size and digest agree, so that a wrong file can never
be a complete response; however it ends, the readers learn of it, and where it was only the disk
that took no more, each goes on alone.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable
from functools import partial

import gevent
from gevent.event import Event

from pytail.cache.fetch import read_ahead
from pytail.cache.passthrough import WITHHELD, PassThrough
from pytail.errors import (
    DigestMismatch,
    DownloadAbandoned,
    DownloadInterrupted,
    NotStored,
    PytailError,
    UpstreamError,
)
from pytail.model import File, Source
from pytail.runtime.threads import off_loop
from pytail.storage.digests import FileVerifier
from pytail.storage.partial import PartialFile, PartialState
from pytail.storage.quota import Quota
from pytail.storage.store import PartialFile, PartialState

log = logging.getLogger("pytail.cache")

#: Seconds between looks at a file that another process is writing.
_POLL = 0.01


class DownloadReader:
    """A reader of an arriving file: where a plain one would end, it waits for more."""

    def __init__(self, arrival: Download) -> None:
        self._arrival: Download | None = arrival
        self._alone: PassThrough | None = None
        self._position = 0

    def seek(self, position: int) -> int:
        """Read on from `position`, in bytes from the start, arrived or not."""
        self._position = position
        return position

    def read(self, size: int) -> bytes:
        """Up to `size` bytes, as soon as there is one; empty at the end of the file.

        Raises DownloadInterrupted when the fetch ends before that.
        """
        if self._arrival is not None:
            try:
                data = self._arrival.read(self._position, size)
            except NotStored:
                self._go_on_alone(self._arrival)
            else:
                self._position += len(data)
                return data
        if self._alone is None:
            raise ValueError("read of a closed file")
        return self._alone.read(size)

    def sendable(self, size: int) -> tuple[int, int, int] | None:
        """The descriptor, offset and length of up to `size` bytes to be read, as soon as there is one.

        They are read by `advance`. None at the end, and where no file has them. Raises DownloadInterrupted.
        """
        if self._arrival is None:
            return None
        try:
            available = self._arrival.available(self._position)
        except NotStored:
            self._go_on_alone(self._arrival)
            return None
        if not available:
            return None
        return self._arrival.descriptor, self._position, min(size, available)

    def advance(self, count: int) -> None:
        """Read over `count` bytes of `sendable`."""
        self._position += count

    def close(self) -> None:
        """Stop reading; the fetch goes on."""
        arrival, self._arrival = self._arrival, None
        if arrival is not None:
            arrival.release()
        if self._alone is not None:
            self._alone.close()
            self._alone = None

    def _go_on_alone(self, arrival: Download) -> None:
        try:
            self._alone = arrival.pass_through(self._position)
        finally:
            self._arrival = None
            arrival.release()


class Download:
    """One file and what has come of it so far."""

    def __init__(
        self,
        file: File,
        partial: PartialFile,
        bounds: Quota,
        ask: Callable[[int, str | None], Source],
    ) -> None:
        """`ask` gives a source of the file from an offset on, of an ETag (None: any)."""
        self.file, self._partial, self._bounds, self._ask = file, partial, bounds, ask
        #: Bytes of the whole file, None until its end where nobody says.
        self.size = file.size
        #: Bytes that have come.
        self.received = 0
        #: Whether another process fetches it, or did at first.
        self.is_follower = False
        #: Whether upstream, or the process that asks it, has given an answer.
        self.has_begun = False
        self._source: Source | None = None
        self._check = FileVerifier(file)
        self._is_verified, self._is_unkept = False, False
        self._error: BaseException | None = None
        self._moved = Event()
        # The fetch itself and each reader; the last one closes the file.
        self._users, self._is_closed = 1, False

    @property
    def descriptor(self) -> int:
        """The open file that has what has come, up to what is `available`."""
        return self._partial.descriptor

    @property
    def is_stored(self) -> bool:
        """Whether it is whole, right and held."""
        return self._is_verified and not self._is_unkept

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come."""
        return self._is_verified or self._error is not None

    def prepare(self, size: Callable[[], int | None]) -> None:
        """Begin where it is ours; else learn by `size`, where the page says none, what comes.

        Raises NotStored, FileGone, DigestMismatch or an UpstreamError.
        """
        self.is_follower = not self._partial.is_writer
        if not self.is_follower:
            self._begin()
        elif self.size is None and not self.file.is_sidecar:
            self.size = size()

    def reader(self) -> DownloadReader | None:
        """A reader at the start, None when it is over and the file is held.

        Raises what the fetch ended with.
        """
        if self._is_closed and self._error is None:
            return None
        self._users += 1
        try:
            # The length must be known up front, and a wrong small file is better an error than a
            # connection cut short.
            is_awaited = self.size is None or self.file.is_sidecar
            while not self.is_over and (is_awaited or not self.has_begun):
                self._moved.wait()
            self._raise_error()
        except BaseException:
            self.release()
            raise
        return DownloadReader(self)

    def wait(self, advance: Callable[[int], object]) -> None:
        """Wait, without reading, until it is held; `advance` is called with the bytes that come.

        Raises what the fetch ended with, or NotStored.
        """
        told = 0
        while not self.is_over:
            moved = self._moved
            advance(self.received - told)
            told = self.received
            moved.wait()
        advance(self.received - told)
        self._raise_error()
        if not self.is_stored:
            raise NotStored("the disk does not take it")

    def release(self) -> None:
        """One reader less."""
        self._users -= 1
        if self._users == 0 and not self._is_closed:
            self._is_closed = True
            self._partial.close()

    def available(self, position: int) -> int:
        """The number of bytes from `position` on, as soon as there is one; 0 at the end.

        Raises NotStored where the fetch was given up for the disk's sake, else DownloadInterrupted.
        """
        while True:
            moved, available = self._moved, self._released() - position
            if available > 0:
                return available
            self._require_sound()
            if self._is_verified:
                return 0
            moved.wait()

    def read(self, position: int, size: int) -> bytes:
        """Up to `size` bytes from `position` on, as soon as there is one; empty at the end.

        Raises as `available`.
        """
        if size <= 0:
            return b""
        size = min(size, self.available(position))
        data = os.pread(self._partial.descriptor, size, position)
        if size and not data:
            raise DownloadInterrupted(self.file.filename, "the partial file was truncated")
        return data

    def pass_through(self, position: int) -> PassThrough:
        """The file from `position` on, without keeping it. Raises DownloadInterrupted."""
        etag = None if self._source is None else self._source.etag
        check = FileVerifier(self.file)
        if not check.has_digest and etag is None and position > 0:
            raise DownloadInterrupted(self.file.filename, _reason(self._error))
        try:
            off_loop(
                lambda: check.add_start(self._partial.descriptor, min(position, self.received))
            )
            source = self._ask(check.size, etag)
        except PytailError as error:
            raise DownloadInterrupted(self.file.filename, str(error)) from error
        passing = PassThrough(self.file, source, check, self.size)
        passing.skip(position - check.size)
        return passing

    def run(self) -> None:
        """Bring it in, verify it, commit it; never raises."""
        started = time.monotonic()
        try:
            if not self._partial.is_writer:
                self._follow()
            if not self._is_verified:
                self._receive()
                self._check.verify(self.size)
                off_loop(self._commit)
                self._finish(started)
        except BaseException as error:  # noqa: BLE001
            # gevent's Timeout and GreenletExit are no Exceptions, and readers must learn of them.
            self._fail(error)
        finally:
            self._close(is_stored=self.is_stored)

    def abandon(self, error: BaseException | None = None) -> None:
        """Forget a fetch that is not needed, or could not begin for that `error`."""
        if not (self.received and isinstance(error, UpstreamError)):
            # Else it waits for another day with what was there before.
            self._partial.discard()
        if isinstance(error, NotStored):
            self._bounds.report(error, self.size)
        self._close(is_stored=False)

    def _begin(self) -> None:
        """Ask upstream for what is missing of the partial file, which is ours."""
        try:
            self._take_up_what_is_there()
            self._bounds.reserve(self._partial, self.size or 0)
            if not (self._check.size and self._check.matches):
                self._source = self._ask(self._check.size, None)
                self._compare(self._source.size)
        except OSError as error:
            if isinstance(error, PytailError):
                raise
            raise NotStored(str(error)) from error
        self.has_begun = True

    def _compare(self, size: int | None) -> None:
        """`size` is what upstream says."""
        if self.size is None and size is not None:
            self.size = size
            self._bounds.reserve(self._partial, size)
        if size not in (None, self.size):
            raise DigestMismatch(self.file.filename, "bytes", str(self.size), str(size))

    def _close(self, *, is_stored: bool) -> None:
        self._bounds.release(self._partial, is_stored=is_stored)
        if self._source is not None:
            self._source.close()
        self._move()
        self.release()

    def _take_up_what_is_there(self) -> None:
        """Go on with what a process that is gone has left, where that can be verified."""
        left = self._partial.size
        if left and self._check.has_digest and (self.size is None or left <= self.size):
            off_loop(lambda: self._check.add_start(self._partial.descriptor, left))
            is_useful = self.size != left or self._check.matches
            if is_useful:
                log.info(
                    "going on with %s at %d, left by a process that is gone",
                    self.file.key,
                    left,
                )
                self.received = left
                return
        self._check = FileVerifier(self.file)
        if self.received:
            # Readers have bytes that cannot be gone on with.
            raise DownloadAbandoned
        if left:
            self._partial.restart()
            if not self._partial.is_writer:
                raise DownloadAbandoned

    def _follow(self) -> None:
        """Watch another process bring it in, until it has, or it is ours to go on with."""
        while not self._partial.try_lock():
            standing, size = self._partial.state(), self._partial.size
            if standing is PartialState.ABANDONED:
                raise DownloadAbandoned
            if standing is PartialState.COMMITTED:
                self.size = self.received = self._partial.size
                self._is_verified = self.has_begun = True
                return
            if size > self.received:
                self.received, self.has_begun = size, True
                self._move()
            gevent.sleep(_POLL)
        log.warning("%s: the process that fetched it is gone", self.file.key)
        self._begin()

    def _receive(self) -> None:
        if self._source is None:
            return
        with contextlib.closing(read_ahead(self._source)) as coming:
            for pieces in coming:
                off_loop(partial(self._keep, pieces))
                self.received = self._check.size
                if self.size is not None and self.received > self.size:
                    break
                if self.size is None:
                    self._bounds.reserve(self._partial, self.received)
                self._move()
        if self.size is None:
            self.size = self.received

    def _keep(self, pieces: list[bytes]) -> None:
        try:
            for data in pieces:
                self._partial.write(data)
                self._check.add(data)
        except OSError as error:
            raise NotStored(str(error)) from error
        if self._partial.size != self._check.size:
            # What was verified is not what readers would get.
            raise DownloadInterrupted(
                self.file.filename, "the partial file was changed by someone else"
            )

    def _commit(self) -> None:
        try:
            self._partial.commit()
        except OSError as error:
            # It is whole and right, and whoever reads it has it open.
            self._is_unkept = True
            self._bounds.report(NotStored(str(error)), self.size)
            self._partial.discard()

    def _finish(self, started: float) -> None:
        self._is_verified = True
        what = "passed on" if self._is_unkept else "kept"
        seconds = time.monotonic() - started
        log.info("%s %s, %d bytes in %.2f s", what, self.file.key, self.received, seconds)

    def _fail(self, error: BaseException) -> None:
        self._error = error
        self._partial.discard()
        if isinstance(error, NotStored):
            self._bounds.report(error, self.size)
        else:
            log.error("nothing kept of %s: %s", self.file.key, _reason(error))

    def _raise_error(self) -> None:
        if isinstance(self._error, PytailError):
            raise self._error
        self._require_sound()

    def _require_sound(self) -> None:
        if isinstance(self._error, NotStored):
            raise self._error
        if self._error is not None:
            raise DownloadInterrupted(self.file.filename, _reason(self._error)) from self._error

    def _released(self) -> int:
        if self._is_verified:
            return self.received
        if self.size is None:
            return 0
        return min(self.received, self.size - WITHHELD)

    def _move(self) -> None:
        moved, self._moved = self._moved, Event()
        moved.set()


def _reason(error: BaseException | None) -> str:
    return str(error) or repr(error)
