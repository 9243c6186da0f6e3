"""The cache: index, lookup and files, put together from the settings."""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import peewee

from pytail.cache.core_metadata import CoreMetadata
from pytail.cache.file_freshness import FileFreshness
from pytail.cache.files import Files
from pytail.cache.filters import PageFilter, PromisedCoreMetadata, StoredFilesOnly
from pytail.cache.freshness import PAGE_WAIT, FreshnessPolicy
from pytail.cache.index import Index
from pytail.cache.links import LinkMemory, Links
from pytail.cache.lookup import FileLookup
from pytail.cache.revalidate import Revalidator
from pytail.config.settings import Settings
from pytail.errors import Remedy, SettingError
from pytail.runtime import descriptors
from pytail.storage.catalog import Catalog
from pytail.storage.quota import Quota
from pytail.storage.store import Store
from pytail.telemetry.metrics import Metrics
from pytail.upstream.client import Client
from pytail.upstream.files import FileClient
from pytail.upstream.limiter import MOST_HANGING
from pytail.upstream.networks import any_network, network_of
from pytail.upstream.pages import PageClient
from pytail.upstream.root import IndexRoot
from pytail.upstream.transport import Transport

log = logging.getLogger("pytail.cache")

#: Descriptors for one fetch of each kind (a page, a file, a range), beside those of the clients: six,
#: with the connection to upstream, the partial file and its lock. They take half of all.
_DESCRIPTORS = 12


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
    """Everything that serves pages and files; to be closed."""

    metrics: Metrics
    upstream: Upstream
    store: Store
    catalog: Catalog
    quota: Quota
    index: Index
    lookup: FileLookup
    files: Files

    @classmethod
    def of(
        cls,
        settings: Settings,
        clock: Callable[[], float] = time.time,
        wait: float | None = None,
    ) -> Cache:
        """Return the cache for `settings`; `clock` returns seconds since the epoch.

        `wait` is in seconds, in place of ``--client-wait-secs``. Raises SettingError.
        """
        metrics = Metrics()

        def recall(keys: Sequence[str]) -> str | None:
            return catalog.first_known(keys)

        # First, because a refused setting of upstream leaves nothing open.
        upstream = upstream_of(settings, recall, metrics)
        store, catalog = open_storage(settings)
        quota = quota_of(settings, store, catalog, metrics)
        promised = PromisedCoreMetadata() if settings.core_metadata_from_wheels else None
        filters: list[PageFilter] = [] if promised is None else [promised]
        if settings.offline:
            filters.append(StoredFilesOnly(store))
        wait = settings.client_wait_secs if wait is None else wait
        policy = policy_of(settings, wait)
        pages, root = upstream.pages, upstream.pages.root
        memory = LinkMemory()
        revalidator = Revalidator(catalog, pages, policy, clock, memory.note_page)
        links = Links(memory, catalog, revalidator, root, clock)
        index = Index(catalog, revalidator, root, policy, clock, filters)
        freshness = FileFreshness(
            catalog, upstream.files, clock, ttl=policy.ttl, wait=policy.revalidate_wait, links=links
        )
        lookup = FileLookup(
            index, catalog, store, root, clock, promised, freshness=freshness, moved=memory
        )
        metadata = CoreMetadata(catalog, store, upstream.files, wait, links)
        files = Files(
            catalog, store, upstream.files, metadata, quota, wait, freshness=freshness, links=links
        )
        return cls(metrics, upstream, store, catalog, quota, index, lookup, files)

    def close(self) -> None:
        """Finish the writes to the catalog, and close it and the connections."""
        self.files.close()
        self.upstream.close()
        self.catalog.close()


def policy_of(settings: Settings, wait: float = PAGE_WAIT) -> FreshnessPolicy:
    """Return the policy of `settings`; `wait` is for pages of which nothing is cached."""
    return FreshnessPolicy(
        ttl=settings.project_cache_ttl_secs,
        missing_ttl=settings.missing_ttl_secs,
        revalidate_wait=settings.revalidate_wait_secs,
        max_stale=settings.max_stale_secs,
        wait=wait,
    )


def upstream_of(
    settings: Settings,
    recall: Callable[[Sequence[str]], str | None],
    metrics: Metrics | None = None,
) -> Upstream:
    """Return the clients of the upstream of `settings`; `recall` as for `IndexRoot`.

    Raises SettingError.
    """
    transport = Transport(
        settings.upstream_base_url,
        settings.request_timeout_secs,
        os.environ,
        ca=settings.upstream_ca,
        client_cert=settings.upstream_client_cert,
        classify=any_network if settings.allow_private_redirects else network_of,
    )
    most = max(1, descriptors.spare() // _DESCRIPTORS)
    if most < max(settings.max_page_fetches, settings.max_file_fetches):
        log.warning("the limit of open files permits %d fetches of pages, and of files", most)
    client = Client(
        transport,
        Metrics() if metrics is None else metrics,
        max_page_fetches=min(settings.max_page_fetches, most),
        max_file_fetches=min(settings.max_file_fetches, most),
        max_hanging=min(MOST_HANGING, most),
        missing_statuses=settings.missing_statuses,
        offline=settings.offline,
    )
    root = IndexRoot(settings.upstream_base_url, recall)
    pages = PageClient(client, root, settings.max_page_bytes)
    return Upstream(client, pages, FileClient(client, settings.max_page_bytes))


def upstream_key(settings: Settings, catalog: Catalog) -> str:
    """Return the name of the upstream of `settings` in the catalog."""
    return IndexRoot(settings.upstream_base_url, catalog.first_known).key


def quota_of(
    settings: Settings, store: Store, catalog: Catalog, metrics: Metrics | None = None
) -> Quota:
    """Return the quota of `settings`; `metrics` counts the errors of its background tasks."""
    uncounted: Callable[[str], None] = lambda _: None  # noqa: E731
    return Quota(
        settings.cache_dir,
        store,
        catalog,
        limit=settings.cache_max_size,
        min_free=settings.min_free,
        count_error=uncounted if metrics is None else metrics.count_background_error,
    )


def open_storage(settings: Settings) -> tuple[Store, Catalog]:
    """Open the cache directory, which is created where it is missing.

    A directory that cannot be written is used as it is. Raises SettingError where the directory
    cannot be created or read.
    """
    directory = settings.cache_dir
    try:
        directory.mkdir(parents=True, exist_ok=True)
        os.scandir(directory).close()
        store, catalog = Store(directory), Catalog(directory / "index.sqlite3")
    except (OSError, peewee.PeeweeException, sqlite3.Error) as error:
        remedy = Remedy.DIRECTORY_NOT_WRITABLE.format(reason=error)
        raise SettingError("cache directory", directory, remedy) from error
    if catalog.write_error is not None:
        log.warning(
            "cannot write the cache directory %s, serving what it has and remembering no pages: %s",
            directory,
            catalog.write_error,
        )
    return store, catalog
