"""Content codings of a page that comes in, undone (RFC 9110, section 8.4.1)."""

from __future__ import annotations

import zlib

from pytail.errors import PageUnreadable

#: Both names say the same (RFC 9110, section 8.4.1.3).
GZIP = frozenset({"gzip", "x-gzip"})
#: The largest window, with a header before and a trailer behind it.
_GZIP_FORMAT = zlib.MAX_WBITS | 16
_BEGINNING = b"\x1f\x8b"
#: Members that one body has at most: with each, what is left of it is copied.
_MOST_MEMBERS = 100


def gunzip(data: bytes, most: int) -> bytes | None:
    """The bytes that `data` was made of, None where they are more than `most`.

    It may be of several members (RFC 1952, section 2.2); what follows and is none is ignored, as
    clients do. Raises PageUnreadable where it is not whole.
    """
    whole, rest = b"", data
    for _ in range(_MOST_MEMBERS):
        member = zlib.decompressobj(_GZIP_FORMAT)
        try:
            whole += member.decompress(rest, most + 1 - len(whole))
        except zlib.error as error:
            raise PageUnreadable(f"its gzip cannot be decoded: {error}") from None
        if len(whole) > most:
            return None
        if not member.eof:
            raise PageUnreadable("its gzip cannot be decoded: it ends too early")
        rest = member.unused_data
        if not rest.startswith(_BEGINNING):
            return whole
    raise PageUnreadable(f"its gzip cannot be decoded: it has over {_MOST_MEMBERS} members")
