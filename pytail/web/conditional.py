"""Conditional requests and range requests (RFC 9110 sections 13 and 14), as functions of headers."""

from __future__ import annotations

import re

from pytail.model import ByteRange

_ETAG = re.compile(r'(?:W/)?("[^"]*")')
#: At most 99 digits: more than any client sends, and few enough for `int` to be quick.
_RANGE = re.compile(r"\s*(\d{0,99})\s*-\s*(\d{0,99})\s*", re.ASCII)


class RangeNotSatisfiable(Exception):
    """The range begins at or after the end of a file of `size` bytes."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.size = size


def etag_matches(if_none_match: str | None, etag: str) -> bool:
    """Return whether an If-None-Match header names `etag`: weak comparison, a list or ``*``."""
    if if_none_match is None:
        return False
    return if_none_match.strip() == "*" or etag in _ETAG.findall(if_none_match)


def requested_range(
    range_header: str | None, if_range: str | None, etag: str | None, size: int
) -> ByteRange | None:
    """Return the range that a Range header requests from a file of `size` bytes.

    None means the whole file: without one well-formed byte range the header is ignored (RFC 9110
    section 14.2), and so is the header where If-Range names another validator than `etag` (None: there
    is none). Raises RangeNotSatisfiable.
    """
    unit, separator, ranges = (range_header or "").partition("=")
    match = _RANGE.fullmatch(ranges)
    if not separator or unit.strip().lower() != "bytes" or match is None:
        return None
    if if_range is not None and if_range.strip() != etag:
        return None
    first, last = match.groups()
    if first:
        start, stop = int(first), int(last) + 1 if last else size
        if last and stop <= start:
            return None
    elif last:
        start, stop = max(0, size - int(last)), size
    else:
        return None
    if start >= size:
        raise RangeNotSatisfiable(size)
    return ByteRange(start, min(stop, size), size)
