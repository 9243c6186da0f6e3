"""URLs: resolved, split, and shown without secrets.

Secrets of a URL are its credentials, its query (signatures) and, for clients, its path (tokens of
private indexes). `masked` and `shown` are for the log, `host_of` and `hosts_only` for clients.
"""

from __future__ import annotations

import functools
import hashlib
import re
from typing import TypeAlias
from urllib.parse import SplitResult, quote, unquote, urljoin, urlsplit

#: Scheme, host and port.
Origin: TypeAlias = tuple[str, str | None, int]

_UNSAFE_IN_URL = re.compile(r"[\x00-\x20\x7f\\\ud800-\udfff]")
#: Credentials, in a URL and alone; in a URL they may have a "/" in them where no port is before it.
_CREDENTIALS = (
    re.compile(r"(?<=//)[^/@]*(?:@[^/@]*)*@"),
    re.compile(r"(?<=//)[^/@\s:]*:(?!\d+/)[^@\s]*@"),
    re.compile(r"[^\s/\\@:'\"(=]+:[^\s/@]*@"),
)
#: Begins what stands for the query of a redacted URL.
_STAND_IN = "redacted:"
_DIGEST = re.compile(rb"(?<=\?)redacted:[0-9a-f]{64}")
_QUERY = re.compile(r"\?(?=[^\s'\"<>),;])[^ \t\r\n\"]*")
#: A URL in a text, without the punctuation that follows it.
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:(?://|\\\\)\S*?(?=[:,;.)'\"]*(?:\s|$))")
#: A path at the beginning of a word, and not the end of a URL.
_PATH = re.compile(r"(?<![^\s'\"(=])[/\\]+[^\s'\")]+")
#: Most links match, and need no parsing.
_PLAIN_URL = re.compile(r"https?://[A-Za-z0-9.-]+/[A-Za-z0-9._~!$&'()*+,;=:@%/-]*")
#: ``../`` any number of times, then names that begin with a letter or digit: no name is a dot.
_PLAIN_PATH = re.compile(
    r"((?:\.\./)*)((?:[A-Za-z0-9][A-Za-z0-9._~!+%-]*/)*[A-Za-z0-9][A-Za-z0-9._~!+%-]*)"
)


def masked(text: str) -> str:
    """Return `text` with ``***`` for credentials and for the query of each URL in it, for the log."""
    if "@" in text:
        for pattern in _CREDENTIALS:
            text = pattern.sub("***@", text)
    return _QUERY.sub("?***", text) if "?" in text else text


def shown(url: str) -> str:
    """Return `url` in ASCII without credentials, query and fragment, for the log.

    Raises nothing, also where `url` is no URL.
    """
    return quote(masked(without_query(url)), safe="!$&'()*+,/:;=@[]~%")


def host_of(url: str) -> str:
    """Return scheme, host and port of `url`, which are all that clients see of it.

    Raises nothing, also where `url` is no URL.
    """
    try:
        scheme, host, _ = origin(url)
    except ValueError:
        host = None
    if not host:
        return "(a URL without a host)"
    netloc = urlsplit(url).netloc.rpartition("@")[2]
    return quote(f"{scheme}://{netloc}", safe=":/[]")


def hosts_only(text: str) -> str:
    """Return `text` with the host for each URL in it, and ``/...`` for each path, for clients."""
    text = _URL.sub(lambda match: host_of(match[0]), text)
    return _PATH.sub("/...", text)


def shares_directory(url: str, page: str) -> bool:
    """Return whether `url` has a directory of `page` in its path, other than ``simple``.

    The path of a private index may have a token in it.
    """
    directories = {unquote(each) for each in urlsplit(page).path.rstrip("/").split("/")[1:-1]}
    found = {unquote(each) for each in urlsplit(url).path.split("/")[1:]}
    return not found.isdisjoint(directories - {"", "simple", "+simple"})


def with_suffix(url: str, suffix: str) -> str:
    """Return `url` with `suffix` at the end of its path, before a query, which may be empty."""
    path, mark, query = url.partition("?")
    return path + suffix + mark + query


def redacted(url: str) -> str:
    """Return `url` with the digest of all of it for its query, which can be a signature."""
    path, mark, _ = url.partition("?")
    return f"{path}?{_STAND_IN}{url_digest(url)}" if mark else url


def without_digests(text: bytes) -> bytes:
    """Return `text` without the digests that stand for queries in the URLs in it."""
    return _DIGEST.sub(_STAND_IN.encode(), text)


def is_redacted(url: str) -> bool:
    """Return whether `url` comes from `redacted`, and so cannot be requested."""
    return url.partition("?")[2].startswith(_STAND_IN)


def url_digest(url: str) -> str:
    """Return the sha256 of `url` in hex, also of a redacted one."""
    _, mark, digest = url.partition(f"?{_STAND_IN}")
    return digest if mark else hashlib.sha256(url.encode()).hexdigest()


def without_query(url: str) -> str:
    """Return `url` without query and fragment."""
    return url.partition("#")[0].partition("?")[0]


def without_credentials(url: str) -> str:
    """Return `url` without credentials, query and fragment: the same index for every user of it."""
    parts = urlsplit(url)
    netloc = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=netloc, query="", fragment="").geturl()


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
