"""URLs: resolved, split, and shown without credentials."""

from __future__ import annotations

import functools
import re
from typing import TypeAlias
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

#: Scheme, host and port.
Origin: TypeAlias = tuple[str, str | None, int]

_UNSAFE_IN_URL = re.compile(r"[\x00-\x20\x7f\\\ud800-\udfff]")
#: Most links match, and need no parsing.
_PLAIN_URL = re.compile(r"https?://[A-Za-z0-9.-]+/[A-Za-z0-9._~!$&'()*+,;=:@%/-]*")
#: ``../`` any number of times, then names that begin with a letter or digit: no name is a dot.
_PLAIN_PATH = re.compile(
    r"((?:\.\./)*)((?:[A-Za-z0-9][A-Za-z0-9._~!+%-]*/)*[A-Za-z0-9][A-Za-z0-9._~!+%-]*)"
)


def masked(url: str) -> str:
    """Return `url` with ``***`` for the credentials, for logs and responses."""
    return re.sub(r"(?<=//)[^/@]*(?:@[^/@]*)*@", "***@", url)


def without_credentials(url: str) -> str:
    """Return `url` without credentials: the same index for every user of it."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def origin(url: str) -> Origin:
    """Return the origin of `url` (RFC 6454), to which credentials are bound."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)


def http_url(value: object, base: str) -> str | None:
    """Return `value` as an absolute http or https URL, None where it is not one.

    A relative URL is resolved against `base`. Fragment and credentials are removed: the upstream
    client adds the credentials of the upstream URL to each request.
    """
    if not isinstance(value, str) or not value.strip():
        return None
    if _PLAIN_URL.fullmatch(value):
        return value
    if path := _PLAIN_PATH.fullmatch(value):
        prefix = _prefix(path[1], base)
        return None if prefix is None else prefix + path[2]
    return _joined(value, base)


@functools.lru_cache(maxsize=64)
def _prefix(upwards: str, base: str) -> str | None:
    """Return the absolute URL of `upwards`, which is ``../`` any number of times."""
    url = _joined(f"{upwards}x", base)
    return None if url is None else url[:-1]


def _joined(value: str, base: str) -> str | None:
    try:
        joined = urlsplit(urljoin(base, value.strip()))
        is_usable = joined.scheme in ("http", "https") and bool(joined.hostname)
        is_usable = is_usable and (joined.port is None or joined.port > 0)
        is_usable = is_usable and _UNSAFE_IN_URL.search(joined.netloc) is None
    except ValueError:
        return None
    if not is_usable:
        return None
    url = joined._replace(fragment="", netloc=joined.netloc.rpartition("@")[2]).geturl()
    # A raw space in a path is common and safe once quoted. Control characters are neither.
    url = url.replace(" ", "%20")
    return None if _UNSAFE_IN_URL.search(url) else url


def filename_in(url: str) -> str:
    """Return the last component of the path of `url`, percent-decoded once."""
    parts: SplitResult = urlsplit(url)
    return unquote(parts.path.rpartition("/")[2])
