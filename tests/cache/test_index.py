"""The page of a project: fresh, revalidated or stale."""

import gevent
import pytest

from pytail.errors import ProjectNameInvalid, ProjectNotFound, UpstreamUnreachable
from pytail.storage import schema
from tests.cache.conftest import PAGE, TTL, delete_rows
from tests.support.fakeindex import JSON, FakeIndex, Gated, reply, sdist
from tests.support.storage import locked
from tests.support.watching import until

# Fresh


def test_the_first_request_for_a_project_asks_upstream(cache, index):
    index.add(sdist("demo"))
    result = cache.index.page("demo")
    assert result.entry.found
    assert result.fresh_for == TTL
    assert cache.files() == ["demo-1.0.tar.gz"]


def test_a_fresh_page_costs_no_request(cache, index, clock):
    index.add(sdist("demo"))
    cache.files()
    clock.now += TTL - 1
    assert cache.files() == ["demo-1.0.tar.gz"]
    assert index.page_count("demo") == 1


def test_fresh_for_is_the_rest_of_the_ttl(cache, index, clock):
    index.add(sdist("demo"))
    cache.index.page("demo")
    clock.now += 100
    assert cache.index.page("demo").fresh_for == TTL - 100


def test_a_page_is_still_cached_after_a_restart(cache, make_cache, index):
    index.add(sdist("demo"))
    cache.files()
    assert make_cache().files() == ["demo-1.0.tar.gz"]
    assert index.page_count("demo") == 1


def test_with_a_ttl_of_zero_every_request_revalidates(make_cache, index):
    index.add(sdist("demo"))
    cache = make_cache(ttl=0)
    for _ in range(3):
        assert cache.index.page("demo").fresh_for == 0
    assert index.page_count("demo") == 3


def test_a_page_from_the_future_is_revalidated(cache, index, clock):
    index.add(sdist("demo"))
    cache.index.page("demo")
    clock.now -= 1_000_000
    assert cache.index.page("demo").fresh_for == TTL
    assert index.page_count("demo") == 2


@pytest.mark.parametrize("name", ["", ".", "..", "a b", "a/b", "-a", "é", "a" * 300, "a\n"])
def test_an_invalid_project_name_is_refused_without_a_request(cache, index, name):
    with pytest.raises(ProjectNameInvalid):
        cache.index.page(name)
    assert index.seen == []


# Stale


def test_a_stale_page_is_served_when_upstream_is_down(cache, index, clock, caplog):
    index.add(sdist("demo"))
    cache.index.page("demo")
    clock.now += 10 * TTL
    index.stop()
    result = cache.index.page("demo")
    assert result.fresh_for == 0
    assert cache.files() == ["demo-1.0.tar.gz"]
    assert "demo: STALE, 9000 s old" in caplog.text


@pytest.mark.parametrize(
    "response",
    [
        reply(b"no", "text/plain", "500 Internal Server Error"),
        reply(b"no", "text/plain", "403 Forbidden"),
        reply(b"<html><body><form>Log in</form></body></html>", "text/html"),
        reply(b'{"name": "demo", "files": [', JSON),
        reply(b"", None),
        reply(b"", None, "302 Found", Location="/simple/demo/"),
    ],
)
def test_a_stale_page_is_served_when_upstream_sends_no_page(cache, index, clock, response):
    index.add(sdist("demo"))
    cache.index.page("demo")
    clock.now += TTL
    index.answers[PAGE] = response
    assert cache.index.page("demo").fresh_for == 0
    assert cache.files() == ["demo-1.0.tar.gz"]
    del index.answers[PAGE]
    assert cache.index.page("demo").fresh_for == TTL


def test_a_stale_page_is_served_after_the_revalidate_wait(make_cache, index, clock):
    cache = make_cache(revalidate_wait_secs=0.05)
    index.add(sdist("demo"))
    cache.index.page("demo")
    clock.now += TTL
    gated = index.answers[PAGE] = Gated(b"", size=0)
    assert cache.index.page("demo").fresh_for == 0
    assert cache.files() == ["demo-1.0.tar.gz"]
    gated.open()
    until(lambda: cache.revalidator.in_progress == 0)


def test_an_uncached_page_is_an_error_when_upstream_is_down(cache, index):
    index.stop()
    with pytest.raises(UpstreamUnreachable):
        cache.index.page("demo")


# Missing


def test_a_missing_project_is_not_found(cache):
    with pytest.raises(ProjectNotFound, match="demo"):
        cache.index.page("demo")


def test_a_missing_project_is_remembered_for_a_minute(cache, index, clock):
    for _ in range(3):
        with pytest.raises(ProjectNotFound):
            cache.index.page("demo")
        clock.now += 60 / 3 - 1
    assert index.page_count("demo") == 1


def test_a_new_project_is_found_after_a_minute(cache, index, clock):
    with pytest.raises(ProjectNotFound):
        cache.index.page("demo")
    index.add(sdist("demo"))
    clock.now += 60
    assert cache.files() == ["demo-1.0.tar.gz"]


def test_an_expired_missing_project_is_an_error_when_upstream_is_down(cache, index, clock):
    with pytest.raises(ProjectNotFound):
        cache.index.page("demo")
    clock.now += 60
    index.stop()
    with pytest.raises(UpstreamUnreachable):
        cache.index.page("demo")


# A catalog in trouble


def test_a_page_lost_from_the_catalog_is_fetched_whole(cache, index, tmp_path):
    index.add(sdist("demo"))
    cache.index.page("demo")
    result = cache.index.page("demo")
    assert result.page is None
    delete_rows(tmp_path, "project")
    assert len(cache.index.content(result).files) == 1
    assert "IF_NONE_MATCH" not in index.seen[1].headers
    assert cache.files() == ["demo-1.0.tar.gz"]
    assert index.page_count("demo") == 2


def test_a_page_lost_from_the_catalog_and_removed_upstream_is_not_found(cache, index, tmp_path):
    index.add(sdist("demo"))
    cache.index.page("demo")
    result = cache.index.page("demo")
    delete_rows(tmp_path, "project")
    index.dists.clear()
    with pytest.raises(ProjectNotFound):
        cache.index.content(result)


def test_pages_are_served_while_the_catalog_is_locked(make_cache, index, tmp_path, monkeypatch):
    monkeypatch.setattr(schema, "BUSY_TIMEOUT", 0.1)
    names = [f"p{number}" for number in range(20)]
    index.add(*(sdist(name) for name in names))
    cache = make_cache()
    with locked(tmp_path / "index.sqlite3", "EXCLUSIVE"):
        clients = [gevent.spawn(cache.files, name) for name in names]
        gevent.joinall(clients, raise_error=True)
    assert [client.value for client in clients] == [[f"{name}-1.0.tar.gz"] for name in names]


# Another upstream


def test_a_page_of_another_upstream_is_fetched_again(cache, make_cache, index):
    index.add(sdist("demo"))
    cache.files()
    with FakeIndex() as other:
        other.add(sdist("demo", "2.0"))
        other_cache = make_cache(other.url)
        assert other_cache.files() == ["demo-2.0.tar.gz"]
        assert "IF_NONE_MATCH" not in other.seen[0].headers


def test_a_page_of_another_upstream_is_never_served_stale(cache, make_cache, index):
    index.add(sdist("demo"))
    cache.files()
    with FakeIndex() as other:
        other_cache = make_cache(other.url)
        other.stop()
        with pytest.raises(UpstreamUnreachable):
            other_cache.index.page("demo")


def test_the_project_list_has_only_projects_of_this_upstream(cache, make_cache, index):
    index.add(sdist("demo"), sdist("other"))
    index.page_extra["demo"] = {"meta": {"api-version": "1.0", "_last-serial": 7}}
    for name in ("other", "demo"):
        cache.files(name)
    assert cache.index.projects() == (["demo", "other"], 7)
    with FakeIndex() as other:
        assert make_cache(other.url).index.projects() == ([], None)


# Quarantined


def test_the_page_of_a_quarantined_project_lists_no_file(cache, index):
    index.add(sdist("demo"))
    index.page_extra["demo"] = {"project-status": {"status": "quarantined"}}
    assert cache.index.page("demo").entry.status == "quarantined"
    assert cache.files() == []
