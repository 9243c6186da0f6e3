"""The body of a stored file: sent from its descriptor, or iterated."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytail.errors import DownloadInterrupted
from pytail.web.files import FileBody

DATA = os.urandom(1_000_000)


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[io.FileIO]:
    path = tmp_path / "file"
    path.write_bytes(DATA)
    with io.FileIO(path) as stream:
        yield stream


def started(opened: io.FileIO, start: int, stop: int) -> FileBody:
    opened.seek(start)
    body = FileBody("file", opened, stop - start, lambda: None)
    body.start()
    return body


def test_a_stored_file_has_a_descriptor_offset_and_length(opened: io.FileIO):
    body = started(opened, 100_000, 900_000)
    sendable = body.sendable()
    assert sendable is not None
    descriptor, offset, length = sendable
    assert os.pread(descriptor, length, offset) == DATA[100_000:900_000]


def test_bytes_that_the_server_sent_are_not_sent_again(opened: io.FileIO):
    body = started(opened, 100_000, 900_000)
    body.advance(300_000)
    sendable = body.sendable()
    assert sendable is not None
    assert sendable[1:] == (400_000, 500_000)
    assert b"".join(body) == DATA[400_000:900_000]


def test_a_stored_file_can_be_iterated(opened: io.FileIO):
    body = started(opened, 5, len(DATA))
    assert b"".join(body) == DATA[5:]


def test_a_truncated_file_is_an_error(opened: io.FileIO, tmp_path: Path):
    body = started(opened, 0, len(DATA))
    os.truncate(tmp_path / "file", 10_000)
    with pytest.raises(DownloadInterrupted):
        b"".join(body)
