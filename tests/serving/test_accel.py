"""X-Accel-Redirect: an nginx in front sends stored files itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fakeindex import Dist, FakeIndex, wheel
from tests.support.running import Answer, Client, serving

DEMO = wheel("demo", "1.0+local.1", payload=bytes(range(256)) * 1000)
OTHER = wheel("other", payload=bytes(range(256)) * 1000)
ACCEL = "X-Accel-Redirect"


@pytest.fixture
def front(tmp_path: Path, index: FakeIndex) -> Iterator[Client]:
    """A client of a pytail with `accel_redirect`, which has stored DEMO."""
    index.add(DEMO, OTHER)
    with serving(tmp_path / "cache", index.url, accel_redirect="/+held/") as client:
        assert client.get(DEMO.served).data == DEMO.data
        yield client


def is_redirected(answer: Answer, dist: Dist = DEMO) -> bool:
    """Return whether nginx is to send `dist`. Asserts that the body is empty then, and only then."""
    location = answer.headers[ACCEL]
    assert location in (None, f"/+held/{dist.key.replace('+', '%2B')}")
    assert (location is None) == bool(answer.data)
    return location is not None


def headers_of(answer: Answer, unlike: set[str]) -> dict[str, str]:
    return {name: value for name, value in answer.headers.items() if name.lower() not in unlike}


def test_a_stored_file_is_redirected_with_the_headers_of_a_sent_one(front: Client):
    redirected, sent = front.get(DEMO.served), front.get(DEMO.served, X_Accel_Redirect="no")
    assert (redirected.status, sent.status) == (200, 200)
    assert is_redirected(redirected)
    assert sent.data == DEMO.data
    unlike = {"x-request-id", "content-length", "date", "accept-ranges", ACCEL.lower()}
    assert headers_of(redirected, unlike) == headers_of(sent, unlike)


def test_a_range_is_redirected(front: Client):
    answer = front.get(DEMO.served, Range="bytes=5-10")
    assert answer.status == 206
    assert is_redirected(answer)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X-Accel-Redirect", "no"),
        ("Range", "bytes=5-2"),
        ("Range", "bytes=0-1,5-6"),
        ("If-Match", '"other"'),
        ("If-Unmodified-Since", "Thu, 01 Jan 1970 00:00:00 GMT"),
    ],
)
def test_pytail_sends_where_nginx_would_respond_otherwise(front: Client, name: str, value: str):
    answer = front.request("GET", DEMO.served, {name: value})
    assert (answer.status, answer.data) == (200, DEMO.data)
    assert not is_redirected(answer)


def test_a_range_of_another_version_gets_the_whole_file(front: Client):
    answer = front.get(DEMO.served, Range="bytes=5-10", If_Range='"other"')
    assert (answer.status, answer.data) == (200, DEMO.data)


def test_responses_without_a_body_are_not_redirected(front: Client):
    for answer, status in (
        (front.head(DEMO.served), 200),
        (front.get(DEMO.served, If_None_Match="*"), 304),
    ):
        assert (answer.status, answer.headers[ACCEL]) == (status, None)
    beyond = front.get(DEMO.served, Range="bytes=9999999-")
    assert (beyond.status, beyond.headers[ACCEL]) == (416, None)


def test_nginx_does_not_buffer_a_downloading_file(front: Client):
    answer = front.get(OTHER.served)
    assert (answer.headers["X-Accel-Buffering"], answer.headers[ACCEL]) == ("no", None)
    assert answer.data == OTHER.data


def test_bytes_that_nginx_sends_are_counted(front: Client):
    def counted() -> int:
        return front.get("/+status").json()["sent_bytes"]["cache"]

    before = counted()
    front.get(DEMO.served)
    front.get(DEMO.served, Range="bytes=5-10")
    assert counted() - before == len(DEMO.data) + 6


def test_nothing_is_redirected_without_the_option(tmp_path: Path, index: FakeIndex):
    index.add(DEMO)
    with serving(tmp_path / "cache", index.url) as client:
        for _ in range(2):
            answer = client.get(DEMO.served, X_Accel_Redirect="/+held/")
            assert (answer.data, answer.headers[ACCEL]) == (DEMO.data, None)
