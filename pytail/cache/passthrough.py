"""Bytes on their way to one client only, kept nowhere.

So go files of which the cache directory takes no more, and parts of a file that are far ahead of
what has come. It costs no disk and no more memory than a piece. A whole file is verified like one that is kept:
its last piece is let out only when digest and size agree.
"""

from __future__ import annotations

import logging

from pytail.errors import DigestMismatch, DownloadInterrupted, PytailError
from pytail.model import File, Source
from pytail.storage.digests import FileVerifier

log = logging.getLogger("pytail.cache")

#: Bytes at the end of a file that are let out only after the whole was verified.
WITHHELD = 1024


class PassThrough:
    """A stream of a file from `source`, for its one reader."""

    def __init__(
        self, file: File, source: Source, check: FileVerifier | None, size: int | None
    ) -> None:
        """`check` has what comes before; None for a part, which nothing tells to be right.

        `size` is that of the whole file in bytes, None when nobody says.
        """
        self._file, self._source, self._check, self._size = file, source, check, size
        self._ready, self._is_over = b"", False

    def read(self, size: int) -> bytes:
        """Up to `size` bytes, as soon as there is one; empty at the end of the file.

        Raises DownloadInterrupted when it cannot be brought to a right end.
        """
        try:
            while self._released() <= 0 < size and not self._is_over:
                self._receive()
        except PytailError as error:
            log.error("cut %s: %s", self._file.key, error)
            raise DownloadInterrupted(self._file.filename, str(error)) from error
        released = max(0, min(size, self._released()))
        piece, self._ready = self._ready[:released], self._ready[released:]
        return piece

    def skip(self, size: int) -> None:
        """Read over the next `size` bytes. Raises DownloadInterrupted."""
        while size > 0:
            size -= len(self.read(size)) or size

    def close(self) -> None:
        """Drop the connection."""
        self._source.close()

    def _receive(self) -> None:
        data = self._source.read()
        self._is_over = not data
        if self._check is not None:
            self._check.add(data)
            if self._is_over:
                self._check.verify(self._size)
            elif self._size is not None and self._check.size > self._size:
                self._check.verify_size(self._size)
        self._ready += data

    def _released(self) -> int:
        if self._check is None or self._is_over:
            return len(self._ready)
        return len(self._ready) - WITHHELD


def small(file: File, source: Source, most: int) -> bytes:
    """The whole of a small file, verified. Raises DigestMismatch, DownloadInterrupted or an UpstreamError."""
    check, data = FileVerifier(file), b""
    while piece := source.read():
        check.add(piece)
        data += piece
        if len(data) > most:
            raise DigestMismatch(file.filename, "bytes", f"{most} at most", f"over {most}")
    check.verify(file.size if file.size is not None else source.size)
    return data
