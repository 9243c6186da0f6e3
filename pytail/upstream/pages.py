"""Fetches and parses the project pages of the upstream index, and the beginning of its project list."""

from __future__ import annotations

import contextlib
import enum
import hashlib
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from gevent.threadpool import ThreadPool

from pytail.errors import NoProjectPage, PageUnreadable, UpstreamGarbled
from pytail.model import PageVersion, ProjectPage
from pytail.runtime.threads import off_loop
from pytail.simple import fields, html, json
from pytail.simple.listing import ProjectList, project_list
from pytail.upstream import decompress
from pytail.upstream.client import Client, Exchange, discard
from pytail.upstream.finder import RootFinder, root_by_lists
from pytail.upstream.headers import (
    content_length,
    is_chunked,
    media_type,
    strong_last_modified,
    validators,
)
from pytail.upstream.root import IndexRoot, Root

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
#: Without the signs that could end it earlier for a parser, as in ``<!-->``.
_COMMENT = re.compile(rb"<!--[^<>]*-->")
#: Comments at the end of a page that do not count. One is common, such as PyTorch's timestamp.
_MOST_COMMENTS = 10


class PageState(enum.Enum):
    """A response to a request for a page that says nothing of a page."""

    #: Upstream has no such project (--missing-statuses, or a list of directories).
    MISSING = "missing"

    @property
    def is_proof(self) -> bool:
        """Whether only an index sends such a response: no."""
        return False

    @property
    def has_files(self) -> bool:
        """Whether it is a page with files: no."""
        return False


@dataclass(frozen=True, slots=True)
class FetchedPage:
    """A page as upstream sent it."""

    page: ProjectPage
    version: PageVersion
    #: Whether the page is HTML without files and without text.
    is_blank: bool = False
    #: Whether only an index sends such a page: not an empty one, nor one for people.
    is_proof: bool = True

    @property
    def has_files(self) -> bool:
        """Whether it is a page with files."""
        return bool(self.page.files)


@dataclass(frozen=True, slots=True)
class UnchangedPage:
    """The page that is known already: upstream said so (304), or sent it again."""

    #: The known fingerprint, with the validators to revalidate the page with from now on.
    version: PageVersion
    #: Only an index has a page that is known.
    is_proof: bool = True
    has_files: bool = True


Fetched: TypeAlias = FetchedPage | UnchangedPage | PageState


class PageClient:
    """Fetches project pages of one index."""

    def __init__(
        self, client: Client, root: IndexRoot, max_page_bytes: int = 64 * 1024 * 1024
    ) -> None:
        """`root` is found by the first pages; `max_page_bytes` bounds a decoded page."""
        self.root = root
        self._client, self._max_page_bytes = client, max_page_bytes
        self._finder: RootFinder[Fetched] = RootFinder(root)
        self._too_large = f"the page is over {max_page_bytes} bytes (--max-page-bytes)"
        # One thread, since the event loop waits for each thread that computes.
        self._parser = ThreadPool(1)

    def page_url(self, project: str) -> str:
        """Return the URL of the page of `project` (normalized), the likeliest while no root is found."""
        return self.root.likeliest.page_url(project)

    @contextlib.contextmanager
    def fetch(self, project: str, known: PageVersion | None = None) -> Iterator[Fetched]:
        """Fetch the page of `project` (normalized), unless it is still the `known` version.

        The slot of the request lasts until the block ends. So where the block stores the page,
        a flood of invented names does not pile up pages to store. Raises an UpstreamError.
        """
        with self._client.exchange(self.page_url(project), "page") as exchange:
            # Not before, because the root may be found while this request waits for its slot.
            root = self.root.known
            with self._client.attempt(exchange):
                if root is None:
                    fetched = self._find(exchange, project, known)
                else:
                    fetched = self._ask(exchange, root, project, known)
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
        self, exchange: Exchange, root: Root, project: str, known: PageVersion | None = None
    ) -> Fetched:
        """Return the page of `project` below `root`. Raises an UpstreamError."""
        url, conditions = root.page_url(project), _conditions(known)
        headers = {"Accept": ACCEPT, "Accept-Encoding": "gzip, deflate", **conditions}
        response, final_url = self._client.request(exchange, url, headers)
        is_moved, data = final_url != url, None
        try:
            if response.status in self._client.missing_statuses:
                return PageState.MISSING
            if response.status == 304 and known is not None and conditions:
                if _is_about(known, response.headers, is_moved=is_moved):
                    return UnchangedPage(known)
            elif response.status != 200:
                raise self._client.refusal(response, url)
            else:
                # The thread that parses decodes gzip too; other codings are not asked for.
                decode = not _is_gzip(response.headers)
                data = self._client.read_body(
                    exchange, response, final_url, self._max_page_bytes, decode=decode
                )
                if data is None:
                    raise UpstreamGarbled(final_url, self._too_large)
        finally:
            discard(response)
        if data is None:
            assert known is not None, "only a conditional request is answered without a page"
            return self._ask(exchange, root, project, PageVersion(known.fingerprint))
        received = _Received(response.headers, data, final_url, project, root.is_named, is_moved)
        return self._read(received, known)

    def _read(self, received: _Received, known: PageVersion | None) -> Fetched:
        """Return the page that was received, unless it is the `known` one. Raises UpstreamGarbled."""
        is_gzip, data = _is_gzip(received.headers), received.data

        def read() -> FetchedPage | UnchangedPage:
            body = decompress.gunzip(data, self._max_page_bytes) if is_gzip else data
            if body is None:
                raise PageUnreadable(self._too_large)
            version = received.version(body)
            if known is not None and version.fingerprint == known.fingerprint:
                return UnchangedPage(version)
            page = received.parsed(body)
            is_blank, is_proof = not page.files and _is_blank(body), received.is_proof(body, page)
            return FetchedPage(page, version, is_blank, is_proof)

        is_small = len(data) <= (_SMALL_GZIP if is_gzip else _SMALL_PAGE)
        try:
            return read() if is_small else off_loop(read, self._parser)
        except NoProjectPage:
            return PageState.MISSING
        except PageUnreadable as error:
            raise UpstreamGarbled(received.url, str(error)) from error

    def _find(self, exchange: Exchange, project: str, known: PageVersion | None) -> Fetched:
        """Return the page of `project`, and find the root by that. Raises an UpstreamError."""
        likeliest = self.root.candidates[0]

        def ask(root: Root) -> Fetched:
            # Only the likeliest root stands for the object. Others may be paths that always fail.
            with contextlib.nullcontext() if root is likeliest else exchange.uncharged():
                return self._ask(exchange, root, project, known)

        def beside(root: Root) -> Fetched:
            # With a slot of its own, since the other one may be lent.
            with self._client.exchange(root.page_url(project), "page") as another:
                return self._ask(another, root, project, known)

        def search() -> Root | None:
            with exchange.uncharged():
                asks = partial(self._ask, exchange), partial(self._list, exchange)
                return root_by_lists(self.root.candidates, *asks)

        return self._finder.first(ask, beside, search, exchange.wait)

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


@dataclass(frozen=True, slots=True)
class _Received:
    """A response with a page of `project`, its body still compressed by gzip."""

    headers: Mapping[str, str]
    data: bytes
    #: After redirects.
    url: str
    project: str
    #: Whether it was requested below a root with a name that only roots have.
    is_of_named: bool
    #: Whether there were redirects.
    is_moved: bool

    def version(self, body: bytes) -> PageVersion:
        """Return the version of the page with that decoded `body`."""
        modified = None if self.is_moved else strong_last_modified(self.headers, time.time())
        return PageVersion(self._fingerprint(body), validators(self.headers).etag, modified)

    def _fingerprint(self, body: bytes) -> str:
        """Return a digest of all that `parsed` reads, without the comments at the end of `body`."""
        # Some indexes have one HTML listing for several projects, so the body alone is not enough.
        # The query may be a signature, which changes; no link is relative to it.
        sent = (self.headers.get(name, "") for name in ("Content-Type", "X-PyPI-Last-Serial"))
        parts = (self.project, self.url.partition("?")[0], *sent, "")
        digest = hashlib.sha256("\n".join(parts).encode("utf-8", "replace"))
        digest.update(memoryview(body)[: _end(body)])
        return digest.hexdigest()

    def parsed(self, body: bytes) -> ProjectPage:
        """Return the page in `body`, parsed by its media type. Raises PageUnreadable."""
        kind, charset = media_type(self.headers)
        if kind in _JSON:
            page = json.parse(body, self.url, self.project)
        elif kind in _HTML:
            page = html.parse(
                body, self.url, self.project, charset, is_delimited=self._is_delimited
            )
        else:
            shown = self.headers.get("Content-Type", "none/none")
            raise PageUnreadable(f"the media type {shown[:80]!r} is not of the Simple API")
        serial = fields.serial(self.headers.get("X-PyPI-Last-Serial"))
        return page.with_serial(serial) if page.last_serial is None else page

    def is_proof(self, body: bytes, page: ProjectPage) -> bool:
        """Return whether only an index sends that `body`, with that `page`."""
        kind, _ = media_type(self.headers)
        if kind in _OWN_TYPES or b"pypi:repository-version" in body:
            return True
        links = body.count(b"href") + body.count(b"HREF")
        return bool(page.files) and (self.is_of_named or links <= _MAX_LINKS * len(page.files))

    @property
    def _is_delimited(self) -> bool:
        """Whether not just the end of the connection marks the end of the body."""
        has_length = content_length(self.headers) is not None
        return has_length or is_chunked(self.headers) or _is_gzip(self.headers)


def _is_gzip(headers: Mapping[str, str]) -> bool:
    return headers.get("Content-Encoding", "").strip().lower() in decompress.GZIP


def _conditions(known: PageVersion | None) -> dict[str, str]:
    """Return the header of a conditional request by the best validator (RFC 9110, section 13)."""
    if known is not None and known.etag is not None:
        return {"If-None-Match": known.etag}
    if known is not None and known.last_modified is not None:
        return {"If-Modified-Since": known.last_modified}
    return {}


def _is_about(known: PageVersion, headers: Mapping[str, str], *, is_moved: bool) -> bool:
    """Return whether a 304 with `headers` is about the `known` page (RFC 9111, section 4.3.4).

    It is about another one where its validator is another: another form of the page, or another host.
    A date alone tells nothing of the host that a redirect led to.
    """
    found = validators(headers)
    if known.etag is not None:
        return found.etag is None or _weak(found.etag) == _weak(known.etag)
    return not is_moved and found.last_modified in (None, known.last_modified)


def _weak(etag: str) -> str:
    # A server may send one validator as weak with a 200 in gzip, and as strong with a 304.
    return etag.removeprefix("W/")


def _end(body: bytes) -> int:
    """Return where the spaces and comments at the end of `body` begin."""
    end = len(body.rstrip())
    for _ in range(_MOST_COMMENTS):
        start = body.rfind(b"<!--", 0, end)
        if start < 0 or not _COMMENT.fullmatch(body, start, end):
            break
        end = len(body[:start].rstrip())
    return end


def _is_blank(body: bytes) -> bool:
    return b"pypi:" not in body and not _TAG.sub(b"", body).strip()
