"""Sends requests to upstream and other hosts over pooled connections.

Credentials and client certificate of upstream are sent to its origin only (RFC 6454), those of a
proxy to that proxy only. No message shows credentials.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import gevent
import urllib3
from urllib3 import BaseHTTPResponse

from pytail import __version__
from pytail.runtime.threads import use_resolver_threads
from pytail.runtime.timeouts import time_limit
from pytail.upstream.addresses import Connector, Resolve, resolve
from pytail.upstream.attempts import Hosts
from pytail.upstream.connections import (
    IDLE,
    Pool,
    pool_classes,
    socket_options,
)
from pytail.upstream.credentials import Netrc, credentials_in
from pytail.upstream.networks import Network, Reach, known_address, network_of
from pytail.upstream.proxies import Proxies
from pytail.upstream.tls import certified, trust
from pytail.urls import origin


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
        idle: float = IDLE,
        resolve: Resolve = resolve,
        classify: Callable[[str], Network] = network_of,
    ) -> None:
        """`base_url` is that of upstream, with credentials; `timeout` bounds connects and reads.

        `ca` is a PEM file or directory, trusted in addition to the system. `client_cert` is a PEM
        file with certificate and key. `environ` names proxies, SSL_CERT_FILE and netrc; it is read
        here only. A connection that is idle for `idle` seconds is closed. `resolve` returns the
        addresses of a host, and `classify` the network of one, by which upstream may lead there or
        not. Raises SettingError where one of them cannot be used.
        """
        use_resolver_threads()
        parts = urlsplit(base_url)
        host = parts.hostname or ""
        self._own = origin(base_url)
        #: Seconds for a connect and for each read.
        self.timeout = timeout
        self._idle = idle
        headers = credentials_in(parts)
        self._credentials: Callable[[], dict[str, str]] = (
            (lambda: headers) if headers else Netrc(environ, host).headers
        )
        self._proxies = Proxies(environ)
        addresses = lambda name: [where[0] for _, where in resolve(name, self._own[2])]  # noqa: E731
        self._reach = Reach(host, addresses, classify)
        self._connector, self._hosts = Connector(resolve), Hosts()
        self._trust = trust(environ, ca)
        own = self._trust
        if client_cert is not None:
            own = certified(trust(environ, ca), client_cert)
        #: By whether the origin is that of upstream, and by scheme of the proxy (None: no proxy).
        self._managers = {
            (is_own, scheme): self._manager(context, scheme, is_own=is_own)
            for is_own, context in ((False, self._trust), (True, own))
            for scheme in (None, *self._proxies.by_scheme)
        }
        self._reaper: gevent.Greenlet | None = None
        self._is_closed = False

    def request(self, method: str, url: str, headers: Mapping[str, str]) -> BaseHTTPResponse:
        """Return the response, its body unread; redirects are not followed. GET and HEAD only.

        A request is sent once more, over a new connection, where the connection closes without a
        response, or where a reused one is silent. Raises HTTPError, such as AddressRefused, or
        OSError.
        """
        where = origin(url)
        is_own = where == self._own
        scheme = self._proxies.scheme_for(where)
        if scheme is not None and not is_own:
            self._require_address(where[1] or "")
        manager = self._managers[is_own, scheme]
        call = partial(manager.request, method, url, redirect=False, preload_content=False)
        self._start_reaper()
        with self._deadline():
            sent = {"User-Agent": f"pytail/{__version__}", **headers}
            if is_own:
                sent |= self._credentials()
            return self._hosts[where].request(where[1] or "", partial(call, headers=sent))

    def close(self) -> None:
        """Close the idle connections."""
        self._is_closed = True
        if self._reaper is not None:
            self._reaper.kill()
        for pool in self._each_pool():
            # `clear` alone closes nothing while anything refers to a pool.
            pool.close()
        for manager in self._managers.values():
            manager.clear()

    def _manager(
        self, context: ssl.SSLContext, scheme: str | None, *, is_own: bool
    ) -> urllib3.PoolManager:
        options: dict[str, Any] = {
            "num_pools": 16,
            "maxsize": 64,
            "retries": False,
            "timeout": urllib3.Timeout(connect=self.timeout, read=self.timeout),
            "ssl_context": context,
            "socket_options": socket_options(),
        }
        refusal = None
        if scheme is not None:
            url, headers = self._proxies.by_scheme[scheme]
            options |= {"proxy_headers": headers, "proxy_ssl_context": self._trust}
            manager: urllib3.PoolManager = urllib3.ProxyManager(url, **options)
        else:
            # Where the operator names upstream itself or a proxy, any address will do.
            refusal = None if is_own else self._reach.refusal
            manager = urllib3.PoolManager(**options)
        connect = partial(self._connector.connect, refusal=refusal)
        manager.pool_classes_by_scheme = pool_classes(connect, self._idle)
        return manager

    def _require_address(self, host: str) -> None:
        """Raise AddressRefused where `host` spells an address that upstream may not lead to.

        The proxy resolves a name, so its addresses are unknown.
        """
        address = known_address(host)
        error = None if address is None else self._reach.refusal(host, address)
        if error is not None:
            raise error

    def _deadline(self) -> contextlib.AbstractContextManager[None]:
        """Bound a request to two timeouts: DNS, many addresses and slow headers exceed one."""
        longest = 2 * self.timeout
        return time_limit(longest, TimeoutError(f"no response within {longest:g} seconds"))

    def _each_pool(self) -> list[Pool]:
        return [
            cast(Pool, manager.pools[key])
            for manager in self._managers.values()
            for key in manager.pools.keys()  # noqa: SIM118, which iterates over the pools
        ]

    def _start_reaper(self) -> None:
        # Not in the constructor: a process that forks later, as gunicorn does, must have none.
        if self._reaper is None and not self._is_closed:
            self._reaper = gevent.spawn(self._reap)

    def _reap(self) -> None:
        while True:
            gevent.sleep(self._idle / 3)
            for pool in self._each_pool():
                pool.expire()
