"""Requests for pages: shared by clients, limited in time, and written to the catalog."""

import json

import gevent
import pytest

from pytail.errors import ProjectNotFound, UpstreamGarbled, UpstreamRefused, UpstreamUnreachable
from tests.cache.conftest import DAY, PAGE, TTL
from tests.support.fakeindex import JSON, Gated, reply, sdist
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
