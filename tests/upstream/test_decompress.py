"""gzip bodies are decoded within a limit."""

import gzip
import os
import tracemalloc

import pytest

from pytail.errors import PageUnreadable
from pytail.upstream.decompress import gunzip

MOST = 1_000_000
DATA = b"a page" * 1000 + os.urandom(100_000)


def flipped(data, position):
    """Return `data` with all bits of one byte inverted."""
    changed = bytearray(data)
    changed[position] ^= 0xFF
    return bytes(changed)


@pytest.mark.parametrize("data", [b"", b"x", DATA, bytes(MOST)], ids=len)
def test_a_compressed_body_is_decoded(data):
    assert gunzip(gzip.compress(data), MOST) == data


def test_the_members_of_a_body_are_joined():
    packed = b"".join(gzip.compress(DATA[start : start + 9999]) for start in range(0, 99_000, 9999))
    assert gunzip(packed, MOST) == DATA[:99_990]


@pytest.mark.parametrize("behind", [b"\0", bytes(1000), b"\x1f", b"garbage"])
@pytest.mark.parametrize("data", [b"", DATA], ids=len)
def test_bytes_after_the_last_member_are_ignored(data, behind):
    assert gunzip(gzip.compress(data) + behind, MOST) == data


@pytest.mark.parametrize("cut", [1, 8, 9, 50_000])
def test_an_incomplete_body_is_unreadable(cut):
    with pytest.raises(PageUnreadable, match="too early"):
        gunzip(gzip.compress(DATA)[:-cut], MOST)
    with pytest.raises(PageUnreadable, match="too early"):
        gunzip(gzip.compress(b"x") + gzip.compress(DATA)[:-cut], MOST)


@pytest.mark.parametrize(
    "damaged",
    [
        b"no gzip at all",
        flipped(gzip.compress(DATA), 5000),
        flipped(gzip.compress(DATA), -1),
        gzip.compress(DATA) + b"\x1f\x8b?" + bytes(100),
    ],
    ids=["text", "data", "trailer", "second member"],
)
def test_a_damaged_body_is_unreadable(damaged):
    with pytest.raises(PageUnreadable, match="decode"):
        gunzip(damaged, MOST)


@pytest.mark.parametrize("members", [1, 3])
def test_a_body_beyond_the_limit_takes_no_memory(members):
    bomb = gzip.compress(bytes(400_000)) * (members - 1) + gzip.compress(bytes(100 * MOST), 1)
    tracemalloc.start()
    try:
        assert gunzip(bomb, MOST) is None
        assert tracemalloc.get_traced_memory()[1] < 4 * MOST
    finally:
        tracemalloc.stop()
    assert gunzip(gzip.compress(bytes(MOST + 1)), MOST) is None


def test_a_body_has_100_members_at_most():
    assert gunzip(gzip.compress(b"x") * 100, MOST) == b"x" * 100
    with pytest.raises(PageUnreadable, match="over 100 members"):
        gunzip(gzip.compress(b"") * 100_000, MOST)
