"""Files that are changed behind pytail's back while they arrive."""

from __future__ import annotations

import os
from pathlib import Path

import gevent
import pytest

from tests.support.fakeindex import FakeIndex
from tests.support.running import Client
from tests.support.sending import Sending, dist_of, fetched, held, partials
from tests.support.watching import until

SENT = 100_000


@pytest.mark.parametrize("length", [0, SENT - 1, SENT + 1])
def test_a_partial_file_that_somebody_else_changes_is_cut_and_not_kept(
    pytail: Client, index: FakeIndex, tmp_path: Path, length: int
):
    cache = tmp_path / "cache"
    dist = dist_of(index, 4 * SENT)
    answer = index.answers[dist.path] = Sending(dist.data, SENT)
    client = gevent.spawn(fetched, pytail, dist)
    until(lambda: partials(cache) == [SENT])
    (partial,) = (cache / "+partial").iterdir()
    os.truncate(partial, length)
    answer.gate.set()
    client.join()
    assert client.value is False
    until(lambda: partials(cache) == [])
    assert held(cache) == set()
    assert fetched(pytail, dist)
    assert held(cache) == {dist.key}
