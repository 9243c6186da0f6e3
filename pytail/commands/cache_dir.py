"""The cache directory as the commands see it, with or without a running server.

The store says which files are stored. The catalog says to which project a file belongs; the filename
says so where the catalog knows no page that lists the file. Files that any process reads or writes
are never removed.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pytail.cache.cache import open_storage, upstream_key
from pytail.commands.output import format_count, format_size, limit_log
from pytail.commands.owner import act_as_owner
from pytail.config.load import Configuration
from pytail.config.settings import Settings
from pytail.errors import Remedy, SettingError
from pytail.model import METADATA_SUFFIX, SIGNATURE_SUFFIX, directory_in, is_directory
from pytail.simple import names
from pytail.storage.catalog import Catalog
from pytail.storage.digests import hash_file
from pytail.storage.store import DiskFile, Store


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file in the store."""

    on_disk: DiskFile
    #: The directory part of the key.
    directory: str
    filename: str
    #: Normalized. The likeliest project by the filename where no page lists the file; "" where the
    #: filename names no project.
    project: str

    @property
    def key(self) -> str:
        """The path below ``+f/``."""
        return f"{self.directory}/{self.filename}"

    @property
    def distribution(self) -> str:
        """The filename of the wheel or sdist that this file is, or belongs to."""
        return distribution_of(self.filename)


@dataclass(slots=True)
class Removal:
    """The result of removing files."""

    files: int = 0
    bytes: int = 0
    #: Files that are in use, or that the file system does not let pytail remove.
    in_use: int = 0

    def __str__(self) -> str:
        in_use = f"; {self.in_use} in use or protected, not removed" if self.in_use else ""
        return f"{format_count(self.files, 'file')} removed, {format_size(self.bytes)}{in_use}"


class CacheDirectory:
    """The store and the catalog of one cache directory."""

    def __init__(self, directory: Path, store: Store, catalog: Catalog, upstream: str) -> None:
        """`upstream` is the name of upstream in the catalog, as in `Entry`."""
        self.directory, self.store, self.catalog = directory, store, catalog
        self.upstream = upstream

    def files(self) -> list[StoredFile]:
        """Return all stored files, ordered by project, filename and directory."""
        found = [
            self._stored_file(on_disk) for on_disk in self.store.files() if _has_key(on_disk.path)
        ]
        return sorted(found, key=lambda stored: (stored.project, stored.filename, stored.directory))

    def other_files(self) -> list[DiskFile]:
        """Return partial files, and files whose path is not a key."""
        return [on_disk for on_disk in self.store.files() if not _has_key(on_disk.path)]

    def remove(self, files: Iterable[DiskFile]) -> Removal:
        """Remove those of `files` that no process uses."""
        removal = Removal()
        for on_disk in files:
            if self.store.remove(on_disk.path):
                removal.files += 1
                removal.bytes += on_disk.size
            elif on_disk.path.exists():
                removal.in_use += 1
        return removal

    def _stored_file(self, on_disk: DiskFile) -> StoredFile:
        directory, filename = directory_in(on_disk.path), on_disk.path.name
        project = self.catalog.project_of(directory, distribution_of(filename))
        if project is None:
            project = next(iter(names.projects_of(distribution_of(filename))), "")
        return StoredFile(on_disk, directory, filename, project)


@contextlib.contextmanager
def open_cache_dir(
    configuration: Configuration, *, only_reads: bool = False
) -> Iterator[CacheDirectory]:
    """Open the cache directory of `configuration` until the block ends, as its owner.

    `only_reads` says that the command changes nothing. Raises SettingError where no server has used
    that directory, or where it cannot be opened.
    """
    settings = configuration.settings
    act_as_owner(settings.cache_dir, is_required=not only_reads)
    # The store makes this directory where it is missing. Opening a directory that was named by
    # mistake would leave files there.
    try:
        is_known = (settings.cache_dir / "+files").is_dir()
    except OSError as error:
        remedy = Remedy.DIRECTORY_NOT_WRITABLE.format(reason=error)
        raise SettingError("cache directory", settings.cache_dir, remedy) from error
    if not is_known:
        raise SettingError("cache directory", settings.cache_dir, Remedy.DIRECTORY_UNKNOWN)
    limit_log(configuration, logging.ERROR)
    store, catalog = open_storage(settings)
    with contextlib.closing(catalog):
        if not only_reads:
            require_writable(settings, catalog)
        upstream = upstream_key(settings, catalog)
        yield CacheDirectory(settings.cache_dir, store, catalog, upstream)


def require_writable(settings: Settings, catalog: Catalog) -> None:
    """Raise SettingError where `catalog` cannot be written."""
    if catalog.write_error is not None:
        remedy = Remedy.DIRECTORY_NOT_WRITABLE.format(reason=catalog.write_error)
        raise SettingError("cache directory", settings.cache_dir, remedy)


def current_size(on_disk: DiskFile) -> int | None:
    """Return the bytes in a file, None where the file was removed in the meantime."""
    try:
        return on_disk.path.stat().st_size
    except OSError:
        return None


def digest_of(path: Path, kind: str, advance: Callable[[int], object]) -> tuple[int, str]:
    """Return the bytes in the file at `path` and its digest, "" where no `kind` is given.

    `advance` is called with the size of each chunk. Raises OSError.
    """
    descriptor = _opened(path)
    try:
        return hash_file(descriptor, kind or None, advance)
    finally:
        os.close(descriptor)


def distribution_of(filename: str) -> str:
    """Return `filename` without the suffix of core metadata or of a signature."""
    return filename.removesuffix(METADATA_SUFFIX).removesuffix(SIGNATURE_SUFFIX)


def _has_key(path: Path) -> bool:
    """Whether the end of `path` is a key."""
    return is_directory(directory_in(path)) and names.is_filename(path.name)


def _opened(path: Path) -> int:
    # Eviction goes by the time of last access, which verifying a file must not change.
    with contextlib.suppress(PermissionError):
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NOATIME", 0))
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
