"""``pytail adopt``: copy wheels and sdists from other directories into the store, verified.

The key of a file follows from its content, so the layout of the other directory does not matter. A
file that upstream does not list is stored too, but no page leads to it. Each file is hashed twice:
before it is copied and while it is copied. A file that changed in between is not stored.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from pytail.commands.cache_dir import CacheDirectory, digest_of, open_cache_dir
from pytail.commands.options import EPILOG, configured
from pytail.commands.output import format_count, format_size, progress_bar
from pytail.config.load import Configuration
from pytail.config.settings import Settings
from pytail.errors import PytailError
from pytail.model import File, digest_prefix, directory_in, directory_of, is_directory
from pytail.simple import names
from pytail.storage.digests import FileVerifier, chunks_of
from pytail.storage.partial import PartialFile

_DIRECTORY = click.Path(exists=True, file_okay=False, path_type=Path)


@dataclass(slots=True)
class AdoptResult:
    """The result of the command."""

    adopted: int = 0
    adopted_bytes: int = 0
    #: Files that were stored before, or that another process is downloading.
    already_stored: int = 0
    #: Files whose name is not that of a wheel or sdist.
    other_files: int = 0
    #: By path, the reason why a file was not adopted.
    failed: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        parts = [f"{format_count(self.adopted, 'file')} adopted, {format_size(self.adopted_bytes)}"]
        parts.append(f"{self.already_stored} already stored")
        if self.other_files:
            parts.append(f"{self.other_files} not a wheel or sdist")
        if self.failed:
            parts.append(f"{len(self.failed)} failed")
        return ", ".join(parts)

    def as_json(self) -> dict[str, Any]:
        """Return the result under the keys that scripts know."""
        return {
            "adopted": self.adopted,
            "bytes": self.adopted_bytes,
            "held": self.already_stored,
            "others": self.other_files,
            "left": self.failed,
        }


class SpaceLimit:
    """The bytes that adopted files may take: adopting a file evicts no other."""

    def __init__(self, cache_dir: CacheDirectory, settings: Settings) -> None:
        self._directory, self._min_free = cache_dir.directory, settings.min_free
        used = sum(on_disk.size for on_disk in cache_dir.store.files()) + cache_dir.catalog.size()
        #: Bytes, None without --cache-max-size.
        self._free = settings.cache_max_size - used if settings.cache_max_size else None

    def require(self, size: int) -> None:
        """Raise OSError where `size` more bytes do not fit."""
        if self._free is not None and size > self._free:
            raise OSError("the file does not fit into --cache-max-size")
        disk = os.statvfs(self._directory)
        if disk.f_blocks and disk.f_bavail * disk.f_frsize - size < self._min_free:
            raise OSError("the file does not fit on the disk")

    def take(self, size: int) -> None:
        """Count `size` bytes as used."""
        if self._free is not None:
            self._free -= size


@click.command(epilog=EPILOG)
@configured
@click.argument("directories", nargs=-1, required=True, type=_DIRECTORY, metavar="DIRECTORY...")
@click.option("--json", "as_json", is_flag=True, help="print JSON; sizes in bytes")
def adopt(configuration: Configuration, *, directories: tuple[Path, ...], as_json: bool) -> int:
    """Copy the wheels and sdists below each DIRECTORY into the cache directory, verified.

    A DIRECTORY may be the cache of another program, such as devpi or proxpi, or hold files of your
    own. Nothing in a DIRECTORY is changed. The exit code is 1 where a file could not be copied.
    """
    result = AdoptResult()
    with open_cache_dir(configuration) as cache_dir:
        limit = SpaceLimit(cache_dir, configuration.settings)
        paths = list(_distributions(directories, result))
        total = sum(_size(path) for path in paths)
        with progress_bar(total, "adopting") as advance:
            for path in paths:
                with _failures_noted(result, path):
                    _adopt(cache_dir, limit, path, result, advance)
    click.echo(json.dumps(result.as_json(), indent=2) if as_json else str(result))
    return 1 if result.failed else 0


def _distributions(directories: Iterable[Path], result: AdoptResult) -> Iterator[Path]:
    """Yield the files named like a wheel or sdist, and count the others in `result`."""
    for directory in directories:
        errors: list[OSError] = []
        for root, below, filenames in os.walk(directory, onerror=errors.append):
            below.sort()
            for path in (Path(root, name) for name in sorted(filenames)):
                if _is_distribution(path.name) and path.is_file():
                    yield path
                else:
                    result.other_files += 1
        for error in errors:
            _note_failure(result, Path(error.filename), error)


def _is_distribution(name: str) -> bool:
    return names.is_distribution(name) and names.is_filename(name) and bool(names.projects_of(name))


def _adopt(
    cache_dir: CacheDirectory,
    limit: SpaceLimit,
    path: Path,
    result: AdoptResult,
    advance: Callable[[int], object],
) -> None:
    """Store a copy of the file at `path`. Raises OSError or a PytailError."""
    claimed = _claimed_directory(path)
    if claimed and _is_stored(cache_dir, claimed, path):
        advance(_size(path))
        result.already_stored += 1
        return
    size, sha256 = digest_of(path, "sha256", advance)
    hashes = {"sha256": sha256}
    directory = directory_of(hashes, "")
    if claimed not in (None, directory) or size == 0:
        raise OSError(f"the file is damaged: its sha256 begins with {sha256[:16]}")
    file = File(filename=path.name, url="", directory=directory, hashes=hashes, size=size)
    if cache_dir.store.has(file):
        result.already_stored += 1
        return
    limit.require(size)
    if not _copied(cache_dir, path, file):
        result.already_stored += 1
        return
    limit.take(size)
    result.adopted += 1
    result.adopted_bytes += size


def _copied(cache_dir: CacheDirectory, path: Path, file: File) -> bool:
    """Copy the file at `path`; return False where another process is writing it.

    Raises OSError or a PytailError.
    """
    partial = cache_dir.store.partial(file)
    try:
        if partial.is_writer and partial.size:
            # A process that wrote the first bytes has ended.
            partial.restart()
        if not partial.is_writer:
            return False
        _copy(path, partial, file)
        partial.commit()
    except BaseException:
        partial.discard()
        raise
    finally:
        partial.close()
    return True


def _copy(path: Path, partial: PartialFile, file: File) -> None:
    verifier = FileVerifier(file)
    with path.open("rb", buffering=0) as source:
        for data in chunks_of(source.fileno()):
            partial.write(data)
            verifier.add(data)
    verifier.verify(file.size)


def _claimed_directory(path: Path) -> str | None:
    """Return the directory of a key that `path` ends in, as in the trees of pytail and devpi.

    The sha256 of the file must begin with its digits. None means that the path has no such part.
    """
    directory = directory_in(path)
    return directory if is_directory(directory) and digest_prefix(directory) else None


def _is_stored(cache_dir: CacheDirectory, directory: str, path: Path) -> bool:
    file = File(filename=path.name, url="", directory=directory, size=_size(path))
    return cache_dir.store.has(file)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        # Reading the file fails too, and that error is reported.
        return 0


@contextlib.contextmanager
def _failures_noted(result: AdoptResult, path: Path) -> Iterator[None]:
    """Note an error of the block as the failure of `path`, so that other files are still tried."""
    try:
        yield
    except (OSError, PytailError) as error:
        _note_failure(result, path, error)


def _note_failure(result: AdoptResult, path: Path, error: Exception) -> None:
    reason = (isinstance(error, OSError) and error.strerror) or str(error)
    result.failed[str(path)] = reason
    click.echo(f"{path}: {reason}", err=True)
