"""Freshness of stored files without a digest: upstream may replace such a file under its name.

Upstream is asked at most once per TTL whether it still has the stored file. The request is conditional
(RFC 9110, section 13), and goes by ETag, Last-Modified and size. A file that upstream replaced is
outdated. It stays stored until its successor is downloaded, and is served where upstream fails.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from pytail.cache.links import GIVEN, LINK_ERRORS, FileLinks
from pytail.model import File, Validators
from pytail.runtime.singleflight import SingleFlight, StillRunning
from pytail.storage.catalog import Catalog, FileCheck
from pytail.storage.store import StoredFile
from pytail.telemetry.access import UpstreamWait, for_client
from pytail.upstream.files import FileClient
from pytail.upstream.headers import date

log = logging.getLogger("pytail.cache")

Noted = TypeVar("Noted")
#: Seconds after a failed check until upstream is asked again.
_RETRY_INTERVAL = 2.5
#: Seconds after which the process that stored a file has written its check to the catalog.
_JUST_STORED = 2.0
#: Files to remember in memory; the catalog has the checks of all.
_MAX_REMEMBERED = 4000


@dataclass(frozen=True, slots=True)
class Freshness:
    """How fresh a stored file is, in seconds."""

    #: Since upstream last had this file; None where that is unknown.
    age: float | None
    #: Until upstream is asked again; 0 for a stale file.
    fresh_for: float


class FileFreshness:
    """Tells whether stored files without a digest are those that upstream has."""

    def __init__(
        self,
        catalog: Catalog,
        upstream: FileClient,
        clock: Callable[[], float] = time.time,
        *,
        ttl: float,
        wait: float,
        links: FileLinks = GIVEN,
    ) -> None:
        """`ttl` is that of pages. A client waits `wait` seconds for upstream, then gets the stored file.

        `clock` returns seconds since the epoch.
        """
        self._catalog, self._upstream = catalog, upstream
        self._ttl, self._wait, self._clock, self._links = ttl, wait, clock, links
        self._requests: SingleFlight[bool] = SingleFlight()
        #: By key, the validators of a download in progress.
        self._downloading: dict[str, Validators] = {}
        #: By key, the last check. The catalog has it too, a moment later.
        self._checks: dict[str, FileCheck] = {}
        #: By key, the stored files (by their mtime) that upstream has replaced.
        self._outdated: dict[str, float] = {}
        #: By key, when upstream failed.
        self._failed_at: dict[str, float] = {}

    def is_current(self, file: File, stored: StoredFile) -> bool:
        """Return whether `stored` may be served for `file`; False where upstream has another file.

        Asks upstream where the last check is older than the TTL. True where upstream fails.
        """
        if file.has_digest or not file.url:
            return True
        status = os.fstat(stored.fileno())
        if self._outdated.get(file.key) == status.st_mtime:
            return False
        if self.of(file, status.st_mtime).fresh_for > 0 or self._has_just_failed(file):
            return True
        if 0 <= time.time() - status.st_mtime < _JUST_STORED and not self._is_known(file, status):
            # Another process has just downloaded it.
            return True
        ask = for_client(lambda: self._is_confirmed(file, status))
        try:
            with UpstreamWait():
                return self._requests.run((file.key, status.st_mtime), ask, self._wait)
        except StillRunning:
            log.info("%s: serving the stored file, upstream has not confirmed it yet", file.key)
        except LINK_ERRORS as error:
            self._note(self._failed_at, file.key, self._clock())
            log.warning("%s: serving the stored file, cannot revalidate it: %s", file.key, error)
        return True

    def of(self, file: File, stored_at: float) -> Freshness:
        """Return how fresh the file is that was stored at `stored_at`; unknown without a check."""
        check = self.last_check(file.key)
        if check is None or check.stored_at != stored_at:
            return Freshness(None, 0.0)
        age = self._clock() - check.checked_at
        # A check in the future means that the clock was set back.
        return Freshness(age, max(0.0, self._ttl - age)) if age >= 0 else Freshness(None, 0.0)

    def last_check(self, key: str) -> FileCheck | None:
        """Return the last check of the stored file of that key; None where there is none."""
        known, stored = self._checks.get(key), self._catalog.file_check(key)
        if known is None or stored is None:
            return known or stored
        # Another process may have checked or downloaded the file since.
        return max(known, stored, key=lambda check: check.checked_at)

    def note_download(self, file: File, validators: Validators) -> None:
        """Record the validators of a response that is being downloaded."""
        if not file.has_digest:
            self._note(self._downloading, file.key, validators)

    def note_end(self, file: File, stored_at: float | None, size: int) -> None:
        """Record the end of a download of `size` bytes; `stored_at` is the mtime of the stored file.

        None: the file was not stored.
        """
        known = self._downloading.pop(file.key, None)
        if file.has_digest or stored_at is None:
            return
        self._outdated.pop(file.key, None)
        # Without validators another process has downloaded the file, and records them.
        if known is not None:
            self._remember(file, stored_at, size, known)

    def _is_confirmed(self, file: File, status: os.stat_result) -> bool:
        """Ask upstream whether it has the stored file of that `status`. Raises an UpstreamError."""
        check, is_known = self.last_check(file.key), self._is_known(file, status)
        known = Validators(size=status.st_size)
        if check is not None and is_known:
            known = replace(known, etag=check.etag, last_modified=check.last_modified)
        found = self._links.follow(file, lambda url: self._upstream.revalidate(url, known))
        if found is None:
            found = known
        elif not (_is_same(known, found) if is_known else _is_unchanged(status, found)):
            log.info("%s: upstream has another file, downloading it", file.key)
            self._note(self._outdated, file.key, status.st_mtime)
            return False
        self._remember(file, status.st_mtime, status.st_size, found)
        return True

    def _remember(self, file: File, stored_at: float, size: int, found: Validators) -> None:
        check = FileCheck(
            key=file.key,
            stored_at=stored_at,
            size=size,
            checked_at=self._clock(),
            etag=found.etag,
            last_modified=found.last_modified,
        )
        # In memory first: the next request may come before the write ends.
        self._note(self._checks, file.key, check)
        self._failed_at.pop(file.key, None)
        self._catalog.remember_check(check)

    def _is_known(self, file: File, status: os.stat_result) -> bool:
        check = self.last_check(file.key)
        return check is not None and check.stored_at == status.st_mtime

    def _has_just_failed(self, file: File) -> bool:
        failed_at = self._failed_at.get(file.key)
        return failed_at is not None and 0 <= self._clock() - failed_at < _RETRY_INTERVAL

    @staticmethod
    def _note(notes: dict[str, Noted], key: str, value: Noted) -> None:
        if len(notes) >= _MAX_REMEMBERED:
            notes.clear()
        notes[key] = value


def _is_same(known: Validators, found: Validators) -> bool:
    """Return whether both are of one file, by the best that both have; False where that is nothing."""
    if known.etag and found.etag:
        # Weak comparison: the bytes of a distribution do not change within one meaning.
        return known.etag.removeprefix("W/") == found.etag.removeprefix("W/")
    if None not in (known.size, found.size) and known.size != found.size:
        return False
    if known.last_modified and found.last_modified:
        return known.last_modified == found.last_modified
    return found.size is not None


def _is_unchanged(status: os.stat_result, found: Validators) -> bool:
    """Return whether the stored file of `status`, of unknown validators, can be what upstream has.

    That is so for an equal size, where upstream changed its file before the stored one was written. An
    ETag alone tells nothing here, and so the file is fetched again.
    """
    modified_at = date(found.last_modified)
    if found.size != status.st_size:
        return False
    return found.etag is None if modified_at is None else modified_at <= status.st_mtime
