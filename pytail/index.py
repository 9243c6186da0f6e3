"""For a project, which answer is right at this moment; for a URL, which file it means.

A page younger than the TTL is answered from the catalog. An older one is revalidated by one request
that all who ask share; when upstream does not answer in time or not at all, the copy we have is
better than none. What upstream says is gone is gone.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace

from pytail.catalog import Catalog, Entry
from pytail.errors import (
    FileNotListed,
    ProjectNameInvalid,
    ProjectNotFound,
    UpstreamError,
    UpstreamUnreachable,
)
from pytail.model import METADATA_SUFFIX, SIGNATURE_SUFFIX, File, ProjectPage
from pytail.simple import names
from pytail.singleflight import SingleFlight, StillFlying
from pytail.store import Store, is_shelf
from pytail.upstream import Upstream

log = logging.getLogger(__name__)

#: Seconds for which upstream's word that there is no such project holds.
MISSING_TTL = 60.0
#: Seconds to wait for upstream with a copy at hand, and without; clients give up after ten.
PATIENCE_WITH_COPY, PATIENCE = 2.0, 9.0
#: Seconds within which a page is not asked for again because a file was not on it.
REFRESH_INTERVAL = 10.0
#: Projects that are looked at for one filename.
_MOST_CANDIDATES = 6


@dataclass(frozen=True, slots=True)
class Answer:
    """The right page of a project at this moment."""

    entry: Entry
    #: Its content where it was at hand; None: the catalog has it.
    page: ProjectPage | None
    #: Seconds for which it stays fresh; 0 for a stale copy.
    fresh_for: float


class Index:
    """What pytail serves: the projects of upstream, as far as they were asked for."""

    def __init__(
        self,
        catalog: Catalog,
        store: Store,
        upstream: Upstream,
        ttl: float,
        clock: Callable[[], float] = time.time,
        *,
        reads_wheels: bool = False,
    ) -> None:
        """`ttl` is in seconds; `clock` gives seconds since the epoch.

        `reads_wheels` is whether to promise core metadata of wheels where upstream has none.
        """
        self._reads_wheels = reads_wheels
        self._catalog, self._store, self._upstream = catalog, store, upstream
        self._ttl, self._clock = ttl, clock
        self._flights: SingleFlight[Answer] = SingleFlight()

    def page(self, project: str) -> Answer:
        """The answer for `project` (normalized).

        Raises ProjectNameInvalid, ProjectNotFound, or an UpstreamError where there is no copy.
        """
        return self._page(project, self._ttl)

    def contents(self, answer: Answer) -> ProjectPage:
        """The page of `answer`, asked for anew where the catalog has lost it.

        Raises ProjectNotFound or an UpstreamError.
        """
        name = answer.entry.name
        page = answer.page or self._catalog.page(name)
        if page is None:
            log.warning("%s: the catalog has lost its page, asking upstream", name)
            anew = self._shared(name, None, PATIENCE, key=(name, "anew"))
            if not anew.entry.found:
                raise ProjectNotFound(name, self._upstream.url)
            page = anew.page
        assert page is not None, "what was asked for without a validator comes whole"
        if self._reads_wheels:
            page = replace(page, files=tuple(map(self._promising, page.files)))
        return page

    def projects(self) -> tuple[list[str], int | None]:
        """The names of the projects asked for and found, sorted, and the highest serial."""
        upstream = self._upstream.url
        return self._catalog.projects(upstream), self._catalog.last_serial(upstream)

    def file(self, shelf: str, filename: str) -> File:
        """The file whose URL has that `shelf` and `filename`.

        One that no page we know lists is looked for on the page of the project that its filename
        names, so that URLs in lock files work with an empty cache. Raises FileNotListed, or an
        UpstreamError where upstream could not be asked.
        """
        if not is_shelf(shelf) or not names.is_filename(filename):
            raise FileNotListed(filename)
        for suffix in (METADATA_SUFFIX, SIGNATURE_SUFFIX):
            if filename.endswith(suffix):
                listed = self._promising(self._file(shelf, filename, filename.removesuffix(suffix)))
                beside = listed.metadata if suffix == METADATA_SUFFIX else listed.signature
                if beside is not None:
                    return beside
                if listed.filename == filename:
                    return listed
                raise FileNotListed(filename)
        return self._file(shelf, filename, filename)

    def _promising(self, file: File) -> File:
        """`file`, with core metadata promised where it is a wheel to read them out of."""
        if self._reads_wheels and file.is_wheel and file.core_metadata is None:
            return replace(file, core_metadata=True)
        return file

    def _file(self, shelf: str, filename: str, main: str) -> File:
        """The file `main`, or `filename` itself where it is held and no page lists `main`."""
        listed = self._catalog.file(shelf, main, self._upstream.url)
        if listed is not None:
            return listed
        candidates = list(itertools.islice(names.projects_of(main), _MOST_CANDIDATES))
        entries = [self._catalog.entry(name) for name in candidates]
        if any(entry is not None and entry.status == "quarantined" for entry in entries):
            raise FileNotListed(filename)
        unlisted = File(filename=filename, url="", shelf=shelf)
        if self._store.holds(unlisted):
            return unlisted
        return self._look_for(shelf, main, candidates)

    def _look_for(self, shelf: str, filename: str, candidates: list[str]) -> File:
        trouble = None
        for name in candidates:
            try:
                page = self.contents(self._page(name, min(self._ttl, REFRESH_INTERVAL)))
            except ProjectNotFound:
                continue
            except UpstreamError as error:
                trouble = trouble or error
                if isinstance(error, UpstreamUnreachable):
                    # Another wait as long as this one is more than a client has.
                    break
                continue
            for file in page.files:
                if file.shelf == shelf and file.filename == filename:
                    return file
        raise trouble or FileNotListed(filename)

    def _page(self, project: str, ttl: float) -> Answer:
        if not names.is_project_name(project):
            raise ProjectNameInvalid(project)
        known = self._known(project)
        if known is not None and self._age(known) < (ttl if known.found else MISSING_TTL):
            log.debug("%s: fresh", project)
            answer = Answer(known, None, self._ttl - self._age(known))
        elif known is not None and known.found:
            answer = self._revalidated(known)
        else:
            answer = self._shared(project, known, PATIENCE)
        if not answer.entry.found:
            raise ProjectNotFound(project, self._upstream.url)
        return answer

    def _known(self, project: str) -> Entry | None:
        entry = self._catalog.entry(project)
        # Another upstream's page says nothing about this one's.
        return entry if entry is not None and entry.upstream == self._upstream.url else None

    def _age(self, entry: Entry) -> float:
        age = self._clock() - entry.checked_at
        # A clock that was set back must not make a page fresh for years.
        return age if age >= 0 else float("inf")

    def _revalidated(self, known: Entry) -> Answer:
        try:
            return self._shared(known.name, known, PATIENCE_WITH_COPY)
        except UpstreamError as error:
            log.warning("%s: stale, %.0f s old: %s", known.name, self._age(known), error)
            return Answer(known, None, 0)

    def _shared(
        self, project: str, known: Entry | None, patience: float, key: Hashable = None
    ) -> Answer:
        try:
            return self._flights.run(key or project, lambda: self._ask(project, known), patience)
        except StillFlying:
            reason = f"no answer within {patience:g} seconds; it is still waited for"
            raise UpstreamUnreachable(f"{self._upstream.url}/simple/{project}/", reason) from None

    def _ask(self, project: str, known: Entry | None) -> Answer:
        etag = known.etag if known is not None and known.found else None
        try:
            reply = self._upstream.page(project, etag)
        except ProjectNotFound:
            log.info("%s: upstream has no such project", project)
            entry = self._entry(project, found=False)
            self._catalog.remember_missing(entry)
            return Answer(entry, None, 0)
        if reply is None and known is not None:
            log.debug("%s: revalidated, unchanged", project)
            now = self._clock()
            self._catalog.confirm(project, now)
            return Answer(replace(known, checked_at=now), None, self._ttl)
        assert reply is not None, "only a conditional request is answered by none"
        log.info("%s: new page with %d files", project, len(reply.page.files))
        entry = replace(
            self._entry(project, found=True),
            etag=reply.etag,
            last_serial=reply.page.last_serial,
            revision=reply.revision,
            status=reply.page.status,
        )
        self._catalog.remember(entry, reply.page)
        return Answer(entry, reply.page, self._ttl)

    def _entry(self, project: str, found: bool) -> Entry:
        now, upstream = self._clock(), self._upstream.url
        return Entry(name=project, upstream=upstream, found=found, fetched_at=now, checked_at=now)
