"""The index we follow; the only room that talks to another host.

Nothing from out there is trusted: redirects stay on http and https and never lead from https down
to http, bodies are bounded in size and time, only the types of the Simple API are parsed, and no
credentials stand in a message.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from email.message import Message
from pathlib import Path

from gevent.threadpool import ThreadPool
from urllib3 import BaseHTTPResponse
from urllib3.exceptions import DecodeError, HTTPError

from pytail import urls
from pytail.errors import (
    PageUnreadable,
    ProjectNotFound,
    UpstreamBusy,
    UpstreamCircuitOpen,
    UpstreamGarbled,
    UpstreamOffline,
    UpstreamRefused,
    UpstreamUnreachable,
    UpstreamWithoutRanges,
)
from pytail.model import ProjectPage
from pytail.runtime.threads import give_way, off_loop
from pytail.simple import fields, html, json
from pytail.telemetry.access import UpstreamWait, current_client
from pytail.telemetry.metrics import KINDS, Metrics
from pytail.upstream import circuit_breaker, decompress
from pytail.upstream.limiter import Limiter, LimiterFull
from pytail.upstream.transport import Transport
from pytail.urls import masked, origin, without_credentials

log = logging.getLogger("pytail.upstream")

#: JSON first: HTML loses size, upload-time and versions.
ACCEPT = (
    "application/vnd.pypi.simple.v1+json,"
    " application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.01"
)
_JSON = ("application/vnd.pypi.simple.v1+json", "application/json")
_HTML = ("application/vnd.pypi.simple.v1+html", "text/html")

#: Bytes of a page, as it is and by gzip, up to which reading it is too short to be worth a thread.
_SMALL_PAGE, _SMALL_PACKED = 16 * 1024, 2 * 1024
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})", re.ASCII)
_STRONG_ETAG = re.compile(r'"[\x21\x23-\x7e]*"')
_TAG = re.compile(rb"<[^>]*>")
_MOST_REDIRECTS = 5
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_PIECE = 64 * 1024
_FILE_PIECE = 256 * 1024
#: Bytes of a file up to which an upstream that sends it whole, when asked for a part, is listened to.
_SMALL_FILE = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class FetchedPage:
    """A page as upstream has it now."""

    page: ProjectPage
    #: The validator to revalidate it with, verbatim; None when upstream gave none.
    etag: str | None
    #: Changes whenever the page's content does: a digest of the bytes it came as.
    revision: str
    #: Whether it is HTML that says nothing, not even whose page it is.
    is_blank: bool = False


class UpstreamFile:
    """The body of a file on its way: raw bytes, never decoded."""

    def __init__(
        self,
        response: BaseHTTPResponse,
        url: str,
        metrics: Metrics,
        turn: contextlib.ExitStack | None = None,
    ) -> None:
        """`turn` ends with it."""
        self._response, self._url, self._metrics = response, masked(url), metrics
        self._turn = contextlib.ExitStack() if turn is None else turn
        #: Where in the file it begins and ends, in bytes; `stop` is None when upstream does not say.
        self.start, self.stop = 0, fields.serial(response.headers.get("Content-Length"))
        #: Bytes of the whole file; None when upstream does not say.
        self.size = self.stop
        if response.status == 206:
            match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
            first, last, size = map(int, match.groups()) if match else (-1, -1, 0)
            self.start, self.stop, self.size = first, last + 1, size
        etag = response.headers.get("ETag", "").strip()
        #: The strong validator to ask for the rest of the same file with; None when there is none.
        self.etag = etag if _STRONG_ETAG.fullmatch(etag) else None

    def read(self, size: int = _FILE_PIECE) -> bytes:
        """The bytes that have arrived, up to `size` or 256 KiB, waiting for the first.

        They are empty at the end.

        Raises UpstreamUnreachable when the connection breaks or falls silent.
        """
        try:
            return self._response.read1(min(size, _FILE_PIECE), decode_content=False)
        except (HTTPError, OSError) as error:
            self._metrics.count_upstream_error("cut")
            raise UpstreamUnreachable(self._url, _reason(error)) from error

    def close(self) -> None:
        """Drop the connection, unless the body was read to its end and it is in the pool again."""
        self._response.close()
        self._turn.close()


class Upstream:
    """An index to ask for pages and files."""

    def __init__(  # noqa: PLR0913
        self,
        base_url: str,
        timeout: float,
        clock: Callable[[], float] = time.monotonic,
        *,
        max_page_bytes: int = 64 * 1024 * 1024,
        max_page_fetches: int = 32,
        max_file_fetches: int = 64,
        offline: bool = False,
        ca: Path | None = None,
        client_cert: Path | None = None,
        environ: Mapping[str, str] = os.environ,
        metrics: Metrics | None = None,
    ) -> None:
        """`base_url` is the URL above ``/simple/``; `timeout` is for connecting and each read.

        A page is `max_page_bytes` at most, decompressed; `max_page_fetches` are fetched at the
        same time, `max_file_fetches` files, and as many parts of files. With `offline`, nothing is asked and
        everything raises UpstreamOffline. `ca`, `client_cert` and `environ` are as for Connections;
        `metrics` are told how it goes. Raises SettingError.
        """
        self._metrics = Metrics() if metrics is None else metrics
        self._base = without_credentials(base_url)
        self._timeout, self._clock = timeout, clock
        self._max_page_bytes = max_page_bytes
        self._is_offline, self._breakers = offline, circuit_breaker.CircuitBreakers(clock)
        #: By kind.
        self.fetches = {
            kind: Limiter(kind, most, self._metrics.count_turned_away)
            for kind, most in zip(KINDS, (max_page_fetches, *[max_file_fetches] * 2), strict=True)
        }
        self._connections = Transport(base_url, timeout, environ, ca=ca, client_cert=client_cert)
        # One page after the other: where many threads compute, the hub waits for each of them.
        self._reader = ThreadPool(1)

    @property
    def url(self) -> str:
        """The URL above ``/simple/`` without credentials."""
        return self._base

    @property
    def is_circuit_open(self) -> bool:
        """Whether it failed so often of late that it is not asked for a while."""
        return self._breakers.is_open(origin(self._base))

    @contextlib.contextmanager
    def slot(self, project: str) -> Iterator[None]:
        """A turn to ask for the page of `project` and to put away what comes, in the block.

        Raises UpstreamBusy where there is none in time, or what `page` would raise without asking.
        """
        with self._turn(self._page_url(project), "page"):
            yield

    def page(self, project: str, etag: str | None = None) -> FetchedPage | None:
        """The page of `project` (normalized), or None when it is still the one with `etag`.

        To be asked for in the block of a `turn`. Raises ProjectNotFound, or an UpstreamError.
        """
        url = self._page_url(project)
        headers = {"Accept": ACCEPT, "Accept-Encoding": "gzip, deflate"}
        if etag is not None:
            headers["If-None-Match"] = etag
        with self._attempt(url, None):
            return self._page(project, url, headers)

    def _page_url(self, project: str) -> str:
        return f"{self._base}/simple/{project}/"

    def _page(self, project: str, url: str, headers: Mapping[str, str]) -> FetchedPage | None:
        response, final_url = self._get(url, headers)
        try:
            if response.status in (404, 410):
                raise ProjectNotFound(project, self._base)
            if response.status == 304 and "If-None-Match" in headers:
                return None
            if response.status != 200:
                raise UpstreamRefused(masked(url), response.status, _retry_after(response))
            # gzip is undone with the rest, off the hub; others are not asked for.
            is_packed = (
                response.headers.get("Content-Encoding", "").strip().lower() in decompress.GZIP
            )
            data = self._body(response, final_url, decode=not is_packed)
        finally:
            _let_go(response)

        def read() -> FetchedPage:
            body = self._unpacked(data, final_url) if is_packed else data
            page = _parsed(response, body, final_url, project)
            # One body can be the page of several projects: an HTML listing may be one for all.
            digest = hashlib.sha256(f"{project}\n{final_url}\n".encode())
            digest.update(body)
            is_blank = not page.files and _is_blank(body)
            return FetchedPage(page, response.headers.get("ETag"), digest.hexdigest(), is_blank)

        is_small = len(data) <= (_SMALL_PACKED if is_packed else _SMALL_PAGE)
        try:
            return read() if is_small else off_loop(read, self._reader)
        except PageUnreadable as error:
            raise UpstreamGarbled(masked(final_url), str(error)) from error

    def _unpacked(self, data: bytes, url: str) -> bytes:
        body = decompress.gunzip(data, self._max_page_bytes)
        if body is None:
            raise self._too_large(url)
        return body

    def _too_large(self, url: str) -> UpstreamGarbled:
        reason = f"the page is over {self._max_page_bytes} bytes (--max-page-bytes)"
        return UpstreamGarbled(masked(url), reason)

    def file(
        self,
        url: str,
        start: int = 0,
        *,
        etag: str | None = None,
        size: int | None = None,
        kind: str = "file",
    ) -> UpstreamFile:
        """The file at `url`, byte for byte as it lies there; from `start` on where upstream can.

        Its `start` says where it begins: at the beginning when upstream cannot or no longer has the
        file with that strong `etag` and `size` (None: any). `kind` says among which fetches it takes
        its turn. Raises an UpstreamError.
        """
        if start:
            rest = self._rest(url, start, etag, kind)
            is_same = etag in (None, rest.etag) and size in (None, rest.size)
            if rest.stop == rest.size and (rest.start == 0 or (rest.start == start and is_same)):
                return rest
            rest.close()
        with self._attempt(url, kind) as turn:
            response, _ = self._get(url, {"Accept-Encoding": "identity"})
            return UpstreamFile(_successful(response, url), url, self._metrics, turn.pop_all())

    def range(self, url: str, start: int, stop: int, size: int) -> UpstreamFile:
        """Bytes of the file at `url` from `start` up to but not including `stop`, of `size` in all.

        Raises UpstreamWithoutRanges where upstream can only send the whole, or an UpstreamError.
        """
        headers = {"Accept-Encoding": "identity", "Range": f"bytes={start}-{stop - 1}"}
        with self._attempt(url, "part") as turn:
            response, _ = self._get(url, headers)
            if response.status != 206:
                _let_go(response)
                if response.status in (200, 416, 501):
                    raise UpstreamWithoutRanges(masked(url))
                raise UpstreamRefused(masked(url), response.status, _retry_after(response))
            part = UpstreamFile(response, url, self._metrics, turn.pop_all())
            if (part.start, part.stop, part.size) != (start, stop, size):
                part.close()
                raise UpstreamGarbled(masked(url), "answers with another range than asked for")
            return part

    def file_size(self, url: str) -> int | None:
        """The size in bytes of the file at `url`, None when unknown. Raises an UpstreamError."""
        headers = {"Accept-Encoding": "identity"}
        with UpstreamWait(), self._attempt(url):
            response, _ = self._get(url, headers, method="HEAD")
            if response.status in (405, 501):
                # The head of a GET says the same; its body is not waited for.
                _let_go(response)
                response, _ = self._get(url, headers)
            transfer = UpstreamFile(_successful(response, url), url, self._metrics)
        transfer.close()
        return transfer.size

    def read_range(self, url: str, start: int, stop: int, size: int) -> tuple[int, bytes]:
        """Bytes of the file at `url` from `start` up to but not including `stop`, of `size` in all.

        Returns where they start and the bytes: an upstream that does not answer ranges sends the
        whole, which is read if it is small. Raises an UpstreamError.
        """
        with self._attempt(url):
            return self._stretch(url, start, stop, size)

    def _stretch(self, url: str, start: int, stop: int, size: int) -> tuple[int, bytes]:
        headers = {"Accept-Encoding": "identity", "Range": f"bytes={start}-{stop - 1}"}
        response, _ = self._get(url, headers)
        try:
            wanted = f"bytes {start}-{stop - 1}/{size}"
            if response.status == 200 and size <= _SMALL_FILE:
                start, stop = 0, size
            elif response.status == 200:
                raise UpstreamWithoutRanges(masked(url))
            elif response.status != 206:
                raise UpstreamRefused(masked(url), response.status, _retry_after(response))
            elif response.headers.get("Content-Range", "").strip() != wanted:
                raise UpstreamGarbled(masked(url), "answers with another range than asked for")
            data = self._body(response, url, decode=False)
        finally:
            response.close()
        if len(data) != stop - start:
            raise UpstreamGarbled(masked(url), f"sent {len(data)} bytes, not {stop - start}")
        return start, data

    def _rest(self, url: str, start: int, etag: str | None, kind: str) -> UpstreamFile:
        """What upstream answers when asked for the bytes from `start` on: they, or the whole."""
        headers = {"Accept-Encoding": "identity", "Range": f"bytes={start}-"}
        if etag is not None:
            headers["If-Range"] = etag
        with self._attempt(url, kind) as turn:
            response, _ = self._get(url, headers)
            if response.status == 416:
                # It has a file that ends before: the whole is the answer.
                _let_go(response)
                response, _ = self._get(url, {"Accept-Encoding": "identity"})
            if response.status != 206:
                _successful(response, url)
            return UpstreamFile(response, url, self._metrics, turn.pop_all())

    def close(self) -> None:
        """Close the idle connections; a page that is being read is waited for."""
        self._connections.close()
        self._reader.kill()

    @contextlib.contextmanager
    def _attempt(self, url: str, kind: str | None = "page") -> Iterator[contextlib.ExitStack]:
        """Something asked of the host of `url` in the block; how it ends is the host's record.

        Its turn among those of its `kind` (None: it has one) ends with the block, unless it is taken
        along.
        """
        with (
            self._turn(url, kind) as turn,
            self._open_breaker(url),
            self._breakers.attempt(origin(url)) as attempt,
        ):
            try:
                yield turn
            except UpstreamRefused as error:
                attempt.is_failure = error.status >= 500 or error.status == 429
                if attempt.is_failure:
                    self._metrics.count_upstream_error("refused")
                attempt.retry_after = error.retry_after
                raise
            except UpstreamUnreachable:
                self._metrics.count_upstream_error("unreachable")
                raise
            except (ProjectNotFound, UpstreamGarbled) as error:
                if isinstance(error, UpstreamGarbled):
                    self._metrics.count_upstream_error("garbled")
                # Whatever it said, it is there.
                attempt.is_failure = False
                raise

    @contextlib.contextmanager
    def _open_breaker(self, url: str) -> Iterator[None]:
        """Say of an open breaker that upstream is left alone."""
        try:
            yield
        except circuit_breaker.CircuitOpen as rest:
            seconds = math.ceil(rest.seconds)
            reason = f"failed {rest.failures} times in a row; left alone for {seconds} seconds"
            raise UpstreamCircuitOpen(masked(url), reason, seconds) from None

    def _turn(self, url: str, kind: str | None) -> contextlib.ExitStack:
        if self._is_offline:
            raise UpstreamOffline(masked(url))
        turn = contextlib.ExitStack()
        if kind is None:
            return turn
        with self._open_breaker(url):
            # Nobody waits to be told that.
            self._breakers.require(origin(url))
        fetches, client = self.fetches[kind], current_client()
        try:
            fetches.acquire(client)
        except LimiterFull:
            raise UpstreamBusy(masked(url), fetches.limit) from None
        turn.callback(fetches.release, client)
        return turn

    def _get(
        self, url: str, headers: Mapping[str, str], method: str = "GET"
    ) -> tuple[BaseHTTPResponse, str]:
        """The response and the URL it came from, redirects followed."""
        for _ in range(_MOST_REDIRECTS + 1):
            response = self._request(method, url, headers)
            location = response.headers.get("Location")
            if response.status not in _REDIRECTS or not location:
                return response, url
            _let_go(response)
            target = urls.http_url(location, url)
            if target is None or (url.startswith("https:") and not target.startswith("https:")):
                raise UpstreamGarbled(masked(url), f"redirects to {masked(location)[:200]!r}")
            url = target
        raise UpstreamGarbled(masked(url), f"redirects more than {_MOST_REDIRECTS} times")

    def _request(self, method: str, url: str, headers: Mapping[str, str]) -> BaseHTTPResponse:
        started = self._clock()
        try:
            response = self._connections.request(method, url, headers)
        except (HTTPError, OSError) as error:
            raise UpstreamUnreachable(masked(url), _reason(error)) from error
        seconds = self._clock() - started
        self._metrics.observe_upstream(seconds)
        log.debug("%s %s: %d in %.0f ms", method, masked(url), response.status, seconds * 1000)
        return response

    def _body(self, response: BaseHTTPResponse, url: str, *, decode: bool = True) -> bytes:
        deadline = self._clock() + 4 * self._timeout
        pieces, size = [], 0
        try:
            # Not `read`, which waits for a whole piece, however slowly it comes.
            while piece := response.read1(_PIECE, decode_content=decode):
                pieces.append(piece)
                size += len(piece)
                # From a fast host there is always more, and reading it never waits.
                give_way()
                if size > self._max_page_bytes:
                    raise self._too_large(url)
                if self._clock() > deadline:
                    raise UpstreamUnreachable(masked(url), "the page does not come to an end")
        except DecodeError as error:
            raise UpstreamGarbled(masked(url), _reason(error)) from error
        except (HTTPError, OSError) as error:
            raise UpstreamUnreachable(masked(url), _reason(error)) from error
        return b"".join(pieces)


def _parsed(response: BaseHTTPResponse, body: bytes, url: str, project: str) -> ProjectPage:
    """The page that `body` is, by the head of its `response`. Raises PageUnreadable."""
    kind = Message()
    kind["Content-Type"] = response.headers.get("Content-Type", "none/none")
    if kind.get_content_type() in _JSON:
        page = json.parse(body, url, project)
    elif kind.get_content_type() in _HTML:
        page = html.parse(body, url, project, kind.get_content_charset())
    else:
        raise PageUnreadable(f"the type {kind['Content-Type'][:80]!r} is not a page's")
    serial = fields.serial(response.headers.get("X-PyPI-Last-Serial"))
    return page.with_serial(serial) if page.last_serial is None else page


def _successful(response: BaseHTTPResponse, url: str) -> BaseHTTPResponse:
    if response.status != 200:
        _let_go(response)
        raise UpstreamRefused(masked(url), response.status, _retry_after(response))
    return response


def _is_blank(body: bytes) -> bool:
    return b"pypi:" not in body and not _TAG.sub(b"", body).strip()


def _let_go(response: BaseHTTPResponse) -> None:
    # A short rest that has come is read, so that the connection can serve again; nothing else is
    # waited for.
    length = fields.serial(response.headers.get("Content-Length"))
    if response.status == 304 or (length is not None and length <= _PIECE):
        with contextlib.suppress(HTTPError, OSError):
            response.read1(_PIECE)
    response.close()


def _retry_after(response: BaseHTTPResponse) -> int | None:
    return fields.serial(response.headers.get("Retry-After", "").strip())


def _reason(error: BaseException) -> str:
    text = " ".join(masked(str(error)).split())
    return text[:300] or type(error).__name__
