"""Clients of an upstream index, as the cache puts them together."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from pytail.cache.cache import Upstream
from pytail.model import PageVersion
from pytail.telemetry.metrics import Metrics
from pytail.upstream.client import Client
from pytail.upstream.files import FileClient
from pytail.upstream.pages import PageClient
from pytail.upstream.root import IndexRoot
from pytail.upstream.transport import Transport
from tests.support.fakeindex import WSGI, reply

#: The path of the page of the project "demo".
PAGE = "/simple/demo/"
#: An environment without proxies, certificates and netrc.
ENVIRON = {"HOME": "/nonexistent"}


def first_root(keys: Sequence[str]) -> str:
    """Remember the likeliest root, as a catalog with pages of it does."""
    return keys[0]


def upstream_at(
    url: str,
    timeout: float = 5,
    *,
    clock: Callable[[], float] = time.monotonic,
    max_page_bytes: int = 64 * 1024 * 1024,
    environ: Mapping[str, str] = ENVIRON,
    recall: Callable[[Sequence[str]], str | None] = lambda _: None,
    missing_statuses: Collection[int] = (404, 410),
    **options: Any,
) -> Upstream:
    """Return the clients of the index at `url`; `options` are those of `Transport`."""
    transport = Transport(url, timeout, environ, **options)
    client = Client(transport, Metrics(), clock=clock, missing_statuses=missing_statuses)
    pages = PageClient(client, IndexRoot(url, recall), max_page_bytes)
    return Upstream(client, pages, FileClient(client, max_page_bytes))


@contextlib.contextmanager
def following(url: str, timeout: float = 5, **options: Any) -> Iterator[Upstream]:
    """Let the block use the clients of `upstream_at`."""
    with contextlib.closing(upstream_at(url, timeout, **options)) as upstream:
        yield upstream


def fetched(upstream: Upstream, known: PageVersion | None = None, project: str = "demo") -> Any:
    """Return the page of `project`: a FetchedPage, an UnchangedPage or a PageState."""
    with upstream.pages.fetch(project, known) as page:
        return page


def json_page(*urls: str, **more: Any) -> bytes:
    """The body of a page of "demo" with files at `urls`."""
    files = [{"filename": url.rpartition("/")[2], "url": url, "hashes": {}} for url in urls]
    return json.dumps({"name": "demo", "files": files, **more}).encode()


def html_page(*urls: str) -> bytes:
    """The body of an HTML page with files at `urls`."""
    anchors = "".join(f'<a href="{url}">{url.rpartition("/")[2]}</a>' for url in urls)
    return f"<!DOCTYPE html><html><body>{anchors}</body></html>".encode()


def redirect(location: str, status: str = "302 Found") -> WSGI:
    """A response that redirects to `location`."""
    return reply(b"elsewhere", "text/plain", status, Location=location)
