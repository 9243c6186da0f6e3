"""Fetches and parses the project pages of the upstream index."""

from __future__ import annotations

import contextlib
import enum
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass

from gevent.threadpool import ThreadPool
from urllib3 import BaseHTTPResponse

from pytail.errors import PageUnreadable, UpstreamGarbled
from pytail.model import ProjectPage
from pytail.runtime.threads import off_loop
from pytail.simple import fields, html, json
from pytail.upstream import decompress
from pytail.upstream.client import Client, discard, refusal
from pytail.upstream.headers import media_type
from pytail.urls import without_credentials

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


class PageState(enum.Enum):
    """A response to a request for a page that has no page."""

    #: The page still has the ETag of the request (304).
    UNCHANGED = "unchanged"
    #: Upstream has no such project (404, 410).
    MISSING = "missing"


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


class PageClient:
    """Fetches project pages of one index."""

    def __init__(
        self, client: Client, base_url: str, max_page_bytes: int = 64 * 1024 * 1024
    ) -> None:
        """`base_url` is the URL above ``/simple/``; `max_page_bytes` bounds a decoded page."""
        #: The URL above ``/simple/``, without credentials.
        self.url = without_credentials(base_url)
        self._client, self._max_page_bytes = client, max_page_bytes
        self._too_large = f"the page is over {max_page_bytes} bytes (--max-page-bytes)"
        # One thread, since the event loop waits for each thread that computes.
        self._parser = ThreadPool(1)

    def page_url(self, project: str) -> str:
        """Return the URL of the page of `project` (normalized)."""
        return f"{self.url}/simple/{project}/"

    @contextlib.contextmanager
    def fetch(self, project: str, etag: str | None = None) -> Iterator[FetchedPage | PageState]:
        """Fetch the page of `project` (normalized), conditionally where `etag` is given.

        The slot of the request lasts until the block ends. So where the block stores the page,
        a flood of invented names does not pile up pages to store. Raises an UpstreamError.
        """
        url = self.page_url(project)
        with self._client.slot(url, "page"):
            with self._client.attempt(url):
                fetched = self._fetch(project, url, etag)
            yield fetched

    def close(self) -> None:
        """Wait for the page that is being parsed, and end the thread."""
        self._parser.kill()

    def _fetch(self, project: str, url: str, etag: str | None) -> FetchedPage | PageState:
        headers = {"Accept": ACCEPT, "Accept-Encoding": "gzip, deflate"}
        if etag is not None:
            headers["If-None-Match"] = etag
        response, final_url = self._client.request(url, headers)
        try:
            if response.status in (404, 410):
                return PageState.MISSING
            if response.status == 304 and etag is not None:
                return PageState.UNCHANGED
            if response.status != 200:
                raise refusal(response, url)
            # The thread that parses decodes gzip too; other codings are not asked for.
            coding = response.headers.get("Content-Encoding", "").strip().lower()
            is_gzip = coding in decompress.GZIP
            data = self._client.read_body(
                response, final_url, self._max_page_bytes, decode=not is_gzip
            )
        finally:
            discard(response)
        if data is None:
            raise UpstreamGarbled(final_url, self._too_large)

        def parse() -> FetchedPage:
            body = decompress.gunzip(data, self._max_page_bytes) if is_gzip else data
            if body is None:
                raise PageUnreadable(self._too_large)
            return _fetched(response, body, final_url, project)

        is_small = len(data) <= (_SMALL_GZIP if is_gzip else _SMALL_PAGE)
        try:
            return parse() if is_small else off_loop(parse, self._parser)
        except PageUnreadable as error:
            raise UpstreamGarbled(final_url, str(error)) from error


def _fetched(response: BaseHTTPResponse, body: bytes, url: str, project: str) -> FetchedPage:
    page = _parsed(response, body, url, project)
    # Some indexes have one HTML listing for several projects, so the body alone is not enough.
    digest = hashlib.sha256(f"{project}\n{url}\n".encode())
    digest.update(body)
    is_blank = not page.files and _is_blank(body)
    return FetchedPage(page, response.headers.get("ETag"), digest.hexdigest(), is_blank)


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


def _is_blank(body: bytes) -> bool:
    return b"pypi:" not in body and not _TAG.sub(b"", body).strip()
