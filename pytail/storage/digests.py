"""Digests: verifies a file by its digest and size, and has the one loop that hashes a file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator

from pytail.errors import DigestMismatch, DownloadInterrupted
from pytail.model import DIGEST_LENGTHS, File, digest_in

_CHUNK = 1024 * 1024


def expected_digest(file: File) -> tuple[str | None, str]:
    """Return the best known hash algorithm of `file` and the digest, or the start of the digest.

    Where no page lists the file, its directory gives the digest, or the first 16 digits of its sha256.
    The result is ``(None, "")`` when no digest is known.
    """
    algorithm = next((name for name in DIGEST_LENGTHS if name in file.hashes), None)
    if algorithm is not None:
        return algorithm, file.hashes[algorithm]
    # The directory of a sidecar has the digest of the wheel or sdist.
    known = None if file.is_sidecar else digest_in(file.directory)
    return (None, "") if known is None else known


def chunks_of(descriptor: int, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
    """Yield the bytes of an open file from `start` to `stop` (None: its end), up to 1 MiB at once.

    The position of the descriptor does not matter and does not change. Ends early when the file is
    shorter than `stop`. Raises OSError.
    """
    while stop is None or start < stop:
        data = os.pread(descriptor, _CHUNK if stop is None else min(_CHUNK, stop - start), start)
        if not data:
            return
        start += len(data)
        yield data


def hash_file(
    descriptor: int,
    algorithm: str | None,
    advance: Callable[[int], object] = lambda _: None,
) -> tuple[int, str]:
    """Return the size of an open file in bytes and its hex digest.

    The digest is "" where `algorithm` is None. Calls `advance` with the size of each chunk after the
    chunk is read. Raises OSError.
    """
    digest = None if algorithm is None else hashlib.new(algorithm, usedforsecurity=False)
    size = 0
    for data in chunks_of(descriptor):
        size += len(data)
        if digest is not None:
            digest.update(data)
        advance(len(data))
    return size, "" if digest is None else digest.hexdigest()


class FileVerifier:
    """Counts and hashes the bytes of one file, and compares them with what its page lists."""

    def __init__(self, file: File) -> None:
        self._file = file
        self._algorithm, self._expected = expected_digest(file)
        self._digest = None
        if self._algorithm is not None:
            self._digest = hashlib.new(self._algorithm, usedforsecurity=False)
        #: Bytes added so far.
        self.size = 0

    @property
    def has_digest(self) -> bool:
        """Whether a digest is known, so that `verify` compares more than the size."""
        return self._digest is not None

    @property
    def matches(self) -> bool:
        """Whether the bytes added so far have the expected digest; False when none is known."""
        return self._algorithm is not None and self._found().startswith(self._expected)

    def add(self, data: bytes) -> None:
        """Add the next bytes of the file."""
        self.size += len(data)
        if self._digest is not None:
            self._digest.update(data)

    def add_start(self, descriptor: int, size: int) -> None:
        """Add bytes of an open file until `size` bytes are added; reads the disk, so use a thread.

        Raises DownloadInterrupted where the file is shorter, and OSError.
        """
        for data in chunks_of(descriptor, self.size, size):
            self.add(data)
        if self.size < size:
            raise DownloadInterrupted(self._file.filename, "the partial file was truncated")

    def verify(self, size: int | None) -> None:
        """Raise an error unless the added bytes are the whole file; `size` as in `verify_size`.

        Raises DownloadInterrupted where there are none, else DigestMismatch.
        """
        if self.size == 0 and self._file.size != 0:
            raise DownloadInterrupted(self._file.filename, "upstream sent an empty file")
        self.verify_size(size)
        if self._algorithm is not None and not self.matches:
            expected, found = self._expected, self._found()
            raise DigestMismatch(self._file.filename, self._algorithm, expected, found)

    def verify_start(self, size: int | None) -> None:
        """Raise DigestMismatch where more than `size` bytes were added; None accepts any number."""
        if size is not None and self.size > size:
            self.verify_size(size)

    def verify_size(self, size: int | None) -> None:
        """Raise DigestMismatch unless `size` bytes were added; None accepts any number."""
        if size not in (None, self.size):
            raise DigestMismatch(self._file.filename, "bytes", str(size), str(self.size))

    def _found(self) -> str:
        return self._digest.hexdigest() if self._digest is not None else ""
