"""``pytail warm``: fetch pages and files ahead of any request.

A server on the same cache directory answers with them at once. Each file that was fetched stays
stored when the command is interrupted, and the next run resumes partial files.
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
from pytail.commands.cache_dir import require_writable
from pytail.commands.options import EPILOG, configured
from pytail.commands.output import format_count, format_size, limit_log, progress_bar
from pytail.commands.owner import act_as_owner
from pytail.config.load import Configuration
from pytail.config.settings import PUBLIC_INDEX, Settings
from pytail.errors import Remedy, SettingError
from pytail.model import File
from pytail.warm.lockfiles import IndexUrls
from pytail.warm.selection import Selection
from pytail.warm.targets import Target
from pytail.warm.wanted import Wanted
from pytail.warm.warmer import Warmer

#: Seconds to wait for upstream; --request-timeout-secs ends the wait earlier.
_PATIENCE = 3600.0


@dataclass(slots=True)
class WarmResult:
    """The result of the command."""

    projects: int = 0
    fetched: int = 0
    fetched_bytes: int = 0
    already_stored: int = 0
    #: Projects and files that could not be fetched, each with the reason.
    failed: list[tuple[str, str]] = field(default_factory=list)
    #: Lines and packages that were left out, each with the reason.
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def __str__(self) -> str:
        projects = format_count(self.projects, "project")
        fetched = f"{format_count(self.fetched, 'file')} fetched, {format_size(self.fetched_bytes)}"
        parts = [f"{projects}, {fetched}", f"{self.already_stored} already stored"]
        for number, word in ((len(self.skipped), "skipped"), (len(self.failed), "failed")):
            parts += [f"{number} {word}"] if number else []
        return "; ".join(parts)

    def as_json(self) -> dict[str, Any]:
        """Return the result under the keys that scripts know."""
        return {
            "projects": self.projects,
            "fetched": {"files": self.fetched, "bytes": self.fetched_bytes},
            "held": self.already_stored,
            "failed": [{"what": what, "reason": reason} for what, reason in self.failed],
            "skipped": [{"what": what, "reason": reason} for what, reason in self.skipped],
        }


@click.command(epilog=EPILOG)
@configured
@click.argument("names", nargs=-1, metavar="[NAME...]")
@click.option(
    "-r", "files", multiple=True, metavar="FILE", type=click.Path(path_type=Path),
    help="requirements.txt, pylock.toml, uv.lock or poetry.lock; may be repeated",
)  # fmt: skip
@click.option(
    "--python", "pythons", multiple=True, metavar="VERSION",
    help="fetch for this version of CPython, such as 3.12 or 3.14t; may be repeated;"
    " default: the one that runs pytail",
)  # fmt: skip
@click.option(
    "--platform", "platforms", multiple=True, metavar="TAG",
    help="fetch for this platform and the older ones whose wheels it runs, such as"
    " manylinux_2_28_x86_64, macosx_14_0_arm64 or win_amd64; may be repeated;"
    " default: the one that runs pytail",
)  # fmt: skip
@click.option("--all-files", is_flag=True, help="fetch for all Pythons and platforms, sdists too")
@click.option(
    "--index", "indexes", multiple=True, metavar="URL",
    help="another URL by which lock files name this index; may be repeated;"
    " the URLs of upstream and of --bind are known",
)  # fmt: skip
@click.option(
    "--jobs", type=click.IntRange(1, 64), default=8, show_default=True, help="concurrent fetches"
)
@click.option("--json", "as_json", is_flag=True, help="print JSON; sizes in bytes")
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
    """Fetch the page and files of each NAME, and of the projects that each FILE lists.

    A NAME is a requirement, such as 'demo>=2,<3'. pytail fetches the newest version that the
    requirement allows: the matching wheels and their core metadata, or the sdist where no wheel
    matches. Dependencies and extras are not resolved; lock files list them all. Stored files are
    not fetched again. The exit code is 1 where a project or file could not be fetched.
    """
    settings = configuration.settings
    if not (names or files):
        raise click.UsageError("give a NAME or -r FILE")
    if settings.offline:
        raise SettingError("--offline", "yes", Remedy.UPSTREAM_NEEDED)
    targets = [] if all_files else _targets(pythons, platforms)
    wanted = _wanted(settings, names, files, indexes)
    wanted.limit_to(targets)
    # After reading the FILEs: root may name files that only root may read.
    act_as_owner(settings.cache_dir)
    limit_log(configuration, logging.CRITICAL)
    with contextlib.closing(Cache.of(settings, wait=_PATIENCE)) as cache, _interruptible():
        require_writable(settings, cache.catalog)
        warmer = Warmer(cache.index, cache.files, cache.store, cache.quota, jobs)
        result = _warm(warmer, wanted, targets, settings)
        cache.store.write_last_uses()
    _print_result(result, as_json=as_json)
    return 1 if result.failed else 0


def _targets(pythons: Sequence[str], platforms: Sequence[str]) -> list[Target]:
    """Return a target for each pair of a Python and a platform. Raises SettingError."""
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


def _wanted(
    settings: Settings, names: Sequence[str], files: Sequence[Path], indexes: Sequence[str]
) -> Wanted:
    """Return all that the command line asks for. Raises SettingError."""
    wanted = Wanted()
    urls = IndexUrls.of(
        [settings.upstream_base_url, PUBLIC_INDEX, f"http://{settings.bind}", *indexes]
    )
    for name in names:
        wanted.add_requirement(name)
    for file in files:
        wanted.add_file(file, urls)
    return wanted


def _warm(
    warmer: Warmer, wanted: Wanted, targets: Sequence[Target], settings: Settings
) -> WarmResult:
    """Fetch the pages, select their files and fetch these."""
    result = WarmResult(len(wanted.by_project), skipped=wanted.skipped)
    files = _select(warmer, wanted, targets, result)
    if excess := warmer.excess(files):
        raise _too_much(settings, excess)
    _fetch(warmer, files, result)
    return result


def _select(
    warmer: Warmer, wanted: Wanted, targets: Sequence[Target], result: WarmResult
) -> list[File]:
    """Fetch the pages; return the selected files and their core metadata."""
    projects, selection = list(wanted.by_project), Selection()
    with progress_bar(len(projects), "fetching pages") as advance:

        def select(project: str) -> Selection:
            return warmer.select(project, wanted.by_project[project], targets)

        for _, found in warmer.each(projects, select):
            selection.add(found.files.values())
            result.failed += found.missing
            advance(1)
    files = list(selection.files.values())
    return files + [file.metadata for file in files if file.is_wheel and file.metadata is not None]


def _too_much(settings: Settings, excess: float) -> SettingError:
    """Return the error for files that take `excess` bytes more than the limits allow."""
    limits = {"--cache-max-size": settings.cache_max_size, "--min-free": settings.min_free}
    set_limits = {name: format_size(size) for name, size in limits.items() if size}
    remedy = Remedy.NO_ROOM.format(excess=format_size(excess))
    return SettingError(" and ".join(set_limits), ", ".join(set_limits.values()), remedy)


def _fetch(warmer: Warmer, files: Sequence[File], result: WarmResult) -> None:
    missing = [file for file in files if warmer.stored_size(file) is None]
    result.already_stored = len(files) - len(missing)
    if not missing:
        return
    # Pages seldom give the size of core metadata, which are small.
    with progress_bar(sum(file.size or 1 for file in missing), "fetching files") as advance:
        for file, reason in warmer.each(missing, lambda file: warmer.fetch(file, advance)):
            size = warmer.stored_size(file)
            if reason is not None:
                result.failed.append((file.filename, reason))
            elif size is not None:
                result.fetched += 1
                result.fetched_bytes += size


def _print_result(result: WarmResult, *, as_json: bool) -> None:
    for title, lines in (("skipped", result.skipped), ("failed", result.failed)):
        for what, reason in lines:
            click.echo(f"{title} {what}: {' '.join(reason.split())}", err=True)
    click.echo(json.dumps(result.as_json(), indent=2) if as_json else str(result))


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Raise KeyboardInterrupt in the current greenlet on SIGINT.

    Without the handler, Python raises the exception in the greenlet that runs at that moment.
    """
    handler = gevent.signal_handler(
        signal.SIGINT, gevent.kill, gevent.getcurrent(), KeyboardInterrupt
    )
    try:
        yield
    finally:
        handler.cancel()
