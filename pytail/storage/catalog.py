"""What we know of upstream, and since when: Peewee models and queries over SQLite.

The catalog can be lost at any time and costs no more than asking upstream again, so trouble with it
is never a client's: a read that fails knows nothing, a write that fails is forgotten, both with a
line in the log. A file that is damaged or another program's is set aside and begun anew.

Three lanes keep SQLite from stalling the hub: one row by an index is read inline, whole pages are
read in one thread, and all writes go through another. Each has a connection of its own.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import orjson
import peewee
from gevent.threadpool import ThreadPool

from pytail import __version__
from pytail.model import File, ProjectPage
from pytail.runtime.threads import off_loop
from pytail.simple import names
from pytail.storage import packing, schema
from pytail.storage.schema import FilePack, MisnamedFile, Project, ReadyPage, VerifiedSize

log = logging.getLogger("pytail.storage")

Result = TypeVar("Result")

#: Projects that upstream does not have, remembered at most; clients can make up names.
MOST_MISSING = 10_000
#: Entries and files at hand at most.
_MOST_FOUND = 4000

#: Seconds for which it is believed that no other process has written: less than it takes to tell.
_BELIEF = 0.001
#: Projects forgotten, and ready pages dropped, at once where room is needed.
_TRIMMED = 20
#: A wait inline is one of the whole hub.
_INLINE_PATIENCE = 0.05

_ENTRY_COLUMNS = (
    "name", "upstream", "found", "fetched_at", "checked_at", "etag", "last_serial", "revision",
    "status",
)  # fmt: skip
_SELECT_ENTRY = f"SELECT {', '.join(_ENTRY_COLUMNS)} FROM project WHERE name = ?"
_SELECT_STRAYS = "SELECT project FROM stray WHERE shelf = ? AND filename = ?"
# Those that may list a file with that key.
_SELECT_PARTS = (
    "SELECT project.upstream, part.id, CAST(part.lines AS BLOB)"
    " FROM part JOIN project ON project.name = part.project"
    " WHERE part.project = ? AND instr(part.keys, ?) ORDER BY part.number"
)
_SELECT_LINES = "SELECT CAST(lines AS BLOB) FROM part WHERE project = ? ORDER BY number"
_SELECT_READY = (
    "SELECT etag, CAST(data AS BLOB) FROM ready"
    " WHERE project = ? AND variant = ? AND revision = ? AND version = ?"
)
# Nothing where the project is forgotten, or has changed, in the meantime.
_KEEP_READY = (
    "INSERT OR REPLACE INTO ready (project, variant, revision, version, etag, data)"
    " SELECT name, ?, revision, ?, ?, ? FROM project WHERE name = ? AND revision = ?"
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
        schema.open_at(path)
        self._inline = schema.database_at(path, _INLINE_PATIENCE)
        self._reads, self._reader = ThreadPool(1), schema.database_at(path, schema.LOCK_PATIENCE)
        self._writes, self._writer = ThreadPool(1), schema.database_at(path, schema.LOCK_PATIENCE)
        self._patience = schema.LOCK_PATIENCE
        #: What was looked up since anybody last changed the file, by what was asked.
        self._found: dict[tuple[str, ...], Any] = {}
        self._version: tuple[int] | None = None
        self._believed_until = 0.0

    def entry(self, name: str) -> Entry | None:
        """What we know of the project `name` (normalized), None when nothing."""
        return self._look_up(self._entry, name)

    def recent_entry(self, name: str) -> Entry | None:
        """As `entry`, at a tenth of the cost; what another process wrote shows a millisecond later."""
        found: Entry | None = self._lately(self._entry, name)
        return self.entry(name) if found is None else found

    def file(self, shelf: str, filename: str, upstream: str) -> File | None:
        """The file listed under that URL, None when no page of `upstream` that we know lists one."""
        return self._look_up(self._file, shelf, filename, upstream)

    def recent_file(self, shelf: str, filename: str, upstream: str) -> File | None:
        """As `file`, at a tenth of the cost; what another process wrote shows a millisecond later."""
        found: File | None = self._lately(self._file, shelf, filename, upstream)
        return self.file(shelf, filename, upstream) if found is None else found

    def verified_size(self, location: str) -> int | None:
        """The size in bytes by `measure`, None when there is none."""
        return self._look_up(self._measured, location)

    def remember_size(self, location: str, size: int) -> None:
        """Note that the file of that `location` is `size` bytes large, as it was verified."""
        row = VerifiedSize.replace(location=location, size=size)  # type: ignore[no-untyped-call]
        self._write(lambda: row.execute(self._writer))

    def page(self, name: str) -> ProjectPage | None:
        """The page of the project `name`, None when we have none."""

        def read() -> ProjectPage | None:
            query = Project.select().where(Project.name == name, Project.found)
            with self._reader.atomic("DEFERRED"):
                projects = list(query.execute(self._reader))
                read = self._reader.execute_sql(_SELECT_LINES, (name,)).fetchall()
            return _page(projects[0], (lines for (lines,) in read)) if projects else None

        return self._try("read", lambda: off_loop(read, self._reads))

    def ready_page(self, project: str, revision: str, variant: str) -> tuple[str, bytes] | None:
        """The ETag and bytes given to `keep_ready` by this version of pytail, None when gone."""

        def read() -> tuple[str, bytes] | None:
            key = (project, variant, revision, __version__)
            row = self._reader.execute_sql(_SELECT_READY, key).fetchone()
            return None if row is None else (row[0], row[1])

        return self._try("read", lambda: off_loop(read, self._reads))

    def store_ready_page(
        self, project: str, revision: str, variant: str, etag: str, data: bytes
    ) -> None:
        """Keep the page of `project` as it is sent, while it is known and of that `revision`."""

        def write() -> None:
            self._drop_ready((ReadyPage.project == project) & (ReadyPage.version != __version__))
            row = (variant, __version__, etag, data, project, revision)
            self._writer.execute_sql(_KEEP_READY, row)

        self._write(write)

    def projects(self, upstream: str) -> list[str]:
        """The names of all projects that `upstream` has, of those asked for, sorted."""

        def read() -> list[str]:
            query = Project.select(Project.name).order_by(Project.name)
            query = query.where(Project.found, Project.upstream == upstream)
            return [name for (name,) in query.tuples().execute(self._reader)]

        return self._try("read", lambda: off_loop(read, self._reads)) or []

    def last_serial(self, upstream: str) -> int | None:
        """The highest serial of any page of `upstream` that we know, None when it gives none."""
        row = self._one("SELECT max(last_serial) FROM project WHERE upstream = ?", upstream)
        return None if row is None else row[0]

    def project_of(self, shelf: str, filename: str) -> str | None:
        """The project whose page lists the file under that URL, None when no page does."""
        listed = self._listed(shelf, filename)
        return self._try("read", lambda: next((project for project, _, _ in listed), None))

    def forget(self, names: Iterable[str] | None = None) -> int:
        """Forget the projects `names` (None: all), also that some do not exist; how many there were."""
        if names is None:

            def read() -> list[str]:
                query = Project.select(Project.name)
                return [name for (name,) in query.tuples().execute(self._reader)]

            names = self._try("read", lambda: off_loop(read, self._reads)) or []
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
            schema.put_files(self._writer, page.name, page.files)

        self._write(write)

    def remember_missing(self, entry: Entry) -> None:
        """Replace what we know of a project by `entry`: upstream does not have it."""

        def write() -> None:
            self._put(entry, ProjectPage(name=entry.name, status=entry.status))
            # Not `~Project.found`, for which SQLite would not use the index.
            is_missing = Project.found == 0
            missing = Project.select(Project.checked_at).where(is_missing)
            beyond = missing.order_by(Project.checked_at.desc()).offset(MOST_MISSING).limit(1)
            # They have neither files nor ready pages.
            forget = Project.delete().where(is_missing, Project.checked_at <= beyond)
            forget.execute(self._writer)

        self._write(write)

    def confirm(self, name: str, checked_at: float) -> None:
        """Note that upstream confirmed the page of `name` at `checked_at`."""
        query = Project.update(checked_at=checked_at).where(Project.name == name)
        self._write(lambda: query.execute(self._writer))

    def set_core_metadata(self, wheel: File, sha256: str | None) -> None:
        """Note the digest of the core metadata of `wheel`, None that there is none to be had."""
        learnt = {"sha256": sha256} if sha256 is not None else False
        if learnt == wheel.core_metadata:
            return

        def write() -> None:
            for project, _, part, lines in _parts_with(
                self._writer, wheel.directory, wheel.filename
            ):
                changed = packing.with_core_metadata(lines, wheel.directory, wheel.filename, learnt)
                if changed is None:
                    continue
                FilePack.update(lines=changed).where(FilePack.id == part).execute(self._writer)
                is_its = Project.name == project
                revision = secrets.token_hex(16)
                Project.update(revision=revision).where(is_its).execute(self._writer)
                self._drop_ready(ReadyPage.project == project)

        self._write(write)

    def size(self) -> int:
        """The bytes that it takes of the disk."""
        sizes = 0
        for suffix in ("", "-wal", "-shm"):
            with contextlib.suppress(OSError):
                sizes += self._path.with_name(self._path.name + suffix).stat().st_size
        return sizes

    def trim(self, size: int) -> None:
        """Forget what costs least to have again until `size` bytes are enough.

        Ready pages go first, those kept for longest before others, then the projects not asked
        about for longest.
        """

        def used() -> int:
            numbers = ("page_count", "freelist_count", "page_size")
            pages, free, page_size = (
                self._writer.execute_sql(f"PRAGMA {number}").fetchone()[0] for number in numbers
            )
            return (pages - free) * page_size  # type: ignore[no-any-return]

        def forget() -> None:
            first = ReadyPage.select(ReadyPage.id).order_by(ReadyPage.id).limit(_TRIMMED)
            if self._drop_ready(ReadyPage.id.in_(first)):
                return
            oldest = Project.select(Project.name).order_by(Project.checked_at).limit(_TRIMMED)
            names = [name for (name,) in oldest.tuples().execute(self._writer)]
            self._drop(names)

        def shrink() -> None:
            # A script: `execute` would free one page only.
            self._writer.connection().executescript("PRAGMA incremental_vacuum")
            self._writer.execute_sql("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

        while (left := self._try("read", lambda: off_loop(used, self._writes))) and left > size:
            self._write(forget)
            if self._try("read", lambda: off_loop(used, self._writes)) == left:
                break
        self._try("shrink", lambda: off_loop(shrink, self._writes))

    def close(self) -> None:
        """Finish the writes under way and close the file."""
        for lane, database in ((self._reads, self._reader), (self._writes, self._writer)):
            off_loop(database.close, lane)
            lane.kill()
        self._inline.close()

    def _drop(self, names: list[str]) -> int:
        for model in (FilePack, MisnamedFile, ReadyPage):
            model.delete().where(model.project.in_(names)).execute(self._writer)
        return Project.delete().where(Project.name.in_(names)).execute(self._writer)  # type: ignore[no-any-return]

    def _drop_ready(self, which: peewee.Expression) -> int:
        return ReadyPage.delete().where(which).execute(self._writer)  # type: ignore[no-any-return]

    def _put(self, entry: Entry, page: ProjectPage) -> None:
        for model in (FilePack, MisnamedFile):
            model.delete().where(model.project == entry.name).execute(self._writer)
        is_old = ReadyPage.revision != entry.revision
        self._drop_ready((ReadyPage.project == entry.name) & is_old)
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

    def _entry(self, name: str) -> Entry | None:
        row = self._inline.execute_sql(_SELECT_ENTRY, (name,)).fetchone()
        return None if row is None else Entry(**dict(zip(_ENTRY_COLUMNS, row, strict=True)))

    def _file(self, shelf: str, filename: str, upstream: str) -> File | None:
        listed = self._listed(shelf, filename)
        return next((found for _, whose, found in listed if whose == upstream), None)

    def _listed(self, shelf: str, filename: str) -> Iterator[tuple[str, str, File]]:
        """That file as each page lists it that does, with the project and its upstream."""
        for project, upstream, _, lines in _parts_with(self._inline, shelf, filename):
            found = packing.file(lines, shelf, filename)
            if found is not None:
                yield project, upstream, found

    def _measured(self, location: str) -> int | None:
        sql = "SELECT size FROM measured WHERE location = ?"
        row = self._inline.execute_sql(sql, (location,)).fetchone()
        return None if row is None else int(row[0])

    def _look_up(self, read: Callable[..., Result | None], *question: str) -> Result | None:
        """What `read` says to `question`, asked once while the file stays as it is."""
        version = self._one("PRAGMA data_version")
        if version is None or version != self._version or len(self._found) >= _MOST_FOUND:
            self._found, self._version = {}, version
        key = (read.__name__, *question)
        found: Result | None = self._found.get(key)
        if found is None:
            found = self._try("read", lambda: read(*question))
            if found is not None:
                self._found[key] = found
        return found

    def _lately(self, read: Callable[..., Any], *question: str) -> Any:
        """What is at hand, None where there is nothing or it is time to look whether it is right."""
        now = time.monotonic()
        if now < self._believed_until:
            return self._found.get((read.__name__, *question))
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
            self._patience = schema.LOCK_PATIENCE
            return result

        written = self._try("write", lambda: off_loop(transaction, self._writes))
        self._believed_until = 0.0
        return written

    def _try(self, what: str, work: Callable[[], Result]) -> Result | None:
        try:
            return work()
        except (peewee.PeeweeException, sqlite3.Error, ValueError) as error:
            log.error("cannot %s %s, going on without: %s", what, self._path, error)
            return None


def _parts_with(
    database: peewee.SqliteDatabase, shelf: str, filename: str
) -> Iterator[tuple[str, str, int, bytes]]:
    """The parts that may list that file: project, its upstream, id and lines."""

    def strays() -> Iterator[str]:
        for (project,) in database.execute_sql(_SELECT_STRAYS, (shelf, filename)).fetchall():
            yield project

    key = packing.fingerprint(shelf)
    for project in itertools.chain(names.projects_of(filename), strays()):
        for row in database.execute_sql(_SELECT_PARTS, (project, key)).fetchall():
            yield project, *row


def _page(project: Any, lines: Iterable[bytes]) -> ProjectPage:
    return ProjectPage(
        name=project.name,
        files=tuple(itertools.chain.from_iterable(map(packing.files, lines))),
        versions=None if project.versions is None else tuple(orjson.loads(project.versions)),
        status=project.status,
        status_reason=project.status_reason,
        last_serial=project.last_serial,
        other=orjson.loads(project.other),
    )
