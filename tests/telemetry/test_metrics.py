"""The instruments as other rooms see them."""

from __future__ import annotations

import gevent
import pytest
from gevent import monkey

from pytail.runtime.loop import Heartbeat
from pytail.telemetry.access import AccessRecord
from pytail.telemetry.metrics import Metrics
from tests.support.watching import until


def exchange(outcome: str, status: str, sent: int, path: str = "/simple/demo/") -> AccessRecord:
    made = AccessRecord("GET", path, "the-id")
    made.outcome, made.status, made.bytes_sent = outcome, status, sent
    return made


def test_two_applications_count_apart():
    one, other = Metrics(), Metrics()
    one.count_response(exchange("HIT", "200", 10))
    assert one.snapshot().total("pytail_requests_total") == 1
    assert other.snapshot().total("pytail_requests_total") == 0


def test_responses_are_counted_by_outcome_and_by_class_of_status():
    metrics = Metrics()
    for outcome, status in (("HIT", "200"), ("HIT", "304"), ("MISS", "404"), ("", "")):
        metrics.count_response(exchange(outcome, status, 0))
    by_status = metrics.snapshot().by("pytail_requests_total", "status")
    assert by_status == {"2xx": 1, "3xx": 1, "4xx": 1, "0xx": 1}
    by_outcome = metrics.snapshot().by("pytail_requests_total", "outcome")
    assert (by_outcome["HIT"], by_outcome["MISS"], by_outcome["NONE"]) == (2, 1, 1)


@pytest.mark.parametrize(
    ("outcome", "source"),
    [("MISS", "upstream"), ("PASS", "upstream"), ("HIT", "cache"), ("STALE", "cache"),
     ("REVALIDATED", "cache"), ("COALESCED", "cache"), ("", "cache")],
)  # fmt: skip
def test_bytes_are_upstreams_where_they_were_fetched_for_this_client(outcome: str, source: str):
    metrics = Metrics()
    metrics.count_response(exchange(outcome, "200", 7))
    assert metrics.snapshot().by("pytail_sent_bytes_total", "source")[source] == 7
    assert metrics.snapshot().total("pytail_sent_bytes_total") == 7


def test_what_is_cut_is_counted():
    metrics, cut = Metrics(), exchange("MISS", "200", 7)
    cut.is_interrupted = True
    metrics.count_response(cut)
    assert metrics.snapshot().total("pytail_cut_responses_total") == 1


def test_evictions_are_told_as_totals_and_counted_as_steps():
    metrics = Metrics()
    for files, size in ((2, 20), (2, 20), (5, 70)):
        metrics.count_evictions(files, size)
    assert metrics.snapshot().total("pytail_evictions_total") == 5
    assert metrics.snapshot().total("pytail_evicted_bytes_total") == 70


def test_the_store_is_what_was_last_told():
    metrics = Metrics()
    metrics.set_store(files=1, size=10, limit=100)
    metrics.set_store(files=2, size=30, limit=100)
    metrics.set_downloading(3)
    found = [metrics.snapshot().total(f"pytail_{name}")
             for name in ("store_files", "store_bytes", "store_limit_bytes", "arriving_files")]  # fmt: skip
    assert found == [2, 30, 100, 3]


def test_a_pulse_looks_at_once_and_with_each_beat_until_it_is_stopped():
    late, looked = [], []
    pulse = Heartbeat(late.append, lambda: looked.append(1))
    assert (len(looked), late) == (1, [])
    until(lambda: len(looked) == 2)
    pulse.stop()
    assert len(late) == 1
    assert 0 <= late[0] < 1


def test_a_loop_that_is_blocked_is_late():
    late: list[float] = []
    pulse = Heartbeat(late.append)
    gevent.sleep(0)
    monkey.get_original("time", "sleep")(0.9)
    until(lambda: late)
    pulse.stop()
    assert 0.3 < late[0] < 2
