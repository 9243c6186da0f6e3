"""``pytail serve``: bind, serve, reload on SIGHUP, and stop on SIGTERM or SIGINT.

The first signal to stop ends the connections without a complete request and lets responses in progress
end, for --grace-secs at most. A second one ends the process at once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import logging
import os
import re
import signal
import socket
from collections.abc import Callable, Iterator

import click
import gevent
from gevent.event import Event

from pytail.commands.options import EPILOG, configured
from pytail.commands.owner import act_as_owner
from pytail.config.load import Configuration
from pytail.config.settings import Settings, flag
from pytail.config.values import Bind
from pytail.errors import SettingError
from pytail.server.listener import listening
from pytail.server.server import Server
from pytail.telemetry import logs
from pytail.urls import masked
from pytail.web.app import Application, create_app

log = logging.getLogger("pytail.commands")

#: The settings that SIGHUP reloads.
_RELOADABLE = ("log_level", "log_format")


@click.command(epilog=EPILOG)
@configured
def serve(configuration: Configuration) -> None:
    """Serve the index. pytail without a command does the same."""
    run(configuration, announce=click.echo)


def run(configuration: Configuration, announce: Callable[[str], None]) -> None:
    """Serve until a signal comes; `announce` is called with each line for the operator.

    Raises SettingError where the address or the cache directory cannot be used.
    """
    settings = configuration.settings
    with (
        _reloading(configuration),
        listening(settings.bind) as listener,
        contextlib.closing(_application(settings)) as application,
    ):
        server = Server(listener, application, settings.max_connections)
        server.start()
        _freeze_heap()
        for line in _announcement(settings, listener):
            announce(line)
        _notify("READY=1")
        with _stop_signals() as stop:
            stop.wait()
            _notify("STOPPING=1")
            log.info("stopping, connections to end: %d", len(server.connections))
            server.stop(settings.grace_secs)


@contextlib.contextmanager
def _reloading(configuration: Configuration) -> Iterator[None]:
    """Reload settings on each SIGHUP, from now until the block ends."""
    in_force = configuration.settings

    def on_signal() -> None:
        nonlocal in_force
        try:
            wanted = configuration.reloaded(os.environ).settings
        except SettingError as error:
            log.error("settings not reloaded, keeping the ones in force: %s", error)
            return
        now = {name: getattr(wanted, name) for name in _RELOADABLE}
        in_force = dataclasses.replace(in_force, **now)
        shown = ", ".join(f"{flag(name)} {value}" for name, value in now.items())
        names = [flag(field.name) for field in dataclasses.fields(Settings)
                 if getattr(wanted, field.name) != getattr(in_force, field.name)]  # fmt: skip
        rest = f"; restart to change {', '.join(names)}" if names else ""
        # The operator looks for this line, so no log level hides it.
        logs.configure("info", wanted.log_format)
        log.info("settings reloaded: %s%s", shown, rest)
        logs.configure(wanted.log_level, wanted.log_format)

    watcher = gevent.signal_handler(signal.SIGHUP, on_signal)
    try:
        yield
    finally:
        watcher.cancel()
        # A signal now must not make the exit code that of a killed process.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)


def _application(settings: Settings) -> Application:
    """Return the application; where root starts pytail, act as the owner of the cache directory.

    After binding, because only root may use ports below 1024.
    """
    with contextlib.suppress(SettingError):
        # The application warns where root stays root.
        act_as_owner(settings.cache_dir, is_required=False)
    return create_app(settings)


def _freeze_heap() -> None:
    """Exclude the objects that exist now from later garbage collections (gc.freeze)."""
    gc.collect()
    gc.freeze()


@contextlib.contextmanager
def _stop_signals() -> Iterator[Event]:
    """Yield an event that the first SIGTERM or SIGINT sets; a second one ends the process."""
    stop = Event()

    def on_signal() -> None:
        if stop.is_set():
            log.warning("stopping at once after a second signal")
            os._exit(1)
        stop.set()

    watchers = [
        gevent.signal_handler(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)
    ]
    yield stop
    for watcher in watchers:
        watcher.cancel()


def _announcement(settings: Settings, listener: socket.socket) -> list[str]:
    """Return the lines that say where pytail listens and how clients use that address."""
    bind = settings.bind
    if bind.path is None:
        # Port 0 lets the system choose a port.
        bind = Bind(bind.host, listener.getsockname()[1])
    upstream = masked(settings.upstream_base_url)
    use = "use it through the proxy in front of the socket"
    if bind.path is None:
        use = f"use it with: --index-url http://{bind}/simple/"
    return [f"pytail listens on {bind}, caches {upstream} in {settings.cache_dir}", use]


def _notify(state: str) -> None:
    """Send `state` to the service manager in NOTIFY_SOCKET, if any (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address.startswith(("/", "@")):
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager,
        ):
            # "@" stands for the null byte of an abstract socket address (unix(7)).
            manager.sendto(state.encode(), re.sub("^@", "\0", address))
