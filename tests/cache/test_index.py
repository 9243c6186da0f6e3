"""For a project, which answer is right at this moment; for a URL, which file it means."""

import contextlib
import json
import sqlite3

import gevent
import pytest

from pytail.cache.cache import policy_of
from pytail.cache.freshness import PATIENCE
from pytail.cache.index import REFRESH_INTERVAL, Index
from pytail.config.settings import Settings
from pytail.errors import (
    FileNotListed,
    ProjectNameInvalid,
    ProjectNotFound,
    UpstreamError,
    UpstreamGarbled,
    UpstreamRefused,
    UpstreamUnreachable,
)
from pytail.storage import schema
from pytail.storage.catalog import Catalog
from pytail.storage.store import Store
from tests.storage.test_catalog import locked
from tests.storage.test_store import keep
from tests.support.fakeindex import HTML, JSON, FakeIndex, Gated, reply, sdist, wheel
from tests.support.upstreams import upstream_at
from tests.support.watching import until

TTL = 900.0
DAY = 24 * 3600.0
PAGE = "/simple/demo/"


class Served:
    """An `Index` over a real catalog, store and upstream."""

    def __init__(self, directory, url, clock, ttl=TTL, patience=PATIENCE, **more):
        self.store = Store(directory)
        self.catalog = Catalog(directory / "index.sqlite3")
        self.upstream = upstream_at(url)
        policy = policy_of(Settings(project_cache_ttl_secs=ttl, **more), patience)
        offline = more.get("offline", False)
        promises = more.get("core_metadata_from_wheels", False)
        self.index = Index(
            self.catalog,
            self.store,
            self.upstream.pages,
            policy,
            clock,
            offline=offline,
            promises_metadata=promises,
        )

    def close(self):
        self.upstream.close()
        self.catalog.close()

    def files(self, project="demo"):
        """The filenames on the page of `project`."""
        page = self.index.content(self.index.page(project))
        return [file.filename for file in page.files]

    def find(self, location):
        shelf, _, filename = location.rpartition("/")
        return self.index.file(shelf, filename)


@pytest.fixture
def serve(tmp_path, index, clock):
    """Makes a `Served` of the one cache directory; each is closed in the end."""
    with contextlib.ExitStack() as made:

        def make(url=index.url, ttl=TTL, **more):
            served = Served(tmp_path, url, clock, ttl, **more)
            return made.enter_context(contextlib.closing(served))

        yield make


@pytest.fixture
def ours(serve):
    served = serve()
    yield served
    assert len(served.index._freshness._flights) == 0


# Fresh


def test_a_project_is_asked_for_when_it_is_first_wanted(ours, index):
    index.add(sdist("demo"))
    answer = ours.index.page("demo")
    assert answer.entry.found
    assert answer.fresh_for == TTL
    assert ours.files() == ["demo-1.0.tar.gz"]


def test_a_fresh_page_costs_upstream_nothing(ours, index, clock):
    index.add(sdist("demo"))
    ours.files()
    clock.now += TTL - 1
    assert ours.files() == ["demo-1.0.tar.gz"]
    assert index.page_count("demo") == 1


def test_a_page_says_how_long_it_stays_fresh(ours, index, clock):
    index.add(sdist("demo"))
    ours.index.page("demo")
    clock.now += 100
    assert ours.index.page("demo").fresh_for == TTL - 100


def test_a_page_survives_the_process(ours, serve, index):
    index.add(sdist("demo"))
    ours.files()
    assert serve().files() == ["demo-1.0.tar.gz"]
    assert index.page_count("demo") == 1


def test_many_who_ask_at_once_cost_one_request(ours, index):
    index.add(sdist("demo"))
    askers = [gevent.spawn(ours.files) for _ in range(50)]
    gevent.joinall(askers, raise_error=True)
    assert all(asker.value == ["demo-1.0.tar.gz"] for asker in askers)
    assert index.page_count("demo") == 1


@pytest.mark.parametrize("name", ["", ".", "..", "a b", "a/b", "-a", "é", "a" * 300, "a\n"])
def test_what_is_no_project_name_is_not_asked_for(ours, index, name):
    with pytest.raises(ProjectNameInvalid):
        ours.index.page(name)
    assert index.seen == []


# Revalidated


def test_an_old_page_is_revalidated(ours, index, clock):
    index.add(sdist("demo"))
    first = ours.index.page("demo")
    clock.now += TTL
    second = ours.index.page("demo")
    assert index.seen[1].headers["IF_NONE_MATCH"] == first.entry.etag
    assert second.entry.revision == first.entry.revision
    assert second.entry.checked_at == clock.now
    assert second.fresh_for == TTL
    assert ours.files() == ["demo-1.0.tar.gz"]


def test_a_revalidated_page_is_fresh_again(ours, index, clock):
    index.add(sdist("demo"))
    ours.index.page("demo")
    clock.now += TTL
    ours.index.page("demo")
    clock.now += TTL - 1
    assert ours.index.page("demo").fresh_for == 1
    assert index.page_count("demo") == 2


def test_a_changed_page_replaces_the_old_one(ours, index, clock):
    index.add(sdist("demo"))
    first = ours.index.page("demo")
    index.add(sdist("demo", "2.0"))
    clock.now += TTL
    second = ours.index.page("demo")
    assert second.entry.revision != first.entry.revision
    assert ours.files() == ["demo-1.0.tar.gz", "demo-2.0.tar.gz"]
    assert index.page_count("demo") == 2


def test_without_a_ttl_every_page_is_revalidated(serve, index):
    index.add(sdist("demo"))
    eager = serve(ttl=0)
    for _ in range(3):
        assert eager.index.page("demo").fresh_for == 0
    assert index.page_count("demo") == 3


def test_a_clock_that_was_set_back_makes_no_page_fresh_for_years(ours, index, clock):
    index.add(sdist("demo"))
    ours.index.page("demo")
    clock.now -= 1_000_000
    assert ours.index.page("demo").fresh_for == TTL
    assert index.page_count("demo") == 2


def test_many_who_ask_for_an_old_page_cost_one_request(ours, index, clock):
    index.add(sdist("demo"))
    ours.index.page("demo")
    clock.now += TTL
    gevent.joinall([gevent.spawn(ours.files) for _ in range(20)], raise_error=True)
    assert index.page_count("demo") == 2


# Stale


def test_without_upstream_an_old_page_is_better_than_none(ours, index, clock, caplog):
    index.add(sdist("demo"))
    ours.index.page("demo")
    clock.now += 10 * TTL
    index.stop()
    answer = ours.index.page("demo")
    assert answer.fresh_for == 0
    assert ours.files() == ["demo-1.0.tar.gz"]
    assert "demo: STALE, 9000 s old" in caplog.text


@pytest.mark.parametrize(
    "trouble",
    [
        reply(b"no", "text/plain", "500 Internal Server Error"),
        reply(b"no", "text/plain", "403 Forbidden"),
        reply(b"<html><body><form>Log in</form></body></html>", "text/html"),
        reply(b'{"name": "demo", "files": [', JSON),
        reply(b"", None),
        reply(b"", None, "302 Found", Location="/simple/demo/"),
    ],
)
def test_an_upstream_in_trouble_replaces_no_good_page(ours, index, clock, trouble):
    index.add(sdist("demo"))
    ours.index.page("demo")
    clock.now += TTL
    index.answers[PAGE] = trouble
    assert ours.index.page("demo").fresh_for == 0
    assert ours.files() == ["demo-1.0.tar.gz"]
    del index.answers[PAGE]
    assert ours.index.page("demo").fresh_for == TTL


def test_a_hanging_upstream_is_not_waited_for_with_a_copy_at_hand(serve, index, clock):
    ours = serve(revalidate_wait_secs=0.05)
    index.add(sdist("demo"))
    ours.index.page("demo")
    clock.now += TTL
    gated = index.answers[PAGE] = Gated(b"", size=0)
    assert ours.index.page("demo").fresh_for == 0
    assert ours.files() == ["demo-1.0.tar.gz"]
    gated.open()
    until(lambda: len(ours.index._freshness._flights) == 0)


def test_what_a_slow_upstream_says_in_the_end_is_kept(serve, index, clock):
    ours = serve(revalidate_wait_secs=0.01)
    index.add(sdist("demo"))
    ours.index.page("demo")
    clock.now += TTL
    gated = index.answers[PAGE] = Gated(b'{"files": []}', Content_Type=JSON)
    assert ours.files() == ["demo-1.0.tar.gz"]
    gated.open()
    until(lambda: len(ours.index._freshness._flights) == 0)
    assert ours.files() == []
    assert index.page_count("demo") == 2


# No copy


def test_without_copy_and_upstream_there_is_an_error(ours, index):
    index.stop()
    with pytest.raises(UpstreamUnreachable):
        ours.index.page("demo")


@pytest.mark.parametrize(
    ("trouble", "kind"),
    [
        (reply(b"no", "text/plain", "500 Oops"), UpstreamRefused),
        (reply(b"no", "text/plain"), UpstreamGarbled),
    ],
)
def test_the_trouble_of_upstream_is_an_error_that_all_who_ask_share(ours, index, trouble, kind):
    index.answers[PAGE] = trouble
    askers = [gevent.spawn(ours.index.page, "demo") for _ in range(10)]
    gevent.joinall(askers)
    assert {type(asker.exception) for asker in askers} == {kind}
    assert index.page_count("demo") == 1


def test_a_hanging_upstream_is_waited_for_so_long_and_no_longer(serve, index):
    ours = serve(patience=0.05)
    gated = index.answers[PAGE] = Gated(b'{"files": []}', Content_Type=JSON)
    with pytest.raises(UpstreamUnreachable, match="still waited for"):
        ours.index.page("demo")
    gated.open()
    until(lambda: len(ours.index._freshness._flights) == 0)
    assert ours.files() == []
    assert index.page_count("demo") == 1


# Missing


def test_a_project_that_upstream_does_not_have_is_not_found(ours):
    with pytest.raises(ProjectNotFound, match="demo"):
        ours.index.page("demo")


def test_that_a_project_is_missing_is_believed_for_a_minute(ours, index, clock):
    for _ in range(3):
        with pytest.raises(ProjectNotFound):
            ours.index.page("demo")
        clock.now += 60 / 3 - 1
    assert index.page_count("demo") == 1


def test_a_project_that_appears_is_found_after_a_minute(ours, index, clock):
    with pytest.raises(ProjectNotFound):
        ours.index.page("demo")
    index.add(sdist("demo"))
    clock.now += 60
    assert ours.files() == ["demo-1.0.tar.gz"]


def test_a_project_that_was_missing_is_an_error_when_upstream_is_not_there(ours, index, clock):
    with pytest.raises(ProjectNotFound):
        ours.index.page("demo")
    clock.now += 60
    index.stop()
    with pytest.raises(UpstreamUnreachable):
        ours.index.page("demo")


def test_a_project_removed_upstream_is_not_found(ours, index, clock):
    index.add(sdist("demo"))
    ours.index.page("demo")
    clock.now += TTL
    index.dists.clear()
    with pytest.raises(ProjectNotFound):
        ours.index.page("demo")
    assert ours.index.projects() == ([], None)


def test_a_removed_project_is_not_found_without_upstream_either(ours, index, clock):
    index.add(sdist("demo"))
    ours.index.page("demo")
    clock.now += TTL
    index.dists.clear()
    for _ in range(2):
        with pytest.raises(ProjectNotFound):
            ours.index.page("demo")
        index.stop()


# A catalog in trouble


def forget(directory, table):
    with contextlib.closing(sqlite3.connect(directory / "index.sqlite3")) as catalog:
        catalog.execute(f"DELETE FROM {table}")
        catalog.commit()


def test_a_page_that_the_catalog_lost_is_asked_for_anew(ours, index, tmp_path):
    index.add(sdist("demo"))
    ours.index.page("demo")
    answer = ours.index.page("demo")
    assert answer.page is None
    forget(tmp_path, "project")
    assert len(ours.index.content(answer).files) == 1
    assert "IF_NONE_MATCH" not in index.seen[1].headers
    assert ours.files() == ["demo-1.0.tar.gz"]
    assert index.page_count("demo") == 2


def test_a_page_that_the_catalog_lost_and_upstream_too_is_not_found(ours, index, tmp_path):
    index.add(sdist("demo"))
    ours.index.page("demo")
    answer = ours.index.page("demo")
    forget(tmp_path, "project")
    index.dists.clear()
    with pytest.raises(ProjectNotFound):
        ours.index.content(answer)


def test_pages_come_though_the_catalog_is_locked(serve, index, tmp_path, monkeypatch):
    monkeypatch.setattr(schema, "BUSY_TIMEOUT", 0.1)
    names = [f"p{number}" for number in range(20)]
    index.add(*(sdist(name) for name in names))
    ours = serve()
    with locked(tmp_path / "index.sqlite3", "EXCLUSIVE"):
        askers = [gevent.spawn(ours.files, name) for name in names]
        gevent.joinall(askers, raise_error=True)
    assert [asker.value for asker in askers] == [[f"{name}-1.0.tar.gz"] for name in names]


# Another upstream


def test_another_upstream_is_asked_anew(ours, serve, index):
    index.add(sdist("demo"))
    ours.files()
    with FakeIndex() as other:
        other.add(sdist("demo", "2.0"))
        theirs = serve(other.url)
        assert theirs.files() == ["demo-2.0.tar.gz"]
        assert "IF_NONE_MATCH" not in other.seen[0].headers


def test_a_page_of_another_upstream_is_no_stale_copy(ours, serve, index):
    index.add(sdist("demo"))
    ours.files()
    with FakeIndex() as other:
        theirs = serve(other.url)
        other.stop()
        with pytest.raises(UpstreamUnreachable):
            theirs.index.page("demo")


def test_a_file_is_not_fetched_from_an_upstream_that_is_no_longer_followed(ours, serve, index):
    index.add(dist := sdist("demo"))
    ours.files()
    with FakeIndex() as other:
        other.add(dist)
        theirs = serve(other.url)
        assert theirs.find(dist.key).url == other.url + dist.path


def test_the_projects_are_those_of_the_upstream_that_is_followed(ours, serve, index):
    index.add(sdist("demo"), sdist("other"))
    index.page_extra["demo"] = {"meta": {"api-version": "1.0", "_last-serial": 7}}
    for name in ("other", "demo"):
        ours.files(name)
    assert ours.index.projects() == (["demo", "other"], 7)
    with FakeIndex() as other:
        assert serve(other.url).index.projects() == ([], None)


# Quarantined


def test_a_quarantined_project_offers_no_file(ours, index):
    index.add(sdist("demo"))
    index.page_extra["demo"] = {"project-status": {"status": "quarantined"}}
    assert ours.index.page("demo").entry.status == "quarantined"
    assert ours.files() == []


def test_a_file_of_a_quarantined_project_is_not_offered_though_it_is_held(ours, index, clock):
    index.add(dist := sdist("demo"))
    ours.files()
    store_file(ours.store, ours.find(dist.key), dist.data)
    index.page_extra["demo"] = {"project-status": {"status": "quarantined"}}
    clock.now += TTL
    ours.files()
    with pytest.raises(FileNotListed):
        ours.find(dist.key)


def test_a_quarantined_project_that_is_removed_offers_no_file_either(ours, index, clock):
    index.add(dist := sdist("demo"))
    ours.files()
    store_file(ours.store, ours.find(dist.key), dist.data)
    index.page_extra["demo"] = {"project-status": {"status": "quarantined"}}
    clock.now += TTL
    ours.files()
    index.page_extra.clear()
    index.dists.clear()
    for _ in range(2):
        clock.now += TTL
        with pytest.raises(ProjectNotFound):
            ours.files()
        with pytest.raises(FileNotListed):
            ours.find(dist.key)


# Never backwards


def numbered(serial, *files, **headers):
    """A page with that serial."""
    listed = [file.entry() for file in files]
    page = {"name": "demo", "files": listed, "meta": {"_last-serial": serial}}
    return reply(json.dumps(page).encode(), JSON, **headers)


def test_a_lagging_node_takes_back_no_page_however_old_that_is(ours, index, clock):
    index.answers[PAGE] = numbered(7, sdist("demo"))
    ours.files()
    clock.now += 30 * DAY
    index.answers[PAGE] = numbered(6)
    assert ours.files() == ["demo-1.0.tar.gz"]  # item 111
    clock.now += DAY
    assert ours.files() == []


@pytest.mark.parametrize("between", [numbered(7, sdist("demo")), reply(b"", None, "304 Same")])
def test_only_a_node_that_lags_all_the_time_is_believed(ours, index, clock, between):
    index.answers[PAGE] = numbered(7, sdist("demo"), etag='"7"')
    ours.files()
    for answer in (numbered(6), between, numbered(6)):
        index.answers[PAGE] = answer
        clock.now += 0.9 * DAY
        assert ours.files() == ["demo-1.0.tar.gz"]


def test_a_page_that_comes_late_takes_back_no_newer_one_of_another_process(serve, index):
    late = Gated(json.dumps({"files": [], "meta": {"_last-serial": 6}}).encode(), Content_Type=JSON)
    one, other = serve(), serve()
    index.answers[PAGE] = late
    slow = gevent.spawn(one.files)
    late.asked.wait()
    index.answers[PAGE] = numbered(7, sdist("demo"))
    assert other.files() == ["demo-1.0.tar.gz"]
    late.open()
    assert slow.get(timeout=5) == ["demo-1.0.tar.gz"]
    assert one.files() == other.files() == ["demo-1.0.tar.gz"]


# Files


def test_a_listed_file_is_known_without_asking(ours, index):
    index.add(dist := wheel("demo"))
    ours.files()
    file = ours.find(dist.key)
    assert file.url == index.url + dist.path
    assert file.hashes == {"sha256": dist.sha256}
    assert index.page_count("demo") == 1


@pytest.mark.parametrize(
    ("project", "version"),
    [
        ("demo", "1.0"),
        ("demo-with-dashes", "1.0"),
        ("demo", "1.0-1"),
        ("demo-2", "1.0"),
        ("demo-2-x", "2024.1"),
        ("a-b-c", "1.0-dev"),
    ],
)
def test_a_file_is_found_by_its_url_alone(ours, index, project, version):
    index.add(dist := sdist(project, version))
    assert ours.find(dist.key).url == index.url + dist.path


def test_a_wheel_is_found_by_its_url_alone_with_one_request(ours, index):
    index.add(dist := wheel("demo-with-dashes"))
    assert ours.find(dist.key).filename == dist.filename
    assert [seen.path for seen in index.seen] == ["/simple/demo-with-dashes/"]


def test_a_file_released_since_the_page_was_asked_for_is_found(ours, index, clock):
    index.add(sdist("demo"))
    ours.files()
    index.add(dist := sdist("demo", "2.0"))
    clock.now += REFRESH_INTERVAL
    assert ours.find(dist.key).filename == "demo-2.0.tar.gz"


def test_an_unknown_file_makes_no_page_asked_for_more_than_once_in_a_while(ours, index, clock):
    index.add(sdist("demo"))
    unknown = sdist("demo", "2.0").key
    for _ in range(5):
        with pytest.raises(FileNotListed):
            ours.find(unknown)
    assert index.page_count("demo") == 1
    clock.now += REFRESH_INTERVAL
    with pytest.raises(FileNotListed):
        ours.find(unknown)
    assert index.page_count("demo") == 2


def test_a_file_of_another_digest_is_not_listed(ours, index):
    index.add(dist := sdist("demo"))
    with pytest.raises(FileNotListed):
        ours.find(f"000/0000000000000/{dist.filename}")


@pytest.mark.parametrize(
    "location",
    ["../../x.tar.gz", "abc/x.tar.gz", "abc/0123456789abc/..", "ABC/0123456789abc/x-1.tar.gz"],
)
def test_what_cannot_be_a_file_is_not_asked_for(ours, index, location):
    with pytest.raises(FileNotListed):
        ours.find(location)
    assert index.seen == []


@pytest.mark.parametrize("filename", ["x", "x.whl", "README.md", "-.tar.gz", "....tar.gz"])
def test_what_names_no_project_is_not_listed(ours, filename):
    with pytest.raises(FileNotListed):
        ours.find(f"abc/0123456789abc/{filename}")


def test_a_filename_of_many_dashes_costs_few_requests(ours, index):
    with pytest.raises(FileNotListed):
        ours.find(f"abc/0123456789abc/{'a-' * 50}1.tar.gz")
    assert len(index.seen) <= 6


def test_whether_a_file_is_listed_is_not_known_without_upstream(ours, index):
    index.stop()
    with pytest.raises(UpstreamError):
        ours.find(sdist("demo").key)


def test_whether_a_file_is_listed_is_not_known_from_an_old_copy_of_the_page(ours, index, clock):
    index.add(sdist("demo", "1.0"))
    ours.files()
    index.add(released := sdist("demo", "2.0"))
    clock.now += TTL
    index.answers[PAGE] = reply(b"no", "text/plain", "500 Oops")
    with pytest.raises(UpstreamError):
        ours.find(released.key)


def test_one_project_in_trouble_does_not_hide_another(ours, index):
    index.add(dist := sdist("demo-2", "1.0"))
    index.answers["/simple/demo/"] = reply(b"no", "text/plain", "500 Oops")
    assert ours.find(dist.key).filename == dist.filename


def test_a_hanging_upstream_is_waited_for_once_though_many_projects_may_have_a_file(serve, index):
    ours = serve(patience=0.05)
    gated = Gated(b"", size=0)
    for name in ("a", "a-b", "a-b-c", "a-b-c-d"):
        index.answers[f"/simple/{name}/"] = gated
    with pytest.raises(UpstreamUnreachable):
        ours.find("abc/0123456789abc/a-b-c-d-1.0.tar.gz")
    assert len(index.seen) == 1
    gated.open()
    until(lambda: len(ours.index._freshness._flights) == 0)


def test_a_held_file_needs_no_page(ours, serve, index, clock):
    index.add(dist := sdist("demo"))
    ours.files()
    store_file(ours.store, ours.find(dist.key), dist.data)
    index.dists.clear()
    clock.now += TTL
    with pytest.raises(ProjectNotFound):
        ours.index.page("demo")
    index.stop()
    file = ours.find(dist.key)
    assert ours.store.has(file)


# Files beside files


def test_core_metadata_is_a_file_of_its_own(ours, index):
    index.add(dist := wheel("demo"))
    file = ours.find(f"{dist.key}.metadata")
    assert file.filename == f"{dist.filename}.metadata"
    assert file.url == f"{index.url}{dist.path}.metadata"
    assert file.hashes == dist.entry()["core-metadata"]


def test_core_metadata_that_is_not_advertised_is_not_listed(ours, index):
    index.add(dist := sdist("demo"))
    with pytest.raises(FileNotListed):
        ours.find(f"{dist.key}.metadata")


def test_held_core_metadata_needs_no_page(ours, index, tmp_path):
    index.add(dist := wheel("demo"))
    store_file(ours.store, ours.find(f"{dist.key}.metadata"), dist.metadata)
    forget(tmp_path, "project")
    forget(tmp_path, "part")
    index.stop()
    assert ours.find(f"{dist.key}.metadata").filename == f"{dist.filename}.metadata"


def test_a_signature_is_a_file_of_its_own(ours, index):
    index.add(signed := sdist("demo", **{"gpg-sig": True}), plain := sdist("demo", "2.0"))
    assert ours.find(f"{signed.key}.asc").url == f"{index.url}{signed.path}.asc"
    with pytest.raises(FileNotListed):
        ours.find(f"{plain.key}.asc")


def test_an_html_upstream_will_do(serve):
    with FakeIndex(html_only=True) as plain:
        plain.add(dist := wheel("demo"))
        theirs = serve(plain.url)
        assert theirs.find(f"{dist.key}.metadata").hashes == dist.entry()["core-metadata"]
        assert theirs.find(dist.key).size is None
        assert plain.seen[0].headers["ACCEPT"].count(HTML) == 1
