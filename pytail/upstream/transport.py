"""Connections to upstream and other hosts: pools, proxies, TLS and credentials.

Credentials and client certificate of upstream are sent to its origin only (RFC 6454), those of a
proxy to that proxy only. No message shows credentials.
"""

from __future__ import annotations

import base64
import contextlib
import logging
import netrc
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]

import urllib3
from urllib3 import BaseHTTPResponse
from urllib3.exceptions import HTTPError, ProtocolError, ProxyError
from urllib3.util.ssl_ import create_urllib3_context

from pytail import __version__
from pytail.errors import Remedy, SettingError
from pytail.runtime.threads import use_resolver_threads
from pytail.runtime.timeouts import time_limit
from pytail.urls import Origin, masked, origin

log = logging.getLogger("pytail.upstream")

#: The URL of a proxy without credentials, and the headers for the proxy.
Proxy = tuple[str, dict[str, str]]


class Transport:
    """Sends requests over pooled connections."""

    def __init__(
        self,
        base_url: str,
        timeout: float,
        environ: Mapping[str, str],
        *,
        ca: Path | None = None,
        client_cert: Path | None = None,
    ) -> None:
        """`base_url` is that of upstream, with credentials; `timeout` bounds connects and reads.

        `ca` is a PEM file or directory, trusted in addition to the system. `client_cert` is a PEM
        file with certificate and key. `environ` names proxies, SSL_CERT_FILE and netrc; it is read
        here only. Raises SettingError where one of them cannot be used.
        """
        use_resolver_threads()
        parts = urlsplit(base_url)
        self._own = origin(base_url)
        #: Seconds for a connect and for each read.
        self.timeout = timeout
        self._credentials = _credentials(parts) or _from_netrc(environ, parts.hostname or "")
        self._proxies, self._no_proxy = _proxies(environ), _variable(environ, "no")[1]
        trust = _trust(environ, ca)
        own = trust if client_cert is None else _certified(_trust(environ, ca), client_cert)
        #: By whether the origin is that of upstream, and by scheme of the proxy (None: no proxy).
        self._pools: dict[tuple[bool, str | None], urllib3.PoolManager] = {}
        for is_own, context in ((False, trust), (True, own)):
            options: dict[str, Any] = {
                "num_pools": 16,
                "maxsize": 64,
                "retries": False,
                "timeout": urllib3.Timeout(connect=timeout, read=timeout),
                "ssl_context": context,
            }
            self._pools[is_own, None] = urllib3.PoolManager(**options)
            for scheme, (url, headers) in self._proxies.items():
                self._pools[is_own, scheme] = urllib3.ProxyManager(
                    url, proxy_headers=headers, proxy_ssl_context=trust, **options
                )

    def request(self, method: str, url: str, headers: Mapping[str, str]) -> BaseHTTPResponse:
        """Return the response, its body unread; redirects are not followed.

        Raises HTTPError or OSError.
        """
        where = origin(url)
        pool = self._pools[where == self._own, self._proxy_scheme(where)]
        all_headers = {"User-Agent": f"pytail/{__version__}", **headers}
        if where == self._own:
            all_headers |= self._credentials

        def send() -> BaseHTTPResponse:
            return pool.request(
                method, url, headers=all_headers, redirect=False, preload_content=False
            )

        with self._deadline():
            try:
                return send()
            except (ProtocolError, ProxyError) as error:
                if not _is_closed_connection(error):
                    raise
            # The host may have closed the pooled connection. urllib3 replaces it by a new one.
            return send()

    def close(self) -> None:
        """Close the idle connections."""
        for manager in self._pools.values():
            for key in manager.pools.keys():  # noqa: SIM118, which iterates over the pools
                # `clear` alone closes nothing while anything refers to a pool.
                manager.pools[key].close()
            manager.clear()

    def _deadline(self) -> contextlib.AbstractContextManager[None]:
        """Bound a request to two timeouts: DNS, many addresses and slow headers exceed one."""
        longest = 2 * self.timeout
        return time_limit(longest, TimeoutError(f"no response within {longest:g} seconds"))

    def _proxy_scheme(self, where: Origin) -> str | None:
        """Return the scheme of the proxy for `where`; None: no proxy."""
        scheme, host, port = where
        # NO_PROXY may name the host with or without its port.
        if proxy_bypass_environment(f"{host}:{port}", {"no": self._no_proxy}):
            return None
        return scheme if scheme in self._proxies else None


def _is_closed_connection(error: HTTPError) -> bool:
    if isinstance(error, ProxyError):
        # urllib3 raises ProxyError also where a connection through the proxy was closed.
        return isinstance(error.original_error, ConnectionError)
    return True


def _basic(user: str | None, password: str | None) -> str:
    pair = f"{user or ''}:{password or ''}"
    # urllib3.util.make_headers encodes latin-1 only.
    return f"Basic {base64.b64encode(pair.encode()).decode()}"


def _credentials(parts: SplitResult, header: str = "Authorization") -> dict[str, str]:
    if parts.username is None and parts.password is None:
        return {}
    return {header: _basic(unquote(parts.username or ""), unquote(parts.password or ""))}


def _from_netrc(environ: Mapping[str, str], host: str) -> dict[str, str]:
    named = environ.get("NETRC")
    try:
        path = Path(named or Path(environ.get("HOME") or Path.home(), ".netrc"))
    except RuntimeError:
        return {}
    try:
        found = netrc.netrc(path).authenticators(host)
    except (netrc.NetrcParseError, OSError, ValueError) as error:
        if named or not isinstance(error, FileNotFoundError):
            # The message of a parse error may contain a password.
            reason = f"line {error.lineno}" if isinstance(error, netrc.NetrcParseError) else error
            log.warning("cannot read %s as netrc, using no credentials of it: %s", path, reason)
        return {}
    return {"Authorization": _basic(found[0], found[2])} if found else {}


def _variable(environ: Mapping[str, str], name: str) -> tuple[str, str]:
    """Return the variable of the proxy `name`, and its value; "" where it is not set."""
    variable = f"{name}_proxy"
    if variable not in environ:
        variable = variable.upper()
    return variable, environ.get(variable, "").strip()


def _proxies(environ: Mapping[str, str]) -> dict[str, Proxy]:
    """Return the proxies by the scheme of the URLs that they are for."""
    if _variable(environ, "no")[1] == "*":
        return {}
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
        raise SettingError(variable, masked(shown), Remedy.PROXY_NOT_USABLE)
    return where, _credentials(parts, "Proxy-Authorization")


def _trust(environ: Mapping[str, str], ca: Path | None) -> ssl.SSLContext:
    """Return a context that trusts the authorities of the system, SSL_CERT_FILE and `ca`."""
    context = create_urllib3_context()
    # The defaults of OpenSSL include SSL_CERT_FILE, but hide an error in reading it.
    context.load_default_certs()
    file = environ.get("SSL_CERT_FILE")
    for name, path in (("SSL_CERT_FILE", Path(file) if file else None), ("upstream CA", ca)):
        if path is not None:
            _add(context, name, path)
    return context


def _add(context: ssl.SSLContext, name: str, path: Path) -> None:
    tried = path
    try:
        for tried in _pem_files(path):
            context.load_verify_locations(tried)
    except (OSError, ValueError) as error:
        remedy = Remedy.CA_NOT_USABLE.format(reason=_reason(error))
        raise SettingError(name, tried, remedy) from error


def _pem_files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    # OpenSSL itself would read only files with a name given by `c_rehash`.
    files = [file for file in sorted(path.iterdir()) if file.is_file()]
    found = [file for file in files if b"CERTIFICATE-----" in file.read_bytes()]
    if not found:
        raise ValueError("no PEM file in this directory")
    return found


def _certified(context: ssl.SSLContext, path: Path) -> ssl.SSLContext:
    try:
        # Without a passphrase, OpenSSL would ask for one on the terminal.
        context.load_cert_chain(path, password=lambda: "")
    except (OSError, ValueError) as error:
        remedy = Remedy.CLIENT_CERT_NOT_USABLE.format(reason=_reason(error))
        raise SettingError("upstream client certificate", path, remedy) from error
    return context


def _reason(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)
