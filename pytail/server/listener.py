"""The listening socket, TCP or Unix."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

from pytail.config.values import Bind
from pytail.errors import Remedy, SettingError
from pytail.runtime.locks import lock

_BACKLOG = 1024
#: Seconds to wait for another pytail that starts or stops in the same directory, and for a response of
#: the process that listens on a Unix socket.
_LOCK_TIME, _PROBE_TIME = 1.0, 1.0


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
    identity = None if bind.path is None else _identity(bind.path)
    with listener:
        yield listener
    if bind.path is not None and identity is not None:
        with contextlib.suppress(OSError), _directory_locked(bind.path):
            # A successor may listen there meanwhile, on a socket of its own.
            if _identity(bind.path) == identity:
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
        with _directory_locked(path):
            if _is_abandoned(path):
                Path(path).unlink()
            listener.bind(path)
            # Like a TCP port, the socket is open to each user that may enter its directory, such as
            # nginx.
            Path(path).chmod(0o666)
            listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def _is_abandoned(path: str) -> bool:
    """Return whether `path` is the socket of a killed process, on which no process listens."""
    if _identity(path) is None:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        # A connection waits where the process that listens accepts none.
        probe.settimeout(_PROBE_TIME)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return True
        except TimeoutError:
            return False
    return False


def _identity(path: str) -> tuple[int, int, int] | None:
    """Return what tells the socket at `path` from another one; None where no socket is there.

    A file system gives the inode number of a removed file to the next one, so the time counts too.
    """
    try:
        found = os.lstat(path)
    except OSError:
        return None
    if not stat.S_ISSOCK(found.st_mode):
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns


@contextlib.contextmanager
def _directory_locked(path: str) -> Iterator[None]:
    """Keep other starting and stopping servers from the directory of `path` until the block ends.

    A file system without such locks, such as NFS, does without.
    """
    descriptor = os.open(Path(path).parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):
            lock(descriptor, _LOCK_TIME)
        yield
    finally:
        # gevent closes a directory only when the event loop runs, and that is too late for the lock.
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)
