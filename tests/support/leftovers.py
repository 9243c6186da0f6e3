"""What a fault may leave in this process: descriptors, locks, slots and greenlets."""

from __future__ import annotations

import contextlib
import os
import weakref
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest

from pytail.upstream.limiter import Limiter
from tests.support.watching import open_below, until


class Held:
    """What this process holds now: files below a directory, sockets, locks, slots, greenlets."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._limiters: weakref.WeakSet[Limiter] = weakref.WeakSet()
        self._greenlets: weakref.WeakSet[gevent.Greenlet[..., Any]] = weakref.WeakSet()

    def start(self, patch: pytest.MonkeyPatch) -> None:
        """Note each limiter and each greenlet that is made from now on."""
        limiters, make = self._limiters, Limiter.__init__

        def noted(limiter: Limiter, *arguments: Any, **more: Any) -> None:
            make(limiter, *arguments, **more)
            limiters.add(limiter)

        patch.setattr(Limiter, "__init__", noted)
        gevent.Greenlet.add_spawn_callback(self._greenlets.add)

    def stop(self) -> None:
        """Note no greenlets any more."""
        gevent.Greenlet.remove_spawn_callback(self._greenlets.add)

    def now(self) -> Counter[str]:
        """Return the number of each thing held, by a text that names it."""
        held = Counter(open_below(self._directory))
        held.update(sockets())
        held.update(_locks())
        slots = sum(limiter.in_progress + limiter.waiting for limiter in self._limiters)
        held["slots"] = slots
        held.update(repr(greenlet) for greenlet in self._greenlets if not greenlet.dead)
        return held


@contextlib.contextmanager
def nothing_left(directory: Path, patch: pytest.MonkeyPatch, seconds: float = 5) -> Iterator[None]:
    """Assert that within `seconds` after the block this process holds no more than before it."""
    held = Held(directory)
    before = held.now()
    held.start(patch)
    try:
        yield
        with contextlib.suppress(gevent.Timeout):
            until(lambda: not held.now() - before, seconds)
        left = held.now() - before
    finally:
        held.stop()
    assert not left, f"left behind: {dict(left)}"


def sockets() -> Iterator[str]:
    """Yield a name of each socket that this process has open."""
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            target = str(descriptor.readlink())
            if target.startswith("socket:"):
                yield target


def _locks() -> Iterator[str]:
    for line in Path("/proc/locks").read_text().splitlines():
        _, kind, _, access, pid, file, *_ = line.split()
        if kind == "FLOCK" and int(pid) == os.getpid():
            yield f"{kind} {access} {file}"
