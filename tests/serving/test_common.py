"""Headers that every response has, and headers of requests that change none."""

from __future__ import annotations

import pytest

from tests.support.fakeindex import FakeIndex, wheel
from tests.support.running import Client

PATHS = ["/", "/simple/", "/simple/demo/", "/simple/nope/", "/simple/Demo", "/nothing"]


@pytest.fixture
def paths(index: FakeIndex) -> list[str]:
    dist = wheel("demo")
    index.add(dist)
    file = dist.served
    return [*PATHS, file, f"{file}.metadata"]


def test_every_response_allows_other_origins_and_runs_no_scripts(pytail: Client, paths: list[str]):
    for path in paths:
        headers = pytail.get(path).headers
        assert headers["Access-Control-Allow-Origin"] == "*"  # item 145
        assert "Content-Range" in headers["Access-Control-Expose-Headers"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "sandbox" in headers["Content-Security-Policy"]
        assert len(headers.get_all("Date")) == 1  # item 99
        assert headers["Content-Type"] not in {None, "application/json"}  # item 48


def test_preflight_allows_ranges_on_any_path(pytail: Client, index: FakeIndex, paths: list[str]):
    for path in paths:
        answer = pytail.request("OPTIONS", path)
        assert (answer.status, answer.data) == (204, b"")  # item 145
        assert answer.headers["Allow"] == "GET, HEAD, OPTIONS"
        assert "Range" in answer.headers["Access-Control-Allow-Headers"]
    assert index.seen == []


@pytest.mark.parametrize("fragment", ["#sha256=0", "#"])
def test_a_fragment_is_not_part_of_the_path(pytail: Client, paths: list[str], fragment: str):
    for path in (paths[-1], paths[-2], "/simple/demo/"):
        assert pytail.get(path + fragment).status == 200  # item 55


def test_host_and_forwarded_headers_change_no_response(pytail: Client, paths: list[str]):
    evil = {
        "Host": "evil.example.org",
        "X-Forwarded-Host": "evil.example.org",
        "X-Forwarded-Proto": "gopher",
        "Forwarded": "host=evil.example.org",
    }
    for path in paths:
        plain = pytail.get(path)
        answer = pytail.request("GET", path, evil)
        assert answer.data == plain.data  # item 142
        assert "evil" not in str(answer.headers)


def test_a_path_adds_no_headers_to_the_response(pytail: Client):
    for path in (
        "/simple/a%0d%0aX-Evil:%201/",
        "/simple/a%0d%0aX-Evil:%201",
        "/simple?x=%0d%0aX:1",
    ):
        answer = pytail.get(path)
        assert answer.status in (302, 404)  # item 143
        assert "X-Evil" not in answer.headers
