"""The file that a URL means."""

import pytest

from pytail.cache.index import REFRESH_INTERVAL
from pytail.errors import FileNotListed, ProjectNotFound, UpstreamError, UpstreamUnreachable
from tests.cache.conftest import PAGE, TTL, delete_rows
from tests.support.fakeindex import HTML, FakeIndex, Gated, reply, sdist, wheel
from tests.support.storage import store_file
from tests.support.watching import until

# Wheels and sdists


def test_a_listed_file_is_found_without_a_request(cache, index):
    index.add(dist := wheel("demo"))
    cache.files()
    file = cache.find(dist.key)
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
def test_an_unlisted_file_is_found_on_the_page_of_its_project(cache, index, project, version):
    index.add(dist := sdist(project, version))
    assert cache.find(dist.key).url == index.url + dist.path


def test_an_unlisted_wheel_is_found_with_one_request(cache, index):
    index.add(dist := wheel("demo-with-dashes"))
    assert cache.find(dist.key).filename == dist.filename
    assert [seen.path for seen in index.seen] == ["/simple/demo-with-dashes/"]


def test_a_file_released_after_the_page_was_cached_is_found(cache, index, clock):
    index.add(sdist("demo"))
    cache.files()
    index.add(dist := sdist("demo", "2.0"))
    clock.now += REFRESH_INTERVAL
    assert cache.find(dist.key).filename == "demo-2.0.tar.gz"


def test_an_unknown_file_refreshes_the_page_only_after_the_interval(cache, index, clock):
    index.add(sdist("demo"))
    unknown = sdist("demo", "2.0").key
    for _ in range(5):
        with pytest.raises(FileNotListed):
            cache.find(unknown)
    assert index.page_count("demo") == 1
    clock.now += REFRESH_INTERVAL
    with pytest.raises(FileNotListed):
        cache.find(unknown)
    assert index.page_count("demo") == 2


def test_a_file_with_another_digest_is_not_listed(cache, index):
    index.add(dist := sdist("demo"))
    with pytest.raises(FileNotListed):
        cache.find(f"000/0000000000000/{dist.filename}")


@pytest.mark.parametrize(
    "key",
    ["../../x.tar.gz", "abc/x.tar.gz", "abc/0123456789abc/..", "ABC/0123456789abc/x-1.tar.gz"],
)
def test_an_invalid_file_url_is_refused_without_a_request(cache, index, key):
    with pytest.raises(FileNotListed):
        cache.find(key)
    assert index.seen == []


@pytest.mark.parametrize("filename", ["x", "x.whl", "README.md", "-.tar.gz", "....tar.gz"])
def test_a_filename_without_a_project_is_not_listed(cache, filename):
    with pytest.raises(FileNotListed):
        cache.find(f"abc/0123456789abc/{filename}")


def test_a_filename_of_many_dashes_costs_few_requests(cache, index):
    index.add(sdist("demo"))
    cache.files()
    index.seen.clear()
    with pytest.raises(FileNotListed):
        cache.find(f"abc/0123456789abc/{'a-' * 50}1.tar.gz")
    assert len(index.seen) <= 6


def test_a_file_listed_by_another_upstream_gets_the_url_of_this_one(cache, make_cache, index):
    index.add(dist := sdist("demo"))
    cache.files()
    with FakeIndex() as other:
        other.add(dist)
        other_cache = make_cache(other.url)
        assert other_cache.find(dist.key).url == other.url + dist.path


# Upstream fails


def test_an_unlisted_file_is_an_error_when_upstream_is_down(cache, index):
    index.stop()
    with pytest.raises(UpstreamError):
        cache.find(sdist("demo").key)


def test_a_stale_page_does_not_prove_that_a_file_is_not_listed(cache, index, clock):
    index.add(sdist("demo", "1.0"))
    cache.files()
    index.add(released := sdist("demo", "2.0"))
    clock.now += TTL
    index.answers[PAGE] = reply(b"no", "text/plain", "500 Oops")
    with pytest.raises(UpstreamError):
        cache.find(released.key)


def test_an_error_for_one_project_does_not_hide_the_next(cache, index):
    index.add(dist := sdist("demo-2", "1.0"))
    index.answers["/simple/demo/"] = reply(b"no", "text/plain", "500 Oops")
    assert cache.find(dist.key).filename == dist.filename


def test_a_hanging_upstream_is_waited_for_only_once(make_cache, index):
    cache = make_cache(wait=0.05)
    gated = Gated(b"", size=0)
    for name in ("a", "a-b", "a-b-c", "a-b-c-d"):
        index.answers[f"/simple/{name}/"] = gated
    with pytest.raises(UpstreamUnreachable):
        cache.find("abc/0123456789abc/a-b-c-d-1.0.tar.gz")
    assert len(index.seen) == 1
    gated.open()
    until(lambda: cache.revalidator.in_progress == 0)


# Stored files


def test_a_stored_file_needs_no_page(cache, make_cache, index, clock):
    index.add(dist := sdist("demo"))
    cache.files()
    store_file(cache.store, cache.find(dist.key), dist.data)
    index.dists.clear()
    clock.now += TTL
    with pytest.raises(ProjectNotFound):
        cache.index.page("demo")
    index.stop()
    file = cache.find(dist.key)
    assert cache.store.has(file)


def test_a_stored_file_of_a_quarantined_project_is_not_listed(cache, index, clock):
    index.add(dist := sdist("demo"))
    cache.files()
    store_file(cache.store, cache.find(dist.key), dist.data)
    index.page_extra["demo"] = {"project-status": {"status": "quarantined"}}
    clock.now += TTL
    cache.files()
    with pytest.raises(FileNotListed):
        cache.find(dist.key)


def test_a_stored_file_of_a_project_quarantined_and_then_removed_is_not_listed(cache, index, clock):
    index.add(dist := sdist("demo"))
    cache.files()
    store_file(cache.store, cache.find(dist.key), dist.data)
    index.page_extra["demo"] = {"project-status": {"status": "quarantined"}}
    clock.now += TTL
    cache.files()
    index.page_extra.clear()
    index.dists.clear()
    for _ in range(2):
        clock.now += TTL
        with pytest.raises(ProjectNotFound):
            cache.files()
        with pytest.raises(FileNotListed):
            cache.find(dist.key)


# Sidecars


def test_core_metadata_has_its_own_url_and_digest(cache, index):
    index.add(dist := wheel("demo"))
    file = cache.find(f"{dist.key}.metadata")
    assert file.filename == f"{dist.filename}.metadata"
    assert file.url == f"{index.url}{dist.path}.metadata"
    assert file.hashes == dist.entry()["core-metadata"]


def test_core_metadata_that_is_not_advertised_is_not_listed(cache, index):
    index.add(dist := sdist("demo"))
    with pytest.raises(FileNotListed):
        cache.find(f"{dist.key}.metadata")


def test_stored_core_metadata_needs_no_page(cache, index, tmp_path):
    index.add(dist := wheel("demo"))
    store_file(cache.store, cache.find(f"{dist.key}.metadata"), dist.metadata)
    delete_rows(tmp_path, "project")
    delete_rows(tmp_path, "part")
    index.stop()
    assert cache.find(f"{dist.key}.metadata").filename == f"{dist.filename}.metadata"


def test_a_signature_has_its_own_url(cache, index):
    index.add(signed := sdist("demo", **{"gpg-sig": True}), plain := sdist("demo", "2.0"))
    assert cache.find(f"{signed.key}.asc").url == f"{index.url}{signed.path}.asc"
    with pytest.raises(FileNotListed):
        cache.find(f"{plain.key}.asc")


def test_files_of_an_html_page_are_found(make_cache):
    with FakeIndex(html_only=True) as plain:
        plain.add(dist := wheel("demo"))
        other_cache = make_cache(plain.url)
        assert other_cache.find(f"{dist.key}.metadata").hashes == dist.entry()["core-metadata"]
        assert other_cache.find(dist.key).size is None
        assert plain.seen[0].headers["ACCEPT"].count(HTML) == 1
