"""``pytail list``: list the projects that have stored files, or the files of one project."""

from __future__ import annotations

import itertools
import json
from typing import Any

import click

from pytail.commands.cache_dir import CacheDirectory, current_size, open_cache_dir
from pytail.commands.options import EPILOG, configured, project_name
from pytail.commands.output import format_count, format_size
from pytail.config.load import Configuration


@click.command("list", epilog=EPILOG)
@configured
@click.argument("project", required=False)
@click.option("--json", "as_json", is_flag=True, help="print JSON; sizes in bytes")
def list_(configuration: Configuration, *, project: str | None, as_json: bool) -> int:
    """List the projects that have stored files, or all known files of PROJECT.

    The exit code is 1 where nothing is known of PROJECT.
    """
    name = None if project is None else project_name(project)
    with open_cache_dir(configuration, only_reads=True) as cache_dir:
        rows = _project_rows(cache_dir) if name is None else _file_rows(cache_dir, name)
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    elif name is None:
        _print_projects(rows)
    else:
        _print_files(rows)
    if name is not None and not rows:
        click.echo(f"neither a page nor a file of {name} is cached", err=True)
        return 1
    return 0


def _print_projects(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        files = format_count(row["files"], "file")
        click.echo(f"{format_size(row['bytes']):>10}  {files:>9}  {row['project']}")


def _print_files(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        size = "" if row["size"] is None else format_size(row["size"])
        click.echo(f"{'stored' if row['held'] else '':6}  {size:>10}  {row['filename']}")


def _project_rows(cache_dir: CacheDirectory) -> list[dict[str, Any]]:
    rows = []
    for project, group in itertools.groupby(cache_dir.files(), key=lambda stored: stored.project):
        files = list(group)
        size = sum(stored.on_disk.size for stored in files)
        rows.append({"project": project, "files": len(files), "bytes": size})
    return rows


def _file_rows(cache_dir: CacheDirectory, name: str) -> list[dict[str, Any]]:
    """Return the files of the cached page in its order, then stored files that it does not list."""
    page = cache_dir.catalog.page(name)
    stored = {
        (file.directory, file.filename): file.on_disk
        for file in cache_dir.files()
        if file.project == name
    }
    rows = []
    for file in page.files if page is not None else ():
        on_disk = stored.pop((file.directory, file.filename), None)
        size = file.size if on_disk is None else current_size(on_disk)
        rows.append(_file_row(file.filename, file.directory, size, is_stored=on_disk is not None))
    for (directory, filename), on_disk in stored.items():
        rows.append(_file_row(filename, directory, current_size(on_disk), is_stored=True))
    return rows


def _file_row(
    filename: str, directory: str, size: int | None, *, is_stored: bool
) -> dict[str, Any]:
    path = f"/root/pypi/+f/{directory}/{filename}"
    return {"filename": filename, "path": path, "size": size, "held": is_stored}
