"""Decode and encode a large JSON page in chunks.

orjson holds the interpreter lock until it returns: 60 ms for a page of 20,000 files. Between two
chunks other threads run. A page is divided only where one file seems to end and the next to begin,
and each chunk must decode on its own. Where one chunk does not, such as after a division within a
string, the page is decoded as a whole. So the result is always the result of the whole page.

pip reads pages with the json module, which takes more than orjson: NaN, half of a surrogate pair, UTF-16.
A page or chunk that orjson refuses is decoded by that slower module.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any, TypeVar

import orjson

Result = TypeVar("Result")

#: Bytes decoded at once, about, and files encoded at once: each takes about 0.5 ms.
CHUNK, _FILES = 128 * 1024, 200

#: Digits of the largest finite double, and a sign.
_MAX_DIGITS = 310
# Without a backslash before the first quote: an escaped quote is within a string.
_OPENING = re.compile(rb'(?<!\\)"files"\s*:\s*\[')
_BETWEEN = re.compile(rb"\}\s*,\s*(?=\{)")


def decoded(body: bytes, convert: Callable[[Any], Result]) -> tuple[Any, list[Result] | None]:
    """Return the decoded `body`, and the results of `convert` for each entry of the list of files.

    The second is None where `body` has no list of files. Raises ValueError.
    """
    opening = _OPENING.search(body) if len(body) > 2 * CHUNK else None
    # Of two keys the last one counts, also where one is spelled with \u escapes.
    is_only = body.count(b'"files"') == 1 and b"\\u006" not in body
    if opening is not None and is_only:
        with contextlib.suppress(ValueError):
            return _decoded_in_chunks(body, opening.end(), convert)
    data = _loaded(body)
    files = data.get("files") if isinstance(data, dict) else None
    return data, [convert(entry) for entry in files] if isinstance(files, list) else None


def _decoded_in_chunks(
    body: bytes, start: int, convert: Callable[[Any], Result]
) -> tuple[dict[str, Any], list[Result]]:
    # This decodes only where the list is in the object at the top level.
    head, converted = _loaded(body[:start] + b"]}"), []
    while between := _BETWEEN.search(body, start + CHUNK):
        chunk = _loaded(b"[%b]" % body[start : between.start() + 1])
        converted += [convert(entry) for entry in chunk]
        start = between.end()
    rest = _loaded(b'{"files":[' + body[start:])
    converted += [convert(entry) for entry in rest["files"]]
    return head | rest, converted


def _loaded(data: bytes) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        try:
            return json.loads(
                data, parse_constant=_no_number, parse_float=_float, parse_int=_integer
            )
        except (ValueError, RecursionError):
            raise error from None


def _no_number(_: str) -> None:
    """Return null for NaN and Infinity, which no other client can read."""


def _float(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None


def _integer(text: str) -> int | None:
    # Python refuses integers of more than 4,300 digits.
    return int(text) if len(text) <= _MAX_DIGITS else None


def encoded(entries: Iterable[dict[str, Any]]) -> bytes:
    """Return `entries` as a JSON list."""
    entries, chunks = iter(entries), []
    while some := list(islice(entries, _FILES)):
        chunks.append(orjson.dumps(some)[1:-1])
    return b"[%b]" % b",".join(chunks)
