"""When pytail serves a stored page, revalidates it or asks upstream again."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from gevent import joinall, spawn
from gevent.event import Event

from pytail.upstream.circuit_breaker import OBJECTS
from tests.support.fakeindex import HTML, JSON, FakeIndex, Gated, reply, sdist, wheel
from tests.support.running import Answer, Client, Clock, file_path, serving, stored_path
from tests.support.watching import timed, until, until_earlier_requests_wait

TTL = 900


@pytest.fixture
def demo(index: FakeIndex) -> FakeIndex:
    index.add(wheel("demo"))
    return index


def outcome(answer: Answer) -> tuple[str, str]:
    """Return the values of X-Cache and Age."""
    return answer.headers["X-Cache"], answer.headers["Age"]


def body(serial: int, *versions: str) -> bytes:
    return json.dumps(
        {"meta": {"api-version": "1.4", "_last-serial": serial}, "files": [], "versions": versions}
    ).encode()


def test_x_cache_names_the_outcome_of_each_page(pytail: Client, demo: FakeIndex, clock: Clock):
    assert outcome(pytail.get("/simple/demo/")) == ("MISS", "0")
    clock.now += 100
    assert outcome(pytail.get("/simple/demo/")) == ("HIT", "100")
    clock.now += TTL
    assert outcome(pytail.get("/simple/demo/")) == ("REVALIDATED", "0")
    demo.add(sdist("demo"))
    clock.now += TTL
    assert outcome(pytail.get("/simple/demo/")) == ("MISS", "0")
    demo.stop()
    clock.now += TTL + 5
    assert outcome(pytail.get("/simple/demo/")) == ("STALE", str(TTL + 5))
    assert pytail.get("/simple/").headers["X-Cache"] == "HIT"


def test_x_cache_names_the_outcome_of_each_file(pytail: Client, demo: FakeIndex):
    path = file_path(pytail.json("demo")["files"][0])
    assert [pytail.get(path).headers["X-Cache"] for _ in range(2)] == ["MISS", "HIT"]
    assert pytail.get(path, Range="bytes=0-9").headers["X-Cache"] == "HIT"


def test_clients_that_share_a_download_get_coalesced(pytail: Client, demo: FakeIndex):
    path, dist = file_path(pytail.json("demo")["files"][0]), demo.dists[0]
    gate = Event()
    demo.answers[dist.path] = lambda *wsgi: gate.wait() and demo._answer(*wsgi)
    clients = [spawn(pytail.get, path) for _ in range(5)]
    until_earlier_requests_wait(pytail)
    gate.set()
    joinall(clients, raise_error=True)
    outcomes = sorted(client.value.headers["X-Cache"] for client in clients)
    assert outcomes == ["COALESCED"] * 4 + ["MISS"]


def test_x_cache_of_a_404_is_miss_and_then_hit(pytail: Client, index: FakeIndex):
    outcomes = [pytail.get("/simple/nope/").headers["X-Cache"] for _ in range(2)]
    assert outcomes == ["MISS", "HIT"]


def test_clients_that_share_an_upstream_request_get_coalesced(pytail: Client, demo: FakeIndex):
    gate = Event()
    answer = reply(body(1), JSON)
    demo.answers["/simple/demo/"] = lambda *wsgi: gate.wait() and answer(*wsgi)
    clients = [spawn(pytail.get, "/simple/demo/") for _ in range(5)]
    until_earlier_requests_wait(pytail)
    gate.set()
    joinall(clients, raise_error=True)
    outcomes = sorted(client.value.headers["X-Cache"] for client in clients)
    assert outcomes == ["COALESCED"] * 4 + ["MISS"]


@pytest.mark.parametrize(("sent", "interval"), [("no-cache", 10), ("max-age=0", 30)])
def test_a_client_forces_a_revalidation_once_per_interval(
    pytail: Client, demo: FakeIndex, clock: Clock, sent: str, interval: int
):
    pytail.get("/simple/demo/")
    for _ in range(3):
        clock.now += interval - 1
        assert pytail.get("/simple/demo/", Cache_Control=sent).headers["X-Cache"] == "HIT"
        clock.now += 1
        for expected in ("REVALIDATED", "HIT"):
            answer = pytail.get("/simple/demo/", Cache_Control=f"{sent.upper()} , x")
            assert answer.headers["X-Cache"] == expected  # item 98
    assert demo.page_count("demo") == 4


def test_no_cache_on_a_file_does_not_fetch_it_again(pytail: Client, demo: FakeIndex):
    path = file_path(pytail.json("demo")["files"][0])
    for _ in range(2):
        assert pytail.get(path, Cache_Control="no-cache", Range="bytes=0-9").status == 206
    assert demo.count(demo.dists[0].path) == 1  # item 89


def test_a_stale_page_is_served_while_upstream_does_not_respond(
    tmp_path: Path, demo: FakeIndex, clock: Clock
):
    gate = Event()
    with serving(tmp_path, demo.url, clock, revalidate_wait_secs=0.1) as pytail:
        pytail.get("/simple/demo/")
        clock.now += TTL
        demo.add(wheel("demo", "2.0"))
        demo.answers["/simple/demo/"] = lambda *wsgi: gate.wait() and demo._answer(*wsgi)
        assert pytail.get("/simple/demo/").headers["X-Cache"] == "STALE"  # item 113
        # The revalidation ends after the response.
        gate.set()
        until(lambda: pytail.get("/simple/demo/").headers["X-Cache"] == "HIT")
        assert pytail.json("demo")["versions"] == ["1.0", "2.0"]
    assert demo.page_count("demo") == 2


def test_a_page_beyond_max_stale_secs_is_not_served(tmp_path: Path, demo: FakeIndex, clock: Clock):
    with serving(tmp_path, demo.url, clock, max_stale_secs=5000) as pytail:
        pytail.get("/simple/demo/")
        demo.stop()
        clock.now += 4999
        assert pytail.get("/simple/demo/").status == 200
        clock.now += 2
        assert pytail.get("/simple/demo/").status == 503


def test_a_page_with_a_lower_serial_is_not_taken_for_a_day(
    pytail: Client, index: FakeIndex, clock: Clock
):
    index.answers["/simple/demo/"] = reply(body(7, "1.0", "2.0"), JSON)
    assert pytail.json("demo")["versions"] == ["1.0", "2.0"]
    index.answers["/simple/demo/"] = reply(body(6, "1.0"), JSON)
    clock.now += TTL
    assert pytail.json("demo")["versions"] == ["1.0", "2.0"]  # item 111
    clock.now += 24 * 3600
    assert pytail.json("demo")["versions"] == ["1.0"]


def test_a_revalidation_sends_the_headers_of_the_first_request(
    pytail: Client, demo: FakeIndex, clock: Clock
):
    pytail.get("/simple/demo/", Accept="text/html")
    clock.now += TTL
    pytail.get("/simple/demo/", Accept=JSON)
    first, second = (seen.headers for seen in demo.seen)
    for name in ("ACCEPT", "ACCEPT_ENCODING"):
        assert first[name] == second[name]  # item 106


def test_a_damaged_page_is_requested_without_a_validator(
    tmp_path: Path, demo: FakeIndex, clock: Clock
):
    with serving(tmp_path, demo.url, clock) as pytail:
        pytail.get("/simple/demo/")
    with closing(sqlite3.connect(tmp_path / "index.sqlite3")) as database:
        database.execute("UPDATE part SET lines = '{broken'")
        database.commit()
    with serving(tmp_path, demo.url, clock) as pytail:
        assert len(pytail.json("demo")["files"]) == 1  # item 108
    assert "IF_NONE_MATCH" not in demo.seen[-1].headers


def test_pages_have_no_last_modified(pytail: Client, demo: FakeIndex):
    demo.answers["/simple/demo/"] = reply(
        body(1), JSON, Last_Modified="Wed, 21 Oct 2015 07:28:00 GMT", Age="77", Via="x", Expires="0"
    )
    headers = pytail.get("/simple/demo/").headers
    assert "Last-Modified" not in headers  # item 100
    assert not {"Via", "Expires", "Set-Cookie"} & set(headers)  # item 99
    assert headers["Age"] == "0"


def test_the_etag_depends_on_pytails_bytes_not_on_upstreams(
    pytail: Client, demo: FakeIndex, clock: Clock
):
    first = pytail.get("/simple/demo/", Accept=JSON)
    demo.answers["/simple/demo/"] = reply(
        json.dumps(demo.page("demo"), indent=1).encode(), JSON, etag='"other"'
    )
    clock.now += TTL
    again = pytail.get("/simple/demo/", Accept=JSON)
    assert again.data == first.data
    assert again.headers["ETag"] == first.headers["ETag"] != '"other"'  # item 94


def test_the_circuit_breaker_opens_for_a_host_that_keeps_failing(
    pytail: Client, demo: FakeIndex, clock: Clock
):
    pytail.get("/simple/demo/")
    clock.now += TTL
    for number in range(OBJECTS):
        demo.answers[f"/simple/p{number}/"] = reply(b"", "text/plain", "500 Oops")
        assert pytail.get(f"/simple/p{number}/").status == 502
    count = len(demo.seen)
    answer = pytail.get("/simple/new/")
    assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
    assert "circuit breaker is open" in answer.json()["detail"]
    assert pytail.get("/simple/demo/").headers["X-Cache"] == "STALE"
    assert len(demo.seen) == count


def test_a_probe_that_hangs_delays_no_client_with_a_stale_page(
    tmp_path: Path, demo: FakeIndex, clock: Clock
):
    with serving(tmp_path, demo.url, clock, revalidate_wait_secs=30) as pytail:
        pytail.get("/simple/demo/")
        clock.now += TTL
        hanging = demo.answers["/simple/demo/"] = Gated(b"")
        for number in range(OBJECTS):
            demo.answers[f"/simple/p{number}/"] = reply(b"", "text/plain", "500 Oops")
            pytail.get(f"/simple/p{number}/")

        def is_probing() -> bool:
            client = spawn(pytail.get, "/simple/demo/")
            until(lambda: client.ready() or hanging.asked.is_set())
            return hanging.asked.is_set()

        until(is_probing)
        answer, seconds = timed(lambda: pytail.get("/simple/demo/"))
        assert answer.headers["X-Cache"] == "STALE"
        assert seconds < 10
        demo.stop()


def test_a_page_that_always_fails_is_asked_for_in_pauses_and_stops_no_other(
    pytail: Client, demo: FakeIndex
):
    demo.answers["/simple/bad/"] = reply(b"", "text/plain", "500 Oops")
    assert [pytail.get("/simple/bad/").status for _ in range(4)] == [502, 502, 502, 503]
    answer = pytail.get("/simple/bad/", Cache_Control="no-cache")
    assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
    assert "3 failures in a row: answered with status 500" in answer.json()["detail"]
    assert demo.page_count("bad") == 3
    assert pytail.get("/simple/demo/").status == 200
    until(lambda: pytail.get("/simple/bad/").status == 502)


def test_a_file_and_core_metadata_that_always_fail_stop_no_other(pytail: Client, index: FakeIndex):
    bad, good = wheel("bad"), wheel("good")
    index.add(bad, good)
    failing = reply(b"", "text/plain", "500 Oops")
    index.answers |= {bad.path: failing, f"{bad.path}.metadata": failing}
    for _ in range(20):
        assert pytail.get(bad.served).status in (502, 503)
        assert pytail.get(f"{bad.served}.metadata").status in (502, 503)
    assert pytail.get(good.served).data == good.data
    assert pytail.get(f"{good.served}.metadata").data == good.metadata


def test_core_metadata_that_hangs_comes_out_of_the_wheel(tmp_path: Path, index: FakeIndex):
    dist, over = wheel("demo"), Event()
    index.add(dist)
    index.answers[f"{dist.path}.metadata"] = lambda *_: over.wait() and [b""]
    with serving(tmp_path, index.url, request_timeout_secs=0.3) as pytail:
        assert pytail.get(f"{dist.served}.metadata").data == dist.metadata
        over.set()


@pytest.mark.parametrize("status", ["429 Slow", "503 Busy"])
def test_a_retry_after_stops_its_page_only(pytail: Client, index: FakeIndex, status: str):
    index.answers["/simple/a/"] = reply(b"", "text/plain", status, Retry_After="42")
    assert pytail.get("/simple/a/").headers["Retry-After"] == "42"
    answer = pytail.get("/simple/a/")
    assert answer.status == 503
    assert 40 <= int(answer.headers["Retry-After"]) <= 42  # item 119
    assert index.page_count("a") == 1
    assert pytail.get("/simple/b/").status == 404


def test_missing_projects_are_stored_across_a_restart(
    tmp_path: Path, index: FakeIndex, clock: Clock
):
    for _ in range(2):
        with serving(tmp_path, index.url, clock, missing_ttl_secs=300) as pytail:
            assert pytail.get("/simple/nope/").status == 404
            clock.now += 250
    assert index.page_count("nope") == 1


@pytest.fixture
def offline(tmp_path: Path, demo: FakeIndex, clock: Clock) -> Any:
    """Starts a pytail with `offline`, its cache with one page, one wheel and its metadata."""
    demo.add(wheel("demo", "2.0"), sdist("demo", "3.0"))
    with serving(tmp_path, demo.url, clock) as pytail:
        path = file_path(pytail.json("demo")["files"][0])
        for suffix in ("", ".metadata"):
            pytail.get(path + suffix)
    demo.seen.clear()
    clock.now += 10 * TTL
    return lambda: serving(tmp_path, demo.url, clock, offline=True)


def test_offline_lists_only_stored_files_and_never_asks_upstream(offline: Any, demo: FakeIndex):
    with offline() as pytail:
        (entry,) = pytail.json("demo")["files"]
        assert entry["filename"] == demo.dists[0].filename
        assert pytail.get(file_path(entry)).data == demo.dists[0].data
        assert pytail.get(file_path(entry) + ".metadata").data == demo.dists[0].metadata
    assert demo.seen == []


def test_offline_unknown_pages_and_files_are_404_with_a_reason(offline: Any, demo: FakeIndex):
    with offline() as pytail:
        for path in ("/simple/unknown/", f"/root/pypi/+f/{demo.dists[1].key}"):
            answer = pytail.get(path)
            assert answer.status == 404
            assert "--offline" in answer.json()["detail"]
    assert demo.seen == []


def test_offline_missing_metadata_is_read_from_the_stored_wheel(
    tmp_path: Path, offline: Any, demo: FakeIndex
):
    wheel_path = stored_path(tmp_path, demo.dists[0])
    wheel_path.with_name(f"{wheel_path.name}.metadata").unlink()
    with offline() as pytail:
        path = file_path(pytail.json("demo")["files"][0])
        assert pytail.get(path + ".metadata").data == demo.dists[0].metadata


def test_another_upstream_has_its_own_pages_and_the_files_stay(
    tmp_path: Path, demo: FakeIndex, clock: Clock
):
    with serving(tmp_path, demo.url, clock) as pytail:
        path = file_path(pytail.json("demo")["files"][0])
        pytail.get(path)
    with FakeIndex() as other, serving(tmp_path, other.url, clock) as pytail:
        assert pytail.get("/simple/", Accept=JSON).json()["projects"] == []
        other.add(sdist("demo"))
        assert [file["filename"] for file in pytail.json("demo")["files"]] == ["demo-1.0.tar.gz"]
        assert "IF_NONE_MATCH" not in other.seen[0].headers
        assert pytail.get(path).data == demo.dists[0].data
    assert demo.count(demo.dists[0].path) == 1


def test_a_blank_page_does_not_replace_one_with_files(
    pytail: Client, index: FakeIndex, clock: Clock
):
    index.add(wheel("demo"))
    known = pytail.json("demo")
    blank = reply(b"<!DOCTYPE html>\n<html><head></head><body>\n</body></html>\n", HTML)
    index.answers["/simple/demo/"] = index.answers["/simple/empty/"] = blank
    clock.now += 901
    stale = pytail.get("/simple/demo/", Accept=JSON)
    assert (stale.headers["X-Cache"], stale.json()) == ("STALE", known)
    assert pytail.json("empty")["files"] == []
    del index.answers["/simple/demo/"]
    clock.now += 901
    assert pytail.get("/simple/demo/").headers["X-Cache"] == "REVALIDATED"


def test_an_empty_page_with_a_title_removes_the_files(
    pytail: Client, index: FakeIndex, clock: Clock
):
    index.add(wheel("demo"))
    assert pytail.json("demo")["files"]
    page = b"<!DOCTYPE html><html><head><title>Links for demo</title></head><body></body></html>"
    index.answers["/simple/demo/"] = reply(page, HTML)
    clock.now += 901
    assert pytail.json("demo")["files"] == []


# Unchanged pages


@pytest.mark.parametrize("form", ["application/vnd.pypi.simple.v1+json", "text/html"])
@pytest.mark.parametrize("comment", ["", "<!--TIMESTAMP {}-->", "<p>{}</p>"])
def test_an_unchanged_page_without_validators_keeps_its_etag_at_clients(
    pytail: Client, index: FakeIndex, clock: Clock, form: str, comment: str
):
    links = '<a href="demo-1.0.zip">x</a><a href="demo-2.0.zip">x</a>'
    etag = None
    for number in range(3):
        body = f"{links}{comment.format(number)}".encode()
        index.answers["/simple/demo/"] = reply(body, "text/html")
        answer = pytail.get("/simple/demo/", Accept=form, If_None_Match=etag or "")
        etag = etag or answer.headers["ETag"]
        assert answer.headers["ETag"] == etag  # item 105
        expected = (304, "REVALIDATED") if number else (200, "MISS")
        assert (answer.status, answer.headers["X-Cache"]) == expected
        clock.now += 900
    assert index.page_count("demo") == 3
