"""The access log: one line per request."""

from __future__ import annotations

import io
import json
import logging
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest

from pytail.config.values import proxies
from pytail.telemetry import logs
from tests.support.fakeindex import FakeIndex, Gated, wheel
from tests.support.running import Client, serving
from tests.support.watching import until

Lines = Callable[[int], list[dict[str, Any]]]


@pytest.fixture
def lines() -> Iterator[Lines]:
    """Waits for so many access lines and returns all of them, decoded."""
    out = io.StringIO()
    handler = logs.BatchingHandler(out, logs.JsonFormatter())
    logs.log.addHandler(handler)
    logs.log.setLevel(logging.INFO)
    logs.log.propagate = False

    def wait(count: int) -> list[dict[str, Any]]:
        until(lambda: handler.flush() or len(out.getvalue().splitlines()) >= count)
        return [json.loads(line) for line in out.getvalue().splitlines()]

    yield wait
    logs.log.removeHandler(handler)
    logs.log.setLevel(logging.NOTSET)
    logs.log.propagate = True


def test_each_line_has_status_outcome_bytes_and_id(pytail: Client, index: FakeIndex, lines: Lines):
    dist = wheel("demo")
    index.add(dist)
    path = dist.served
    answers = [pytail.get("/simple/demo/?key=secret"), pytail.get("/simple/demo/"),
               pytail.get(path), pytail.get(path), pytail.head(path), pytail.get("/nowhere")]  # fmt: skip
    found = lines(len(answers))
    assert [line["outcome"] for line in found] == [a.headers["X-Cache"] for a in answers]
    assert [line["status"] for line in found] == [200, 200, 200, 200, 200, 404]
    assert [line["bytes"] for line in found] == [len(answer.data) for answer in answers]
    assert [line["request_id"] for line in found] == [a.headers["X-Request-Id"] for a in answers]
    assert [line["cut"] for line in found] == [False] * 6
    assert "secret" not in str(found)


def test_each_line_has_the_milliseconds_that_upstream_took(
    pytail: Client, index: FakeIndex, lines: Lines
):
    dist = wheel("demo", payload=os.urandom(100_000))
    index.add(dist)
    pytail.get("/simple/demo/")
    half = len(dist.data) // 2
    gated = Gated(dist.data[:half], dist.data[half:], size=len(dist.data))
    index.answers[dist.path] = gated
    path = dist.served
    clients = [gevent.spawn(pytail.get, path) for _ in range(2)]
    gated.asked.wait()
    gated.open()
    # Upstream takes at least these 50 ms.
    gevent.sleep(0.05)
    gated.open()
    gevent.joinall(clients, raise_error=True)
    pytail.get(path)
    page, *shared, hit = lines(4)
    assert 0 < page["upstream_ms"] <= page["ms"]
    assert sorted(line["outcome"] for line in shared) == ["COALESCED", "MISS"]
    assert all(40 <= line["upstream_ms"] <= line["ms"] for line in shared)
    assert hit["upstream_ms"] == 0


def test_a_response_to_a_client_that_left_is_cut(pytail: Client, index: FakeIndex, lines: Lines):
    dist = wheel("demo", payload=os.urandom(30_000_000))
    index.add(dist)
    pytail.get(dist.served)
    connection = pytail.open("GET", dist.served)
    connection.sock.recv(1)
    connection.sock.shutdown(socket.SHUT_RDWR)
    connection.close()
    line = lines(2)[-1]
    assert line["cut"] is True
    assert line["bytes"] < len(dist.data)


def test_the_response_of_an_interrupted_download_is_cut(
    pytail: Client, index: FakeIndex, lines: Lines
):
    dist = wheel("demo", payload=os.urandom(300_000))
    index.add(dist)
    pytail.get("/simple/demo/")
    wrong = dist.data[:-1] + bytes([dist.data[-1] ^ 1])
    gated = Gated(wrong, size=len(wrong))
    gated.open()
    index.answers[dist.path] = gated
    with pytest.raises(Exception, match="IncompleteRead"):
        pytail.get(dist.served)
    assert lines(2)[-1]["cut"] is True


def test_the_id_of_a_request_is_in_the_response_and_in_the_log(pytail: Client, lines: Lines):
    answer = pytail.get("/simple/", X_Request_Id="ci-job-17/3")
    assert answer.headers["X-Request-Id"] == "ci-job-17/3"
    assert lines(1)[0]["request_id"] == "ci-job-17/3"


def test_each_line_has_the_client_behind_a_trusted_proxy(
    tmp_path: Path, index: FakeIndex, lines: Lines
):
    with serving(tmp_path, index.url, trusted_proxies=proxies("127.0.0.1")) as pytail:
        pytail.get("/simple/", X_Forwarded_For="192.0.2.66, 203.0.113.7:5000")
        pytail.get("/simple/", X_Forwarded_For="garbage")
        pytail.get("/simple/")
    assert [line["client"] for line in lines(3)] == ["203.0.113.7", "127.0.0.1", "127.0.0.1"]


def test_no_line_has_a_client_that_another_peer_invented(pytail: Client, lines: Lines):
    pytail.get("/simple/", X_Forwarded_For="203.0.113.7")
    assert lines(1)[0]["client"] == "127.0.0.1"


@pytest.mark.parametrize("path", ["/", "/simple/", "/simple/demo/", "/nowhere", "/simple/demo"])
def test_every_response_has_an_id(pytail: Client, path: str):
    for method in ("GET", "HEAD", "OPTIONS", "POST"):
        assert len(pytail.request(method, path).headers.get_all("X-Request-Id")) == 1
