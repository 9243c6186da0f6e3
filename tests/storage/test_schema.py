"""The schema: names on disk, files that cannot be used, and migrations."""

import contextlib
import dataclasses
import fcntl
import hashlib
import sqlite3
import subprocess
import sys
import time

import orjson
import peewee
import pytest

from pytail.errors import SettingError
from pytail.model import directory_of
from pytail.storage import schema
from pytail.storage.catalog import Catalog
from tests.support.storage import (
    BARE_FILE,
    FULL_ENTRY,
    FULL_FILE,
    FULL_PAGE,
    READY,
    UPSTREAM,
    entry,
    filled,
    locked,
    page,
    ready,
    set_aside,
    store_ready,
)


def works(path):
    """Return whether the file at `path` is a catalog that can be used, or became one."""
    with contextlib.closing(Catalog(path)) as opened:
        opened.remember(FULL_ENTRY, FULL_PAGE)
        return opened.page("demo") == FULL_PAGE


# Names on disk

#: The columns of each table and index of schema 6. Schema 5 lacks the last two columns of "project" and
#: the table "wheelmetadata", schema 4 the table "checked" too.
ON_DISK = {
    "project": [
        "name", "upstream", "found", "etag", "last_serial", "fetched_at", "checked_at", "revision",
        "versions", "status", "status_reason", "other", "last_modified", "fingerprint",
    ],
    "part": ["id", "project", "number", "keys", "lines"],
    "stray": ["shelf", "filename", "project"],
    "measured": ["location", "size"],
    "wheelmetadata": ["project", "key", "sha256"],
    "checked": ["key", "stored_at", "size", "checked_at", "etag", "last_modified"],
    "ready": ["id", "project", "variant", "revision", "version", "etag", "data"],
    "project_found_checked_at": ["found", "checked_at"],
    "part_project_number": ["project", "number"],
    "stray_project": ["project"],
    "readypage_project_variant": ["project", "variant"],
}  # fmt: skip


def test_tables_columns_and_indexes_have_the_names_of_schema_6(path):
    Catalog(path).close()
    assert schema.SCHEMA_VERSION == 6
    with contextlib.closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT type, name FROM sqlite_master WHERE sql IS NOT NULL")
        found = {
            name: [
                row[0]
                for row in connection.execute(f"SELECT name FROM pragma_{kind}_info('{name}')")
            ]
            for kind, name in rows.fetchall()
        }
    assert found == ON_DISK


# Files that cannot be used


def test_garbage_is_set_aside_and_logged(path, caplog):
    path.write_bytes(b"garbage" * 1000)
    assert works(path)
    (aside,) = set_aside(path)
    assert aside.read_bytes() == b"garbage" * 1000
    (record,) = [record for record in caplog.records if aside.name in record.getMessage()]
    assert record.levelname == "WARNING"
    assert "\n" not in record.getMessage()


def test_a_file_of_another_program_is_set_aside_unchanged(path):
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE theirs AS SELECT 'precious' AS value")
        other.commit()
    before = path.read_bytes()
    assert works(path)
    (aside,) = set_aside(path)
    assert aside.read_bytes() == before


@pytest.mark.parametrize("suffix", ["-wal", "-shm", "-journal"])
def test_the_files_beside_a_damaged_file_are_set_aside_too(path, suffix):
    path.write_bytes(b"garbage" * 1000)
    path.with_name(path.name + suffix).write_bytes(b"beside" * 1000)
    assert works(path)
    (aside,) = set_aside(path)
    assert aside.with_name(aside.name + suffix).exists()
    assert not path.with_name(f"{path.name}-journal").exists()


def test_an_unfinished_write_of_another_program_is_set_aside_with_its_file(path):
    crash = (
        "import os, sqlite3, sys\n"
        "theirs = sqlite3.connect(sys.argv[1])\n"
        "theirs.execute('CREATE TABLE theirs (value)')\n"
        "theirs.commit()\n"
        "theirs.execute('PRAGMA cache_size = 1')\n"
        "theirs.executemany('INSERT INTO theirs VALUES (?)', [['x' * 500]] * 1000)\n"
        "os._exit(0)\n"
    )
    subprocess.run([sys.executable, "-c", crash, str(path)], check=True)
    assert path.with_name(f"{path.name}-journal").stat().st_size > 0
    assert works(path)
    (aside,) = set_aside(path)
    assert aside.with_name(f"{aside.name}-journal").exists()


@pytest.mark.parametrize("share", [0.0001, 0.001, 0.3, 0.5, 0.9])
def test_a_truncated_file_is_set_aside(path, share):
    data = filled(path)
    path.write_bytes(data[: int(len(data) * share)])
    assert works(path)
    assert len(set_aside(path)) == 1


def test_an_empty_file_is_used_as_a_new_one(path):
    path.touch()
    assert works(path)
    assert set_aside(path) == []


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("noise", [bytes(8192), b"\xff\x93noise" * 1000])
def test_a_file_overwritten_in_the_middle_is_set_aside(path, share, noise):
    data = filled(path)
    start = int(len(data) * share)
    path.write_bytes(data[:start] + noise + data[start + len(noise) :])
    assert works(path)
    assert len(set_aside(path)) == 1


def test_a_schema_older_than_2_is_set_aside(path):
    filled(path)
    with contextlib.closing(sqlite3.connect(path)) as older:
        older.execute("PRAGMA user_version = 0")
    assert works(path)
    assert len(set_aside(path)) == 1


def test_a_newer_schema_is_refused_and_not_changed(path):
    filled(path)
    with contextlib.closing(sqlite3.connect(path)) as newer:
        newer.execute("PRAGMA user_version = 99")
    before = path.read_bytes()
    with pytest.raises(SettingError, match="schema 99"):
        Catalog(path)
    assert path.read_bytes() == before
    assert set_aside(path) == []


def test_a_newer_schema_with_a_wal_is_refused_and_not_changed(path, tmp_path):
    with contextlib.closing(sqlite3.connect(path)) as newer:
        newer.execute("PRAGMA journal_mode = wal")
        newer.execute("CREATE TABLE future (value)")
        newer.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
        newer.execute("PRAGMA user_version = 99")
        newer.commit()
        # The files as a crash leaves them.
        crashed = copy_unmerged(path, tmp_path / "crashed")
    before = {found.name: found.read_bytes() for found in crashed.parent.iterdir()}
    with pytest.raises(SettingError, match="schema 99"):
        Catalog(crashed)
    after = {found.name: found.read_bytes() for found in crashed.parent.iterdir()}
    assert {name: after[name] for name in before} == before


def copy_unmerged(path, directory):
    """Copy an open file and its -wal to `directory`; return the path of the copy."""
    directory.mkdir()
    for suffix in ("", "-wal"):
        data = path.with_name(path.name + suffix).read_bytes()
        (directory / f"{path.name}{suffix}").write_bytes(data)
    return directory / path.name


def test_the_wal_of_a_crash_is_used(path, tmp_path):
    with contextlib.closing(Catalog(path)) as running:
        running.remember(FULL_ENTRY, FULL_PAGE)
        crashed = copy_unmerged(path, tmp_path / "crashed")
    with contextlib.closing(Catalog(crashed)) as recovered:
        assert recovered.page("demo") == FULL_PAGE
    assert set_aside(crashed) == []


def test_a_healthy_file_can_be_opened_while_another_process_writes(path):
    filled(path)
    with locked(path), contextlib.closing(Catalog(path)) as opened:
        assert opened.page("p1") == page("p1", 40)
    assert set_aside(path) == []


def test_a_healthy_file_that_is_locked_against_reads_is_not_set_aside(short_busy_timeout, path):
    filled(path)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = delete")
    with locked(path, "EXCLUSIVE"), pytest.raises(peewee.OperationalError, match="locked"):
        Catalog(path)
    assert set_aside(path) == []
    with contextlib.closing(Catalog(path)) as opened:
        assert opened.page("p1") == page("p1", 40)


# The lock of the file


@contextlib.contextmanager
def preparing(path):
    """Hold the lock of a process that prepares the file at `path`."""
    with path.with_name(f"{path.name}.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def test_a_catalog_that_needs_no_change_is_opened_without_the_lock(path):
    filled(path)
    with preparing(path):
        started = time.monotonic()
        assert works(path)
        assert time.monotonic() - started < 5


def test_a_start_that_needs_the_lock_fails_in_time_where_another_process_holds_it(
    path, monkeypatch
):
    monkeypatch.setattr(schema, "_LOCK_TIMEOUT", 0.1)
    with preparing(path), pytest.raises(SettingError, match="another process has held"):
        Catalog(path)
    assert works(path)


def test_a_damaged_catalog_is_left_where_another_process_holds_the_lock(path, monkeypatch):
    monkeypatch.setattr(schema, "_LOCK_TIMEOUT", 0.1)
    path.write_bytes(b"garbage" * 1000)
    with preparing(path), pytest.raises(SettingError, match="another process has held"):
        Catalog(path)
    assert set_aside(path) == []


# Migrations

#: The files in schema 2 and 3.
ROWS = """
CREATE TABLE file (
    project VARCHAR(255) NOT NULL, position INTEGER NOT NULL, filename VARCHAR(255) NOT NULL,
    url TEXT NOT NULL, shelf VARCHAR(255) NOT NULL, hashes BLOB NOT NULL, size BIGINT,
    upload_time VARCHAR(255), requires_python TEXT, yanked BLOB NOT NULL,
    core_metadata BLOB NOT NULL, gpg_sig INTEGER, provenance TEXT, other BLOB NOT NULL,
    PRIMARY KEY (project, position)
) WITHOUT ROWID;
CREATE INDEX file_shelf_filename ON file (shelf, filename);
DROP TABLE part;
DROP TABLE stray;
"""


def as_schema(version, path, *pages):
    """Change the catalog at `path` into one of an earlier schema that lists `pages`."""
    dump = orjson.dumps
    with contextlib.closing(sqlite3.connect(path)) as older:
        older.execute("PRAGMA secure_delete = on")
        older.execute("ALTER TABLE project DROP COLUMN last_modified")
        older.execute("ALTER TABLE project DROP COLUMN fingerprint")
        older.execute("DROP TABLE wheelmetadata")
        if version < 5:
            older.execute("DROP TABLE checked")
        if version >= 4:
            older.execute(f"PRAGMA user_version = {version}")
            older.commit()
            return
        older.executescript(ROWS)
        for page in pages:
            for position, file in enumerate(page.files):
                row = (
                    page.name, position, file.filename, file.url, file.directory, dump(file.hashes),
                    file.size, file.upload_time, file.requires_python, dump(file.yanked),
                    dump(file.core_metadata), file.gpg_sig, file.provenance, dump(file.other),
                )  # fmt: skip
                older.execute(f"INSERT INTO file VALUES ({', '.join('?' * len(row))})", row)
        if version < 3:
            older.execute("DROP TABLE ready")
        older.execute(f"PRAGMA user_version = {version}")
        older.commit()


def test_only_schema_2_to_5_are_migrated(path):
    filled(path)
    as_schema(3, path)
    with contextlib.closing(schema.connect(path, 1)) as database:
        assert schema._is_older(database)
        for pragma in ("user_version = 1", "user_version = 99", "user_version = 2"):
            database.execute_sql(f"PRAGMA {pragma}")
            assert schema._is_older(database) == pragma.endswith("2")
        database.execute_sql("PRAGMA application_id = 7")
        assert not schema._is_older(database)


#: The version of a page is dropped: an earlier pytail did not keep all that the page says.
OLDER_ENTRY = dataclasses.replace(FULL_ENTRY, etag=None, last_modified=None, fingerprint=None)


@pytest.mark.parametrize("version", [2, 3, 4, 5])
def test_a_migration_keeps_projects_files_sizes_and_ready_pages(path, version, caplog):
    caplog.set_level("INFO")
    with contextlib.closing(Catalog(path)) as older:
        older.remember(FULL_ENTRY, FULL_PAGE)
        older.remember(entry("large"), page("large", 1000))
        older.remember_missing(entry("gone", found=False))
        older.remember_size("abc/x", 7)
        store_ready(older, revision=FULL_ENTRY.revision)
    as_schema(version, path, FULL_PAGE, page("large", 1000))
    with contextlib.closing(Catalog(path)) as migrated:
        assert migrated.entry("demo") == OLDER_ENTRY
        assert migrated.entry("demo").page_version is None  # item 108
        assert migrated.page("demo") == FULL_PAGE.redacted()
        found = migrated.file(FULL_FILE.directory, FULL_FILE.filename, UPSTREAM)
        assert found == FULL_FILE.redacted()
        assert migrated.page("large") == page("large", 1000)
        assert migrated.entry("gone") == entry("gone", found=False)
        assert migrated.verified_size("abc/x") == 7
        assert ready(migrated, revision=FULL_ENTRY.revision) == (None if version == 2 else READY)
        store_ready(migrated, revision=FULL_ENTRY.revision)
        assert ready(migrated, revision=FULL_ENTRY.revision) == READY
    assert set_aside(path) == []
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (schema.SCHEMA_VERSION,)
    assert caplog.text.count("migrating the catalog") == 1
    Catalog(path).close()
    assert caplog.text.count("migrating the catalog") == 1


def old_directory(file):
    """Return the directory of schema 4: from the whole URL where there is no sha256."""
    return f"_url/{hashlib.sha256(file.url.encode()).hexdigest()}"


@pytest.mark.parametrize("version", [2, 3, 4])
def test_a_migration_gives_files_without_sha256_their_present_directory(path, version):
    hashes = {"md5": "0" * 32}
    weak = dataclasses.replace(BARE_FILE, filename="other-2.0.zip", hashes=hashes, size=7)
    signed = dataclasses.replace(BARE_FILE, url=f"{BARE_FILE.url}?signature=1")
    files = [dataclasses.replace(file, directory=old_directory(file)) for file in (weak, signed)]
    older_page = dataclasses.replace(FULL_PAGE, files=(FULL_FILE, *files))
    with contextlib.closing(Catalog(path)) as older:
        older.remember(FULL_ENTRY, older_page)
        store_ready(older, revision=FULL_ENTRY.revision)
    as_schema(version, path, older_page)
    with contextlib.closing(Catalog(path)) as migrated:
        assert migrated.entry("demo").revision != FULL_ENTRY.revision
        assert ready(migrated, revision=FULL_ENTRY.revision) is None
        found = migrated.page("demo").files
        assert [file.directory for file in found] == [
            FULL_FILE.directory,
            f"_md5/{'0' * 32}-7",
            directory_of({}, BARE_FILE.url),
        ]
        for old, present in zip(files, found[1:], strict=True):
            for directory in (old.directory, present.directory):
                assert migrated.file(directory, old.filename, UPSTREAM) == present
    assert set_aside(path) == []


@pytest.mark.parametrize("version", [2, 3, 4, 5])
def test_a_migration_leaves_no_query_of_a_link_in_the_file(path, version):
    urls = [f"https://files.example.org/{number}.zip?sig=s3cret{number}" for number in range(900)]
    files = tuple(
        dataclasses.replace(FULL_FILE, url=url, filename=f"demo-{number}.zip")
        for number, url in enumerate(urls)
    )
    signed = dataclasses.replace(FULL_PAGE, files=files)
    with contextlib.closing(Catalog(path)) as older:
        older.remember(FULL_ENTRY, signed)
    as_schema(version, path, signed)
    Catalog(path).close()
    assert b"s3cret" not in path.read_bytes()
    with contextlib.closing(Catalog(path)) as migrated:
        assert migrated.page("demo") == signed.redacted()
        assert migrated.entry("demo").revision == FULL_ENTRY.revision


def test_a_migration_that_a_lock_prevented_is_done_at_the_next_start(path, short_busy_timeout):
    filled(path)
    as_schema(3, path, page("p1", 40))
    with locked(path), pytest.raises(peewee.OperationalError, match="locked"):
        Catalog(path)
    with contextlib.closing(Catalog(path)) as migrated:
        assert migrated.page("p1") == page("p1", 40)
    assert set_aside(path) == []


def test_an_interrupted_migration_continues_at_the_next_start(path, monkeypatch):
    filled(path)
    as_schema(3, path, *[page(f"p{number}", 40) for number in range(20)])
    put_files, moved = schema.put_files, []

    def interrupted(database, project, files):
        if len(moved) == 7:
            raise KeyboardInterrupt
        moved.append(project)
        put_files(database, project, files)

    monkeypatch.setattr(schema, "put_files", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Catalog(path)
    monkeypatch.setattr(schema, "put_files", put_files)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (3,)
        assert connection.execute("SELECT count(*) FROM part").fetchone() == (7,)
    with contextlib.closing(Catalog(path)) as migrated:
        for number in range(20):
            assert migrated.page(f"p{number}") == page(f"p{number}", 40)


def test_a_project_with_a_damaged_file_is_not_migrated(path):
    filled(path)
    as_schema(3, path, page("p1", 40), page("p2", 40))
    with contextlib.closing(sqlite3.connect(path)) as older, older:
        older.execute("UPDATE file SET hashes = '{' WHERE project = 'p1' AND position = 7")
    with contextlib.closing(Catalog(path)) as migrated:
        assert migrated.entry("p1") is None
        assert migrated.page("p2") == page("p2", 40)


def test_a_file_whose_damage_shows_during_the_migration_is_set_aside(path, monkeypatch):
    filled(path)
    as_schema(3, path, page("p1", 400))
    with contextlib.closing(sqlite3.connect(path)) as older:
        root = "SELECT rootpage FROM sqlite_master WHERE name = 'file'"
        ((number,),) = older.execute(root)
    with path.open("r+b") as out:
        out.seek((number - 1) * 4096)
        out.write(b"\xff" * 4096)
    monkeypatch.setattr(schema, "_MAX_CHECK_TIME", -1.0)
    assert works(path)
    assert len(set_aside(path)) == 1
