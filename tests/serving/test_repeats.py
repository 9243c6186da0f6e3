"""Repeated responses of pages: equal to those that Falcon would make at that moment."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import falcon
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytail.config.settings import Settings
from pytail.server.microcache import REPLAY
from pytail.web.app import Application, create_app
from pytail.web.middleware import Replay
from tests.support.fakeindex import HTML, JSON, FakeIndex, wheel
from tests.support.running import Clock


@dataclasses.dataclass
class Response:
    """A response, and whether Falcon made it."""

    status: str
    headers: dict[str, str]
    body: bytes
    was_made: bool = dataclasses.field(compare=False)


#: By application and request: a response and its `Replay`, as the microcache of a server has them.
REPLAYS: dict[tuple[Any, ...], tuple[Response, Replay]] = {}


def call(application: Any, project: str = "demo", method: str = "GET", **more: str) -> Response:
    request = (id(application), project, method, *sorted(more.items()))
    if request in REPLAYS:
        response, replay = REPLAYS[request]
        if replay.begin("") is not None:
            return dataclasses.replace(response, body=replay.body, was_made=False)
    response, environ = called(application, project, method, **more)
    if REPLAY in environ:
        REPLAYS[request] = response, environ[REPLAY]
    return response


def called(
    application: Any, project: str, method: str, **more: str
) -> tuple[Response, dict[str, Any]]:
    environ = {
        "REQUEST_METHOD": method,
        "PATH_INFO": f"/simple/{project}/",
        "QUERY_STRING": "",
        "SERVER_NAME": "x",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": io.StringIO(),
        **more,
    }
    head: list[Any] = []

    def start_response(status: str, headers: Any, exc_info: Any = None) -> None:
        # Each response has an id of its own.
        head[:] = status, {name: value for name, value in headers if name.lower() != "x-request-id"}

    body = b"".join(application(environ, start_response))
    return Response(*head, body, was_made=True), environ


def by_falcon(
    application: Application, project: str = "demo", method: str = "GET", **more: str
) -> Response:
    def app(environ: Any, start_response: Any) -> Any:
        return falcon.App.__call__(application, environ, start_response)

    return called(app, project, method, **more)[0]


@contextlib.contextmanager
def applications(index: FakeIndex, clock: Clock, cache: Path, **more: Any) -> Iterator[Any]:
    """Two applications of one cache directory, as in two processes."""
    known = Settings(cache_dir=cache, upstream_base_url=index.url, **more)
    with (
        contextlib.closing(create_app(known, clock)) as one,
        contextlib.closing(create_app(known, clock)) as other,
    ):
        yield one, other
    REPLAYS.clear()


@pytest.fixture
def application(index: FakeIndex, clock: Clock, tmp_path: Path) -> Iterator[Application]:
    index.add(wheel("demo"))
    with applications(index, clock, tmp_path / "cache") as (one, _):
        yield one


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("accept", [JSON, HTML, "text/html"])
@pytest.mark.parametrize("coding", ["gzip", "zstd", ""])
def test_the_third_request_gets_the_same_response_without_falcon(
    application: Application, method: str, accept: str, coding: str
):
    def ask(**more: str) -> Response:
        headers = {"HTTP_ACCEPT": accept, "HTTP_ACCEPT_ENCODING": coding, **more}
        return call(application, method=method, **headers)

    ask()
    made, repeated = ask(), ask()
    assert (made.was_made, repeated.was_made) == (True, False)
    assert repeated == made
    assert repeated.headers["x-cache"] == "HIT"
    etag = repeated.headers["etag"]
    made, repeated = ask(HTTP_IF_NONE_MATCH=etag), ask(HTTP_IF_NONE_MATCH=etag)
    assert (made.was_made, repeated.was_made) == (True, False)
    assert repeated == made
    assert repeated.status.startswith("304")


def test_the_age_of_a_repeated_page_grows(application: Application, clock: Clock):
    for _ in range(3):
        call(application)
    clock.now += 7
    assert call(application).headers["age"] == "7"


def test_a_stale_page_is_not_repeated(application: Application, clock: Clock, index: FakeIndex):
    for _ in range(3):
        call(application)
    clock.now += 901
    assert call(application).headers["x-cache"] == "REVALIDATED"
    assert index.page_count("demo") == 2


def test_a_forced_revalidation_is_not_repeated(
    application: Application, clock: Clock, index: FakeIndex
):
    call(application)
    clock.now += 11
    for expected in ("REVALIDATED", "HIT", "HIT"):
        response = call(application, HTTP_CACHE_CONTROL="no-cache")
        assert response.headers["x-cache"] == expected
    clock.now += 11
    assert call(application, HTTP_CACHE_CONTROL="no-cache").headers["x-cache"] == "REVALIDATED"
    assert index.page_count("demo") == 3


def test_a_page_changed_by_another_process_is_served_at_once(
    index: FakeIndex, clock: Clock, tmp_path: Path
):
    index.add(wheel("demo"))
    with applications(index, clock, tmp_path / "cache") as (one, other):
        for _ in range(3):
            before = call(one)
        assert not before.was_made
        index.add(wheel("demo", "2.0"))
        clock.now += 11
        call(one), call(one)
        call(other, HTTP_CACHE_CONTROL="no-cache")
        after = call(one)
        assert b"demo-2.0" in after.body
        assert b"demo-2.0" not in before.body


def test_a_project_removed_by_another_process_is_404_at_once(
    index: FakeIndex, clock: Clock, tmp_path: Path
):
    index.add(wheel("demo"))
    with applications(index, clock, tmp_path / "cache") as (one, other):
        for _ in range(3):
            call(one)
        index.dists.clear()
        clock.now += 11
        call(one), call(one)
        call(other, HTTP_CACHE_CONTROL="no-cache")
        assert call(one).status.startswith("404")


def test_nothing_is_repeated_offline(index: FakeIndex, clock: Clock, tmp_path: Path):
    index.add(wheel("demo"))
    with applications(index, clock, tmp_path / "cache") as (one, _):
        call(one)
    with applications(index, clock, tmp_path / "cache", offline=True) as (one, _):
        assert [call(one).was_made for _ in range(3)] == [True] * 3


requests = st.fixed_dictionaries(
    {},
    optional={
        "HTTP_ACCEPT": st.sampled_from([JSON, HTML, "text/html", "x/y", "*/*;q=0.1"]),
        "HTTP_ACCEPT_ENCODING": st.sampled_from(["gzip", "zstd, gzip", "identity"]),
        "HTTP_CACHE_CONTROL": st.sampled_from(["no-cache", "max-age=0", "max-age=5"]),
        "HTTP_IF_NONE_MATCH": st.sampled_from(["*", "last"]),
        "QUERY_STRING": st.sampled_from(["", "format=application/vnd.pypi.simple.v1%2Bjson", "x"]),
        "method": st.sampled_from(["GET", "HEAD", "POST"]),
        "project": st.sampled_from(["demo", "other", "Demo", "nope"]),
    },
)
steps = st.one_of(
    st.tuples(st.just("ask"), requests, st.integers(2, 3)),
    st.tuples(st.just("ask"), st.just({}), st.integers(2, 3)),
    st.tuples(st.just("wait"), st.sampled_from([0.3, 0.9, 3.0, 12.0, 40.0, 70.0])),
    st.tuples(st.just("change"), st.sampled_from(["demo", "other"])),
    st.tuples(st.just("elsewhere"), st.sampled_from(["demo", "other"])),
)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(steps, max_size=25))
def test_a_hit_equals_the_response_that_falcon_makes(steps: list[Any]):
    clock, versions, last = Clock(), iter(range(1, 100)), ""
    with tempfile.TemporaryDirectory() as directory, FakeIndex() as index:
        index.add(wheel("demo"))
        ttl = {"project_cache_ttl_secs": 60.0}
        with applications(index, clock, Path(directory) / "cache", **ttl) as (one, other):
            for kind, *what in steps:
                if kind == "wait":
                    clock.now += what[0]
                elif kind == "change":
                    index.add(wheel(what[0], f"{next(versions)}.0"))
                elif kind == "elsewhere":
                    call(other, what[0], HTTP_CACHE_CONTROL="no-cache")
                else:
                    asked = {
                        key: last if value == "last" else value for key, value in what[0].items()
                    }
                    for _ in range(what[1]):
                        response = call(one, **asked)
                        made = by_falcon(one, **asked)
                        if response.headers.get("x-cache") == "HIT":
                            assert response == made
                        assert response.body == made.body
                        last = response.headers.get("etag", last)
