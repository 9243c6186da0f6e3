"""The proxies that the environment names, and the hosts without proxy, as curl reads both."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from ipaddress import ip_address, ip_network
from typing import TypeAlias
from urllib.parse import urlsplit

import urllib3
from urllib3.exceptions import HTTPError

from pytail.errors import Remedy, SettingError
from pytail.upstream.credentials import credentials_in
from pytail.upstream.networks import literal_address
from pytail.urls import Origin

log = logging.getLogger("pytail.upstream")

#: The URL of a proxy without credentials, and the headers for the proxy.
Proxy: TypeAlias = tuple[str, dict[str, str]]

#: An entry of NO_PROXY with a port: an IPv6 address has brackets then.
_WITH_PORT = re.compile(r"(\[[^\]]*\]|[^:]*):([0-9]{1,5})")


class Proxies:
    """The proxies by the scheme of the URLs that they are for."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        """Raises SettingError where a variable of `environ` is no URL of a proxy."""
        self._without = NoProxy(_variable(environ, "no")[1])
        self.by_scheme = {} if self._without.is_everything else _proxies(environ)

    def scheme_for(self, where: Origin) -> str | None:
        """Return the key in `by_scheme` of the proxy for `where`; None: no proxy."""
        scheme, host, port = where
        if scheme not in self.by_scheme or self._without.covers(host or "", port):
            return None
        return scheme


class NoProxy:
    """The value of NO_PROXY: hosts, domains, IP addresses and networks, or ``*``."""

    def __init__(self, value: str) -> None:
        """Entries are separated by commas or spaces; each may end with a port."""
        self.is_everything = value.strip() == "*"
        self._entries = [_entry(text) for text in re.split(r"[\s,]+", value.lower()) if text]

    def covers(self, host: str, port: int) -> bool:
        """Return whether `host` is to be reached without a proxy. No name is resolved."""
        host = host.strip("[]").rstrip(".").lower()
        address = literal_address(host)
        matches = _is_name_below if address is None else _is_address_in
        return any(
            wanted in (None, port) and matches(address or host, pattern)
            for pattern, wanted in self._entries
        )


def _entry(text: str) -> tuple[str, int | None]:
    """Return host, domain, address or network of an entry of NO_PROXY, and its port."""
    match = _WITH_PORT.fullmatch(text)
    pattern = match[1] if match else text
    return pattern.replace("[", "").replace("]", ""), int(match[2]) if match else None


def _is_name_below(host: str, domain: str) -> bool:
    domain = domain.removeprefix(".").rstrip(".")
    return bool(domain) and f".{host}".endswith(f".{domain}")


def _is_address_in(address: str, network: str) -> bool:
    try:
        # Bits of the host, as in 10.1.2.3/8, do not count.
        return ip_address(address) in ip_network(network.rstrip("."), strict=False)
    except ValueError:
        return False


def _variable(environ: Mapping[str, str], name: str) -> tuple[str, str]:
    """Return the variable of the proxy `name`, and its value; "" where it is not set."""
    variable = f"{name}_proxy"
    if variable not in environ:
        variable = variable.upper()
    return variable, environ.get(variable, "").strip()


def _proxies(environ: Mapping[str, str]) -> dict[str, Proxy]:
    found = {}
    for scheme in ("http", "https"):
        for variable, value in (_variable(environ, scheme), _variable(environ, "all")):
            if value:
                found[scheme] = _proxy(variable, value)
                log.info("using the proxy %s of %s for %s", found[scheme][0], variable, scheme)
                break
    return found


def _proxy(variable: str, value: str) -> Proxy:
    url = value if "://" in value else f"http://{value}"
    try:
        parts = urlsplit(url)
        where = parts._replace(netloc=parts.netloc.rpartition("@")[2], path="").geturl()
        is_usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        # A path, query or fragment may be the rest of a password with "/", "?" or "#" in it.
        is_usable = is_usable and parts.path in ("", "/") and not parts.query + parts.fragment
        urllib3.ProxyManager(where)
    except (HTTPError, ValueError):
        is_usable = False
    if not is_usable:
        shown = f"***@{value.rpartition('@')[2]}" if "@" in value else value
        raise SettingError(variable, shown, Remedy.PROXY_NOT_USABLE)
    return where, credentials_in(parts, "Proxy-Authorization")
