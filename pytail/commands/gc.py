"""``pytail gc``: remove files that are no longer needed, and evict files down to the limits."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import click

from pytail.cache.cache import quota_of
from pytail.commands.cache_dir import open_cache_dir
from pytail.commands.options import EPILOG, configured
from pytail.commands.output import format_count, format_size
from pytail.config.load import Configuration


@click.command(epilog=EPILOG)
@configured
@click.option("--json", "as_json", is_flag=True, help="print JSON; sizes in bytes")
def gc(configuration: Configuration, *, as_json: bool) -> None:
    """Remove old partial files and files that have no URL, then evict files down to the limits.

    The limits are --cache-max-size and --min-free. A running server keeps to its own limits without
    this command.
    """
    settings = configuration.settings
    partials = settings.cache_dir / "+partial"
    before: set[Path] = set()
    with contextlib.suppress(OSError):
        before = set(partials.iterdir())
    with open_cache_dir(configuration) as cache_dir:
        # Opening the store removes partial files that are older than a day.
        removed = sum(not path.exists() for path in before)
        orphans = cache_dir.remove(
            on_disk for on_disk in cache_dir.other_files() if on_disk.path.parent != partials
        )
        quota = quota_of(settings, cache_dir.store, cache_dir.catalog)
        try:
            quota.enforce()
        except OSError as error:
            raise click.ClickException(f"cannot evict files: {error}") from error
    if as_json:
        counts = {
            "partials": removed,
            "orphans": orphans.files,
            "evicted": quota.evicted,
            "evicted_bytes": quota.evicted_bytes,
        }
        click.echo(json.dumps(counts))
        return
    old = format_count(removed, "old partial file")
    evicted = f"{format_count(quota.evicted, 'file')} evicted, {format_size(quota.evicted_bytes)}"
    click.echo(f"{old} and {format_count(orphans.files, 'orphan')} removed; {evicted}")
