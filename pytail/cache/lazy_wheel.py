"""Core metadata read out of wheels (PEP 427, PEP 658), from as few of their bytes as will do.

A wheel is a zip file: its directory stands at the end and says where ``METADATA`` is. `WheelRanges` holds
the parts of a wheel that are at hand and says which one is missing, so that the reading itself does
no input or output and can run off the hub.
"""

from __future__ import annotations

import io
import re
import zipfile
import zlib

from pytail.errors import WheelUnreadable

#: Bytes; what is larger is no metadata.
LARGEST_METADATA = 8 * 1024 * 1024
#: Bytes at the end of a wheel in which its directory is nearly always found.
TAIL = 32 * 1024
#: Bytes to ask for at once at least: what follows a header is wanted next.
_STRETCH = 16 * 1024
_METADATA = re.compile(r"[^/]+\.dist-info/METADATA")


class RangeMissing(Exception):
    """A part of a wheel that is wanted next: bytes from `start` up to but not including `stop`."""

    def __init__(self, start: int, stop: int) -> None:
        super().__init__(start, stop)
        self.start, self.stop = start, stop


class WheelRanges(io.RawIOBase):
    """The parts of a file of `size` bytes that are at hand, read like the whole."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._pieces: dict[int, bytes] = {}
        self._position = 0

    def add(self, start: int, data: bytes) -> None:
        """Have the bytes from `start` on."""
        self._pieces[start] = data

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence]
        if base + offset < 0:
            # As for a plain file; zipfile relies on it.
            raise OSError(f"no position {base + offset}")
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def read(self, size: int = -1) -> bytes:
        """The next `size` bytes, fewer only at the end of the file. Raises RangeMissing."""
        stop = self.size if size < 0 else min(self.size, self._position + size)
        wanted = max(0, stop - self._position)
        for start, data in self._pieces.items():
            offset = self._position - start
            if wanted == 0 or (offset >= 0 and stop <= start + len(data)):
                self._position += wanted
                return data[offset : offset + wanted] if wanted else b""
        raise RangeMissing(self._position, min(self.size, max(stop, self._position + _STRETCH)))


def core_metadata(wheel: io.RawIOBase, filename: str) -> bytes:
    """The bytes of the one ``*.dist-info/METADATA`` of `wheel`.

    Raises RangeMissing for a part that is not at hand, and WheelUnreadable when there is none to be had.
    """
    wheel.seek(0)
    try:
        # zipfile only ever calls what Pieces has.
        with zipfile.ZipFile(wheel) as archive:
            member = _member(archive, filename)
            with archive.open(member) as opened:
                data = opened.read(LARGEST_METADATA + 1)
    except (zipfile.BadZipFile, zlib.error, OSError, ValueError, NotImplementedError) as error:
        raise WheelUnreadable(filename, str(error)) from error
    except (EOFError, RuntimeError) as error:
        raise WheelUnreadable(filename, str(error) or type(error).__name__) from error
    if len(data) > LARGEST_METADATA:
        raise WheelUnreadable(filename, f"its METADATA is over {LARGEST_METADATA} bytes")
    return data


def _member(archive: zipfile.ZipFile, filename: str) -> zipfile.ZipInfo:
    # Directories of others may be vendored deeper in; at the top is the wheel's own.
    members = [info for info in archive.infolist() if _METADATA.fullmatch(info.filename)]
    if len(members) != 1:
        raise WheelUnreadable(filename, f"it has {len(members)} METADATA at its top, not one")
    return members[0]
