"""A large JSON page, decoded and encoded a piece at a time.

orjson keeps the interpreter to itself until it is done, 60 ms for a page of 20,000 files; between two
pieces other threads get their turn. A page is cut only where one file seems to end and the next to
begin, and each piece must decode by itself: a cut within a string, or deeper down, leaves one that
does not, and the page is then decoded whole. So the outcome is always that of the whole.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any, TypeVar

import orjson

Result = TypeVar("Result")

#: Bytes decoded at once, about, and files encoded at once: each takes about half a millisecond.
PIECE, _FILES = 128 * 1024, 200

# The quote is not an escaped one, which would be within a name.
_OPENING = re.compile(rb'(?<!\\)"files"\s*:\s*\[')
_BETWEEN = re.compile(rb"\}\s*,\s*(?=\{)")


def decoded(body: bytes, convert: Callable[[Any], Result]) -> tuple[Any, list[Result] | None]:
    """What `body` says, and of each entry of its list of files what `convert` makes of it.

    None when there is no such list. Raises orjson.JSONDecodeError.
    """
    opening = _OPENING.search(body) if len(body) > 2 * PIECE else None
    # Of two lists the latter counts, however its name is spelled.
    is_only = body.count(b'"files"') == 1 and b"\\u006" not in body
    if opening is not None and is_only:
        with contextlib.suppress(orjson.JSONDecodeError):
            return _decoded_in_pieces(body, opening.end(), convert)
    data = orjson.loads(body)
    files = data.get("files") if isinstance(data, dict) else None
    return data, [convert(entry) for entry in files] if isinstance(files, list) else None


def _decoded_in_pieces(
    body: bytes, start: int, convert: Callable[[Any], Result]
) -> tuple[dict[str, Any], list[Result]]:
    # That this decodes says that the list is in the object at the top.
    head, converted = orjson.loads(body[:start] + b"]}"), []
    while between := _BETWEEN.search(body, start + PIECE):
        piece = orjson.loads(b"[%b]" % body[start : between.start() + 1])
        converted += [convert(entry) for entry in piece]
        start = between.end()
    rest = orjson.loads(b'{"files":[' + body[start:])
    converted += [convert(entry) for entry in rest["files"]]
    return head | rest, converted


def encoded(entries: Iterable[dict[str, Any]]) -> bytes:
    """The JSON list of `entries`."""
    entries, pieces = iter(entries), []
    while some := list(islice(entries, _FILES)):
        pieces.append(orjson.dumps(some)[1:-1])
    return b"[%b]" % b",".join(pieces)
