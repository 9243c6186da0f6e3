"""The tables of the catalog, and how its file comes to have them.

A file of an older schema is migrated and keeps what is known. One that is damaged, or another
program's, is set aside and begun anew; one that a newer pytail wrote is refused, untouched.
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

from pytail.errors import Remedy, SettingError
from pytail.model import File
from pytail.simple import names
from pytail.storage import packing

log = logging.getLogger("pytail.storage")

#: Marks the file as pytail's own ("ptal").
APPLICATION_ID = 0x7074616C
#: Raised with every change of the tables below.
SCHEMA_VERSION = 4
#: The oldest that is migrated.
_OLDEST = 2
#: Seconds to wait for another process's write.
LOCK_PATIENCE = 5.0
_LONGEST_CHECK = 0.5


class Project(peewee.Model):
    """What we know of one project: a page, or that there is none."""

    name = peewee.CharField(primary_key=True)
    #: Where its page was asked for, without credentials: the URL above ``/simple/``.
    upstream = peewee.CharField()
    found = peewee.BooleanField()
    #: The validator of the page, verbatim; None when upstream gave none.
    etag = peewee.TextField(null=True)
    last_serial = peewee.BigIntegerField(null=True)
    #: Seconds since the epoch: when the page came, and when upstream last confirmed it.
    fetched_at = peewee.DoubleField()
    checked_at = peewee.DoubleField()
    #: Changes whenever the page's content does.
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
    """Some of the files of a page, see `pytail.parts`."""

    id = peewee.AutoField()
    project = peewee.CharField()
    number = peewee.IntegerField()
    #: Before the lines: so they are read without them.
    keys = peewee.BlobField()
    lines = peewee.BlobField()

    class Meta:
        # Not without rowid, as its rows are large.
        table_name = "part"
        indexes = ((("project", "number"), True),)


class MisnamedFile(peewee.Model):
    """A listed file by whose name its project would not be found."""

    shelf = peewee.CharField()
    filename = peewee.CharField()
    project = peewee.CharField(index=True)

    class Meta:
        table_name = "stray"
        without_rowid = True
        primary_key = peewee.CompositeKey("shelf", "filename", "project")


class VerifiedSize(peewee.Model):
    """How large a file was when it was verified, where its page does not say its size."""

    location = peewee.TextField(primary_key=True)
    size = peewee.BigIntegerField()

    class Meta:
        table_name = "measured"
        without_rowid = True


class ReadyPage(peewee.Model):
    """A page as it is sent, in one form and coding; it can be made again from what we know."""

    #: Rises in the order in which they were kept.
    id = peewee.AutoField()
    project = peewee.CharField()
    #: What tells it from the project's others of the same revision.
    variant = peewee.TextField()
    #: Of the page that it shows.
    revision = peewee.CharField()
    #: The pytail that rendered it: another one may render otherwise.
    version = peewee.CharField()
    etag = peewee.CharField()
    data = peewee.BlobField()

    class Meta:
        # Not without rowid, as its rows are large.
        table_name = "ready"
        indexes = ((("project", "variant"), True),)


TABLES = (Project, FilePack, MisnamedFile, VerifiedSize, ReadyPage)

_INSERT_PART = "INSERT INTO part (project, number, keys, lines) VALUES (?, ?, ?, ?)"
_INSERT_STRAY = "INSERT INTO stray (shelf, filename, project) VALUES (?, ?, ?)"
#: A file of the schemas that had a row for each.
_SELECT_ROWS = (
    "SELECT filename, url, shelf, hashes, size, upload_time, requires_python, yanked,"
    " core_metadata, gpg_sig, provenance, other FROM file WHERE project = ? ORDER BY position"
)


def open_at(path: Path) -> None:
    """Make the file at `path` one that can be used, whatever is there.

    Raises SettingError where a newer pytail wrote it, and OSError or a PeeweeException where the
    directory does not let it be used.
    """
    with _only_process(path.with_name(f"{path.name}.lock")):
        if path.exists() and (flaw := _flaw(path)):
            _set_aside(path, flaw)
        try:
            _create(path)
        except peewee.OperationalError:
            # Locked, or a disk without room: nothing is wrong with the file.
            raise
        except peewee.DatabaseError as error:
            # What was looked at was sound, but not all of it was.
            _set_aside(path, str(error))
            _create(path)


def put_files(database: peewee.SqliteDatabase, project: str, files: Sequence[File]) -> None:
    """Insert the `files` of the page of `project`, which has none."""
    numbered = enumerate(packing.packs(files))
    rows = ((project, number, keys, lines) for number, (keys, lines) in numbered)
    # One at a time: all of them together take long to make, and to let go.
    database.connection().executemany(_INSERT_PART, rows)
    strays = [
        (file.directory, file.filename, project)
        for file in files
        if not names.tells_project(file.filename, project)
    ]
    database.connection().executemany(_INSERT_STRAY, strays)


def database_at(path: Path, patience: float) -> peewee.SqliteDatabase:
    """The catalog in the file at `path`; other processes' writes are waited for `patience` seconds."""
    # Each is used by one thread at a time, and inline without yielding: no state for each greenlet.
    return peewee.SqliteDatabase(
        str(path),
        pragmas={
            "journal_mode": "wal",
            "synchronous": "normal",
            "journal_size_limit": 2**24,
        },
        timeout=patience,
        thread_safe=False,
        check_same_thread=False,
        lock_type="IMMEDIATE",
    )


def _create(path: Path) -> None:
    if not path.exists():
        # Only as the very first thing: then what is forgotten can leave the disk.
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA auto_vacuum = incremental")
            connection.execute("PRAGMA journal_mode = wal")
    database = database_at(path, LOCK_PATIENCE)
    with contextlib.closing(database):
        # Nothing is written where there is nothing to make: another process may have the lock.
        if database.get_tables() and not _is_older(database):
            return
        # Sidesteps Model.bind: a model belongs to no database, each query names its own.
        with database.atomic():
            for model in TABLES:
                # Those that are there stay as they are.
                peewee.SchemaManager(model, database).create_all()
            if not (has_rows := database.table_exists("file")):
                _sign(database)
        if has_rows:
            _migrate(database)


def _sign(database: peewee.SqliteDatabase) -> None:
    database.execute_sql(f"PRAGMA application_id = {APPLICATION_ID}")
    database.execute_sql(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _migrate(database: peewee.SqliteDatabase) -> None:
    """Move the files from a table with a row for each, as older schemas had it, into parts."""
    log.info("%s: migrating it to schema %d", database.database, SCHEMA_VERSION)
    left = Project.select(Project.name).where(
        Project.name.not_in(FilePack.select(FilePack.project))
    )
    for (project,) in list(left.tuples().execute(database)):
        # One by one: whoever starts us may not wait until all are done, and then start us anew.
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
        # Damaged: as if it had never been asked for.
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
    """Whether it is ours, of a schema that is migrated."""
    (application,) = database.execute_sql("PRAGMA application_id").fetchone()
    (version,) = database.execute_sql("PRAGMA user_version").fetchone()
    return bool(application == APPLICATION_ID and _OLDEST <= version < SCHEMA_VERSION)


def _flaw(path: Path) -> str | None:
    """Why the file at `path` cannot be used, None when it can."""
    # Looked at only, also its -wal: closing one opened for writing would merge or delete that.
    url = f"{path.absolute().as_uri()}?mode=ro"
    with contextlib.closing(sqlite3.connect(url, timeout=LOCK_PATIENCE, uri=True)) as connection:
        deadline = time.monotonic() + _LONGEST_CHECK
        try:
            (application,) = connection.execute("PRAGMA application_id").fetchone()
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            if tables == 0:
                return None
            if application != APPLICATION_ID:
                return "it is another program's"
            if version > SCHEMA_VERSION:
                remedy = Remedy.CATALOG_NEWER.format(version=version)
                raise SettingError("cache directory", path.parent, remedy)
            if version < _OLDEST:
                return f"its schema version is {version}, not {SCHEMA_VERSION}"
            # A long check is given up: what it has read so far is sound.
            connection.set_progress_handler(lambda: time.monotonic() > deadline, 10_000)
            (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        except sqlite3.OperationalError as error:
            # Locked, out of time or not to be opened: no word about what is in the file. But none
            # of ours has a journal to be rolled back, which cannot be done by looking.
            telling = ("unsupported file format", "readonly database")
            return str(error) if any(word in str(error) for word in telling) else None
        except sqlite3.DatabaseError as error:
            return str(error)
    return None if verdict == "ok" else " ".join(str(verdict).split())


def _set_aside(path: Path, flaw: str) -> None:
    aside = path.with_name(f"{path.name}.set-aside-{time.strftime('%Y%m%d-%H%M%S')}")
    log.warning("%s cannot be used: %s; set aside as %s and begun anew", path, flaw, aside.name)
    for suffix in ("-journal", "-wal", "-shm", ""):
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + suffix).rename(aside.with_name(aside.name + suffix))


@contextlib.contextmanager
def _only_process(path: Path) -> Iterator[None]:
    # Workers of one cache directory start together; one makes the tables, the others find them.
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
