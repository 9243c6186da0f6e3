"""``pytail refresh``: revalidate project pages, also fresh ones.

A running server uses the same catalog, so that it answers with the new page from then on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections.abc import Iterator, Sequence

import click

from pytail.cache.cache import policy_of, upstream_of
from pytail.cache.index import Index
from pytail.cache.revalidate import Revalidator
from pytail.commands.cache_dir import CacheDirectory, open_cache_dir
from pytail.commands.options import EPILOG, configured, project_name
from pytail.commands.output import progress_bar
from pytail.config.load import Configuration
from pytail.config.settings import Settings
from pytail.errors import ProjectNotFound, UpstreamError
from pytail.urls import masked

#: Seconds to wait for upstream; --request-timeout-secs ends the wait earlier.
_PATIENCE = 3600.0


@click.command(epilog=EPILOG)
@configured
@click.argument("projects", nargs=-1, required=True, metavar="PROJECT...")
@click.option("--json", "as_json", is_flag=True, help="print JSON")
def refresh(configuration: Configuration, *, projects: Sequence[str], as_json: bool) -> int:
    """Revalidate the page of each PROJECT with upstream now.

    The exit code is 1 where upstream gave no page.
    """
    names = list(dict.fromkeys(map(project_name, projects)))
    results = {}
    with (
        open_cache_dir(configuration) as cache_dir,
        _index(configuration.settings, cache_dir) as index,
        progress_bar(len(names), "refreshing") as advance,
    ):
        for name in names:
            results[name] = _refreshed(index, name)
            advance(1)
    if as_json:
        click.echo(json.dumps(results, indent=2))
    else:
        for name, result in results.items():
            click.echo(f"{name}: {result['reason']}")
    return 0 if all(result["is_fresh"] for result in results.values()) else 1


@contextlib.contextmanager
def _index(settings: Settings, cache_dir: CacheDirectory) -> Iterator[Index]:
    with contextlib.closing(upstream_of(settings, cache_dir.catalog.first_known)) as upstream:
        # No client waits: a stale page is the answer only where upstream fails.
        policy = dataclasses.replace(policy_of(settings), revalidate_wait=_PATIENCE, max_stale=0.0)
        pages = upstream.pages
        revalidator = Revalidator(cache_dir.catalog, pages, policy, time.time)
        yield Index(cache_dir.catalog, revalidator, pages.root, policy)


def _refreshed(index: Index, name: str) -> dict[str, object]:
    """Revalidate one page and return its entry in the JSON result."""
    try:
        answer = index.page(name, max_age=0)
    except (ProjectNotFound, UpstreamError) as error:
        return {"is_fresh": False, "outcome": error.outcome, "reason": masked(str(error))}
    is_fresh = answer.error is None
    return {"is_fresh": is_fresh, "outcome": answer.outcome.value, "reason": masked(answer.reason)}
