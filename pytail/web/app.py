"""Puts the parts together: the routes, and the one table from error to status."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterable
from typing import Any

import falcon
import gevent

from pytail.cache.cache import Parts
from pytail.config.settings import Settings
from pytail.runtime.loop import Pulse, Stalls
from pytail.runtime.threads import take_short_turns
from pytail.telemetry import logs
from pytail.web.errors import on_error
from pytail.web.files import DistributionFile
from pytail.web.middleware import METHODS, CommonHeaders, Watched
from pytail.web.monitoring import Exposition, Health, Status
from pytail.web.pages import Project, ProjectList, ProjectWithoutSlash, Redirect
from pytail.web.rendered import Pages

log = logging.getLogger("pytail.web")


class Application(falcon.App):  # type: ignore[type-arg]
    """The WSGI application; `close` frees what it holds."""

    __slots__ = ("_parts", "_watched")

    def __init__(self, settings: Settings, clock: Callable[[], float]) -> None:
        super().__init__(middleware=[CommonHeaders()])
        take_short_turns()
        self._parts = contextlib.ExitStack()
        parts = Parts.of(settings, clock)
        self._parts.callback(parts.close)
        metrics, upstream, index = parts.metrics, parts.upstream, parts.index
        bounds, downloads = parts.bounds, parts.downloads
        self._watched = Watched(super().__call__, logs.access, metrics.answered)
        self._parts.callback(gevent.spawn(bounds.run).kill)
        flavour = "promising" if settings.core_metadata_from_wheels else ""
        pages = Pages(settings.hot_cache_size, parts.catalog, flavour)
        self._parts.callback(pages.close)

        def look() -> None:
            metrics.breaker_is(is_open=upstream.is_left_alone)
            metrics.arriving_are(downloads.arriving)
            for kind, fetches in upstream.fetches.items():
                metrics.fetches_are(kind, under_way=fetches.under_way, waiting=fetches.waiting)
            metrics.store_is(files=bounds.files, size=bounds.size, limit=bounds.limit)
            metrics.evicted_are(bounds.evicted, bounds.evicted_bytes)

        self._parts.callback(Pulse(metrics.hub_was_late, look).stop)
        if settings.stall_report_secs:
            self._parts.callback(Stalls(settings.stall_report_secs).stop)
        self.add_route("/+health", Health())
        self.add_route("/+status", Status(metrics, upstream.url))
        self.add_route("/+metrics", Exposition(metrics))
        self.add_route("/", Redirect("simple/"))
        # The second is what users of devpi have configured; a link leads to the same files.
        for mount, files in (
            ("/simple", "../../root/pypi/+f/"),
            ("/root/pypi/+simple", "../../+f/"),
        ):
            self.add_route(mount, Redirect(f"{mount.rpartition('/')[2]}/"))
            self.add_route(f"{mount}/", ProjectList(index, pages))
            self.add_route(f"{mount}/{{project}}", ProjectWithoutSlash())
            self.add_route(
                f"{mount}/{{project}}/",
                Project(
                    index,
                    pages,
                    files,
                    no_cache_interval=settings.no_cache_interval_secs,
                    max_age_interval=settings.max_age_interval_secs,
                ),
            )
        self.add_route(
            "/root/pypi/+f/{first}/{rest}/{filename}",
            DistributionFile(index, downloads, settings.accel_redirect),
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
