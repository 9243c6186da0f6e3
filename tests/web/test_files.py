"""The body of a stored file: sent from its descriptor, or iterated."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytail.cache.core_metadata import MetadataSource
from pytail.cache.files import OpenedFile
from pytail.cache.passthrough import PassThrough
from pytail.errors import DownloadInterrupted
from pytail.model import File, Outcome
from pytail.storage.store import StoredFile
from pytail.telemetry.access import AccessRecord, begin, finish
from pytail.web.files import FileBody

DATA = os.urandom(1_000_000)


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[StoredFile]:
    path = tmp_path / "file"
    path.write_bytes(DATA)
    with StoredFile(path) as stream:
        yield stream


def started(opened: StoredFile, start: int, stop: int) -> FileBody:
    opened.seek(start)
    file = OpenedFile(opened, len(DATA), stored=os.fstat(opened.fileno()))
    body = FileBody("file", file, stop - start, lambda: None)
    body.start()
    return body


def test_a_stored_file_has_a_descriptor_offset_and_length(opened: StoredFile):
    body = started(opened, 100_000, 900_000)
    sendable = body.sendable()
    assert sendable is not None
    descriptor, offset, length = sendable
    assert os.pread(descriptor, length, offset) == DATA[100_000:900_000]


def test_bytes_that_the_server_sent_are_not_sent_again(opened: StoredFile):
    body = started(opened, 100_000, 900_000)
    body.advance(300_000)
    sendable = body.sendable()
    assert sendable is not None
    assert sendable[1:] == (400_000, 500_000)
    assert b"".join(body) == DATA[400_000:900_000]


def test_a_stored_file_can_be_iterated(opened: StoredFile):
    body = started(opened, 5, len(DATA))
    assert b"".join(body) == DATA[5:]


def test_a_truncated_file_is_an_error(opened: StoredFile, tmp_path: Path):
    body = started(opened, 0, len(DATA))
    os.truncate(tmp_path / "file", 10_000)
    with pytest.raises(DownloadInterrupted):
        b"".join(body)


def test_reading_bytes_of_upstream_counts_as_waiting_for_it():
    source = MetadataSource(b"abcdef", None).at(2)
    stream = PassThrough(File(filename="file", url="", directory=""), source, None, 6)
    record = AccessRecord("GET", "/", "id")
    begin(record)
    try:
        body = FileBody("file", OpenedFile(stream, 6, Outcome.PASS), 4, lambda: None)
        body.start()
        assert b"".join(body) == b"cdef"
    finally:
        finish()
    assert record.upstream_seconds > 0
    assert body.copy() is None


def test_a_stored_file_counts_no_waiting_and_can_be_copied(opened: StoredFile):
    record = AccessRecord("GET", "/", "id")
    begin(record)
    try:
        body = started(opened, 10, 20)
        assert body.copy() is None
        body.advance(10)
    finally:
        finish()
    assert body.copy() == DATA[10:20]
    assert record.upstream_seconds == 0
