"""Conditional and range requests (RFC 9110 sections 13 and 14): pure functions over headers."""

from __future__ import annotations

import re

from pytail.model import ByteRange

_ETAG = re.compile(r'(?:W/)?("[^"]*")')
#: With room for what clients take for "to the end", but not for numbers that are work to read.
_RANGE = re.compile(r"\s*(\d{0,99})\s*-\s*(\d{0,99})\s*", re.ASCII)


class Unsatisfiable(Exception):
    """A range that begins behind the end of the file."""


def matches(if_none_match: str | None, etag: str) -> bool:
    """Whether a client's If-None-Match names `etag`: a list, weak comparison, or ``*``."""
    if if_none_match is None:
        return False
    return if_none_match.strip() == "*" or etag in _ETAG.findall(if_none_match)


def span(range_: str | None, if_range: str | None, etag: str, size: int) -> ByteRange | None:
    """The part that a Range header asks of a file of `size` bytes; None: answer with the whole.

    Everything but one well-formed range of bytes is ignored, as the RFC allows, and so is a range
    of another version than `etag` by If-Range. Raises Unsatisfiable.
    """
    unit, separator, ranges = (range_ or "").partition("=")
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
        raise Unsatisfiable
    return ByteRange(start, min(stop, size), size)
