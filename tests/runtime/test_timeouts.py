"""Time limits of blocks."""

from __future__ import annotations

import contextlib

import gevent
import pytest

from pytail.runtime.timeouts import time_limit


class LateError(Exception):
    """The error of a time limit."""


def test_a_block_that_ends_in_time_raises_nothing():
    with time_limit(5, LateError()):
        gevent.sleep(0)


def test_a_block_that_takes_longer_ends_with_the_error():
    error = LateError()
    with pytest.raises(LateError) as raised, time_limit(0.01, error):
        gevent.sleep(5)
    assert raised.value is error


def test_no_handler_in_the_block_catches_the_error():
    with pytest.raises(LateError), time_limit(0.01, LateError()), contextlib.suppress(Exception):
        gevent.sleep(5)


def test_an_outer_limit_keeps_its_own_error():
    with pytest.raises(LateError), time_limit(0.01, LateError()), time_limit(5, ValueError()):
        gevent.sleep(5)


def test_an_error_of_the_block_stays_as_it_is():
    with pytest.raises(ZeroDivisionError), time_limit(5, LateError()):
        raise ZeroDivisionError
