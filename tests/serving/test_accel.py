"""What pytail says to an nginx in front that is to send held files itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fakeindex import Dist, FakeIndex, wheel
from tests.support.running import Answer, Client, serving

DEMO = wheel("demo", "1.0+local.1", payload=bytes(range(256)) * 1000)
OTHER = wheel("other", payload=bytes(range(256)) * 1000)
SENT = "X-Accel-Redirect"


@pytest.fixture
def front(tmp_path: Path, index: FakeIndex) -> Iterator[Client]:
    """Asks as nginx does, once DEMO is held."""
    index.add(DEMO, OTHER)
    with serving(tmp_path / "cache", index.url, accel_redirect="/+held/") as client:
        assert client.get(DEMO.served).data == DEMO.data
        yield client


def is_left_to_nginx(answer: Answer, dist: Dist = DEMO) -> bool:
    where = answer.headers[SENT]
    assert where in (None, f"/+held/{dist.key.replace('+', '%2B')}")
    assert (where is None) == bool(answer.data)
    return where is not None


def test_a_held_file_is_left_to_nginx_with_all_that_is_said_of_it(front: Client):
    left, own = front.get(DEMO.served), front.get(DEMO.served, X_Accel_Redirect="no")
    assert (left.status, own.status) == (200, 200)
    assert is_left_to_nginx(left)
    assert own.data == DEMO.data
    theirs = {"x-request-id", "content-length", "date", "accept-ranges", SENT.lower()}
    assert {name: value for name, value in left.headers.items() if name.lower() not in theirs} == {
        name: value for name, value in own.headers.items() if name.lower() not in theirs
    }


def test_a_part_is_left_to_nginx(front: Client):
    answer = front.get(DEMO.served, Range="bytes=5-10")
    assert answer.status == 206
    assert is_left_to_nginx(answer)


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
def test_what_nginx_would_not_answer_as_pytail_does_pytail_sends(
    front: Client, name: str, value: str
):
    answer = front.request("GET", DEMO.served, {name: value})
    assert (answer.status, answer.data) == (200, DEMO.data)
    assert not is_left_to_nginx(answer)


def test_a_part_of_another_version_is_sent_whole(front: Client):
    answer = front.get(DEMO.served, Range="bytes=5-10", If_Range='"other"')
    assert (answer.status, answer.data) == (200, DEMO.data)


def test_what_has_no_body_is_answered_here(front: Client):
    for answer, status in (
        (front.head(DEMO.served), 200),
        (front.get(DEMO.served, If_None_Match="*"), 304),
    ):
        assert (answer.status, answer.headers[SENT]) == (status, None)
    beyond = front.get(DEMO.served, Range="bytes=9999999-")
    assert (beyond.status, beyond.headers[SENT]) == (416, None)


def test_an_arriving_file_is_not_to_be_gathered(front: Client):
    answer = front.get(OTHER.served)
    assert (answer.headers["X-Accel-Buffering"], answer.headers[SENT]) == ("no", None)
    assert answer.data == OTHER.data


def test_bytes_that_nginx_sends_are_counted(front: Client):
    def counted() -> int:
        return front.get("/+status").json()["sent_bytes"]["cache"]

    before = counted()
    front.get(DEMO.served)
    front.get(DEMO.served, Range="bytes=5-10")
    assert counted() - before == len(DEMO.data) + 6


def test_nobody_is_left_to_nginx_where_the_operator_does_not_say_so(
    tmp_path: Path, index: FakeIndex
):
    index.add(DEMO)
    with serving(tmp_path / "cache", index.url) as client:
        for _ in range(2):
            answer = client.get(DEMO.served, X_Accel_Redirect="/+held/")
            assert (answer.data, answer.headers[SENT]) == (DEMO.data, None)
