"""``pytail config``: show the settings in force and the origin of each."""

from __future__ import annotations

import json

import click

from pytail.commands.options import EPILOG, configured
from pytail.config.load import Configuration
from pytail.urls import masked


@click.command(epilog=EPILOG)
@configured
@click.option("--json", "as_json", is_flag=True, help="print JSON; durations in s, sizes in bytes")
def config(configuration: Configuration, *, as_json: bool) -> None:
    """Show the settings in force and the origin of each; secrets are masked."""
    if as_json:
        click.echo(json.dumps(configuration.shown(), indent=2))
        return
    rows = [
        (name.replace("_", "-"), masked(choice.text), f"{choice.origin} {choice.source}".rstrip())
        for name, choice in configuration.choices.items()
    ]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    for name, text, origin in rows:
        click.echo(f"{name:{widths[0]}}  {text:{widths[1]}}  {origin}")
