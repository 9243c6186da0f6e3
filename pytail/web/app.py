"""The WSGI application: its parts, its background work and its routes."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import falcon
import gevent

from pytail.cache.cache import Cache
from pytail.config.settings import Settings
from pytail.runtime.loop import Heartbeat, StallReporter
from pytail.runtime.threads import shorten_switch_interval
from pytail.telemetry import logs
from pytail.web.errors import on_error
from pytail.web.files import FileResource
from pytail.web.middleware import METHODS, AccessRecording, CommonHeaders
from pytail.web.monitoring import (
    HealthResource,
    MetricsResource,
    StatusResource,
    sample_gauges,
)
from pytail.web.pages import (
    MissingSlashResource,
    ProjectListResource,
    ProjectResource,
    RedirectResource,
)
from pytail.web.rendered import RenderedPages

log = logging.getLogger("pytail.web")


class Application(falcon.App):  # type: ignore[type-arg]
    """The WSGI application. `close` ends the background work and frees all resources."""

    __slots__ = ("_closing", "_recording")

    def __init__(self, settings: Settings, clock: Callable[[], float]) -> None:
        super().__init__(middleware=[CommonHeaders()])
        shorten_switch_interval()
        self._closing = contextlib.ExitStack()
        cache = self._open_cache(settings, clock)
        pages = self._open_pages(settings, cache)
        self._recording = AccessRecording(
            super().__call__,
            logs.access,
            cache.metrics.count_response,
            trusted=settings.trusted_proxies,
        )
        self._start_background_work(settings, cache)
        self._add_routes(_routes(settings, cache, pages))
        self._add_error_handlers()

    def __call__(self, env: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Answer one request (PEP 3333)."""
        return self._recording(env, start_response)

    def close(self) -> None:
        """Stop the background work, finish pending writes, close the catalog and the connections."""
        self._closing.close()

    def _open_cache(self, settings: Settings, clock: Callable[[], float]) -> Cache:
        cache = Cache.of(settings, clock)
        self._closing.callback(cache.close)
        _warn_of_root(settings.cache_dir)
        return cache

    def _open_pages(self, settings: Settings, cache: Cache) -> RenderedPages:
        # Part of the key of a stored page: another value would render the page anew.
        options = "promising" if settings.core_metadata_from_wheels else ""
        pages = RenderedPages(settings.hot_cache_size, cache.catalog, options)
        self._closing.callback(pages.close)
        return pages

    def _start_background_work(self, settings: Settings, cache: Cache) -> None:
        self._closing.callback(gevent.spawn(cache.quota.run).kill)
        sample = functools.partial(sample_gauges, cache)
        self._closing.callback(Heartbeat(cache.metrics.observe_loop_delay, sample).stop)
        if settings.stall_report_secs:
            self._closing.callback(StallReporter(settings.stall_report_secs).stop)

    def _add_routes(self, routes: dict[str, object]) -> None:
        for path, resource in routes.items():
            self.add_route(path, resource)
        self.add_sink(_no_route, "/")

    def _add_error_handlers(self) -> None:
        for kind in (Exception, falcon.HTTPError):
            self.add_error_handler(kind, on_error)


def create_app(settings: Settings, clock: Callable[[], float] = time.time) -> Application:
    """Return the application for `settings`; `clock` returns seconds since the epoch.

    Raises SettingError where the cache directory cannot be used.
    """
    return Application(settings, clock)


def _warn_of_root(cache_dir: Path) -> None:
    """Log that root writes into the directory of another user, who may not use what root writes."""
    owner = cache_dir.stat().st_uid
    if os.geteuid() == 0 and owner != 0:
        log.warning("serving the cache directory %s of user %d as root", cache_dir, owner)


def _routes(settings: Settings, cache: Cache, pages: RenderedPages) -> dict[str, object]:
    """Return each URI template with its resource."""
    project_list = ProjectListResource(cache.index, pages)

    def project_page(files: str) -> ProjectResource:
        return ProjectResource(
            cache.index,
            pages,
            files,
            no_cache_interval=settings.no_cache_interval_secs,
            max_age_interval=settings.max_age_interval_secs,
        )

    return {
        "/+health": HealthResource(),
        "/+status": StatusResource(cache.metrics, cache.upstream.pages.root.base_url),
        "/+metrics": MetricsResource(cache.metrics),
        "/": RedirectResource("simple/"),
        "/simple": RedirectResource("simple/"),
        "/simple/": project_list,
        "/simple/{project}": MissingSlashResource(),
        "/simple/{project}/": project_page("../../root/pypi/+f/"),
        # The paths of devpi, for clients configured for devpi.
        "/root/pypi/+simple": RedirectResource("+simple/"),
        "/root/pypi/+simple/": project_list,
        "/root/pypi/+simple/{project}": MissingSlashResource(),
        "/root/pypi/+simple/{project}/": project_page("../../+f/"),
        "/root/pypi/+f/{first}/{rest}/{filename}": FileResource(
            cache.lookup, cache.files, settings.accel_redirect
        ),
    }


def _no_route(req: falcon.Request, resp: falcon.Response, **_: Any) -> None:
    if req.method not in METHODS:
        raise falcon.HTTPMethodNotAllowed([])
    raise falcon.HTTPNotFound(
        description=f"there is nothing at {req.path[:200]!r}: the project list is at /simple/,"
        " check the index URL of the client"
    )
