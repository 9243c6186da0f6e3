"""Pieces are read ahead of whoever works on them, by one, and nothing is lost by it."""

from __future__ import annotations

import contextlib
import itertools

import gevent
import pytest
from gevent.event import Event

from pytail.errors import UpstreamUnreachable
from pytail.cache.fetch import read_ahead
from tests.support.watching import until


class WheelRanges:
    """A source of `pieces`, the last of which may be what reading it raises."""

    size = etag = None

    def __init__(self, *pieces: bytes | BaseException) -> None:
        self._pieces = list(pieces)
        self.read_so_far = 0

    def read(self) -> bytes:
        piece = self._pieces.pop(0) if self._pieces else b""
        if isinstance(piece, BaseException):
            raise piece
        self.read_so_far += 1
        return piece

    def close(self) -> None:
        """Nothing to drop."""


def test_the_pieces_are_those_of_the_source():
    assert b"".join(itertools.chain(*read_ahead(WheelRanges(b"a", b"bc", b"d")))) == b"abcd"
    assert list(read_ahead(WheelRanges())) == []


def test_the_next_piece_is_read_while_one_is_worked_on():
    source = WheelRanges(*[b"a"] * 9)
    with contextlib.closing(read_ahead(source)) as pieces:
        worked_on = len(next(pieces))
        # One waits, and another one to be let in.
        until(lambda: source.read_so_far == worked_on + 2)
        gevent.sleep(0.01)
        assert source.read_so_far == worked_on + 2


def test_trouble_comes_after_the_pieces_before_it():
    pieces = read_ahead(WheelRanges(b"a", UpstreamUnreachable("http://index.example.org", "broke")))
    assert next(pieces) == [b"a"]
    with pytest.raises(UpstreamUnreachable):
        next(pieces)


def test_who_has_enough_waits_for_nothing_more():
    is_reading, never = Event(), Event()

    class Slow(WheelRanges):
        def read(self) -> bytes:
            if self.read_so_far:
                is_reading.set()
                never.wait()
            return super().read()

    pieces = read_ahead(Slow(b"a"))
    assert next(pieces) == [b"a"]
    assert is_reading.wait(5)
    pieces.close()
