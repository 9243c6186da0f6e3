"""The group of all commands. ``pytail`` without a command serves.

Every mistake of the operator is one line on standard error and exit code 2.
"""

from __future__ import annotations

import sys
from typing import Any, NoReturn

import click

from pytail import __version__
from pytail.commands.adopt import adopt
from pytail.commands.config import config
from pytail.commands.gc import gc
from pytail.commands.list import list_
from pytail.commands.options import setting_options
from pytail.commands.purge import purge
from pytail.commands.refresh import refresh
from pytail.commands.serve import serve
from pytail.commands.status import status
from pytail.commands.verify import verify
from pytail.commands.warm import warm
from pytail.errors import SettingError
from pytail.urls import masked


@click.group(
    commands=[serve, config, status, list_, refresh, purge, verify, gc, warm, adopt],
    invoke_without_command=True,
    subcommand_metavar="[COMMAND]...",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@setting_options
@click.version_option(__version__, prog_name="pytail", message="%(prog)s %(version)s")
@click.pass_context
def pytail(context: click.Context, /, **flags: Any) -> Any:
    """Serve a pull-through cache of a Python package index."""
    context.obj = flags
    return context.invoke(serve) if context.invoked_subcommand is None else None


def main() -> NoReturn:
    """Run the command that `sys.argv` names and exit with its code."""
    try:
        sys.exit(pytail.main(prog_name="pytail", standalone_mode=False) or 0)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.ClickException as error:
        _exit_with(error.format_message())
    except SettingError as error:
        _exit_with(str(error))


def _exit_with(message: str) -> NoReturn:
    click.echo(f"pytail: {masked(' '.join(message.split()))}", err=True)
    sys.exit(2)
