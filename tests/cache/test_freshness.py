"""The policy: how long a page is fresh, and when a stale page is served."""

import math

import pytest

from pytail.cache.freshness import FreshnessPolicy, age_of
from pytail.errors import UpstreamOffline, UpstreamUnreachable
from pytail.model import Outcome
from pytail.storage.catalog import Entry

NOW = 1_000_000.0
POLICY = FreshnessPolicy(ttl=900, missing_ttl=60, max_stale=5000)
URL = "https://index.example.org/simple/demo/"


def entry(age=0.0, *, found=True):
    """Return an entry that was revalidated `age` seconds before NOW."""
    checked_at = NOW - age
    return Entry(
        name="demo", upstream="x", found=found, fetched_at=checked_at, checked_at=checked_at
    )


@pytest.mark.parametrize(("age", "is_fresh"), [(0, True), (899, True), (900, False), (9000, False)])
def test_a_page_is_fresh_below_its_ttl(age, is_fresh):
    assert POLICY.is_fresh(entry(), age) is is_fresh


@pytest.mark.parametrize(("age", "is_fresh"), [(59, True), (60, False)])
def test_a_missing_project_has_its_own_ttl(age, is_fresh):
    assert POLICY.is_fresh(entry(found=False), age) is is_fresh


@pytest.mark.parametrize(
    ("max_age", "is_fresh"), [(0, False), (10, False), (11, True), (9999, True)]
)
def test_a_max_age_shortens_the_ttl(max_age, is_fresh):
    assert POLICY.is_fresh(entry(), 10, max_age) is is_fresh


def test_a_max_age_does_not_lengthen_the_ttl():
    assert not POLICY.is_fresh(entry(), 900, 1000)


def test_the_age_is_counted_from_the_last_revalidation():
    assert age_of(entry(77), NOW) == 77


def test_a_page_from_the_future_is_infinitely_old():
    assert age_of(entry(-1), NOW) == math.inf
    assert not POLICY.is_fresh(entry(), math.inf)


@pytest.mark.parametrize(("age", "is_served"), [(5000, True), (5001, False), (math.inf, False)])
def test_a_stale_page_is_served_up_to_max_stale(age, is_served):
    assert POLICY.may_serve_stale(age, UpstreamUnreachable(URL, "down")) is is_served


def test_without_max_stale_each_stale_page_is_served():
    assert FreshnessPolicy().may_serve_stale(math.inf, UpstreamUnreachable(URL, "down"))


def test_offline_each_stale_page_is_served():
    assert POLICY.may_serve_stale(math.inf, UpstreamOffline(URL))


def test_a_result_has_the_age_and_the_rest_of_the_ttl():
    result = POLICY.result(entry(100), NOW, Outcome.HIT, "fresh")
    assert (result.age, result.fresh_for) == (100, 800)
    assert (result.outcome, result.reason, result.error) == (Outcome.HIT, "fresh", None)


@pytest.mark.parametrize(("age", "shown"), [(901, 901), (-1, 0)])
def test_a_result_beyond_the_ttl_is_not_fresh(age, shown):
    result = POLICY.result(entry(age), NOW, Outcome.STALE, "down")
    assert (result.age, result.fresh_for) == (shown, 0)
