"""Fetches and parses the project pages of the upstream index, and the beginning of its project list."""

from __future__ import annotations

import contextlib
import enum
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from gevent.threadpool import ThreadPool
from urllib3 import BaseHTTPResponse

from pytail.errors import NoProjectPage, PageUnreadable, UpstreamGarbled
from pytail.model import ProjectPage
from pytail.runtime.threads import off_loop
from pytail.simple import fields, html, json
from pytail.simple.listing import ProjectList, project_list
from pytail.upstream import decompress
from pytail.upstream.client import Client, Exchange, discard
from pytail.upstream.finder import RootFinder, root_by_lists
from pytail.upstream.headers import media_type
from pytail.upstream.root import IndexRoot, Root
from pytail.urls import masked

#: JSON first: HTML lacks size, upload-time and versions.
ACCEPT = (
    "application/vnd.pypi.simple.v1+json,"
    " application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.01"
)
_JSON = ("application/vnd.pypi.simple.v1+json", "application/json")
_HTML = ("application/vnd.pypi.simple.v1+html", "text/html")
#: Bytes of a page, plain and by gzip, up to which parsing it in a thread costs more than it saves.
_SMALL_PAGE, _SMALL_GZIP = 16 * 1024, 2 * 1024
_TAG = re.compile(rb"<[^>]*>")
#: Links for each file on a page of an index: also to core metadata, signature and checksum. Pages for
#: people that list files have more.
_MAX_LINKS = 4
#: Bytes of a project list that are read at least: some lists have tens of megabytes.
_LIST_START = 8 * 1024
#: Media types that only the Simple API has (PEP 691).
_OWN_TYPES = (_JSON[0], _HTML[0])


class PageState(enum.Enum):
    """A response to a request for a page that has no page."""

    #: The page still has the ETag of the request (304).
    UNCHANGED = "unchanged"
    #: Upstream has no such project (--missing-statuses, or a list of directories).
    MISSING = "missing"

    @property
    def is_proof(self) -> bool:
        """Whether only an index sends such a response: no."""
        return False


@dataclass(frozen=True, slots=True)
class FetchedPage:
    """A page as upstream sent it."""

    page: ProjectPage
    #: The validator to revalidate the page with, verbatim; None where upstream sent none.
    etag: str | None
    #: SHA-256 of project, URL and body, in hex: the content is the same where this is.
    revision: str
    #: Whether the page is HTML without files and without text.
    is_blank: bool = False
    #: Whether only an index sends such a page: not an empty one, nor one for people.
    is_proof: bool = True


class PageClient:
    """Fetches project pages of one index."""

    def __init__(
        self, client: Client, root: IndexRoot, max_page_bytes: int = 64 * 1024 * 1024
    ) -> None:
        """`root` is found by the first pages; `max_page_bytes` bounds a decoded page."""
        self.root = root
        self._client, self._max_page_bytes = client, max_page_bytes
        self._finder: RootFinder[FetchedPage | PageState] = RootFinder(root)
        self._too_large = f"the page is over {max_page_bytes} bytes (--max-page-bytes)"
        # One thread, since the event loop waits for each thread that computes.
        self._parser = ThreadPool(1)

    def page_url(self, project: str) -> str:
        """Return the URL of the page of `project` (normalized), the likeliest while no root is found."""
        return self.root.likeliest.page_url(project)

    @contextlib.contextmanager
    def fetch(self, project: str, etag: str | None = None) -> Iterator[FetchedPage | PageState]:
        """Fetch the page of `project` (normalized), conditionally where `etag` is given.

        The slot of the request lasts until the block ends. So where the block stores the page,
        a flood of invented names does not pile up pages to store. Raises an UpstreamError.
        """
        with self._client.exchange(self.page_url(project), "page") as exchange:
            # Not before, because the root may be found while this request waits for its slot.
            root = self.root.known
            with self._client.attempt(exchange):
                if root is None:
                    fetched = self._find(exchange, project)
                else:
                    fetched = self._ask(exchange, root, project, etag)
            yield fetched

    def require(self, project: str) -> None:
        """Raise UpstreamCircuitOpen where upstream may not be asked for `project` now."""
        self._client.require(self.page_url(project))

    def is_lost(self, project: str, age: float) -> bool:
        """Return whether a request for `project`, sent `age` seconds ago, is to be sent once more.

        See `CircuitBreakers.is_lost`.
        """
        return self._client.is_lost(self.page_url(project), age)

    def close(self) -> None:
        """Wait for the page that is being parsed, and end the thread."""
        self._parser.kill()

    def _ask(
        self, exchange: Exchange, root: Root, project: str, etag: str | None = None
    ) -> FetchedPage | PageState:
        """Return the page of `project` below `root`. Raises an UpstreamError."""
        url = root.page_url(project)
        headers = {"Accept": ACCEPT, "Accept-Encoding": "gzip, deflate"}
        if etag is not None:
            headers["If-None-Match"] = etag
        response, final_url = self._client.request(exchange, url, headers)
        try:
            if response.status in self._client.missing_statuses:
                return PageState.MISSING
            if response.status == 304 and etag is not None:
                return PageState.UNCHANGED
            if response.status != 200:
                raise self._client.refusal(response, url)
            # The thread that parses decodes gzip too; other codings are not asked for.
            coding = response.headers.get("Content-Encoding", "").strip().lower()
            is_gzip = coding in decompress.GZIP
            data = self._client.read_body(
                exchange, response, final_url, self._max_page_bytes, decode=not is_gzip
            )
        finally:
            discard(response)
        if data is None:
            raise UpstreamGarbled(masked(final_url), self._too_large)

        def parse() -> FetchedPage:
            body = decompress.gunzip(data, self._max_page_bytes) if is_gzip else data
            if body is None:
                raise PageUnreadable(self._too_large)
            return _fetched(response, body, final_url, project)

        is_small = len(data) <= (_SMALL_GZIP if is_gzip else _SMALL_PAGE)
        try:
            return parse() if is_small else off_loop(parse, self._parser)
        except NoProjectPage:
            return PageState.MISSING
        except PageUnreadable as error:
            raise UpstreamGarbled(masked(final_url), str(error)) from error

    def _find(self, exchange: Exchange, project: str) -> FetchedPage | PageState:
        """Return the page of `project`, and find the root by that. Raises an UpstreamError."""
        ask, ask_for_list = partial(self._ask, exchange), partial(self._list, exchange)
        return self._finder.first(
            lambda root: ask(root, project),
            lambda: root_by_lists(self.root.candidates, ask, ask_for_list),
            exchange.wait,
        )

    def _list(self, exchange: Exchange, root: Root) -> ProjectList | None:
        """Return the beginning of the list of projects at `root`; None where there is no list.

        Raises an UpstreamError where the host fails.
        """
        headers = {"Accept": ACCEPT, "Accept-Encoding": "identity"}
        response, final_url = self._client.request(exchange, root.url, headers)
        try:
            if response.status >= 500 or response.status == 429:
                raise self._client.refusal(response, root.url)
            kind, _ = media_type(response.headers)
            if response.status != 200 or kind not in _JSON + _HTML:
                return None
            start = self._client.read_start(exchange, response, final_url, _LIST_START, decode=True)
        finally:
            discard(response)
        return project_list(start, final_url, kind)


def _fetched(response: BaseHTTPResponse, body: bytes, url: str, project: str) -> FetchedPage:
    page = _parsed(response, body, url, project)
    # Some indexes have one HTML listing for several projects, so the body alone is not enough.
    digest = hashlib.sha256(f"{project}\n{url}\n".encode())
    digest.update(body)
    etag, is_blank = response.headers.get("ETag"), not page.files and _is_blank(body)
    is_proof = _is_proof(response, body, page)
    return FetchedPage(page, etag, digest.hexdigest(), is_blank, is_proof)


def _parsed(response: BaseHTTPResponse, body: bytes, url: str, project: str) -> ProjectPage:
    """Return the page in `body`, parsed by its media type. Raises PageUnreadable."""
    kind, charset = media_type(response.headers)
    if kind in _JSON:
        page = json.parse(body, url, project)
    elif kind in _HTML:
        page = html.parse(body, url, project, charset)
    else:
        shown = response.headers.get("Content-Type", "none/none")
        raise PageUnreadable(f"the media type {shown[:80]!r} is not of the Simple API")
    serial = fields.serial(response.headers.get("X-PyPI-Last-Serial"))
    return page.with_serial(serial) if page.last_serial is None else page


def _is_proof(response: BaseHTTPResponse, body: bytes, page: ProjectPage) -> bool:
    kind, _ = media_type(response.headers)
    if kind in _OWN_TYPES or b"pypi:repository-version" in body:
        return True
    links = body.count(b"href") + body.count(b"HREF")
    return bool(page.files) and links <= _MAX_LINKS * len(page.files)


def _is_blank(body: bytes) -> bool:
    return b"pypi:" not in body and not _TAG.sub(b"", body).strip()
