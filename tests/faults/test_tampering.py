"""Partial files that another program changes during the download."""

from __future__ import annotations

import os
from pathlib import Path

import gevent
import pytest

from tests.support.fakeindex import FakeIndex
from tests.support.running import Client
from tests.support.sending import Sending, is_fetched, new_file
from tests.support.watching import partial_sizes, stored_keys, until

pytestmark = pytest.mark.usefixtures("rights")

SENT = 100_000


@pytest.mark.parametrize("length", [0, SENT - 1, SENT + 1])
def test_a_partial_file_changed_by_another_program_is_not_stored(
    pytail: Client, index: FakeIndex, tmp_path: Path, length: int
):
    cache = tmp_path / "cache"
    dist = new_file(index, 4 * SENT)
    answer = index.answers[dist.path] = Sending(dist.data, SENT)
    client = gevent.spawn(is_fetched, pytail, dist)
    until(lambda: partial_sizes(cache) == [SENT])
    (partial,) = (cache / "+partial").iterdir()
    os.truncate(partial, length)
    answer.gate.set()
    client.join()
    assert client.value is False
    until(lambda: partial_sizes(cache) == [])
    assert stored_keys(cache) == set()
    assert is_fetched(pytail, dist)
    assert stored_keys(cache) == {dist.key}
