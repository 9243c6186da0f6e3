"""Memory of pytail while many clients read one large file, some of them slowly."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

import gevent
import pytest

from tests.support.fakeindex import FakeIndex
from tests.support.running import embedded, file_path
from tests.support.sending import MIB, LargeFile, is_large_file, open_responses
from tests.support.watching import memory, partial_sizes, until

pytestmark = pytest.mark.slow

#: The size of the file; docs/performance.md promises the bound for 1024.
MEBIBYTES = int(os.environ.get("PYTAIL_TESTS_LARGE_MIB", "256"))
READERS = 32
MOST = 150 * MIB


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


def test_a_large_download_with_many_readers_takes_little_memory(
    tmp_path: Path, index: FakeIndex, log: Path
):
    large = LargeFile(index, MEBIBYTES)
    with embedded(tmp_path / "cache", index.url, log) as running, ExitStack() as stack:
        path = file_path(running.client.json("large")["files"][0])
        responses = open_responses(stack, running.client, path, READERS)
        assert {response.length for response in responses} == {large.size}
        readers = [gevent.spawn(is_large_file, response) for response in responses]
        gevent.joinall(readers)
        assert all(reader.value for reader in readers)
        assert index.count("/large-1.0.tar.gz") == 1
        assert memory(running.process.pid, "VmHWM") < MOST


def test_stalled_readers_neither_slow_others_nor_take_memory(
    tmp_path: Path, index: FakeIndex, log: Path
):
    LargeFile(index, 128)
    with embedded(tmp_path / "cache", index.url, log) as running, ExitStack() as stack:
        path = file_path(running.client.json("large")["files"][0])
        stalled = open_responses(stack, running.client, path, 8)
        others = [
            gevent.spawn(is_large_file, each)
            for each in open_responses(stack, running.client, path, 4)
        ]
        gevent.joinall(others)
        assert all(other.value for other in others)
        until(lambda: partial_sizes(tmp_path / "cache") == [])
        assert memory(running.process.pid, "VmHWM") < MOST
        # The download has ended; the stalled readers still get all of the file.
        slow = [gevent.spawn(is_large_file, response) for response in stalled]
        gevent.joinall(slow)
        assert all(each.value for each in slow)
        assert index.count("/large-1.0.tar.gz") == 1
