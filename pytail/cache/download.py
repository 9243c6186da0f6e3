"""One download: a partial file that one process writes, and its readers.

Other processes follow the partial file as it grows. Where the writing process ends, one of them
resumes the download. A reader at the end of the partial file waits for more bytes. The last bytes
are released only after size and digest were found right, so a wrong file is never a complete
response. Every reader gets the error of a failed download. Where only the disk failed, each reader
passes the rest of the file through.
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

log = logging.getLogger("pytail.cache")

#: Seconds between two looks at a partial file that another process writes.
_POLL = 0.01


class DownloadReader:
    """A reader of a download; at the end of the partial file it waits for more."""

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
            self._passthrough = download.pass_through(self._position)
        finally:
            self._download = None
            download.release()


class Download:
    """The download of one file in this process, as writer or as follower of another process."""

    def __init__(
        self,
        file: File,
        partial: PartialFile,
        quota: Quota,
        source_at: Callable[[int, str | None], Source],
    ) -> None:
        """`source_at` returns a source from an offset on, of the file with an ETag (None: any)."""
        self.file, self._partial, self._quota, self._source_at = file, partial, quota, source_at
        #: Bytes of the whole file; None where the size is unknown before the end.
        self.size = file.size
        #: Bytes in the partial file.
        self.received = 0
        #: Whether another process writes the partial file, or did at first.
        self.is_follower = False
        #: Whether upstream, or the writing process, has sent the first bytes or the head.
        self.has_started = False
        self._source: Source | None = None
        self._verifier = FileVerifier(file)
        self._is_verified, self._has_commit_failed = False, False
        self._error: BaseException | None = None
        #: Set, and replaced by a new event, at each change that readers wait for.
        self._changed = Event()
        # The download itself and each reader; the last of them closes the partial file.
        self._users, self._is_closed = 1, False

    @property
    def descriptor(self) -> int:
        """The descriptor of the partial file, readable up to the `available` bytes."""
        return self._partial.descriptor

    @property
    def is_stored(self) -> bool:
        """Whether the file is complete, verified and stored."""
        return self._is_verified and not self._has_commit_failed

    @property
    def is_finished(self) -> bool:
        """Whether no more bytes follow."""
        return self._is_verified or self._error is not None

    def prepare(self, size: Callable[[], int | None]) -> None:
        """Ask upstream where this process writes the file; else find out the size by `size`.

        Raises NotStored, FileGone, DigestMismatch or an UpstreamError.
        """
        self.is_follower = not self._partial.is_writer
        if not self.is_follower:
            self._start()
        elif self.size is None and not self.file.is_sidecar:
            self.size = size()

    def reader(self) -> DownloadReader | None:
        """Return a reader at the start; None where the download is finished and the file stored.

        Raises the error of the download.
        """
        if self._is_closed and self._error is None:
            return None
        self._users += 1
        try:
            # The head of a response needs the length. For a wrong sidecar, which is small, an error
            # status is better than an interrupted response.
            needs_all = self.size is None or self.file.is_sidecar
            while not self.is_finished and (needs_all or not self.has_started):
                self._changed.wait()
            self._raise_error()
        except BaseException:
            self.release()
            raise
        return DownloadReader(self)

    def wait(self, advance: Callable[[int], object]) -> None:
        """Wait until the file is stored; `advance` is called with the number of new bytes.

        Raises the error of the download, or NotStored.
        """
        reported = 0
        while not self.is_finished:
            changed = self._changed
            advance(self.received - reported)
            reported = self.received
            changed.wait()
        advance(self.received - reported)
        self._raise_error()
        if not self.is_stored:
            raise NotStored("the downloaded file cannot be moved into the store")

    def release(self) -> None:
        """Count one user less; the last one closes the partial file."""
        self._users -= 1
        if self._users == 0 and not self._is_closed:
            self._is_closed = True
            self._partial.close()

    def available(self, position: int) -> int:
        """Return the number of bytes from `position` on, as soon as there is one; 0 at the end.

        Raises NotStored where the disk or the quota ended the download, else DownloadInterrupted.
        """
        while True:
            changed, available = self._changed, self._released() - position
            if available > 0:
                return available
            self._raise_if_interrupted()
            if self._is_verified:
                return 0
            changed.wait()

    def read(self, position: int, size: int) -> bytes:
        """Return up to `size` bytes from `position` on, as soon as there is one; empty at the end.

        Raises the errors of `available`.
        """
        if size <= 0:
            return b""
        size = min(size, self.available(position))
        data = os.pread(self._partial.descriptor, size, position)
        if size and not data:
            raise DownloadInterrupted(self.file.filename, "the partial file was truncated")
        return data

    def pass_through(self, position: int) -> PassThrough:
        """Return the file from `position` on, without storing it. Raises DownloadInterrupted."""
        etag = None if self._source is None else self._source.etag
        verifier = FileVerifier(self.file)
        if not verifier.has_digest and etag is None and position > 0:
            # Upstream may have another file by now, and the reader has bytes of this one.
            raise DownloadInterrupted(self.file.filename, _reason(self._error))
        try:
            off_loop(
                lambda: verifier.add_start(self._partial.descriptor, min(position, self.received))
            )
            source = self._source_at(verifier.size, etag)
        except PytailError as error:
            raise DownloadInterrupted(self.file.filename, str(error)) from error
        stream = PassThrough(self.file, source, verifier, self.size)
        stream.skip(position - verifier.size)
        return stream

    def run(self) -> None:
        """Download, verify and store the file; never raises."""
        started = time.monotonic()
        try:
            if not self._partial.is_writer:
                self._follow()
            if not self._is_verified:
                self._receive()
                self._verifier.verify(self.size)
                off_loop(self._commit)
                self._finish(started)
        except BaseException as error:  # noqa: BLE001
            # Readers need the error, and gevent's Timeout and GreenletExit are no Exceptions.
            self._fail(error)
        finally:
            self._close(is_stored=self.is_stored)

    def abandon(self, error: BaseException | None = None) -> None:
        """Clean up a download that is not needed, or that could not start because of `error`."""
        if not (self.received and isinstance(error, UpstreamError)):
            # After an error of upstream, a later download resumes a partial file.
            self._partial.discard()
        if isinstance(error, NotStored):
            self._quota.report(error, self.size)
        self._close(is_stored=False)

    def _start(self) -> None:
        """Ask upstream for the bytes that the partial file does not have; this process writes."""
        try:
            self._resume_partial()
            self._quota.reserve(self._partial, self.size or 0)
            if not (self._verifier.size and self._verifier.matches):
                self._source = self._source_at(self._verifier.size, None)
                self._compare_size(self._source.size)
        except OSError as error:
            if isinstance(error, PytailError):
                raise
            raise NotStored(str(error)) from error
        self.has_started = True

    def _compare_size(self, size: int | None) -> None:
        """Compare the `size` in the head of the response with that of the page."""
        if self.size is None and size is not None:
            self.size = size
            self._quota.reserve(self._partial, size)
        if size not in (None, self.size):
            raise DigestMismatch(self.file.filename, "bytes", str(self.size), str(size))

    def _close(self, *, is_stored: bool) -> None:
        self._quota.release(self._partial, is_stored=is_stored)
        if self._source is not None:
            self._source.close()
        self._notify()
        self.release()

    def _resume_partial(self) -> None:
        """Verify the start of the partial file that another process left; else restart the file.

        Only a file with a digest is resumed.
        """
        left = self._partial.size
        if left and self._verifier.has_digest and (self.size is None or left <= self.size):
            off_loop(lambda: self._verifier.add_start(self._partial.descriptor, left))
            if self.size != left or self._verifier.matches:
                log.info(
                    "resuming %s at %d, from the partial file of a process that ended",
                    self.file.key,
                    left,
                )
                self.received = left
                return
        self._verifier = FileVerifier(self.file)
        if self.received:
            # Readers have bytes of the old partial file, which the new one may not continue.
            raise DownloadAbandoned
        if left:
            self._partial.restart()
            if not self._partial.is_writer:
                raise DownloadAbandoned

    def _follow(self) -> None:
        """Follow the partial file until it is stored, or until this process has to write it."""
        while not self._partial.try_lock():
            state, size = self._partial.state(), self._partial.size
            if state is PartialState.ABANDONED:
                raise DownloadAbandoned
            if state is PartialState.COMMITTED:
                self.size = self.received = self._partial.size
                self._is_verified = self.has_started = True
                return
            if size > self.received:
                self.received, self.has_started = size, True
                self._notify()
            gevent.sleep(_POLL)
        log.warning("the process that downloaded %s ended, resuming", self.file.key)
        self._start()

    def _receive(self) -> None:
        if self._source is None:
            return
        with contextlib.closing(read_ahead(self._source)) as received:
            for chunks in received:
                off_loop(partial(self._write, chunks))
                self.received = self._verifier.size
                if self.size is not None and self.received > self.size:
                    break
                if self.size is None:
                    self._quota.reserve(self._partial, self.received)
                self._notify()
        if self.size is None:
            self.size = self.received

    def _write(self, chunks: list[bytes]) -> None:
        try:
            for chunk in chunks:
                self._partial.write(chunk)
                self._verifier.add(chunk)
        except OSError as error:
            raise NotStored(str(error)) from error
        if self._partial.size != self._verifier.size:
            # Readers would get other bytes than those that were verified.
            raise DownloadInterrupted(
                self.file.filename, "another program changed the partial file"
            )

    def _commit(self) -> None:
        try:
            self._partial.commit()
        except OSError as error:
            # The bytes are complete and right, and the readers have the partial file open.
            self._has_commit_failed = True
            self._quota.report(NotStored(str(error)), self.size)
            self._partial.discard()

    def _finish(self, started: float) -> None:
        self._is_verified = True
        what = "downloaded, not stored:" if self._has_commit_failed else "stored"
        seconds = time.monotonic() - started
        log.info("%s %s, %d bytes in %.2f s", what, self.file.key, self.received, seconds)

    def _fail(self, error: BaseException) -> None:
        self._error = error
        self._partial.discard()
        if isinstance(error, NotStored):
            self._quota.report(error, self.size)
        else:
            log.error("cannot download %s: %s", self.file.key, _reason(error))

    def _raise_error(self) -> None:
        if isinstance(self._error, PytailError):
            raise self._error
        self._raise_if_interrupted()

    def _raise_if_interrupted(self) -> None:
        """Raise NotStored as it is, and any other error as DownloadInterrupted."""
        if isinstance(self._error, NotStored):
            raise self._error
        if self._error is not None:
            raise DownloadInterrupted(self.file.filename, _reason(self._error)) from self._error

    def _released(self) -> int:
        """Return how many bytes from the start readers may have."""
        if self._is_verified:
            return self.received
        if self.size is None:
            return 0
        return min(self.received, self.size - WITHHELD)

    def _notify(self) -> None:
        changed, self._changed = self._changed, Event()
        changed.set()


def _reason(error: BaseException | None) -> str:
    return str(error) or repr(error)
