"""Filters: changes to a page before it is served."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

from pytail.cache.former_keys import is_stored
from pytail.model import File, ProjectPage
from pytail.runtime.threads import off_loop
from pytail.storage.store import Store


class PageFilter(Protocol):
    """A change to every page that is served."""

    @property
    def varies(self) -> bool:
        """Return whether one page can give another result at another time."""

    def apply(self, page: ProjectPage) -> ProjectPage:
        """Return `page` with the change."""


class StoredFilesOnly:
    """Lists only stored files, for `--offline`: no other file can be served without upstream."""

    varies = True

    def __init__(self, store: Store) -> None:
        self._store = store

    def apply(self, page: ProjectPage) -> ProjectPage:
        """Return `page` with its stored files."""

        def stored() -> tuple[File, ...]:
            return tuple(file for file in page.files if is_stored(self._store, file))

        return replace(page, files=off_loop(stored))


class PromisedCoreMetadata:
    """Promises core metadata for every wheel, for `--core-metadata-from-wheels`.

    Where upstream has none, pytail reads the metadata out of the wheel.
    """

    varies = False

    def apply(self, page: ProjectPage) -> ProjectPage:
        """Return `page` with core metadata promised for all wheels."""
        return replace(page, files=tuple(map(self.promise, page.files)))

    def promise(self, file: File) -> File:
        """Return `file`, with core metadata promised if it is a wheel.

        A wheel that is known to have no core metadata stays as it is.
        """
        if file.is_wheel and file.core_metadata is None:
            return replace(file, core_metadata=True)
        return file
