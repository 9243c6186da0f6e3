"""Parses header fields of responses (RFC 9110). `headers` ignore the case of field names."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from email.message import Message
from email.utils import parsedate_to_datetime
from urllib.parse import quote, unquote

from urllib3 import Retry
from urllib3.exceptions import InvalidHeader

from pytail.model import Validators
from pytail.simple import fields

_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})", re.ASCII)
_STRONG_ETAG = re.compile(r'"[\x21\x23-\x7e]*"')
#: Characters that stay in a URL as they are: those of RFC 3986, and those that make it malformed.
_URL = "!#$%&'()*+,-./:;=?@[]_~\\" + "".join(map(chr, (*range(32), 127)))
#: A percent-encoded byte outside of ASCII in the host name.
_ENCODED_HOST = re.compile(
    r"((?:https?:)?//(?:[^/?#@]*@)?)([^/?#@:]*%[89A-F][^/?#@:]*)", re.IGNORECASE
)
#: Characters of the longest validator that is kept.
_MAX_VALIDATOR = 1000


def retry_after(headers: Mapping[str, str]) -> int | None:
    """Return the seconds of Retry-After, given as such or as a date (section 10.2.3).

    A date in the past is 0 seconds, one in the future at most 6 hours. None: absent or malformed.
    """
    value = headers.get("Retry-After", "").strip()
    if value.isdigit():
        return fields.serial(value)
    try:
        return math.ceil(Retry().parse_retry_after(value))
    except (InvalidHeader, ValueError, OverflowError):
        # Besides its own error, the two of dates beyond what the platform can count.
        return None


def content_range(headers: Mapping[str, str]) -> tuple[int, int, int] | None:
    """Return the start, stop and size in bytes of Content-Range (section 14.4).

    `stop` is one behind the last byte. None: absent, malformed, or without the size of the file.
    """
    match = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", "").strip())
    if match is None:
        return None
    start, last, size = map(int, match.groups())
    return start, last + 1, size


def content_length(headers: Mapping[str, str]) -> int | None:
    """Return the bytes of Content-Length (section 8.6). None: absent or malformed."""
    return fields.serial(headers.get("Content-Length"))


def is_chunked(headers: Mapping[str, str]) -> bool:
    """Return whether the body has the transfer coding ``chunked``, which marks its end (RFC 9112)."""
    return headers.get("Transfer-Encoding", "").strip().lower().endswith("chunked")


def strong_etag(headers: Mapping[str, str]) -> str | None:
    """Return ETag where it is a strong validator (section 8.8.3), quotes included, else None."""
    etag = headers.get("ETag", "").strip()
    return etag if _STRONG_ETAG.fullmatch(etag) else None


def validators(headers: Mapping[str, str]) -> Validators:
    """Return ETag and Last-Modified verbatim, and the bytes of Content-Length, of a whole response."""
    etag, modified = (headers.get(name, "").strip() for name in ("ETag", "Last-Modified"))
    return Validators(
        etag if 0 < len(etag) <= _MAX_VALIDATOR else None,
        modified if 0 < len(modified) <= _MAX_VALIDATOR else None,
        content_length(headers),
    )


def date(value: str | None) -> float | None:
    """Return the seconds since the epoch of an HTTP date (section 5.6.7). None: absent or malformed."""
    try:
        return None if value is None else parsedate_to_datetime(value).timestamp()
    except (ValueError, OverflowError):
        return None


def location(headers: Mapping[str, str]) -> str | None:
    """Return Location (section 10.2.2) in ASCII; None: absent or empty.

    Many servers send a path in raw UTF-8. Each byte that may not stand in a URL is percent-encoded,
    and a host name is encoded as IDNA.
    """
    # http.client decodes each byte as one character.
    raw = headers.get("Location", "").strip().encode("latin-1", "replace")
    return _idna(quote(raw, safe=_URL)) or None


def _idna(url: str) -> str:
    """Return `url` with a percent-encoded host name in its ASCII form (RFC 5890)."""
    match = _ENCODED_HOST.match(url)
    if match is None:
        return url
    try:
        return f"{match[1]}{unquote(match[2], errors='strict').encode('idna').decode()}{url[match.end() :]}"
    except UnicodeError:
        return url


def strong_last_modified(headers: Mapping[str, str], now: float) -> str | None:
    """Return Last-Modified where no other version can have the same one (section 8.8.2.2), else None.

    It counts whole seconds, so it tells nothing of a version that is sent within its own second. `now`,
    in seconds since the epoch, counts where there is no Date.
    """
    value = validators(headers).last_modified
    modified_at, sent_at = date(value), date(headers.get("Date"))
    if modified_at is None or (now if sent_at is None else sent_at) - modified_at < 1:
        return None
    return value


def media_type(headers: Mapping[str, str]) -> tuple[str, str | None]:
    """Return type and charset of Content-Type (section 8.3), in lower case.

    An absent type is "none/none", a malformed one "text/plain". None: there is no charset.
    """
    message = Message()
    # A field that is there twice is joined by a comma.
    message["Content-Type"] = headers.get("Content-Type", "none/none").partition(",")[0]
    return message.get_content_type(), message.get_content_charset()
