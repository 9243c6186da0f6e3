"""``pytail status``: show the contents of the cache directory and the state of the server."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from http.client import HTTPConnection, HTTPException
from typing import Any

import click

from pytail.commands.cache_dir import open_cache_dir
from pytail.commands.options import EPILOG, configured
from pytail.commands.output import format_count, format_size
from pytail.config.load import Configuration
from pytail.config.settings import Settings
from pytail.config.values import Bind

#: Seconds to wait for a server, which answers from memory.
_TIMEOUT = 3.0


@click.command(epilog=EPILOG)
@configured
@click.option("--json", "as_json", is_flag=True, help="print JSON; sizes in bytes")
def status(configuration: Configuration, *, as_json: bool) -> None:
    """Show the contents of the cache directory, and the state of the server at --bind."""
    directory = _directory_status(configuration)
    server = _server_status(configuration.settings.bind)
    if as_json:
        click.echo(json.dumps(directory | {"server": server}, indent=2))
        return
    rows = _directory_rows(directory) + _server_rows(configuration.settings, server)
    for name, text in rows:
        click.echo(f"{name:10}  {text}")


def _directory_status(configuration: Configuration) -> dict[str, Any]:
    settings = configuration.settings
    with open_cache_dir(configuration, only_reads=True) as cache_dir:
        stored = [file.on_disk.size for file in cache_dir.files()]
        partial = [on_disk.size for on_disk in cache_dir.other_files()]
        disk = os.statvfs(settings.cache_dir)
        return {
            "cache_dir": str(settings.cache_dir),
            "held": {"files": len(stored), "bytes": sum(stored)},
            "partial": {"files": len(partial), "bytes": sum(partial)},
            "catalog_bytes": cache_dir.catalog.size(),
            "limit_bytes": settings.cache_max_size or None,
            "free_bytes": disk.f_bavail * disk.f_frsize,
            "projects": len(cache_dir.catalog.projects(cache_dir.upstream)),
            "upstream": cache_dir.upstream,
        }


def _directory_rows(shown: dict[str, Any]) -> list[tuple[str, str]]:
    stored, partial, limit = shown["held"], shown["partial"], shown["limit_bytes"]
    used = stored["bytes"] + partial["bytes"] + shown["catalog_bytes"]
    share = "no limit" if limit is None else f"{used / limit:.0%} of {format_size(limit)}"
    free = f"{format_size(shown['free_bytes'])} free on the disk"
    return [
        ("directory", shown["cache_dir"]),
        ("stored", f"{format_count(stored['files'], 'file')}, {format_size(stored['bytes'])}"),
        ("partial", f"{format_count(partial['files'], 'file')}, {format_size(partial['bytes'])}"),
        ("used", f"{format_size(used)}, {share}; {free}"),
        ("catalog", f"{format_count(shown['projects'], 'project')} of {shown['upstream']}"),
    ]


def _server_rows(settings: Settings, server: dict[str, Any] | None) -> list[tuple[str, str]]:
    if server is None:
        return [("server", f"no pytail answers at {settings.bind}")]
    about = f"pytail {server['version']} at {settings.bind}, up {server['uptime_secs']:.0f} s"
    return [("server", about), ("hits", _hits(server)), ("upstream", _upstream(server["upstream"]))]


def _hits(server: dict[str, Any]) -> str:
    requests, sent = sum(server["requests"].values()), sum(server["sent_bytes"].values())
    if not requests:
        return "no requests yet"
    ratio = server["hit_ratio"]
    by_requests = f"{_percent(ratio['requests'])} of {format_count(requests, 'request')}"
    return f"{by_requests}, {_percent(ratio['bytes'])} of {format_size(sent)}"


def _upstream(upstream: dict[str, Any]) -> str:
    responses = format_count(upstream["answers"], "response")
    errors = format_count(sum(upstream["errors"].values()), "error")
    return f"{upstream['url']}: circuit breaker {upstream['breaker']}, {responses}, {errors}"


def _percent(ratio: float | None) -> str:
    return "0%" if ratio is None else f"{ratio:.1%}"


def _server_status(bind: Bind) -> dict[str, Any] | None:
    """Return the JSON of ``/+status``, None where no pytail answers at `bind`."""
    connection = HTTPConnection(bind.host or "localhost", bind.port, timeout=_TIMEOUT)
    with contextlib.closing(connection):
        try:
            if bind.path is not None:
                connection.sock = socket.socket(socket.AF_UNIX)
                connection.sock.settimeout(_TIMEOUT)
                connection.sock.connect(bind.path)
            connection.request("GET", "/+status")
            status = json.loads(connection.getresponse().read())
        except (OSError, HTTPException, ValueError):
            return None
    is_pytail = isinstance(status, dict) and {"version", "hit_ratio", "upstream"} <= status.keys()
    return status if is_pytail else None
