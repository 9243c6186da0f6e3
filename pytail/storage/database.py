"""The connections to the SQLite file of the catalog, their threads, and the memo of look-ups.

There are three connections, so that SQLite never blocks the event loop. Queries of one row by an index
run on the event loop itself. Queries of whole pages run in a thread for reads, and transactions run in
a thread for writes.

An error of SQLite is never an error of the caller. A failed read returns None, a failed write has no
effect, and both log the error. The catalog can be deleted at any time, at the cost of asking upstream
again.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import peewee
from gevent.threadpool import ThreadPool

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


class Database:
    """The SQLite file of the catalog, with all access to it."""

    def __init__(self, path: Path) -> None:
        """Open or create the file at `path`, and only read it where it cannot be written.

        Raises as `schema.prepare`.
        """
        self._path = path
        #: Why this process may not write the file; None where it may.
        self.write_error: str | None = None
        connect = schema.connect
        try:
            schema.prepare(path)
        except (OSError, peewee.OperationalError, sqlite3.OperationalError) as error:
            if not schema.is_write_refused(error):
                raise
            self.write_error, connect = str(error), schema.connect_read_only
        self._inline = connect(path, _INLINE_BUSY_TIMEOUT)
        self._read_thread, self._reader = ThreadPool(1), connect(path, schema.BUSY_TIMEOUT)
        self._write_thread, self._writer = ThreadPool(1), connect(path, schema.BUSY_TIMEOUT)
        #: Seconds that the next write waits for a lock.
        self._busy_timeout = schema.BUSY_TIMEOUT
        #: Result by query and parameters, since the last write to the file.
        self._memo: dict[tuple[Any, ...], Any] = {}
        #: The ``data_version`` at which the memo was last valid.
        self._data_version: tuple[int] | None = None
        #: The end of `_MEMO_TTL`, by the monotonic clock.
        self._memo_valid_until = 0.0

    def inline(self, query: Query[Result]) -> Result | None:
        """Return the result of a short `query`, run on the event loop; None where it fails."""
        return self._try("read", lambda: query(self._inline))

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
        return self._try("read", lambda: off_loop(lambda: query(self._reader), self._read_thread))

    def write(self, change: Query[Result]) -> Result | None:
        """Run `change` as one transaction in the thread for writes; return its result, None on failure."""
        if self.write_error is not None:
            return None

        def transaction() -> Result:
            # The busy timeout outlasts the write of another process. A process that holds the lock
            # for longer delays one write only. Until a write succeeds, the next ones do not wait,
            # because a client waits for each of them.
            timeout, self._busy_timeout = self._busy_timeout, 0.0
            self._writer.execute_sql(f"PRAGMA busy_timeout = {timeout * 1000:.0f}")
            with self._writer.atomic():
                result = change(self._writer)
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
        for thread, connection in (
            (self._read_thread, self._reader),
            (self._write_thread, self._writer),
        ):
            off_loop(connection.close, thread)
            thread.kill()
        self._inline.close()

    def _try(self, what: str, work: Callable[[], Result]) -> Result | None:
        try:
            return work()
        except (peewee.PeeweeException, sqlite3.Error, ValueError) as error:
            log.error("cannot %s the catalog %s, continuing without: %s", what, self._path, error)
            return None


def _data_version(database: peewee.SqliteDatabase) -> tuple[int] | None:
    # Changes when another connection writes to the file (https://www.sqlite.org/pragma.html).
    row: tuple[int] | None = database.execute_sql("PRAGMA data_version").fetchone()
    return row
