"""The variant in which nginx sends held files without asking pytail."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path

import pytest

from tests.deployment.conftest import Site, Start
from tests.deployment.test_nginx import DEMO, said
from tests.support.fakeindex import FakeIndex
from tests.support.running import Clock, serving

pytestmark = pytest.mark.slow


#: What is asked of a held file, beside its name.
CONDITIONS: list[dict[str, str]] = [
    {},
    {"Range": "bytes=5-99"},
    {"Range": "bytes=5-99", "If-Range": f'"{DEMO.key}"'},
    {"Range": "bytes=5-99", "If-Range": '"other"'},
    {"Range": "bytes=0-1,5-6"},
    {"If-None-Match": f'"{DEMO.key}"'},
    {"If-None-Match": '"other"'},
]


@pytest.fixture(params=["/pypi", ""], ids=["prefix", "root"])
def straight(
    request: pytest.FixtureRequest, tmp_path: Path, index: FakeIndex, clock: Clock, nginx: Start
) -> Iterator[Site]:
    """nginx with `conf/nginx-store.conf`, and DEMO held."""
    index.add(DEMO)
    cache = tmp_path / "cache"
    with (
        serving(cache, index.url, clock, accel_redirect="/+held/") as pytail,
        nginx(pytail.url.removeprefix("http://"), cache, request.param, store=True) as running,
    ):
        running.behind = pytail
        yield running


def asked(site: Site) -> int:
    """The requests that pytail has had."""
    return sum(site.behind.get("/+status").json()["requests"].values())


def test_pytail_is_asked_for_what_is_not_held_only(straight: Site):
    assert straight.get(DEMO.served).headers["X-Cache"] == "MISS"
    assert asked(straight) == 1
    for path in (DEMO.served, DEMO.served.replace("+local", "%2Blocal")):
        answer = straight.get(path)
        assert (answer.status, answer.data, answer.headers["X-Cache"]) == (200, DEMO.data, "HIT")
    assert asked(straight) == 1


def test_a_held_file_is_answered_as_pytail_would(straight: Site):
    straight.behind.get(DEMO.served)
    for method, headers in itertools.product(("GET", "HEAD"), CONDITIONS):
        through = straight.request(method, DEMO.served, headers)
        direct = straight.behind.request(method, DEMO.served, headers | {"X-Accel-Redirect": "no"})
        assert (through.status, through.data) == (direct.status, direct.data), headers
        # nginx tells no age, and of a part not that there are parts.
        unlike = {"age"} | ({"accept-ranges"} if through.status == 206 else set())
        assert said(through).items() <= said(direct).items(), headers
        assert said(direct).keys() - said(through).keys() <= unlike, headers


def test_when_the_file_came_is_nothing_to_ask_for(straight: Site, tmp_path: Path):
    straight.behind.get(DEMO.served)
    (held,) = tmp_path.rglob(DEMO.filename)
    came = formatdate(held.stat().st_mtime, usegmt=True)
    answer = straight.get(DEMO.served, If_Modified_Since=came)
    assert (answer.status, answer.headers["Last-Modified"]) == (200, None)


def test_what_is_spelled_otherwise_is_pytails_to_answer(straight: Site):
    straight.behind.get(DEMO.served)
    before = asked(straight)
    straight.get(DEMO.served.replace("/root/", "/root//"))
    assert asked(straight) == before + 1


def test_a_range_behind_the_end_is_416(straight: Site):
    straight.behind.get(DEMO.served)
    answer = straight.get(DEMO.served, Range="bytes=99999999-")
    assert answer.status == 416
    assert answer.headers["Content-Range"] == f"bytes */{len(DEMO.data)}"


def test_core_metadata_is_pytails_to_answer(straight: Site):
    for _ in range(2):
        before = asked(straight)
        assert straight.get(f"{DEMO.served}.metadata").data == DEMO.metadata
        assert asked(straight) == before + 1


def test_a_removed_file_is_fetched_again(straight: Site, tmp_path: Path):
    straight.get(DEMO.served)
    (held,) = (tmp_path / "cache").rglob(DEMO.filename)
    held.unlink()
    assert straight.get(DEMO.served).data == DEMO.data
    assert straight.get(DEMO.served).headers["X-Cache"] == "HIT"


def test_a_quarantined_file_goes_out_nevertheless(straight: Site, index: FakeIndex, clock: Clock):
    straight.get(DEMO.served)
    index.page_extra["demo"] = {"project-status": {"status": "quarantined"}}
    clock.now += 1000
    straight.get("/simple/demo/")
    # What docs/deploy.md names as the price.
    assert straight.get(DEMO.served).status == 200
    assert straight.behind.get(DEMO.served).status == 404
