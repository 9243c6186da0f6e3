"""One chunk is read ahead of its consumer."""

from __future__ import annotations

import contextlib
import itertools

import gevent
import pytest
from gevent.event import Event

from pytail.cache.fetch import read_ahead
from pytail.errors import UpstreamUnreachable
from pytail.telemetry.access import AccessRecord, begin, current_client
from tests.support.watching import until


class Chunks:
    """A source of `chunks`; reading an exception among them raises it."""

    size = etag = None

    def __init__(self, *chunks: bytes | BaseException) -> None:
        self._chunks = list(chunks)
        self.chunks_read = 0

    def read(self) -> bytes:
        chunk = self._chunks.pop(0) if self._chunks else b""
        if isinstance(chunk, BaseException):
            raise chunk
        self.chunks_read += 1
        return chunk

    def close(self) -> None:
        """Nothing to free."""


def test_the_chunks_are_those_of_the_source():
    assert b"".join(itertools.chain(*read_ahead(Chunks(b"a", b"bc", b"d")))) == b"abcd"
    assert list(read_ahead(Chunks())) == []


def test_the_next_chunk_is_read_while_the_consumer_is_busy():
    source = Chunks(*[b"a"] * 9)
    with contextlib.closing(read_ahead(source)) as chunks:
        consumed = len(next(chunks))
        # One waits in the queue, another one for a place there.
        until(lambda: source.chunks_read == consumed + 2)
        # The reader has 100 chances to read one more, and does not.
        for _ in range(100):
            gevent.sleep(0)
        assert source.chunks_read == consumed + 2


def test_the_chunks_are_read_for_the_client_of_the_consumer():
    seen = []

    class Noting(Chunks):
        def read(self) -> bytes:
            seen.append(current_client())
            return super().read()

    def consume() -> None:
        begin(AccessRecord("GET", "/", "id", "192.0.2.1"))
        list(read_ahead(Noting(b"a")))

    gevent.spawn(consume).get()
    assert seen == ["192.0.2.1"] * 2


def test_an_error_is_raised_after_the_chunks_before_it():
    chunks = read_ahead(Chunks(b"a", UpstreamUnreachable("http://index.example.org", "broke")))
    assert next(chunks) == [b"a"]
    with pytest.raises(UpstreamUnreachable):
        next(chunks)


def test_closing_does_not_wait_for_the_chunk_being_read():
    is_reading, never = Event(), Event()

    class Slow(Chunks):
        def read(self) -> bytes:
            if self.chunks_read:
                is_reading.set()
                never.wait()
            return super().read()

    chunks = read_ahead(Slow(b"a"))
    assert next(chunks) == [b"a"]
    assert is_reading.wait(5)
    chunks.close()
