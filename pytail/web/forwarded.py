"""The address of a client, which a trusted proxy tells in X-Forwarded-For.

The address is for fairness among clients and for the log. No link depends on it.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TypeAlias

from pytail.config.values import Proxies

Address: TypeAlias = IPv4Address | IPv6Address

#: An IPv4 address with a port, and an IPv6 address in brackets with or without one.
_IPV4_PORT = re.compile(r"([0-9.]+):[0-9]{1,5}", re.ASCII)
_IPV6_PORT = re.compile(r"\[([^\[\]]+)\](?::[0-9]{1,5})?", re.ASCII)


class ClientAddresses:
    """Tells who sent a request, in spite of proxies in between."""

    def __init__(self, trusted: Proxies) -> None:
        self._trusted = trusted

    def of(self, peer: str, forwarded: str | None) -> str:
        """Return the address of the client behind `peer`, whose X-Forwarded-For is `forwarded`.

        It is the right-most address that is not of a trusted proxy: each proxy appends the address
        that it sees, and all before may be invented. Returns `peer` where that is no trusted proxy,
        or where an address is malformed. `peer` is "" for a Unix socket.
        """
        if not forwarded or not self._is_trusted(peer):
            return peer
        client = peer
        for item in reversed(forwarded.split(",")):
            if not item.strip():
                continue
            address = _address(item.strip())
            if address is None:
                return peer
            client = str(address)
            if not self._trusted.has(address):
                break
        return client

    def _is_trusted(self, peer: str) -> bool:
        # The peer of a Unix socket has no address, or a path as its address.
        address = _address(peer)
        return self._trusted.unix if address is None else self._trusted.has(address)


def _address(text: str) -> Address | None:
    """Return the address in `text`, with or without a port; None where there is none.

    An IPv4 address in an IPv6 one (RFC 4291, section 2.5.5.2), as a socket for both shows it, is
    returned as such.
    """
    match = _IPV4_PORT.fullmatch(text) or _IPV6_PORT.fullmatch(text)
    try:
        address = ip_address(match[1] if match else text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
