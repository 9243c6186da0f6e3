"""URLs: made absolute, taken apart, and shown without credentials."""

from __future__ import annotations

import functools
import re
from typing import TypeAlias
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

#: Scheme, host and port.
Origin: TypeAlias = tuple[str, str | None, int]

_UNSAFE_IN_URL = re.compile(r"[\x00-\x20\x7f\\]")
#: Most links are these, which need no taking apart.
_PLAIN_URL = re.compile(r"https?://[A-Za-z0-9.-]+/[A-Za-z0-9._~!$&'()*+,;=:@%/-]*")
#: Upwards, then down again by names that begin with a letter or digit, so that none is a dot.
_PLAIN_PATH = re.compile(
    r"((?:\.\./)*)((?:[A-Za-z0-9][A-Za-z0-9._~!+%-]*/)*[A-Za-z0-9][A-Za-z0-9._~!+%-]*)"
)


def masked(url: str) -> str:
    """`url` with credentials replaced, as it may be shown and logged."""
    return re.sub(r"(?<=//)[^/@]*(?:@[^/@]*)*@", "***@", url)


def without_credentials(url: str) -> str:
    """`url` as it names what we know of an index, whoever asked for it."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def origin(url: str) -> Origin:
    """Scheme, host and port of `url`: what credentials are bound to (RFC 6454)."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)


def http_url(value: object, base: str) -> str | None:
    """`value` made absolute against `base`; None unless it is http or https.

    Without fragment, and without credentials: those of the upstream URL are added where they are
    used, and stand nowhere else.
    """
    if not isinstance(value, str) or not value.strip():
        return None
    if _PLAIN_URL.fullmatch(value):
        return value
    if path := _PLAIN_PATH.fullmatch(value):
        start = _start(path[1], base)
        return None if start is None else start + path[2]
    return _joined(value, base)


@functools.lru_cache(maxsize=64)
def _start(upwards: str, base: str) -> str | None:
    """What every plain path that begins with `upwards` begins with, once absolute."""
    one = _joined(f"{upwards}x", base)
    return None if one is None else one[:-1]


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
    # A path with a raw space is common and harmless once quoted; other controls are neither.
    url = url.replace(" ", "%20")
    return None if _UNSAFE_IN_URL.search(url) else url


def filename_in(url: str) -> str:
    """The last component of the path of `url`, decoded once."""
    parts: SplitResult = urlsplit(url)
    return unquote(parts.path.rpartition("/")[2])
