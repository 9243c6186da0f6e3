"""For a project, which answer is right at this moment.

Three bands. A page younger than the TTL is answered from the catalog. An older one is revalidated by
one request that all who ask share; whoever has a copy at hand waits for it only briefly. When
upstream fails, the copy we have is better than none. What upstream says is gone is gone.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace

from pytail.errors import (
    ProjectNotFound,
    UpstreamBusy,
    UpstreamCircuitOpen,
    UpstreamError,
    UpstreamGarbled,
    UpstreamOffline,
    UpstreamUnreachable,
)
from pytail.model import Outcome, ProjectPage
from pytail.runtime.singleflight import SingleFlight, StillRunning
from pytail.storage.catalog import Catalog, Entry
from pytail.telemetry.access import UpstreamWait, for_client
from pytail.upstream.pages import FetchedPage, PageClient, PageState

log = logging.getLogger("pytail.cache")

#: Seconds to wait for upstream without a copy at hand; the least patient clients give up after ten.
PATIENCE = 9.0
#: Seconds of lower serials than ours after which they are believed: upstream began anew.
LOWER_SERIAL_BELIEVED = 24 * 3600.0
#: Projects whose lower serials are remembered.
_MOST_BEHIND = 1000


@dataclass(frozen=True, slots=True)
class PageAnswer:
    """The right page of a project at this moment."""

    entry: Entry
    #: Its content where it was at hand; None: the catalog has it.
    page: ProjectPage | None
    #: Seconds for which it stays fresh; 0 for a stale copy.
    fresh_for: float
    #: Seconds since upstream last confirmed it.
    age: float
    outcome: Outcome
    #: Why it is the right one.
    reason: str
    #: What kept upstream from confirming it; None when nothing did.
    trouble: UpstreamError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FreshnessPolicy:
    """For how long a page is fresh, and how long a client waits for upstream; all in seconds."""

    #: Age from which a page is revalidated.
    ttl: float = 900.0
    #: Age from which a project that upstream does not have is asked for again.
    missing_ttl: float = 60.0
    #: Wait for a revalidation before the stale page is served.
    revalidate_wait: float = 2.0
    #: Maximum age of a stale page; 0: no limit.
    max_stale: float = 0.0
    #: Wait for a page of which nothing is cached.
    wait: float = PATIENCE


class Freshness:
    """Decides between what is known and what upstream says."""

    def __init__(
        self,
        catalog: Catalog,
        upstream: PageClient,
        policy: FreshnessPolicy,
        clock: Callable[[], float],
    ) -> None:
        """`clock` gives seconds since the epoch."""
        self._catalog, self._upstream = catalog, upstream
        self._policy, self._clock = policy, clock
        self._flights: SingleFlight[PageAnswer] = SingleFlight()
        #: Flights whose first asker has gone on without their outcome.
        self._abandoned: set[Hashable] = set()
        #: Since when upstream shows an older page of a project than ours.
        self._behind: dict[str, float] = {}

    def answer(self, project: str, max_age: float = math.inf) -> PageAnswer:
        """The answer for `project` (normalized).

        `max_age` is how old in seconds a copy may be before upstream is asked, where that is less
        than the TTL. Raises ProjectNotFound, or an UpstreamError where there is no copy.
        """
        known = self._known(project)
        return self._told(project, lambda: self._right(project, known, max_age))

    def anew(self, project: str) -> PageAnswer:
        """The answer of upstream to an unconditional request.

        Raises ProjectNotFound or an UpstreamError.
        """
        key = (project, "anew")
        return self._told(project, lambda: self._shared(project, None, self._policy.wait, key))

    def _right(self, project: str, known: Entry | None, max_age: float) -> PageAnswer:
        if known is not None and self._is_fresh(known, max_age):
            reason = "fresh" if known.found else "upstream has no such project"
            return self._from_copy(known, Outcome.HIT, reason)
        if known is not None and known.found:
            return self._revalidated(known)
        return self._shared(project, known, self._policy.wait)

    def _told(self, project: str, decide: Callable[[], PageAnswer]) -> PageAnswer:
        """The decision, after one line about it in the log; raises it where it is an error."""
        started = time.monotonic()
        try:
            answer = decide()
        except UpstreamError as error:
            _tell(project, error.outcome, str(error), started, error)
            raise
        reason = f"{answer.age:.0f} s old, {answer.reason}"
        _tell(project, answer.outcome.value, reason, started, answer.trouble)
        if not answer.entry.found:
            raise ProjectNotFound(project, self._upstream.url, answer.outcome.value, answer.age)
        return answer

    def still_valid(
        self, answer: PageAnswer, max_age: float = math.inf
    ) -> Callable[[], bool] | None:
        """Says whether the same would be answered now, to the second; None where it never will.

        `max_age` is the one it was asked for with.
        """
        if answer.outcome is not Outcome.HIT or log.isEnabledFor(logging.DEBUG):
            # What was just fetched is a hit the next time; and each hit is to be logged.
            return None
        entry, look, clock = answer.entry, self._catalog.recent_entry, self._clock
        name, checked_at, ttl = entry.name, entry.checked_at, self._ttl(entry)
        longest, seconds, left = min(ttl, max_age), int(answer.age), int(answer.fresh_for)

        def is_same() -> bool:
            age = clock() - checked_at
            if not 0 <= age < longest or int(age) != seconds or int(ttl - age) != left:
                return False
            known = look(name)
            return known is entry or known == entry

        return is_same

    def _is_fresh(self, known: Entry, max_age: float) -> bool:
        return self._age(known) < min(self._ttl(known), max_age)

    def _ttl(self, known: Entry) -> float:
        return self._policy.ttl if known.found else self._policy.missing_ttl

    def _known(self, project: str) -> Entry | None:
        entry = self._catalog.entry(project)
        # Another upstream's page says nothing about this one's.
        return entry if entry is not None and entry.upstream == self._upstream.url else None

    def _age(self, entry: Entry) -> float:
        age = self._clock() - entry.checked_at
        # A clock that was set back must not make a page fresh for years.
        return age if age >= 0 else math.inf

    def _from_copy(self, known: Entry, outcome: Outcome, reason: str) -> PageAnswer:
        age = self._age(known)
        fresh_for = max(0.0, self._ttl(known) - age)
        return PageAnswer(
            known, None, fresh_for, age if math.isfinite(age) else 0.0, outcome, reason
        )

    def _revalidated(self, known: Entry) -> PageAnswer:
        try:
            return self._shared(known.name, known, self._policy.revalidate_wait)
        except UpstreamError as error:
            longest = self._policy.max_stale
            if longest and self._age(known) > longest and not isinstance(error, UpstreamOffline):
                raise
            answer = self._from_copy(known, Outcome.STALE, str(error))
            return replace(answer, fresh_for=0.0, trouble=error)

    def _shared(
        self, project: str, known: Entry | None, patience: float, key: Hashable = None
    ) -> PageAnswer:
        flight = key or project
        is_joined = flight in self._flights
        try:
            with UpstreamWait():
                answer = self._flights.run(
                    flight, for_client(lambda: self._fly(flight, project, known)), patience
                )
        except StillRunning:
            if not is_joined and flight in self._flights:
                self._abandoned.add(flight)
            reason = f"no answer within {patience:g} seconds; it is still waited for"
            error = UpstreamUnreachable(self._upstream.page_url(project), reason)
            raise error.shared() if is_joined else error from None
        except UpstreamError as error:
            if is_joined:
                raise error.shared() from None
            raise
        return replace(answer, outcome=Outcome.COALESCED) if is_joined else answer

    def _fly(self, flight: Hashable, project: str, known: Entry | None) -> PageAnswer:
        """What upstream says, told here where whoever asked first has gone on without it."""
        started, trouble = time.monotonic(), None
        word, reason = "MISS", ""
        try:
            answer = self._ask(project, known)
            word, reason = answer.outcome.value, answer.reason
        except UpstreamError as error:
            trouble, reason = error, str(error)
            raise
        finally:
            if flight in self._abandoned:
                self._abandoned.discard(flight)
                _tell(project, word, f"at last: {reason}", started, trouble)
        return answer

    def _ask(self, project: str, known: Entry | None) -> PageAnswer:
        etag = known.etag if known is not None and known.found else None
        # Until it is put away: the catalog writes no more at the same time than that.
        with self._upstream.fetch(project, etag) as fetched:
            if fetched is PageState.MISSING:
                return self._missing(project)
            reply = fetched if isinstance(fetched, FetchedPage) else None
            # Another process may have learnt more in the meantime.
            latest = self._known(project)
            known = latest if latest is not None and latest.found else known
            if known is not None and (reply is None or self._is_behind(reply.page, known)):
                return self._confirmed(known, reply)
            assert reply is not None, "only a conditional request is answered by none"
            if reply.is_blank and known is not None and self._lists_files(known):
                url = self._upstream.page_url(project)
                raise UpstreamGarbled(url, "sends a blank page in the place of one with files")
            return self._new(project, reply)

    def _lists_files(self, known: Entry) -> bool:
        page = self._catalog.page(known.name) if known.found else None
        return page is not None and bool(page.files)

    def _missing(self, project: str) -> PageAnswer:
        entry, known = self._entry(project, found=False), self._known(project)
        if known is not None and known.status == "quarantined":
            # Removed as the next step, it is no less dangerous.
            entry = replace(entry, status=known.status)
        self._catalog.remember_missing(entry)
        return self._from_copy(entry, Outcome.MISS, "upstream has no such project")

    def _confirmed(self, known: Entry, reply: FetchedPage | None) -> PageAnswer:
        now, reason = self._clock(), "unchanged"
        if reply is None:
            self._behind.pop(known.name, None)
        else:
            reason = f"upstream went back from serial {known.last_serial}"
        self._catalog.mark_revalidated(known.name, now)
        return self._from_copy(replace(known, checked_at=now), Outcome.REVALIDATED, reason)

    def _is_behind(self, page: ProjectPage, known: Entry) -> bool:
        # A node of upstream's that lags must not take back what another one said; but an upstream
        # that was set up anew counts from the start.
        ours, theirs = known.last_serial, page.last_serial
        if ours is None or theirs is None or theirs >= ours or not known.found:
            self._behind.pop(known.name, None)
            return False
        if len(self._behind) >= _MOST_BEHIND:
            self._behind.clear()
        since = self._behind.setdefault(known.name, self._clock())
        return self._clock() - since < LOWER_SERIAL_BELIEVED

    def _new(self, project: str, reply: FetchedPage) -> PageAnswer:
        entry = replace(
            self._entry(project, found=True),
            etag=reply.etag,
            last_serial=reply.page.last_serial,
            revision=reply.revision,
            status=reply.page.status,
        )
        self._catalog.remember(entry, reply.page)
        reason = f"a new page of {len(reply.page.files)} files"
        return replace(self._from_copy(entry, Outcome.MISS, reason), page=reply.page)

    def _entry(self, project: str, found: bool) -> Entry:
        now, upstream = self._clock(), self._upstream.url
        return Entry(name=project, upstream=upstream, found=found, fetched_at=now, checked_at=now)


def _tell(
    project: str, word: str, reason: str, started: float, trouble: UpstreamError | None
) -> None:
    """Log a decision; `started` is when upstream began to be waited for, by the monotonic clock."""
    level = logging.INFO if trouble is None else logging.WARNING
    is_quiet = isinstance(trouble, (UpstreamOffline, UpstreamCircuitOpen, UpstreamBusy))
    if word in ("HIT", "COALESCED") or is_quiet or (trouble and trouble.outcome == "COALESCED"):
        # As many as there are clients, and nothing was asked for them.
        level = logging.DEBUG
    took = (time.monotonic() - started) * 1000
    log.log(level, "%s: %s, %s, upstream took %.0f ms", project, word, reason, took)
