"""Each test of this folder leaves nothing behind in this process."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _nothing_left(nothing_left: None) -> None:
    """Assert in the end that no descriptor, lock, slot or greenlet is left."""
