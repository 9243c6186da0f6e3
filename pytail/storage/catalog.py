"""The catalog: the projects of upstream and their files, as far as clients asked for them.

`Catalog` has the queries and the changes, with Peewee models or SQL; `pytail.storage.database` runs
them. A catalog in trouble is never an error for a client: a failed read knows nothing, and a failed
change has no effect.
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import peewee

from pytail import __version__
from pytail.model import File, PageVersion, ProjectPage
from pytail.simple import names
from pytail.storage import packing, schema
from pytail.storage.database import Database
from pytail.storage.schema import (
    CheckedFile,
    FilePack,
    MisnamedFile,
    Project,
    ReadyPage,
    VerifiedSize,
    WheelMetadata,
)

#: Maximum of projects in the catalog that upstream does not have; clients can ask for any name.
MAX_MISSING = 10_000
#: Seconds since the epoch: the end of the year 9999.
_LATEST = 253402300800.0
#: Projects or ready pages deleted in one transaction.
_BATCH = 20

_ENTRY_COLUMNS = (
    "name", "upstream", "found", "fetched_at", "checked_at", "etag", "last_serial", "revision",
    "status", "last_modified", "fingerprint",
)  # fmt: skip
_SELECT_ENTRY = f"SELECT {', '.join(_ENTRY_COLUMNS)} FROM project WHERE name = ?"
# Earlier versions of pytail remembered missing projects, without a revision, at any root.
_SELECT_KNOWN = "SELECT 1 FROM project WHERE upstream = ? AND (found = 1 OR revision <> '') LIMIT 1"
_SELECT_LAST_SERIAL = "SELECT max(last_serial) FROM project WHERE upstream = ?"
_SELECT_VERIFIED_SIZE = "SELECT size FROM measured WHERE location = ?"
_CHECK_COLUMNS = ("key", "stored_at", "size", "checked_at", "etag", "last_modified")
_SELECT_CHECK = f"SELECT {', '.join(_CHECK_COLUMNS)} FROM checked WHERE key = ?"
_SELECT_WHEEL_METADATA = "SELECT key, sha256 FROM wheelmetadata WHERE project = ?"
_SELECT_MISNAMED = "SELECT project FROM stray WHERE shelf = ? AND filename = ?"
# Those packs of a project that may list a file with the given fingerprint.
_SELECT_PACKS = (
    "SELECT project.upstream, part.id, CAST(part.lines AS BLOB)"
    " FROM part JOIN project ON project.name = part.project"
    " WHERE part.project = ? AND instr(part.keys, ?) ORDER BY part.number"
)
_SELECT_LINES = "SELECT CAST(lines AS BLOB) FROM part WHERE project = ? ORDER BY number"
_SELECT_READY = (
    "SELECT etag, CAST(data AS BLOB) FROM ready"
    " WHERE project = ? AND variant = ? AND revision = ? AND version = ?"
)
# Inserts nothing where the project is forgotten, or has another revision by now.
_INSERT_READY = (
    "INSERT OR REPLACE INTO ready (project, variant, revision, version, etag, data)"
    " SELECT name, ?, revision, ?, ?, ? FROM project WHERE name = ? AND revision = ?"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One project in the catalog, without its files."""

    #: Normalized.
    name: str
    #: The index that was asked: the URL above ``/simple/``, or the root of an index that has another
    #: name. The root ends with a slash; neither has credentials.
    upstream: str
    #: False when upstream has no such project.
    found: bool
    #: Seconds since the epoch: when the page was fetched, and when it was last revalidated.
    fetched_at: float
    checked_at: float
    #: The ETag of the page, verbatim; None when upstream gave none.
    etag: str | None = None
    #: Upstream's serial of the page; None when upstream gives none.
    last_serial: int | None = None
    #: Changes with the content of the page. That of a missing project says that its root was found.
    revision: str = ""
    #: The project status (PEP 792); None when upstream does not say.
    status: str | None = None
    #: The Last-Modified of the page, verbatim; None when upstream gave none that tells versions apart.
    last_modified: str | None = None
    #: Of the page as upstream sent it, see `PageVersion`; None when an earlier pytail wrote the entry.
    fingerprint: str | None = None

    @property
    def page_version(self) -> PageVersion | None:
        """The version of the page; None where it has to be fetched whole."""
        if not self.found or self.fingerprint is None:
            return None
        return PageVersion(self.fingerprint, self.etag, self.last_modified)

    def with_version(self, version: PageVersion | None) -> Entry:
        """Return the same entry with another version of the page; None: with the same."""
        return self if version is None else replace(self, **asdict(version))


@dataclass(frozen=True, slots=True, kw_only=True)
class FileCheck:
    """When upstream last had the same bytes as a stored file without a digest, and by which validators."""

    key: str
    #: The mtime of the stored file, and its bytes: the check is about no other file of that key.
    stored_at: float
    size: int
    #: Seconds since the epoch.
    checked_at: float
    #: ETag and Last-Modified of upstream, verbatim; None where there is none.
    etag: str | None = None
    last_modified: str | None = None


class Catalog:
    """The projects, files, verified sizes, checks and ready pages in ``<cache-dir>/index.sqlite3``."""

    def __init__(self, path: Path) -> None:
        """Open or create the file at `path`, and only read it where it cannot be written.

        Raises SettingError where a newer pytail wrote the file. Raises OSError or a PeeweeException
        where the file or its directory cannot be used.
        """
        self._database = Database(path)

    @property
    def write_error(self) -> str | None:
        """Why this process may not write the catalog, so that changes have no effect; else None."""
        return self._database.write_error

    def entry(self, name: str) -> Entry | None:
        """Return the entry of the project `name` (normalized), None when there is none."""
        return self._database.look_up(_entry, name)

    def recent_entry(self, name: str) -> Entry | None:
        """Return as `entry`, at a tenth of its cost; writes of other processes show 1 ms later."""
        return self._database.look_up_recent(_entry, name)

    def file(self, directory: str, filename: str, upstream: str) -> File | None:
        """Return the file of that key, None when no known page of `upstream` lists it.

        A former directory finds the file too, where the page gives no sha256.
        """
        return self._database.look_up(_file, directory, filename, upstream)

    def recent_file(self, directory: str, filename: str, upstream: str) -> File | None:
        """Return as `file`, at a tenth of its cost; writes of other processes show 1 ms later."""
        return self._database.look_up_recent(_file, directory, filename, upstream)

    def project_of(self, directory: str, filename: str) -> str | None:
        """Return the project whose page lists the file of that key, None when no known page does."""

        def query(database: peewee.SqliteDatabase) -> str | None:
            listed = _listed(database, directory, filename)
            return next((project for project, _, _ in listed), None)

        return self._database.inline(query)

    def page(self, name: str) -> ProjectPage | None:
        """Return the page of the project `name`, None when the catalog has none."""

        def query(database: peewee.SqliteDatabase) -> ProjectPage | None:
            found = Project.select().where(Project.name == name, Project.found)
            with database.atomic("DEFERRED"):
                projects = list(found.execute(database))
                rows = database.execute_sql(_SELECT_LINES, (name,)).fetchall()
            return _page(projects[0], (lines for (lines,) in rows)) if projects else None

        return self._database.read(query)

    def projects(self, upstream: str) -> list[str]:
        """Return the sorted names of all projects in the catalog that `upstream` has."""

        def query(database: peewee.SqliteDatabase) -> list[str]:
            found = Project.select(Project.name).order_by(Project.name)
            found = found.where(Project.found, Project.upstream == upstream)
            return [name for (name,) in found.tuples().execute(database)]

        return self._database.read(query) or []

    def first_known(self, upstreams: Sequence[str]) -> str | None:
        """Return the first of `upstreams` of which the catalog knows a project, None without any."""

        def query(database: peewee.SqliteDatabase) -> str | None:
            def is_known(upstream: str) -> bool:
                return database.execute_sql(_SELECT_KNOWN, (upstream,)).fetchone() is not None

            return next(filter(is_known, upstreams), None)

        return self._database.read(query)

    def last_serial(self, upstream: str) -> int | None:
        """Return the highest serial of the pages of `upstream`, None when they have none."""

        def query(database: peewee.SqliteDatabase) -> int | None:
            (serial,) = database.execute_sql(_SELECT_LAST_SERIAL, (upstream,)).fetchone()
            return None if serial is None else int(serial)

        return self._database.inline(query)

    def remember(self, entry: Entry, page: ProjectPage) -> None:
        """Replace all that is known of a project by `entry` and `page`."""

        def change(database: peewee.SqliteDatabase) -> None:
            _put(database, entry, page)
            schema.put_files(database, page.name, page.files)

        self._database.write(change)

    def remember_missing(self, entry: Entry) -> None:
        """Replace all that is known of a project by `entry`: upstream does not have the project.

        Forgets the missing projects beyond `MAX_MISSING`, those checked the longest ago first.
        """

        def change(database: peewee.SqliteDatabase) -> None:
            _put(database, entry, ProjectPage(name=entry.name, status=entry.status))
            WheelMetadata.delete().where(WheelMetadata.project == entry.name).execute(database)
            # Not `~Project.found`, for which SQLite does not use the index.
            is_missing = Project.found == 0
            missing = Project.select(Project.checked_at).where(is_missing)
            beyond = missing.order_by(Project.checked_at.desc()).offset(MAX_MISSING).limit(1)
            # No other table has rows of missing projects.
            delete = Project.delete().where(is_missing, Project.checked_at <= beyond)
            delete.execute(database)

        self._database.write(change)

    def has_page(self, page: ProjectPage, upstream: str) -> bool:
        """Return whether the catalog has an equal page of that project and `upstream`.

        The queries of links do not count, because they can be signatures.
        """

        def query(database: peewee.SqliteDatabase) -> bool:
            is_same = (Project.name == page.name) & (Project.upstream == upstream)
            with database.atomic("DEFERRED"):
                found = Project.select().where(is_same, Project.found).dicts().execute(database)
                known = next(iter(found), None)
                if known is None or not _columns(page).items() <= known.items():
                    return False
                rows = database.execute_sql(_SELECT_LINES, (page.name,)).fetchall()
            packs = itertools.zip_longest(rows, packing.packs(page.files), fillvalue=(b"", b""))
            # Most pages that changed differ in the first or in the last pack.
            return all(packing.are_same(row[0], pack[1]) for row, pack in packs)

        return self._database.read(query) or False

    def mark_revalidated(self, entry: Entry) -> None:
        """Record when the page of `entry` was revalidated, and its version.

        Has no effect where the project is forgotten, or has another revision by now.
        """
        query = Project.update(
            checked_at=entry.checked_at,
            etag=entry.etag,
            last_modified=entry.last_modified,
            fingerprint=entry.fingerprint,
        )
        is_same = (Project.name == entry.name) & (Project.revision == entry.revision)
        self._database.write(query.where(is_same).execute)

    def forget(self, names: Iterable[str] | None = None) -> int:
        """Delete all that is known of the projects `names` (None: all); return how many there were."""
        if names is None:

            def query(database: peewee.SqliteDatabase) -> list[str]:
                found = Project.select(Project.name)
                return [name for (name,) in found.tuples().execute(database)]

            names = self._database.read(query) or []
        left, forgotten = list(names), 0
        while left:
            # Several transactions, so that other processes can write between them.
            some, left = left[:_BATCH], left[_BATCH:]
            forgotten += self._database.write(partial(_delete, names=some)) or 0
        return forgotten

    def set_core_metadata(self, wheel: File, sha256: str | None) -> None:
        """Record the digest of the core metadata of `wheel`; None: the wheel has no core metadata.

        The pages that list the wheel get a new revision. A digest holds for their successors too, see
        `with_core_metadata`; None holds until the page is fetched again.
        """
        found = {"sha256": sha256} if sha256 is not None else False
        if found == wheel.core_metadata:
            return

        def change(database: peewee.SqliteDatabase) -> None:
            packs = _packs_with(database, wheel.directory, wheel.filename)
            for project, _, pack, lines in packs:
                changed = packing.with_core_metadata(lines, wheel.directory, wheel.filename, found)
                if changed is None or changed == lines:
                    continue
                FilePack.update(lines=changed).where(FilePack.id == pack).execute(database)
                if sha256 is not None and wheel.has_digest:
                    row = WheelMetadata.replace(project=project, key=wheel.key, sha256=sha256)  # type: ignore[no-untyped-call]
                    row.execute(database)
                changes: dict[str, str | None] = {"revision": secrets.token_hex(16)}
                if sha256 is None:
                    # The page is read anew when it is next fetched: only upstream may have been in
                    # trouble.
                    changes["fingerprint"] = None
                Project.update(**changes).where(Project.name == project).execute(database)
                _delete_ready(database, ReadyPage.project == project)

        self._database.write(change)

    def with_core_metadata(self, page: ProjectPage) -> ProjectPage:
        """Return `page` with the digests that `set_core_metadata` recorded for its wheels.

        Upstream promises the wrong ones again with each new page.
        """

        def query(database: peewee.SqliteDatabase) -> dict[str, str]:
            return dict(database.execute_sql(_SELECT_WHEEL_METADATA, (page.name,)).fetchall())

        known = self._database.inline(query)
        if not known:
            return page

        def corrected(file: File) -> File:
            sha256 = known.get(file.key) if file.core_metadata else None
            return file if sha256 is None else replace(file, core_metadata={"sha256": sha256})

        files = tuple(map(corrected, page.files))
        return page if files == page.files else replace(page, files=files)

    def verified_size(self, key: str) -> int | None:
        """Return the size in bytes that `remember_size` recorded, None when there is none."""
        return self._database.look_up(_verified_size, key)

    def remember_size(self, key: str, size: int) -> None:
        """Record the size in bytes of a verified file."""
        query = VerifiedSize.replace(key=key, size=size)  # type: ignore[no-untyped-call]
        self._database.write(query.execute)

    def file_check(self, key: str) -> FileCheck | None:
        """Return the last check of the stored file of that key, None when there is none."""
        return self._database.look_up(_file_check, key)

    def remember_check(self, check: FileCheck) -> None:
        """Replace the last check of a stored file."""
        query = CheckedFile.replace(**asdict(check))  # type: ignore[no-untyped-call]
        self._database.write(query.execute)

    def ready_page(self, project: str, revision: str, variant: str) -> tuple[str, bytes] | None:
        """Return the ETag and the body of a ready page, None when the catalog does not have it.

        Ready pages of other versions of pytail do not count.
        """

        def query(database: peewee.SqliteDatabase) -> tuple[str, bytes] | None:
            key = (project, variant, revision, __version__)
            row = database.execute_sql(_SELECT_READY, key).fetchone()
            return None if row is None else (row[0], row[1])

        return self._database.read(query)

    def store_ready_page(
        self, project: str, revision: str, variant: str, etag: str, data: bytes
    ) -> None:
        """Store the rendered body `data`, unless the page of `project` has another revision by now."""

        def change(database: peewee.SqliteDatabase) -> None:
            is_outdated = ReadyPage.version != __version__
            _delete_ready(database, (ReadyPage.project == project) & is_outdated)
            row = (variant, __version__, etag, data, project, revision)
            database.execute_sql(_INSERT_READY, row)

        self._database.write(change)

    def size(self) -> int:
        """Return the bytes that the catalog takes on disk."""
        return self._database.size()

    def trim(self, size: int) -> None:
        """Delete rows until the others take at most `size` bytes, and shrink the file.

        Begins with the ready pages, because they cost the least to make again, oldest first.
        Continues with the projects that were checked the longest ago.
        """

        def delete_some(database: peewee.SqliteDatabase) -> None:
            first = ReadyPage.select(ReadyPage.id).order_by(ReadyPage.id).limit(_BATCH)
            if _delete_ready(database, ReadyPage.id.in_(first)):
                return
            oldest = Project.select(Project.name).order_by(Project.checked_at).limit(_BATCH)
            _delete(database, [name for (name,) in oldest.tuples().execute(database)])

        self._database.trim(size, delete_some)

    def close(self) -> None:
        """Finish the changes under way and close the file."""
        self._database.close()


def _entry(database: peewee.SqliteDatabase, name: str) -> Entry | None:
    row = database.execute_sql(_SELECT_ENTRY, (name,)).fetchone()
    if row is None:
        return None
    entry = Entry(**dict(zip(_ENTRY_COLUMNS, row, strict=True)))
    # SQLite stores any type in any column, and NaN as NULL.
    if not all(0 <= seconds < _LATEST for seconds in (entry.fetched_at, entry.checked_at)):
        raise ValueError(f"the times of the project {name} are impossible")
    return entry


def _file(
    database: peewee.SqliteDatabase, directory: str, filename: str, upstream: str
) -> File | None:
    listed = _listed(database, directory, filename)
    return next((file for _, of_upstream, file in listed if of_upstream == upstream), None)


def _verified_size(database: peewee.SqliteDatabase, key: str) -> int | None:
    row = database.execute_sql(_SELECT_VERIFIED_SIZE, (key,)).fetchone()
    return None if row is None else int(row[0])


def _file_check(database: peewee.SqliteDatabase, key: str) -> FileCheck | None:
    row = database.execute_sql(_SELECT_CHECK, (key,)).fetchone()
    return None if row is None else FileCheck(**dict(zip(_CHECK_COLUMNS, row, strict=True)))


def _listed(
    database: peewee.SqliteDatabase, directory: str, filename: str
) -> Iterator[tuple[str, str, File]]:
    """Yield for each page that lists the file: the project, its upstream, and the file."""
    for project, upstream, _, lines in _packs_with(database, directory, filename):
        file = packing.file(lines, directory, filename)
        if file is not None:
            yield project, upstream, file


def _packs_with(
    database: peewee.SqliteDatabase, directory: str, filename: str
) -> Iterator[tuple[str, str, int, bytes]]:
    """Yield for each pack that may list the file: the project, its upstream, the id and the lines."""

    def projects() -> Iterator[str]:
        yield from names.projects_of(filename)
        misnamed = database.execute_sql(_SELECT_MISNAMED, (directory, filename)).fetchall()
        for (project,) in misnamed:
            yield project

    fingerprint = packing.fingerprint(directory)
    for project in projects():
        for row in database.execute_sql(_SELECT_PACKS, (project, fingerprint)).fetchall():
            yield project, *row


def _page(project: Any, packs: Iterable[bytes]) -> ProjectPage:
    return ProjectPage(
        name=project.name,
        files=tuple(itertools.chain.from_iterable(map(packing.files, packs))),
        versions=None if project.versions is None else tuple(orjson.loads(project.versions)),
        status=project.status,
        status_reason=project.status_reason,
        last_serial=project.last_serial,
        other=orjson.loads(project.other),
    )


def _put(database: peewee.SqliteDatabase, entry: Entry, page: ProjectPage) -> None:
    """Replace the row of a project, and delete its files and its ready pages of other revisions."""
    for model in (FilePack, MisnamedFile):
        model.delete().where(model.project == entry.name).execute(database)
    is_outdated = ReadyPage.revision != entry.revision
    _delete_ready(database, (ReadyPage.project == entry.name) & is_outdated)
    Project.replace(  # type: ignore[no-untyped-call]
        name=entry.name,
        upstream=entry.upstream,
        found=entry.found,
        etag=entry.etag,
        last_modified=entry.last_modified,
        fingerprint=entry.fingerprint,
        fetched_at=entry.fetched_at,
        checked_at=entry.checked_at,
        revision=entry.revision,
        **_columns(page) | {"last_serial": entry.last_serial},
    ).execute(database)


def _columns(page: ProjectPage) -> dict[str, Any]:
    """Return the columns of a project that are made of its `page`."""
    return {
        "last_serial": page.last_serial,
        "versions": None if page.versions is None else orjson.dumps(page.versions),
        "status": page.status,
        "status_reason": page.status_reason,
        "other": orjson.dumps(page.other),
    }


def _delete(database: peewee.SqliteDatabase, names: list[str]) -> int:
    """Delete the projects `names` with all their rows; return how many projects there were."""
    for model in (FilePack, MisnamedFile, ReadyPage, WheelMetadata):
        model.delete().where(model.project.in_(names)).execute(database)
    return Project.delete().where(Project.name.in_(names)).execute(database)  # type: ignore[no-any-return]


def _delete_ready(database: peewee.SqliteDatabase, condition: peewee.Expression) -> int:
    return ReadyPage.delete().where(condition).execute(database)  # type: ignore[no-any-return]
