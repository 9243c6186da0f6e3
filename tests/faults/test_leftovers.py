"""The check that each test of a fault ends with: it finds what a fault left."""

from __future__ import annotations

import contextlib
import fcntl
import socket
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import gevent
import pytest

from pytail.upstream.limiter import Limiter
from tests.support.leftovers import nothing_left


def leave_descriptor(path: Path, after: ExitStack) -> None:
    after.enter_context(path.open())


def leave_lock(path: Path, after: ExitStack) -> None:
    fcntl.flock(after.enter_context(path.open()), fcntl.LOCK_SH)


def leave_socket(_: Path, after: ExitStack) -> None:
    after.enter_context(socket.socket())


def leave_greenlet(_: Path, after: ExitStack) -> None:
    after.callback(gevent.spawn(gevent.sleep, 60).kill)


def leave_slot(_: Path, after: ExitStack) -> None:
    limiter = Limiter("file", 1, lambda _: None)
    limiter.acquire()
    after.callback(limiter.release)


@pytest.mark.parametrize(
    ("leave", "name"),
    [
        (leave_descriptor, "file"),
        (leave_lock, "FLOCK"),
        (leave_socket, "socket"),
        (leave_greenlet, "Greenlet"),
        (leave_slot, "slots"),
    ],
)
def test_what_is_left_is_found(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    leave: Callable[[Path, ExitStack], None],
    name: str,
):
    path = tmp_path / "file"
    path.write_bytes(b"")
    with (
        contextlib.ExitStack() as after,
        pytest.raises(AssertionError, match=f"left behind: .*{name}"),
        nothing_left(tmp_path, monkeypatch, 0.05),
    ):
        leave(path, after)
