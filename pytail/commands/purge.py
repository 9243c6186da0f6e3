"""``pytail purge``: remove the stored files of some projects, files not used for long, or all."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence

import click

from pytail.commands.cache_dir import CacheDirectory, open_cache_dir
from pytail.commands.options import EPILOG, configured, project_name
from pytail.commands.output import format_count, format_size
from pytail.config.load import Configuration
from pytail.config.values import seconds
from pytail.storage.store import DiskFile


@click.command(epilog=EPILOG)
@configured
@click.argument("projects", nargs=-1, metavar="PROJECT...")
@click.option("--older-than", metavar="AGE", help="remove files not used for AGE, such as 90d")
@click.option("--all", "is_all", is_flag=True, help="remove all files and forget all projects")
@click.option("--yes", is_flag=True, help="do not ask on a terminal")
@click.option("--json", "as_json", is_flag=True, help="print JSON; sizes in bytes")
def purge(
    configuration: Configuration,
    *,
    projects: Sequence[str],
    older_than: str | None,
    is_all: bool,
    yes: bool,
    as_json: bool,
) -> int:
    """Remove the stored files of each PROJECT and forget its page.

    Files in use are not removed; then the exit code is 1.
    """
    if sum(map(bool, (projects, older_than, is_all))) != 1:
        raise click.UsageError("give one of PROJECT, --older-than and --all")
    names = [project_name(project) for project in projects]
    age = _age(older_than)
    with open_cache_dir(configuration) as cache_dir:
        files = _chosen_files(cache_dir, names, age)
        if not (yes or _is_confirmed(files, names, is_all=is_all)):
            return 1
        removal = cache_dir.remove(files)
        # After the files: the catalog says to which project a file belongs.
        forgotten = cache_dir.catalog.forget(None if is_all else names)
    if as_json:
        counts = {"files": removal.files, "bytes": removal.bytes, "left": removal.in_use}
        click.echo(json.dumps(counts | {"forgotten": forgotten}))
    else:
        click.echo(f"{removal}; {format_count(forgotten, 'project')} forgotten")
    return 1 if removal.in_use else 0


def _age(text: str | None) -> float | None:
    """Return the seconds that `text` says, None without a `text`."""
    try:
        return None if text is None else seconds(text)
    except ValueError as error:
        raise click.BadParameter(f"--older-than {text!r}: {error}") from None


def _chosen_files(cache_dir: CacheDirectory, names: list[str], age: float | None) -> list[DiskFile]:
    """Return the files of the projects `names`, or those not used for `age` seconds, or all."""
    if names:
        return [stored.on_disk for stored in cache_dir.files() if stored.project in names]
    if age is None:
        return list(cache_dir.store.files())
    return [on_disk for on_disk in cache_dir.store.files() if on_disk.used < time.time() - age]


def _is_confirmed(files: list[DiskFile], names: list[str], *, is_all: bool) -> bool:
    """Ask on a terminal, unless there is nothing to remove; return True elsewhere."""
    if not (sys.stdin.isatty() and (files or names or is_all)):
        return True
    size = format_size(sum(on_disk.size for on_disk in files))
    projects = "all projects" if is_all else ", ".join(names)
    forget = f" and forget {projects}" if projects else ""
    return click.confirm(f"Remove {format_count(len(files), 'file')}, {size}{forget}?", err=True)
