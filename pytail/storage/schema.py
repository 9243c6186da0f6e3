"""The tables of the catalog, and the preparation of its SQLite file at the start.

`prepare` migrates a file of schema 2 or 3 and keeps its content. It renames a file that is damaged, of
another schema or of another program, and creates an empty one. It refuses a file of a newer schema
and does not change it.

The names of tables, columns and indexes on disk are those of schema 4. Some differ from the names of
the Python classes and fields.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import sqlite3
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson
import peewee

from pytail.errors import NOT_WRITABLE, Remedy, SettingError
from pytail.model import File
from pytail.simple import names
from pytail.storage import packing

log = logging.getLogger("pytail.storage")

#: ``PRAGMA application_id`` of a catalog ("ptal"; https://www.sqlite.org/pragma.html).
APPLICATION_ID = 0x7074616C
#: ``PRAGMA user_version`` of a catalog; each change of the tables below increases it by one.
SCHEMA_VERSION = 4
#: The oldest schema that is migrated.
_OLDEST_MIGRATED = 2
#: Seconds to wait for the lock that another process holds while it writes.
BUSY_TIMEOUT = 5.0
#: Seconds for the check of an existing file at the start.
_MAX_CHECK_TIME = 0.5


class Project(peewee.Model):
    """One project: its page without the files, or the fact that upstream has no such project."""

    #: Normalized.
    name = peewee.CharField(primary_key=True)
    #: The index that was asked: the URL above ``/simple/`` without credentials.
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

TABLES = (Project, FilePack, MisnamedFile, VerifiedSize, ReadyPage)

_INSERT_PACK = "INSERT INTO part (project, number, keys, lines) VALUES (?, ?, ?, ?)"
_INSERT_MISNAMED = "INSERT INTO stray (shelf, filename, project) VALUES (?, ?, ?)"
#: The files of a project in schema 2 and 3, which had one row for each file.
_SELECT_ROWS = (
    "SELECT filename, url, shelf, hashes, size, upload_time, requires_python, yanked,"
    " core_metadata, gpg_sig, provenance, other FROM file WHERE project = ? ORDER BY position"
)


def prepare(path: Path) -> None:
    """Make the file at `path` a catalog of this schema, whether it exists or not.

    Raises SettingError where a newer pytail wrote the file. Raises OSError or a PeeweeException where
    the file or its directory cannot be used.
    """
    with _exclusive(path.with_name(f"{path.name}.lock")):
        if path.exists() and (fault := _fault(path)):
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
        (file.directory, file.filename, project)
        for file in files
        if not names.may_belong_to(file.filename, project)
    ]
    database.connection().executemany(_INSERT_MISNAMED, misnamed)


def connect(path: Path, busy_timeout: float) -> peewee.SqliteDatabase:
    """Return a connection to the catalog at `path`, not yet open.

    It waits `busy_timeout` seconds for the write of another process.
    """
    # Each connection is used by one thread at a time, and on the event loop without yielding.
    # Therefore Peewee needs no connection state for each thread or greenlet.
    return peewee.SqliteDatabase(
        str(path),
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
    if not path.exists():
        # SQLite takes auto_vacuum only before the first table (https://www.sqlite.org/pragma.html).
        # Without it, deleted rows never free disk space.
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA auto_vacuum = incremental")
            connection.execute("PRAGMA journal_mode = wal")
    database = connect(path, BUSY_TIMEOUT)
    with contextlib.closing(database):
        # Without a write when nothing is missing, because another process may hold the lock.
        if database.get_tables() and not _is_older(database):
            _require_writable(database)
            return
        # Not Model.bind: the models belong to no database, and each query names its own.
        with database.atomic():
            for model in TABLES:
                # Creates only what does not exist.
                peewee.SchemaManager(model, database).create_all()
            if not (has_rows := database.table_exists("file")):
                _sign(database)
        if has_rows:
            _migrate(database)


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


def _migrate(database: peewee.SqliteDatabase) -> None:
    """Move the files of each project from the table ``file`` of schema 2 and 3 into packs."""
    log.info("migrating the catalog %s to schema %d", database.database, SCHEMA_VERSION)
    not_moved = Project.select(Project.name).where(
        Project.name.not_in(FilePack.select(FilePack.project))
    )
    for (project,) in list(not_moved.tuples().execute(database)):
        # One transaction for each project. A service manager may stop a start that takes too long;
        # then the next start continues the migration.
        with database.atomic():
            _move_files(database, project)
    with database.atomic():
        database.execute_sql("DROP TABLE file")
        _sign(database)


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


def _is_older(database: peewee.SqliteDatabase) -> bool:
    """Return whether the database is a catalog of a schema that is migrated."""
    (application,) = database.execute_sql("PRAGMA application_id").fetchone()
    (version,) = database.execute_sql("PRAGMA user_version").fetchone()
    return bool(application == APPLICATION_ID and _OLDEST_MIGRATED <= version < SCHEMA_VERSION)


def _fault(path: Path) -> str | None:
    """Return why the file at `path` cannot be used as a catalog, None when it can.

    Raises SettingError where a newer pytail wrote the file.
    """
    # Read-only: closing a connection that may write would merge or delete the -wal of the file.
    url = f"{path.absolute().as_uri()}?mode=ro"
    with contextlib.closing(sqlite3.connect(url, timeout=BUSY_TIMEOUT, uri=True)) as connection:
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


def _set_aside(path: Path, fault: str) -> None:
    aside = path.with_name(f"{path.name}.set-aside-{time.strftime('%Y%m%d-%H%M%S')}")
    log.warning(
        "cannot use the catalog %s: %s; renamed it to %s, starting with an empty catalog",
        path,
        fault,
        aside.name,
    )
    for suffix in ("-journal", "-wal", "-shm", ""):
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + suffix).rename(aside.with_name(aside.name + suffix))


@contextlib.contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on the file at `path`.

    Workers of one cache directory start at the same time. The first one creates the tables; the
    others wait and find them.
    """
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
