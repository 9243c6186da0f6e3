"""The file that a URL means.

A URL below `+f/` has a directory, from the digest of the file, and a filename. Lock files record
such URLs, so they work with an empty cache too: then the page of the project is fetched. A URL made of
a digest or an address that the page gave earlier means the same file.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace

from pytail.cache.file_freshness import FileFreshness, Freshness
from pytail.cache.filters import PromisedCoreMetadata
from pytail.cache.index import REFRESH_INTERVAL, Index
from pytail.cache.links import LinkMemory
from pytail.errors import FileNotListed, ProjectNotFound, UpstreamError, UpstreamUnreachable
from pytail.model import (
    METADATA_SUFFIX,
    SIGNATURE_SUFFIX,
    File,
    Outcome,
    digest_in,
    is_directory,
    is_directory_of,
)
from pytail.simple import names
from pytail.storage.catalog import Catalog
from pytail.storage.store import Store
from pytail.upstream.root import IndexRoot


class FileLookup:
    """Finds files by their URLs, and tells their age in the store."""

    def __init__(
        self,
        index: Index,
        catalog: Catalog,
        store: Store,
        root: IndexRoot,
        clock: Callable[[], float] = time.time,
        promised: PromisedCoreMetadata | None = None,
        *,
        freshness: FileFreshness,
        moved: LinkMemory | None = None,
    ) -> None:
        """`root` is that of upstream; `clock` returns seconds since the epoch.

        Without `promised`, only upstream promises. `moved` has the directories of files whose links moved.
        """
        self._index, self._catalog, self._store = index, catalog, store
        self._root, self._clock, self._promised = root, clock, promised
        self._freshness, self._moved = freshness, LinkMemory() if moved is None else moved

    def file(self, directory: str, filename: str) -> File:
        """Return the file whose URL has that `directory` and `filename`.

        Where no page in the catalog lists the file, upstream is asked for the project that the
        filename names. Raises FileNotListed, or an UpstreamError where upstream fails.
        """
        if not is_directory(directory) or not names.is_filename(filename):
            raise FileNotListed(filename)
        return self._with_size(self._find(directory, filename))

    def stored_at(self, file: File) -> float | None:
        """Return when `file` was stored, in seconds since the epoch; None where it is not stored."""
        opened = self._store.open(file)
        if opened is None:
            return None
        with opened:
            return os.fstat(opened.fileno()).st_mtime

    def age(self, stored_at: float) -> float:
        """Return the seconds since `stored_at`, itself in seconds since the epoch."""
        return max(0.0, self._clock() - stored_at)

    def freshness(self, file: File, stored_at: float) -> Freshness:
        """Return how fresh a stored file without a digest is, that was stored at `stored_at`."""
        return self._freshness.of(file, stored_at)

    def still_stored(self, file: File, stored_at: float) -> Callable[[], bool] | None:
        """Return a function that tells whether `file` is still listed, stored and of equal age.

        Ages are compared in whole seconds. Return None for a file that the catalog does not list,
        such as core metadata, and for one without a digest, which gets stale.
        """
        directory, name, seconds = file.directory, file.filename, int(self.age(stored_at))
        catalog, store, key = self._catalog, self._store, self._root.key
        if not file.has_digest or catalog.recent_file(directory, name, key) != file:
            return None

        def is_same() -> bool:
            if int(self.age(stored_at)) != seconds or store.stored_at(file) != stored_at:
                return False
            listed = catalog.recent_file(directory, name, key)
            return listed is file or listed == file

        return is_same

    def _find(self, directory: str, filename: str) -> File:
        for suffix in (METADATA_SUFFIX, SIGNATURE_SUFFIX):
            if filename.endswith(suffix):
                return self._find_sidecar(directory, filename, suffix)
        return self._listed(directory, filename, filename)

    def _find_sidecar(self, directory: str, filename: str, suffix: str) -> File:
        """Return the core metadata or signature of the listed file `filename` belongs to."""
        listed = self._listed(directory, filename, filename.removesuffix(suffix))
        if self._promised is not None:
            listed = self._promised.promise(listed)
        sidecar = listed.metadata if suffix == METADATA_SUFFIX else listed.signature
        if suffix == METADATA_SUFFIX and listed.core_metadata is False:
            # The page no longer promises it, but the client may have an older one. A status of 404 would
            # be final for a fault that may be over.
            promised = replace(listed, core_metadata=True).metadata
            sidecar = None if promised is None else replace(promised, wheel=listed)
        if sidecar is not None:
            return sidecar
        if listed.filename == filename:
            return listed
        raise FileNotListed(filename)

    def _listed(self, directory: str, filename: str, main: str) -> File:
        """Return the file `main`, or `filename` where it is stored and no page lists `main`.

        `main` is the wheel or sdist that the sidecar `filename` belongs to, or `filename` itself.
        """
        present = self._moved.directory(f"{directory}/{main}")
        for each in (directory, present):
            listed = each and self._catalog.file(each, main, self._root.key)
            if listed:
                return listed
        projects = names.projects_of(main)
        entries = [self._catalog.entry(project) for project in projects]
        if any(entry is not None and entry.status == "quarantined" for entry in entries):
            raise FileNotListed(filename)
        unlisted = self._with_size(File(filename=filename, url="", directory=directory))
        is_stored = self._store.has(unlisted)
        if is_stored and digest_in(directory) is not None:
            return unlisted
        try:
            return self._search(directory, main, projects)
        except (FileNotListed, UpstreamError):
            # By its URL alone, the stored file may be another one than upstream has now.
            if is_stored:
                return unlisted
            raise

    def _search(self, directory: str, filename: str, projects: list[str]) -> File:
        """Return the file from the pages of `projects`, which are fetched where they are older."""
        failure, outcome = None, Outcome.HIT.value
        for project in projects:
            try:
                result = self._index.decide(project, REFRESH_INTERVAL)
                page = self._index.content(result)
            except ProjectNotFound as error:
                outcome = _later(outcome, error.outcome)
                continue
            except UpstreamError as error:
                failure = failure or error
                if isinstance(error, UpstreamUnreachable):
                    # A second wait for upstream is longer than clients wait.
                    break
                continue
            for file in page.files:
                if file.filename == filename and is_directory_of(directory, file):
                    return file
            # A stale page cannot tell that upstream does not list the file.
            failure = failure or result.error
            outcome = _later(outcome, result.outcome.value)
        raise failure or FileNotListed(filename, outcome)

    def _with_size(self, file: File) -> File:
        """Return `file` with the size of the stored file where the page does not say the size.

        The page may have the size of a version without a digest that upstream has replaced.
        """
        if not file.has_digest:
            check = self._freshness.last_check(file.key)
            return file if check is None else replace(file, size=None, verified_size=check.size)
        if file.size is not None:
            return file
        return replace(file, verified_size=self._catalog.verified_size(file.key))


def _later(outcome: str, then: str) -> str:
    """Return the outcome of two lookups: that of the later one, unless it is a hit."""
    return outcome if then == Outcome.HIT.value else then
