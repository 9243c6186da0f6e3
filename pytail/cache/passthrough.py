"""Pass a file through: send it to one client without storing it.

A file that cannot be stored is passed through, and so is a range far ahead of a download. This
takes no disk space, and memory for one chunk. A whole file is verified: its last bytes are sent
only after the whole file was found right.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from typing import TypeAlias

from pytail.errors import DownloadInterrupted, PytailError, UpstreamUnreachable
from pytail.model import File, Source
from pytail.runtime.timeouts import time_limit
from pytail.storage.archives import Structure
from pytail.storage.digests import FileVerifier

log = logging.getLogger("pytail.cache")

#: Returns a source of a file from an offset on, or from an earlier one; of an ETag (None: any).
Opener: TypeAlias = Callable[[int, str | None], Source]

#: Bytes at the end of a file that are sent only after the whole file was verified.
WITHHELD = 1024


class PassThrough:
    """A stream of the bytes of `source`, for one reader."""

    def __init__(
        self, file: File, source: Source, verifier: FileVerifier | None, size: int | None
    ) -> None:
        """`verifier` has the bytes before those of `source`; None for a range, which has no digest.

        `size` is that of the whole file in bytes, None where it is unknown.
        """
        self._file, self._source, self._verifier, self._size = file, source, verifier, size
        self._structure = None
        if verifier is not None and not verifier.has_digest and verifier.size == 0:
            self._structure = Structure(file.filename)
        self._received, self._is_at_end = b"", False

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes as soon as there is one; empty at the end of the file.

        Raises DownloadInterrupted where the source fails or the file is wrong.
        """
        try:
            while self._released() <= 0 < size and not self._is_at_end:
                self._receive()
        except PytailError as error:
            log.error("response with %s interrupted: %s", self._file.key, error)
            raise DownloadInterrupted(self._file.filename, error) from error
        released = max(0, min(size, self._released()))
        chunk, self._received = self._received[:released], self._received[released:]
        return chunk

    def sendable(self, _size: int) -> None:
        """Return None: no open file has the bytes."""

    def advance(self, count: int) -> None:
        """Read and drop `count` bytes. Raises DownloadInterrupted."""
        while count > 0:
            count -= len(self.read(count)) or count

    def close(self) -> None:
        """Close the source."""
        self._source.close()

    def _receive(self) -> None:
        chunk = self._source.read()
        self._is_at_end = not chunk
        if self._structure is not None:
            self._structure.add(chunk)
        if self._verifier is not None:
            self._verifier.add(chunk)
            if self._is_at_end:
                self._verifier.verify(self._size)
                if self._structure is not None:
                    self._structure.verify()
            else:
                self._verifier.verify_start(self._size)
        self._received += chunk

    def _released(self) -> int:
        """Return how many of the received bytes may be sent; below 1 for none."""
        if self._verifier is None or self._is_at_end:
            return len(self._received)
        return len(self._received) - WITHHELD


def pass_through(
    file: File,
    source_at: Opener,
    start: int,
    *,
    verifier: FileVerifier | None = None,
    etag: str | None = None,
) -> PassThrough:
    """Return the bytes of `file` from `start` on, verified at the end; the caller closes the result.

    `verifier` has the first bytes, up to `start` at most (None: no bytes). Where an error ends this
    call, nothing stays open. Raises DownloadInterrupted, or what `source_at` raises.
    """
    verifier = FileVerifier(file) if verifier is None else verifier
    source = source_at(verifier.size, etag)
    stream = PassThrough(file, source, verifier, source.size)
    try:
        stream.advance(start - verifier.size)
    except BaseException:
        stream.close()
        raise
    return stream


def client_wait(seconds: float, file: File) -> contextlib.AbstractContextManager[None]:
    """Raise UpstreamUnreachable from the block after `seconds`, the time that clients wait."""
    reason = f"no response within {seconds:g} seconds"
    return time_limit(seconds, UpstreamUnreachable(file.url, reason))
