"""``pytail verify``: compare every stored file with its digest, and remove damaged files.

The digest is that of the project page. Where no page lists the file, the 16 digits in its directory
are compared. A server fetches a removed file again when a client asks for it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import click

from pytail.commands.cache_dir import (
    CacheDirectory,
    StoredFile,
    current_size,
    digest_of,
    open_cache_dir,
)
from pytail.commands.options import EPILOG, configured
from pytail.commands.output import format_count, progress_bar
from pytail.config.load import Configuration
from pytail.model import METADATA_SUFFIX, SIGNATURE_SUFFIX, File
from pytail.storage.digests import expected_digest


@dataclass(slots=True)
class VerifyResult:
    """The result of the command."""

    #: Files with the right digest, or with the right size where the page gives no digest.
    intact: int = 0
    #: Files of which neither a digest nor a size is known.
    unverified: int = 0
    #: Keys of damaged files.
    removed: list[str] = field(default_factory=list)
    #: Keys of damaged files that are in use, or that the file system does not let pytail remove.
    in_use: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        parts = [f"{format_count(self.intact, 'file')} intact"]
        if self.unverified:
            parts.append(f"{self.unverified} without digest and size")
        parts.append(f"{len(self.removed)} damaged and removed")
        if self.in_use:
            parts.append(f"{len(self.in_use)} damaged and in use or protected: verify again later")
        return ", ".join(parts)

    def as_json(self) -> dict[str, Any]:
        """Return the result under the keys that scripts know."""
        return {
            "right": self.intact,
            "unchecked": self.unverified,
            "removed": self.removed,
            "left": self.in_use,
        }


@click.command(epilog=EPILOG)
@configured
@click.option("--json", "as_json", is_flag=True, help="print JSON")
def verify(configuration: Configuration, *, as_json: bool) -> int:
    """Compare every stored file with its digest, and remove damaged files.

    The exit code is 1 where a file is damaged.
    """
    result = VerifyResult()
    with open_cache_dir(configuration) as cache_dir:
        files = cache_dir.files()
        total = sum(current_size(stored.on_disk) or 0 for stored in files)
        with progress_bar(total, "verifying") as advance:
            for stored in files:
                _verify(cache_dir, stored, result, advance)
    click.echo(json.dumps(result.as_json(), indent=2) if as_json else str(result))
    return 1 if result.removed or result.in_use else 0


def _verify(
    cache_dir: CacheDirectory,
    stored: StoredFile,
    result: VerifyResult,
    advance: Callable[[int], object],
) -> None:
    file = _listed(cache_dir, stored)
    if file is None:
        file = File(filename=stored.filename, url="", directory=stored.directory)
    (kind, expected), size = expected_digest(file), file.size
    try:
        found_size, digest = digest_of(stored.on_disk.path, kind or "", advance)
        fault = _fault(found_size, digest, expected, size)
    except FileNotFoundError:
        # Another process removed the file in the meantime.
        return
    except OSError as error:
        fault = f"cannot be read: {error.strerror}"
    if fault is not None:
        _remove(cache_dir, stored, fault, result)
    elif kind or size is not None:
        result.intact += 1
    else:
        result.unverified += 1


def _remove(
    cache_dir: CacheDirectory, stored: StoredFile, fault: str, result: VerifyResult
) -> None:
    """Remove a damaged file where no process uses it, and print its `fault`."""
    is_removed = cache_dir.remove([stored.on_disk]).files == 1
    (result.removed if is_removed else result.in_use).append(stored.key)
    click.echo(f"{stored.key}: {fault}{'; removed' if is_removed else ''}", err=True)


def _listed(cache_dir: CacheDirectory, stored: StoredFile) -> File | None:
    """Return the file as its page lists it, None where no cached page of upstream does."""
    listed = cache_dir.catalog.file(stored.directory, stored.distribution, cache_dir.upstream)
    if listed is not None and stored.filename.endswith(METADATA_SUFFIX):
        return listed.metadata
    if listed is not None and stored.filename.endswith(SIGNATURE_SUFFIX):
        return listed.signature
    return listed


def _fault(found_size: int, digest: str, expected: str, size: int | None) -> str | None:
    """Return the difference between a file and its page, None where there is none."""
    if expected:
        # The size on the page is a hint, as in a download.
        is_right = digest.startswith(expected)
        return (
            None if is_right else f"its digest begins with {digest[:16]} instead of {expected[:16]}"
        )
    if size not in (None, found_size) or (found_size == 0 and size is None):
        return f"{found_size} bytes" + ("" if size is None else f" instead of {size}")
    return None
