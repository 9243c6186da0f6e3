"""What a cache directory holds, as the commands see it, whether a server runs on it or not.

The disk tells which files are held; the catalog tells their projects, and where no page is known any
more, the filenames do. What any process reads or writes at that moment is left in place.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import click

from pytail.cache.cache import open_storage
from pytail.config.load import Configuration
from pytail.errors import Remedy, SettingError
from pytail.model import METADATA_SUFFIX, SIGNATURE_SUFFIX
from pytail.simple import names
from pytail.storage.catalog import Catalog
from pytail.storage.store import DiskFile, Store, is_directory
from pytail.urls import without_credentials

_PIECE = 1024 * 1024
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One held file."""

    on_disk: DiskFile
    #: The directory below ``+f``, as in URLs.
    directory: str
    filename: str
    #: Normalized; the likeliest where no page lists the file; "" where nothing tells.
    project: str

    @property
    def main(self) -> str:
        """The name of the file that it lies beside, or its own."""
        return distribution_of(self.filename)


@dataclass(slots=True)
class Removal:
    """What became of files that were to be removed."""

    files: int = 0
    bytes: int = 0
    #: Files in use, or that the file system does not let go.
    left: int = 0

    def __str__(self) -> str:
        left = f"; {self.left} in use or protected stay" if self.left else ""
        return f"{counted(self.files, 'file')} removed, {sized(self.bytes)}{left}"


class CacheDirectory:
    """The files of one cache directory and what is known of them."""

    def __init__(self, directory: Path, store: Store, catalog: Catalog, upstream: str) -> None:
        """`upstream` is the URL above ``/simple/`` without credentials."""
        self.directory, self.store, self.catalog = directory, store, catalog
        self.upstream = upstream

    def files(self) -> list[StoredFile]:
        """All held files, by project and filename."""
        found = [held for kept in self.store.files() if (held := self._held(kept)) is not None]
        return sorted(found, key=lambda held: (held.project, held.filename, held.directory))

    def others(self) -> list[DiskFile]:
        """What is kept and no held file: partial ones, and what no URL can mean."""
        return [kept for kept in self.store.files() if not _is_held(kept.path)]

    def remove(self, every: Iterable[DiskFile]) -> Removal:
        """Remove files that nobody uses."""
        removal = Removal()
        for kept in every:
            if self.store.remove(kept.path):
                removal.files += 1
                removal.bytes += kept.size
            elif kept.path.exists():
                removal.left += 1
        return removal

    def _held(self, kept: DiskFile) -> StoredFile | None:
        if not _is_held(kept.path):
            return None
        shelf, filename = "/".join(kept.path.parts[-3:-1]), kept.path.name
        project = self.catalog.project_of(shelf, distribution_of(filename))
        if project is None:
            project = next(iter(names.projects_of(distribution_of(filename))), "")
        return StoredFile(kept, shelf, filename, project)


@contextlib.contextmanager
def open_cache_dir(configuration: Configuration) -> Iterator[CacheDirectory]:
    """The holdings of the cache directory in force, until the block ends.

    Raises SettingError where no server ever used that directory, or it cannot be used now.
    """
    settings = configuration.settings
    # What the server made; nothing is made here in a directory named by mistake.
    if not (settings.cache_dir / "+files").is_dir():
        raise SettingError("cache directory", settings.cache_dir, Remedy.DIRECTORY_UNKNOWN)
    quieten(configuration, logging.ERROR)
    store, catalog = open_storage(settings)
    with contextlib.closing(catalog):
        upstream = without_credentials(settings.upstream_base_url)
        yield CacheDirectory(settings.cache_dir, store, catalog, upstream)


def quieten(configuration: Configuration, level: int) -> None:
    """Log from `level` on, where the operator chose none: a command says by itself what it does."""
    if configuration.choices["log_level"].origin == "default":
        logging.getLogger("pytail").setLevel(level)


@contextlib.contextmanager
def progress(length: int, label: str) -> Iterator[Callable[[int], object]]:
    """A bar on a terminal, nothing elsewhere; called with how much more of `length` is done."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    with click.progressbar(length=length, label=label, file=sys.stderr) as bar:
        yield bar.update


def project_name(name: str) -> str:
    """`name` normalized; click.BadParameter where no project can have it."""
    if not names.is_project_name(name):
        raise click.BadParameter(f"{name!r} is no name of a project")
    return names.normalized(name)


def length(kept: DiskFile) -> int | None:
    """The bytes in a file, None where it went in the meantime."""
    try:
        return kept.path.stat().st_size
    except OSError:
        return None


def digest_of(path: Path, kind: str, advance: Callable[[int], object]) -> tuple[int, str]:
    """The bytes in the file at `path` and its digest, "" where no `kind` is given.

    `advance` is called with each number of bytes. Raises OSError.
    """
    check, size = hashlib.new(kind or "sha256", usedforsecurity=False), 0
    descriptor = _opened(path)
    try:
        while data := os.read(descriptor, _PIECE):
            size += len(data)
            check.update(data)
            advance(len(data))
    finally:
        os.close(descriptor)
    return size, check.hexdigest() if kind else ""


def distribution_of(filename: str) -> str:
    """The name of the wheel or sdist that `filename` lies beside, or `filename` itself."""
    return filename.removesuffix(METADATA_SUFFIX).removesuffix(SIGNATURE_SUFFIX)


def sized(number: float) -> str:
    """`number` bytes, for people."""
    power = 0
    while number >= 1024 and power < len(_UNITS) - 1:
        number, power = number / 1024, power + 1
    return f"{number:.{1 if power else 0}f} {_UNITS[power]}"


def counted(number: int, noun: str) -> str:
    """``1 file``, ``2 files``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _is_held(path: Path) -> bool:
    return is_directory("/".join(path.parts[-3:-1])) and names.is_filename(path.name)


def _opened(path: Path) -> int:
    # To be verified is not to be used: what was used least recently must stay so.
    with contextlib.suppress(PermissionError):
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NOATIME", 0))
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
