"""The connections to the SQLite file of the catalog, their threads, and the memo of look-ups.

There are three connections, so that SQLite never blocks the event loop. Queries of one row by an index
run on the event loop itself. Queries of whole pages run in a thread for reads, and transactions run in
a thread for writes.

An error of SQLite is never an error of the caller. A failed read returns None, a failed write has no
effect, and both log the error. The catalog can be deleted at any time, at the cost of asking upstream
again: the connections are opened again where another file, or none, has its name. A file in which
SQLite finds damage is set aside by one process, and all continue with a new one.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import math
import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import gevent
import peewee
from gevent.threadpool import ThreadPool

from pytail.errors import SettingError
from pytail.runtime.threads import off_loop
from pytail.storage import schema

log = logging.getLogger("pytail.storage")

Result = TypeVar("Result")
#: Takes the connection to use.
Query: TypeAlias = Callable[[peewee.SqliteDatabase], Result]

#: Results that the memo holds.
_MAX_LOOK_UPS = 4000
#: Seconds for which the memo is used without asking SQLite for writes of other processes. One such
#: question takes about as long as ten uses of the memo.
_MEMO_TTL = 0.001
#: Seconds that a query on the event loop waits for a lock, and all greenlets with it.
_INLINE_BUSY_TIMEOUT = 0.05
#: Seconds between two looks at the file: whether it is still the one that the connections have open.
_LOOK_INTERVAL = 1.0
#: Seconds between two attempts to open the file again: after a success, and after a failure.
_REOPEN_INTERVAL, _RETRY_INTERVAL = 1.0, 10.0
#: Seconds without an error after which the next error is logged again.
_SPELL = 60.0

#: What a query raises at a file in trouble, or at a row that pytail did not write.
_TROUBLE = (
    peewee.PeeweeException,
    sqlite3.Error,
    ValueError,
    TypeError,
    LookupError,
    OverflowError,
)
#: Whether the system tells what the effective user may do (faccessat(2)).
_EFFECTIVE = os.access in os.supports_effective_ids
#: Messages of SQLite that tell of damage (https://www.sqlite.org/rescode.html).
_DAMAGE = ("malformed", "not a database", "no such table", "no such column")
#: Messages of SQLite after which the same connection can succeed.
_PASSING = ("locked", "full")


class Database:
    """The SQLite file of the catalog, with all access to it."""

    def __init__(self, path: Path) -> None:
        """Open or create the file at `path`, and only read it where it cannot be written.

        Raises as `schema.prepare`.
        """
        self._path = path
        #: Why this process may not write the file; None where it may.
        self.write_error: str | None = None
        try:
            schema.prepare(path)
        except (OSError, peewee.OperationalError, sqlite3.OperationalError) as error:
            if not schema.is_write_refused(error):
                raise
            self.write_error = str(error)
        if self.write_error is None and not os.access(path, os.W_OK, effective_ids=_EFFECTIVE):
            # A catalog that needs no change is not opened for writing at the start.
            self.write_error = os.strerror(errno.EACCES)
        self._is_closed = False
        self._read_thread, self._write_thread = ThreadPool(1), ThreadPool(1)
        self._connect()
        #: Seconds that the next write waits for a lock.
        self._busy_timeout = schema.BUSY_TIMEOUT
        #: Result by query and parameters, since the last write to the file.
        self._memo: dict[tuple[Any, ...], Any] = {}
        #: The ``data_version`` at which the memo was last valid.
        self._data_version: tuple[int] | None = None
        #: The end of `_MEMO_TTL`, by the monotonic clock.
        self._memo_valid_until = 0.0
        #: By the monotonic clock: when to look at the file, and from when on to open it again.
        self._next_look = self._next_reopening = 0.0
        self._reopening: gevent.Greenlet | None = None
        #: Until when an error is not logged, by what failed.
        self._silent_until: dict[str, float] = {}

    def inline(self, query: Query[Result]) -> Result | None:
        """Return the result of a short `query`, run on the event loop; None where it fails."""
        return self._try("read", lambda: self._asked(query, self._inline))

    def look_up(self, query: Callable[..., Result | None], *parameters: str) -> Result | None:
        """Return the result of `query` with `parameters` as `inline`, or from the memo.

        The memo is emptied when a process has written to the file, and when it is full.
        """
        version = self.inline(_data_version)
        if version is None or version != self._data_version or len(self._memo) >= _MAX_LOOK_UPS:
            self._memo, self._data_version = {}, version
        key = (query, *parameters)
        found: Result | None = self._memo.get(key)
        if found is None:
            found = self.inline(lambda database: query(database, *parameters))
            if found is not None:
                self._memo[key] = found
        return found

    def look_up_recent(
        self, query: Callable[..., Result | None], *parameters: str
    ) -> Result | None:
        """Return as `look_up`, at a tenth of its cost.

        A write of another process shows up to 1 ms later; one of this process shows at once.
        """
        now = time.monotonic()
        if now < self._memo_valid_until:
            found: Result | None = self._memo.get((query, *parameters))
            if found is not None:
                return found
        else:
            self._memo_valid_until = now + _MEMO_TTL
        return self.look_up(query, *parameters)

    def read(self, query: Query[Result]) -> Result | None:
        """Return the result of `query`, run in the thread for reads; None where it fails."""

        def ask() -> Result:
            return self._asked(query, self._reader)

        return self._try("read", lambda: off_loop(ask, self._read_thread))

    def write(self, change: Query[Result]) -> Result | None:
        """Run `change` as one transaction in the thread for writes; return its result, None on failure."""
        if self.write_error is not None:
            return None

        def transaction() -> Result:
            # The busy timeout outlasts the write of another process. A process that holds the lock
            # for longer delays one write only. Until a write succeeds, the next ones do not wait,
            # because a client waits for each of them.
            timeout, self._busy_timeout, writer = self._busy_timeout, 0.0, self._writer
            writer.execute_sql(f"PRAGMA busy_timeout = {timeout * 1000:.0f}")
            with writer.atomic():
                result = change(writer)
            self._busy_timeout = schema.BUSY_TIMEOUT
            return result

        written = self._try("write", lambda: off_loop(transaction, self._write_thread))
        self._memo_valid_until = 0.0
        return written

    def size(self) -> int:
        """Return the bytes that the file takes on disk, with its -wal and -shm."""
        sizes = 0
        for suffix in ("", "-wal", "-shm"):
            with contextlib.suppress(OSError):
                sizes += self._path.with_name(self._path.name + suffix).stat().st_size
        return sizes

    def trim(self, size: int, delete_some: Query[object]) -> None:
        """Write `delete_some` until the rows take at most `size` bytes; then shrink the file.

        Stops early when `delete_some` frees nothing or an error occurs.
        """
        if self.write_error is not None:
            return

        def used() -> int:
            numbers = ("page_count", "freelist_count", "page_size")
            pages, free, page_size = (
                self._writer.execute_sql(f"PRAGMA {number}").fetchone()[0] for number in numbers
            )
            return (pages - free) * page_size  # type: ignore[no-any-return]

        def shrink() -> None:
            # Not `execute_sql`, which runs one step of the statement and so frees one page only.
            self._writer.connection().executescript("PRAGMA incremental_vacuum")
            self._writer.execute_sql("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

        while (
            left := self._try("read", lambda: off_loop(used, self._write_thread))
        ) and left > size:
            self.write(delete_some)
            if self._try("read", lambda: off_loop(used, self._write_thread)) == left:
                break
        self._try("shrink", lambda: off_loop(shrink, self._write_thread))

    def close(self) -> None:
        """Finish the queries and transactions under way, and close the connections."""
        # A late query would open a connection that nothing closes.
        self._is_closed = True
        if self._reopening is not None:
            self._reopening.join()
        self._close_all(self._inline, self._reader, self._writer)
        self._read_thread.kill()
        self._write_thread.kill()

    def _connect(self) -> None:
        # Each connection opens the file at its first query. Where another file has the name by then,
        # the next look at the file finds that out.
        self._identity = schema.identity(self._path)
        connect = schema.connect if self.write_error is None else schema.connect_read_only
        self._inline = connect(self._path, _INLINE_BUSY_TIMEOUT)
        self._reader = connect(self._path, schema.BUSY_TIMEOUT)
        self._writer = connect(self._path, schema.BUSY_TIMEOUT)

    def _close_all(
        self,
        inline: peewee.SqliteDatabase,
        reader: peewee.SqliteDatabase,
        writer: peewee.SqliteDatabase,
    ) -> None:
        """Close the connections, those of the threads after the queries under way."""
        for close in (
            inline.close,
            lambda: off_loop(reader.close, self._read_thread),
            lambda: off_loop(writer.close, self._write_thread),
        ):
            try:
                close()
            except _TROUBLE as error:  # noqa: PERF203
                # A damaged file cannot always be closed without an error.
                self._report("close", error)

    def _look(self) -> None:
        """Open the file again where it was replaced, removed or emptied; looks once a second."""
        now = time.monotonic()
        if now < self._next_look or self.write_error is not None:
            return
        self._next_look = now + _LOOK_INTERVAL
        try:
            status = os.stat(self._path)  # noqa: PTH116
        except OSError:
            self._reopen()
            return
        if (status.st_dev, status.st_ino) != self._identity:
            self._reopen()
        elif status.st_size == 0:
            self._reopen((self._identity, "another program emptied it"))

    def _reopen(self, damage: tuple[schema.Identity | None, str] | None = None) -> None:
        """Begin to open the file again, unless that is under way or was done just now.

        `damage` is as for `schema.prepare`.
        """
        now = time.monotonic()
        if self._is_closed or now < self._next_reopening or self.write_error is not None:
            return
        self._next_reopening = math.inf
        self._reopening = gevent.spawn(self._run_reopening, damage)

    def _run_reopening(self, damage: tuple[schema.Identity | None, str] | None) -> None:
        pause = _RETRY_INTERVAL
        try:
            # Not in the thread for writes, for which clients wait.
            off_loop(lambda: schema.prepare(self._path, damage))
            old = self._inline, self._reader, self._writer
            self._connect()
            self._memo, self._data_version, self._memo_valid_until = {}, None, 0.0
            self._close_all(*old)
            pause = _REOPEN_INTERVAL
        except (SettingError, OSError, *_TROUBLE) as error:
            self._report("open", error)
        finally:
            self._next_reopening = time.monotonic() + pause

    def _try(self, what: str, work: Callable[[], Result]) -> Result | None:
        if self._is_closed:
            return None
        self._look()
        # While the work runs, another file can take the place of the one that it reads.
        identity = self._identity
        try:
            return work()
        except _TROUBLE as error:
            self._report(what, error)
            if isinstance(error, (peewee.DatabaseError, sqlite3.DatabaseError)):
                self._recover(str(error), identity)
            return None

    def _asked(self, query: Query[Result], database: peewee.SqliteDatabase) -> Result:
        """Return the result of `query`; where it raises, the next one opens the file again."""
        try:
            return query(database)
        except _TROUBLE:
            # Python 3.10 leaves a statement open whose row it cannot decode. The connection would
            # see the old rows for as long.
            if self.write_error is None:
                with contextlib.suppress(*_TROUBLE):
                    database.close()
            raise

    def _report(self, what: str, error: Exception) -> None:
        """Log that `what` failed, once for errors that follow each other within a minute."""
        now = time.monotonic()
        is_known = now < self._silent_until.get(what, 0.0)
        self._silent_until[what] = now + _SPELL
        if not is_known:
            log.error("cannot %s the catalog %s, continuing without: %s", what, self._path, error)

    def _recover(self, message: str, identity: schema.Identity | None) -> None:
        """Open the file again after an error of SQLite with that `message`, where that can help."""
        if any(fault in message for fault in _DAMAGE):
            self._reopen((identity, message))
        elif not any(reason in message for reason in _PASSING):
            self._reopen()


def _data_version(database: peewee.SqliteDatabase) -> tuple[int] | None:
    # Changes when another connection writes to the file (https://www.sqlite.org/pragma.html).
    row: tuple[int] | None = database.execute_sql("PRAGMA data_version").fetchone()
    return row
