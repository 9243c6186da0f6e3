"""Large files, and upstream responses for them that stop, break off or are slow."""

from __future__ import annotations

import hashlib
import os
import random
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing
from http.client import HTTPException, HTTPResponse
from typing import Any

import gevent
from gevent.event import Event

from tests.support.fakeindex import Dist, FakeIndex, sdist
from tests.support.running import Client

MIB = 1024 * 1024
_CHUNK = 16 * 1024
_BLOCK = os.urandom(MIB)


class Sending:
    """A response that honours ranges and waits for `gate` at each of `stops`, in bytes."""

    def __init__(self, data: bytes, *stops: int, pause: float = 0.0) -> None:
        """`pause` is in seconds, after each chunk of 16 KiB."""
        self._data, self._stops, self._pause = data, stops, pause
        self.gate = Event()
        #: The Range header of each request, None where a request had none.
        self.ranges: list[str | None] = []

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        self.ranges.append(environ.get("HTTP_RANGE"))
        start, stop, status, headers = _range(self.ranges[-1], len(self._data))
        start_response(status, headers)
        return self._chunks(start, stop)

    def _chunks(self, start: int, end: int) -> Iterator[bytes]:
        for stop in (*(stop for stop in self._stops if stop < end), end):
            for position in range(start, stop, _CHUNK):
                yield self._data[position : min(stop, position + _CHUNK)]
                gevent.sleep(self._pause)
            if stop < end:
                self.gate.wait()
            start = max(start, stop)


class Breaking:
    """A response that ends early at each of `lengths`, in bytes; later requests get the rest.

    Each request is answered from the next one of `datas`, and from the last one for ever.
    """

    def __init__(
        self, *datas: bytes, lengths: tuple[int, ...], ranges: bool = True, etag: str | None = None
    ) -> None:
        """Without `ranges`, the Range header is ignored."""
        self._datas, self._lengths, self._ranges, self._etag = datas, list(lengths), ranges, etag
        #: The Range header of each request, None where a request had none.
        self.asked: list[str | None] = []

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        data = self._datas[min(len(self.asked), len(self._datas) - 1)]
        self.asked.append(environ.get("HTTP_RANGE"))
        start, stop, status, headers = _range(self.asked[-1] if self._ranges else None, len(data))
        headers.append(("Connection", "close"))
        if self._etag is not None:
            headers.append(("ETag", self._etag))
        start_response(status, headers)
        return [data[start : min(stop, self._lengths.pop(0)) if self._lengths else stop]]


def _range(asked: str | None, size: int) -> tuple[int, int, str, list[tuple[str, str]]]:
    """Return the first and the last offset, the status and the headers for a Range header."""
    if asked is None:
        return 0, size, "200 OK", [("Content-Length", str(size))]
    first, _, last = asked.removeprefix("bytes=").partition("-")
    start, stop = int(first), min(int(last or size) + 1, size)
    headers = [
        ("Content-Length", str(stop - start)),
        ("Content-Range", f"bytes {start}-{stop - 1}/{size}"),
    ]
    return start, stop, "206 Partial Content", headers


class LargeFile:
    """A file of project ``large``, which `index` generates while sending, in blocks of 1 MiB."""

    def __init__(self, index: FakeIndex, mebibytes: int) -> None:
        self.size = mebibytes * MIB
        digest = hashlib.sha256()
        for _ in range(mebibytes):
            digest.update(_BLOCK)
        entry = {
            "filename": "large-1.0.tar.gz",
            "url": "/large-1.0.tar.gz",
            "hashes": {"sha256": digest.hexdigest()},
            "size": self.size,
        }
        index.page_extra["large"] = {"files": [entry]}
        index.answers["/large-1.0.tar.gz"] = self._send

    def _send(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Length", str(self.size))])
        for _ in range(self.size // MIB):
            yield _BLOCK
            gevent.sleep(0)


def is_large_file(response: HTTPResponse) -> bool:
    """Read `response` to its end; return whether it is complete and has the blocks of LargeFile."""
    block, buffer, position = memoryview(_BLOCK * 2), bytearray(MIB), 0
    while count := response.readinto(buffer):
        start = position % MIB
        # A memoryview on the left would compare byte by byte.
        if buffer[:count] != block[start : start + count]:
            return False
        position += count
    return response.isclosed() and response.length == 0


def open_responses(stack: ExitStack, client: Client, path: str, count: int) -> list[HTTPResponse]:
    """Request `path` over `count` connections; return the responses, their bodies unread."""
    connections = [stack.enter_context(closing(client.open("GET", path))) for _ in range(count)]
    return [connection.getresponse() for connection in connections]


def new_file(index: FakeIndex, size: int, version: str = "1.0") -> Dist:
    """Add an sdist of `size` random bytes, with the start of a gzip file, to `index` and return it."""
    dist = sdist("demo", version)
    dist.data = (b"\x1f\x8b\x08" + os.urandom(size))[:size]
    index.add(dist)
    return dist


def is_fetched(client: Client, dist: Dist) -> bool:
    """Return whether `client` gets a complete response. Asserts that a complete one is right."""
    try:
        answer = client.get(dist.served)
    except (OSError, HTTPException):
        return False
    assert answer.status == 200
    assert answer.data == dist.data
    return True


def seeded() -> random.Random:
    """Return a generator of random numbers, and print its seed, so that a failure can be repeated."""
    seed = os.environ.get("PYTAIL_TESTS_SEED") or str(time.time_ns())
    sys.stdout.write(f"PYTAIL_TESTS_SEED={seed}\n")
    return random.Random(seed)
