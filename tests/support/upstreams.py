"""Clients of an upstream index, as the cache puts them together."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pytail.cache.cache import Upstream
from pytail.model import PageVersion
from pytail.telemetry.metrics import Metrics
from pytail.upstream.client import Client
from pytail.upstream.files import FileClient
from pytail.upstream.pages import PageClient
from pytail.upstream.transport import Transport
from tests.support.fakeindex import WSGI, reply

#: The path of the page of the project "demo".
PAGE = "/simple/demo/"
#: An environment without proxies, certificates and netrc.
ENVIRON = {"HOME": "/nonexistent"}


def upstream_at(
    url: str,
    timeout: float = 5,
    *,
    clock: Callable[[], float] = time.monotonic,
    max_page_bytes: int = 64 * 1024 * 1024,
    environ: Mapping[str, str] = ENVIRON,
    **options: Any,
) -> Upstream:
    """Return the clients of the index at `url`; `options` are those of `Transport`."""
    client = Client(Transport(url, timeout, environ, **options), Metrics(), clock=clock)
    pages = PageClient(client, url, max_page_bytes)
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
