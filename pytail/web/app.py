"""Puts the parts together: the routes, and the one table from error to status."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterable
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
from pytail.web.monitoring import ExpositionResource, HealthResource, StatusResource
from pytail.web.pages import MissingSlash, ProjectListResource, ProjectResource, RedirectResource
from pytail.web.rendered import RenderedPages

log = logging.getLogger("pytail.web")


class Application(falcon.App):  # type: ignore[type-arg]
    """The WSGI application; `close` frees what it holds."""

    __slots__ = ("_parts", "_watched")

    def __init__(self, settings: Settings, clock: Callable[[], float]) -> None:
        super().__init__(middleware=[CommonHeaders()])
        shorten_switch_interval()
        self._parts = contextlib.ExitStack()
        parts = Cache.of(settings, clock)
        self._parts.callback(parts.close)
        metrics, upstream, index = parts.metrics, parts.upstream, parts.index
        bounds, downloads = parts.bounds, parts.downloads
        self._watched = AccessRecording(super().__call__, logs.access, metrics.count_response)
        self._parts.callback(gevent.spawn(bounds.run).kill)
        flavour = "promising" if settings.core_metadata_from_wheels else ""
        pages = RenderedPages(settings.hot_cache_size, parts.catalog, flavour)
        self._parts.callback(pages.close)

        def look() -> None:
            metrics.set_breaker(is_open=upstream.client.is_circuit_open(upstream.pages.url))
            metrics.set_downloading(downloads.downloading)
            for kind, limiter in upstream.client.limiters.items():
                metrics.set_fetches(kind, under_way=limiter.in_progress, waiting=limiter.waiting)
            metrics.set_store(files=bounds.files, size=bounds.size, limit=bounds.limit)
            metrics.count_evictions(bounds.evicted, bounds.evicted_bytes)

        self._parts.callback(Heartbeat(metrics.observe_loop_delay, look).stop)
        if settings.stall_report_secs:
            self._parts.callback(StallReporter(settings.stall_report_secs).stop)
        self.add_route("/+health", HealthResource())
        self.add_route("/+status", StatusResource(metrics, upstream.pages.url))
        self.add_route("/+metrics", ExpositionResource(metrics))
        self.add_route("/", RedirectResource("simple/"))
        # The second is what users of devpi have configured; a link leads to the same files.
        for mount, files in (
            ("/simple", "../../root/pypi/+f/"),
            ("/root/pypi/+simple", "../../+f/"),
        ):
            self.add_route(mount, RedirectResource(f"{mount.rpartition('/')[2]}/"))
            self.add_route(f"{mount}/", ProjectListResource(index, pages))
            self.add_route(f"{mount}/{{project}}", MissingSlash())
            self.add_route(
                f"{mount}/{{project}}/",
                ProjectResource(
                    index,
                    pages,
                    files,
                    no_cache_interval=settings.no_cache_interval_secs,
                    max_age_interval=settings.max_age_interval_secs,
                ),
            )
        self.add_route(
            "/root/pypi/+f/{first}/{rest}/{filename}",
            FileResource(index, downloads, settings.accel_redirect),
        )
        self.add_sink(_no_route, "/")
        for kind in (Exception, falcon.HTTPError):
            self.add_error_handler(kind, on_error)

    def __call__(self, env: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """As WSGI has it (PEP 3333)."""
        return self._watched(env, start_response)

    def close(self) -> None:
        """Finish what is being written and close the catalog and the connections."""
        self._parts.close()


def create_app(settings: Settings, clock: Callable[[], float] = time.time) -> Application:
    """The application for `settings`; `clock` gives seconds since the epoch.

    Raises SettingError where the cache directory cannot be used.
    """
    return Application(settings, clock)


def _no_route(req: falcon.Request, resp: falcon.Response, **_: Any) -> None:
    if req.method not in METHODS:
        raise falcon.HTTPMethodNotAllowed([])
    raise falcon.HTTPNotFound(description=f"there is nothing at {req.path[:200]!r}; see /simple/")
