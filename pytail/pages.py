"""Rendered pages, ready to send, in each form and coding.

A page is rendered and compressed once per change, off the hub, and kept in memory up to a limit in
bytes, least recently used first to go. Its ETag is a digest of the very bytes that are sent, of
their form and of their coding, so that no two different responses ever share one.
"""

from __future__ import annotations

import gzip
import hashlib
import sys
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from urllib.parse import quote

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

from pytail.memory import Memory
from pytail.model import File, ProjectPage
from pytail.simple import html, json
from pytail.simple.negotiation import Coding, Form
from pytail.singleflight import SingleFlight
from pytail.threads import off_hub

#: Bytes of bodies kept in memory, where nothing else is said.
MEMORY_LIMIT = 64 * 1024 * 1024
#: Files of a page that takes memory worth giving back.
_MANY_FILES = 500
#: What keeping one body costs beyond its bytes, about.
_OVERHEAD = 1024
_ZSTD_LEVEL, _GZIP_LEVEL = 3, 6


@dataclass(frozen=True, slots=True)
class Body:
    """A response body with what must be said of it."""

    data: bytes
    form: Form
    coding: Coding
    #: A strong validator, quoted.
    etag: str


class Pages:
    """The bodies of project pages and of the project list."""

    def __init__(self, memory_limit: int = MEMORY_LIMIT) -> None:
        """`memory_limit` is how many bytes the bodies kept may take."""
        self._limit, self._size = memory_limit, 0
        self._memory = Memory()
        self._ready: OrderedDict[Hashable, Body] = OrderedDict()
        self._flights: SingleFlight[Body] = SingleFlight()

    def project(
        self, revision: str, load: Callable[[], ProjectPage], files: str, form: Form, coding: Coding
    ) -> Body:
        """The body for the page that `load` gives, once for each `revision`.

        `files` is the relative URL of the files, from where the page is served, ending in a slash.
        """
        key = (revision, files, form, coding)
        body = self._ready.get(key)
        if body is not None:
            self._ready.move_to_end(key)
            return body

        def href(file: File) -> str:
            return files + quote(file.location)

        def make() -> Body:
            page, render = load(), html.render if form.is_html else json.render
            body = off_hub(lambda: _body(render(page, href), form, coding))
            if len(page.files) >= _MANY_FILES:
                self._memory.give_back_soon()
            return self._keep(key, body)

        return self._flights.run(key, make)

    def projects(
        self, names: list[str], last_serial: int | None, form: Form, coding: Coding
    ) -> Body:
        """The body for the project list."""

        def make() -> Body:
            if form.is_html:
                return _body(html.render_projects(names), form, coding)
            return _body(json.render_projects(names, last_serial), form, coding)

        return off_hub(make)

    def _keep(self, key: Hashable, body: Body) -> Body:
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


def _body(data: bytes, form: Form, coding: Coding) -> Body:
    if coding is Coding.ZSTD:
        data = zstd.compress(data, _ZSTD_LEVEL)
    elif coding is Coding.GZIP:
        # Without a time, the same page has the same bytes.
        data = gzip.compress(data, compresslevel=_GZIP_LEVEL, mtime=0)
    digest = hashlib.sha256(f"{form.value} {coding.value} ".encode() + data).hexdigest()
    return Body(data, form, coding, f'"{digest[:32]}"')
