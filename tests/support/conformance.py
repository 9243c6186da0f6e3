"""Writes the last column of ``docs/conformance.md``: ``python -m tests.support.conformance``."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "conformance.md"

_CITED = re.compile(r"\bitems? ((?:\d+(?:, | and | to )?)+)")
_ROW = re.compile(r"^\| (\d+) \| (.*?) \|.*$", re.MULTILINE)


def cited() -> dict[int, list[str]]:
    """Return the tests that cite each item, as ``path::function``, by the number of the item."""
    found: dict[int, list[str]] = defaultdict(list)
    for path in sorted(ROOT.glob("tests/**/test_*.py")):
        text = path.read_text()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
                lines = "\n".join(text.splitlines()[first - 1 : node.end_lineno])
                for number in sorted(_numbers(lines)):
                    found[number].append(f"{path.relative_to(ROOT / 'tests')}::{node.name}")
    return found


def _numbers(text: str) -> set[int]:
    numbers: set[int] = set()
    for group in _CITED.findall(text):
        for first, last in re.findall(r"(\d+)(?: to (\d+))?", group):
            numbers.update(range(int(first), int(last or first) + 1))
    return numbers


def rendered(page: str) -> str:
    """Return `page` with the last column rewritten from the tests."""
    tests = cited()

    def row(match: re.Match[str]) -> str:
        names = "<br>".join(f"`{name}`" for name in tests.get(int(match[1]), []))
        return (
            f"| {match[1]} | {match[2]} | {names} |" if names else f"| {match[1]} | {match[2]} | |"
        )

    return _ROW.sub(row, page)


if __name__ == "__main__":
    PAGE.write_text(rendered(PAGE.read_text()))
