"""`conf/nginx-store.conf`: nginx sends stored files without a request to pytail."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path

import pytest

from tests.deployment.conftest import Site, Start
from tests.deployment.test_nginx import DEMO, pytails_headers
from tests.support.fakeindex import FakeIndex
from tests.support.running import Clock, serving

pytestmark = pytest.mark.slow

#: Headers of requests for a stored file.
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
    """nginx with `conf/nginx-store.conf`, in front of a pytail that can fetch DEMO."""
    index.add(DEMO)
    cache = tmp_path / "cache"
    with (
        serving(cache, index.url, clock, accel_redirect="/+held/") as pytail,
        nginx(pytail.url.removeprefix("http://"), cache, request.param, store=True) as running,
    ):
        running.behind = pytail
        yield running


def requests(site: Site) -> int:
    """Return the number of requests that pytail has counted."""
    return sum(site.behind.get("/+status").json()["requests"].values())


def test_pytail_gets_requests_only_for_files_not_stored(straight: Site):
    assert straight.get(DEMO.served).headers["X-Cache"] == "MISS"
    assert requests(straight) == 1
    for path in (DEMO.served, DEMO.served.replace("+local", "%2Blocal")):
        answer = straight.get(path)
        assert (answer.status, answer.data, answer.headers["X-Cache"]) == (200, DEMO.data, "HIT")
    assert requests(straight) == 1


def test_a_stored_file_is_served_as_by_pytail(straight: Site):
    straight.behind.get(DEMO.served)
    for method, headers in itertools.product(("GET", "HEAD"), CONDITIONS):
        through = straight.request(method, DEMO.served, headers)
        direct = straight.behind.request(method, DEMO.served, headers | {"X-Accel-Redirect": "no"})
        assert (through.status, through.data) == (direct.status, direct.data), headers
        # nginx sends no Age, and no Accept-Ranges with a range.
        unlike = {"age"} | ({"accept-ranges"} if through.status == 206 else set())
        assert pytails_headers(through).items() <= pytails_headers(direct).items(), headers
        assert pytails_headers(direct).keys() - pytails_headers(through).keys() <= unlike, headers


def test_if_modified_since_is_ignored(straight: Site, tmp_path: Path):
    straight.behind.get(DEMO.served)
    (stored,) = tmp_path.rglob(DEMO.filename)
    modified = formatdate(stored.stat().st_mtime, usegmt=True)
    answer = straight.get(DEMO.served, If_Modified_Since=modified)
    assert (answer.status, answer.headers["Last-Modified"]) == (200, None)


def test_other_spellings_of_the_path_go_to_pytail(straight: Site):
    straight.behind.get(DEMO.served)
    before = requests(straight)
    straight.get(DEMO.served.replace("/root/", "/root//"))
    assert requests(straight) == before + 1


def test_a_range_beyond_the_end_is_416(straight: Site):
    straight.behind.get(DEMO.served)
    answer = straight.get(DEMO.served, Range="bytes=99999999-")
    assert answer.status == 416
    assert answer.headers["Content-Range"] == f"bytes */{len(DEMO.data)}"


def test_core_metadata_is_requested_from_pytail(straight: Site):
    for _ in range(2):
        before = requests(straight)
        assert straight.get(f"{DEMO.served}.metadata").data == DEMO.metadata
        assert requests(straight) == before + 1


def test_a_removed_file_is_fetched_again(straight: Site, tmp_path: Path):
    straight.get(DEMO.served)
    (stored,) = (tmp_path / "cache").rglob(DEMO.filename)
    stored.unlink()
    assert straight.get(DEMO.served).data == DEMO.data
    assert straight.get(DEMO.served).headers["X-Cache"] == "HIT"


def test_a_quarantined_file_is_still_sent(straight: Site, index: FakeIndex, clock: Clock):
    straight.get(DEMO.served)
    index.page_extra["demo"] = {"project-status": {"status": "quarantined"}}
    clock.now += 1000
    straight.get("/simple/demo/")
    # docs/deploy.md warns of this.
    assert straight.get(DEMO.served).status == 200
    assert straight.behind.get(DEMO.served).status == 404
