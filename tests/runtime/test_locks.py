"""Locks between processes have a time limit."""

from __future__ import annotations

import fcntl
import time

import pytest

from pytail.runtime.locks import LockTimeout, lock, locked


def test_a_free_lock_is_taken_and_given_back(tmp_path):
    with locked(tmp_path / "lock", 0):
        pass
    with locked(tmp_path / "lock", 0):
        pass


def test_a_lock_that_stays_taken_is_waited_for_until_the_time_limit(tmp_path):
    with locked(tmp_path / "lock", 0):
        began = time.monotonic()
        with (
            pytest.raises(LockTimeout, match="locked by another process"),
            locked(tmp_path / "lock", 0.05),
        ):
            pass
        assert time.monotonic() - began >= 0.05


def test_a_lock_that_becomes_free_is_taken(tmp_path):
    with (tmp_path / "lock").open("w") as ours, (tmp_path / "lock").open("w") as theirs:
        fcntl.flock(theirs, fcntl.LOCK_EX)
        assert not lock(ours.fileno(), 0)
        fcntl.flock(theirs, fcntl.LOCK_UN)
        assert lock(ours.fileno(), 0)
