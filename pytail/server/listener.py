"""The listening socket, TCP or Unix."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Iterator
from pathlib import Path

from pytail.config.values import Bind
from pytail.errors import Remedy, SettingError

_BACKLOG = 1024


@contextlib.contextmanager
def listening(bind: Bind) -> Iterator[socket.socket]:
    """Listen on `bind` until the block ends. Raises SettingError where that is impossible."""
    try:
        listener = _unix(bind.path) if bind.path is not None else _tcp(bind)
    except OSError as error:
        remedies = {
            errno.EADDRINUSE: Remedy.ADDRESS_IN_USE,
            errno.EACCES: Remedy.ADDRESS_NOT_PERMITTED,
        }
        remedy = remedies.get(error.errno or 0, Remedy.ADDRESS_NOT_USABLE)
        reason = error.strerror or error
        raise SettingError("bind address", bind, remedy.format(reason=reason)) from error
    with listener:
        yield listener
    if bind.path is not None:
        with contextlib.suppress(OSError):
            Path(bind.path).unlink()


def _tcp(bind: Bind) -> socket.socket:
    info = socket.getaddrinfo(
        bind.host, bind.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    family, kind, protocol, _, address = info[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Accepted sockets inherit the option; without it a small response waits 40 ms for an
        # acknowledgement.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def _unix(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if _is_abandoned(path):
            Path(path).unlink()
        listener.bind(path)
        # Like a TCP port, the socket is open to each user that may enter its directory, such as nginx.
        Path(path).chmod(0o666)
        listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def _is_abandoned(path: str) -> bool:
    """Return whether `path` is the socket of a killed process, on which no process listens."""
    if not Path(path).is_socket():
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return True
    return False
