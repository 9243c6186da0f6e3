"""The pages for monitoring: ``/+health``, ``/+status`` and ``/+metrics``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.fakeindex import FakeIndex, reply, wheel
from tests.support.running import Client, serving
from tests.support.watching import samples, until

PAGES = ["/+health", "/+status", "/+metrics"]


@pytest.mark.parametrize("path", PAGES)
def test_monitoring_never_asks_upstream_and_is_never_cached(
    pytail: Client, index: FakeIndex, path: str
):
    answer = pytail.get(path)
    assert (answer.status, answer.headers["Cache-Control"]) == (200, "no-store")
    assert pytail.head(path).headers["Content-Length"] == str(len(answer.data))
    assert index.seen == []


def test_health_is_ok(pytail: Client):
    answer = pytail.get("/+health")
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.json()["status"] == "ok"


def test_health_is_ok_without_upstream(pytail: Client, index: FakeIndex):
    index.stop()
    assert pytail.get("/simple/demo/").status == 503
    assert pytail.get("/+health").status == 200


def test_metrics_are_in_the_text_format_of_prometheus(pytail: Client):
    answer = pytail.get("/+metrics")
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    assert b"\n# TYPE pytail_requests_total counter\n" in answer.data


def test_requests_and_bytes_are_counted_by_outcome(pytail: Client, index: FakeIndex):
    dist = wheel("demo")
    index.add(dist)
    path = dist.served
    pages = [pytail.get("/simple/demo/") for _ in range(3)]
    files = [pytail.get(path) for _ in range(2)]
    until(lambda: samples(pytail)["pytail_requests_total", "HIT", "2xx"] == 3)
    found = samples(pytail)
    assert found["pytail_requests_total", "MISS", "2xx"] == 2
    fetched, stored = (
        len(pages[0].data) + len(files[0].data),
        2 * len(pages[1].data) + len(dist.data),
    )
    assert found["pytail_sent_bytes_total", "upstream"] == fetched
    assert found["pytail_sent_bytes_total", "cache"] == stored


def test_monitoring_is_not_counted(pytail: Client):
    for path in PAGES:
        pytail.get(path)
    counted = {key: value for key, value in samples(pytail).items() if key[0] == "pytail_requests_total"}  # fmt: skip
    assert set(counted.values()) == {0.0}


def test_requests_to_upstream_are_timed(pytail: Client, index: FakeIndex):
    index.add(wheel("demo"))
    pytail.get("/simple/demo/")
    found = samples(pytail)
    assert found[("pytail_upstream_seconds_count",)] == 1
    assert 0 < found[("pytail_upstream_seconds_sum",)] < 5


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (reply(b"", "text/plain", "500 Internal Server Error"), "refused"),
        (reply(b"<", "text/plain"), "garbled"),
        (reply(b"", "text/plain", "404 Not Found"), None),
    ],
)
def test_errors_of_upstream_are_counted_by_kind(
    pytail: Client, index: FakeIndex, answer: Any, kind: str | None
):
    index.answers["/simple/demo/"] = answer
    pytail.get("/simple/demo/")
    counted = {key[1]: value for key, value in samples(pytail).items() if key[0] == "pytail_upstream_errors_total"}  # fmt: skip
    assert counted.keys() == {"unreachable", "refused", "garbled", "cut"}
    assert {name for name, value in counted.items() if value} == ({kind} if kind else set())


def test_an_open_circuit_breaker_is_reported(pytail: Client, index: FakeIndex):
    index.stop()
    for name in ("a", "b", "c"):
        pytail.get(f"/simple/{name}/")
    until(lambda: samples(pytail)[("pytail_breaker_open",)] == 1)
    found = pytail.get("/+status").json()["upstream"]
    assert (found["breaker"], found["errors"]["unreachable"]) == ("open", 3)


def test_the_delay_of_the_event_loop_is_measured(pytail: Client):
    until(lambda: samples(pytail)[("pytail_hub_delay_seconds_count",)] > 0)


def test_status_has_the_ratio_of_hits(pytail: Client, index: FakeIndex):
    dist = wheel("demo")
    index.add(dist)
    path = dist.served
    assert pytail.get("/+status").json()["hit_ratio"] == {"requests": None, "bytes": None}
    for _ in range(4):
        pytail.get(path)
    until(lambda: pytail.get("/+status").json()["requests"]["HIT"] == 3)
    # The uptime is rounded to tenths of a second.
    until(lambda: pytail.get("/+status").json()["uptime_secs"] > 0)
    found = pytail.get("/+status").json()
    assert found["hit_ratio"] == {"requests": 0.75, "bytes": 0.75}
    assert found["upstream"]["breaker"] == "closed"
    assert found["arriving_files"] == 0
    assert 0 < found["uptime_secs"] < 60


def test_monitoring_shows_no_credentials(tmp_path: Path, index: FakeIndex):
    url = index.url.replace("//", "//user:secret@")
    with serving(tmp_path, url) as client:
        client.get("/simple/demo/")
        for path in PAGES:
            assert b"secret" not in client.get(path).data
        assert client.get("/+status").json()["upstream"]["url"] == index.url
