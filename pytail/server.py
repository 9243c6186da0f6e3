"""The embedded gevent pywsgi server: bind, serve, drain on SIGTERM.

The first signal stops accepting and lets the responses under way end; a second one stops at once.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import logging
import os
import re
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import gevent
from gevent.event import Event

from pytail.app import create_app
from pytail.errors import SettingError
from pytail.settings import Bind, Settings, masked
from pytail.wire import Server

log = logging.getLogger(__name__)

_BACKLOG = 1024


def run(settings: Settings, announce: Callable[[str], None]) -> None:
    """Serve until a signal. Raises SettingError where the address or the cache cannot be used."""
    with _listening(settings.bind) as listener:
        application = create_app(settings)
        with contextlib.closing(application):
            server = Server(listener, application, settings.max_connections)
            server.start()
            # What is there now stays, and is not to be looked through again and again.
            gc.collect()
            gc.freeze()
            _announce(settings, listener, announce)
            _notify("READY=1")
            _serve(server, settings.grace_secs)


def _serve(server: Server, grace: float) -> None:
    stop = Event()

    def on_signal() -> None:
        if stop.is_set():
            log.warning("stopping at once")
            os._exit(1)
        stop.set()

    signals = [
        gevent.signal_handler(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)
    ]
    stop.wait()
    _notify("STOPPING=1")
    log.info("stopping: letting %d connections end", len(server.handlers))
    server.stop(grace)
    for watcher in signals:
        watcher.cancel()


def _announce(settings: Settings, listener: socket.socket, announce: Callable[[str], None]) -> None:
    bind = settings.bind
    if bind.path is None:
        bind = Bind(bind.host, listener.getsockname()[1])
    url = f"--index-url http://{bind}/simple/" if bind.path is None else "through its proxy"
    upstream = masked(settings.upstream_base_url)
    announce(f"pytail listens on {bind}, caches {upstream} in {settings.cache_dir}")
    announce(f"use it with: {url}")


def _notify(state: str) -> None:
    """Tell `state` to the service manager that waits for it, if any (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address.startswith(("/", "@")):
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
            # One that begins with "@" is in no directory.
            told.sendto(state.encode(), re.sub("^@", "\0", address))


@contextlib.contextmanager
def _listening(bind: Bind) -> Iterator[socket.socket]:
    try:
        listener = _unix(bind.path) if bind.path is not None else _tcp(bind)
    except OSError as error:
        remedies = {
            errno.EADDRINUSE: "is in use; stop what listens there or choose another address",
            errno.EACCES: "is not permitted; choose a port above 1023 or another path",
        }
        remedy = remedies.get(error.errno or 0, f"cannot be listened on: {error.strerror or error}")
        raise SettingError("bind address", bind, remedy) from error
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
        # Accepted sockets inherit it; without it a small answer waits 40 ms for an acknowledgement.
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
        # Like a port: who may enter its directory may ask, such as the nginx in front.
        Path(path).chmod(0o666)
        listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def _is_abandoned(path: str) -> bool:
    """Whether `path` is a socket that nobody listens on, left by a process that was killed."""
    if not Path(path).is_socket():
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return True
    return False
