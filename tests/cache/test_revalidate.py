"""Requests for pages: shared by clients, limited in time, and written to the catalog."""

import contextlib
import gzip
import json
import sqlite3
import time

import gevent
import pytest

from pytail.errors import ProjectNotFound, UpstreamGarbled, UpstreamRefused, UpstreamUnreachable
from pytail.model import Outcome
from tests.cache.conftest import DAY, PAGE, TTL
from tests.support.fakeindex import JSON, Gated, reply, sdist, wheel
from tests.support.watching import until

# One request


def test_many_clients_share_one_request(cache, index):
    index.add(sdist("demo"))
    clients = [gevent.spawn(cache.files) for _ in range(50)]
    gevent.joinall(clients, raise_error=True)
    assert all(client.value == ["demo-1.0.tar.gz"] for client in clients)
    assert index.page_count("demo") == 1


def test_many_clients_share_one_revalidation(cache, index, clock):
    index.add(sdist("demo"))
    cache.index.page("demo")
    clock.now += TTL
    gevent.joinall([gevent.spawn(cache.files) for _ in range(20)], raise_error=True)
    assert index.page_count("demo") == 2


@pytest.mark.parametrize(
    ("response", "kind"),
    [
        (reply(b"no", "text/plain", "500 Oops"), UpstreamRefused),
        (reply(b"no", "text/plain"), UpstreamGarbled),
    ],
)
def test_all_waiting_clients_get_the_error(cache, index, response, kind):
    index.answers[PAGE] = response
    clients = [gevent.spawn(cache.index.page, "demo") for _ in range(10)]
    gevent.joinall(clients)
    assert {type(client.exception) for client in clients} == {kind}
    assert index.page_count("demo") == 1


def test_the_wait_for_an_uncached_page_is_limited(make_cache, index):
    cache = make_cache(wait=0.05)
    gated = index.answers[PAGE] = Gated(b'{"files": []}', Content_Type=JSON)
    with pytest.raises(UpstreamUnreachable, match="the request continues"):
        cache.index.page("demo")
    gated.open()
    until(lambda: cache.revalidator.in_progress == 0)
    assert cache.files() == []
    assert index.page_count("demo") == 1


def test_a_late_response_is_stored(make_cache, index, clock):
    cache = make_cache(revalidate_wait_secs=0.01)
    index.add(sdist("demo"))
    cache.index.page("demo")
    clock.now += TTL
    gated = index.answers[PAGE] = Gated(b'{"files": []}', Content_Type=JSON)
    assert cache.files() == ["demo-1.0.tar.gz"]
    gated.open()
    until(lambda: cache.revalidator.in_progress == 0)
    assert cache.files() == []
    assert index.page_count("demo") == 2


# Unchanged, new, removed


def test_an_old_page_is_revalidated_with_its_etag(cache, index, clock):
    index.add(sdist("demo"))
    first = cache.index.page("demo")
    clock.now += TTL
    second = cache.index.page("demo")
    assert index.seen[1].headers["IF_NONE_MATCH"] == first.entry.etag
    assert second.entry.revision == first.entry.revision
    assert second.entry.checked_at == clock.now
    assert second.fresh_for == TTL
    assert cache.files() == ["demo-1.0.tar.gz"]


def test_a_revalidated_page_is_fresh_again(cache, index, clock):
    index.add(sdist("demo"))
    cache.index.page("demo")
    clock.now += TTL
    cache.index.page("demo")
    clock.now += TTL - 1
    assert cache.index.page("demo").fresh_for == 1
    assert index.page_count("demo") == 2


LINKS = "".join(f'<a href="demo-{n}.zip#md5={n:032x}">x</a>' for n in range(300))
ENTRIES = [sdist("demo", str(number)).entry() for number in range(3)]
OLD = "Mon, 06 May 2024 07:08:09 GMT"


def unchanged(body, kind="text/html", **headers):
    return reply(body.encode(), kind, **headers)


#: Pairs of responses with the same page.
SAME_PAGE = {
    "identical": (unchanged(LINKS), unchanged(LINKS)),
    "another ETag": (unchanged(LINKS, etag='"1"'), unchanged(LINKS, etag='"2"')),
    "the same ETag": (unchanged(LINKS, ETag='"1"'), unchanged(LINKS, ETag='"1"')),
    "a lost ETag": (unchanged(LINKS, etag='"1"'), unchanged(LINKS, Last_Modified=OLD)),
    "Last-Modified": (unchanged(LINKS, Last_Modified=OLD), reply(b"", None, "304 Not Modified")),
    "an odd Last-Modified": (unchanged(LINKS, Last_Modified="0"), unchanged(LINKS)),
    "gzip": (
        unchanged(LINKS),
        reply(gzip.compress(LINKS.encode()), "text/html", Content_Encoding="gzip"),
    ),
    "a comment at the end": (unchanged(f"{LINKS}<!-- 1 -->"), unchanged(f"{LINKS}\n<!-- 22 -->\n")),
    "a comment at the start": (unchanged(f"<!-- 1 -->{LINKS}"), unchanged(f"<!-- 22 -->{LINKS}")),
    "spaces": (unchanged(LINKS), unchanged(LINKS.replace("<a", "\n  <a"))),
    "other markup": (unchanged(LINKS), unchanged(f"<h1>{time.time()}</h1>{LINKS}</html>")),
    "other signatures": tuple(
        unchanged(
            f"<a href='demo-1.0.zip?{sig}#sha256={'ab' * 32}'>x</a><a href=demo-2.0.zip?{sig}>y</a>"
        )
        for sig in ("s=1", "s=2")
    ),
    "another form": (
        unchanged(json.dumps({"files": ENTRIES}), JSON),
        unchanged(json.dumps({"name": "demo", "files": ENTRIES}, indent=1), "application/json"),
    ),
}


@pytest.mark.parametrize("pair", SAME_PAGE.values(), ids=SAME_PAGE)
def test_an_unchanged_page_keeps_its_revision_and_is_not_written(
    cache, index, clock, tmp_path, pair
):
    index.answers[PAGE] = pair[0]
    first, rows = cache.index.page("demo"), rows_of(tmp_path, "part")
    for _ in range(2):
        index.answers[PAGE] = pair[1]
        clock.now += TTL
        again = cache.index.page("demo")
        assert again.outcome is Outcome.REVALIDATED
        assert again.entry.revision == first.entry.revision
        assert (again.entry.checked_at, again.fresh_for) == (clock.now, TTL)
        assert rows_of(tmp_path, "part") == rows != []
        assert cache.catalog.entry("demo") == again.entry
    assert index.page_count("demo") == 3


def rows_of(directory, table):
    """Return the rows of a table; a row that is written again has another id."""
    with contextlib.closing(sqlite3.connect(directory / "index.sqlite3")) as connection:
        return connection.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall()


def test_a_page_that_is_fetched_whole_is_returned_also_where_it_is_unchanged(cache, index):
    index.answers[PAGE] = unchanged(LINKS)
    cache.index.page("demo")
    result = cache.revalidator.fetch("demo")
    assert result.outcome is Outcome.REVALIDATED
    assert result.page == cache.catalog.page("demo")


def test_the_last_validator_of_an_unchanged_page_is_sent(cache, index, clock):
    for etag in ('"1"', '"2"', None):
        headers = {"etag": etag} if etag else {"Last_Modified": OLD}
        index.answers[PAGE] = unchanged(LINKS, **headers)
        clock.now += TTL
        cache.index.page("demo")
    clock.now += TTL
    cache.index.page("demo")
    sent = [
        (seen.headers.get("IF_NONE_MATCH"), seen.headers.get("IF_MODIFIED_SINCE"))
        for seen in index.seen
    ]
    assert sent == [(None, None), ('"1"', None), ('"2"', None), (None, OLD)]


def test_an_unchanged_page_keeps_its_corrected_core_metadata(cache, index, clock):
    index.answers[PAGE] = unchanged("<a href=demo-1-py3-none-any.whl data-core-metadata=true>x</a>")
    (file,) = cache.index.content(cache.index.page("demo")).files
    cache.catalog.set_core_metadata(file, "ab" * 32)
    corrected = cache.catalog.entry("demo").revision
    clock.now += TTL
    result = cache.index.page("demo")
    assert (result.outcome, result.entry.revision) == (Outcome.REVALIDATED, corrected)
    assert cache.index.content(result).files[0].core_metadata == {"sha256": "ab" * 32}


def test_a_changed_page_keeps_its_corrected_core_metadata(cache, index, clock):
    one, other = wheel("demo"), wheel("demo", "2.0")
    one.extra["core-metadata"] = {"sha256": "0" * 64}
    index.add(one)
    (file,) = cache.index.content(cache.index.page("demo")).files
    cache.catalog.set_core_metadata(file, "ab" * 32)
    for number in range(2):
        # The files change, and then only the bytes.
        index.add(*[other] * (number == 0))
        index.page_extra["demo"] = {"meta": {"api-version": "1.4", "x": number}}
        clock.now += TTL
        result = cache.index.page("demo")
        expected = (Outcome.MISS, Outcome.REVALIDATED)[number]
        assert result.outcome is expected
        for page in (cache.index.content(result), cache.catalog.page("demo")):
            assert page.files[0].core_metadata == {"sha256": "ab" * 32}
            assert len(page.files) == 2


def test_a_page_of_an_earlier_pytail_is_fetched_whole(cache, index, clock, tmp_path):
    index.add(sdist("demo"))
    cache.index.page("demo")
    with contextlib.closing(sqlite3.connect(tmp_path / "index.sqlite3")) as catalog, catalog:
        catalog.execute("UPDATE project SET fingerprint = NULL")
    clock.now += TTL
    cache.index.page("demo")
    assert "IF_NONE_MATCH" not in index.seen[1].headers  # item 108
    clock.now += TTL
    cache.index.page("demo")
    assert "IF_NONE_MATCH" in index.seen[2].headers


def test_a_page_that_another_process_has_changed_meanwhile_stays(make_cache, index, clock):
    one, other = make_cache(), make_cache()
    index.answers[PAGE] = unchanged(LINKS)
    one.index.page("demo")
    clock.now += TTL
    late = index.answers[PAGE] = Gated(LINKS.encode(), Content_Type="text/html")
    slow = gevent.spawn(one.files)
    late.asked.wait()
    index.answers[PAGE] = unchanged("<a href=demo-new.zip>x</a>")
    assert other.files() == ["demo-new.zip"]
    late.open()
    assert slow.get(timeout=5) == ["demo-new.zip"]
    assert one.files() == ["demo-new.zip"]


def test_a_changed_page_replaces_the_old_one(cache, index, clock):
    index.add(sdist("demo"))
    first = cache.index.page("demo")
    index.add(sdist("demo", "2.0"))
    clock.now += TTL
    second = cache.index.page("demo")
    assert second.entry.revision != first.entry.revision
    assert cache.files() == ["demo-1.0.tar.gz", "demo-2.0.tar.gz"]
    assert index.page_count("demo") == 2


def test_a_project_removed_upstream_is_not_found(cache, index, clock):
    index.add(sdist("demo"))
    cache.index.page("demo")
    clock.now += TTL
    index.dists.clear()
    with pytest.raises(ProjectNotFound):
        cache.index.page("demo")
    assert cache.index.projects() == ([], None)


def test_a_removed_project_stays_not_found_when_upstream_is_down(cache, index, clock):
    index.add(sdist("demo"))
    cache.index.page("demo")
    clock.now += TTL
    index.dists.clear()
    for _ in range(2):
        with pytest.raises(ProjectNotFound):
            cache.index.page("demo")
        index.stop()


# Lower serials


def numbered(serial, *files, **headers):
    """Return a response with a page of that serial."""
    listed = [file.entry() for file in files]
    page = {"name": "demo", "files": listed, "meta": {"_last-serial": serial}}
    return reply(json.dumps(page).encode(), JSON, **headers)


def test_a_page_with_a_lower_serial_is_ignored_for_a_day(cache, index, clock):
    index.answers[PAGE] = numbered(7, sdist("demo"))
    cache.files()
    clock.now += 30 * DAY
    index.answers[PAGE] = numbered(6)
    assert cache.files() == ["demo-1.0.tar.gz"]  # item 111
    clock.now += DAY
    assert cache.files() == []


@pytest.mark.parametrize("between", [numbered(7, sdist("demo")), reply(b"", None, "304 Same")])
def test_an_equal_serial_or_a_304_restarts_that_day(cache, index, clock, between):
    index.answers[PAGE] = numbered(7, sdist("demo"), etag='"7"')
    cache.files()
    for response in (numbered(6), between, numbered(6)):
        index.answers[PAGE] = response
        clock.now += 0.9 * DAY
        assert cache.files() == ["demo-1.0.tar.gz"]


def test_a_lower_serial_is_better_than_a_page_that_the_catalog_has_lost(cache, index, tmp_path):
    index.answers[PAGE] = numbered(7, sdist("demo"))
    assert cache.files() == ["demo-1.0.tar.gz"]
    index.answers[PAGE] = numbered(6, sdist("demo", "0.9"))
    assert [file.filename for file in cache.revalidator.fetch("demo").page.files] == [
        "demo-1.0.tar.gz"
    ]
    with contextlib.closing(sqlite3.connect(tmp_path / "index.sqlite3")) as catalog, catalog:
        catalog.execute("UPDATE part SET lines = '\n{'")
    for _ in range(2):
        assert cache.files() == ["demo-0.9.tar.gz"]


def test_a_late_page_does_not_replace_a_newer_one_of_another_process(make_cache, index):
    late = Gated(json.dumps({"files": [], "meta": {"_last-serial": 6}}).encode(), Content_Type=JSON)
    one, other = make_cache(), make_cache()
    index.answers[PAGE] = late
    slow = gevent.spawn(one.files)
    late.asked.wait()
    index.answers[PAGE] = numbered(7, sdist("demo"))
    assert other.files() == ["demo-1.0.tar.gz"]
    late.open()
    assert slow.get(timeout=5) == ["demo-1.0.tar.gz"]
    assert one.files() == other.files() == ["demo-1.0.tar.gz"]
