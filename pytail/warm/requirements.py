"""Reads requirements as pip does, from the command line and from requirements files.

Paths, URLs and checkouts are skipped with a reason, because no index lists them. All lines about one
project count together, also those of included files. Options that tell pip where to look for
packages are ignored.
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
from pytail.warm.selection import RequiredProject, RequirementLine

_COMMENT = re.compile(r"(?:^|\s+)#.*$")
#: Texts that pip treats as a path or a URL.
_PATH_OR_URL = re.compile(
    r"://|^[.~/]|^file:|^(?:git|hg|svn|bzr)\+|^\S*[\\/]|\.(?:whl|zip|tar\.\w+|tgz)\Z"
)
_PRE = re.compile(r"^\s*--pre\b", re.MULTILINE)
_OPTION = re.compile(r"(?:^|\s)(?=-)")


def parse_requirement(text: str) -> RequiredProject:
    """Return the project of a requirement (PEP 508). Raises ValueError."""
    project, line = _parse_line(text)
    return RequiredProject(project, (line,))


@dataclass(slots=True)
class RequirementsFile:
    """The content of a requirements file and of the files that it includes."""

    #: By project. A project with constraints only is not required.
    lines: dict[str, list[RequirementLine]] = field(default_factory=dict)
    #: Lines that are left out, each with the reason.
    skipped: list[tuple[str, str]] = field(default_factory=list)
    _seen: set[tuple[Path, bool]] = field(default_factory=set)

    def read(self, path: Path, *, is_constraint: bool = False) -> None:
        """Read the file at `path`. Raises OSError, or ValueError with file, line and reason."""
        if (path.resolve(), is_constraint) in self._seen:
            return
        self._seen.add((path.resolve(), is_constraint))
        text = path.read_text("utf-8-sig")
        allows_prereleases = _PRE.search(text) is not None
        for number, line in _logical_lines(text):
            try:
                requirement, options = _split_line(line)
                self._add(
                    requirement,
                    options,
                    allows_prereleases=allows_prereleases,
                    is_constraint=is_constraint,
                )
            except ValueError as error:
                raise ValueError(f"{path}:{number}: {line!r} {error}") from None
            self._include(options.requirement, f"{path}:{number}", is_constraint=is_constraint)
            self._include(options.constraint, f"{path}:{number}", is_constraint=True)

    def projects(self) -> list[RequiredProject]:
        """Return the required projects."""
        return [
            RequiredProject(project, tuple(lines))
            for project, lines in self.lines.items()
            if not all(line.is_constraint for line in lines)
        ]

    def _add(
        self,
        text: str,
        options: argparse.Namespace,
        *,
        allows_prereleases: bool,
        is_constraint: bool,
    ) -> None:
        for editable in options.editable:
            self.skipped.append((masked(editable), "editable, not from an index"))
        if _PATH_OR_URL.search(text.partition(";")[0].strip()):
            self.skipped.append((masked(text), "a path or URL, not from an index"))
        elif text:
            project, line = _parse_line(text)
            line = replace(
                line,
                hashes=frozenset(options.hash),
                allows_prereleases=allows_prereleases,
                is_constraint=is_constraint,
            )
            self.lines.setdefault(project, []).append(line)

    def _include(self, paths: list[str], where: str, *, is_constraint: bool) -> None:
        """Read the files at `paths`, which the line `where` (``file:number``) includes."""
        for path in paths:
            if "://" in path:
                self.skipped.append((masked(path), "a requirements file at a URL is not read"))
                continue
            try:
                directory = Path(where.rpartition(":")[0]).parent
                self.read(directory / path, is_constraint=is_constraint)
            except OSError as error:
                raise ValueError(f"{where}: {path} cannot be read: {error.strerror}") from None


def _parse_line(text: str) -> tuple[str, RequirementLine]:
    """Return the normalized project and its requirement. Raises ValueError."""
    try:
        found = Requirement(text)
    except InvalidRequirement as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"is not a requirement such as 'demo>=2,<3': {reason}") from None
    if found.url is not None or not names.is_project_name(found.name):
        raise ValueError("names no project of an index, as 'demo>=2,<3' does")
    return names.normalized(found.name), RequirementLine(text, found.specifier, found.marker)


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield the number and the text of each line, with continuations joined, without comments.

    The number is that of the first physical line. Empty lines are left out.
    """
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


def _split_line(line: str) -> tuple[str, argparse.Namespace]:
    """Return the requirement, which may be empty, and the options after it. Raises ValueError."""
    text, *options = _OPTION.split(line, maxsplit=1)
    return text.strip(), _parse_options(shlex.split(options[0]) if options else [])


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def _parse_options(options: list[str]) -> argparse.Namespace:
    parser = _Parser(allow_abbrev=False, add_help=False)
    for spellings in (
        ("-r", "--requirement"),
        ("-c", "--constraint"),
        ("-e", "--editable"),
        ("--hash",),
    ):
        parser.add_argument(*spellings, action="append", default=[])
    return parser.parse_known_args(options)[0]
