"""What a test can see: what is open, what is held, and when something has come about."""

import contextlib
from collections.abc import Callable
from pathlib import Path

import gevent


def open_below(directory: Path) -> list[str]:
    """The files below `directory` that this process has open, once for each descriptor."""
    found = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(str(descriptor.readlink()))
    return [path for path in found if path.startswith(f"{directory}/")]


def held(cache: Path) -> set[str]:
    """The names of all held files."""
    return {path.name for path in (cache / "+files").rglob("*") if path.is_file()}


def until(condition: Callable[[], object], seconds: float = 5) -> None:
    """Let others go on until `condition` holds, for `seconds` at most."""
    with gevent.Timeout(seconds):
        while not condition():
            gevent.sleep(0.001)
