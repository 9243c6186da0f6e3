"""Connects to a host by the first of its addresses that accepts (RFC 8305, Happy Eyeballs)."""

from __future__ import annotations

import itertools
import socket
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, TypeAlias

from pytail.runtime.race import first_result
from pytail.runtime.timeouts import time_limit

#: An address family, and the address as `socket.connect` takes it.
Endpoint: TypeAlias = tuple[int, tuple[Any, ...]]
#: Returns the addresses of a host and port, in the order in which to try them.
Resolve: TypeAlias = Callable[[str, int], list[Endpoint]]
#: Level, name and value of an option.
Option: TypeAlias = tuple[int, int, int | bytes]
#: Returns the error for an IP address of a host that must not be connected to, else None.
Refusal: TypeAlias = Callable[[str, str], Exception | None]

#: Seconds until the next address is tried too (RFC 8305, section 8).
_DELAY = 0.25
#: Seconds for which the last good address of a host is tried first.
_REMEMBERED = 600.0
#: Most hosts whose address is remembered: pages may name any number of hosts.
_MOST_HOSTS = 1000


def resolve(host: str, port: int) -> list[Endpoint]:
    """Return the addresses of `host`, a name or an IP address, with `port`. Raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [(family, address) for family, *_, address in found]


class Connector:
    """Opens connections, and remembers which address of a host accepted the last one."""

    def __init__(self, resolve: Resolve = resolve) -> None:
        self._resolve = resolve
        #: By host and port: the last good address, and until when it is tried first.
        self._known: dict[tuple[str, int], tuple[Endpoint, float]] = {}

    def connect(
        self,
        host: str,
        port: int,
        timeout: float,
        options: Iterable[Option] = (),
        refusal: Refusal | None = None,
    ) -> socket.socket:
        """Return a socket connected to one of the addresses of `host`, with `timeout` set.

        All addresses together take `timeout` seconds at most. `options` are set on the socket.
        Addresses with a `refusal` are not tried; without any other one, it is raised. Raises OSError.
        """
        addresses = self._ordered(host, port, refusal)
        calls = [partial(_connected, address, tuple(options)) for address in addresses]
        with time_limit(timeout, TimeoutError("timed out")):
            connected, address = first_result(calls, _DELAY, lambda late: late[0].close())
        connected.settimeout(timeout)
        self._remember(host, port, address)
        return connected

    def _ordered(self, host: str, port: int, refusal: Refusal | None) -> list[Endpoint]:
        addresses = self._resolve(host, port)
        if refusal is not None:
            refused = {address: refusal(host, address[1][0]) for address in addresses}
            addresses = [address for address in addresses if refused[address] is None]
            error = next(filter(None, refused.values()), None)
            if error is not None and not addresses:
                raise error
        if not addresses:
            raise OSError("the name has no address")
        known, until = self._known.get((host, port), (addresses[0], 0.0))
        return _in_turn(addresses, known if time.monotonic() < until else addresses[0])

    def _remember(self, host: str, port: int, address: Endpoint) -> None:
        if len(self._known) >= _MOST_HOSTS:
            self._known.clear()
        self._known[host, port] = (address, time.monotonic() + _REMEMBERED)


def _in_turn(addresses: Iterable[Endpoint], first: Endpoint) -> list[Endpoint]:
    """Return `addresses` with `first` in front and the families in turn.

    So a family that does not work costs one delay, however many addresses it has.
    """
    ordered = sorted(addresses, key=lambda address: address != first)
    families = [
        [address for address in ordered if (address[0] == first[0]) is is_same]
        for is_same in (True, False)
    ]
    pairs = itertools.chain.from_iterable(itertools.zip_longest(*families))
    return [address for address in pairs if address is not None]


def _connected(address: Endpoint, options: Iterable[Option]) -> tuple[socket.socket, Endpoint]:
    family, where = address
    connection = socket.socket(family, socket.SOCK_STREAM)
    try:
        for option in options:
            connection.setsockopt(*option)
        connection.connect(where)
    except BaseException:
        # Also where another address was faster.
        connection.close()
        raise
    return connection, address
