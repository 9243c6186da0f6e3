"""A large file with many readers: pytail's memory stays small, and nobody slows another."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from contextlib import ExitStack, closing
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

import gevent
import pytest

from tests.support.fakeindex import FakeIndex
from tests.support.running import Client, Program, embedded, file_path
from tests.support.watching import until

pytestmark = pytest.mark.slow

MIB = 1024 * 1024
BLOCK = os.urandom(MIB)
#: The size of the file; the promise is made for 1024.
MEBIBYTES = int(os.environ.get("PYTAIL_TESTS_LARGE_MIB", "256"))
READERS = 32
MOST = 150 * MIB


class Large:
    """A file of `mebibytes` that nobody holds in memory."""

    def __init__(self, index: FakeIndex, mebibytes: int) -> None:
        self.size = mebibytes * MIB
        digest = hashlib.sha256()
        for _ in range(mebibytes):
            digest.update(BLOCK)
        entry = {
            "filename": "large-1.0.tar.gz",
            "url": "/large-1.0.tar.gz",
            "hashes": {"sha256": digest.hexdigest()},
            "size": self.size,
        }
        index.page_extra["large"] = {"files": [entry]}
        index.answers["/large-1.0.tar.gz"] = self._answer

    def _answer(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Length", str(self.size))])
        for _ in range(self.size // MIB):
            yield BLOCK
            gevent.sleep(0)


def peak(running: Program) -> int:
    """The most memory that the process has had at once, in bytes."""
    status = Path(f"/proc/{running.process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def asked(stack: ExitStack, client: Client, path: str, count: int) -> list[HTTPResponse]:
    connections = [stack.enter_context(closing(client.open("GET", path))) for _ in range(count)]
    return [connection.getresponse() for connection in connections]


def read(response: HTTPResponse) -> bool:
    """Whether a response is right to its end."""
    block, buffer, position = memoryview(BLOCK * 2), bytearray(MIB), 0
    while count := response.readinto(buffer):
        start = position % MIB
        # A memoryview on the left would compare byte by byte.
        if buffer[:count] != block[start : start + count]:
            return False
        position += count
    return response.isclosed() and response.length == 0


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


def test_a_large_arriving_file_takes_little_memory_with_many_readers(
    tmp_path: Path, index: FakeIndex, log: Path
):
    large = Large(index, MEBIBYTES)
    with embedded(tmp_path / "cache", index.url, log) as running, ExitStack() as stack:
        path = file_path(running.client.json("large")["files"][0])
        responses = asked(stack, running.client, path, READERS)
        assert {response.length for response in responses} == {large.size}
        readers = [gevent.spawn(read, response) for response in responses]
        gevent.joinall(readers)
        assert all(reader.value for reader in readers)
        assert index.count("/large-1.0.tar.gz") == 1
        assert peak(running) < MOST


def test_readers_that_stall_slow_nobody_and_take_no_memory(
    tmp_path: Path, index: FakeIndex, log: Path
):
    Large(index, 128)
    with embedded(tmp_path / "cache", index.url, log) as running, ExitStack() as stack:
        path = file_path(running.client.json("large")["files"][0])
        stalled = asked(stack, running.client, path, 8)
        others = [gevent.spawn(read, each) for each in asked(stack, running.client, path, 4)]
        gevent.joinall(others)
        assert all(other.value for other in others)
        until(lambda: not any((tmp_path / "cache" / "+partial").iterdir()))
        assert peak(running) < MOST
        # They have it still.
        slow = [gevent.spawn(read, response) for response in stalled]
        gevent.joinall(slow)
        assert all(each.value for each in slow)
        assert index.count("/large-1.0.tar.gz") == 1
