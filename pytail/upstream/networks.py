"""Which networks a host that upstream names may lie in.

Upstream's pages and redirects name hosts, and pytail stands where its clients may not reach. So a
public upstream must not name a host in a private network. The resolved address counts, right
before the connection to that address.
"""

from __future__ import annotations

import enum
import math
import socket
import time
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import TypeAlias

from urllib3.exceptions import HTTPError

Address: TypeAlias = IPv4Address | IPv6Address


class Network(enum.Enum):
    """The kinds of networks by who can reach them (RFC 6890); the value is a name for messages."""

    GLOBAL = "public"
    PRIVATE = "private"
    LINK_LOCAL = "link-local"
    LOOPBACK = "loopback"
    MULTICAST = "multicast"


#: RFC 1918, 6598 (between a provider and its customers), 6890, 2544 and 1112. Documentation
#: networks (RFC 5737) are left out: no host has such an address.
_PRIVATE = tuple(
    ip_network(text)
    for text in (
        "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "192.0.0.0/24",
        "198.18.0.0/15", "240.0.0.0/4",
    )
)  # fmt: skip
#: RFC 3927, and the services of clouds that give credentials to any process on the machine.
_LINK_LOCAL = tuple(
    ip_network(text)
    for text in (
        "169.254.0.0/16", "100.100.100.200", "168.63.129.16", "192.0.0.192", "fe80::/10",
        "fd00:ec2::/32", "fd20:ce::/32",
    )
)  # fmt: skip
#: RFC 1122; on Linux, connections to 0.0.0.0 and :: reach the machine itself.
_LOOPBACK = tuple(ip_network(text) for text in ("127.0.0.0/8", "0.0.0.0/8", "::1", "::"))
_MULTICAST = tuple(ip_network(text) for text in ("224.0.0.0/4", "255.255.255.255", "ff00::/8"))
#: RFC 4291: all global IPv6 addresses are in here.
_GLOBAL_IPV6 = ip_network("2000::/3")
#: Prefixes that an IPv4 address follows: mapped, compatible, translated (RFC 4291, 2765, 6052).
_BEFORE_IPV4 = tuple(
    ip_network(text) for text in ("::ffff:0:0/96", "::/96", "::ffff:0:0:0/96", "64:ff9b::/96")
)

#: Seconds for which the networks of upstream are remembered.
_REMEMBERED = 60.0


class AddressRefused(HTTPError):
    """`host` has an address in a `network` to which upstream may not lead."""

    def __init__(self, host: str, network: Network) -> None:
        super().__init__(f"{host} has a {network.value} address")
        self.host, self.network = host, network


def network_of(address: str) -> Network:
    """Return the kind of network of an IP address; an IPv4 address inside of IPv6 counts as such."""
    parsed = _embedded(ip_address(address.partition("%")[0]))
    for kind, networks in (
        (Network.LOOPBACK, _LOOPBACK),
        (Network.LINK_LOCAL, _LINK_LOCAL),
        (Network.MULTICAST, _MULTICAST),
        (Network.PRIVATE, _PRIVATE),
    ):
        if any(parsed in network for network in networks):
            return kind
    is_global = parsed.version == 4 or parsed in _GLOBAL_IPV6
    return Network.GLOBAL if is_global else Network.PRIVATE


def any_network(_address: str) -> Network:
    """Return the kind of network to which upstream may always lead, for ``--allow-private-redirects``."""
    return Network.GLOBAL


def literal_address(host: str) -> str | None:
    """Return the IP address that `host` spells, None for a name.

    Resolvers also read 127.1 and 0x7f000001 as IPv4 addresses.
    """
    host = host.strip("[]").rstrip(".").partition("%")[0]
    try:
        return str(ip_address(host))
    except ValueError:
        pass
    try:
        return socket.inet_ntoa(socket.inet_aton(host)) if host else None
    except (OSError, UnicodeError):
        return None


def known_address(host: str) -> str | None:
    """Return the IP address of `host` where it is known without DNS: RFC 6761 for ``localhost``."""
    name = host.rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return "127.0.0.1"
    return literal_address(host)


class Reach:
    """The networks to which upstream may lead, by those in which it lies itself.

    A public upstream may lead to public addresses only, any other one also to private ones. Link-local
    and loopback addresses are permitted where all addresses of upstream are of that kind.
    """

    def __init__(
        self,
        host: str,
        resolve: Callable[[str], list[str]],
        classify: Callable[[str], Network] = network_of,
    ) -> None:
        """`host` is that of upstream; `resolve` returns the IP addresses of a host."""
        self._host, self._resolve, self._classify = host, resolve, classify
        self._permitted, self._until = frozenset({Network.GLOBAL}), -math.inf

    def refusal(self, host: str, address: str) -> AddressRefused | None:
        """Return the error for an IP `address` of `host`; None where upstream may lead there."""
        network = self._classify(address)
        # Most hosts are public, so upstream need not be resolved.
        if network is Network.GLOBAL or network in self._networks():
            return None
        return AddressRefused(host, network)

    def _networks(self) -> frozenset[Network]:
        if time.monotonic() >= self._until:
            try:
                own = {self._classify(address) for address in self._resolve(self._host)}
            except (OSError, UnicodeError):
                # An upstream whose name only a proxy can resolve counts as public.
                return self._permitted
            self._permitted = _reachable_from(own)
            self._until = time.monotonic() + _REMEMBERED
        return self._permitted


def _reachable_from(own: set[Network]) -> frozenset[Network]:
    permitted = {Network.GLOBAL}
    if own - permitted:
        permitted.add(Network.PRIVATE)
    if len(own) == 1:
        # A public index could list an address of the machine itself among its own.
        permitted |= own
    return frozenset(permitted - {Network.MULTICAST})


def _embedded(address: Address) -> Address:
    """Return the IPv4 address in an IPv6 address of a translation or tunnel, else `address`."""
    if isinstance(address, IPv4Address) or address in _LOOPBACK[2] or address in _LOOPBACK[3]:
        return address
    if any(address in network for network in _BEFORE_IPV4):
        return IPv4Address(int(address) & 0xFFFFFFFF)
    # `sixtofour` is of RFC 3056; `teredo` has server and client (RFC 4380).
    return address.sixtofour or (address.teredo[1] if address.teredo else address)
