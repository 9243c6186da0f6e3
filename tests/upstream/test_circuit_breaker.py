"""A host that fails three times in a row gets no requests for an interval."""

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


def circuit_error(breakers: CircuitBreakers) -> CircuitOpen:
    """The error of a request while the circuit breaker is open."""
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


def test_two_failures_do_not_open_it(breakers: CircuitBreakers):
    fail(breakers, FAILURES - 1)
    assert not breakers.is_open(HOST)
    succeed(breakers)


def test_three_failures_in_a_row_open_it(breakers: CircuitBreakers):
    fail(breakers, FAILURES)
    assert breakers.is_open(HOST)
    refused = circuit_error(breakers)
    assert (refused.failures, refused.seconds) == (FAILURES, INTERVAL)


def test_a_success_resets_the_count_of_failures(breakers: CircuitBreakers):
    for _ in range(3):
        fail(breakers, FAILURES - 1)
        succeed(breakers)
    assert not breakers.is_open(HOST)


def test_an_exception_is_a_failure(breakers: CircuitBreakers):
    for _ in range(FAILURES):
        with pytest.raises(OSError, match="cut"), breakers.attempt(HOST):
            raise OSError("cut")
    assert breakers.is_open(HOST)


def test_an_exception_after_a_success_is_not_a_failure(breakers: CircuitBreakers):
    fail(breakers, FAILURES - 1)

    def succeed_and_raise() -> None:
        with breakers.attempt(HOST) as attempt:
            attempt.is_failure = False
            raise KeyError

    with pytest.raises(KeyError):
        succeed_and_raise()
    fail(breakers)
    assert not breakers.is_open(HOST)


def test_half_open_it_lets_one_probe_at_a_time_through(breakers: CircuitBreakers, clock: Clock):
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
def test_retry_after_opens_it_for_10_to_120_seconds(
    breakers: CircuitBreakers, asked: float, seconds: float
):
    fail(breakers, 1, after=asked)
    assert circuit_error(breakers).seconds == seconds


def test_hosts_do_not_share_a_circuit_breaker(breakers: CircuitBreakers):
    fail(breakers, FAILURES, host="other")
    assert not breakers.is_open(HOST)


def test_at_most_1000_hosts_have_a_state(breakers: CircuitBreakers):
    for number in range(5000):
        fail(breakers, host=number)
    assert len(breakers._states) <= 1000


def test_a_host_without_failures_has_no_state(breakers: CircuitBreakers):
    succeed(breakers)
    assert breakers._states == {}
