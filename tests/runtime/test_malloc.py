"""Memory that large pages took goes back to the system."""

from __future__ import annotations

import ctypes
from pathlib import Path

import gevent
import pytest

from pytail.runtime.malloc import MallocTrimmer, trim

pytestmark = pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="the C library keeps what is free"
)

_COUNT, _SIZE = 1000, 64 * 1024


def resident() -> int:
    """Bytes of memory that this process takes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def scatter() -> list[bytes]:
    """Much that is free again, in between little that is not, which keeps its place."""
    much = [bytes([n % 256]) * _SIZE for n in range(_COUNT)]
    return much[::20]


def test_what_is_free_goes_back_though_it_lies_between_what_is_not():
    kept = scatter()
    before = resident()
    trim()
    assert before - resident() > _COUNT * _SIZE / 2
    assert len(kept) == _COUNT / 20


def test_it_goes_back_by_itself_soon_after_a_large_page():
    memory, kept = MallocTrimmer(), scatter()
    before = resident()
    memory.trim_soon()
    with gevent.Timeout(10):
        while before - resident() < _COUNT * _SIZE / 2:
            gevent.sleep(0.01)
    assert len(kept) == _COUNT / 20
