"""``pytail warm``: have pages and files before anybody asks for them.

A server on the same directory answers from them at once. Each file that is held stays so whatever
happens to the rest, and half of one is gone on with, so that it can be interrupted and run again.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import gevent

from pytail.cache.cache import Cache
from pytail.commands.cache_dir import counted, progress, quieten, sized
from pytail.commands.options import SETTINGS, configured
from pytail.config.load import Configuration
from pytail.config.settings import PUBLIC_INDEX, Settings
from pytail.errors import Remedy, SettingError
from pytail.model import File
from pytail.warm.lockfiles import Indexes
from pytail.warm.selection import Selection
from pytail.warm.targets import Target
from pytail.warm.wanted import Wanted
from pytail.warm.warmer import Warmer

#: Seconds; the upstream timeout ends it earlier.
_PATIENCE = 3600.0


@dataclass(slots=True)
class Report:
    """What came of it."""

    projects: int = 0
    fetched: int = 0
    fetched_bytes: int = 0
    held: int = 0
    #: What is wanted and not held, and why.
    failed: list[tuple[str, str]] = field(default_factory=list)
    #: What was left out, and why.
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def __str__(self) -> str:
        fetched = f"{counted(self.fetched, 'file')} fetched, {sized(self.fetched_bytes)}"
        parts = [f"{counted(self.projects, 'project')}, {fetched}", f"{self.held} already held"]
        for number, word in ((len(self.skipped), "skipped"), (len(self.failed), "failed")):
            parts += [f"{number} {word}"] if number else []
        return "; ".join(parts)

    def shown(self) -> dict[str, Any]:
        """For scripts."""
        return {
            "projects": self.projects,
            "fetched": {"files": self.fetched, "bytes": self.fetched_bytes},
            "held": self.held,
            "failed": [{"what": what, "reason": reason} for what, reason in self.failed],
            "skipped": [{"what": what, "reason": reason} for what, reason in self.skipped],
        }


@click.command(epilog=SETTINGS)
@configured
@click.argument("names", nargs=-1, metavar="[NAME...]")
@click.option(
    "-r", "files", multiple=True, metavar="FILE", type=click.Path(path_type=Path),
    help="requirements.txt, pylock.toml, uv.lock or poetry.lock; may be repeated",
)  # fmt: skip
@click.option(
    "--python", "pythons", multiple=True, metavar="VERSION",
    help="for that version of CPython, such as 3.12 or 3.14t; may be repeated; default: this one",
)  # fmt: skip
@click.option(
    "--platform", "platforms", multiple=True, metavar="TAG",
    help="for that platform and what it takes of older ones, such as manylinux_2_28_x86_64,"
    " macosx_14_0_arm64 or win_amd64; may be repeated; default: this one",
)  # fmt: skip
@click.option("--all-files", is_flag=True, help="for any Python and platform, sdists too")
@click.option(
    "--index", "indexes", multiple=True, metavar="URL",
    help="URL by which lock files know this index, beside upstream's and --bind's",
)  # fmt: skip
@click.option(
    "--jobs", type=click.IntRange(1, 64), default=8, show_default=True, help="fetches at a time"
)
@click.option("--json", "as_json", is_flag=True, help="for scripts; sizes in bytes")
def warm(  # noqa: PLR0913
    configuration: Configuration,
    *,
    names: Sequence[str],
    files: Sequence[Path],
    pythons: Sequence[str],
    platforms: Sequence[str],
    all_files: bool,
    indexes: Sequence[str],
    jobs: int,
    as_json: bool,
) -> int:
    """Fetch pages and files ahead, of each NAME and of what each FILE lists.

    A NAME is a requirement, such as 'demo>=2,<3': of the newest version that it allows, the wheels
    that fit and their core metadata, or the sdist where no wheel fits. Nothing is resolved, so
    neither dependencies nor extras come along: lock files list them all. The exit code is 1 where
    anything could not be had; what is held is not fetched again.
    """
    settings = configuration.settings
    if not (names or files):
        raise click.UsageError("give a NAME or -r FILE")
    if settings.offline:
        raise SettingError("--offline", "yes", Remedy.UPSTREAM_NEEDED)
    targets = [] if all_files else _targets(pythons, platforms)
    wants = _wants(settings, names, files, indexes)
    wants.leave_out(targets)
    quieten(configuration, logging.CRITICAL)
    with contextlib.closing(Cache.of(settings, wait=_PATIENCE)) as parts, _interruptible():
        warming = Warmer(parts.index, parts.files, parts.store, parts.quota, jobs)
        report = _warmed(warming, wants, targets, settings)
        parts.store.write_last_uses()
    _tell(report, as_json=as_json)
    return 1 if report.failed else 0


def _targets(pythons: Sequence[str], platforms: Sequence[str]) -> list[Target]:
    """One for each pair."""
    for python in pythons:
        _check("--python", python, Target.of)
    for platform in platforms:
        _check("--platform", platform, lambda tag: Target.of(None, tag))
    pairs = itertools.product(pythons or (None,), platforms or (None,))
    return [Target.of(python, platform) for python, platform in pairs]


def _check(name: str, value: str, parse: Callable[[str], object]) -> None:
    try:
        parse(value)
    except ValueError as error:
        raise SettingError(name, value, str(error)) from None


def _wants(
    settings: Settings, names: Sequence[str], files: Sequence[Path], indexes: Sequence[str]
) -> Wanted:
    wants = Wanted()
    ours = Indexes.of(
        [settings.upstream_base_url, PUBLIC_INDEX, f"http://{settings.bind}", *indexes]
    )
    for name in names:
        wants.name(name)
    for file in files:
        wants.read(file, ours)
    return wants


def _warmed(
    warming: Warmer, wants: Wanted, targets: Sequence[Target], settings: Settings
) -> Report:
    projects = list(wants.by_project)
    report, choice = Report(len(projects), skipped=wants.skipped), Selection()
    with progress(len(projects), "asking for pages") as advance:

        def choose(project: str) -> Selection:
            return warming.choose(project, wants.by_project[project], targets)

        for _, found in warming.each(projects, choose):
            choice.add(found.files.values())
            report.failed += found.missing
            advance(1)
    files = list(choice.files.values())
    files += [file.metadata for file in files if file.is_wheel and file.metadata is not None]
    if excess := warming.excess(files):
        raise _too_much(settings, excess)
    _fetch(warming, files, report)
    return report


def _too_much(settings: Settings, excess: float) -> SettingError:
    limits = {"--cache-max-size": settings.cache_max_size, "--min-free": settings.min_free}
    chosen = {name: sized(size) for name, size in limits.items() if size}
    remedy = Remedy.NO_ROOM.format(excess=sized(excess))
    return SettingError(" and ".join(chosen), ", ".join(chosen.values()), remedy)


def _fetch(warming: Warmer, files: Sequence[File], report: Report) -> None:
    missing = [file for file in files if warming.stored_size(file) is None]
    report.held = len(files) - len(missing)
    if not missing:
        return
    # Core metadata are small, and seldom is their size known.
    with progress(sum(file.size or 1 for file in missing), "fetching") as advance:
        for file, reason in warming.each(missing, lambda file: warming.fetch(file, advance)):
            size = warming.stored_size(file)
            if reason is not None:
                report.failed.append((file.filename, reason))
            elif size is not None:
                report.fetched += 1
                report.fetched_bytes += size


def _tell(report: Report, *, as_json: bool) -> None:
    for title, lines in (("skipped", report.skipped), ("failed", report.failed)):
        for what, reason in lines:
            click.echo(f"{title} {what}: {' '.join(reason.split())}", err=True)
    click.echo(json.dumps(report.shown(), indent=2) if as_json else str(report))


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """While it lasts, an interrupt ends the command, and not whatever greenlet just runs."""
    handler = gevent.signal_handler(
        signal.SIGINT, gevent.kill, gevent.getcurrent(), KeyboardInterrupt
    )
    try:
        yield
    finally:
        handler.cancel()
