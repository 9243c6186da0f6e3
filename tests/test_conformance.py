"""``docs/conformance.md`` lists the tests that cite each item."""

from __future__ import annotations

import re

from tests.support.conformance import PAGE, cited, rendered


def test_the_table_lists_the_tests_that_cite_each_item():
    page = PAGE.read_text()
    assert page == rendered(page), "run: python -m tests.support.conformance"


def test_every_item_has_a_claim_and_a_test():
    claimed = [
        int(number) for number in re.findall(r"^\| (\d+) \|", PAGE.read_text(), re.MULTILINE)
    ]
    assert claimed == list(range(1, 146))
    assert set(claimed) - cited().keys() == set()
