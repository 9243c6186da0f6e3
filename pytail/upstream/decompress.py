"""Decodes gzip bodies (RFC 1952), bounded in size."""

from __future__ import annotations

import zlib

from pytail.errors import PageUnreadable

#: The two names of the content coding (RFC 9110, section 8.4.1.3).
GZIP = frozenset({"gzip", "x-gzip"})
#: zlib's number for the largest window, with gzip header and trailer.
_GZIP_FORMAT = zlib.MAX_WBITS | 16
#: The first bytes of a member.
_MAGIC = b"\x1f\x8b"
#: Most members of one body: zlib copies the rest of the body after each.
_MOST_MEMBERS = 100


def gunzip(data: bytes, most: int) -> bytes | None:
    """Return the decoded bytes of `data`, None where they are more than `most`.

    `data` has one or more members (RFC 1952, section 2.2); bytes after the last one are ignored, as
    HTTP clients do. Raises PageUnreadable where a member is damaged or incomplete.
    """
    whole, rest = b"", data
    for _ in range(_MOST_MEMBERS):
        member = zlib.decompressobj(_GZIP_FORMAT)
        try:
            whole += member.decompress(rest, most + 1 - len(whole))
        except zlib.error as error:
            raise PageUnreadable(f"cannot decode the gzip of the page: {error}") from None
        if len(whole) > most:
            return None
        if not member.eof:
            raise PageUnreadable("cannot decode the gzip of the page: it ends too early")
        rest = member.unused_data
        if not rest.startswith(_MAGIC):
            return whole
    raise PageUnreadable(f"cannot decode the gzip of the page: it has over {_MOST_MEMBERS} members")
