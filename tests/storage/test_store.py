"""The bytes we hold: whole and verified, or not at all."""

import contextlib
import hashlib
import os
import stat
import subprocess
import sys
import time

import pytest

from pytail.model import File
from pytail.storage.store import PartialState, Store
from tests.support.watching import open_below

DATA = b"the bytes of a file\n" * 100
SHA256 = hashlib.sha256(DATA).hexdigest()
SHELF = f"{SHA256[:3]}/{SHA256[3:16]}"


def file(filename="demo-1.0.tar.gz", directory=SHELF, size=2000, **more):
    return File(
        filename=filename,
        url="http://files.example.org/demo",
        directory=directory,
        size=size,
        **more,
    )


def keep(store, file, data=DATA):
    partial = store.partial(file)
    partial.write(data)
    partial.commit()
    partial.close()


def read(store, file):
    opened = store.open(file)
    if opened is None:
        return None
    with opened:
        return opened.read()


def files_in(directory):
    return sorted(path for path in directory.rglob("*") if not path.is_dir())


@pytest.fixture
def store(tmp_path):
    yield Store(tmp_path)
    assert open_below(tmp_path) == []


@pytest.fixture
def final(tmp_path):
    """Where a file stands once it is held."""
    return tmp_path / "+files" / "root" / "pypi" / "+f" / SHELF / "demo-1.0.tar.gz"


# Keeping


def test_a_committed_file_is_whole_under_its_final_name(store, final):
    keep(store, file())
    assert final.read_bytes() == DATA
    assert read(store, file()) == DATA
    assert store.size(file()) == len(DATA)
    assert store.has(file())


def test_nothing_has_the_final_name_before_the_commit(store, final):
    partial = store.partial(file())
    partial.write(DATA)
    assert not final.exists()
    assert read(store, file()) is None
    assert store.size(file()) is None
    assert not store.has(file())
    partial.commit()
    assert read(store, file()) == DATA
    partial.close()


def test_nothing_but_the_file_is_left_after_a_commit(store, final, tmp_path):
    keep(store, file())
    assert files_in(tmp_path) == [final]


def test_nothing_is_left_after_a_discard(store, tmp_path):
    partial = store.partial(file())
    partial.write(DATA)
    partial.discard()
    partial.close()
    assert files_in(tmp_path) == []
    assert not store.has(file())


def test_what_was_written_can_be_read_through_the_descriptor_before_and_after(store):
    partial = store.partial(file())
    partial.write(DATA[:100])
    assert os.pread(partial.descriptor, 1000, 10) == DATA[10:100]
    partial.write(DATA[100:])
    partial.commit()
    assert os.pread(partial.descriptor, len(DATA), 0) == DATA
    partial.close()


def test_what_was_written_can_be_read_after_a_discard_too(store):
    partial = store.partial(file())
    partial.write(DATA)
    partial.discard()
    assert os.pread(partial.descriptor, len(DATA), 0) == DATA
    partial.close()


def test_a_commit_that_fails_holds_nothing(store, final):
    final.mkdir(parents=True)
    partial = store.partial(file())
    partial.write(DATA)
    with pytest.raises(OSError, match="directory"):
        partial.commit()
    partial.discard()
    partial.close()
    assert not store.has(file())


def test_files_of_one_name_on_two_shelves_are_two(store):
    other = file(directory="_url/" + "0" * 64, size=5)
    first, second = store.partial(file()), store.partial(other)
    first.write(DATA)
    second.write(b"other")
    for partial in (first, second):
        partial.commit()
        partial.close()
    assert (read(store, file()), read(store, other)) == (DATA, b"other")


def test_a_cache_directory_emptied_meanwhile_is_made_again(store, tmp_path):
    for directory in sorted((path for path in tmp_path.rglob("*")), reverse=True):
        directory.rmdir()
    keep(store, file())
    assert read(store, file()) == DATA


def test_a_new_store_holds_what_an_old_one_kept(store, tmp_path):
    keep(store, file())
    assert read(Store(tmp_path), file()) == DATA


# What is no hit


def deleted(path):
    path.unlink()


def truncated(path):
    os.truncate(path, len(DATA) - 1)


def emptied(path):
    os.truncate(path, 0)


def grown(path):
    with path.open("ab") as out:
        out.write(b"!")


def made_a_directory(path):
    path.unlink()
    path.mkdir()


def its_directory_made_a_file(path):
    path.unlink()
    path.parent.rmdir()
    path.parent.write_bytes(DATA)


@pytest.mark.parametrize(
    "change",
    [deleted, truncated, emptied, grown, made_a_directory, its_directory_made_a_file],
)
def test_a_file_changed_behind_our_back_is_a_miss(store, final, change):
    keep(store, file())
    change(final)
    assert store.open(file()) is None
    assert store.size(file()) is None
    assert not store.has(file())


@pytest.mark.parametrize("change", [deleted, truncated, emptied, grown])
def test_a_file_changed_behind_our_back_can_be_kept_again(store, final, change):
    keep(store, file())
    change(final)
    keep(store, file())
    assert read(store, file()) == DATA


def test_a_changed_file_is_spoken_of(store, final, caplog):
    keep(store, file())
    truncated(final)
    store.open(file())
    assert "behind pytail's back" in caplog.text


def test_a_file_of_unknown_size_is_held_as_it_is(store):
    keep(store, file(size=None))
    assert read(store, file(size=None)) == DATA


def test_an_empty_file_of_unknown_size_is_a_miss(store, final):
    keep(store, file(size=None))
    emptied(final)
    assert store.open(file(size=None)) is None


def test_an_empty_file_is_held_where_the_page_says_that_it_is_empty(store):
    keep(store, file(size=0), b"")
    assert read(store, file(size=0)) == b""


def metadata(digest):
    return file("demo-1.0-py3-none-any.whl.metadata", size=None, hashes={"sha256": digest})


def test_core_metadata_of_the_right_digest_is_read_from_its_start(store):
    keep(store, metadata(SHA256))
    assert read(store, metadata(SHA256)) == DATA


def test_core_metadata_that_upstream_no_longer_advertises_is_a_miss(store):
    keep(store, metadata(SHA256))
    assert store.open(metadata("0" * 64)) is None


# Names


SHELVES = [
    "",
    ".",
    "../..",
    "abc",
    "abc/../0123456789abc",
    "abc/0123456789ab/",
    "abc/0123456789abcd",
    "ABC/0123456789abc",
    "abc/0123456789abc\n",
    "/etc",
    "_url/" + "0" * 63,
    "_url/../" + "0" * 61,
    "abc/0123456789\N{ARABIC-INDIC DIGIT ONE}bc",
]
FILENAMES = [
    "",
    ".",
    "..",
    "../demo",
    "/etc/passwd",
    "a/b",
    "a\\b",
    "a\0b",
    "a\nb",
    "a" * 300,
    "\ud800",
]
HOSTILE = [file(directory=directory) for directory in SHELVES] + [
    file(filename) for filename in FILENAMES
]


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda hostile: ascii(hostile.key)[:40])
@pytest.mark.parametrize("use", [Store.open, Store.size, Store.has, Store.partial])
def test_what_upstream_calls_a_file_never_leads_out_of_the_directory(store, tmp_path, use, hostile):
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match="not a file's location"):
        use(store, hostile)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("filename", ["demo 1.0.zip", "dèmo-1.0.tar.gz", "demo-1.0+é.whl", "-rf"])
def test_an_unusual_name_is_a_name(store, filename):
    keep(store, file(filename))
    assert read(store, file(filename)) == DATA


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


def test_another_file_has_a_writer_of_its_own(store):
    first, second = store.partial(file()), store.partial(file("demo-2.0.tar.gz"))
    assert second.is_writer
    for partial in (first, second):
        partial.close()


def test_what_a_writer_that_died_left_can_be_gone_on_with(store):
    first = store.partial(file())
    first.write(DATA[:500])
    # As when its process dies: no discard.
    first.close()
    second = store.partial(file())
    assert second.size == 500
    second.write(DATA[500:])
    second.commit()
    second.close()
    assert read(store, file()) == DATA


def test_who_begins_anew_never_joins_the_bytes_of_two(store):
    first = store.partial(file())
    first.write(DATA)
    first.close()
    second = store.partial(file())
    follower = store.partial(file())
    second.restart()
    assert second.is_writer
    second.write(b"new")
    assert os.pread(follower.descriptor, len(DATA), 0) == DATA
    assert follower.state() is PartialState.GIVEN_UP
    second.commit()
    for partial in (second, follower):
        partial.close()
    assert read(store, file(size=3)) == b"new"


def test_a_follower_sees_it_grow_and_sees_its_commit(store):
    writer, follower = store.partial(file()), store.partial(file())
    for piece in (DATA[:700], DATA[700:]):
        writer.write(piece)
        assert follower.state() is PartialState.ARRIVING
    assert follower.size == len(DATA)
    writer.commit()
    assert follower.state() is PartialState.COMMITTED
    assert not follower.try_lock()
    writer.close()
    assert not follower.try_lock()
    assert os.pread(follower.descriptor, len(DATA), 0) == DATA
    follower.close()


def test_a_follower_sees_that_it_was_given_up(store):
    writer, follower = store.partial(file()), store.partial(file())
    writer.discard()
    assert follower.state() is PartialState.GIVEN_UP
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


def test_a_follower_discards_nothing(store):
    writer, follower = store.partial(file()), store.partial(file())
    follower.discard()
    follower.close()
    writer.write(DATA)
    writer.commit()
    writer.close()
    assert read(store, file()) == DATA


def test_a_committed_file_is_never_written_again(store):
    keep(store, file())
    second = store.partial(file())
    second.write(b"another")
    assert read(store, file()) == DATA
    second.discard()
    second.close()
    assert read(store, file()) == DATA


WRITER = """
import sys
from pathlib import Path
from pytail.model import File
from pytail.storage.store import Store

file = File(filename=sys.argv[3], url="", directory=sys.argv[2])
partial = Store(Path(sys.argv[1])).partial(file)
partial.write(bytes.fromhex(sys.argv[4]))
print("writing", flush=True)
if sys.stdin.readline() == "commit\\n":
    partial.commit()
    print("committed", flush=True)
    sys.stdin.readline()
"""


@contextlib.contextmanager
def another_process_writing(directory, file, data=b"half"):
    command = [
        sys.executable,
        "-c",
        WRITER,
        str(directory),
        file.directory,
        file.filename,
        data.hex(),
    ]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "writing\n"
        try:
            yield process
        finally:
            process.kill()


def test_a_file_that_another_process_is_writing_cannot_be_written(store, tmp_path):
    with another_process_writing(tmp_path, file()):
        partial = store.partial(file())
        assert not partial.is_writer
        partial.close()


def test_the_death_of_a_writer_frees_its_file(store, tmp_path):
    with another_process_writing(tmp_path, file()) as process:
        process.kill()
        process.wait()
        partial = store.partial(file())
        assert partial.is_writer
        assert os.pread(partial.descriptor, 10, 0) == b"half"
        partial.discard()
        partial.close()


def test_what_another_process_committed_is_held_and_free_at_once(store, tmp_path):
    with another_process_writing(tmp_path, file(size=4)) as process:
        process.stdin.write("commit\n")
        process.stdin.flush()
        assert process.stdout.readline() == "committed\n"
        assert read(store, file(size=4)) == b"half"
        partial = store.partial(file(size=4))
        partial.discard()
        partial.close()
        assert read(store, file(size=4)) == b"half"


# Orphans


def test_what_a_dead_process_left_long_ago_is_cleared_at_the_start(store, tmp_path, caplog):
    caplog.set_level("INFO")
    with another_process_writing(tmp_path, file()) as process:
        process.kill()
    (orphan,) = files_in(tmp_path)
    Store(tmp_path)
    assert files_in(tmp_path) == [orphan]
    os.utime(orphan, (0, 0))
    Store(tmp_path)
    assert files_in(tmp_path) == []
    assert "left by a process that is gone" in caplog.text


def test_what_another_process_is_writing_is_not_cleared(store, tmp_path):
    with another_process_writing(tmp_path, file()) as process:
        (partial,) = files_in(tmp_path)
        os.utime(partial, (0, 0))
        Store(tmp_path)
        assert files_in(tmp_path) == [partial]
        process.stdin.write("commit\n")
        process.stdin.flush()
        assert process.stdout.readline() == "committed\n"
    assert read(store, file(size=4)) == b"half"


def test_what_this_process_is_writing_is_not_cleared(store, tmp_path):
    partial = store.partial(file())
    partial.write(DATA)
    Store(tmp_path)
    partial.commit()
    partial.close()
    assert read(store, file()) == DATA


# Room


def kept(store):
    return {each.path.name: each for each in store.files()}


def test_all_that_grows_is_counted_held_and_partial(store):
    keep(store, file())
    partial = store.partial(file("other-1.0.zip"))
    partial.write(b"x" * 100_000)
    found = kept(store)
    assert found["demo-1.0.tar.gz"].size >= len(DATA)
    assert found[partial.path.name].size >= 100_000
    assert len(found) == 2
    partial.discard()
    partial.close()


def test_a_use_is_noted_for_all_processes(store, final, tmp_path):
    keep(store, file())
    os.utime(final, (1000, 2000))
    assert kept(store)["demo-1.0.tar.gz"].used == 2000
    before = time.time()
    read(store, file())
    store.write_last_uses()
    assert kept(Store(tmp_path))["demo-1.0.tar.gz"].used >= before
    assert final.stat().st_mtime == 2000


def test_a_use_of_what_is_gone_is_nothing(store, final):
    keep(store, file())
    read(store, file())
    final.unlink()
    store.write_last_uses()


def test_a_file_that_nobody_uses_is_removed_with_its_empty_directories(store, final, tmp_path):
    keep(store, file())
    assert store.remove(final)
    assert not store.has(file())
    assert not final.parent.parent.exists()
    keep(store, file())
    assert read(store, file()) == DATA


def test_a_file_that_is_read_is_not_removed(store, final):
    keep(store, file())
    with store.open(file()):
        assert not store.remove(final)
    assert read(store, file()) == DATA
    assert store.remove(final)


def test_a_file_that_is_written_is_not_removed_nor_one_just_committed(store, final):
    partial = store.partial(file())
    partial.write(DATA)
    assert not store.remove(partial.path)
    partial.commit()
    assert not store.remove(final)
    partial.close()
    assert store.remove(final)


def test_a_file_that_another_process_reads_is_not_removed(store, final, tmp_path):
    keep(store, file())
    script = (
        "import sys; from pathlib import Path; from tests.storage.test_store import Store, file\n"
        "opened = Store(Path(sys.argv[1])).open(file()); print('reading', flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout.readline() == "reading\n"
        assert not store.remove(final)
        process.communicate("\n")
    assert store.remove(final)


def test_what_is_not_there_is_not_removed(store, final):
    assert not store.remove(final)


def test_what_comes_and_goes_is_a_change(store):
    seen = [store.last_change()]
    partial = store.partial(file())
    seen.append(store.last_change())
    partial.write(DATA)
    partial.commit()
    seen.append(store.last_change())
    partial.close()
    assert len(set(seen)) == 3


def test_a_directory_that_cannot_be_used_is_an_oserror(tmp_path):
    (tmp_path / "occupied").write_bytes(b"")
    with pytest.raises(OSError, match="occupied"):
        Store(tmp_path / "occupied")


def test_a_file_that_goes_is_a_change(store):
    keep(store, file())
    before = store.last_change()
    (kept,) = store.files()
    assert store.remove(kept.path)
    assert store.last_change() != before


def test_to_ask_whether_a_file_is_held_is_not_to_use_it(store):
    keep(store, file())
    (kept,) = store.files()
    os.utime(kept.path, (1000, 1000))
    assert store.has(file())
    store.write_last_uses()
    assert [kept.used for kept in store.files()] == [1000]


def test_a_committed_file_is_as_readable_as_the_umask_says_and_nobodys_to_write(store):
    before = os.umask(0o027)
    try:
        keep(store, file())
    finally:
        os.umask(before)
    with store.open(file()) as opened:
        assert stat.S_IMODE(os.fstat(opened.fileno()).st_mode) == 0o440
        assert store.is_verified(opened)


def test_a_file_that_may_be_written_is_verified_once_someone_vouches_for_it(store, final):
    keep(store, file())
    final.chmod(0o644)
    with store.open(file()) as opened:
        assert not store.is_verified(opened)
        store.mark_verified(opened)
    with store.open(file()) as opened:
        assert store.is_verified(opened)


@pytest.mark.parametrize(
    ("filename", "hashes", "is_synced"),
    [
        ("demo-1.0.tar.gz", {"sha256": SHA256}, True),
        ("demo-1.0.tar.gz.asc", {}, True),
        # Compared with its digest on each use.
        ("demo-1.0-py3-none-any.whl.metadata", {"sha256": SHA256}, False),
    ],
)
def test_what_is_not_verified_on_each_use_is_on_the_disk_before_it_is_held(
    store, monkeypatch, filename, hashes, is_synced
):
    synced = []
    monkeypatch.setattr("pytail.storage.store.os.fsync", synced.append)
    keep(store, file(filename, hashes=hashes))
    assert bool(synced) == is_synced
    assert read(store, file(filename, hashes=hashes)) == DATA
