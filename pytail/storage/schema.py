"""The tables of the catalog, and the preparation of its SQLite file at the start.

`prepare` migrates a file of schema 2 to 5 and keeps its content. It renames a file that is damaged, of
another schema or of another program, and creates an empty one. It refuses a file of a newer schema
and does not change it.

The names of tables, columns and indexes on disk are those of schema 6. Some differ from the names of
the Python classes and fields.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import sqlite3
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import orjson
import peewee

from pytail.errors import NOT_WRITABLE, Remedy, SettingError
from pytail.model import File
from pytail.runtime import locks
from pytail.simple import names
from pytail.storage import packing

log = logging.getLogger("pytail.storage")

#: ``PRAGMA application_id`` of a catalog ("ptal"; https://www.sqlite.org/pragma.html).
APPLICATION_ID = 0x7074616C
#: ``PRAGMA user_version`` of a catalog; each change of the tables below increases it by one.
SCHEMA_VERSION = 6
#: The oldest schema that is migrated.
_OLDEST_MIGRATED = 2
#: Seconds to wait for the lock that another process holds while it writes.
BUSY_TIMEOUT = 5.0
#: Seconds for the check of an existing file at the start.
_MAX_CHECK_TIME = 0.5
#: Seconds to wait while another process creates or migrates the file.
_LOCK_TIMEOUT = 20.0

#: The files of a database, the database itself last.
_SUFFIXES = ("-journal", "-wal", "-shm", "")

#: Device and inode of a file.
Identity: TypeAlias = "tuple[int, int]"


class Project(peewee.Model):
    """One project: its page without the files, or the fact that upstream has no such project."""

    #: Normalized.
    name = peewee.CharField(primary_key=True)
    #: The index that was asked: the URL above ``/simple/``, or else its root with a slash at the end.
    upstream = peewee.CharField()
    #: False when upstream has no such project.
    found = peewee.BooleanField()
    #: The ETag of the page, verbatim; None when upstream gave none.
    etag = peewee.TextField(null=True)
    last_serial = peewee.BigIntegerField(null=True)
    #: Seconds since the epoch: when the page was fetched, and when it was last revalidated.
    fetched_at = peewee.DoubleField()
    checked_at = peewee.DoubleField()
    #: Changes with the content of the page.
    revision = peewee.CharField()
    versions = peewee.BlobField(null=True)
    status = peewee.CharField(null=True)
    status_reason = peewee.TextField(null=True)
    other = peewee.BlobField()
    #: The Last-Modified of the page, verbatim; None when upstream gave none that tells versions apart.
    last_modified = peewee.TextField(null=True)
    #: Of the page as upstream sent it; None when an earlier pytail wrote the row.
    fingerprint = peewee.CharField(null=True)

    class Meta:
        table_name = "project"
        without_rowid = True
        indexes = ((("found", "checked_at"), False),)


class FilePack(peewee.Model):
    """One pack of the files of a page, see `pytail.storage.packing`."""

    id = peewee.AutoField()
    project = peewee.CharField()
    #: The place of the pack in its page, from 0.
    number = peewee.IntegerField()
    #: Before `lines`, so that SQLite reads the fingerprints of a row without its lines.
    fingerprints = peewee.BlobField(column_name="keys")
    lines = peewee.BlobField()

    class Meta:
        # With a rowid, because its rows are large (https://www.sqlite.org/withoutrowid.html).
        table_name = "part"


class MisnamedFile(peewee.Model):
    """A listed file whose filename does not tell the name of its project."""

    directory = peewee.CharField(column_name="shelf")
    filename = peewee.CharField()
    project = peewee.CharField()

    class Meta:
        table_name = "stray"
        without_rowid = True
        primary_key = peewee.CompositeKey("directory", "filename", "project")


class VerifiedSize(peewee.Model):
    """The size of a verified file in bytes, where its page does not list a size."""

    key = peewee.TextField(primary_key=True, column_name="location")
    size = peewee.BigIntegerField()

    class Meta:
        table_name = "measured"
        without_rowid = True


class WheelMetadata(peewee.Model):
    """The digest of core metadata that was read out of a wheel, because upstream's own was not good."""

    project = peewee.CharField()
    #: Of the wheel.
    key = peewee.TextField()
    sha256 = peewee.CharField()

    class Meta:
        table_name = "wheelmetadata"
        without_rowid = True
        primary_key = peewee.CompositeKey("project", "key")


class CheckedFile(peewee.Model):
    """A stored file without a digest, and what upstream said of its version."""

    key = peewee.TextField(primary_key=True)
    #: The mtime and the bytes of the stored file that the row is about.
    stored_at = peewee.DoubleField()
    size = peewee.BigIntegerField()
    #: Seconds since the epoch when upstream last had this file.
    checked_at = peewee.DoubleField()
    #: ETag and Last-Modified, verbatim; None where upstream gave none.
    etag = peewee.TextField(null=True)
    last_modified = peewee.TextField(null=True)

    class Meta:
        table_name = "checked"
        without_rowid = True


class ReadyPage(peewee.Model):
    """The body of a project page, rendered and compressed; made again when it is missing."""

    #: Increases in the order of writing.
    id = peewee.AutoField()
    project = peewee.CharField()
    #: The form, the coding and all else that distinguishes bodies of one revision.
    variant = peewee.TextField()
    #: The revision of the page that was rendered.
    revision = peewee.CharField()
    #: The version of pytail that rendered the page; another version may render other bytes.
    version = peewee.CharField()
    etag = peewee.CharField()
    data = peewee.BlobField()

    class Meta:
        # With a rowid, because its rows are large.
        table_name = "ready"


# Peewee would derive the names of these indexes from the names of the classes.
FilePack.add_index(
    FilePack.index(FilePack.project, FilePack.number, unique=True, name="part_project_number")
)
MisnamedFile.add_index(MisnamedFile.index(MisnamedFile.project, name="stray_project"))
ReadyPage.add_index(
    ReadyPage.index(
        ReadyPage.project, ReadyPage.variant, unique=True, name="readypage_project_variant"
    )
)

TABLES = (
    Project,
    FilePack,
    MisnamedFile,
    VerifiedSize,
    WheelMetadata,
    CheckedFile,
    ReadyPage,
)

_INSERT_PACK = "INSERT INTO part (project, number, keys, lines) VALUES (?, ?, ?, ?)"
_INSERT_MISNAMED = "INSERT OR IGNORE INTO stray (shelf, filename, project) VALUES (?, ?, ?)"
#: The files of a project in schema 2 and 3, which had one row for each file.
_SELECT_ROWS = (
    "SELECT filename, url, shelf, hashes, size, upload_time, requires_python, yanked,"
    " core_metadata, gpg_sig, provenance, other FROM file WHERE project = ? ORDER BY position"
)
_SELECT_LINES = "SELECT CAST(lines AS BLOB) FROM part WHERE project = ? ORDER BY number"
#: The projects with a file whose directory is made of its URL, which up to schema 4 was the whole URL, or
#: whose URL may have a query, which schema 6 does not store.
_SELECT_BY_URL = (
    "SELECT DISTINCT project FROM part"
    " WHERE instr(CAST(lines AS BLOB), ?) OR instr(CAST(lines AS BLOB), ?)"
)


def prepare(path: Path, damage: tuple[Identity | None, str] | None = None) -> None:
    """Make the file at `path` a catalog of this schema, whether it exists or not.

    `damage` is the identity of a file, and what SQLite found damaged in it. That file is set aside,
    unless another process has done so. Blocks for up to half a minute.

    Raises SettingError where a newer pytail wrote the file, or where another process does not end
    its own preparation. Raises OSError or a PeeweeException where the file or its directory cannot be
    used.
    """
    # The lock protects changes only. So a process that stopped while it held the lock delays no start
    # with a catalog that needs none.
    if damage is None and _is_ready(path):
        return
    with _only_process(path):
        if damage is not None and damage[0] == identity(path):
            _set_aside(path, damage[1])
        if not _is_empty(path) and (fault := _fault(path)):
            _set_aside(path, fault)
        try:
            _create(path)
        except peewee.OperationalError:
            # The file is locked or the disk is full, which does not mean damage.
            raise
        except peewee.DatabaseError as error:
            # `_fault` reads only as much of the file as fits in its time; the damage is elsewhere.
            _set_aside(path, str(error))
            _create(path)


def identity(path: Path) -> Identity | None:
    """Return what distinguishes the file at `path` from one that replaces it, None without a file."""
    try:
        status = os.stat(path)  # noqa: PTH116
    except OSError:
        return None
    return status.st_dev, status.st_ino


def is_write_refused(error: Exception) -> bool:
    """Return whether `error` says that this process may not write the catalog or its directory."""
    if isinstance(error, OSError):
        return error.errno in NOT_WRITABLE
    messages = ("readonly database", "unable to open database file")
    return any(message in str(error) for message in messages)


def put_files(database: peewee.SqliteDatabase, project: str, files: Sequence[File]) -> None:
    """Insert the `files` of the page of `project`, which must not have any yet."""
    numbered = enumerate(packing.packs(files))
    rows = ((project, number, fingerprints, lines) for number, (fingerprints, lines) in numbered)
    # A generator: a list of all packs costs much time to allocate and to free.
    database.connection().executemany(_INSERT_PACK, rows)
    misnamed = [
        (directory, file.filename, project)
        for file in files
        if not names.may_belong_to(file.filename, project)
        for directory in packing.directories(file)
    ]
    database.connection().executemany(_INSERT_MISNAMED, misnamed)


def connect(path: Path, busy_timeout: float) -> peewee.SqliteDatabase:
    """Return a connection to the catalog at `path`, not yet open; it creates no file.

    It waits `busy_timeout` seconds for the write of another process.
    """
    # Each connection is used by one thread at a time, and on the event loop without yielding.
    # Therefore Peewee needs no connection state for each thread or greenlet.
    return peewee.SqliteDatabase(
        f"{path.absolute().as_uri()}?mode=rw",
        uri=True,
        pragmas={
            "journal_mode": "wal",
            "synchronous": "normal",
            "journal_size_limit": 2**24,
        },
        timeout=busy_timeout,
        thread_safe=False,
        check_same_thread=False,
        lock_type="IMMEDIATE",
    )


def connect_read_only(path: Path, busy_timeout: float) -> peewee.SqliteDatabase:
    """Return a connection to a catalog that this process may not write.

    Where the file at `path` cannot be read or has another schema, the catalog is empty.
    """
    # Where the directory cannot be written, SQLite reads a catalog only next to the -wal and -shm of
    # a process that uses it, or as immutable (https://www.sqlite.org/wal.html#readonly).
    url = path.absolute().as_uri()
    for candidate in (f"{url}?mode=ro", f"{url}?immutable=1"):
        if _is_current(candidate):
            return peewee.SqliteDatabase(
                candidate,
                uri=True,
                timeout=busy_timeout,
                thread_safe=False,
                check_same_thread=False,
            )
    empty = peewee.SqliteDatabase(":memory:", thread_safe=False, check_same_thread=False)
    for model in TABLES:
        peewee.SchemaManager(model, empty).create_all()
    return empty


def _is_current(url: str) -> bool:
    """Return whether the file at the SQLite `url` can be read and is a catalog of this schema."""
    try:
        with contextlib.closing(sqlite3.connect(url, timeout=BUSY_TIMEOUT, uri=True)) as connection:
            (application,) = connection.execute("PRAGMA application_id").fetchone()
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            connection.execute("SELECT 1 FROM project LIMIT 1").fetchone()
    except sqlite3.Error:
        return False
    return bool(application == APPLICATION_ID and version == SCHEMA_VERSION)


def _create(path: Path) -> None:
    """Create or migrate the file at `path`, where that is necessary."""
    if _is_empty(path):
        _create_new(path)
        return
    database = connect(path, BUSY_TIMEOUT)
    with contextlib.closing(database):
        # Without a write when nothing is missing, because another process may hold the lock.
        if database.get_tables() and not _is_older(database):
            _require_writable(database)
            return
        _create_tables(database)
        if _is_older(database):
            _migrate(database, path)


def _create_new(path: Path) -> None:
    """Create the file at `path` complete: other processes open it without waiting for a lock."""
    new = path.with_name(f"{path.name}.new")
    _remove(new)
    # SQLite takes auto_vacuum only before the first table (https://www.sqlite.org/pragma.html).
    # Without it, deleted rows never free disk space.
    with contextlib.closing(sqlite3.connect(new)) as connection:
        connection.execute("PRAGMA auto_vacuum = incremental")
        connection.execute("PRAGMA journal_mode = wal")
    with contextlib.closing(connect(new, BUSY_TIMEOUT)) as database:
        _create_tables(database)
    # SQLite would read the -wal of an earlier file into this one.
    _remove(path)
    new.rename(path)


def _create_tables(database: peewee.SqliteDatabase) -> None:
    """Create the missing tables, and sign the file unless it has to be migrated."""
    # Not Model.bind: the models belong to no database, and each query names its own.
    with database.atomic():
        for model in TABLES:
            # Creates only what does not exist.
            peewee.SchemaManager(model, database).create_all()
        if not _is_older(database):
            _sign(database)


def _remove(path: Path) -> None:
    """Remove the file at `path` and all that SQLite keeps beside it."""
    for suffix in _SUFFIXES:
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _is_empty(path: Path) -> bool:
    return not path.exists() or path.stat().st_size == 0


def _require_writable(database: peewee.SqliteDatabase) -> None:
    """Raise peewee.OperationalError where this process may not write the file; wait for no lock."""
    database.execute_sql("PRAGMA busy_timeout = 0")
    try:
        database.execute_sql("BEGIN IMMEDIATE")
        try:
            # BEGIN alone succeeds where SQLite can only read the file.
            database.execute_sql(f"PRAGMA user_version = {SCHEMA_VERSION}")
        finally:
            database.execute_sql("ROLLBACK")
    except peewee.OperationalError as error:
        # Another process may hold the lock.
        if is_write_refused(error):
            raise


def _sign(database: peewee.SqliteDatabase) -> None:
    database.execute_sql(f"PRAGMA application_id = {APPLICATION_ID}")
    database.execute_sql(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _migrate(database: peewee.SqliteDatabase, path: Path) -> None:
    """Bring the files of each project into packs, under their present directories, without queries.

    Each page is to be fetched whole the next time, because an earlier pytail did not keep all of it.

    A service manager may stop a start that takes too long, so each project has a transaction of its own.
    Then the next start continues the migration.
    """
    log.info("migrating the catalog %s to schema %d", path, SCHEMA_VERSION)
    # Else the bytes of deleted rows stay in the file, with the queries of links in them.
    database.execute_sql("PRAGMA secure_delete = on")
    _add_columns(database)
    if has_rows := database.table_exists("file"):
        # Schema 2 and 3 had one row for each file.
        not_moved = Project.select(Project.name).where(
            Project.name.not_in(FilePack.select(FilePack.project))
        )
        for (project,) in list(not_moved.tuples().execute(database)):
            with database.atomic():
                _move_files(database, project)
    for (project,) in database.execute_sql(_SELECT_BY_URL, (b'"_url/', b"?")).fetchall():
        with database.atomic():
            _update_files(database, project)
    with database.atomic():
        if has_rows:
            database.execute_sql("DROP TABLE file")
        _sign(database)


def _add_columns(database: peewee.SqliteDatabase) -> None:
    """Add the columns of schema 6, and drop the validators of the pages."""
    known = {column.name for column in database.get_columns("project")}
    with database.atomic():
        for name, kind in (("last_modified", "TEXT"), ("fingerprint", "VARCHAR(255)")):
            if name not in known:
                database.execute_sql(f"ALTER TABLE project ADD COLUMN {name} {kind}")
        database.execute_sql("UPDATE project SET etag = NULL")


def _update_files(database: peewee.SqliteDatabase, project: str) -> None:
    """Replace the directories of schema 4, and the queries of links, in the packs of `project`.

    A page with other directories gets a new revision.
    """
    is_same = Project.name == project
    packs = database.execute_sql(_SELECT_LINES, (project,)).fetchall()
    try:
        files = [file for (lines,) in packs for file in packing.files(lines)]
        present = list(map(packing.as_present, files))
    except ValueError:
        _delete_rows(database, project, FilePack, MisnamedFile, ReadyPage)
        Project.delete().where(is_same).execute(database)
        return
    if present == files:
        return
    _delete_rows(database, project, FilePack, MisnamedFile)
    put_files(database, project, present)
    if [file.directory for file in files] != [file.directory for file in present]:
        _delete_rows(database, project, ReadyPage)
        Project.update(revision=secrets.token_hex(16)).where(is_same).execute(database)


def _delete_rows(
    database: peewee.SqliteDatabase,
    project: str,
    *models: type[FilePack | MisnamedFile | ReadyPage],
) -> None:
    for model in models:
        model.delete().where(model.project == project).execute(database)


def _move_files(database: peewee.SqliteDatabase, project: str) -> None:
    rows = database.execute_sql(_SELECT_ROWS, (project,)).fetchall()
    try:
        files = [_file_of(row) for row in rows]
    except ValueError:
        # A damaged row. Without the project, its page is fetched again.
        Project.delete().where(Project.name == project).execute(database)
    else:
        put_files(database, project, files)


def _file_of(row: Sequence[Any]) -> File:
    load = orjson.loads
    return File(
        filename=row[0],
        url=row[1],
        directory=row[2],
        hashes=load(row[3]),
        size=row[4],
        upload_time=row[5],
        requires_python=row[6],
        yanked=load(row[7]),
        core_metadata=load(row[8]),
        gpg_sig=None if row[9] is None else bool(row[9]),
        provenance=row[10],
        other=load(row[11]),
    )


def _is_ready(path: Path) -> bool:
    """Return whether the file at `path` can be used as it is."""
    # SQLite would remove the -wal beside an empty file, which may be that of a new file by then.
    if _is_empty(path) or _fault(path) is not None:
        return False
    # A connection that may write would set the journal mode of a file that is being created.
    with contextlib.closing(_open_read_only(path)) as connection:
        try:
            (application,) = connection.execute("PRAGMA application_id").fetchone()
            (version,) = connection.execute("PRAGMA user_version").fetchone()
        except sqlite3.Error:
            return False
    # One transaction creates the tables and sets these two.
    return bool(application == APPLICATION_ID and version == SCHEMA_VERSION)


def _is_older(database: peewee.SqliteDatabase) -> bool:
    """Return whether the database is a catalog of a schema that is migrated."""
    (application,) = database.execute_sql("PRAGMA application_id").fetchone()
    (version,) = database.execute_sql("PRAGMA user_version").fetchone()
    return bool(application == APPLICATION_ID and _OLDEST_MIGRATED <= version < SCHEMA_VERSION)


def _fault(path: Path) -> str | None:
    """Return why the file at `path` cannot be used as a catalog, None when it can.

    Raises SettingError where a newer pytail wrote the file.
    """
    # Closing a connection that may write would merge or delete the -wal of the file.
    with contextlib.closing(_open_read_only(path)) as connection:
        deadline = time.monotonic() + _MAX_CHECK_TIME
        try:
            (application,) = connection.execute("PRAGMA application_id").fetchone()
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            if tables == 0:
                return None
            if application != APPLICATION_ID:
                return "another program wrote it"
            if version > SCHEMA_VERSION:
                remedy = Remedy.CATALOG_NEWER.format(version=version)
                raise SettingError("cache directory", path.parent, remedy)
            if version < _OLDEST_MIGRATED:
                return f"its schema version is {version}, not {SCHEMA_VERSION}"
            # The check ends at the deadline; the rest of the file counts as sound.
            connection.set_progress_handler(lambda: time.monotonic() > deadline, 10_000)
            (result,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        except sqlite3.OperationalError as error:
            # The file is locked, cannot be opened or is not checked in time, which does not mean
            # damage. But a catalog never has a rollback journal, which a read-only connection
            # reports by these messages.
            faults = ("unsupported file format", "readonly database")
            return str(error) if any(fault in str(error) for fault in faults) else None
        except sqlite3.DatabaseError as error:
            return str(error)
    return None if result == "ok" else " ".join(str(result).split())


def _open_read_only(path: Path) -> sqlite3.Connection:
    url = f"{path.absolute().as_uri()}?mode=ro"
    return sqlite3.connect(url, timeout=BUSY_TIMEOUT, uri=True)


def _set_aside(path: Path, fault: str) -> None:
    aside = path.with_name(f"{path.name}.set-aside-{time.strftime('%Y%m%d-%H%M%S')}")
    log.warning(
        "cannot use the catalog %s: %s; renamed it to %s, starting with an empty catalog",
        path,
        fault,
        aside.name,
    )
    for suffix in _SUFFIXES:
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + suffix).rename(aside.with_name(aside.name + suffix))


@contextlib.contextmanager
def _only_process(path: Path) -> Iterator[None]:
    """Hold the lock of the catalog at `path`. Raises SettingError where that takes too long.

    Workers of one cache directory start at the same time. The first one creates the tables; the
    others wait and find them.
    """
    lock = path.with_name(f"{path.name}.lock")
    try:
        with locks.locked(lock, _LOCK_TIMEOUT):
            yield
    except locks.LockTimeout as error:
        remedy = Remedy.CATALOG_LOCKED.format(lock=lock.name, seconds=f"{_LOCK_TIMEOUT:g}")
        raise SettingError("cache directory", path.parent, remedy) from error
