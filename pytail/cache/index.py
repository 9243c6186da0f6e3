"""The page of a project: fresh from the catalog, revalidated with upstream, or stale."""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from pytail.cache.filters import PageFilter
from pytail.cache.freshness import FreshnessPolicy, PageResult, age_of
from pytail.cache.revalidate import Revalidator, known_entry, log_decision
from pytail.errors import ProjectNameInvalid, ProjectNotFound, UpstreamError
from pytail.model import Outcome, ProjectPage
from pytail.simple import names
from pytail.storage.catalog import Catalog, Entry
from pytail.upstream.root import IndexRoot

log = logging.getLogger("pytail.cache")

#: Minimum age in seconds of a page before upstream is asked for a file that the page does not list.
REFRESH_INTERVAL = 10.0


class Index:
    """The pages of the projects of upstream."""

    def __init__(
        self,
        catalog: Catalog,
        revalidator: Revalidator,
        root: IndexRoot,
        policy: FreshnessPolicy,
        clock: Callable[[], float] = time.time,
        filters: Sequence[PageFilter] = (),
    ) -> None:
        """`root` is that of upstream; `clock` returns seconds since the epoch."""
        self._catalog, self._revalidator, self._root = catalog, revalidator, root
        self._policy, self._clock = policy, clock
        self._filters = [each for each in filters if not each.varies]
        self._varying = [each for each in filters if each.varies]

    def page(self, project: str, max_age: float = math.inf) -> PageResult:
        """Return the page of `project` (a normalized name), as `content` serves it.

        A client may set a `max_age` in seconds below the TTL. Raises ProjectNameInvalid,
        ProjectNotFound, or an UpstreamError where nothing is cached.
        """
        if not names.is_project_name(project):
            raise ProjectNameInvalid(project)
        result = self.decide(project, max_age)
        return self._varied(result) if self._varying else result

    def decide(self, project: str, max_age: float = math.inf) -> PageResult:
        """Return the result of `page` without the filters that vary; the name is not validated."""
        known = known_entry(self._catalog, project, self._root)
        return self._logged(project, lambda: self._choose(project, known, max_age))

    def content(self, result: PageResult) -> ProjectPage:
        """Return the page of `result`; ask upstream where the catalog has lost the page.

        Raises ProjectNotFound or an UpstreamError.
        """
        name = result.entry.name
        page = result.page or self._catalog.page(name)
        if page is None:
            log.warning("%s: the page is no longer in the catalog, asking upstream", name)
            page = self._logged(name, lambda: self._revalidator.fetch(name)).page
        assert page is not None, "upstream answers an unconditional request with a page"
        for each in self._filters:
            page = each.apply(page)
        return page

    def still_valid(
        self, result: PageResult, max_age: float = math.inf
    ) -> Callable[[], bool] | None:
        """Return a function that tells whether `page` would return an equal result now.

        Ages are compared in whole seconds. Return None where no later result can be equal.
        `max_age` is the one that `page` was called with.
        """
        if self._varying or result.outcome is not Outcome.HIT or log.isEnabledFor(logging.DEBUG):
            # The next result of a page that was fetched now is a hit. With debug logging, each hit
            # writes a line.
            return None
        entry, look, clock = result.entry, self._catalog.recent_entry, self._clock
        name, checked_at, ttl = entry.name, entry.checked_at, self._policy.ttl_of(entry)
        longest, seconds, left = min(ttl, max_age), int(result.age), int(result.fresh_for)

        def is_same() -> bool:
            age = clock() - checked_at
            if not 0 <= age < longest or int(age) != seconds or int(ttl - age) != left:
                return False
            known = look(name)
            return known is entry or known == entry

        return is_same

    def projects(self) -> tuple[list[str], int | None]:
        """Return the names of the projects that were requested and found, sorted.

        The second value is the highest serial, None where upstream has none.
        """
        key = self._root.key
        return self._catalog.projects(key), self._catalog.last_serial(key)

    def _choose(self, project: str, known: Entry | None, max_age: float) -> PageResult:
        if known is not None:
            now = self._clock()
            if self._policy.is_fresh(known, age_of(known, now), max_age):
                reason = "fresh" if known.found else "upstream has no such project"
                return self._policy.result(known, now, Outcome.HIT, reason)
            if known.found:
                return self._revalidated(known)
        return self._revalidator.revalidate(project, known, self._policy.wait)

    def _revalidated(self, known: Entry) -> PageResult:
        """Return the revalidated page, or the stale page where upstream fails."""
        try:
            return self._revalidator.revalidate(known.name, known, self._policy.revalidate_wait)
        except UpstreamError as error:
            now = self._clock()
            if not self._policy.may_serve_stale(age_of(known, now), error):
                raise
            result = self._policy.result(known, now, Outcome.STALE, str(error))
            return replace(result, fresh_for=0.0, error=error)

    def _logged(self, project: str, choose: Callable[[], PageResult]) -> PageResult:
        """Log the result of `choose` and return it. Raises ProjectNotFound or an UpstreamError."""
        started = time.monotonic()
        try:
            result = choose()
        except UpstreamError as error:
            log_decision(project, error.outcome, str(error), started, error)
            raise
        outcome, reason = result.outcome.value, f"{result.age:.0f} s old, {result.reason}"
        log_decision(project, outcome, reason, started, result.error)
        if not result.entry.found:
            raise ProjectNotFound(project, self._root.key, outcome, result.age)
        return result

    def _varied(self, result: PageResult) -> PageResult:
        """Return `result` after the filters that vary, with a revision of the remaining files."""
        page = self.content(result)
        for each in self._varying:
            page = each.apply(page)
        keys = "\n".join(file.key for file in page.files)
        revision = hashlib.sha256(f"{result.entry.revision}\n{keys}".encode()).hexdigest()
        return replace(result, entry=replace(result.entry, revision=revision), page=page)
