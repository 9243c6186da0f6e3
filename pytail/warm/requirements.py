"""Requirements, as pip reads them: from the command line and from ``requirements.txt``.

What names no project of an index (a path, a URL, a checkout) is left out and told. Lines of one file
and of those it includes hold together, as for pip; the options that tell pip where to look are passed
over, as this is where it is looked.
"""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NoReturn

from packaging.requirements import InvalidRequirement, Requirement

from pytail.simple import names
from pytail.urls import masked
from pytail.warm.selection import Clause, Required

_COMMENT = re.compile(r"(?:^|\s+)#.*$")
#: What pip takes for a path or a URL.
_ELSEWHERE = re.compile(
    r"://|^[.~/]|^file:|^(?:git|hg|svn|bzr)\+|^\S*[\\/]|\.(?:whl|zip|tar\.\w+|tgz)\Z"
)
_PRE = re.compile(r"^\s*--pre\b", re.MULTILINE)
_OPTION = re.compile(r"(?:^|\s)(?=-)")


def required(text: str) -> Required:
    """What one requirement of the command line (PEP 508) wants. Raises ValueError."""
    project, clause = _clause(text)
    return Required(project, (clause,))


@dataclass(slots=True)
class Requirements:
    """What one ``requirements.txt`` wants, with those that it includes."""

    #: By project; only those of which something is wanted count.
    clauses: dict[str, list[Clause]] = field(default_factory=dict)
    #: What is left out, and why.
    skipped: list[tuple[str, str]] = field(default_factory=list)
    _seen: set[tuple[Path, bool]] = field(default_factory=set)

    def add(self, path: Path, *, is_constraint: bool = False) -> None:
        """Read the file at `path`. Raises OSError, or ValueError with file, line and reason."""
        if (path.resolve(), is_constraint) in self._seen:
            return
        self._seen.add((path.resolve(), is_constraint))
        text = path.read_text("utf-8-sig")
        takes_pre = _PRE.search(text) is not None
        for number, line in _lines(text):
            try:
                wanted, options = _parted(line)
                self._take(wanted, options, takes_pre=takes_pre, is_constraint=is_constraint)
            except ValueError as error:
                raise ValueError(f"{path}:{number}: {line!r} {error}") from None
            self._include(options.requirement, f"{path}:{number}", is_constraint=is_constraint)
            self._include(options.constraint, f"{path}:{number}", is_constraint=True)

    def required(self) -> list[Required]:
        """By project what is wanted."""
        return [
            Required(project, tuple(clauses))
            for project, clauses in self.clauses.items()
            if not all(clause.is_constraint for clause in clauses)
        ]

    def _take(
        self, text: str, options: argparse.Namespace, *, takes_pre: bool, is_constraint: bool
    ) -> None:
        for editable in options.editable:
            self.skipped.append((masked(editable), "editable, not from an index"))
        if _ELSEWHERE.search(text.partition(";")[0].strip()):
            self.skipped.append((masked(text), "a path or URL, not from an index"))
        elif text:
            project, clause = _clause(text)
            clause = replace(
                clause,
                hashes=frozenset(options.hash),
                takes_pre=takes_pre,
                is_constraint=is_constraint,
            )
            self.clauses.setdefault(project, []).append(clause)

    def _include(self, paths: list[str], where: str, *, is_constraint: bool) -> None:
        """Read the files at `paths`, which are named at the line `where`."""
        for path in paths:
            if "://" in path:
                self.skipped.append((masked(path), "a requirements file that is elsewhere"))
                continue
            try:
                beside = Path(where.rpartition(":")[0]).parent
                self.add(beside / path, is_constraint=is_constraint)
            except OSError as error:
                raise ValueError(f"{where}: {path} cannot be read: {error.strerror}") from None


def _clause(text: str) -> tuple[str, Clause]:
    """The project, normalized, and what is said about it. Raises ValueError."""
    try:
        found = Requirement(text)
    except InvalidRequirement as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"is no requirement such as 'demo>=2,<3': {reason}") from None
    if found.url is not None or not names.is_project_name(found.name):
        raise ValueError("names no project of an index, as 'demo>=2,<3' does")
    return names.normalized(found.name), Clause(text, found.specifier, found.marker)


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """The logical lines that say something, without comments, and where they begin."""
    begun, start = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        start = start or number
        if line.endswith("\\") and not line.lstrip().startswith("#"):
            begun += line[:-1]
            continue
        whole = _COMMENT.sub("", begun + line).strip()
        if whole:
            yield start, whole
        begun, start = "", 0
    if begun.strip():
        yield start, begun.strip()


def _parted(line: str) -> tuple[str, argparse.Namespace]:
    """The requirement, which may be empty, and the options behind it. Raises ValueError."""
    text, *options = _OPTION.split(line, maxsplit=1)
    return text.strip(), _parsed(shlex.split(options[0]) if options else [])


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def _parsed(options: list[str]) -> argparse.Namespace:
    parser = _Parser(allow_abbrev=False, add_help=False)
    for spellings in (
        ("-r", "--requirement"),
        ("-c", "--constraint"),
        ("-e", "--editable"),
        ("--hash",),
    ):
        parser.add_argument(*spellings, action="append", default=[])
    return parser.parse_known_args(options)[0]
