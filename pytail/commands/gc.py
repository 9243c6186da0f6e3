"""``pytail gc``: what nobody will ask for goes, and the limits are kept to, now."""

from __future__ import annotations

import json

import click

from pytail.cache.cache import quota_of
from pytail.commands.cache_dir import counted, open_cache_dir, sized
from pytail.commands.options import SETTINGS, configured
from pytail.config.load import Configuration


@click.command(epilog=SETTINGS)
@configured
@click.option("--json", "as_json", is_flag=True, help="for scripts; sizes in bytes")
def gc(configuration: Configuration, *, as_json: bool) -> None:
    """Remove old partial files and what no URL can mean, and keep to the limits.

    The limits are --cache-max-size and --min-free; a running server keeps to its own by itself.
    """
    settings = configuration.settings
    partials = settings.cache_dir / "+partial"
    before = set(partials.iterdir()) if partials.is_dir() else set()
    with open_cache_dir(configuration) as found:
        # Those nobody will go on with are cleared wherever the store is opened.
        cleared = sum(not path.exists() for path in before)
        orphans = found.remove(kept for kept in found.others() if kept.path.parent != partials)
        bounds = quota_of(settings, found.store, found.catalog)
        bounds.enforce()
    counts = {
        "partials": cleared,
        "orphans": orphans.files,
        "evicted": bounds.evicted,
        "evicted_bytes": bounds.evicted_bytes,
    }
    if as_json:
        click.echo(json.dumps(counts))
        return
    old = f"{counted(cleared, 'old partial file')} and {counted(orphans.files, 'orphan')} removed"
    evicted = counted(bounds.evicted, "file")
    click.echo(f"{old}; {evicted} removed for the limits, {sized(bounds.evicted_bytes)}")
