"""The body of a held file, for servers that send it themselves and for those that iterate it."""

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
    with io.FileIO(path) as made:
        yield made


def started(opened: io.FileIO, start: int, stop: int) -> FileBody:
    opened.seek(start)
    body = FileBody("file", opened, stop - start)
    body.start()
    return body


def test_held_file_tells_what_is_to_be_sent(opened: io.FileIO):
    body = started(opened, 100_000, 900_000)
    told = body.sendable()
    assert told is not None
    descriptor, offset, length = told
    assert os.pread(descriptor, length, offset) == DATA[100_000:900_000]


def test_what_was_sent_is_not_sent_again(opened: io.FileIO):
    body = started(opened, 100_000, 900_000)
    body.advance(300_000)
    told = body.sendable()
    assert told is not None
    assert told[1:] == (400_000, 500_000)
    assert b"".join(body) == DATA[400_000:900_000]


def test_held_file_can_be_iterated(opened: io.FileIO):
    body = started(opened, 5, len(DATA))
    assert b"".join(body) == DATA[5:]


def test_file_that_was_truncated_ends_in_an_error(opened: io.FileIO, tmp_path: Path):
    body = started(opened, 0, len(DATA))
    os.truncate(tmp_path / "file", 10_000)
    with pytest.raises(DownloadInterrupted):
        b"".join(body)
