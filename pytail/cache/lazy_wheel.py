"""Read the core metadata (PEP 658) out of a wheel (PEP 427) from a few ranges of its bytes.

A wheel is a zip file: the directory at its end says where ``METADATA`` is. `Reading` names the next
range that is needed and takes its bytes. It does no I/O, and holds one piece of the directory at a
time: the zipfile module takes 600 bytes for each member, and a wheel can have a million of them.
"""

from __future__ import annotations

import bz2
import lzma
import re
import struct
import zlib
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import NoReturn, TypeAlias

from pytail.errors import WheelUnreadable
from pytail.model import LARGEST_SIDECAR

#: Bytes at the end of a wheel that nearly always include the whole directory.
END_SIZE = 32 * 1024
#: Bytes; a larger directory is refused. A million members with short names take 64 MB.
_LARGEST_DIRECTORY = 256 * 1024 * 1024
#: Bytes of the directory that are read at once, and in memory at a time.
_PIECE = 4 * 1024 * 1024
#: Bytes of memory for the dictionary of LZMA; liblzma writes up to 64 MiB.
_LZMA_MEMORY = 80 * 1024 * 1024
#: Bytes that are read with the header of the member for its extra field.
_EXTRA = 512
_NAME = re.compile(rb"[^/]+\.dist-info/METADATA")
_NAME_END = b".dist-info/METADATA"

# The records of a zip file (APPNOTE.TXT, section 4.3).
_END, _END_MARK = struct.Struct("<4s8xLLH"), b"PK\5\6"
_LOCATOR, _LOCATOR_MARK = struct.Struct("<4s16x"), b"PK\6\7"
_END64, _END64_MARK = struct.Struct("<4s36xQQ"), b"PK\6\6"
_ENTRY, _ENTRY_MARK = struct.Struct("<4s4xHH4xLLLHHH8xL"), b"PK\1\2"
_LENGTHS = struct.Struct("<HHH")
_HEADER, _HEADER_MARK = struct.Struct("<4s22xHH"), b"PK\3\4"
#: The longest comment, with the end record before it.
_LONGEST_END = _END.size + 0xFFFF
_IN_EXTRA = 0xFFFFFFFF
#: Flags of a member: encrypted, a patch, strongly encrypted.
_UNSUPPORTED = 0x01 | 0x20 | 0x40

_Range: TypeAlias = "tuple[int, int]"
_Reads: TypeAlias = "Generator[_Range, bytes, bytes]"


@dataclass(frozen=True, slots=True)
class _Member:
    """An entry of the directory; sizes and offset are in bytes."""

    name: bytes
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    offset: int


class _Damaged(Exception):
    """The bytes are not those of a wheel with one METADATA, for the given reason."""


class Reading:
    """The reading of the core metadata of one wheel of `size` bytes."""

    def __init__(self, size: int, filename: str) -> None:
        self._filename = filename
        self._reads = _read(_End(size))
        #: Start and stop of the next bytes that are needed; None once `metadata` is complete.
        self.needed: _Range | None = (0, 0)
        #: The bytes of the METADATA.
        self.metadata = b""
        self._advance(lambda: next(self._reads))

    def add(self, data: bytes) -> None:
        """Take the bytes of the `needed` range.

        Raises WheelUnreadable. Computes up to a second, so the event loop calls it in a thread.
        """
        assert self.needed is not None
        start, stop = self.needed
        if len(data) != stop - start:
            self._refuse(f"it ended before byte {stop}")
        self._advance(lambda: self._reads.send(data))

    def _advance(self, proceed: Callable[[], _Range]) -> None:
        try:
            self.needed = proceed()
        except StopIteration as done:
            self.needed, self.metadata = None, done.value
        except (_Damaged, struct.error) as error:
            self._refuse(str(error))

    def _refuse(self, reason: str) -> NoReturn:
        self._reads.close()
        raise WheelUnreadable(self._filename, reason) from None


class _End:
    """Reads a wheel, and keeps its last bytes, which often are all that is needed."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._start, self._data = size, b""

    def grow(self, size: int) -> _Reads:
        """Return the last `size` bytes, and keep them."""
        start = max(0, self.size - size)
        self._data = yield from self.read(start, self.size)
        self._start = start
        return self._data

    def read(self, start: int, stop: int) -> _Reads:
        """Return the bytes from `start` to before `stop`."""
        if not 0 <= start <= stop <= self.size:
            raise _Damaged(f"it has no bytes from {start} to {stop}")
        known = self._data[max(0, start - self._start) : max(0, stop - self._start)]
        missing = min(stop, self._start)
        if start >= missing:
            return known
        data = yield start, missing
        return data + known


def _read(wheel: _End) -> _Reads:
    start, stop, shift = yield from _directory(wheel)
    member = yield from _member(wheel, start, stop)
    return (yield from _content(wheel, member, member.offset + shift))


def _directory(wheel: _End) -> Generator[_Range, bytes, tuple[int, int, int]]:
    """Return start and stop of the directory, and the number of bytes before the zip file."""
    end = yield from wheel.grow(END_SIZE)
    found = end.rfind(_END_MARK)
    if found < 0 and len(end) < wheel.size:
        end = yield from wheel.grow(_LONGEST_END)
        found = end.rfind(_END_MARK)
    if found < 0 or found + _END.size > len(end):
        raise _Damaged("it is not a zip file")
    _, size, offset, _ = _END.unpack_from(end, found)
    stop = wheel.size - len(end) + found
    locator = stop - _LOCATOR.size
    if locator >= _END64.size:
        record = yield from wheel.read(locator - _END64.size, stop)
        if record.startswith(_END64_MARK) and record[_END64.size :].startswith(_LOCATOR_MARK):
            _, size, offset = _END64.unpack_from(record)
            stop = locator - _END64.size
    start = stop - size
    # As in zipfile, and so in pip: other data may stand before the zip file.
    if start < 0 or offset > start:
        raise _Damaged("its directory is not where it says")
    if size > _LARGEST_DIRECTORY:
        raise _Damaged(f"its directory is larger than {_LARGEST_DIRECTORY} bytes")
    return start, stop, start - offset


def _member(wheel: _End, position: int, stop: int) -> Generator[_Range, bytes, _Member]:
    """Return the METADATA at the top, the last of that name as in zipfile, and so in pip."""
    found: _Member | None = None
    piece, at = b"", 0
    while position < stop:
        piece = piece[at:]
        more = yield from wheel.read(position + len(piece), min(stop, position + _PIECE))
        piece, at = piece + more, 0
        at, entries = _entries(piece)
        if not at:
            raise _Damaged("its directory is damaged")
        position += at
        for entry in entries:
            if found is not None and entry.name != found.name:
                raise _Damaged("it has more than one METADATA at the top")
            found = entry
    if found is None:
        raise _Damaged("it has no METADATA at the top")
    return found


def _entries(piece: bytes) -> tuple[int, list[_Member]]:
    """Return the bytes of the whole entries in `piece`, and those entries that are a METADATA."""
    at, end, found = 0, len(piece), []
    # A few operations for each of a million entries.
    lengths, fixed, tail = _LENGTHS.unpack_from, _ENTRY.size, len(_NAME_END)
    while at + fixed <= end:
        name, extra, comment = lengths(piece, at + 28)
        start = at + fixed
        after = start + name + extra + comment
        if after > end:
            break
        if piece[at : at + 4] != _ENTRY_MARK:
            raise _Damaged("its directory is damaged")
        if name > tail and piece.startswith(_NAME_END, start + name - tail):
            full = piece[start : start + name]
            # Only at the top: directories further down can contain vendored distributions.
            if _NAME.fullmatch(full):
                found.append(_entry(piece, at, full, piece[start + name : start + name + extra]))
        at = after
    return at, found


def _entry(piece: bytes, at: int, name: bytes, extra: bytes) -> _Member:
    _, flags, method, crc, packed, size, *_, offset = _ENTRY.unpack_from(piece, at)
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<HH", extra)
        if kind == 1:
            # ZIP64: those of the three numbers that do not fit in four bytes, in this order.
            numbers = iter(struct.unpack_from(f"<{min(length, 24) // 8}Q", extra, 4))
            size, packed, offset = (
                next(numbers, number) if number == _IN_EXTRA else number
                for number in (size, packed, offset)
            )
        extra = extra[4 + length :]
    return _Member(name, flags, method, crc, packed, size, offset)


def _content(wheel: _End, member: _Member, offset: int) -> _Reads:
    """Return the content of `member`, whose header is at `offset`."""
    if max(member.packed, member.size) > LARGEST_SIDECAR:
        raise _Damaged(f"METADATA is larger than {LARGEST_SIDECAR} bytes")
    if member.flags & _UNSUPPORTED:
        raise _Damaged("METADATA is encrypted")
    header = _HEADER.size + len(member.name)
    likely = min(wheel.size, offset + header + _EXTRA + member.packed)
    data = yield from wheel.read(offset, likely)
    mark, name, extra = _HEADER.unpack_from(data)
    if mark != _HEADER_MARK or data[_HEADER.size : header] != member.name:
        raise _Damaged("METADATA is not where its directory says")
    start = _HEADER.size + name + extra
    if len(data) < start + member.packed:
        data += yield from wheel.read(offset + len(data), offset + start + member.packed)
    return _unpacked(member, data[start : start + member.packed])


def _unpacked(member: _Member, data: bytes) -> bytes:
    """Return the decompressed `data`; at most one byte more than `member` has is decompressed."""
    limit = member.size + 1
    try:
        if member.method == 0:
            content = data
        elif member.method == 8:
            content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, limit)
        elif member.method == 12:
            content = bz2.BZ2Decompressor().decompress(data, limit)
        elif member.method == 14:
            content = _unpacked_lzma(data, limit)
        else:
            raise _Damaged(f"METADATA has the compression method {member.method}")
    except (zlib.error, lzma.LZMAError, OSError, EOFError, ValueError) as error:
        raise _Damaged(f"METADATA is damaged: {error}") from error
    if len(content) != member.size or zlib.crc32(content) != member.crc:
        raise _Damaged("METADATA is damaged: bad CRC-32 or size")
    return content


def _unpacked_lzma(data: bytes, limit: int) -> bytes:
    # Version and length of the properties, the properties, the data (APPNOTE.TXT, section 5.8.8).
    # The format of lzma(1) has the size in between; here it is unknown.
    _, length = struct.unpack_from("<2sH", data)
    alone = data[4 : 4 + length] + b"\xff" * 8 + data[4 + length :]
    decompressor = lzma.LZMADecompressor(lzma.FORMAT_ALONE, _LZMA_MEMORY)
    return decompressor.decompress(alone, limit)
