"""Clients of an upstream index, as the cache puts them together."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pytail.cache.cache import Upstream
from pytail.telemetry.metrics import Metrics
from pytail.upstream.client import Client
from pytail.upstream.files import FileClient
from pytail.upstream.pages import FetchedPage, PageClient, PageState
from pytail.upstream.transport import Transport


def upstream_at(
    url: str,
    timeout: float = 5,
    *,
    clock: Callable[[], float] = time.monotonic,
    max_page_bytes: int = 64 * 1024 * 1024,
    environ: Mapping[str, str] = os.environ,
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


def fetched(upstream: Upstream, etag: str | None = None) -> FetchedPage | PageState:
    """Return the page of the project "demo"."""
    with upstream.pages.fetch("demo", etag) as page:
        return page
