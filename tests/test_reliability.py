"""``docs/reliability.md``: each row names tests that exist and a log line that pytail writes."""

from __future__ import annotations

import ast
import re

import pytest

from tests.support.documents import ROOT, Document

PAGE = Document("docs/reliability.md")
REFERENCE = Document("docs/reference.md")
HEADINGS = ["Disk", "Upstream", "Links that move", "Processes", "Machine and clients"]
ROWS = [row for heading in HEADINGS for row in PAGE.rows(heading)]
CHARGES = PAGE.rows("What a failure is charged to")
LINES = {row[2] for row in REFERENCE.rows("All others")}
#: Cells that stand for lines in other sections of the reference.
DECISION = re.compile(r"a decision|\[a decision\]\(\S+\)|")


def names() -> set[str]:
    """Return all tests, as ``path::function``."""
    tests = ROOT / "tests"
    return {
        f"{path.relative_to(tests)}::{node.name}"
        for path in tests.rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef)
    }


def test_each_row_names_tests_that_exist():
    known = names()
    for fault, *_, tests in ROWS + CHARGES:
        # A row without a test says so.
        if tests != "open":
            named = [name.strip("`") for name in tests.split("<br>")]
            assert [name for name in named if name not in known] == [], fault


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_each_row_says_what_a_client_gets_and_what_is_logged(row: list[str]):
    fault, gets, _, line, _, tests = row
    assert fault.endswith(".")
    assert gets
    assert tests
    assert line in LINES or DECISION.fullmatch(line)
