"""Ask upstream for a project page, decide what the response means, and write it to the catalog.

All clients that ask for one project at the same time share one request. The request goes on where
a client stops waiting, and its result is used for the next client.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Hashable
from dataclasses import replace

from pytail.cache.freshness import FreshnessPolicy, PageResult
from pytail.errors import (
    UpstreamBusy,
    UpstreamCircuitOpen,
    UpstreamError,
    UpstreamGarbled,
    UpstreamOffline,
    UpstreamUnreachable,
)
from pytail.model import Outcome, PageVersion, ProjectPage
from pytail.runtime.singleflight import SingleFlight, StillRunning
from pytail.runtime.threads import off_loop
from pytail.storage.catalog import Catalog, Entry
from pytail.telemetry.access import UpstreamWait, for_client
from pytail.upstream.pages import FetchedPage, PageClient, UnchangedPage
from pytail.upstream.root import IndexRoot

log = logging.getLogger("pytail.cache")

#: Seconds for which a page with a lower serial is ignored. After that, upstream was set up anew.
LOWER_SERIAL_IGNORED = 24 * 3600.0
#: The revision of a project that upstream does not have.
_MISSING = "missing"
#: Maximum number of projects for which a lower serial is remembered.
_MAX_LAGGING = 1000


class Revalidator:
    """Asks upstream for pages and writes them to the catalog."""

    def __init__(
        self,
        catalog: Catalog,
        upstream: PageClient,
        policy: FreshnessPolicy,
        clock: Callable[[], float],
        note_page: Callable[[ProjectPage], None] = lambda _: None,
    ) -> None:
        """`clock` returns seconds since the epoch; `note_page` is called with each new page."""
        self._catalog, self._upstream = catalog, upstream
        self._policy, self._clock, self._note_page = policy, clock, note_page
        self._requests: SingleFlight[PageResult] = SingleFlight()
        #: Requests that the first client no longer waits for.
        self._unattended: set[Hashable] = set()
        #: By project, the time at which upstream first sent a lower serial than the catalog has.
        self._lagging_since: dict[str, float] = {}

    @property
    def in_progress(self) -> int:
        """Return the number of requests in progress."""
        return len(self._requests)

    def revalidate(self, project: str, known: Entry | None, wait: float) -> PageResult:
        """Ask upstream for `project`, with the version of `known` (None: nothing is cached).

        `wait` is in seconds. Raises UpstreamUnreachable after that, or another UpstreamError. A
        project that upstream does not have is a result with an entry that is not `found`.
        """
        return self._shared(project, project, known, wait)

    def fetch(self, project: str) -> PageResult:
        """Ask upstream for the whole page of `project`, whether it is known or not.

        The result has the page, unless upstream does not have the project. Raises an UpstreamError.
        """
        return self._shared((project, "whole"), project, None, self._policy.wait)

    def _shared(self, key: Hashable, project: str, known: Entry | None, wait: float) -> PageResult:
        """Return the result of the request in progress for `key`, or of a new one.

        Raises UpstreamCircuitOpen at once where others wait for the probe of a circuit breaker.
        """
        is_lost = key in self._unattended and self._upstream.is_lost(
            project, self._requests.age(key)
        )
        is_joined = key in self._requests and not is_lost
        if is_joined and known is not None and known.found:
            # A probe that hangs is not waited for where there is a stale page.
            self._upstream.require(project)
        request = for_client(lambda: self._run(key, project, known))
        try:
            with UpstreamWait():
                result = self._requests.run(key, request, wait, anew=is_lost)
        except StillRunning:
            if not is_joined and key in self._requests:
                self._unattended.add(key)
            reason = f"no response within {wait:g} seconds; the request continues"
            error = UpstreamUnreachable(self._upstream.page_url(project), reason)
            raise error.shared() if is_joined else error from None
        except UpstreamError as error:
            if is_joined:
                raise error.shared() from None
            raise
        return replace(result, outcome=Outcome.COALESCED) if is_joined else result

    def _run(self, key: Hashable, project: str, known: Entry | None) -> PageResult:
        """Ask upstream; log the result where the first client no longer waits for it."""
        started, failure = time.monotonic(), None
        outcome, reason = "MISS", ""
        try:
            result = self._ask(project, known)
            outcome, reason = result.outcome.value, result.reason
        except UpstreamError as error:
            failure, reason = error, str(error)
            raise
        finally:
            if key in self._unattended:
                self._unattended.discard(key)
                log_decision(project, outcome, f"late: {reason}", started, failure)
        return result

    def _ask(self, project: str, known: Entry | None) -> PageResult:
        version = known.page_version if known is not None else None
        # The slot lasts until the page is in the catalog, so its limit holds for these writes too.
        with self._upstream.fetch(project, version) as fetched:
            # Another process may have written a newer page in the meantime.
            latest = known_entry(self._catalog, project, self._upstream.root)
            if isinstance(fetched, FetchedPage):
                self._note_page(fetched.page)
                latest = latest if latest is not None and latest.found else known
                return self._found(project, latest, fetched)
            if isinstance(fetched, UnchangedPage):
                assert known is not None, "a page is unchanged only where a version is known"
                return self._confirmed(latest or known, fetched.version)
            return self._missing(project, latest)

    def _confirmed(self, known: Entry, version: PageVersion) -> PageResult:
        """Return `known`, which is the page of `version`, or a newer one of another process."""
        self._lagging_since.pop(known.name, None)
        if known.fingerprint != version.fingerprint:
            return self._result(known, Outcome.REVALIDATED, "fetched by another process")
        return self._unchanged(known, version, "unchanged")

    def _found(self, project: str, known: Entry | None, fetched: FetchedPage) -> PageResult:
        """Decide between `known` and `fetched`."""
        if known is None:
            return self._new(project, fetched)
        stored = self._catalog.page(project) if self._is_lagging(fetched.page, known) else None
        if stored is not None:
            reason = f"upstream went back from serial {known.last_serial}"
            return replace(self._unchanged(known, known.page_version, reason), page=stored)
        if fetched.is_blank and self._lists_files(known):
            reason = "sent a blank page where it listed files before"
            raise UpstreamGarbled(self._upstream.page_url(project), reason)
        page = self._catalog.with_core_metadata(fetched.page)
        if known.found and self._catalog.has_page(_redacted(page), known.upstream):
            result = self._unchanged(known, fetched.version, "unchanged, in other bytes")
            return replace(result, page=page)
        if page is not fetched.page:
            # The revision of a page that pytail has changed is not the one that upstream sent.
            return self._new(project, replace(fetched, page=page), secrets.token_hex(16))
        return self._new(project, fetched)

    def _is_lagging(self, page: ProjectPage, known: Entry) -> bool:
        """Return whether `page` is from a lagging node of upstream, by its lower serial.

        A lagging node must not remove files that another node listed. But an upstream that was
        set up anew counts from the start, so a lower serial is accepted after a day.
        """
        ours, theirs = known.last_serial, page.last_serial
        if ours is None or theirs is None or theirs >= ours or not known.found:
            self._lagging_since.pop(known.name, None)
            return False
        if len(self._lagging_since) >= _MAX_LAGGING:
            self._lagging_since.clear()
        since = self._lagging_since.setdefault(known.name, self._clock())
        return self._clock() - since < LOWER_SERIAL_IGNORED

    def _lists_files(self, known: Entry) -> bool:
        page = self._catalog.page(known.name) if known.found else None
        return page is not None and bool(page.files)

    def _missing(self, project: str, known: Entry | None) -> PageResult:
        entry = replace(self._entry(project, found=False), revision=_MISSING)
        if known is not None and known.status == "quarantined":
            # A malicious project is often quarantined first and then removed (PEP 792).
            entry = replace(entry, status=known.status)
        self._catalog.remember_missing(entry)
        return self._result(entry, Outcome.MISS, "upstream has no such project")

    def _unchanged(self, known: Entry, version: PageVersion | None, reason: str) -> PageResult:
        """Return `known` as fresh, to be revalidated with `version` from now on."""
        entry = replace(known.with_version(version), checked_at=self._clock())
        self._catalog.mark_revalidated(entry)
        return self._result(entry, Outcome.REVALIDATED, reason)

    def _new(self, project: str, fetched: FetchedPage, revision: str = "") -> PageResult:
        entry = replace(
            self._entry(project, found=True).with_version(fetched.version),
            last_serial=fetched.page.last_serial,
            revision=revision or fetched.version.fingerprint,
            status=fetched.page.status,
        )
        self._catalog.remember(entry, _redacted(fetched.page))
        reason = f"a new page of {len(fetched.page.files)} files"
        return replace(self._result(entry, Outcome.MISS, reason), page=fetched.page)

    def _entry(self, project: str, *, found: bool) -> Entry:
        now, upstream = self._clock(), self._upstream.root.key
        return Entry(name=project, upstream=upstream, found=found, fetched_at=now, checked_at=now)

    def _result(self, entry: Entry, outcome: Outcome, reason: str) -> PageResult:
        return self._policy.result(entry, self._clock(), outcome, reason)


def _redacted(page: ProjectPage) -> ProjectPage:
    """Return `page` as the catalog stores it: without the queries of links."""
    if not any("?" in file.url for file in page.files):
        return page
    return off_loop(page.redacted)


def known_entry(catalog: Catalog, project: str, root: IndexRoot) -> Entry | None:
    """Return the entry of `project` in the catalog; None where another upstream sent that page.

    None also for a missing project while no root is found: another root may have its page.
    """
    entry = catalog.entry(project)
    if entry is None or entry.upstream != root.key:
        return None
    return entry if entry.found or root.known is not None else None


def log_decision(
    project: str, outcome: str, reason: str, started: float, error: UpstreamError | None
) -> None:
    """Log which page is served; `started` is in seconds of the monotonic clock."""
    level = logging.INFO if error is None else logging.WARNING
    is_quiet = isinstance(error, (UpstreamOffline, UpstreamCircuitOpen, UpstreamBusy))
    if outcome in ("HIT", "COALESCED") or is_quiet or (error and error.outcome == "COALESCED"):
        # No request to upstream was made for this client, and there is such a line for each client.
        level = logging.DEBUG
    took = (time.monotonic() - started) * 1000
    log.log(level, "%s: %s, %s, upstream took %.0f ms", project, outcome, reason, took)
