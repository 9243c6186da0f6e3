"""Core metadata read out of a wheel from a few ranges of its bytes."""

from __future__ import annotations

import io
import os
import zipfile

import pytest

from pytail.cache.lazy_wheel import (
    END_SIZE,
    LARGEST_METADATA,
    RangeMissing,
    WheelRanges,
    core_metadata,
)
from pytail.errors import WheelUnreadable
from tests.support.fakeindex import wheel

NAME = "demo-1.0-py3-none-any.whl"


def packed(members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()


def read_remotely(data: bytes) -> tuple[bytes, list[tuple[int, int]]]:
    """Return the core metadata, and the ranges that were read."""
    ranges, asked = WheelRanges(len(data)), [(max(0, len(data) - END_SIZE), len(data))]
    while True:
        start, stop = asked[-1]
        assert 0 <= start < stop <= len(data)
        ranges.add(start, data[start:stop])
        try:
            return core_metadata(ranges, NAME), asked
        except RangeMissing as missing:
            asked.append((missing.start, missing.stop))


def test_a_whole_wheel_gives_its_metadata():
    dist = wheel("demo")
    assert core_metadata(io.BytesIO(dist.data), dist.filename) == dist.metadata  # item 61


@pytest.mark.parametrize("size", [0, 10_000, 5_000_000])
def test_a_few_ranges_give_the_same_metadata(size: int):
    dist = wheel("demo", payload=os.urandom(size))
    data, asked = read_remotely(dist.data)
    assert data == dist.metadata
    assert len(asked) <= 3


@pytest.mark.parametrize(
    "compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2]
)
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
    assert core_metadata(io.BytesIO(packed(members)), NAME) == b"dist-info"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PK",
        os.urandom(1000),
        packed({}),
        packed({"a-1.dist-info/METADATA": b"", "b-1.dist-info/METADATA": b""}),
        packed({"demo-1.0.dist-info/METADATA": bytes(LARGEST_METADATA + 1)}),
        packed({"demo-1.0.dist-info/METADATA": b"x" * 1000}).replace(b"x", b"y", 1)[:-5],
    ],
    ids=["empty", "short", "noise", "none", "two", "bomb", "truncated"],
)
def test_a_wheel_without_usable_metadata_is_unreadable(data: bytes):
    with pytest.raises(WheelUnreadable):
        core_metadata(io.BytesIO(data), NAME)


def test_a_flipped_bit_is_detected():
    data = bytearray(packed({"demo-1.0.dist-info/METADATA": b"x" * 1000}, zipfile.ZIP_STORED))
    data[data.index(b"xxx")] ^= 1
    with pytest.raises(WheelUnreadable, match="CRC"):
        core_metadata(io.BytesIO(bytes(data)), NAME)


def test_a_read_beyond_the_ranges_names_the_missing_range():
    ranges = WheelRanges(100_000)
    ranges.add(0, b"abc")
    assert ranges.read(2) == b"ab"
    with pytest.raises(RangeMissing) as missing:
        ranges.read(2)
    assert missing.value.start == 2
    assert missing.value.stop > 4
    ranges.seek(0, io.SEEK_END)
    assert ranges.read(10) == b""
