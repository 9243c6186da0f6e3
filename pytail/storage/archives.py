"""Looks at the type and structure of wheels and sdists that no digest can verify.

A login page, a JSON error or a body without its end is no archive: a zip file begins and ends with
known signatures (APPNOTE.TXT, section 4.3), a compressed tar file begins with one (RFC 1952, ...).
"""

from __future__ import annotations

from pytail.errors import DownloadInterrupted

#: By the end of a filename, the first bytes of such a file.
_SIGNATURES: dict[str, tuple[bytes, ...]] = {
    ".whl": (b"PK\x03\x04",),
    ".zip": (b"PK\x03\x04", b"PK\x05\x06"),
    ".egg": (b"PK\x03\x04",),
    ".tar.gz": (b"\x1f\x8b\x08",),
    ".tgz": (b"\x1f\x8b\x08",),
    ".tar.bz2": (b"BZh",),
    ".tbz": (b"BZh",),
    ".tar.xz": (b"\xfd7zXZ\x00",),
    ".txz": (b"\xfd7zXZ\x00",),
    ".tar.zst": (b"\x28\xb5\x2f\xfd",),
    ".exe": (b"MZ",),
}
_ZIP = (".whl", ".zip", ".egg")
#: A zip file ends in this record, and in a comment of up to 65,535 bytes.
_END_OF_ZIP, _END_SIZE = b"PK\x05\x06", 22
_MAX_END = _END_SIZE + 65_535
_TAR_MAGIC, _TAR_MAGIC_AT = b"ustar", 257
#: First bytes to keep: those of a tar header.
_START = 512


class Structure:
    """Collects the first and the last bytes of a file, and compares them with its type."""

    def __init__(self, filename: str) -> None:
        self._filename, self._start, self._end, self._size = filename, b"", b"", 0

    def add(self, data: bytes) -> None:
        """Add the next bytes of the file."""
        if len(self._start) < _START:
            self._start += data[: _START - len(self._start)]
        self._size += len(data)
        if data and self._filename.endswith(_ZIP):
            self._end = (self._end + data[-_MAX_END:])[-_MAX_END:]

    def verify(self) -> None:
        """Raise DownloadInterrupted where the bytes are not a file of the type that the name says."""
        name = self._filename
        expected = next((found for end, found in _SIGNATURES.items() if name.endswith(end)), None)
        if expected is not None and not self._start.startswith(expected):
            raise DownloadInterrupted(name, "the bytes are not of the type that the filename says")
        if name.endswith(".tar") and self._start[_TAR_MAGIC_AT:][:5] != _TAR_MAGIC:
            raise DownloadInterrupted(name, "the bytes are not a tar file")
        if name.endswith(_ZIP) and not self._has_end():
            raise DownloadInterrupted(name, "the zip file is not complete")

    @property
    def has_end(self) -> bool:
        """Whether the last bytes show that the file is complete; False where they cannot."""
        return self._filename.endswith(_ZIP) and self._has_end()

    def _has_end(self) -> bool:
        # The record tells the length of the comment behind it, which is the rest of the file.
        at = self._end.rfind(_END_OF_ZIP)
        while at >= 0:
            record = self._end[at : at + _END_SIZE]
            comment = int.from_bytes(record[20:22], "little")
            if len(record) == _END_SIZE and at + _END_SIZE + comment == len(self._end):
                return True
            at = self._end.rfind(_END_OF_ZIP, 0, at)
        return False
