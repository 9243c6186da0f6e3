"""Why a request failed: in words that clients may see, and in the words of the library, for the log.

The text of a library can have anything in it that upstream sent, and the path of a URL.
"""

from __future__ import annotations

import os
import re
import socket
import ssl
from collections.abc import Iterator

from urllib3.exceptions import (
    ConnectTimeoutError,
    DecodeError,
    HTTPError,
    IncompleteRead,
    LocationValueError,
    NameResolutionError,
    NewConnectionError,
    ProtocolError,
    ProxyError,
    ReadTimeoutError,
    SSLError,
)

from pytail.errors import UpstreamNotConnected, UpstreamUnreachable
from pytail.urls import masked

#: Characters of the longest text of a library.
_MAX_DETAIL = 300
#: By class of an error, what it means; the first one in a chain of errors that is known decides.
_MEANINGS: tuple[tuple[type[BaseException], str], ...] = (
    (NameResolutionError, "the name of the host cannot be resolved"),
    (socket.gaierror, "the name of the host cannot be resolved"),
    (ReadTimeoutError, "sent nothing for the time of --request-timeout-secs"),
    (IncompleteRead, "the connection broke off"),
    (DecodeError, "the content coding of the body is broken"),
    (LocationValueError, "the URL cannot be requested"),
)
#: The meanings of errors whose cause has none.
_VAGUE: tuple[tuple[type[BaseException], str], ...] = (
    (NewConnectionError, "the connection failed"),
    (ConnectTimeoutError, "no connection within the time of --request-timeout-secs"),
    (ProxyError, "the proxy did not connect to the host"),
)
_TUNNEL = re.compile(r"Tunnel connection failed: (\d{3})\b", re.ASCII)


def reason_of(error: BaseException) -> str:
    """Return why a request failed, without any text of upstream: fit for clients."""
    chain = list(_chain(error))
    for each in chain:
        if (text := _exact(each)) is not None:
            return text
    for each in chain:
        for kind, meaning in _VAGUE:
            if isinstance(each, kind):
                return meaning
    return "the response is broken"


def detail_of(error: BaseException) -> str:
    """Return the message of `error` in one line of up to 300 characters, for the log.

    It has neither credentials nor a query, of which a message may show any part.
    """
    text, mark, _ = " ".join(masked(str(error)).split()).partition("?")
    return (text + (mark and "?***"))[:_MAX_DETAIL] or type(error).__name__


def is_not_connected(error: BaseException) -> bool:
    """Return whether `error` is of the connection: name resolution, TCP, TLS or the proxy."""
    if isinstance(error, ProtocolError):
        # urllib3 wraps the OSError of http.client for a proxy that refuses CONNECT.
        return "Tunnel connection failed" in str(error)
    # An OSError that urllib3 has not wrapped comes from making the connection, except for the
    # TimeoutError of `Transport.request`.
    kinds = (NewConnectionError, ConnectTimeoutError, ProxyError, SSLError)
    return isinstance(error, kinds) or not isinstance(error, (HTTPError, TimeoutError))


def unreachable(url: str, error: BaseException) -> UpstreamUnreachable:
    """Return the error for a request of `url` that failed by `error`."""
    kind = UpstreamNotConnected if is_not_connected(error) else UpstreamUnreachable
    return kind(url, reason_of(error), detail=detail_of(error))


def _exact(error: BaseException) -> str | None:
    """Return what `error` means; None where it alone does not tell."""
    for kind, meaning in _MEANINGS:
        if isinstance(error, kind):
            return meaning
    if isinstance(error, ssl.SSLError):
        # An error of Python itself has no reason of OpenSSL.
        reason = getattr(error, "reason", None) or ""
        message = getattr(error, "verify_message", "") or reason.lower()
        return f"TLS failed: {message.replace('_', ' ')}" if message else "TLS failed"
    if (tunnel := _TUNNEL.search(str(error))) is not None:
        return f"the proxy refused with status {tunnel[1]}"
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno)
    # Those of the standard library and of pytail have a text of their own.
    return str(error) if isinstance(error, TimeoutError) and str(error) else None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield `error`, and the errors that it names as its causes or arguments."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        each = waiting.pop(0)
        if id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        causes = (*each.args, each.__cause__, each.__context__, getattr(each, "reason", None))
        waiting += [cause for cause in causes if isinstance(cause, BaseException)]
