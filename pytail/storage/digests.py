"""Whether bytes are the file they claim to be: by the best digest its page gives, and by length."""

from __future__ import annotations

import hashlib
import os

from pytail.errors import DigestMismatch, DownloadInterrupted
from pytail.model import DIGEST_LENGTHS, File

_PIECE = 1024 * 1024


def expected_digest(file: File) -> tuple[str | None, str]:
    """The best kind of digest that is known of `file`, None where none is, and its first digits."""
    kind = next((name for name in DIGEST_LENGTHS if name in file.hashes), None)
    if kind is not None:
        return kind, file.hashes[kind]
    if not file.is_sidecar and not file.directory.startswith("_"):
        # No page lists it any more, but its shelf is the beginning of its digest.
        return "sha256", file.directory.replace("/", "")
    return None, ""


class FileVerifier:
    """What has come of one file so far."""

    def __init__(self, file: File) -> None:
        self._file = file
        self._kind, self._expected = expected_digest(file)
        self._digest = None
        if self._kind is not None:
            self._digest = hashlib.new(self._kind, usedforsecurity=False)
        #: Bytes added.
        self.size = 0

    @property
    def has_digest(self) -> bool:
        """Whether more than the length is checked."""
        return self._digest is not None

    @property
    def matches(self) -> bool:
        """Whether the bytes added are, by their digest, the whole file."""
        return self._kind is not None and self._found().startswith(self._expected)

    def add(self, data: bytes) -> None:
        """More of the file."""
        self.size += len(data)
        if self._digest is not None:
            self._digest.update(data)

    def add_start(self, descriptor: int, size: int) -> None:
        """The first `size` bytes of an open file, not of the page cache only: takes a while.

        Raises DownloadInterrupted where it has fewer.
        """
        while self.size < size:
            data = os.pread(descriptor, min(_PIECE, size - self.size), self.size)
            if not data:
                raise DownloadInterrupted(self._file.filename, "the partial file was truncated")
            self.add(data)

    def verify(self, size: int | None) -> None:
        """Raise DigestMismatch or DownloadInterrupted unless this is the file, of `size` bytes in all."""
        if self.size == 0 and self._file.size != 0:
            raise DownloadInterrupted(self._file.filename, "upstream sent nothing")
        self.verify_size(size)
        if self._kind is not None and not self.matches:
            expected, found = self._expected, self._found()
            raise DigestMismatch(self._file.filename, self._kind, expected, found)

    def verify_size(self, size: int | None) -> None:
        """Raise DigestMismatch unless `size` bytes were added; None when nobody knows."""
        if size not in (None, self.size):
            raise DigestMismatch(self._file.filename, "bytes", str(size), str(self.size))

    def _found(self) -> str:
        return self._digest.hexdigest() if self._digest is not None else ""
