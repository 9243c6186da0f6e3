"""What the tests of this folder share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pytail.cache.cache import Upstream
from tests.support.fakeindex import FakeIndex
from tests.support.upstreams import following


@pytest.fixture
def upstream(index: FakeIndex) -> Iterator[Upstream]:
    """The clients of `index`."""
    with following(index.url) as clients:
        yield clients
