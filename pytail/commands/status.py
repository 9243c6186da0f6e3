"""``pytail status``: what is held and known, and how the server is, where one answers."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from http.client import HTTPConnection, HTTPException
from typing import Any

import click

from pytail.commands.cache_dir import counted, open_cache_dir, sized
from pytail.commands.options import SETTINGS, configured
from pytail.config.load import Configuration
from pytail.config.settings import Settings
from pytail.config.values import Bind

#: Seconds; a server answers this from memory.
_PATIENCE = 3.0


@click.command(epilog=SETTINGS)
@configured
@click.option("--json", "as_json", is_flag=True, help="for scripts; sizes in bytes")
def status(configuration: Configuration, *, as_json: bool) -> None:
    """Show what is held and known, and how the server at --bind is, where one answers."""
    shown = _of_directory(configuration)
    server = _of_server(configuration.settings.bind)
    if as_json:
        click.echo(json.dumps(shown | {"server": server}, indent=2))
        return
    rows = _directory_rows(shown) + _server_rows(configuration.settings, server)
    for name, text in rows:
        click.echo(f"{name:10}  {text}")


def _of_directory(configuration: Configuration) -> dict[str, Any]:
    settings = configuration.settings
    with open_cache_dir(configuration) as found:
        held = [each.on_disk.size for each in found.files()]
        others = [kept.size for kept in found.others()]
        disk = os.statvfs(settings.cache_dir)
        return {
            "cache_dir": str(settings.cache_dir),
            "held": {"files": len(held), "bytes": sum(held)},
            "partial": {"files": len(others), "bytes": sum(others)},
            "catalog_bytes": found.catalog.size(),
            "limit_bytes": settings.cache_max_size or None,
            "free_bytes": disk.f_bavail * disk.f_frsize,
            "projects": len(found.catalog.projects(found.upstream)),
            "upstream": found.upstream,
        }


def _directory_rows(shown: dict[str, Any]) -> list[tuple[str, str]]:
    held, partial, limit = shown["held"], shown["partial"], shown["limit_bytes"]
    taken = held["bytes"] + partial["bytes"] + shown["catalog_bytes"]
    share = "no limit" if limit is None else f"{taken / limit:.0%} of {sized(limit)}"
    return [
        ("directory", shown["cache_dir"]),
        ("held", f"{counted(held['files'], 'file')}, {sized(held['bytes'])}"),
        ("arriving", f"{counted(partial['files'], 'file')}, {sized(partial['bytes'])}"),
        ("taken", f"{sized(taken)}, {share}; {sized(shown['free_bytes'])} of the disk are free"),
        ("known", f"{counted(shown['projects'], 'project')} of {shown['upstream']}"),
    ]


def _server_rows(settings: Settings, server: dict[str, Any] | None) -> list[tuple[str, str]]:
    if server is None:
        return [("server", f"none answers at {settings.bind}")]
    requests, sent = sum(server["requests"].values()), sum(server["sent_bytes"].values())
    ratio, upstream = server["hit_ratio"], server["upstream"]
    hits = f"{_share(ratio['requests'])} of {counted(requests, 'request')}"
    hits += f", {_share(ratio['bytes'])} of {sized(sent)}"
    health = "left alone for a while" if upstream["breaker"] == "open" else "asked as needed"
    failed = counted(sum(upstream["errors"].values()), "error")
    return [
        ("server", f"pytail {server['version']} at {settings.bind}, up {server['uptime_secs']:.0f} s"),
        ("hits", hits if requests else "nobody has asked yet"),
        ("upstream", f"{upstream['url']}: {health}, {counted(upstream['answers'], 'answer')}, {failed}"),
    ]  # fmt: skip


def _share(ratio: float | None) -> str:
    return "0%" if ratio is None else f"{ratio:.1%}"


def _of_server(bind: Bind) -> dict[str, Any] | None:
    """What ``/+status`` says, None where no pytail answers at `bind`."""
    connection = HTTPConnection(bind.host or "localhost", bind.port, timeout=_PATIENCE)
    with contextlib.closing(connection):
        try:
            if bind.path is not None:
                connection.sock = socket.socket(socket.AF_UNIX)
                connection.sock.settimeout(_PATIENCE)
                connection.sock.connect(bind.path)
            connection.request("GET", "/+status")
            answer = json.loads(connection.getresponse().read())
        except (OSError, HTTPException, ValueError):
            return None
    is_ours = isinstance(answer, dict) and {"version", "hit_ratio", "upstream"} <= answer.keys()
    return answer if is_ours else None
