"""Partial files: one writer, followers in any process, and the commit."""

import os

import pytest

from pytail.storage.partial import PartialState
from tests.support.storage import (
    DATA,
    SHA256,
    another_process_writing,
    commit_in,
    file,
    files_in,
    read,
    store_file,
)

# The commit


def test_a_file_has_no_final_name_before_the_commit(store, final):
    partial = store.partial(file())
    partial.write(DATA)
    assert not final.exists()
    assert read(store, file()) is None
    assert store.size(file()) is None
    assert not store.has(file())
    partial.commit()
    assert read(store, file()) == DATA
    partial.close()


def test_a_commit_leaves_only_the_file(store, final, tmp_path):
    store_file(store, file())
    assert files_in(tmp_path) == [final]


def test_a_discard_leaves_no_file(store, tmp_path):
    partial = store.partial(file())
    partial.write(DATA)
    partial.discard()
    partial.close()
    assert files_in(tmp_path) == []
    assert not store.has(file())


def test_the_descriptor_is_readable_before_and_after_the_commit(store):
    partial = store.partial(file())
    partial.write(DATA[:100])
    assert os.pread(partial.descriptor, 1000, 10) == DATA[10:100]
    partial.write(DATA[100:])
    partial.commit()
    assert os.pread(partial.descriptor, len(DATA), 0) == DATA
    partial.close()


def test_the_descriptor_is_readable_after_a_discard(store):
    partial = store.partial(file())
    partial.write(DATA)
    partial.discard()
    assert os.pread(partial.descriptor, len(DATA), 0) == DATA
    partial.close()


def test_a_failed_commit_stores_no_file(store, final):
    final.mkdir(parents=True)
    partial = store.partial(file())
    partial.write(DATA)
    with pytest.raises(OSError, match="directory"):
        partial.commit()
    partial.discard()
    partial.close()
    assert not store.has(file())


@pytest.mark.parametrize(
    ("filename", "hashes", "is_synced"),
    [
        ("demo-1.0.tar.gz", {"sha256": SHA256}, True),
        ("demo-1.0.tar.gz.asc", {}, True),
        # The store compares it with its digest each time it opens it.
        ("demo-1.0-py3-none-any.whl.metadata", {"sha256": SHA256}, False),
    ],
)
def test_a_commit_syncs_each_file_that_is_not_verified_on_open(
    store, monkeypatch, filename, hashes, is_synced
):
    synced = []
    monkeypatch.setattr(os, "fsync", synced.append)
    store_file(store, file(filename, hashes=hashes))
    assert bool(synced) == is_synced
    assert read(store, file(filename, hashes=hashes)) == DATA


# One writer at a time


def test_a_file_has_one_writer_at_a_time(store):
    first, second = store.partial(file()), store.partial(file())
    assert (first.is_writer, second.is_writer) == (True, False)
    assert not second.try_lock()
    first.discard()
    third = store.partial(file())
    assert third.is_writer
    for partial in (first, second, third):
        partial.close()


def test_two_files_have_a_writer_each(store):
    first, second = store.partial(file()), store.partial(file("demo-2.0.tar.gz"))
    assert second.is_writer
    for partial in (first, second):
        partial.close()


def test_another_writer_can_continue_after_the_first_one_died(store):
    first = store.partial(file())
    first.write(DATA[:500])
    # Without `discard`, as when the process dies.
    first.close()
    second = store.partial(file())
    assert second.size == 500
    second.write(DATA[500:])
    second.commit()
    second.close()
    assert read(store, file()) == DATA


def test_a_restart_never_joins_the_bytes_of_two_downloads(store):
    first = store.partial(file())
    first.write(DATA)
    first.close()
    second = store.partial(file())
    follower = store.partial(file())
    second.restart()
    assert second.is_writer
    second.write(b"new")
    assert os.pread(follower.descriptor, len(DATA), 0) == DATA
    assert follower.state() is PartialState.ABANDONED
    second.commit()
    for partial in (second, follower):
        partial.close()
    assert read(store, file(size=3)) == b"new"


def test_a_committed_file_is_never_written_again(store):
    store_file(store, file())
    second = store.partial(file())
    second.write(b"another")
    assert read(store, file()) == DATA
    second.discard()
    second.close()
    assert read(store, file()) == DATA


# Followers


def test_a_follower_sees_the_file_grow_and_its_commit(store):
    writer, follower = store.partial(file()), store.partial(file())
    for chunk in (DATA[:700], DATA[700:]):
        writer.write(chunk)
        assert follower.state() is PartialState.DOWNLOADING
    assert follower.size == len(DATA)
    writer.commit()
    assert follower.state() is PartialState.COMMITTED
    assert not follower.try_lock()
    writer.close()
    assert not follower.try_lock()
    assert os.pread(follower.descriptor, len(DATA), 0) == DATA
    follower.close()


def test_a_follower_sees_that_the_writer_abandoned_the_file(store):
    writer, follower = store.partial(file()), store.partial(file())
    writer.discard()
    assert follower.state() is PartialState.ABANDONED
    assert not follower.try_lock()
    for partial in (writer, follower):
        partial.close()


def test_a_follower_takes_over_from_a_writer_that_died(store):
    writer, follower = store.partial(file()), store.partial(file())
    writer.write(DATA[:500])
    writer.close()
    assert follower.try_lock()
    follower.write(DATA[500:])
    follower.commit()
    follower.close()
    assert read(store, file()) == DATA


def test_a_follower_discards_no_file(store):
    writer, follower = store.partial(file()), store.partial(file())
    follower.discard()
    follower.close()
    writer.write(DATA)
    writer.commit()
    writer.close()
    assert read(store, file()) == DATA


# Other processes


def test_a_file_that_another_process_writes_cannot_be_written(store, tmp_path):
    with another_process_writing(tmp_path, file()):
        partial = store.partial(file())
        assert not partial.is_writer
        partial.close()


def test_the_death_of_a_writer_releases_its_file(store, tmp_path):
    with another_process_writing(tmp_path, file()) as writer:
        writer.kill()
        writer.wait()
        partial = store.partial(file())
        assert partial.is_writer
        assert os.pread(partial.descriptor, 10, 0) == b"half"
        partial.discard()
        partial.close()


def test_a_file_that_another_process_committed_is_stored_and_unlocked_at_once(store, tmp_path):
    with another_process_writing(tmp_path, file(size=4)) as writer:
        commit_in(writer)
        assert read(store, file(size=4)) == b"half"
        partial = store.partial(file(size=4))
        partial.discard()
        partial.close()
        assert read(store, file(size=4)) == b"half"
