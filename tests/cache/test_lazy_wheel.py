"""Core metadata read out of a wheel from a few ranges of its bytes."""

from __future__ import annotations

import contextlib
import io
import os
import struct
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable

import pytest

from pytail.cache.lazy_wheel import Reading
from pytail.errors import WheelUnreadable
from pytail.model import LARGEST_SIDECAR
from tests.support.fakeindex import wheel

METADATA = "demo-1.0.dist-info/METADATA"
COMPRESSIONS = [
    zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA,
]  # fmt: skip
NAME = "demo-1.0-py3-none-any.whl"


def packed(members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()


def read_remotely(data: bytes) -> tuple[bytes, list[tuple[int, int]]]:
    """Return the core metadata, and the ranges that were read."""
    reading, asked = Reading(len(data), NAME), []
    while reading.needed is not None:
        start, stop = reading.needed
        assert 0 <= start < stop <= len(data)
        asked.append((start, stop))
        reading.add(data[start:stop])
    return reading.metadata, asked


def core_metadata(data: bytes) -> bytes:
    return read_remotely(data)[0]


def test_a_whole_wheel_gives_its_metadata():
    dist = wheel("demo")
    assert core_metadata(dist.data) == dist.metadata  # item 61


@pytest.mark.parametrize("size", [0, 10_000, 5_000_000])
def test_a_few_ranges_give_the_same_metadata(size: int):
    dist = wheel("demo", payload=os.urandom(size))
    data, asked = read_remotely(dist.data)
    assert data == dist.metadata
    assert len(asked) <= 3


@pytest.mark.parametrize("compression", COMPRESSIONS[:3])
def test_metadata_behind_a_long_directory_is_found(compression: int):
    metadata = os.urandom(40_000)
    members = {"demo-1.0.dist-info/METADATA": metadata}
    members |= {f"demo/{number:060}.py": b"" for number in range(5000)}
    data, asked = read_remotely(packed(members, compression))
    assert data == metadata
    assert len(asked) <= 5


def test_vendored_metadata_is_ignored():
    members = {f"demo-1.0.{where}/METADATA": where.encode() for where in ("dist-info", "data/x")}
    members["demo/_vendor/x-1.0.dist-info/METADATA"] = b"x"
    assert core_metadata(packed(members)) == b"dist-info"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PK",
        os.urandom(1000),
        packed({}),
        packed({"a-1.dist-info/METADATA": b"", "b-1.dist-info/METADATA": b""}),
        packed({"demo-1.0.dist-info/METADATA": bytes(LARGEST_SIDECAR + 1)}),
        packed({"demo-1.0.dist-info/METADATA": b"x" * 1000}).replace(b"x", b"y", 1)[:-5],
    ],
    ids=["empty", "short", "noise", "none", "two", "bomb", "truncated"],
)
def test_a_wheel_without_usable_metadata_is_unreadable(data: bytes):
    with pytest.raises(WheelUnreadable):
        core_metadata(data)


def test_a_flipped_bit_is_detected():
    data = bytearray(packed({"demo-1.0.dist-info/METADATA": b"x" * 1000}, zipfile.ZIP_STORED))
    data[data.index(b"xxx")] ^= 1
    with pytest.raises(WheelUnreadable, match="CRC"):
        core_metadata(bytes(data))


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_no_damage_raises_another_error(compression: int):
    whole = packed({METADATA: os.urandom(200) + b"x" * 1000, "demo/a.py": b"a"}, compression)
    for place in range(len(whole)):
        for flip in (0x01, 0x80, 0xFF):
            data = whole[:place] + bytes([whole[place] ^ flip]) + whole[place + 1 :]
            with contextlib.suppress(WheelUnreadable):
                core_metadata(data)


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_every_truncation_is_unreadable(compression: int):
    whole = packed({METADATA: b"x" * 1000, "demo/a.py": b"a"}, compression)
    for length in range(len(whole)):
        with pytest.raises(WheelUnreadable):
            core_metadata(whole[:length])


def test_a_lzma_member_that_wants_much_memory_is_unreadable():
    data = packed({METADATA: b"x" * 1000}, zipfile.ZIP_LZMA)
    header = struct.pack("<HB", 5, 0x5D)
    start = data.index(header) + len(header)
    damaged = data[:start] + struct.pack("<L", 1 << 30) + data[start + 4 :]
    with pytest.raises(WheelUnreadable, match="damaged"):
        core_metadata(damaged)


def test_a_bomb_that_hides_its_size_is_not_unpacked():
    bomb = zlib.compress(bytes(64 * 1024 * 1024), 9)[2:-4]
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(METADATA, bomb)
    data = bytearray(out.getvalue())
    entry = data.rindex(b"PK\1\2")
    data[entry + 10 : entry + 12] = struct.pack("<H", zipfile.ZIP_DEFLATED)
    data[entry + 24 : entry + 28] = struct.pack("<L", 1000)
    tracemalloc.start()
    with pytest.raises(WheelUnreadable):
        core_metadata(bytes(data))
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


@pytest.mark.parametrize("flag", [0x01, 0x20, 0x40])
def test_an_encrypted_member_is_unreadable(flag: int):
    data = bytearray(packed({METADATA: b"x"}))
    data[data.rindex(b"PK\1\2") + 8] |= flag
    with pytest.raises(WheelUnreadable, match="encrypted"):
        core_metadata(bytes(data))


@pytest.mark.parametrize("method", [1, 9, 93, 99, 65535])
def test_another_compression_is_unreadable(method: int):
    data = bytearray(packed({METADATA: b"x"}))
    entry = data.rindex(b"PK\1\2")
    data[entry + 10 : entry + 12] = struct.pack("<H", method)
    with pytest.raises(WheelUnreadable, match=f"compression method {method}"):
        core_metadata(bytes(data))


def with_comment(data: bytes, comment: bytes) -> bytes:
    out = io.BytesIO(data)
    with zipfile.ZipFile(out, "a") as archive:
        archive.comment = comment
    return out.getvalue()


@pytest.mark.parametrize(
    "change",
    [
        lambda data: with_comment(data, b"c" * 65535),
        lambda data: with_comment(data, b"c"),
        lambda data: b"#!/usr/bin/env python\n" * 3000 + data,
        lambda data: data + b"\n",
    ],
    ids=["long comment", "comment", "data before", "data behind"],
)
@pytest.mark.parametrize("size", [0, 100_000])
def test_a_zip_file_as_zipfile_reads_it_gives_its_metadata(
    change: Callable[[bytes], bytes], size: int
):
    data = change(packed({"demo/a.py": os.urandom(size), METADATA: b"x" * 100}))
    assert core_metadata(data) == zipfile.ZipFile(io.BytesIO(data)).read(METADATA)


def test_a_zip64_file_gives_its_metadata(monkeypatch: pytest.MonkeyPatch):
    # As zipfile writes files of more than 4 GiB.
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 10)
    data = packed({"demo/a.py": os.urandom(100_000), METADATA: b"x" * 100})
    assert b"PK\6\6" in data
    assert core_metadata(data) == b"x" * 100


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_of_two_members_of_one_name_the_last_counts_as_for_pip():
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(METADATA, b"first")
        archive.writestr("demo/a.py", b"")
        archive.writestr(METADATA, b"last")
    assert zipfile.ZipFile(out).read(METADATA) == b"last"
    assert core_metadata(out.getvalue()) == b"last"


def many_members(count: int) -> bytes:
    """Return a wheel with so many empty members, made without the memory that zipfile takes."""
    header = struct.pack("<4s22xHH", b"PK\3\4", 0, 0)
    start = packed({METADATA: b"x" * 100})
    directory_at = start.index(b"PK\1\2")
    entry = start[directory_at : start.index(b"PK\5\6")]
    members = b"".join(
        struct.pack("<4s24xHHH12x", b"PK\1\2", 18, 0, 0) + b"demo/m%09d.py" % number
        for number in range(count)
    )
    directory = entry + members
    offset = directory_at + len(header)
    end = struct.pack("<4s8xLLH", b"PK\5\6", len(directory), offset, 0)
    return start[:directory_at] + header + directory + end


def test_many_members_take_little_memory():
    data = many_members(200_000)
    tracemalloc.start()
    assert core_metadata(data) == b"x" * 100
    assert tracemalloc.get_traced_memory()[1] < 16_000_000
    tracemalloc.stop()


def test_a_directory_larger_than_the_file_is_unreadable():
    data = bytearray(packed({METADATA: b"x"}))
    data[-10:-6] = b"\xff" * 4
    with pytest.raises(WheelUnreadable, match="directory"):
        core_metadata(bytes(data))
