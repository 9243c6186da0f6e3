"""An option for each setting, for every command, given before its name or after it."""

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
from pytail.telemetry import logs

log = logging.getLogger("pytail.commands")

Function = TypeVar("Function", bound=Callable[..., Any])

#: For the help of a command.
SETTINGS = "Settings are given as to pytail itself, before or after the command: see pytail --help."


def setting_options(function: Function, *, hidden: bool = False) -> Function:
    """Give `function` an option for each setting, as raw strings, and those that stand for some."""
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
    """`function`, called with the `Configuration` in force, its log set up."""

    @click.pass_context
    @functools.wraps(function)
    def call(context: click.Context, /, **given: Any) -> Any:
        names = [field.name for field in dataclasses.fields(Settings)] + [CONFIG, VERBOSE]
        after = {name: given.pop(name) for name in names}
        before = context.obj or {}
        configuration = load(os.environ, {name: after[name] or before.get(name) for name in names})
        logs.configure(configuration.settings.log_level, configuration.settings.log_format)
        for warning in configuration.warnings:
            log.warning("%s", warning)
        return function(configuration, **given)

    return setting_options(call, hidden=True)
