"""The parts that decide about pages and files, put together from the settings."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass

import peewee

from pytail import errors
from pytail.cache.core_metadata import CoreMetadata
from pytail.cache.files import Files
from pytail.cache.freshness import PATIENCE, FreshnessPolicy
from pytail.cache.index import Index
from pytail.config.settings import Settings
from pytail.storage.catalog import Catalog
from pytail.storage.quota import Quota
from pytail.storage.store import Store
from pytail.telemetry.metrics import Metrics
from pytail.upstream.client import Client
from pytail.upstream.files import FileClient
from pytail.upstream.pages import PageClient
from pytail.upstream.transport import Transport


@dataclass(frozen=True, slots=True)
class Upstream:
    """The clients of one upstream index; `close` frees them."""

    client: Client
    pages: PageClient
    files: FileClient

    def close(self) -> None:
        """Close the idle connections, and wait for the page that is being parsed."""
        self.client.close()
        self.pages.close()


@dataclass(frozen=True, slots=True)
class Cache:
    """What decides about pages and files, and what it works with; `close` frees it."""

    metrics: Metrics
    upstream: Upstream
    store: Store
    catalog: Catalog
    index: Index
    bounds: Quota
    downloads: Files

    @classmethod
    def of(
        cls, settings: Settings, clock: Callable[[], float] = time.time, patience: float = PATIENCE
    ) -> Cache:
        """Those for `settings`; `patience` is how many seconds are waited for an unknown page.

        Raises SettingError.
        """
        metrics = Metrics()
        upstream = upstream_of(settings, metrics)
        # After what can be refused without anything being open.
        store, catalog = open_storage(settings)
        index = Index(
            catalog,
            store,
            upstream.pages,
            policy_of(settings, patience),
            clock,
            offline=settings.offline,
            promises_metadata=settings.core_metadata_from_wheels,
        )
        bounds = quota_of(settings, store, catalog)
        metadata = CoreMetadata(catalog, store, upstream.files)
        downloads = Files(catalog, store, upstream.files, metadata, bounds)
        return cls(metrics, upstream, store, catalog, index, bounds, downloads)

    def close(self) -> None:
        """Finish what is being written and close the catalog and the connections."""
        self.upstream.close()
        self.catalog.close()


def policy_of(settings: Settings, wait: float = PATIENCE) -> FreshnessPolicy:
    """Return the freshness policy of `settings`; `wait` is for pages of which nothing is cached."""
    return FreshnessPolicy(
        ttl=settings.project_cache_ttl_secs,
        missing_ttl=settings.missing_ttl_secs,
        revalidate_wait=settings.revalidate_wait_secs,
        max_stale=settings.max_stale_secs,
        wait=wait,
    )


def upstream_of(settings: Settings, metrics: Metrics | None = None) -> Upstream:
    """Return the clients of the upstream of `settings`. Raises SettingError."""
    transport = Transport(
        settings.upstream_base_url,
        settings.request_timeout_secs,
        os.environ,
        ca=settings.upstream_ca,
        client_cert=settings.upstream_client_cert,
    )
    client = Client(
        transport,
        Metrics() if metrics is None else metrics,
        max_page_fetches=settings.max_page_fetches,
        max_file_fetches=settings.max_file_fetches,
        offline=settings.offline,
    )
    pages = PageClient(client, settings.upstream_base_url, settings.max_page_bytes)
    return Upstream(client, pages, FileClient(client, settings.max_page_bytes))


def quota_of(settings: Settings, store: Store, catalog: Catalog) -> Quota:
    """Return the limits that `settings` set."""
    return Quota(
        settings.cache_dir,
        store,
        catalog,
        limit=settings.cache_max_size,
        min_free=settings.min_free,
    )


def open_storage(settings: Settings) -> tuple[Store, Catalog]:
    """What the cache directory keeps; raises SettingError where it cannot be used."""
    directory = settings.cache_dir
    try:
        return Store(directory), Catalog(directory / "index.sqlite3")
    except (OSError, peewee.PeeweeException, sqlite3.Error) as error:
        remedy = f"cannot be written ({error}); name another directory or change its owner"
        raise errors.SettingError("cache directory", directory, remedy) from error
