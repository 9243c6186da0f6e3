"""Rendered pages, ready to send, in each form and content coding.

A page is rendered and compressed once per revision, outside the event loop. Memory stores the pages
used last, up to a limit in bytes. The catalog stores the large ones for other processes and for the
next start. An ETag is a digest of the bytes sent, their form and their coding, so that no two
different responses have the same ETag.
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

#: Default limit in bytes of the pages in memory.
MEMORY_LIMIT = 64 * 1024 * 1024
#: Files of a page from which rendering frees enough memory to return it to the system.
_MANY_FILES = 500
#: Files from which a page is stored in the catalog. Rendering a page of 30 files takes 0.6 ms, less
#: than the write (0.9 ms). 100 files take 1 to 2 ms and 5,000 files 100 ms; reading them back takes
#: 0.2 and 2 ms.
_MIN_STORED_FILES = 100
#: Maximum bytes that wait to be written; further pages are not stored.
_MAX_UNWRITTEN = 32 * 1024 * 1024
#: Seconds for the last writes before the end.
_LAST_WRITES = 2.0
#: Bytes of memory that one page takes beyond its body, about.
_OVERHEAD = 1024
#: At level 1, zstd makes pages smaller than at level 3, in half the time.
_ZSTD_LEVEL, _GZIP_LEVEL = 1, 6


@dataclass(frozen=True, slots=True)
class RenderedPage:
    """The body of a response with the values of its headers."""

    data: bytes
    form: Form
    coding: Coding
    #: A strong validator, quoted.
    etag: str


class PageStorage(Protocol):
    """Storage of rendered pages beyond the memory, by project, revision and variant."""

    def ready_page(self, project: str, revision: str, variant: str) -> tuple[str, bytes] | None:
        """Return the ETag and the bytes of a stored page, None where it is not stored."""

    def store_ready_page(
        self, project: str, revision: str, variant: str, etag: str, data: bytes
    ) -> None:
        """Store a page, or do nothing where the storage fails."""


class RenderedPages:
    """The rendered project pages and project list."""

    def __init__(
        self,
        memory_limit: int = MEMORY_LIMIT,
        storage: PageStorage | None = None,
        options: str = "",
    ) -> None:
        """`memory_limit` is in bytes.

        `options` names the settings that change a page without changing its revision. Processes
        with other settings may share the `storage`.
        """
        self._limit, self._size = memory_limit, 0
        self._storage, self._options = storage, options
        self._writers, self._write_lock, self._unwritten = Group(), Semaphore(), 0
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
        """Return the page of the project `name`, rendered once per `revision`.

        `load` returns the content. `files` is the URL of the files, relative to the page, with a
        slash at the end. Raises the errors of `load`.
        """
        key = (name, revision, files, form, coding)
        page = self._ready.get(key)
        if page is not None:
            self._ready.move_to_end(key)
            return page

        def href(file: File) -> str:
            return files + quote(file.key)

        def make() -> RenderedPage:
            variant = f"{form.value} {coding.value} {files} {self._options}"
            stored = self._stored(name, revision, variant, form, coding)
            if stored is not None:
                return self._add(key, stored)
            content, render = load(), html.render if form.is_html else json.render
            made = off_loop(lambda: _page(render(content, href), form, coding))
            if len(content.files) >= _MANY_FILES:
                self._memory.trim_soon()
            if len(content.files) >= _MIN_STORED_FILES:
                self._store_soon(name, revision, variant, made)
            return self._add(key, made)

        return self._flights.run(key, make)

    def projects(
        self, names: list[str], last_serial: int | None, form: Form, coding: Coding
    ) -> RenderedPage:
        """Return the project list of `names`."""

        def make() -> RenderedPage:
            if form.is_html:
                return _page(html.render_projects(names), form, coding)
            return _page(json.render_projects(names, last_serial), form, coding)

        return off_loop(make)

    def close(self) -> None:
        """Wait 2 seconds at most for the pending writes, then drop them."""
        self._writers.join(_LAST_WRITES)
        self._writers.kill()

    def _stored(
        self, name: str, revision: str, variant: str, form: Form, coding: Coding
    ) -> RenderedPage | None:
        """Return the page in the storage, None where it is not stored or damaged."""
        found = None if self._storage is None else self._storage.ready_page(name, revision, variant)
        if found is None:
            return None
        etag, data = found
        is_intact = off_loop(lambda: _etag(data, form, coding)) == etag
        return RenderedPage(data, form, coding, etag) if is_intact else None

    def _store_soon(self, name: str, revision: str, variant: str, page: RenderedPage) -> None:
        """Store `page` in a greenlet of its own, one page at a time."""
        storage, size = self._storage, len(page.data)
        if storage is None or self._unwritten + size > _MAX_UNWRITTEN:
            return

        def write() -> None:
            try:
                # One at a time: writes that a client waits for run between two of them.
                with self._write_lock:
                    storage.store_ready_page(name, revision, variant, page.etag, page.data)
            finally:
                self._unwritten -= size

        self._unwritten += size
        self._writers.spawn(write)

    def _add(self, key: Hashable, page: RenderedPage) -> RenderedPage:
        """Store `page` in memory, evict the least recently used pages, and return `page`."""
        cost = len(page.data) + _OVERHEAD
        if cost > self._limit:
            # This page alone would evict all others and then itself.
            return page
        self._ready[key] = page
        self._size += cost
        while self._size > self._limit:
            _, evicted = self._ready.popitem(last=False)
            self._size -= len(evicted.data) + _OVERHEAD
        return page


def _page(body: bytes, form: Form, coding: Coding) -> RenderedPage:
    if coding is Coding.ZSTD:
        body = zstd.compress(body, _ZSTD_LEVEL)
    elif coding is Coding.GZIP:
        # mtime=0: the same page has the same bytes, and so the same ETag.
        body = gzip.compress(body, compresslevel=_GZIP_LEVEL, mtime=0)
    else:
        # A copy: the bytes of orjson occupy the whole buffer that orjson allocated for them.
        body = bytes(memoryview(body))
    return RenderedPage(body, form, coding, _etag(body, form, coding))


def _etag(body: bytes, form: Form, coding: Coding) -> str:
    digest = hashlib.sha256(f"{form.value} {coding.value} ".encode())
    digest.update(body)
    return f'"{digest.hexdigest()[:32]}"'
