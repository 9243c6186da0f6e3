"""The store: complete and verified files, or none."""

import contextlib
import errno
import fcntl
import os
import stat
import subprocess
import time
from pathlib import Path

import pytest

from pytail.storage.store import Store
from tests.support.storage import (
    DATA,
    SHA256,
    another_process_writing,
    commit_in,
    file,
    files_in,
    process,
    read,
    store_file,
)

# Storing


def test_a_committed_file_is_complete_under_its_final_name(store, final):
    store_file(store, file())
    assert final.read_bytes() == DATA
    assert read(store, file()) == DATA
    assert store.size(file()) == len(DATA)
    assert store.has(file())


def test_files_of_one_name_in_two_directories_are_two_files(store):
    other = file(directory="_url/" + "0" * 64, size=5)
    first, second = store.partial(file()), store.partial(other)
    first.write(DATA)
    second.write(b"other")
    for partial in (first, second):
        partial.commit()
        partial.close()
    assert (read(store, file()), read(store, other)) == (DATA, b"other")


def test_an_emptied_cache_directory_is_created_again(store, tmp_path):
    for directory in sorted((path for path in tmp_path.rglob("*")), reverse=True):
        directory.rmdir()
    store_file(store, file())
    assert read(store, file()) == DATA


def test_a_new_store_has_the_files_of_an_old_one(store, tmp_path):
    store_file(store, file())
    assert read(Store(tmp_path), file()) == DATA


def test_a_directory_that_cannot_be_used_is_an_oserror(tmp_path):
    (tmp_path / "occupied").write_bytes(b"")
    with pytest.raises(OSError, match="occupied"):
        Store(tmp_path / "occupied")


# Changed files


def deleted(path):
    path.unlink()


@contextlib.contextmanager
def writable(path):
    """Let the owner write a file during the block."""
    path.chmod(0o644)
    yield
    path.chmod(0o444)


def truncated(path):
    with writable(path):
        os.truncate(path, len(DATA) - 1)


def emptied(path):
    with writable(path):
        os.truncate(path, 0)


def grown(path):
    with writable(path), path.open("ab") as out:
        out.write(b"!")


def made_a_directory(path):
    path.unlink()
    path.mkdir()


def parent_made_a_file(path):
    path.unlink()
    path.parent.rmdir()
    path.parent.write_bytes(DATA)


@pytest.mark.parametrize(
    "change",
    [deleted, truncated, emptied, grown, made_a_directory, parent_made_a_file],
)
def test_a_file_that_another_program_changed_is_a_miss(store, final, change):
    store_file(store, file())
    change(final)
    listed = file(verified_size=len(DATA))
    assert store.open(listed) is None
    assert store.size(listed) is None
    assert not store.has(listed)


@pytest.mark.parametrize("change", [deleted, truncated, emptied, grown])
def test_a_file_that_another_program_changed_can_be_stored_again(store, final, change):
    store_file(store, file())
    change(final)
    store_file(store, file())
    assert read(store, file()) == DATA


def test_a_changed_file_is_logged(store, final, caplog):
    store_file(store, file())
    truncated(final)
    store.open(file(verified_size=len(DATA)))
    assert "another size or digest than listed" in caplog.text


@pytest.mark.parametrize("size", [0, 1, len(DATA) - 1, len(DATA) + 1, 2**60])
def test_a_wrong_size_of_the_page_leaves_a_file_to_its_digest(store, size):
    listed = file(size=size)
    store_file(store, listed)
    assert store.has(listed)
    assert store.size(listed) is None
    with store.open(listed) as opened:
        assert opened.read() == DATA
        assert not store.is_verified(opened, listed)
        store.mark_verified(opened)
        assert store.is_verified(opened, listed)
    assert store.size(listed) == len(DATA)


@pytest.mark.parametrize("size", [0, len(DATA) - 1, None])
def test_a_verified_size_counts_more_than_that_of_the_page(store, size):
    listed = file(size=size, verified_size=len(DATA))
    store_file(store, listed)
    with store.open(listed) as opened:
        assert store.is_verified(opened, listed)
    assert store.size(listed) == len(DATA)


def test_a_wrong_size_is_a_miss_where_no_digest_is_known(store):
    listed = file(directory="_url/" + "0" * 64, size=5)
    store_file(store, listed)
    assert store.open(listed) is None


def test_a_truncated_file_without_a_digest_is_found_by_its_verified_size(store):
    listed = file(directory="_url/" + "0" * 64, size=len(DATA) - 1, verified_size=len(DATA))
    store_file(store, listed, DATA[:-1])
    assert store.open(listed) is None


def test_a_file_of_unknown_size_can_have_any_size(store):
    store_file(store, file(size=None))
    assert read(store, file(size=None)) == DATA


def test_an_empty_file_of_unknown_size_is_a_miss(store, final):
    store_file(store, file(size=None))
    emptied(final)
    assert store.open(file(size=None)) is None


def test_an_empty_file_is_a_hit_where_the_page_lists_it_as_empty(store):
    store_file(store, file(size=0), b"")
    assert read(store, file(size=0)) == b""


def metadata(digest):
    return file("demo-1.0-py3-none-any.whl.metadata", size=None, hashes={"sha256": digest})


def test_core_metadata_of_the_right_digest_is_read_from_its_start(store):
    store_file(store, metadata(SHA256))
    assert read(store, metadata(SHA256)) == DATA


def test_core_metadata_of_another_digest_is_a_miss(store):
    store_file(store, metadata(SHA256))
    assert store.open(metadata("0" * 64)) is None


# Paths

DIRECTORIES = [
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
HOSTILE = [file(directory=directory) for directory in DIRECTORIES] + [
    file(filename) for filename in FILENAMES
]


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda hostile: ascii(hostile.key)[:40])
@pytest.mark.parametrize("use", [Store.open, Store.size, Store.has, Store.partial])
def test_no_key_leads_out_of_the_cache_directory(store, tmp_path, use, hostile):
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match="not the key of a file"):
        use(store, hostile)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("filename", ["demo 1.0.zip", "dèmo-1.0.tar.gz", "demo-1.0+é.whl", "-rf"])
def test_an_unusual_filename_can_be_stored(store, filename):
    store_file(store, file(filename))
    assert read(store, file(filename)) == DATA


# Old partial files


def test_an_old_partial_file_of_a_dead_process_is_removed_at_the_start(store, tmp_path, caplog):
    caplog.set_level("INFO")
    with another_process_writing(tmp_path, file()) as writer:
        writer.kill()
    (orphan,) = files_in(tmp_path)
    Store(tmp_path)
    assert files_in(tmp_path) == [orphan]
    os.utime(orphan, (0, 0))
    Store(tmp_path)
    assert files_in(tmp_path) == []
    assert "left by a process that ended" in caplog.text


def test_an_old_partial_file_that_another_process_writes_stays(store, tmp_path):
    with another_process_writing(tmp_path, file()) as writer:
        (partial,) = files_in(tmp_path)
        os.utime(partial, (0, 0))
        Store(tmp_path)
        assert files_in(tmp_path) == [partial]
        commit_in(writer)
    assert read(store, file(size=4)) == b"half"


def test_a_partial_file_that_this_process_writes_stays(store, tmp_path):
    partial = store.partial(file())
    partial.write(DATA)
    Store(tmp_path)
    partial.commit()
    partial.close()
    assert read(store, file()) == DATA


# All files


# Errors of the disk


@pytest.fixture
def damaged(monkeypatch):
    """A function that makes each call of an `os` function fail with EIO for one path or descriptor."""

    def damage(name, fails):
        whole = getattr(os, name)

        def call(target, *arguments, **more):
            if fails(target):
                raise OSError(errno.EIO, "Input/output error", str(target))
            return whole(target, *arguments, **more)

        monkeypatch.setattr(os, name, call)

    return damage


def is_named(name):
    def matches(target):
        path = Path(f"/proc/self/fd/{target}").readlink() if isinstance(target, int) else target
        return str(path).endswith(name)

    return matches


@pytest.mark.parametrize("call", ["open", "fstat", "pread"])
def test_a_file_that_cannot_be_read_is_a_miss(store, damaged, call, caplog):
    store_file(store, metadata(SHA256))
    damaged(call, is_named(".metadata"))
    assert store.open(metadata(SHA256)) is None
    assert store.size(metadata(SHA256)) is None
    assert "asking upstream" in caplog.text


def test_a_named_pipe_in_place_of_a_file_is_a_miss(store, final):
    final.parent.mkdir(parents=True)
    os.mkfifo(final)
    assert store.open(file()) is None
    assert not store.remove(final)


def test_a_partial_file_that_disappears_does_not_stop_the_start(store, tmp_path, monkeypatch):
    for name in ("gone", "old"):
        path = tmp_path / "+partial" / name
        path.write_bytes(b"x")
        os.utime(path, (0, 0))
    scandir = os.scandir

    def scan(directory):
        entries = [*scandir(directory)]
        (tmp_path / "+partial" / "gone").unlink(missing_ok=True)
        return Scan(entries)

    monkeypatch.setattr(os, "scandir", scan)
    Store(tmp_path)
    assert files_in(tmp_path) == []


class Scan(list):
    """A scan of these entries."""

    def __enter__(self):
        return iter(self)

    def __exit__(self, *error):
        pass


@pytest.mark.parametrize("call", ["stat", "scandir"])
def test_a_directory_that_cannot_be_read_does_not_stop_the_start(tmp_path, damaged, call):
    damaged(call, is_named("+partial"))
    assert [*Store(tmp_path).files()] == []


@pytest.mark.parametrize("seconds", [-(2**31), -1, 2**31, 2**32, 2**33])
def test_a_file_of_any_time_is_served_and_listed(store, final, tmp_path, seconds):
    store_file(store, file())
    os.utime(final, (seconds, seconds))
    assert read(store, file()) == DATA
    (found,) = store.files()
    assert found.used <= time.time()
    store.write_last_uses()
    assert store.stored_at(file()) == seconds
    assert Store(tmp_path).remove(final)


@pytest.mark.parametrize("seconds", [-(2**31), 2**32])
def test_a_partial_file_of_an_impossible_time_is_removed_at_the_start(store, tmp_path, seconds):
    path = tmp_path / "+partial" / "left"
    path.write_bytes(b"x")
    os.utime(path, (seconds, seconds))
    Store(tmp_path)
    assert not path.exists()


def test_two_file_systems_are_refused_at_the_start(tmp_path, monkeypatch):
    Store(tmp_path)
    other, status = tmp_path / "+partial", Path.stat

    def stat_of(path, **more):
        found = status(path, **more)
        fields = [*found]
        fields[2] += path == other
        return os.stat_result(fields)

    monkeypatch.setattr(Path, "stat", stat_of)
    with pytest.raises(OSError, match=r"\+partial and .*\+files.* different file systems"):
        Store(tmp_path)


def test_a_second_mount_of_a_file_system_is_refused_at_the_start(small_disk):
    (small_disk / "partial").mkdir()
    cache = small_disk / "cache"
    (cache / "+partial").mkdir(parents=True)
    mount = ["mount", "--bind", str(small_disk / "partial"), str(cache / "+partial")]
    subprocess.run(mount, check=True)
    try:
        with pytest.raises(OSError, match="different file systems"):
            Store(cache)
    finally:
        subprocess.run(["umount", str(cache / "+partial")], check=True)


def by_name(store):
    return {found.path.name: found for found in store.files()}


def test_stored_and_partial_files_are_listed_with_their_sizes(store):
    store_file(store, file())
    partial = store.partial(file("other-1.0.zip"))
    partial.write(b"x" * 100_000)
    found = by_name(store)
    assert found["demo-1.0.tar.gz"].size >= len(DATA)
    assert found[partial.path.name].size >= 100_000
    assert len(found) == 2
    partial.discard()
    partial.close()


def test_the_last_use_is_written_for_all_processes(store, final, tmp_path):
    store_file(store, file())
    os.utime(final, (1000, 2000))
    assert by_name(store)["demo-1.0.tar.gz"].used == 2000
    before = time.time()
    read(store, file())
    store.write_last_uses()
    assert by_name(Store(tmp_path))["demo-1.0.tar.gz"].used >= before
    assert final.stat().st_mtime == 2000


def test_the_last_use_of_a_removed_file_is_ignored(store, final):
    store_file(store, file())
    read(store, file())
    final.unlink()
    store.write_last_uses()


def test_has_is_not_a_use(store):
    store_file(store, file())
    (found,) = store.files()
    os.utime(found.path, (1000, 1000))
    assert store.has(file())
    store.write_last_uses()
    assert [found.used for found in store.files()] == [1000]


def test_a_new_file_is_a_change(store):
    seen = [store.last_change()]
    partial = store.partial(file())
    seen.append(store.last_change())
    partial.write(DATA)
    partial.commit()
    seen.append(store.last_change())
    partial.close()
    assert len(set(seen)) == 3


def test_a_removed_file_is_a_change(store):
    store_file(store, file())
    before = store.last_change()
    (found,) = store.files()
    assert store.remove(found.path)
    assert store.last_change() != before


# Removal


def test_an_unused_file_is_removed_with_its_empty_directories(store, final):
    store_file(store, file())
    assert store.remove(final)
    assert not store.has(file())
    assert not final.parent.parent.exists()
    store_file(store, file())
    assert read(store, file()) == DATA


def test_a_file_that_is_read_is_not_removed(store, final):
    store_file(store, file())
    with store.open(file()):
        assert not store.remove(final)
    assert read(store, file()) == DATA
    assert store.remove(final)


def test_a_file_that_is_written_is_not_removed_before_it_is_closed(store, final):
    partial = store.partial(file())
    partial.write(DATA)
    assert not store.remove(partial.path)
    partial.commit()
    assert not store.remove(final)
    partial.close()
    assert store.remove(final)


READER = """
import sys
from pathlib import Path
from pytail.model import File
from pytail.storage.store import Store

file = File(filename=sys.argv[3], url="", directory=sys.argv[2])
opened = Store(Path(sys.argv[1])).open(file)
print("ready", flush=True)
input()
"""


def test_a_file_that_another_process_reads_is_not_removed(store, final, tmp_path):
    store_file(store, file())
    with process(READER, str(tmp_path), file().directory, file().filename) as reader:
        assert not store.remove(final)
        reader.communicate("\n")
    assert store.remove(final)


def test_a_missing_file_is_not_removed(store, final):
    assert not store.remove(final)


def test_a_file_is_removed_only_if_it_is_the_one_that_was_found_wrong(store, final):
    store_file(store, file())
    found = final.stat()
    final.unlink()
    store_file(store, file())
    store.discard(file(), found)
    assert read(store, file()) == DATA
    store.discard(file(), final.stat())
    assert not store.has(file())


def test_a_file_that_was_used_meanwhile_is_not_removed(store, final):
    store_file(store, file())
    os.utime(final, (1000, 1000))
    read(store, file())
    assert not store.remove(final, unused_since=1000)
    store.write_last_uses()
    assert not store.remove(final, unused_since=1000)
    assert store.remove(final, unused_since=time.time() + 1)


# Locks of network file systems


@pytest.fixture
def on_nfs(monkeypatch):
    """NFS, where an exclusive lock needs a file open for writing; used by an owner without root's rights."""
    flock, open_file = fcntl.flock, os.open

    def lock(descriptor, operation):
        number = descriptor if isinstance(descriptor, int) else descriptor.fileno()
        is_writable = fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY
        if operation & fcntl.LOCK_EX and not is_writable:
            raise OSError(errno.EBADF, "Bad file descriptor")
        return flock(descriptor, operation)

    def opened(path, flags, *mode, **more):
        writes, found = flags & os.O_ACCMODE != os.O_RDONLY, Path(path)
        if writes and found.exists() and not found.stat().st_mode & 0o200:
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return open_file(path, flags, *mode, **more)

    monkeypatch.setattr(fcntl, "flock", lock)
    monkeypatch.setattr(os, "open", opened)


@pytest.mark.usefixtures("on_nfs")
def test_a_file_is_removed_where_locks_need_a_file_open_for_writing(store, final):
    store_file(store, file())
    with store.open(file()) as opened:
        assert not store.is_removable(final)
        assert not store.remove(final)
        assert stat.S_IMODE(final.stat().st_mode) & 0o222 == 0
        assert store.is_verified(opened, file())
    assert store.is_removable(final)
    assert stat.S_IMODE(final.stat().st_mode) & 0o222 == 0
    assert store.remove(final)


@pytest.mark.usefixtures("on_nfs")
def test_a_partial_file_is_removed_where_locks_need_a_file_open_for_writing(store):
    partial = store.partial(file())
    assert not store.remove(partial.path)
    partial.close()
    assert store.remove(partial.path)


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_only_stored_and_old_files_are_removed_where_there_are_no_locks(
    store, final, tmp_path, monkeypatch, code
):
    store_file(store, file())
    path = tmp_path / "+partial" / "left"
    path.write_bytes(b"x")

    def refuse(descriptor, operation):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with store.open(file()) as opened:
        assert store.remove(final)
        assert opened.read() == DATA
    assert not store.remove(path)
    os.utime(path, (0, 0))
    assert store.remove(path)


# Verified files


def test_a_committed_file_has_the_mode_of_the_umask_without_write_permission(store):
    before = os.umask(0o027)
    try:
        store_file(store, file())
    finally:
        os.umask(before)
    with store.open(file()) as opened:
        assert stat.S_IMODE(os.fstat(opened.fileno()).st_mode) == 0o440
        assert store.is_verified(opened, file())


def test_a_file_with_write_permission_is_not_verified_until_it_is_marked(store, final):
    store_file(store, file())
    final.chmod(0o644)
    with store.open(file()) as opened:
        assert not store.is_verified(opened, file())
        store.mark_verified(opened)
    with store.open(file()) as opened:
        assert store.is_verified(opened, file())
