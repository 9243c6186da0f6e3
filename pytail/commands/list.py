"""``pytail list``: the projects of which files are held, or the files of one project."""

from __future__ import annotations

import itertools
import json
from typing import Any

import click

from pytail.commands.cache_dir import (
    CacheDirectory,
    counted,
    length,
    open_cache_dir,
    project_name,
    sized,
)
from pytail.commands.options import SETTINGS, configured
from pytail.config.load import Configuration


@click.command("list", epilog=SETTINGS)
@configured
@click.argument("project", required=False)
@click.option("--json", "as_json", is_flag=True, help="for scripts; sizes in bytes")
def list_(configuration: Configuration, *, project: str | None, as_json: bool) -> int:
    """List the projects of which files are held, or the files of PROJECT, held or not."""
    name = None if project is None else project_name(project)
    with open_cache_dir(configuration) as found:
        rows = _projects(found) if name is None else _files(found, name)
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    elif name is None:
        for row in rows:
            files = counted(row["files"], "file")
            click.echo(f"{sized(row['bytes']):>10}  {files:>9}  {row['project']}")
    else:
        for row in rows:
            size = "" if row["size"] is None else sized(row["size"])
            click.echo(f"{'held' if row['held'] else '':4}  {size:>10}  {row['filename']}")
    if name is not None and not rows:
        click.echo(f"nothing is known of {name}", err=True)
        return 1
    return 0


def _projects(found: CacheDirectory) -> list[dict[str, Any]]:
    rows = []
    for project, group in itertools.groupby(found.files(), key=lambda held: held.project):
        files = list(group)
        size = sum(held.on_disk.size for held in files)
        rows.append({"project": project, "files": len(files), "bytes": size})
    return rows


def _files(found: CacheDirectory, name: str) -> list[dict[str, Any]]:
    """The files of the page that is known, in its order, and those held beside them."""
    page = found.catalog.page(name)
    held = {
        (each.directory, each.filename): each.on_disk
        for each in found.files()
        if each.project == name
    }
    rows = []
    for file in page.files if page is not None else ():
        kept = held.pop((file.directory, file.filename), None)
        size = file.size if kept is None else length(kept)
        rows.append(_row(file.filename, file.directory, size, is_held=kept is not None))
    for (shelf, filename), kept in held.items():
        rows.append(_row(filename, shelf, length(kept), is_held=True))
    return rows


def _row(filename: str, shelf: str, size: int | None, *, is_held: bool) -> dict[str, Any]:
    return {"filename": filename, "path": f"/root/pypi/+f/{shelf}/{filename}", "size": size,
            "held": is_held}  # fmt: skip
