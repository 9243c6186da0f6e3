"""The options for settings, which stand before or after a command, and the argument PROJECT."""

from __future__ import annotations

import dataclasses
import functools
import logging
import os
from collections.abc import Callable
from typing import Any, TypeVar

import click

from pytail.config.load import CONFIG, VERBOSE, load
from pytail.config.settings import Settings, flag, variable
from pytail.simple import names
from pytail.telemetry import logs

log = logging.getLogger("pytail.commands")

Function = TypeVar("Function", bound=Callable[..., Any])

#: The last line of each command's help.
EPILOG = "Options for settings may stand before or after the command: see pytail --help."


def setting_options(function: Function, *, hidden: bool = False) -> Function:
    """Add an option for each setting, ``--config`` and ``--verbose`` to a command.

    The command gets the values as strings, not parsed.
    """
    options = [
        (flag(field.name), field.name.rpartition("_")[2].upper(), _help(field))
        for field in dataclasses.fields(Settings)
    ]
    options.append((flag(CONFIG), "FILE", f"TOML file with settings  [{variable(CONFIG)}]"))
    function = click.option(
        "-v",
        flag(VERBOSE),
        is_flag=True,
        hidden=hidden,
        help=f"log each decision: --log-level debug  [{variable(VERBOSE)}]",
    )(function)
    for name, metavar, meaning in reversed(options):
        function = click.option(name, metavar=metavar, help=meaning, hidden=hidden)(function)
    return function


def _help(field: dataclasses.Field[Any]) -> str:
    default = field.metadata["default"] or "none"
    return f"{field.metadata['meaning']}  [{variable(field.name)}; default: {default}]"


def configured(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a command: configure the log, and pass the `Configuration` in force to `function`.

    An option after the command takes precedence over the same option before it.
    """

    @click.pass_context
    @functools.wraps(function)
    def call(context: click.Context, /, **given: Any) -> Any:
        options = [field.name for field in dataclasses.fields(Settings)] + [CONFIG, VERBOSE]
        after = {name: given.pop(name) for name in options}
        before = context.obj or {}
        configuration = load(
            os.environ, {name: after[name] or before.get(name) for name in options}
        )
        logs.configure(configuration.settings.log_level, configuration.settings.log_format)
        for warning in configuration.warnings:
            log.warning("%s", warning)
        return function(configuration, **given)

    return setting_options(call, hidden=True)


def project_name(text: str) -> str:
    """Return the normalized name in the argument `text`.

    Raises click.BadParameter where `text` is not a valid name of a project.
    """
    if not names.is_project_name(text):
        raise click.BadParameter(f"{text!r} is not a valid project name")
    return names.normalized(text)
