"""The command line.

Whatever the operator got wrong is one line on standard error and exit code 2.
"""

from __future__ import annotations

import dataclasses
import logging
import sys
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import click

from pytail import __version__, server
from pytail.errors import SettingError
from pytail.settings import Settings, flag, masked, variable

Command = TypeVar("Command", bound=Callable[..., Any])


def setting_options(command: Command) -> Command:
    """Give `command` an option for each setting, as raw strings."""
    for field in reversed(dataclasses.fields(Settings)):
        command = click.option(
            flag(field.name),
            field.name,
            envvar=variable(field.name),
            show_envvar=True,
            metavar=field.name.rpartition("_")[2].upper(),
            help=f"{field.metadata['meaning']}  [default: {field.metadata['default'] or 'none'}]",
        )(command)
    return command


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@setting_options
@click.option(
    "-v",
    "--verbose",
    envvar="PYTAIL_VERBOSE",
    show_envvar=True,
    is_flag=True,
    help="log each decision",
)
@click.version_option(__version__, prog_name="pytail", message="%(prog)s %(version)s")
def pytail(verbose: bool, **given: str | None) -> None:
    """Serve an incremental cache of a Python package index."""
    configure_logging(verbose)
    settings = Settings.of(given, lambda name: f"{flag(name)} ({variable(name)})")
    server.run(settings, announce=click.echo)


def configure_logging(verbose: bool) -> None:
    """Log to standard error: what an operator should know, or with `verbose` each decision."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("pytail").setLevel(logging.DEBUG if verbose else logging.INFO)


def main() -> NoReturn:
    """Run the command and exit."""
    try:
        sys.exit(pytail.main(prog_name="pytail", standalone_mode=False) or 0)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.ClickException as error:
        _refuse(error.format_message())
    except SettingError as error:
        _refuse(str(error))


def _refuse(message: str) -> NoReturn:
    click.echo(f"pytail: {masked(' '.join(message.split()))}", err=True)
    sys.exit(2)
