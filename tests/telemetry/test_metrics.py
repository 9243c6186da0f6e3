"""The values of metrics after calls of their methods."""

from __future__ import annotations

import pytest

from pytail.telemetry.access import AccessRecord
from pytail.telemetry.metrics import Metrics


def record_of(outcome: str, status: str, sent: int, path: str = "/simple/demo/") -> AccessRecord:
    made = AccessRecord("GET", path, "the-id")
    made.outcome, made.status, made.bytes_sent = outcome, status, sent
    return made


def test_two_applications_have_separate_metrics():
    one, other = Metrics(), Metrics()
    one.count_response(record_of("HIT", "200", 10))
    assert one.snapshot().total("pytail_requests_total") == 1
    assert other.snapshot().total("pytail_requests_total") == 0


def test_responses_are_counted_by_outcome_and_by_class_of_status():
    metrics = Metrics()
    for outcome, status in (("HIT", "200"), ("HIT", "304"), ("MISS", "404"), ("", "")):
        metrics.count_response(record_of(outcome, status, 0))
    by_status = metrics.snapshot().by("pytail_requests_total", "status")
    assert by_status == {"2xx": 1, "3xx": 1, "4xx": 1, "0xx": 1}
    by_outcome = metrics.snapshot().by("pytail_requests_total", "outcome")
    assert (by_outcome["HIT"], by_outcome["MISS"], by_outcome["NONE"]) == (2, 1, 1)


@pytest.mark.parametrize(
    ("outcome", "source"),
    [("MISS", "upstream"), ("PASS", "upstream"), ("HIT", "cache"), ("STALE", "cache"),
     ("REVALIDATED", "cache"), ("COALESCED", "cache"), ("", "cache")],
)  # fmt: skip
def test_bytes_count_as_from_upstream_where_they_were_fetched_for_one_client(
    outcome: str, source: str
):
    metrics = Metrics()
    metrics.count_response(record_of(outcome, "200", 7))
    assert metrics.snapshot().by("pytail_sent_bytes_total", "source")[source] == 7
    assert metrics.snapshot().total("pytail_sent_bytes_total") == 7


def test_interrupted_responses_are_counted():
    metrics, record = Metrics(), record_of("MISS", "200", 7)
    record.is_interrupted = True
    metrics.count_response(record)
    assert metrics.snapshot().total("pytail_cut_responses_total") == 1


def test_totals_of_evictions_are_counted_as_increases():
    metrics = Metrics()
    for files, size in ((2, 20), (2, 20), (5, 70)):
        metrics.count_evictions(files, size)
    assert metrics.snapshot().total("pytail_evictions_total") == 5
    assert metrics.snapshot().total("pytail_evicted_bytes_total") == 70


def test_gauges_of_the_store_have_the_last_values():
    metrics = Metrics()
    metrics.set_store(files=1, size=10, limit=100)
    metrics.set_store(files=2, size=30, limit=100)
    metrics.set_downloading(3)
    found = [metrics.snapshot().total(f"pytail_{name}")
             for name in ("store_files", "store_bytes", "store_limit_bytes", "arriving_files")]  # fmt: skip
    assert found == [2, 30, 100, 3]
