"""Free memory is returned to the operating system."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest

from pytail.runtime.malloc import MallocTrimmer, trim
from tests.support.watching import until

pytestmark = pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="the C library has no malloc_trim"
)

_COUNT, _SIZE = 1000, 64 * 1024


def resident() -> int:
    """Return the bytes of memory that this process uses."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def scatter() -> list[bytes]:
    """Allocate 1000 chunks, free all but every 20th, and return those."""
    chunks = [bytes([n % 256]) * _SIZE for n in range(_COUNT)]
    return chunks[::20]


def test_free_memory_between_memory_in_use_is_returned():
    in_use = scatter()
    before = resident()
    trim()
    assert before - resident() > _COUNT * _SIZE / 2
    assert len(in_use) == _COUNT / 20


def test_trimmer_returns_memory_soon_after_a_large_page():
    trimmer, in_use = MallocTrimmer(), scatter()
    before = resident()
    trimmer.trim_soon()
    until(lambda: before - resident() >= _COUNT * _SIZE / 2, seconds=10)
    assert len(in_use) == _COUNT / 20
