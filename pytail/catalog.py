"""What we know of upstream, and since when: Peewee models and queries over SQLite.

The catalog can be lost at any time and costs no more than asking upstream again, so trouble with it
is never a client's: a read that fails knows nothing, a write that fails is forgotten, both with a
line in the log. A file that is damaged or another program's is set aside and begun anew.

Three lanes keep SQLite from stalling the hub: one row by an index is read inline, whole pages are
read in one thread, and all writes go through another. Each has a connection of its own.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import orjson
import peewee
from gevent.threadpool import ThreadPool

from pytail.errors import SettingError
from pytail.model import File, ProjectPage
from pytail.threads import off_hub

log = logging.getLogger(__name__)

Result = TypeVar("Result")

#: Marks the file as pytail's own ("ptal").
APPLICATION_ID = 0x7074616C
#: Raised with every change of the tables below.
SCHEMA_VERSION = 2
#: Projects that upstream does not have, remembered at most; clients can make up names.
MOST_MISSING = 10_000
#: Entries and files at hand at most.
_MOST_FOUND = 4000

#: Seconds for which it is believed that no other process has written: less than it takes to tell.
_BELIEF = 0.001
#: Projects forgotten at once where room is needed.
_TRIMMED = 20
_LONGEST_CHECK = 0.5
_LOCK_PATIENCE = 5.0
#: A wait inline is one of the whole hub.
_INLINE_PATIENCE = 0.05


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


class ListedFile(peewee.Model):
    """One file of a page."""

    project = peewee.CharField()
    position = peewee.IntegerField()
    filename = peewee.CharField()
    url = peewee.TextField()
    shelf = peewee.CharField()
    hashes = peewee.BlobField()
    size = peewee.BigIntegerField(null=True)
    upload_time = peewee.CharField(null=True)
    requires_python = peewee.TextField(null=True)
    yanked = peewee.BlobField()
    core_metadata = peewee.BlobField()
    gpg_sig = peewee.BooleanField(null=True)
    provenance = peewee.TextField(null=True)
    other = peewee.BlobField()

    class Meta:
        table_name = "file"
        without_rowid = True
        primary_key = peewee.CompositeKey("project", "position")
        indexes = ((("shelf", "filename"), False),)


class MeasuredFile(peewee.Model):
    """How large a file was when it was verified, where its page does not say its size."""

    location = peewee.TextField(primary_key=True)
    size = peewee.BigIntegerField()

    class Meta:
        table_name = "measured"
        without_rowid = True


_FILE_COLUMNS = (
    "filename", "url", "shelf", "hashes", "size", "upload_time", "requires_python", "yanked",
    "core_metadata", "gpg_sig", "provenance", "other",
)  # fmt: skip
_ENTRY_COLUMNS = (
    "name", "upstream", "found", "fetched_at", "checked_at", "etag", "last_serial", "revision",
    "status",
)  # fmt: skip
_SELECT_ENTRY = f"SELECT {', '.join(_ENTRY_COLUMNS)} FROM project WHERE name = ?"
_SELECT_FILE = (
    f"SELECT {', '.join(f'file.{column}' for column in _FILE_COLUMNS)}"
    " FROM file JOIN project ON project.name = file.project"
    " WHERE shelf = ? AND filename = ? AND upstream = ?"
)
_SELECT_FILES = f"SELECT {', '.join(_FILE_COLUMNS)} FROM file WHERE project = ? ORDER BY position"
_INSERT_FILE = (
    f"INSERT INTO file (project, position, {', '.join(_FILE_COLUMNS)})"
    f" VALUES ({', '.join('?' * (2 + len(_FILE_COLUMNS)))})"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What we know of a project without its files."""

    name: str
    #: Where it was asked for, the URL above ``/simple/`` without credentials.
    upstream: str
    #: False when upstream has no such project.
    found: bool
    #: Seconds since the epoch: when the page came, and when upstream last confirmed it.
    fetched_at: float
    checked_at: float
    #: The validator of the page, verbatim; None when upstream gave none.
    etag: str | None = None
    #: None when upstream gives none.
    last_serial: int | None = None
    #: Changes whenever the page's content does.
    revision: str = ""
    #: The project status (PEP 792), None when upstream does not say.
    status: str | None = None


class Catalog:
    """The knowledge in ``<cache-dir>/index.sqlite3``."""

    def __init__(self, path: Path) -> None:
        """Open or make the file at `path`.

        Raises SettingError where a newer pytail wrote it, and OSError or a PeeweeException where
        the directory does not let it be used.
        """
        self._path = path
        with _only_process(path.with_name(f"{path.name}.lock")):
            if path.exists() and (flaw := _flaw(path)):
                _set_aside(path, flaw)
            _create(path)
        self._inline = _database(path, _INLINE_PATIENCE)
        self._reads, self._reader = ThreadPool(1), _database(path, _LOCK_PATIENCE)
        self._writes, self._writer = ThreadPool(1), _database(path, _LOCK_PATIENCE)
        self._patience = _LOCK_PATIENCE
        #: What was looked up since anybody last changed the file, by statement and parameters.
        self._found: dict[tuple[str, ...], Any] = {}
        self._version: tuple[int] | None = None
        self._believed_until = 0.0

    def entry(self, name: str) -> Entry | None:
        """What we know of the project `name` (normalized), None when nothing."""
        return self._look_up(_entry, _SELECT_ENTRY, name)

    def entry_lately(self, name: str) -> Entry | None:
        """As `entry`, at a tenth of the cost; what another process wrote shows a millisecond later."""
        found: Entry | None = self._lately(_SELECT_ENTRY, name)
        return self.entry(name) if found is None else found

    def file(self, shelf: str, filename: str, upstream: str) -> File | None:
        """The file listed under that URL, None when no page of `upstream` that we know lists one."""
        return self._look_up(_file, _SELECT_FILE, shelf, filename, upstream)

    def file_lately(self, shelf: str, filename: str, upstream: str) -> File | None:
        """As `file`, at a tenth of the cost; what another process wrote shows a millisecond later."""
        found: File | None = self._lately(_SELECT_FILE, shelf, filename, upstream)
        return self.file(shelf, filename, upstream) if found is None else found

    def measured(self, location: str) -> int | None:
        """The size in bytes by `measure`, None when there is none."""
        sql = "SELECT size FROM measured WHERE location = ?"
        return self._look_up(lambda row: int(row[0]), sql, location)

    def measure(self, location: str, size: int) -> None:
        """Note that the file of that `location` is `size` bytes large, as it was verified."""
        row = MeasuredFile.replace(location=location, size=size)  # type: ignore[no-untyped-call]
        self._write(lambda: row.execute(self._writer))

    def page(self, name: str) -> ProjectPage | None:
        """The page of the project `name`, None when we have none."""

        def read() -> ProjectPage | None:
            query = Project.select().where(Project.name == name, Project.found)
            with self._reader.atomic("DEFERRED"):
                projects = list(query.execute(self._reader))
                rows = self._reader.execute_sql(_SELECT_FILES, (name,)).fetchall()
            return _page(projects[0], rows) if projects else None

        return self._try("read", lambda: off_hub(read, self._reads))

    def projects(self, upstream: str) -> list[str]:
        """The names of all projects that `upstream` has, of those asked for, sorted."""

        def read() -> list[str]:
            query = Project.select(Project.name).order_by(Project.name)
            query = query.where(Project.found, Project.upstream == upstream)
            return [name for (name,) in query.tuples().execute(self._reader)]

        return self._try("read", lambda: off_hub(read, self._reads)) or []

    def last_serial(self, upstream: str) -> int | None:
        """The highest serial of any page of `upstream` that we know, None when it gives none."""
        row = self._one("SELECT max(last_serial) FROM project WHERE upstream = ?", upstream)
        return None if row is None else row[0]

    def owner(self, shelf: str, filename: str) -> str | None:
        """The project whose page lists the file under that URL, None when no page does."""
        sql = "SELECT project FROM file WHERE shelf = ? AND filename = ? LIMIT 1"
        row = self._one(sql, shelf, filename)
        return None if row is None else row[0]

    def forget(self, names: Iterable[str] | None = None) -> int:
        """Forget the projects `names` (None: all), also that some do not exist; how many there were."""
        if names is None:

            def read() -> list[str]:
                query = Project.select(Project.name)
                return [name for (name,) in query.tuples().execute(self._reader)]

            names = self._try("read", lambda: off_hub(read, self._reads)) or []
        left, forgotten = list(names), 0
        while left:
            # In several transactions: others write between them.
            some, left = left[:_TRIMMED], left[_TRIMMED:]
            forgotten += self._write(lambda some=some: self._drop(some)) or 0  # type: ignore[misc]
        return forgotten

    def remember(self, entry: Entry, page: ProjectPage) -> None:
        """Replace what we know of a project by `entry` and `page`."""

        def write() -> None:
            self._put(entry, page)
            # One row at a time: a list of them all takes long to make, and to let go.
            self._writer.connection().executemany(_INSERT_FILE, _rows(page))

        self._write(write)

    def remember_missing(self, entry: Entry) -> None:
        """Replace what we know of a project by `entry`: upstream does not have it."""

        def write() -> None:
            self._put(entry, ProjectPage(name=entry.name, status=entry.status))
            # Not `~Project.found`, for which SQLite would not use the index.
            is_missing = Project.found == 0
            missing = Project.select(Project.checked_at).where(is_missing)
            beyond = missing.order_by(Project.checked_at.desc()).offset(MOST_MISSING).limit(1)
            forget = Project.delete().where(is_missing, Project.checked_at <= beyond)
            forget.execute(self._writer)

        self._write(write)

    def confirm(self, name: str, checked_at: float) -> None:
        """Note that upstream confirmed the page of `name` at `checked_at`."""
        query = Project.update(checked_at=checked_at).where(Project.name == name)
        self._write(lambda: query.execute(self._writer))

    def learn_metadata(self, wheel: File, sha256: str | None) -> None:
        """Note the digest of the core metadata of `wheel`, None that there is none to be had."""
        learnt = {"sha256": sha256} if sha256 is not None else False
        if learnt == wheel.core_metadata:
            return

        def write() -> None:
            ours = (ListedFile.shelf == wheel.shelf) & (ListedFile.filename == wheel.filename)
            change = ListedFile.update(core_metadata=orjson.dumps(learnt)).where(ours)
            change.execute(self._writer)
            projects = ListedFile.select(ListedFile.project).where(ours)
            revision = peewee.fn.lower(peewee.fn.hex(peewee.fn.randomblob(16)))
            changed = Project.update(revision=revision).where(Project.name.in_(projects))
            changed.execute(self._writer)

        self._write(write)

    def size(self) -> int:
        """The bytes that it takes of the disk."""
        sizes = 0
        for suffix in ("", "-wal", "-shm"):
            with contextlib.suppress(OSError):
                sizes += self._path.with_name(self._path.name + suffix).stat().st_size
        return sizes

    def trim(self, size: int) -> None:
        """Forget the projects not asked about for longest until `size` bytes are enough."""

        def used() -> int:
            numbers = ("page_count", "freelist_count", "page_size")
            pages, free, page_size = (
                self._writer.execute_sql(f"PRAGMA {number}").fetchone()[0] for number in numbers
            )
            return (pages - free) * page_size  # type: ignore[no-any-return]

        def forget() -> None:
            oldest = Project.select(Project.name).order_by(Project.checked_at).limit(_TRIMMED)
            names = [name for (name,) in oldest.tuples().execute(self._writer)]
            self._drop(names)

        def shrink() -> None:
            # A script: `execute` would free one page only.
            self._writer.connection().executescript("PRAGMA incremental_vacuum")
            self._writer.execute_sql("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

        while (left := self._try("read", lambda: off_hub(used, self._writes))) and left > size:
            self._write(forget)
            if self._try("read", lambda: off_hub(used, self._writes)) == left:
                break
        self._try("shrink", lambda: off_hub(shrink, self._writes))

    def close(self) -> None:
        """Finish the writes under way and close the file."""
        for lane, database in ((self._reads, self._reader), (self._writes, self._writer)):
            off_hub(database.close, lane)
            lane.kill()
        self._inline.close()

    def _drop(self, names: list[str]) -> int:
        ListedFile.delete().where(ListedFile.project.in_(names)).execute(self._writer)
        return Project.delete().where(Project.name.in_(names)).execute(self._writer)  # type: ignore[no-any-return]

    def _put(self, entry: Entry, page: ProjectPage) -> None:
        ListedFile.delete().where(ListedFile.project == entry.name).execute(self._writer)
        Project.replace(  # type: ignore[no-untyped-call]
            name=entry.name,
            upstream=entry.upstream,
            found=entry.found,
            etag=entry.etag,
            last_serial=entry.last_serial,
            fetched_at=entry.fetched_at,
            checked_at=entry.checked_at,
            revision=entry.revision,
            versions=None if page.versions is None else orjson.dumps(page.versions),
            status=page.status,
            status_reason=page.status_reason,
            other=orjson.dumps(page.other),
        ).execute(self._writer)

    def _look_up(self, make: Callable[[tuple[Any, ...]], Result], *question: str) -> Result | None:
        """What `make` makes of the one row, made once while the file stays as it is."""
        version = self._one("PRAGMA data_version")
        if version is None or version != self._version or len(self._found) >= _MOST_FOUND:
            self._found, self._version = {}, version
        found: Result | None = self._found.get(question)
        if found is None and (row := self._one(*question)) is not None:
            found = self._found[question] = make(row)
        return found

    def _lately(self, *question: str) -> Any:
        """What is at hand, None where there is nothing or it is time to look whether it is right."""
        now = time.monotonic()
        if now < self._believed_until:
            return self._found.get(question)
        self._believed_until = now + _BELIEF
        return None

    def _one(self, sql: str, *parameters: str) -> tuple[Any, ...] | None:
        return self._try("read", lambda: self._inline.execute_sql(sql, parameters).fetchone())

    def _write(self, write: Callable[[], Result]) -> Result | None:
        def transaction() -> Result:
            # Enough for another process's write. Whoever has the lock for longer is waited for
            # once, not by one write after the other with a client behind each.
            patience, self._patience = self._patience, 0.0
            self._writer.execute_sql(f"PRAGMA busy_timeout = {patience * 1000:.0f}")
            with self._writer.atomic():
                result = write()
            self._patience = _LOCK_PATIENCE
            return result

        written = self._try("write", lambda: off_hub(transaction, self._writes))
        self._believed_until = 0.0
        return written

    def _try(self, what: str, work: Callable[[], Result]) -> Result | None:
        try:
            return work()
        except (peewee.PeeweeException, sqlite3.Error, orjson.JSONDecodeError) as error:
            log.error("cannot %s %s, going on without: %s", what, self._path, error)
            return None


def _database(path: Path, patience: float) -> peewee.SqliteDatabase:
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
    database = _database(path, _LOCK_PATIENCE)
    with contextlib.closing(database):
        # Nothing is written where there is nothing to make: another process may have the lock.
        if database.get_tables():
            return
        # Sidesteps Model.bind: a model belongs to no database, each query names its own.
        with database.atomic():
            for model in (Project, ListedFile, MeasuredFile):
                peewee.SchemaManager(model, database).create_all()
            database.execute_sql(f"PRAGMA application_id = {APPLICATION_ID}")
            database.execute_sql(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _flaw(path: Path) -> str | None:
    """Why the file at `path` cannot be used, None when it can."""
    # Looked at only, also its -wal: closing one opened for writing would merge or delete that.
    url = f"{path.absolute().as_uri()}?mode=ro"
    with contextlib.closing(sqlite3.connect(url, timeout=_LOCK_PATIENCE, uri=True)) as connection:
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
                remedy = f"a newer pytail keeps its catalog here (schema {version}): run that one"
                raise SettingError("cache directory", path.parent, remedy)
            if version != SCHEMA_VERSION:
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


def _rows(page: ProjectPage) -> Iterator[tuple[Any, ...]]:
    dump = orjson.dumps
    for position, file in enumerate(page.files):
        yield (
            page.name, position, file.filename, file.url, file.shelf, dump(file.hashes), file.size,
            file.upload_time, file.requires_python, dump(file.yanked), dump(file.core_metadata),
            file.gpg_sig, file.provenance, dump(file.other),
        )  # fmt: skip


def _entry(row: tuple[Any, ...]) -> Entry:
    return Entry(**dict(zip(_ENTRY_COLUMNS, row, strict=True)))


def _file(row: tuple[Any, ...]) -> File:
    load = orjson.loads
    return File(
        filename=row[0],
        url=row[1],
        shelf=row[2],
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


def _page(project: Any, rows: Iterable[tuple[Any, ...]]) -> ProjectPage:
    return ProjectPage(
        name=project.name,
        files=tuple(_file(row) for row in rows),
        versions=None if project.versions is None else tuple(orjson.loads(project.versions)),
        status=project.status,
        status_reason=project.status_reason,
        last_serial=project.last_serial,
        other=orjson.loads(project.other),
    )
