"""Repeated responses: never another one than Falcon would give at that moment."""

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
class Said:
    """A response, and whether it was made by Falcon."""

    status: str
    headers: dict[str, str]
    body: bytes
    was_made: bool = dataclasses.field(compare=False)


#: By application and question: a response and how it may be given again, as a server keeps them.
KEPT: dict[tuple[Any, ...], tuple[Said, Replay]] = {}


def call(application: Any, project: str = "demo", method: str = "GET", **more: str) -> Said:
    question = (id(application), project, method, *sorted(more.items()))
    if question in KEPT:
        said, repeat = KEPT[question]
        if repeat.begin() is not None:
            return dataclasses.replace(said, body=repeat.body, was_made=False)
    said, environ = called(application, project, method, **more)
    if REPLAY in environ:
        KEPT[question] = said, environ[REPLAY]
    return said


def called(application: Any, project: str, method: str, **more: str) -> tuple[Said, dict[str, Any]]:
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
    said: list[Any] = []

    def start_response(status: str, headers: Any, exc_info: Any = None) -> None:
        # Each response has an id of its own.
        said[:] = status, {name: value for name, value in headers if name.lower() != "x-request-id"}

    body = b"".join(application(environ, start_response))
    return Said(*said, body, was_made=True), environ


def by_falcon(
    application: Application, project: str = "demo", method: str = "GET", **more: str
) -> Said:
    def app(environ: Any, start_response: Any) -> Any:
        return falcon.App.__call__(application, environ, start_response)

    return called(app, project, method, **more)[0]


@contextlib.contextmanager
def applications(index: FakeIndex, clock: Clock, cache: Path, **more: Any) -> Iterator[Any]:
    """Two of one cache directory, as in two processes."""
    known = Settings(cache_dir=cache, upstream_base_url=index.url, **more)
    with (
        contextlib.closing(create_app(known, clock)) as one,
        contextlib.closing(create_app(known, clock)) as other,
    ):
        yield one, other
    KEPT.clear()


@pytest.fixture
def application(index: FakeIndex, clock: Clock, tmp_path: Path) -> Iterator[Application]:
    index.add(wheel("demo"))
    with applications(index, clock, tmp_path / "cache") as (one, _):
        yield one


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("accept", [JSON, HTML, "text/html"])
@pytest.mark.parametrize("coding", ["gzip", "zstd", ""])
def test_same_question_has_the_same_response_without_falcon(
    application: Application, method: str, accept: str, coding: str
):
    def ask(**more: str) -> Said:
        headers = {"HTTP_ACCEPT": accept, "HTTP_ACCEPT_ENCODING": coding, **more}
        return call(application, method=method, **headers)

    ask()
    made, ready = ask(), ask()
    assert (made.was_made, ready.was_made) == (True, False)
    assert ready == made
    assert ready.headers["x-cache"] == "HIT"
    etag = ready.headers["etag"]
    made, ready = ask(HTTP_IF_NONE_MATCH=etag), ask(HTTP_IF_NONE_MATCH=etag)
    assert (made.was_made, ready.was_made) == (True, False)
    assert ready == made
    assert ready.status.startswith("304")


def test_age_goes_on(application: Application, clock: Clock):
    for _ in range(3):
        call(application)
    clock.now += 7
    assert call(application).headers["age"] == "7"


def test_page_beyond_its_ttl_is_not_ready(application: Application, clock: Clock, index: FakeIndex):
    for _ in range(3):
        call(application)
    clock.now += 901
    assert call(application).headers["x-cache"] == "REVALIDATED"
    assert index.page_count("demo") == 2


def test_forced_refresh_asks_upstream_as_often_as_ever(
    application: Application, clock: Clock, index: FakeIndex
):
    call(application)
    clock.now += 11
    for expected in ("REVALIDATED", "HIT", "HIT"):
        said = call(application, HTTP_CACHE_CONTROL="no-cache")
        assert said.headers["x-cache"] == expected
    clock.now += 11
    assert call(application, HTTP_CACHE_CONTROL="no-cache").headers["x-cache"] == "REVALIDATED"
    assert index.page_count("demo") == 3


def test_what_another_process_learnt_shows_at_once(index: FakeIndex, clock: Clock, tmp_path: Path):
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


def test_removed_project_is_gone_at_once(index: FakeIndex, clock: Clock, tmp_path: Path):
    index.add(wheel("demo"))
    with applications(index, clock, tmp_path / "cache") as (one, other):
        for _ in range(3):
            call(one)
        index.dists.clear()
        clock.now += 11
        call(one), call(one)
        call(other, HTTP_CACHE_CONTROL="no-cache")
        assert call(one).status.startswith("404")


def test_nothing_is_ready_offline(index: FakeIndex, clock: Clock, tmp_path: Path):
    index.add(wheel("demo"))
    with applications(index, clock, tmp_path / "cache") as (one, _):
        call(one)
    with applications(index, clock, tmp_path / "cache", offline=True) as (one, _):
        assert [call(one).was_made for _ in range(3)] == [True] * 3


questions = st.fixed_dictionaries(
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
    st.tuples(st.just("ask"), questions, st.integers(2, 3)),
    st.tuples(st.just("ask"), st.just({}), st.integers(2, 3)),
    st.tuples(st.just("wait"), st.sampled_from([0.3, 0.9, 3.0, 12.0, 40.0, 70.0])),
    st.tuples(st.just("change"), st.sampled_from(["demo", "other"])),
    st.tuples(st.just("elsewhere"), st.sampled_from(["demo", "other"])),
)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(steps, max_size=25))
def test_a_hit_is_always_what_falcon_would_say(steps: list[Any]):
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
                        said = call(one, **asked)
                        made = by_falcon(one, **asked)
                        if said.headers.get("x-cache") == "HIT":
                            assert said == made
                        assert said.body == made.body
                        last = said.headers.get("etag", last)
