"""Failures are charged to the object that fails, and to its host where more of it fails."""

from __future__ import annotations

import pytest

from pytail.upstream.circuit_breaker import (
    FAILURES,
    FIRST_PAUSE,
    LAST_PAUSE,
    LONGEST,
    OBJECTS,
    Attempt,
    Cause,
    CircuitBreakers,
    CircuitOpen,
)
from tests.support.running import Clock

HOST = ("https", "index.example.org", 443)
OTHER = ("https", "files.example.org", 443)


class Upstream(CircuitBreakers):
    """The circuit breakers, and the outcomes of requests."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.clock = clock

    def fail(self, url: str = "/a", cause: Cause = Cause.HOST, host: object = HOST) -> None:
        self.failed(self.attempt(host, url), cause)

    def failed(self, attempt: Attempt, cause: Cause = Cause.HOST) -> None:
        CircuitBreakers.fail(self, attempt, cause, "status 500")

    def fail_objects(self, count: int, host: object = HOST) -> None:
        for number in range(count):
            self.fail(f"/{number}", host=host)

    def disconnect(self, count: int) -> None:
        for number in range(count):
            self.fail(f"/{number}", Cause.CONNECTION)

    def answer(self, url: str = "/good", host: object = HOST) -> None:
        self.succeed(self.attempt(host, url))

    def pause(self, url: str = "/good", host: object = HOST, method: str = "GET") -> float:
        """Return the seconds for which the object is not asked for."""
        try:
            self.require(host, url, method)
        except CircuitOpen as circuit:
            return circuit.seconds
        return 0


@pytest.fixture
def upstream(clock: Clock) -> Upstream:
    return Upstream(clock)


# Objects


def test_an_object_that_always_fails_stops_no_other(upstream: Upstream):
    for _ in range(100):
        upstream.clock.now += LAST_PAUSE
        upstream.fail("/a")
    assert upstream.pause("/a") == LAST_PAUSE
    assert upstream.pause("/b") == 0
    assert not upstream.is_open(HOST)


def test_an_object_is_not_asked_for_after_three_failures_in_a_row(upstream: Upstream):
    for _ in range(FAILURES - 1):
        upstream.fail("/a")
    assert upstream.pause("/a") == 0
    upstream.fail("/a")
    with pytest.raises(CircuitOpen) as refused:
        upstream.attempt(HOST, "/a")
    found = refused.value
    assert (found.failures, found.seconds, found.reason) == (FAILURES, FIRST_PAUSE, "status 500")


def test_a_success_resets_the_count_of_an_object(upstream: Upstream):
    for _ in range(3):
        for _ in range(FAILURES - 1):
            upstream.fail("/a")
        upstream.answer("/a")
    assert upstream.pause("/a") == 0


def test_another_method_of_the_same_object_is_not_stopped(upstream: Upstream):
    for _ in range(FAILURES):
        upstream.failed(upstream.attempt(HOST, "/a", "HEAD"))
    assert upstream.pause("/a", method="HEAD") > 0
    assert upstream.pause("/a", method="GET") == upstream.pause("/a", method="RANGE") == 0


@pytest.mark.parametrize(("asked", "seconds"), [(0, 0.5), (1, 1), (30, 30), (10**9, LONGEST)])
def test_a_retry_after_stops_its_object_only(upstream: Upstream, asked: float, seconds: float):
    attempt = upstream.attempt(HOST, "/a")
    CircuitBreakers.fail(upstream, attempt, Cause.OBJECT, "status 429", asked)
    assert upstream.pause("/a") == seconds
    assert upstream.pause("/b") == 0


def test_after_its_retry_after_an_object_is_asked_for_again(upstream: Upstream):
    attempt = upstream.attempt(HOST, "/a")
    CircuitBreakers.fail(upstream, attempt, Cause.OBJECT, "status 429", 30)
    upstream.clock.now += 30
    upstream.answer("/a")
    assert upstream.pause("/a") == 0


def test_a_host_that_answers_as_it_means_to_is_well(upstream: Upstream):
    for number in range(10 * OBJECTS):
        upstream.fail(f"/{number}", Cause.OBJECT)
    assert not upstream.is_open(HOST)


# Hosts


def test_ten_objects_that_fail_in_a_row_open_that_of_their_host(upstream: Upstream):
    upstream.fail_objects(OBJECTS - 1)
    assert upstream.pause() == 0
    upstream.fail("/last")
    assert upstream.is_open(HOST)
    assert upstream.pause() == FIRST_PAUSE


def test_a_success_in_between_resets_the_count_of_a_host(upstream: Upstream):
    for _ in range(5):
        upstream.fail_objects(OBJECTS - 1)
        upstream.answer()
        upstream.clock.now += LAST_PAUSE
    assert not upstream.is_open(HOST)


def test_failures_of_requests_before_a_success_do_not_count(upstream: Upstream):
    # Objects that hang fail together, long after other requests succeeded.
    hanging = [upstream.attempt(HOST, f"/{number}") for number in range(OBJECTS)]
    upstream.clock.now += 1
    upstream.answer()
    upstream.clock.now += 30
    for attempt in hanging:
        upstream.failed(attempt)
    assert not upstream.is_open(HOST)


def test_three_failed_connections_in_a_row_open_that_of_a_host(upstream: Upstream):
    upstream.disconnect(FAILURES - 1)
    assert upstream.pause() == 0
    upstream.fail("/last", Cause.CONNECTION)
    assert upstream.pause() == FIRST_PAUSE


@pytest.mark.parametrize("cause", [Cause.HOST, Cause.RESPONSE, Cause.OBJECT])
def test_a_response_in_between_resets_the_count_of_connections(upstream: Upstream, cause: Cause):
    for number in range(3):
        upstream.disconnect(FAILURES - 1)
        upstream.fail(f"/failing{number}", cause)
        upstream.clock.now += LAST_PAUSE
    assert not upstream.is_open(HOST)


def test_hosts_do_not_share_a_circuit_breaker(upstream: Upstream):
    upstream.fail_objects(OBJECTS, host=OTHER)
    assert upstream.is_open(OTHER)
    assert upstream.pause() == 0


def test_a_failure_after_a_redirect_is_charged_to_the_host_it_led_to(upstream: Upstream):
    for number in range(FAILURES):
        attempt = upstream.attempt(HOST, f"/{number}")
        attempt.go_to(OTHER)
        upstream.failed(attempt, Cause.CONNECTION)
    assert upstream.is_open(OTHER)
    assert upstream.pause() == 0
    # Upstream itself answers, but the object cannot be had.
    attempt = upstream.attempt(HOST, "/0")
    with pytest.raises(CircuitOpen):
        attempt.go_to(OTHER)


def test_a_redirect_is_a_good_response(upstream: Upstream):
    upstream.fail_objects(OBJECTS)
    upstream.clock.now += LAST_PAUSE
    upstream.attempt(HOST, "/moved").go_to(OTHER)
    assert not upstream.is_open(HOST)


# Probes


def test_half_open_it_lets_one_probe_through_in_each_pause(upstream: Upstream):
    upstream.fail_objects(OBJECTS)
    upstream.clock.now += FIRST_PAUSE
    upstream.attempt(HOST, "/probe")
    assert upstream.pause() == FIRST_PAUSE
    # The first probe hangs.
    upstream.clock.now += FIRST_PAUSE
    upstream.answer()
    assert upstream.pause() == 0
    assert not upstream.is_open(HOST)


def test_an_object_that_always_fails_keeps_no_host_paused_whose_connections_work(
    upstream: Upstream,
):
    for number in range(3):
        upstream.disconnect(FAILURES)
        assert upstream.is_open(HOST)
        upstream.clock.now += LAST_PAUSE
        upstream.fail("/broken", Cause.RESPONSE)
        assert not upstream.is_open(HOST)
        assert upstream.pause(f"/{number}-good") == 0


@pytest.mark.parametrize("cause", [Cause.CONNECTION, Cause.HOST])
def test_a_probe_without_a_response_keeps_a_host_paused(upstream: Upstream, cause: Cause):
    upstream.disconnect(FAILURES)
    upstream.clock.now += FIRST_PAUSE
    upstream.fail("/probe", cause)
    assert upstream.pause() == 2 * FIRST_PAUSE


def test_ten_objects_that_fail_keep_their_host_paused(upstream: Upstream):
    upstream.fail_objects(OBJECTS)
    for _ in range(5):
        upstream.clock.now += LAST_PAUSE
        upstream.fail("/probe", Cause.RESPONSE)
        assert upstream.pause() == FIRST_PAUSE


def test_an_object_that_always_fails_does_not_take_each_probe(upstream: Upstream):
    upstream.fail_objects(OBJECTS)
    for _ in range(FAILURES):
        upstream.clock.now += LAST_PAUSE
        upstream.fail("/broken", Cause.RESPONSE)
    upstream.clock.now += FIRST_PAUSE
    upstream.fail("/broken", Cause.RESPONSE)
    upstream.clock.now += FIRST_PAUSE
    assert upstream.pause("/broken") > 0
    assert upstream.pause("/good") == 0


def test_pauses_grow_to_two_and_a_half_seconds(upstream: Upstream):
    upstream.fail_objects(OBJECTS)
    pauses = []
    for number in range(6):
        pauses.append(upstream.pause())
        upstream.clock.now += pauses[-1]
        upstream.fail(f"/{number}-probe")
    assert pauses == [0.5, 1, 2, 2.5, 2.5, 2.5]


def test_a_success_ends_the_growth_of_pauses(upstream: Upstream):
    for _ in range(5):
        upstream.fail_objects(OBJECTS)
        assert upstream.pause() == FIRST_PAUSE
        upstream.clock.now += LAST_PAUSE
        upstream.answer()


def test_failures_of_requests_before_it_opened_extend_no_pause(upstream: Upstream):
    upstream.clock.now += 1
    late = [upstream.attempt(HOST, f"/late{number}") for number in range(20)]
    upstream.clock.now += 1
    upstream.fail_objects(OBJECTS)
    for attempt in late:
        upstream.failed(attempt)
    assert upstream.pause() == FIRST_PAUSE


def test_the_late_success_of_another_request_closes_it(upstream: Upstream):
    late = upstream.attempt(HOST, "/late")
    upstream.fail_objects(OBJECTS)
    upstream.succeed(late)
    assert upstream.pause() == 0


# Requests that hang


def test_a_request_that_hangs_at_a_silent_host_is_sent_once_more_in_each_pause(upstream: Upstream):
    began = upstream.clock.now
    assert not upstream.is_lost(HOST, began)
    upstream.clock.now += LAST_PAUSE
    assert upstream.is_lost(HOST, began)
    assert not upstream.is_lost(HOST, began)
    assert not upstream.is_lost(HOST, upstream.clock.now)
    upstream.clock.now += LAST_PAUSE
    assert upstream.is_lost(HOST, began)


def test_a_request_that_hangs_at_a_host_that_answers_others_is_waited_for(upstream: Upstream):
    began = upstream.clock.now
    upstream.clock.now += 1
    upstream.answer()
    upstream.clock.now += LAST_PAUSE
    assert not upstream.is_lost(HOST, began)


# Memory


def test_states_are_bounded(upstream: Upstream):
    for number in range(10_000):
        upstream.fail(f"/{number}", host=number)
    assert len(upstream._hosts) == 1000
    assert len(upstream._objects) == 4000
    # The oldest were dropped.
    assert 9_999 in upstream._hosts


def test_an_object_without_failures_has_no_state(upstream: Upstream):
    upstream.fail("/a")
    upstream.answer("/a")
    assert upstream._objects == {}
