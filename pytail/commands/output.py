"""Formats sizes and counts, shows progress bars, and lowers the amount of log lines."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator

import click

from pytail.config.load import Configuration

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def format_size(size: float) -> str:
    """Return `size` bytes in the largest fitting binary unit, such as ``1.5 MiB``."""
    power = 0
    while size >= 1024 and power < len(_UNITS) - 1:
        size, power = size / 1024, power + 1
    return f"{size:.{1 if power else 0}f} {_UNITS[power]}"


def format_count(number: int, noun: str) -> str:
    """Return `number` with `noun` in singular or plural: ``1 file``, ``2 files``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


@contextlib.contextmanager
def progress_bar(length: int, label: str) -> Iterator[Callable[[int], object]]:
    """Show a bar on standard error where that is a terminal, and nothing elsewhere.

    Yields a function that advances the bar by a number of steps, out of `length` in all.
    """
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    with click.progressbar(length=length, label=label, file=sys.stderr) as bar:
        yield bar.update


def limit_log(configuration: Configuration, level: int) -> None:
    """Log from `level` on, unless the operator chose a level.

    Commands print their results, so lines about normal work would only repeat them.
    """
    if configuration.choices["log_level"].origin == "default":
        logging.getLogger("pytail").setLevel(level)
