"""``pytail serve``, which is what ``pytail`` without a command does."""

from __future__ import annotations

import click

from pytail import server
from pytail.commands.options import SETTINGS, configured
from pytail.configuration import Configuration


@click.command(epilog=SETTINGS)
@configured
def serve(configuration: Configuration) -> None:
    """Serve the index, as pytail does without a command."""
    server.run(configuration.settings, announce=click.echo)
