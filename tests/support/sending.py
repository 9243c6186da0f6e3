"""Files that an upstream sends slowly or by halves, and those who fetch them while pytail dies."""

from __future__ import annotations

import hashlib
import os
import random
import sys
import time
from collections.abc import Iterable, Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Any

import gevent
from gevent.event import Event

from tests.support.fakeindex import Dist, FakeIndex, sdist
from tests.support.running import Client

_PIECE = 16 * 1024


class Sending:
    """An answer with ranges: it stops at each of `stops`, in bytes, until `gate` opens."""

    def __init__(self, data: bytes, *stops: int, pause: float = 0.0) -> None:
        """`pause` is in seconds, between pieces of 16 KiB."""
        self._data, self._stops, self._pause = data, stops, pause
        self.gate = Event()
        #: The Range of each request, None where it had none.
        self.ranges: list[str | None] = []

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        data, start, range_ = self._data, 0, environ.get("HTTP_RANGE")
        self.ranges.append(range_)
        if range_ is None:
            start_response("200 OK", [("Content-Length", str(len(data)))])
        else:
            start = int(range_.removeprefix("bytes=").removesuffix("-"))
            whole = f"bytes {start}-{len(data) - 1}/{len(data)}"
            given = [("Content-Length", str(len(data) - start)), ("Content-Range", whole)]
            start_response("206 Partial Content", given)
        return self._pieces(start)

    def _pieces(self, start: int) -> Iterator[bytes]:
        for stop in (*self._stops, len(self._data)):
            for position in range(start, stop, _PIECE):
                yield self._data[position : min(stop, position + _PIECE)]
                gevent.sleep(self._pause)
            if stop < len(self._data):
                self.gate.wait()
            start = max(start, stop)


def dist_of(index: FakeIndex, size: int, version: str = "1.0") -> Dist:
    """A new file of `index`."""
    dist = sdist("demo", version)
    dist.data = os.urandom(size)
    index.add(dist)
    return dist


def seeded() -> random.Random:
    """Chance that can be had again: a test that fails tells how."""
    seed = os.environ.get("PYTAIL_TESTS_SEED") or str(time.time_ns())
    sys.stdout.write(f"PYTAIL_TESTS_SEED={seed}\n")
    return random.Random(seed)


def fetched(client: Client, dist: Dist) -> bool:
    """Whether a client gets the whole file; what it takes for the whole is right."""
    try:
        answer = client.get(dist.served)
    except (OSError, HTTPException):
        return False
    assert answer.status == 200
    assert answer.data == dist.data
    return True


def held(cache: Path) -> set[str]:
    """The locations of all held files, each of which is what it claims to be."""
    found = [path for path in (cache / "+files").rglob("*") if path.is_file()]
    for path in found:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        assert (path.parts[-3], path.parts[-2]) == (digest[:3], digest[3:16])
    return {"/".join(path.parts[-3:]) for path in found}


def partials(cache: Path) -> list[int]:
    """The bytes of each partial file."""
    return [path.stat().st_size for path in (cache / "+partial").iterdir()]
