"""The files of a page as the catalog has them: a few hundred to a part, each on a line of its own.

A row for each file would cost more than all else that is done with a new page. Of a part, only the
line of the file that is looked for is decoded, and its keys tell whether there is one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import orjson

from pytail.model import File

#: Files of a part: more make a page cheaper to write, fewer a file cheaper to find.
_FILES = 200


def fingerprint(shelf: str) -> bytes:
    """What stands among the keys of a part for each of its files on that `shelf`."""
    return hashlib.blake2b(shelf.encode(), digest_size=8).digest()


def packs(files: Sequence[File]) -> Iterator[tuple[bytes, bytes]]:
    """The keys and the lines of each part of `files`."""
    for start in range(0, len(files), _FILES):
        some = files[start : start + _FILES]
        yield b"".join([fingerprint(file.directory) for file in some]), b"".join(map(_line, some))


def files(lines: bytes) -> Iterator[File]:
    """All files of a part, in order. Raises ValueError where it is damaged."""
    return map(_file, orjson.loads(b"[%b]" % lines[1:].replace(b"\n", b",")))


def file(lines: bytes, shelf: str, filename: str) -> File | None:
    """The one with that `shelf` and `filename`. Raises ValueError where the part is damaged."""
    start, end = _span(lines, shelf, filename)
    return _file(orjson.loads(lines[start:end])) if start < end else None


def with_core_metadata(
    lines: bytes, shelf: str, filename: str, core_metadata: Mapping[str, str] | bool
) -> bytes | None:
    """`lines` with other core metadata for that file; None when it is not among them."""
    start, end = _span(lines, shelf, filename)
    if start == end:
        return None
    known = _file(orjson.loads(lines[start:end]))
    return lines[:start] + _line(replace(known, core_metadata=core_metadata)) + lines[end:]


def _span(lines: bytes, shelf: str, filename: str) -> tuple[int, int]:
    """Where the line of that file begins and ends; at the same place when there is none."""
    # Within a line there is no line feed: JSON has it escaped.
    start = lines.find(b"\n%b," % orjson.dumps((filename, shelf))[:-1])
    if start < 0:
        return 0, 0
    end = lines.find(b"\n", start + 1)
    return start, len(lines) if end < 0 else end


def _line(file: File) -> bytes:
    return b"\n" + orjson.dumps(
        (
            file.filename, file.directory, file.url, file.hashes, file.size, file.upload_time,
            file.requires_python, file.yanked, file.core_metadata, file.gpg_sig, file.provenance,
            file.other,
        )
    )  # fmt: skip


def _file(row: Sequence[Any]) -> File:
    (
        filename, shelf, url, hashes, size, upload_time, requires_python, yanked, core_metadata,
        gpg_sig, provenance, other,
    ) = row  # fmt: skip
    return File(
        filename=filename,
        url=url,
        directory=shelf,
        hashes=hashes,
        size=size,
        upload_time=upload_time,
        requires_python=requires_python,
        yanked=yanked,
        core_metadata=core_metadata,
        gpg_sig=gpg_sig,
        provenance=provenance,
        other=other,
    )
