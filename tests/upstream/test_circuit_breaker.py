"""A host that failed a few times in a row is left alone for a while."""

from __future__ import annotations

import pytest

from pytail.upstream.circuit_breaker import (
    FAILURES,
    INTERVAL,
    LONGEST,
    CircuitBreakers,
    CircuitOpen,
)
from tests.support.running import Clock

HOST = ("https", "index.example.org", 443)


@pytest.fixture
def breakers(clock: Clock) -> CircuitBreakers:
    return CircuitBreakers(clock)


def refusal(breakers: CircuitBreakers) -> CircuitOpen:
    """What a request meets that is not let through."""
    with pytest.raises(CircuitOpen) as refused:
        succeed(breakers)
    return refused.value


def fail(
    breakers: CircuitBreakers, times: int = 1, host: object = HOST, after: float | None = None
) -> None:
    for _ in range(times):
        with breakers.attempt(host) as attempt:
            attempt.is_failure, attempt.retry_after = True, after


def succeed(breakers: CircuitBreakers) -> None:
    with breakers.attempt(HOST):
        pass


def test_a_few_failures_do_not_open_it(breakers: CircuitBreakers):
    fail(breakers, FAILURES - 1)
    assert not breakers.is_open(HOST)
    succeed(breakers)


def test_failures_in_a_row_open_it(breakers: CircuitBreakers):
    fail(breakers, FAILURES)
    assert breakers.is_open(HOST)
    refused = refusal(breakers)
    assert (refused.failures, refused.seconds) == (FAILURES, INTERVAL)


def test_a_success_between_failures_counts_anew(breakers: CircuitBreakers):
    for _ in range(3):
        fail(breakers, FAILURES - 1)
        succeed(breakers)
    assert not breakers.is_open(HOST)


def test_an_exception_is_a_failure(breakers: CircuitBreakers):
    for _ in range(FAILURES):
        with pytest.raises(OSError, match="cut"), breakers.attempt(HOST):
            raise OSError("cut")
    assert breakers.is_open(HOST)


def test_an_exception_that_is_no_failure_is_a_success(breakers: CircuitBreakers):
    fail(breakers, FAILURES - 1)

    def answer_rightly_and_raise() -> None:
        with breakers.attempt(HOST) as attempt:
            attempt.is_failure = False
            raise KeyError

    with pytest.raises(KeyError):
        answer_rightly_and_raise()
    fail(breakers)
    assert not breakers.is_open(HOST)


def test_after_the_interval_one_probe_at_a_time_goes_through(
    breakers: CircuitBreakers, clock: Clock
):
    fail(breakers, FAILURES)
    clock.now += INTERVAL
    with breakers.attempt(HOST):
        assert breakers.is_open(HOST)
    assert not breakers.is_open(HOST)


def test_a_probe_that_fails_opens_it_again(breakers: CircuitBreakers, clock: Clock):
    fail(breakers, FAILURES)
    clock.now += INTERVAL
    fail(breakers)
    assert breakers.is_open(HOST)
    clock.now += INTERVAL
    succeed(breakers)
    fail(breakers)
    assert not breakers.is_open(HOST)


@pytest.mark.parametrize(("asked", "seconds"), [(1, INTERVAL), (30, 30), (10**9, LONGEST)])
def test_a_host_may_ask_to_be_left_alone_within_bounds(
    breakers: CircuitBreakers, asked: float, seconds: float
):
    fail(breakers, 1, after=asked)
    assert refusal(breakers).seconds == seconds


def test_hosts_do_not_share_a_breaker(breakers: CircuitBreakers):
    fail(breakers, FAILURES, host="other")
    assert not breakers.is_open(HOST)


def test_no_number_of_hosts_fills_the_memory(breakers: CircuitBreakers):
    for number in range(5000):
        fail(breakers, host=number)
    assert len(breakers._states) <= 1000


def test_a_host_without_failures_is_not_remembered(breakers: CircuitBreakers):
    succeed(breakers)
    assert breakers._states == {}
