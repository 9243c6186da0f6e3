"""Secrets in URLs: clients see the host of upstream alone, the log neither credentials nor queries."""

from __future__ import annotations

import contextlib
import tempfile
from http.client import HTTPException
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytail.upstream import resume
from tests.support.fakeindex import HTML, JSON
from tests.support.running import Answer, Client, Clock, file_path, serving
from tests.support.secrets import DIST, FILES, PAGES, SecretIndex, Secrets, found_in, logged


def secret(name: str) -> st.SearchStrategy[str]:
    """Return texts that have `name` at both ends, so that none is a part of anything else."""
    some = st.text("aZ9%:@/?#[]&=+ '\"\\é", max_size=6)
    return some.map(lambda text: f"{name}{text}{name}")


SECRETS = st.builds(Secrets, *map(secret, ("us3r", "p4th", "qu3ry", "fr4gment")))
NAMED = Secrets("5ecr3t-user", "5ecr3t-path", "5ecr3t-query", "5ecr3t-fragment")
quickly = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

TTL = 900


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Resume after a millisecond instead of seconds."""
    monkeypatch.setattr(resume, "PAUSES", (0.001,))


def sent(answer: Answer) -> bytes:
    return str(answer.headers).encode() + answer.data


def answers_of(pytail: Client, clock: Clock) -> bytes:
    """Return all that clients get who ask for everything."""
    # Of another client, which does not wait until a file is stored.
    pytail = Client(pytail.url)
    files = [DIST.served, f"{DIST.served}.metadata"]
    answers = [pytail.get("/simple/demo/", Accept=form) for form in (JSON, HTML, "text/html")]
    for path in files:
        answers.append(pytail.head(path))
        for asked in ({"Range": "bytes=9-20", "Accept": "text/html"}, {}):
            # A wrong file ends early.
            with contextlib.suppress(OSError, HTTPException):
                answers.append(pytail.get(path, **asked))
    clock.now += TTL
    answers += [pytail.get("/simple/demo/"), pytail.get("/simple/other/", Accept="text/html")]
    answers += [pytail.get(path) for path in ("/simple/", "/nowhere", "/+status", "/+metrics")]
    return b"".join(map(sent, answers))


def outputs(secrets: Secrets, page: str, file: str, form: str) -> tuple[bytes, bytes, bytes]:
    """Return what clients get, the log, and the database, of a pytail before that upstream."""
    index, clock = SecretIndex(secrets, page, file), Clock()
    with tempfile.TemporaryDirectory() as directory, logged(form) as log:
        with index.running() as url, serving(Path(directory), url, clock) as pytail:
            given_ = answers_of(pytail, clock)
        with serving(Path(directory), index.secrets.base(index.origin), clock) as pytail:
            # No server listens on this port any more.
            given_ += answers_of(pytail, clock)
        stored = b"".join(path.read_bytes() for path in Path(directory).glob("index.sqlite3*"))
    return given_, log.getvalue().encode(), stored


def assert_secret(secrets: Secrets, page: str, file: str, form: str) -> None:
    given_, log, stored = outputs(secrets, page, file, form)
    everywhere = (secrets.userinfo, secrets.query, secrets.fragment)
    assert found_in(given_, *everywhere, secrets.path) == []
    assert found_in(log, *everywhere) == []
    assert found_in(stored, *everywhere) == []


@pytest.mark.parametrize("page", PAGES)
def test_no_answer_to_a_page_gives_a_secret_away(page: str):
    assert_secret(NAMED, page, "file", "text")


@pytest.mark.parametrize("file", FILES)
def test_no_answer_to_a_file_gives_a_secret_away(file: str):
    assert_secret(NAMED, "page", file, "json")


@quickly
@given(SECRETS, st.sampled_from(sorted(PAGES)), st.sampled_from(sorted(FILES)))
def test_no_output_has_a_secret(secrets: Secrets, page: str, file: str):
    for form in ("text", "json"):
        assert_secret(secrets, page, file, form)


def test_the_secrets_reach_upstream_and_the_file_is_served(tmp_path: Path):
    index = SecretIndex(NAMED)
    with index.running() as url, serving(tmp_path, url) as pytail:
        assert file_path(pytail.json("demo")["files"][0]) == DIST.served
        assert pytail.get(DIST.served).data == DIST.data


def test_a_client_sees_the_host_of_upstream(tmp_path: Path):
    index = SecretIndex(NAMED, "404")
    with index.running() as url, serving(tmp_path, url) as pytail:
        shown = f"upstream {index.origin}: is no index: asked .../simple/ (no such project)"
        assert pytail.get("/simple/demo/").json()["detail"].startswith(shown)
        index.page = "page"
        assert pytail.get("/simple/demo/").status == 200
        index.page = "404"
        shown = f"the upstream index {index.origin} has no project 'other'"
        assert pytail.get("/simple/other/").json()["detail"].startswith(shown)
        assert pytail.get("/+status").json()["upstream"]["url"] == index.origin
