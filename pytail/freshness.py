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

from pytail.catalog import Catalog, Entry
from pytail.errors import ProjectNotFound, UpstreamError, UpstreamOffline, UpstreamUnreachable
from pytail.exchanges import Waiting
from pytail.model import Outcome, ProjectPage
from pytail.settings import Settings
from pytail.singleflight import SingleFlight, StillFlying
from pytail.upstream import PageFound, Upstream

log = logging.getLogger(__name__)

#: Seconds to wait for upstream without a copy at hand; the least patient clients give up after ten.
PATIENCE = 9.0
#: Seconds after which a page with a lower serial than ours is believed: upstream began anew.
LOWER_SERIAL_BELIEVED = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Answer:
    """The right page of a project at this moment."""

    entry: Entry
    #: Its content where it was at hand; None: the catalog has it.
    page: ProjectPage | None
    #: Seconds for which it stays fresh; 0 for a stale copy.
    fresh_for: float
    #: Seconds since upstream last confirmed it.
    age: float
    outcome: Outcome


class Freshness:
    """Decides between what is known and what upstream says."""

    def __init__(
        self, catalog: Catalog, upstream: Upstream, settings: Settings, clock: Callable[[], float]
    ) -> None:
        """`clock` gives seconds since the epoch."""
        self._catalog, self._upstream = catalog, upstream
        self._settings, self._clock = settings, clock
        self._flights: SingleFlight[Answer] = SingleFlight()

    def answer(self, project: str, max_age: float = math.inf) -> Answer:
        """The answer for `project` (normalized).

        `max_age` is how old in seconds a copy may be before upstream is asked, where that is less
        than the TTL. Raises ProjectNotFound, or an UpstreamError where there is no copy.
        """
        known = self._known(project)
        if known is not None and self._age(known) < min(self._ttl(known), max_age):
            answer = self._from_copy(known, Outcome.HIT)
            log.debug("%s: %s, %.0f s old", project, answer.outcome.value, answer.age)
        elif known is not None and known.found:
            answer = self._revalidated(known)
        else:
            answer = self._shared(project, known, PATIENCE)
        if not answer.entry.found:
            raise ProjectNotFound(project, self._upstream.url, answer.outcome.value)
        return answer

    def anew(self, project: str) -> Answer:
        """The answer of upstream to an unconditional request.

        Raises ProjectNotFound or an UpstreamError.
        """
        answer = self._shared(project, None, PATIENCE, key=(project, "anew"))
        if not answer.entry.found:
            raise ProjectNotFound(project, self._upstream.url, answer.outcome.value)
        return answer

    def _ttl(self, known: Entry) -> float:
        settings = self._settings
        return settings.project_cache_ttl_secs if known.found else settings.missing_ttl_secs

    def _known(self, project: str) -> Entry | None:
        entry = self._catalog.entry(project)
        # Another upstream's page says nothing about this one's.
        return entry if entry is not None and entry.upstream == self._upstream.url else None

    def _age(self, entry: Entry) -> float:
        age = self._clock() - entry.checked_at
        # A clock that was set back must not make a page fresh for years.
        return age if age >= 0 else math.inf

    def _from_copy(self, known: Entry, outcome: Outcome) -> Answer:
        age = self._age(known)
        return Answer(known, None, max(0.0, self._ttl(known) - age), age, outcome)

    def _revalidated(self, known: Entry) -> Answer:
        try:
            return self._shared(known.name, known, self._settings.revalidate_wait_secs)
        except UpstreamError as error:
            answer = self._from_copy(known, Outcome.STALE)
            longest = self._settings.max_stale_secs
            if longest and answer.age > longest and not isinstance(error, UpstreamOffline):
                log.warning("%s: no copy younger than %g s: %s", known.name, longest, error)
                raise
            level = logging.DEBUG if isinstance(error, UpstreamOffline) else logging.WARNING
            log.log(level, "%s: STALE, %.0f s old: %s", known.name, answer.age, error)
            return replace(answer, fresh_for=0.0)

    def _shared(
        self, project: str, known: Entry | None, patience: float, key: Hashable = None
    ) -> Answer:
        flight = key or project
        is_joined = flight in self._flights
        try:
            with Waiting():
                answer = self._flights.run(flight, lambda: self._ask(project, known), patience)
        except StillFlying:
            reason = f"no answer within {patience:g} seconds; it is still waited for"
            raise UpstreamUnreachable(f"{self._upstream.url}/simple/{project}/", reason) from None
        return replace(answer, outcome=Outcome.COALESCED) if is_joined else answer

    def _ask(self, project: str, known: Entry | None) -> Answer:
        etag = known.etag if known is not None and known.found else None
        started = time.monotonic()

        def decided(answer: Answer, reason: str) -> Answer:
            took = (time.monotonic() - started) * 1000
            word = answer.outcome.value
            log.info("%s: %s, %s, upstream took %.0f ms", project, word, reason, took)
            return answer

        try:
            reply = self._upstream.page(project, etag)
        except ProjectNotFound:
            return decided(self._missing(project), "upstream has no such project")
        if reply is None and known is not None:
            return decided(self._confirmed(known), "unchanged")
        assert reply is not None, "only a conditional request is answered by none"
        if known is not None and self._is_behind(reply.page, known):
            reason = f"upstream went back from serial {known.last_serial}"
            return decided(self._confirmed(known), reason)
        return decided(self._new(project, reply), f"a new page of {len(reply.page.files)} files")

    def _missing(self, project: str) -> Answer:
        entry = self._entry(project, found=False)
        self._catalog.remember_missing(entry)
        return self._from_copy(entry, Outcome.MISS)

    def _confirmed(self, known: Entry) -> Answer:
        now = self._clock()
        self._catalog.confirm(known.name, now)
        return self._from_copy(replace(known, checked_at=now), Outcome.REVALIDATED)

    def _is_behind(self, page: ProjectPage, known: Entry) -> bool:
        # A node of upstream's that lags must not take back what another one said; but an upstream
        # that was set up anew counts from the start.
        if known.last_serial is None or page.last_serial is None or not known.found:
            return False
        is_recent = self._clock() - known.fetched_at < LOWER_SERIAL_BELIEVED
        return is_recent and page.last_serial < known.last_serial

    def _new(self, project: str, reply: PageFound) -> Answer:
        entry = replace(
            self._entry(project, found=True),
            etag=reply.etag,
            last_serial=reply.page.last_serial,
            revision=reply.revision,
            status=reply.page.status,
        )
        self._catalog.remember(entry, reply.page)
        return replace(self._from_copy(entry, Outcome.MISS), page=reply.page)

    def _entry(self, project: str, found: bool) -> Entry:
        now, upstream = self._clock(), self._upstream.url
        return Entry(name=project, upstream=upstream, found=found, fetched_at=now, checked_at=now)
