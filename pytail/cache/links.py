"""The link of a file, which upstream moves: signed URLs expire, and hosts of files change.

A page is stored with the links that it had. Where a link fails, pytail asks upstream for the page again,
unconditionally: an index can send new links under an unchanged validator. It goes on with the new link
of the same digest, or of the same filename where there is no digest.

The query of a link can be a signature, so the catalog does not have it. This process remembers it; where
it does not, the page is asked for the link.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol, TypeVar

from pytail.cache.revalidate import Revalidator
from pytail.errors import (
    FileGone,
    FileNotListed,
    UpstreamBusy,
    UpstreamError,
    UpstreamOffline,
    UpstreamRefused,
    UpstreamUnreachable,
    UpstreamWithoutRanges,
)
from pytail.model import (
    METADATA_SUFFIX,
    SIGNATURE_SUFFIX,
    File,
    ProjectPage,
    digest_in,
    is_directory_of,
)
from pytail.runtime.singleflight import SingleFlight
from pytail.runtime.threads import give_way
from pytail.simple import names
from pytail.storage.catalog import Catalog
from pytail.telemetry.access import for_client
from pytail.upstream.root import IndexRoot
from pytail.urls import is_redacted, origin, with_suffix, without_query

log = logging.getLogger("pytail.cache")

Result = TypeVar("Result")

#: Minimum seconds between two requests for the page of a project because of its links.
INTERVAL = 10.0
#: Statuses that say nothing about a link: of ranges, and of too many requests. With any other error, an
#: empty cache would ask for the page too.
_NOT_OF_LINKS = frozenset({416, 429, 501})
#: Maximum number of links in memory; one takes about 600 bytes.
_MAX_LINKS = 20_000
#: Links of a page that are remembered before other greenlets run; they take 0.7 ms.
_LINKS_AT_ONCE = 1000
#: Projects whose last request is remembered, and files whose link gave wrong bytes.
_MAX_PROJECTS = 1000


#: What `Links.follow` raises, and what its callers make of a status of 404.
LINK_ERRORS = (UpstreamError, FileNotListed, FileGone)


def has_moved(error: UpstreamError) -> bool:
    """Return whether a link that failed by `error` may have moved."""
    if isinstance(error, UpstreamRefused):
        return error.status not in _NOT_OF_LINKS
    return not isinstance(error, (UpstreamBusy, UpstreamOffline, UpstreamWithoutRanges))


def is_missing(error: UpstreamError) -> bool:
    """Return as `has_moved` for HEAD, which many signed URLs refuse."""
    return isinstance(error, UpstreamRefused) and error.is_missing


class FileLinks(Protocol):
    """Finds the link that a file has now."""

    def follow(
        self,
        file: File,
        ask: Callable[[str], Result],
        is_moved: Callable[[UpstreamError], bool] = has_moved,
    ) -> Result:
        """Return the result of `ask` for the link of `file`. Raises one of `LINK_ERRORS`."""

    def distrust(self, file: File) -> None:
        """Note that the link of `file` gave wrong bytes."""


class GivenLinks:
    """The links that files have, without a page to ask for others."""

    def follow(
        self,
        file: File,
        ask: Callable[[str], Result],
        is_moved: Callable[[UpstreamError], bool] = has_moved,  # noqa: ARG002
    ) -> Result:
        """Return the result of `ask` for the link that `file` has."""
        return ask(file.url)

    def distrust(self, file: File) -> None:
        """Do nothing."""


#: For files whose links need not be asked for.
GIVEN = GivenLinks()


class LinkMemory:
    """The links that the catalog does not have, or not yet."""

    def __init__(self) -> None:
        #: By key of the wheel or sdist, the one used last at the end.
        self._links: OrderedDict[str, str] = OrderedDict()
        #: By key of a file without a digest, its directory on the page that has it elsewhere.
        self._directories: dict[str, str] = {}
        #: By project, the page that was asked for its links, None before upstream sent it.
        self._awaited: dict[str, ProjectPage | None] = {}

    def note_page(self, page: ProjectPage) -> None:
        """Remember the links of `page` with a query; all its links where it was asked for them."""
        is_awaited = page.name in self._awaited
        if is_awaited:
            self._awaited[page.name] = page
        for number, file in enumerate(page.files):
            if number % _LINKS_AT_ONCE == _LINKS_AT_ONCE - 1:
                give_way()
            if is_awaited or "?" in file.url:
                self.note(file.key, file.url)
            elif self._links:
                self._links.pop(file.key, None)

    def note(self, key: str, url: str) -> None:
        """Remember the link of the file of that key."""
        self._links[key] = url
        self._links.move_to_end(key)
        if len(self._links) > _MAX_LINKS:
            self._links.popitem(last=False)

    def link(self, key: str) -> str | None:
        """Return the link of the file of that key, None where it is not remembered."""
        return self._links.get(key)

    def note_directory(self, key: str, directory: str) -> None:
        """Remember that the file of that key is in another `directory` on the page now."""
        if len(self._directories) >= _MAX_LINKS:
            self._directories.clear()
        self._directories[key] = directory

    def directory(self, key: str) -> str | None:
        """Return the directory that the file of that key has now, None where it has not moved."""
        return self._directories.get(key)

    def page_of(self, project: str, fetch: Callable[[], ProjectPage | None]) -> ProjectPage | None:
        """Return the page that upstream sends while `fetch` runs, also one that is not stored.

        Else return the result of `fetch`.
        """
        self._awaited[project] = None
        try:
            fetched = fetch()
            return self._awaited[project] or fetched
        finally:
            del self._awaited[project]


class Links:
    """Finds the present link of a file."""

    def __init__(
        self,
        memory: LinkMemory,
        catalog: Catalog,
        revalidator: Revalidator,
        root: IndexRoot,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`clock` returns seconds since the epoch."""
        self._memory, self._catalog, self._revalidator = memory, catalog, revalidator
        self._root, self._clock = root, clock
        self._requests: SingleFlight[ProjectPage | None] = SingleFlight()
        #: By project, when upstream last sent the page because of its links.
        self._asked_at: dict[str, float] = {}
        #: Keys of files whose link gave wrong bytes.
        self._wrong: set[str] = set()

    def follow(
        self,
        file: File,
        ask: Callable[[str], Result],
        is_moved: Callable[[UpstreamError], bool] = has_moved,
    ) -> Result:
        """Return the result of `ask` for the link of `file`, or for its new link where that moved.

        `is_moved` tells whether an error of `ask` can mean that. Raises FileNotListed where the page
        lists the file no longer, else the errors of `ask` or of the page.
        """
        main, suffix = _main(file)
        link = self._memory.link(f"{file.directory}/{main}")
        url = file.url if link is None else with_suffix(link, suffix)
        if is_redacted(url):
            return self._with_query(file, url, ask)
        if file.key in self._wrong:
            url = self._instead_of_wrong(file, url)
        try:
            return ask(url)
        except UpstreamError as error:
            if not is_moved(error):
                raise
            newer = self._newer(file, url, error)
        return ask(newer)

    def distrust(self, file: File) -> None:
        """Ask the page for the link of `file` before its next use, because it gave wrong bytes."""
        if len(self._wrong) >= _MAX_PROJECTS:
            self._wrong.clear()
        self._wrong.add(file.key)

    def _with_query(self, file: File, url: str, ask: Callable[[str], Result]) -> Result:
        """Return the result of `ask` for the link of `file`, of which only the redacted `url` is known.

        Where the page cannot be asked for it, the link without a query may do: not every query is a
        signature. Raises as `follow`.
        """
        try:
            newer = self._newer(file, url, None)
        except UpstreamError as trouble:
            if not file.has_digest:
                raise
            with contextlib.suppress(UpstreamError):
                return ask(without_query(url))
            raise trouble from None
        return ask(newer)

    def _instead_of_wrong(self, file: File, url: str) -> str:
        """Return another link of `file` than `url` where there is one. Raises FileNotListed."""
        self._wrong.discard(file.key)
        with contextlib.suppress(UpstreamError):
            return self._newer(file, url, None)
        return url

    def _newer(self, file: File, url: str, trouble: UpstreamError | None) -> str:
        """Return another link of `file` than `url`, which failed by `trouble` (None: not asked).

        Raises `trouble` where there is none, FileNotListed, or the error of the page.
        """
        main, suffix = _main(file)
        for known in self._known(file, main):
            if with_suffix(known, suffix) != url:
                return with_suffix(known, suffix)
        listed = self._listed_again(file, url, trouble)
        newer = with_suffix(listed.url, suffix)
        if newer == url and trouble is not None:
            raise trouble
        self._note(f"{file.directory}/{main}", listed)
        if newer != url and not is_redacted(url):
            log.info("%s: the link has moved, using the one that the page has now", file.key)
        return newer

    def _listed_again(self, file: File, url: str, trouble: UpstreamError | None) -> File:
        """Return the wheel or sdist of `file` on the page as it is now. Raises as `_newer`."""
        main, _ = _main(file)
        if isinstance(trouble, UpstreamUnreachable) and origin(url) == origin(self._root.base_url):
            # The page is at the same host.
            raise trouble
        try:
            page = self._page_again(self._project(file, main))
        except UpstreamError as error:
            if trouble is None or isinstance(trouble, UpstreamRefused):
                # Upstream may list the file elsewhere, so a status of the old link proves nothing.
                raise error from trouble
            raise trouble from error
        if page is None:
            raise trouble or UpstreamUnreachable(url, "the link of the file is not known", 1)
        listed = _same(page, file, main)
        if listed is None:
            raise FileNotListed(file.filename, "MISS") from trouble
        return listed

    def _note(self, key: str, listed: File) -> None:
        """Remember where the file of that key is now."""
        self._memory.note(key, listed.url)
        if listed.key != key:
            # Without a digest, clients go on with the URL that is made of the link of before.
            self._memory.note_directory(key, listed.directory)

    def _known(self, file: File, main: str) -> list[str]:
        """Return the links of the wheel or sdist `main` of `file` that other requests have found."""
        listed = self._catalog.file(file.directory, main, self._root.key)
        links = [self._memory.link(f"{file.directory}/{main}"), listed and listed.url]
        return [link for link in links if link and not is_redacted(link)]

    def _project(self, file: File, main: str) -> str:
        """Return the project whose page lists `file`, by the catalog or else by the filename."""
        found = self._catalog.project_of(file.directory, main)
        return found or next(iter(names.projects_of(main)), "")

    def _page_again(self, project: str) -> ProjectPage | None:
        """Return the page of `project` as upstream has it now; None where it has just been asked.

        The page is empty where upstream has no such project. Raises an UpstreamError.
        """
        return self._requests.run(project, for_client(lambda: self._asked_again(project)))

    def _asked_again(self, project: str) -> ProjectPage | None:
        since = self._clock() - self._asked_at.get(project, -INTERVAL)
        if 0 <= since < INTERVAL or not names.is_project_name(project):
            return None
        page = self._memory.page_of(project, lambda: self._revalidator.fetch(project).page)
        if len(self._asked_at) >= _MAX_PROJECTS:
            self._asked_at.clear()
        # Only now: after a failure, the next request asks again, as it does with an empty cache.
        self._asked_at[project] = self._clock()
        return page or ProjectPage(name=project)


def _main(file: File) -> tuple[str, str]:
    """Return the filename of the wheel or sdist that `file` is or belongs to, and the rest."""
    for suffix in (METADATA_SUFFIX, SIGNATURE_SUFFIX):
        if file.filename.endswith(suffix):
            return file.filename.removesuffix(suffix), suffix
    return file.filename, ""


def _same(page: ProjectPage, file: File, main: str) -> File | None:
    """Return the file on `page` that is `main` of the directory of `file`, by digest if it has one."""
    named = [each for each in page.files if each.filename == main]
    for each in named:
        if is_directory_of(file.directory, each):
            return each
    if digest_in(file.directory) is None:
        return next(iter(named), None)
    return next((each for each in page.files if is_directory_of(file.directory, each)), None)
