"""``pytail adopt``: the files that another program keeps, verified and held.

Where a file stands among ours follows from its content, so any tree of wheels and sdists will do,
however it is laid out; and whatever is no file of upstream's stands where no page leads. Each is
hashed, and hashed again while it is copied: what changed in between is not held.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import click

from pytail.commands.cache_dir import (
    CacheDirectory,
    counted,
    digest_of,
    open_cache_dir,
    progress,
    sized,
)
from pytail.commands.options import SETTINGS, configured
from pytail.config.load import Configuration
from pytail.config.settings import Settings
from pytail.errors import PytailError
from pytail.model import File, digest_prefix, directory_in, directory_of, is_directory
from pytail.simple import names
from pytail.storage.digests import FileVerifier, chunks_of
from pytail.storage.partial import PartialFile

_DIRECTORY = click.Path(exists=True, file_okay=False, path_type=Path)


@dataclass(slots=True)
class Adoption:
    """What became of the files."""

    adopted: int = 0
    bytes: int = 0
    #: Files that were held before, or are arriving.
    held: int = 0
    #: Files that are no wheel or sdist by their name.
    others: int = 0
    #: Why not, by path.
    left: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        parts = [f"{counted(self.adopted, 'file')} adopted, {sized(self.bytes)}"]
        parts.append(f"{self.held} held already")
        if self.others:
            parts.append(f"{self.others} no wheel or sdist")
        if self.left:
            parts.append(f"{len(self.left)} not taken")
        return ", ".join(parts)


class Room:
    """The bytes that may still be taken: adopted files evict none."""

    def __init__(self, found: CacheDirectory, settings: Settings) -> None:
        self._directory, self._min_free = found.directory, settings.min_free
        taken = sum(kept.size for kept in found.store.files()) + found.catalog.size()
        self._left = settings.cache_max_size - taken if settings.cache_max_size else None

    def require(self, size: int) -> None:
        """Raise OSError where there is none for `size` bytes."""
        if self._left is not None and size > self._left:
            raise OSError("--cache-max-size leaves no room for it")
        disk = os.statvfs(self._directory)
        if disk.f_blocks and disk.f_bavail * disk.f_frsize - size < self._min_free:
            raise OSError("the disk has no room for it")

    def take(self, size: int) -> None:
        """So many less."""
        if self._left is not None:
            self._left -= size


@click.command(epilog=SETTINGS)
@configured
@click.argument("directories", nargs=-1, required=True, type=_DIRECTORY, metavar="DIRECTORY...")
@click.option("--json", "as_json", is_flag=True, help="for scripts; sizes in bytes")
def adopt(configuration: Configuration, *, directories: tuple[Path, ...], as_json: bool) -> int:
    """Copy the wheels and sdists below each DIRECTORY into the cache directory, verified.

    They may be another program's cache, such as devpi's or proxpi's, or files of your own; nothing
    in DIRECTORY is changed. The exit code is 1 where one could not be taken.
    """
    adoption = Adoption()
    with open_cache_dir(configuration) as found:
        room = Room(found, configuration.settings)
        paths = list(_distributions(directories, adoption))
        total = sum(_length(path) for path in paths)
        with progress(total, "adopting") as advance:
            for path in paths:
                with _leaving(adoption, path):
                    _adopt(found, room, path, adoption, advance)
    click.echo(json.dumps(asdict(adoption), indent=2) if as_json else str(adoption))
    return 1 if adoption.left else 0


def _distributions(directories: Iterable[Path], adoption: Adoption) -> Iterator[Path]:
    """The files that may be wheels or sdists; the others are counted."""
    for directory in directories:
        failed: list[OSError] = []
        for root, below, filenames in os.walk(directory, onerror=failed.append):
            below.sort()
            for path in (Path(root, name) for name in sorted(filenames)):
                if _is_distribution(path.name) and path.is_file():
                    yield path
                else:
                    adoption.others += 1
        for error in failed:
            _leave(adoption, Path(error.filename), error)


def _is_distribution(name: str) -> bool:
    return names.is_distribution(name) and names.is_filename(name) and bool(names.projects_of(name))


def _adopt(
    found: CacheDirectory,
    room: Room,
    path: Path,
    adoption: Adoption,
    advance: Callable[[int], object],
) -> None:
    """Have the file at `path` held. Raises OSError or a PytailError."""
    claimed = _shelf_above(path)
    if claimed and _is_held(found, claimed, path):
        advance(_length(path))
        adoption.held += 1
        return
    size, sha256 = digest_of(path, "sha256", advance)
    hashes = {"sha256": sha256}
    shelf = directory_of(hashes, "")
    if claimed not in (None, shelf) or size == 0:
        raise OSError(f"it is damaged: its digest begins with {sha256[:16]}")
    file = File(filename=path.name, url="", directory=shelf, hashes=hashes, size=size)
    if found.store.has(file):
        adoption.held += 1
        return
    room.require(size)
    if not _copied(found, path, file):
        adoption.held += 1
        return
    room.take(size)
    adoption.adopted += 1
    adoption.bytes += size


def _copied(found: CacheDirectory, path: Path, file: File) -> bool:
    """Copy the file at `path`, False where another process is bringing it in. Raises as `_adopt`."""
    partial = found.store.partial(file)
    try:
        if partial.is_writer and partial.size:
            # Of a process that is gone, in the middle of it.
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
    check = FileVerifier(file)
    with path.open("rb", buffering=0) as source:
        for data in chunks_of(source.fileno()):
            partial.write(data)
            check.add(data)
    check.verify(file.size)


def _shelf_above(path: Path) -> str | None:
    """The shelf that `path` is on where it lies as ours do, and devpi's: the digest it should have."""
    shelf = directory_in(path)
    return shelf if is_directory(shelf) and digest_prefix(shelf) else None


def _is_held(found: CacheDirectory, shelf: str, path: Path) -> bool:
    return found.store.has(File(filename=path.name, url="", directory=shelf, size=_length(path)))


def _length(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        # It will be told of when it is read.
        return 0


@contextlib.contextmanager
def _leaving(adoption: Adoption, path: Path) -> Iterator[None]:
    """The file at `path` is left where the block fails; another may do."""
    try:
        yield
    except (OSError, PytailError) as error:
        _leave(adoption, path, error)


def _leave(adoption: Adoption, path: Path, error: Exception) -> None:
    reason = (isinstance(error, OSError) and error.strerror) or str(error)
    adoption.left[str(path)] = reason
    click.echo(f"{path}: {reason}", err=True)
