"""Parsers of one value of a setting.

Each parser takes a string, and raises ValueError with the remedy where the string is not valid.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

_HOST = re.compile(r"[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+(?:%[\w.-]+)?\]")
_PORT = re.compile(r"[0-9]{1,5}")
_QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]+)?|\.[0-9]+|[0-9]+e[0-9])\s*([A-Za-z]*)", re.ASCII)
_INTERNAL = re.compile(r"(?:/[A-Za-z0-9._+~-]+)+/*")
_DURATIONS = {"": 1, "ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
#: A letter alone is a power of 1024, as in nginx and systemd.
_SIZES = {"": 1, "b": 1} | {
    letter + suffix: base**power
    for power, letter in enumerate("kmgt", start=1)
    for suffix, base in (("", 1024), ("ib", 1024), ("b", 1000))
}


@dataclasses.dataclass(frozen=True, slots=True)
class Bind:
    """A listen address: a TCP `host` and `port`, or the `path` of a Unix socket."""

    host: str = ""
    port: int = 0
    #: None for TCP.
    path: str | None = None

    def __str__(self) -> str:
        if self.path is not None:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def bind(value: str) -> Bind:
    """Parse ``host:port``, ``[::1]:port`` or ``unix:/path``."""
    if value.startswith("unix:"):
        path = value.removeprefix("unix:")
        if not path or "\0" in path:
            raise ValueError("name the socket: unix:/path")
        return Bind(path=path)
    host, _, port = value.rpartition(":")
    if not _HOST.fullmatch(host) or not _PORT.fullmatch(port) or int(port) > 65535:
        raise ValueError("give host:port, [ipv6]:port or unix:/path, with a port from 0 to 65535")
    return Bind(host=host.strip("[]"), port=int(port))


@dataclasses.dataclass(frozen=True, slots=True)
class Proxies:
    """The proxies whose X-Forwarded-For is trusted."""

    networks: tuple[IPv4Network | IPv6Network, ...] = ()
    #: Whether those that connect to a Unix socket are trusted.
    unix: bool = False

    def __str__(self) -> str:
        return ", ".join([*(["unix"] if self.unix else []), *map(_network, self.networks)])

    def has(self, address: IPv4Address | IPv6Address) -> bool:
        """Return whether `address` is that of a trusted proxy."""
        return any(address in network for network in self.networks)


def proxies(value: str) -> Proxies:
    """Parse addresses and networks, and ``unix`` for a Unix socket, separated by commas."""
    items = [item.strip().lower() for item in value.split(",") if item.strip()]
    try:
        networks = [_parsed_network(item) for item in items if item != "unix"]
    except ValueError:
        raise ValueError(
            "give addresses or networks, such as 192.0.2.1, 2001:db8::/32, or unix for a Unix socket"
        ) from None
    return Proxies(tuple(networks), "unix" in items)


def _parsed_network(text: str) -> IPv4Network | IPv6Network:
    network = ip_network(re.sub(r"^\[(.*)\]$", r"\1", text), strict=False)
    mapped = getattr(network.network_address, "ipv4_mapped", None)
    if mapped is None or network.prefixlen < 96:
        return network
    # IPv4 addresses are compared as such (RFC 4291, section 2.5.5.2).
    return ip_network((mapped, network.prefixlen - 96), strict=False)


def _network(network: IPv4Network | IPv6Network) -> str:
    is_address = network.prefixlen == network.max_prefixlen
    return str(network.network_address if is_address else network)


def upstream_base_url(value: str) -> str:
    """Parse the URL of an index; return it without ``/simple`` and trailing slash."""
    value = value.strip()
    try:
        parts = urlsplit(value)
        is_usable = parts.scheme in ("http", "https") and bool(parts.hostname)
        is_usable = is_usable and parts.port != 0 and not re.search(r"[\x00-\x20\x7f\\]", value)
    except ValueError:
        is_usable = False
    if not is_usable:
        raise ValueError("give an http or https URL, such as https://index.example.org")
    if parts.query or parts.fragment:
        raise ValueError("give the URL without ? and #")
    if "@" in parts.path:
        # Probably the rest of a password, which would be logged and sent to upstream.
        raise ValueError("write / in a password as %2F, and @ in a path as %40")
    path = re.sub(r"//+", "/", parts.path).rstrip("/")
    path = path.removesuffix("/simple").rstrip("/")
    return urlunsplit((parts.scheme, parts.netloc, path, "", ""))


def directory(value: str) -> Path:
    """Parse the path of a directory, which need not exist."""
    if not value.strip() or "\0" in value:
        raise ValueError("name a directory")
    try:
        return Path(value).expanduser()
    except RuntimeError:
        raise ValueError("name a directory; the user after ~ has no home directory") from None


def seconds(value: str) -> float:
    """Parse a duration of zero or more, in seconds or with a unit; return seconds."""
    match = _QUANTITY.fullmatch(value.strip())
    unit = _DURATIONS.get(match[2].lower()) if match else None
    number = math.nan if match is None or unit is None else float(match[1]) * unit
    if not 0 <= number < 10**9:
        raise ValueError("give a number of seconds, zero or more, or one with a unit, such as 15m")
    return number


def timeout(value: str) -> float:
    """Parse a duration above zero, as `seconds` does."""
    number = seconds(value)
    if number == 0:
        raise ValueError("give a number of seconds above zero")
    return number


def limit(value: str) -> int:
    """Parse a size of zero or more, in bytes or with a unit; return bytes."""
    match = _QUANTITY.fullmatch(value.strip())
    unit = _SIZES.get(match[2].lower()) if match else None
    number = math.nan if match is None or unit is None else float(match[1]) * unit
    if not 0 <= number < 10**18:
        raise ValueError("give a number of bytes, zero or more, or one with a unit, such as 20GiB")
    return int(number)


def size(value: str) -> int:
    """Parse a size above zero, as `limit` does."""
    number = limit(value)
    if number == 0:
        raise ValueError("give a number of bytes above zero")
    return number


def count(value: str) -> int:
    """Parse a whole number above zero."""
    if not re.fullmatch(r"[0-9]{1,9}", value.strip(), re.ASCII) or int(value) == 0:
        raise ValueError("give a whole number above zero")
    return int(value)


def file(value: str) -> Path | None:
    """Parse the path of a file or directory; return None for an empty string."""
    return directory(value) if value else None


def internal_path(value: str) -> str:
    """Parse the path of an nginx location; return it with a slash at the end, or an empty string."""
    value = value.strip()
    if value and (not _INTERNAL.fullmatch(value) or ".." in value):
        raise ValueError("give the path of an internal location of nginx, such as /+held/")
    return f"{value.rstrip('/')}/" if value else ""


def switch(value: str) -> bool:
    """Parse yes or no, true or false, on or off, 1 or 0."""
    words = {"1": True, "true": True, "yes": True, "on": True}
    words |= {"0": False, "false": False, "no": False, "off": False}
    if value.strip().lower() not in words:
        raise ValueError("give yes or no")
    return words[value.strip().lower()]


def choice(*words: str) -> Callable[[str], str]:
    """Return a parser of one of `words`, in upper or lower case."""

    def parse(value: str) -> str:
        word = value.strip().lower()
        if word not in words:
            nearest = difflib.get_close_matches(word, words, n=1)
            hint = f"; did you mean {nearest[0]}?" if nearest else ""
            raise ValueError(f"give {', '.join(words[:-1])} or {words[-1]}{hint}")
        return word

    return parse
