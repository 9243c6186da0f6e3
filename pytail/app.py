"""Puts the parts together: the routes, and the one table from error to status."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import falcon
import gevent
import peewee

from pytail import errors, logs
from pytail.bounds import Bounds
from pytail.catalog import Catalog
from pytail.downloads import Downloads
from pytail.exchanges import Watched
from pytail.freshness import PATIENCE
from pytail.index import Index
from pytail.metadata import Metadata
from pytail.metrics import Metrics
from pytail.pages import Pages
from pytail.pulse import Pulse
from pytail.resources.common import ALLOW, METHODS, CommonHeaders
from pytail.resources.files import DistributionFile
from pytail.resources.pages import Project, ProjectList, ProjectWithoutSlash, Redirect
from pytail.resources.problems import send_problem
from pytail.resources.watching import Exposition, Health, Status
from pytail.settings import Settings
from pytail.stalls import Stalls
from pytail.store import Store
from pytail.threads import take_short_turns
from pytail.upstream import Upstream

log = logging.getLogger(__name__)

#: The most specific class decides. Never 504, which pip does not retry, nor 401, 403 and 410, on
#: which uv stops looking; and never 404 for trouble: another index could be asked instead.
STATUSES: dict[type[Exception], str] = {
    errors.ProjectNotFound: falcon.HTTP_404,
    errors.ProjectNameInvalid: falcon.HTTP_404,
    errors.FileNotListed: falcon.HTTP_404,
    errors.FileGone: falcon.HTTP_404,
    errors.NotAcceptable: falcon.HTTP_406,
    errors.UpstreamUnreachable: falcon.HTTP_503,
    errors.UpstreamOffline: falcon.HTTP_404,
    errors.UpstreamError: falcon.HTTP_502,
    errors.DigestMismatch: falcon.HTTP_502,
    errors.WheelUnreadable: falcon.HTTP_502,
    errors.TransferCut: falcon.HTTP_502,
}
#: Seconds; pip retries some statuses only when it is told after how long.
RETRY_AFTER = 5

_UPLOADS = "pytail is a read-only cache of another index: uploads are not offered here"


@dataclass(frozen=True, slots=True)
class Parts:
    """What decides about pages and files, and what it works with; `close` frees it."""

    metrics: Metrics
    upstream: Upstream
    store: Store
    catalog: Catalog
    index: Index
    bounds: Bounds
    downloads: Downloads

    @classmethod
    def of(
        cls, settings: Settings, clock: Callable[[], float] = time.time, patience: float = PATIENCE
    ) -> Parts:
        """Those for `settings`; `patience` is how many seconds are waited for an unknown page.

        Raises SettingError.
        """
        metrics = Metrics()
        upstream = Upstream.of(settings, metrics)
        # After what can be refused without anything being open.
        store, catalog = opened(settings)
        index = Index(catalog, store, upstream, settings, clock, patience=patience)
        bounds = Bounds.of(settings, store, catalog)
        metadata = Metadata(catalog, store, upstream)
        downloads = Downloads(catalog, store, upstream, metadata, bounds)
        return cls(metrics, upstream, store, catalog, index, bounds, downloads)

    def close(self) -> None:
        """Finish what is being written and close the catalog and the connections."""
        self.upstream.close()
        self.catalog.close()


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
        self.add_route("/+status", Status(metrics, upstream))
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
            self.add_route(f"{mount}/{{project}}/", Project(index, pages, files, settings))
        self.add_route(
            "/root/pypi/+f/{first}/{rest}/{filename}",
            DistributionFile(index, downloads, settings.accel_redirect),
        )
        self.add_sink(_no_route, "/")
        for kind in (Exception, falcon.HTTPError):
            self.add_error_handler(kind, _on_error)

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


def opened(settings: Settings) -> tuple[Store, Catalog]:
    """What the cache directory keeps; raises SettingError where it cannot be used."""
    directory = settings.cache_dir
    try:
        return Store(directory), Catalog(directory / "index.sqlite3")
    except (OSError, peewee.PeeweeException, sqlite3.Error) as error:
        remedy = f"cannot be written ({error}); name another directory or change its owner"
        raise errors.SettingError("cache directory", directory, remedy) from error


def _no_route(req: falcon.Request, resp: falcon.Response, **_: Any) -> None:
    if req.method not in METHODS:
        raise falcon.HTTPMethodNotAllowed([])
    raise falcon.HTTPNotFound(description=f"there is nothing at {req.path[:200]!r}; see /simple/")


def _on_error(req: falcon.Request, resp: falcon.Response, error: Exception, params: Any) -> None:
    if isinstance(error, falcon.HTTPError):
        resp.set_headers(error.headers or {})
        description = error.description or ""
        if isinstance(error, falcon.HTTPMethodNotAllowed):
            resp.set_header("Allow", ALLOW)
            description = _UPLOADS
        send_problem(req, resp, str(error.status), description)
        return
    status = next((STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES), None)
    if status is None:
        log.error("%s %s failed", req.method, req.path, exc_info=error)
        send_problem(req, resp, falcon.HTTP_500, "pytail has a fault; its log says more")
        return
    retry_after = getattr(error, "retry_after", None)
    if isinstance(error, errors.UpstreamRefused) and error.status == 429:
        status = falcon.HTTP_503
    advice = "; a copy is served where there is one, try again" if status > "500" else ""
    send_problem(req, resp, status, f"{error}{advice}")
    if isinstance(error, errors.PytailError):
        resp.set_header("X-Cache", error.outcome)
    if isinstance(error, errors.ProjectNotFound):
        resp.set_header("Age", str(int(error.age)))
    if status == falcon.HTTP_503:
        resp.set_header("Retry-After", str(retry_after or RETRY_AFTER))
