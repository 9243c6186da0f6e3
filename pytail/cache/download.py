"""One download: the bytes of a file as far as they are there, and its readers.

A feeder (`pytail.cache.fetch`) fills a download, from upstream or by following another process.
Readers hold the descriptor of the partial file, never its path. A reader at the end of the bytes
waits for more. The last bytes are released only after the whole file is verified, so a wrong file is
never a complete response; they are not held back until the disk has synced them. Every reader gets
the error of a failed download. Where only the disk failed, or the process that writes the file
stopped, each reader passes the rest of the file through.
"""

from __future__ import annotations

import enum
import os
import time
from collections.abc import Callable
from typing import Protocol

from gevent.event import Event

from pytail.cache.passthrough import WITHHELD, PassThrough
from pytail.errors import (
    DigestMismatch,
    DownloadInterrupted,
    NotStored,
    PytailError,
    UpstreamUnreachable,
)
from pytail.model import File
from pytail.runtime.timeouts import time_limit
from pytail.storage.partial import PartialFile


class DownloadState(enum.IntEnum):
    """How far a download is; it only rises."""

    #: Upstream, or the process that asks upstream, has not answered yet.
    STARTING = 1
    #: Bytes arrive.
    RUNNING = 2
    #: All bytes are there and right; they are synced to the disk now.
    VERIFIED = 3
    #: The file is in the store.
    STORED = 4
    #: The file is verified, but the disk did not take it.
    NOT_STORED = 5
    FAILED = 6


class PassRest(Protocol):
    """Opens the rest of a file without storing it."""

    def __call__(self, position: int, descriptor: int, received: int) -> PassThrough:
        """Return the bytes from `position` on; an open file has the first `received` bytes.

        Raises DownloadInterrupted.
        """


class DownloadReader:
    """A reader of a download; at the end of the bytes it waits for more."""

    def __init__(self, download: Download) -> None:
        self._download: Download | None = download
        self._passthrough: PassThrough | None = None
        self._position = 0

    def seek(self, position: int) -> int:
        """Continue at `position`, in bytes from the start of the file."""
        self._position = position
        return position

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes as soon as there is one; empty at the end of the file.

        Raises DownloadInterrupted where the download fails.
        """
        if self._download is not None:
            try:
                data = self._download.read(self._position, size)
            except NotStored:
                self._pass_through(self._download)
            else:
                self._position += len(data)
                return data
        if self._passthrough is None:
            raise ValueError("read of a closed file")
        return self._passthrough.read(size)

    def sendable(self, size: int) -> tuple[int, int, int] | None:
        """Return the descriptor, offset and length of the next bytes, as soon as there is one.

        The length is up to `size`. The caller sends them and then calls `advance`. None at the end,
        and where the rest is passed through. Raises DownloadInterrupted.
        """
        if self._download is None:
            return None
        try:
            available = self._download.available(self._position)
        except NotStored:
            self._pass_through(self._download)
            return None
        if not available:
            return None
        return self._download.descriptor, self._position, min(size, available)

    def advance(self, count: int) -> None:
        """Skip the `count` bytes of `sendable` that were sent."""
        self._position += count

    def close(self) -> None:
        """Stop reading; the download continues."""
        download, self._download = self._download, None
        if download is not None:
            download.release()
        if self._passthrough is not None:
            self._passthrough.close()
            self._passthrough = None

    def _pass_through(self, download: Download) -> None:
        """Read the rest from upstream, because `download` cannot be stored."""
        try:
            self._passthrough = download.pass_rest(
                self._position, download.descriptor, download.received
            )
        finally:
            self._download = None
            download.release()


class Download:
    """The bytes of one file in this process, between one feeder and any number of readers."""

    def __init__(self, file: File, pass_rest: PassRest) -> None:
        """`pass_rest` opens the rest of the file for a reader where it cannot be stored."""
        self.file, self.pass_rest = file, pass_rest
        self.state = DownloadState.STARTING
        #: Monotonic seconds.
        self.started = time.monotonic()
        #: Bytes of the whole file, by the response that carries them; None where that is unknown.
        self.size: int | None = None
        #: Bytes in the partial file.
        self.received = 0
        #: Whether another process writes the partial file, or did at first.
        self.is_follower = False
        self._partial: PartialFile | None = None
        self._error: BaseException | None = None
        #: Set, and replaced by a new event, at each change that readers wait for.
        self._changed = Event()
        # The feeder and each reader; the last of them closes the partial file.
        self._users = 1

    @property
    def descriptor(self) -> int:
        """The descriptor of the partial file, readable up to the `available` bytes."""
        return -1 if self._partial is None else self._partial.descriptor

    @property
    def readers(self) -> int:
        """The number of readers, and of clients that wait to become one."""
        return self._users - (self.state < DownloadState.STORED)

    @property
    def is_verified(self) -> bool:
        """Whether all bytes are there and right."""
        return DownloadState.VERIFIED <= self.state < DownloadState.FAILED

    @property
    def is_wrong(self) -> bool:
        """Whether upstream sent other bytes than those of the file, or none."""
        return isinstance(self._error, (DigestMismatch, DownloadInterrupted))

    # What the feeder tells.

    def attach(self, partial: PartialFile) -> None:
        """Take over `partial`: the last user closes it."""
        self._partial = partial
        self.is_follower = not partial.is_writer

    def start(self, size: int | None, received: int) -> None:
        """Note that bytes arrive: the file has `size` bytes, and `received` of them are there."""
        self.size = size if size is not None else self.size
        self.state = max(self.state, DownloadState.RUNNING)
        self.progress(received)

    def progress(self, received: int) -> None:
        """Note that `received` bytes are there in all."""
        self.received = received
        self._notify()

    def verified(self, size: int) -> None:
        """Release all bytes: the file has `size` bytes, and they are right."""
        self.size = self.received = size
        self.state = max(self.state, DownloadState.VERIFIED)
        self._notify()

    def finish(self, *, is_stored: bool) -> None:
        """Note how a verified file ended."""
        self.state = DownloadState.STORED if is_stored else DownloadState.NOT_STORED
        self._notify()

    def fail(self, error: BaseException) -> None:
        """Give `error` to all readers."""
        self.state, self._error = DownloadState.FAILED, error
        self._notify()

    # What readers ask.

    def reader(self, wait: float) -> DownloadReader:
        """Return a reader at the start, as soon as bytes arrive.

        For a sidecar, which is small, wait for all bytes: an error status is better than an
        interrupted response. Raises UpstreamUnreachable after `wait` seconds, or the error of the
        download.
        """
        needed = DownloadState.VERIFIED if self.file.is_sidecar else DownloadState.RUNNING
        self._users += 1
        try:
            self._wait_for(needed, wait)
            self._raise_error()
        except BaseException:
            self.release()
            raise
        return DownloadReader(self)

    def wait(self, advance: Callable[[int], object]) -> None:
        """Wait until the file is stored; `advance` is called with the number of new bytes.

        Raises the error of the download, or NotStored.
        """
        self._users += 1
        try:
            reported = 0
            while self.state < DownloadState.STORED:
                changed = self._changed
                advance(self.received - reported)
                reported = self.received
                changed.wait()
            advance(self.received - reported)
            self._raise_error()
            if self.state is DownloadState.NOT_STORED:
                raise NotStored("the downloaded file cannot be moved into the store")
        finally:
            self.release()

    def release(self) -> None:
        """Count one user less; the last one closes the partial file."""
        self._users -= 1
        if self._users == 0 and self._partial is not None:
            self._partial.close()

    def available(self, position: int) -> int:
        """Return the number of bytes from `position` on, as soon as there is one; 0 at the end.

        Raises NotStored where the disk or the writing process ended the download, else
        DownloadInterrupted.
        """
        while True:
            changed, available = self._changed, self._released() - position
            if available > 0:
                return available
            self._raise_if_interrupted()
            if self.is_verified:
                return 0
            changed.wait()

    def read(self, position: int, size: int) -> bytes:
        """Return up to `size` bytes from `position` on, as soon as there is one; empty at the end.

        Raises the errors of `available`.
        """
        if size <= 0:
            return b""
        size = min(size, self.available(position))
        try:
            data = os.pread(self.descriptor, size, position)
        except OSError as error:
            raise DownloadInterrupted(self.file.filename, error) from error
        if size and not data:
            raise DownloadInterrupted(self.file.filename, "the partial file was truncated")
        return data

    def _wait_for(self, state: DownloadState, seconds: float) -> None:
        reason = f"no response within {seconds:g} seconds; the request continues"
        with time_limit(seconds, UpstreamUnreachable(self.file.url, reason)):
            while self.state < state:
                self._changed.wait()

    def _raise_error(self) -> None:
        if isinstance(self._error, PytailError):
            raise self._error
        self._raise_if_interrupted()

    def _raise_if_interrupted(self) -> None:
        """Raise NotStored as it is, and any other error as DownloadInterrupted."""
        if isinstance(self._error, NotStored):
            raise self._error
        if self._error is not None:
            reason = self._error if str(self._error) else repr(self._error)
            raise DownloadInterrupted(self.file.filename, reason) from self._error

    def _released(self) -> int:
        """Return how many bytes from the start readers may have."""
        if self.is_verified:
            return self.received
        # Where the size is unknown, the last bytes are always the last ones received.
        end = self.received if self.size is None else min(self.received + WITHHELD, self.size)
        return end - WITHHELD

    def _notify(self) -> None:
        changed, self._changed = self._changed, Event()
        changed.set()
