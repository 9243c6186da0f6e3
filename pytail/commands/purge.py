"""``pytail purge``: remove held files, of some projects, of long ago, or all."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Sequence

import click

from pytail.commands.cache_dir import CacheDirectory, counted, open_cache_dir, project_name, sized
from pytail.commands.options import SETTINGS, configured
from pytail.config.load import Configuration
from pytail.config.values import seconds
from pytail.storage.store import DiskFile


@click.command(epilog=SETTINGS)
@configured
@click.argument("projects", nargs=-1, metavar="PROJECT...")
@click.option("--older-than", metavar="AGE", help="files not used for that long, such as 90d")
@click.option("--all", "is_all", is_flag=True, help="all files, and all that is known of projects")
@click.option("--yes", is_flag=True, help="do not ask, as is done on a terminal")
@click.option("--json", "as_json", is_flag=True, help="for scripts; sizes in bytes")
def purge(
    configuration: Configuration,
    *,
    projects: Sequence[str],
    older_than: str | None,
    is_all: bool,
    yes: bool,
    as_json: bool,
) -> int:
    """Remove the held files of each PROJECT and forget its page; what is in use stays."""
    if sum(map(bool, (projects, older_than, is_all))) != 1:
        raise click.UsageError("give projects, --older-than or --all, one of them")
    names = [project_name(project) for project in projects]
    age = _age(older_than)
    with open_cache_dir(configuration) as found:
        kept = _chosen(found, names, age)
        if not (yes or _is_wanted(kept, names, is_all=is_all)):
            return 1
        removal = found.remove(kept)
        # Last: until now the catalog told which files are whose.
        forgotten = found.catalog.forget(None if is_all else names)
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(removal) | {"forgotten": forgotten}))
    else:
        click.echo(f"{removal}; {counted(forgotten, 'project')} forgotten")
    return 1 if removal.left else 0


def _age(text: str | None) -> float | None:
    try:
        return None if text is None else seconds(text)
    except ValueError as error:
        raise click.BadParameter(f"--older-than {text!r}: {error}") from None


def _chosen(found: CacheDirectory, names: list[str], age: float | None) -> list[DiskFile]:
    if names:
        return [held.on_disk for held in found.files() if held.project in names]
    if age is None:
        return list(found.store.files())
    return [kept for kept in found.store.files() if kept.used < time.time() - age]


def _is_wanted(kept: list[DiskFile], names: list[str], *, is_all: bool) -> bool:
    if not (sys.stdin.isatty() and (kept or names or is_all)):
        return True
    size = sized(sum(each.size for each in kept))
    what = "everything known" if is_all else ", ".join(names)
    forget = f" and forget {what}" if what else ""
    return click.confirm(f"Remove {counted(len(kept), 'file')}, {size}{forget}?", err=True)
