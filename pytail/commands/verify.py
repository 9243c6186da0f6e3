"""``pytail verify``: every held file against its digest.

The digest is the one that its page gives; where no page is known, the 16 digits of its shelf. What is
wrong is removed, which mends it: it is fetched again when it is asked for.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

import click

from pytail.commands.cache_dir import (
    CacheDirectory,
    StoredFile,
    counted,
    digest_of,
    length,
    open_cache_dir,
    progress,
)
from pytail.commands.options import SETTINGS, configured
from pytail.config.load import Configuration
from pytail.model import METADATA_SUFFIX, SIGNATURE_SUFFIX, File
from pytail.storage.digests import expected_digest


@dataclass(slots=True)
class Verdict:
    """What was found."""

    right: int = 0
    #: Files for which no digest is known; those of the length that their page says count as right.
    unchecked: int = 0
    #: Paths below ``+f``.
    removed: list[str] = field(default_factory=list)
    #: Those that are wrong too, and in use or protected.
    left: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        parts = [f"{counted(self.right, 'file')} right"]
        if self.unchecked:
            parts.append(f"{self.unchecked} without a digest")
        parts.append(f"{len(self.removed)} wrong and removed")
        if self.left:
            parts.append(f"{len(self.left)} wrong and in use or protected: verify again later")
        return ", ".join(parts)


@click.command(epilog=SETTINGS)
@configured
@click.option("--json", "as_json", is_flag=True, help="for scripts")
def verify(configuration: Configuration, *, as_json: bool) -> int:
    """Check every held file against its digest, and remove those that are wrong.

    The exit code is 1 where any was.
    """
    verdict = Verdict()
    with open_cache_dir(configuration) as found:
        files = found.files()
        total = sum(length(held.on_disk) or 0 for held in files)
        with progress(total, "verifying") as advance:
            for held in files:
                _judge(found, held, verdict, advance)
    click.echo(json.dumps(asdict(verdict), indent=2) if as_json else str(verdict))
    return 1 if verdict.removed or verdict.left else 0


def _judge(
    found: CacheDirectory, held: StoredFile, verdict: Verdict, advance: Callable[[int], object]
) -> None:
    file = _listed(found, held) or File(filename=held.filename, url="", directory=held.directory)
    (kind, expected), size = expected_digest(file), file.size
    try:
        found_size, digest = digest_of(held.on_disk.path, kind or "", advance)
        fault = _fault(found_size, digest, expected, size)
    except FileNotFoundError:
        # Removed in the meantime.
        return
    except OSError as error:
        fault = f"cannot be read: {error.strerror}"
    if fault is None:
        verdict.right += bool(kind or size is not None)
        verdict.unchecked += not (kind or size is not None)
        return
    location = f"{held.directory}/{held.filename}"
    is_gone = found.remove([held.on_disk]).files == 1
    (verdict.removed if is_gone else verdict.left).append(location)
    click.echo(f"{location}: {fault}{'; removed' if is_gone else ''}", err=True)


def _listed(found: CacheDirectory, held: StoredFile) -> File | None:
    """The file as its page lists it, None where no page of upstream's is known that does."""
    listed = found.catalog.file(held.directory, held.main, found.upstream)
    if listed is not None and held.filename.endswith(METADATA_SUFFIX):
        return listed.metadata
    if listed is not None and held.filename.endswith(SIGNATURE_SUFFIX):
        return listed.signature
    return listed


def _fault(found: int, digest: str, expected: str, size: int | None) -> str | None:
    """What is wrong with a file, None when nothing is."""
    if size not in (None, found) or (found == 0 and size is None):
        return f"{found} bytes" + ("" if size is None else f" instead of {size}")
    if not digest.startswith(expected):
        return f"its digest begins with {digest[:16]} instead of {expected[:16]}"
    return None
