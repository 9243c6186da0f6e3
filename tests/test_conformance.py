"""The table of ``docs/conformance.md`` is that of the tests."""

from __future__ import annotations

import re

from tests.support.conformance import PAGE, cited, rendered


def test_table_is_what_the_tests_cite():
    page = PAGE.read_text()
    assert page == rendered(page), "run: python -m tests.support.conformance"


def test_every_item_has_a_claim_and_a_test():
    claimed = [
        int(number) for number in re.findall(r"^\| (\d+) \|", PAGE.read_text(), re.MULTILINE)
    ]
    assert claimed == list(range(1, 146))
    assert set(claimed) - cited().keys() == set()
