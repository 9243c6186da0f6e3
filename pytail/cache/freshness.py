"""Policy: for how long a page is fresh, and when a stale page is served.

A page is fresh while its age is below the TTL. An older page is revalidated with upstream (RFC
9111). Where that fails, the stale page is served. Nothing here does I/O; the time is an argument.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from pytail.errors import UpstreamError, UpstreamOffline
from pytail.model import Outcome, ProjectPage
from pytail.storage.catalog import Entry

#: Seconds to wait for an uncached page. The least patient clients time out after 10.
PAGE_WAIT = 9.0


@dataclass(frozen=True, slots=True)
class PageResult:
    """The page to serve for a project, and the reason why."""

    entry: Entry
    #: None where only the catalog has the content.
    page: ProjectPage | None
    #: Seconds for which the page stays fresh; 0 for a stale page.
    fresh_for: float
    #: Seconds since upstream sent or revalidated the page.
    age: float
    outcome: Outcome
    #: Why this page is served, for the log.
    reason: str
    #: The error that prevented the revalidation; None for pages that are not stale.
    error: UpstreamError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FreshnessPolicy:
    """For how long a page is fresh, and how long a client waits for upstream; all in seconds."""

    #: Age from which a page is revalidated.
    ttl: float = 900.0
    #: Age from which upstream is asked again for a project that it does not have.
    missing_ttl: float = 60.0
    #: Wait for a revalidation before the stale page is served.
    revalidate_wait: float = 2.0
    #: Maximum age of a stale page; 0: no limit.
    max_stale: float = 0.0
    #: Wait for a page of which nothing is cached.
    wait: float = PAGE_WAIT

    def ttl_of(self, entry: Entry) -> float:
        """Return the TTL of `entry`, which is shorter where upstream has no such project."""
        return self.ttl if entry.found else self.missing_ttl

    def is_fresh(self, entry: Entry, age: float, max_age: float = math.inf) -> bool:
        """Return whether `entry` needs no revalidation; a `max_age` below the TTL replaces it."""
        return age < min(self.ttl_of(entry), max_age)

    def may_serve_stale(self, age: float, error: UpstreamError) -> bool:
        """Return whether a stale page of that `age` is served after `error`.

        With --offline, every age is accepted.
        """
        return not self.max_stale or age <= self.max_stale or isinstance(error, UpstreamOffline)

    def result(self, entry: Entry, now: float, outcome: Outcome, reason: str) -> PageResult:
        """Return a result with the content of `entry` in the catalog and its age at `now`."""
        age = age_of(entry, now)
        fresh_for = max(0.0, self.ttl_of(entry) - age)
        shown_age = age if math.isfinite(age) else 0.0
        return PageResult(entry, None, fresh_for, shown_age, outcome, reason)


def age_of(entry: Entry, now: float) -> float:
    """Return the seconds since upstream sent or revalidated the page; infinite for a future time.

    A page from the future means that the clock was set back. It must not stay fresh until then.
    """
    age = now - entry.checked_at
    return age if age >= 0 else math.inf
