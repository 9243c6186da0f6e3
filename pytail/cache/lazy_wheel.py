"""Read the core metadata (PEP 658) out of a wheel (PEP 427) from a few ranges of its bytes.

A wheel is a zip file: the directory at its end says where ``METADATA`` is. `WheelRanges` has the
ranges that were fetched so far, and names the one that is missing. The functions here do no I/O.
"""

from __future__ import annotations

import io
import re
import zipfile
import zlib

from pytail.errors import WheelUnreadable

#: Bytes; a larger METADATA is refused.
LARGEST_METADATA = 8 * 1024 * 1024
#: Bytes at the end of a wheel that nearly always include the whole directory.
END_SIZE = 32 * 1024
#: Minimum length of the next range: the data of a member follows its header.
_MIN_RANGE = 16 * 1024
_METADATA = re.compile(r"[^/]+\.dist-info/METADATA")


class RangeMissing(Exception):
    """The next read needs the bytes from `start` up to but not including `stop`."""

    def __init__(self, start: int, stop: int) -> None:
        super().__init__(start, stop)
        self.start, self.stop = start, stop


class WheelRanges(io.RawIOBase):
    """A file of `size` bytes of which some ranges are present."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._ranges: dict[int, bytes] = {}
        self._position = 0

    def add(self, start: int, data: bytes) -> None:
        """Add the bytes from `start` on."""
        self._ranges[start] = data

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence]
        if base + offset < 0:
            # As a plain file does; zipfile relies on that.
            raise OSError(f"no position {base + offset}")
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def read(self, size: int = -1) -> bytes:
        """Return the next `size` bytes, fewer only at the end of the file. Raises RangeMissing."""
        stop = self.size if size < 0 else min(self.size, self._position + size)
        length = max(0, stop - self._position)
        for start, data in self._ranges.items():
            offset = self._position - start
            if length == 0 or (offset >= 0 and stop <= start + len(data)):
                self._position += length
                return data[offset : offset + length] if length else b""
        raise RangeMissing(self._position, min(self.size, max(stop, self._position + _MIN_RANGE)))


def core_metadata(wheel: io.RawIOBase, filename: str) -> bytes:
    """Return the bytes of the one ``*.dist-info/METADATA`` of `wheel`.

    Raises RangeMissing, or WheelUnreadable where `wheel` has no such member or is damaged.
    """
    wheel.seek(0)
    try:
        # zipfile calls only the methods that WheelRanges defines.
        with zipfile.ZipFile(wheel) as archive:
            member = _member(archive, filename)
            with archive.open(member) as opened:
                data = opened.read(LARGEST_METADATA + 1)
    except (zipfile.BadZipFile, zlib.error, OSError, ValueError, NotImplementedError) as error:
        raise WheelUnreadable(filename, str(error)) from error
    except (EOFError, RuntimeError) as error:
        raise WheelUnreadable(filename, str(error) or type(error).__name__) from error
    if len(data) > LARGEST_METADATA:
        raise WheelUnreadable(filename, f"METADATA is larger than {LARGEST_METADATA} bytes")
    return data


def _member(archive: zipfile.ZipFile, filename: str) -> zipfile.ZipInfo:
    # Only at the top: directories further down can contain vendored distributions.
    members = [info for info in archive.infolist() if _METADATA.fullmatch(info.filename)]
    if len(members) != 1:
        raise WheelUnreadable(filename, f"it has {len(members)} METADATA at the top, not 1")
    return members[0]
