"""``pytail serve``, which is what ``pytail`` without a command does: bind, serve, drain on SIGTERM.

The first signal stops accepting and lets the responses under way end; a second one stops at once.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import re
import signal
import socket
from collections.abc import Callable

import click
import gevent
from gevent.event import Event

from pytail.commands.options import SETTINGS, configured
from pytail.config.load import Configuration
from pytail.config.settings import Settings
from pytail.config.values import Bind
from pytail.server.listener import listening
from pytail.server.server import Server
from pytail.urls import masked
from pytail.web.app import create_app

log = logging.getLogger("pytail.commands")


@click.command(epilog=SETTINGS)
@configured
def serve(configuration: Configuration) -> None:
    """Serve the index, as pytail does without a command."""
    run(configuration.settings, announce=click.echo)


def run(settings: Settings, announce: Callable[[str], None]) -> None:
    """Serve until a signal. Raises SettingError where the address or the cache cannot be used."""
    with listening(settings.bind) as listener:
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
    log.info("stopping: letting %d connections end", len(server.connections))
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
