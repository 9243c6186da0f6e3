"""Packs: up to 200 files of a project page in one row of the catalog.

One row for each file would cost more than all other work for a new page. A pack has two columns, the
fingerprints and the lines of its files. By a fingerprint, a query finds the packs that may list a file.
A line is a JSON array with the fields of one file, so that only this line is decoded to read the file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import orjson

from pytail.model import File, directory_of, former_directories, is_directory_of
from pytail.urls import without_digests

#: Files of a pack. More files make a page faster to write, fewer make a file faster to find.
_FILES = 200


def fingerprint(directory: str) -> bytes:
    """Return the 8 bytes that stand for a file of `directory` among the fingerprints of its pack."""
    return hashlib.blake2b(directory.encode(), digest_size=8).digest()


def packs(files: Sequence[File]) -> Iterator[tuple[bytes, bytes]]:
    """Yield the fingerprints and the lines of each pack of `files`.

    A file without a sha256 has a fingerprint for each of its directories, see `directories`.
    """
    for start in range(0, len(files), _FILES):
        some = files[start : start + _FILES]
        found = [fingerprint(each) for file in some for each in directories(file)]
        yield b"".join(found), b"".join(map(_line, some))


def directories(file: File) -> list[str]:
    """Return the directories by which a query finds `file`.

    Those are its own, and without a sha256 the former ones, which lock files may name. A file with a
    sha256 has seldom had another one, and a second fingerprint for each would double the column.
    """
    if "sha256" in file.hashes:
        return [file.directory]
    return [file.directory, *former_directories(file)]


def as_present(file: File) -> File:
    """Return a `file` of an earlier schema with the directory that it has now, and without a query."""
    if file.directory.startswith("_url/"):
        file = replace(file, directory=directory_of(file.hashes, file.url, file.size))
    return file.redacted()


def are_same(lines: bytes, others: bytes) -> bool:
    """Return whether two packs list the same files, by links with any queries."""
    return lines == others or without_digests(lines) == without_digests(others)


def files(lines: bytes) -> Iterator[File]:
    """Return all files of a pack, in order. Raises ValueError where the lines are damaged."""
    return map(_file, orjson.loads(b"[%b]" % lines[1:].replace(b"\n", b",")))


def file(lines: bytes, directory: str, filename: str) -> File | None:
    """Return one file of a pack by its directory or a former one, None when the pack does not list it.

    Raises ValueError where the line is damaged.
    """
    start, end = _span(lines, directory, filename)
    if start < end:
        return _file(orjson.loads(lines[start:end]))
    named = (_file(orjson.loads(lines[first:last])) for first, last in _named(lines, filename))
    return next((file for file in named if is_directory_of(directory, file)), None)


def with_core_metadata(
    lines: bytes, directory: str, filename: str, core_metadata: Mapping[str, str] | bool
) -> bytes | None:
    """Return `lines` with another `File.core_metadata` of one file, None when the file is not listed.

    Raises ValueError where the line is damaged.
    """
    start, end = _span(lines, directory, filename)
    if start == end:
        return None
    listed = _file(orjson.loads(lines[start:end]))
    return lines[:start] + _line(replace(listed, core_metadata=core_metadata)) + lines[end:]


def _span(lines: bytes, directory: str, filename: str) -> tuple[int, int]:
    """Return the start and the end of the line of one file, two equal numbers when there is none."""
    return next(_spans(lines, b"%b," % orjson.dumps((filename, directory))[:-1]), (0, 0))


def _named(lines: bytes, filename: str) -> Iterator[tuple[int, int]]:
    """Yield the start and the end of each line with that filename."""
    return _spans(lines, b"%b," % orjson.dumps((filename,))[:-1])


def _spans(lines: bytes, start_of_line: bytes) -> Iterator[tuple[int, int]]:
    # A line feed always begins a line: JSON escapes those within strings.
    start = -1
    while (start := lines.find(b"\n" + start_of_line, start + 1)) >= 0:
        end = lines.find(b"\n", start + 1)
        yield start, len(lines) if end < 0 else end


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
        filename, directory, url, hashes, size, upload_time, requires_python, yanked, core_metadata,
        gpg_sig, provenance, other,
    ) = row  # fmt: skip
    return File(
        filename=filename,
        url=url,
        directory=directory,
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
