"""Rendered pages, ready to send, in each form and coding.

A page is rendered and compressed once per change, off the hub, and kept in memory up to a limit in
bytes, least recently used first to go. Beyond that, and for other processes, a stock keeps the large
ones. Its ETag is a digest of the very bytes that are sent, of their form and of their coding, so that
no two different responses ever share one.
"""

from __future__ import annotations

import gzip
import hashlib
import sys
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import quote

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

from gevent.lock import Semaphore
from gevent.pool import Group

from pytail.model import File, ProjectPage
from pytail.runtime.malloc import MallocTrimmer
from pytail.runtime.singleflight import SingleFlight
from pytail.runtime.threads import off_loop
from pytail.simple import html, json
from pytail.simple.negotiation import Coding, Form

#: Bytes of bodies kept in memory, where nothing else is said.
MEMORY_LIMIT = 64 * 1024 * 1024
#: Files of a page that takes memory worth giving back.
_MANY_FILES = 500
#: Files of a page that goes to the stock. One of 30 is made again in 0.6 ms, sooner than it is
#: written (0.9 ms); one of 100 in 1 to 2 ms, one of 5,000 in 100, and they come back in 0.2 and 2.
_WORTH_KEEPING = 100
#: Bytes that wait for being written at most; what comes on top is rendered again some day.
_MOST_UNWRITTEN = 32 * 1024 * 1024
#: Seconds that the writing of the last ones may take in the end.
_LAST_WRITES = 2.0
#: What keeping one body costs beyond its bytes, about.
_OVERHEAD = 1024
#: Of a page, zstd makes less at level 1 than at 3, in half the time.
_ZSTD_LEVEL, _GZIP_LEVEL = 1, 6


@dataclass(frozen=True, slots=True)
class RenderedPage:
    """A response body with what must be said of it."""

    data: bytes
    form: Form
    coding: Coding
    #: A strong validator, quoted.
    etag: str


class PageStock(Protocol):
    """Where bodies are kept beyond the memory, each by project, revision and variant."""

    def ready_page(self, project: str, revision: str, variant: str) -> tuple[str, bytes] | None:
        """The ETag and bytes that were kept, None when they are gone."""

    def store_ready_page(
        self, project: str, revision: str, variant: str, etag: str, data: bytes
    ) -> None:
        """Keep a body, if it can be."""


class RenderedPages:
    """The bodies of project pages and of the project list."""

    def __init__(
        self, memory_limit: int = MEMORY_LIMIT, stock: PageStock | None = None, flavour: str = ""
    ) -> None:
        """`memory_limit` is how many bytes the bodies kept in memory may take.

        `flavour` names what else than its revision decides on what a page says, where others with
        the same `stock` have it otherwise.
        """
        self._limit, self._size = memory_limit, 0
        self._stock, self._flavour = stock, flavour
        self._writers, self._turn, self._unwritten = Group(), Semaphore(), 0
        self._memory = MallocTrimmer()
        self._ready: OrderedDict[Hashable, RenderedPage] = OrderedDict()
        self._flights: SingleFlight[RenderedPage] = SingleFlight()

    def project(
        self,
        name: str,
        revision: str,
        load: Callable[[], ProjectPage],
        files: str,
        form: Form,
        coding: Coding,
    ) -> RenderedPage:
        """The body for the page of the project `name` that `load` gives, once for each `revision`.

        `files` is the relative URL of the files, from where the page is served, ending in a slash.
        """
        key = (name, revision, files, form, coding)
        body = self._ready.get(key)
        if body is not None:
            self._ready.move_to_end(key)
            return body

        def href(file: File) -> str:
            return files + quote(file.key)

        def make() -> RenderedPage:
            variant = f"{form.value} {coding.value} {files} {self._flavour}"
            if (kept := self._kept(name, revision, variant, form, coding)) is not None:
                return self._keep(key, kept)
            page, render = load(), html.render if form.is_html else json.render
            body = off_loop(lambda: _body(render(page, href), form, coding))
            if len(page.files) >= _MANY_FILES:
                self._memory.trim_soon()
            if len(page.files) >= _WORTH_KEEPING:
                self._keep_beyond(name, revision, variant, body)
            return self._keep(key, body)

        return self._flights.run(key, make)

    def projects(
        self, names: list[str], last_serial: int | None, form: Form, coding: Coding
    ) -> RenderedPage:
        """The body for the project list."""

        def make() -> RenderedPage:
            if form.is_html:
                return _body(html.render_projects(names), form, coding)
            return _body(json.render_projects(names, last_serial), form, coding)

        return off_loop(make)

    def close(self) -> None:
        """Finish the writes to the stock, if they do not take long."""
        self._writers.join(_LAST_WRITES)
        self._writers.kill()

    def _kept(
        self, name: str, revision: str, variant: str, form: Form, coding: Coding
    ) -> RenderedPage | None:
        """The body in the stock, None where there is none or it is damaged."""
        found = None if self._stock is None else self._stock.ready_page(name, revision, variant)
        if found is None:
            return None
        etag, data = found
        is_whole = off_loop(lambda: _etag(data, form, coding)) == etag
        return RenderedPage(data, form, coding, etag) if is_whole else None

    def _keep_beyond(self, name: str, revision: str, variant: str, body: RenderedPage) -> None:
        """Put `body` into the stock, one after the other, while its clients are answered."""
        stock, size = self._stock, len(body.data)
        if stock is None or self._unwritten + size > _MOST_UNWRITTEN:
            return

        def write() -> None:
            try:
                # What a client waits to have written comes between two of them.
                with self._turn:
                    stock.store_ready_page(name, revision, variant, body.etag, body.data)
            finally:
                self._unwritten -= size

        self._unwritten += size
        self._writers.spawn(write)

    def _keep(self, key: Hashable, body: RenderedPage) -> RenderedPage:
        cost = len(body.data) + _OVERHEAD
        if cost > self._limit:
            # It would not stay, and all others would go.
            return body
        self._ready[key] = body
        self._size += cost
        while self._size > self._limit:
            _, dropped = self._ready.popitem(last=False)
            self._size -= len(dropped.data) + _OVERHEAD
        return body


def _body(data: bytes, form: Form, coding: Coding) -> RenderedPage:
    if coding is Coding.ZSTD:
        data = zstd.compress(data, _ZSTD_LEVEL)
    elif coding is Coding.GZIP:
        # Without a time, the same page has the same bytes.
        data = gzip.compress(data, compresslevel=_GZIP_LEVEL, mtime=0)
    else:
        # orjson leaves as much memory behind its bytes as it once thought it might need.
        data = bytes(memoryview(data))
    return RenderedPage(data, form, coding, _etag(data, form, coding))


def _etag(data: bytes, form: Form, coding: Coding) -> str:
    digest = hashlib.sha256(f"{form.value} {coding.value} ".encode())
    digest.update(data)
    return f'"{digest.hexdigest()[:32]}"'
