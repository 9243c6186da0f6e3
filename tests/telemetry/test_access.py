"""The access record of a request, and the time that the request waits for upstream."""

from __future__ import annotations

import time
from collections.abc import Iterator

import gevent
import pytest
from gevent.event import Event

from pytail.telemetry import access
from pytail.telemetry.access import AccessRecord, UpstreamWait, current_id


@pytest.fixture
def record() -> Iterator[AccessRecord]:
    """A record that is the current one of this greenlet."""
    made = AccessRecord("GET", "/simple/demo/", "id-1", "192.0.2.1")
    access.begin(made)
    yield made
    access.finish()


def test_a_wait_for_upstream_counts_for_the_current_record():
    gate, records, started = Event(), [], time.perf_counter()

    def serve() -> None:
        records.append(AccessRecord("GET", "/", "id-1"))
        access.begin(records[0])
        with UpstreamWait():
            gate.wait()

    request = gevent.spawn(serve)
    with UpstreamWait():
        gevent.sleep(0.02)
    gate.set()
    request.get()
    assert 0.01 < records[0].upstream_seconds <= time.perf_counter() - started


def test_a_wait_without_upstream_does_not_count(record: AccessRecord):
    with UpstreamWait() as wait:
        wait.counts = False
    assert record.upstream_seconds == 0


def test_a_wait_outside_of_a_request_counts_for_no_record():
    assert current_id() is None
    with UpstreamWait():
        pass


@pytest.mark.parametrize(
    ("path", "plain"),
    [
        ("/simple/demo/", "/simple/demo/"),
        ("/a b", "/a%20b"),
        ("/a\n2026-01-01 ERROR x", "/a%0A2026-01-01%20ERROR%20x"),
        ("/\xc3\xa9\x1b[0m", "/%C3%A9%1B%5B0m"),
    ],
)
def test_a_path_cannot_forge_a_log_line(path: str, plain: str):
    record = AccessRecord("GET", path, "id-1")
    assert record.plain_path == plain == record.as_dict()["path"]
    assert len(str(record).splitlines()) == 1


def test_a_record_is_one_line_of_text_or_an_object_of_json():
    record = AccessRecord("GET", "/simple/demo/", "id-1")
    record.status, record.outcome, record.bytes_sent = "200", "MISS", 1234
    record.seconds, record.upstream_seconds = 0.0123, 0.0106
    assert str(record) == "GET /simple/demo/ 200 MISS 1234 bytes 12.3 ms upstream 10.6 ms id-1"
    assert record.as_dict() == {
        "method": "GET",
        "path": "/simple/demo/",
        "status": 200,
        "outcome": "MISS",
        "bytes": 1234,
        "ms": 12.3,
        "upstream_ms": 10.6,
        "cut": False,
        "client": None,
    }
    record.client = "192.0.2.1"
    assert str(record).endswith("upstream 10.6 ms 192.0.2.1 id-1")
    assert record.as_dict()["client"] == "192.0.2.1"
    record.is_interrupted, record.outcome = True, ""
    assert "200 - cut after 1234 bytes" in str(record)
