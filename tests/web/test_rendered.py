"""Rendered pages, ready to send."""

import base64
import contextlib
import gzip
import itertools
import json
import os
import sqlite3
import subprocess
import sys
import tracemalloc

import gevent
import pytest
from gevent.event import Event

from pytail.errors import UpstreamUnreachable
from pytail.model import File, ProjectPage
from pytail.simple.negotiation import Coding, Form
from pytail.storage import catalog as catalog_module
from pytail.storage import schema
from pytail.storage.catalog import Catalog
from pytail.web import rendered as rendered_module
from pytail.web.rendered import RenderedPages, zstd
from tests.support.storage import entry, locked, page

FILES = "../../root/pypi/+f/"
PAGE = ProjectPage(
    name="demo",
    files=(
        File(
            filename="demo 1.0+x.tar.gz",
            url="https://files.example.org/demo-1.0.tar.gz",
            directory="abc/0123456789abc",
            size=9,
        ),
    ),
    versions=("1.0",),
)


class Load:
    """Returns a page, and counts its calls."""

    def __init__(self, page=PAGE):
        self.page, self.count = page, 0

    def __call__(self):
        self.count += 1
        return self.page


@pytest.fixture
def pages():
    return RenderedPages()


def project(pages, revision="r1", load=None, form=Form.JSON, coding=Coding.IDENTITY, files=FILES):
    return pages.project("demo", revision, load or Load(), files, form, coding)


def plain(body):
    unpack = {Coding.GZIP: gzip.decompress, Coding.ZSTD: zstd.decompress, Coding.IDENTITY: bytes}
    return unpack[body.coding](body.data)


@pytest.mark.parametrize("coding", Coding)
def test_a_json_page_has_links_below_the_url_of_the_files(pages, coding):
    data = json.loads(plain(project(pages, coding=coding)))
    (file,) = data["files"]
    assert file["url"] == "../../root/pypi/+f/abc/0123456789abc/demo%201.0%2Bx.tar.gz"
    assert file["filename"] == "demo 1.0+x.tar.gz"


@pytest.mark.parametrize("coding", Coding)
@pytest.mark.parametrize("form", [Form.HTML, Form.HTML_V1])
def test_an_html_page_has_links_below_the_url_of_the_files(pages, form, coding):
    href = b'href="../../+f/abc/0123456789abc/demo%201.0%2Bx.tar.gz"'
    assert href in plain(project(pages, form=form, coding=coding, files="../../+f/"))


def test_a_page_is_rendered_once_per_revision(pages):
    load = Load()
    first = project(pages, load=load)
    assert project(pages, load=load) is first
    assert load.count == 1
    project(pages, "r2", load)
    assert load.count == 2


def test_concurrent_requests_share_one_rendering(pages):
    gate, load = Event(), Load()

    def slowly():
        gate.wait()
        return load()

    readers = [gevent.spawn(project, pages, load=slowly) for _ in range(20)]
    gevent.idle()
    gate.set()
    gevent.joinall(readers, raise_error=True)
    assert load.count == 1
    assert len({id(reader.value) for reader in readers}) == 1


def test_after_an_error_the_next_request_loads_the_page_again(pages):
    def fail():
        raise UpstreamUnreachable("http://index.example.org", "no answer")

    with pytest.raises(UpstreamUnreachable):
        project(pages, load=fail)
    assert json.loads(project(pages).data)["name"] == "demo"


def test_each_form_and_coding_has_its_own_etag(pages):
    bodies = [
        project(pages, form=form, coding=coding) for form, coding in itertools.product(Form, Coding)
    ]
    assert len({body.etag for body in bodies}) == len(Form) * len(Coding)


def test_the_etag_changes_with_the_content(pages):
    other = ProjectPage(name="demo", versions=("1.0",))
    assert project(pages).etag != project(pages, "r2", Load(other)).etag


def test_the_same_content_has_the_same_bytes_and_etag_in_every_process():
    first = project(RenderedPages(), coding=Coding.GZIP)
    second = project(RenderedPages(), "r2", coding=Coding.GZIP)
    assert (first.etag, first.data) == (second.etag, second.data)


def test_an_etag_is_strong_and_quoted(pages):
    etag = project(pages).etag
    assert etag.startswith('"')
    assert etag.endswith('"')
    assert etag.strip('"').isalnum()


def test_the_links_depend_on_the_url_of_the_files(pages):
    assert project(pages).data != project(pages, files="../../+f/").data


# Memory


def noise(size):
    """Return the loader of a page of a little over `size` bytes."""
    return Load(ProjectPage(name="demo", other={"_noise": "x" * size}))


def random_noise(size):
    """Return the loader of a page that compresses to little under `size` bytes in each form."""
    reason = base64.b85encode(os.urandom(size)).decode()
    return Load(ProjectPage(name="demo", status="archived", status_reason=reason))


def test_the_least_recently_used_page_is_evicted_first():
    pages, loads = RenderedPages(memory_limit=20_000), {name: noise(5000) for name in "abcd"}
    for name in "abc":
        project(pages, name, loads[name])
    project(pages, "a", loads["a"])
    project(pages, "d", loads["d"])
    for name in "acd":
        project(pages, name, loads[name])
    assert {name: load.count for name, load in loads.items()} == {"a": 1, "b": 1, "c": 1, "d": 1}
    project(pages, "b", loads["b"])
    assert loads["b"].count == 2


def test_pages_in_memory_stay_within_the_limit():
    pages = RenderedPages(memory_limit=50_000)
    for number in range(100):
        project(pages, str(number), noise(number * 100))
    assert sum(len(body.data) for body in pages._ready.values()) <= 50_000
    assert len(pages._ready) > 1


def test_many_small_pages_stay_within_the_limit():
    pages = RenderedPages(memory_limit=50_000)
    for number in range(1000):
        project(pages, str(number))
    assert len(pages._ready) < 50


def test_a_page_above_the_limit_evicts_no_other_page():
    pages, load = RenderedPages(memory_limit=10_000), Load()
    project(pages, "small", load)
    assert len(project(pages, "large", noise(20_000)).data) > 20_000
    project(pages, "small", load)
    assert load.count == 1


@pytest.mark.skipif("coverage" in sys.modules, reason="the memory of coverage would count too")
@pytest.mark.parametrize("size", [10, 5000])
@pytest.mark.parametrize("coding", Coding)
@pytest.mark.parametrize("form", [Form.JSON, Form.HTML])
def test_the_limit_covers_the_memory_that_pages_really_take(form, coding, size):
    limit, load = 500_000, random_noise(size)
    project(RenderedPages(), load=load, form=form, coding=coding)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        pages = RenderedPages(memory_limit=limit)
        for number in range(2 * limit // (size + 1024)):
            # Each revision is a string object of its own, as from the catalog.
            project(pages, f"{number:064}", load, form, coding)
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert limit / 3 < taken < limit


# Storage

LARGE = page("demo", 200)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "index.sqlite3"


@pytest.fixture
def catalog(path):
    """A catalog with the page `LARGE`."""
    with contextlib.closing(Catalog(path)) as opened:
        opened.remember(entry(), LARGE)
        yield opened


def forbidden():
    raise AssertionError("rendered again")


def after_a_start(catalog, load=forbidden, options="", **more):
    """Return the page from a new `RenderedPages`, after its writes."""
    with contextlib.closing(RenderedPages(storage=catalog, options=options)) as pages:
        return project(pages, load=load, **more)


@pytest.mark.parametrize(("form", "coding"), list(itertools.product(Form, Coding)))
def test_a_stored_page_is_sent_after_a_restart(path, form, coding):
    with contextlib.closing(Catalog(path)) as first:
        first.remember(entry(), LARGE)
        body = after_a_start(first, Load(LARGE), form=form, coding=coding)
    with contextlib.closing(Catalog(path)) as second:
        assert after_a_start(second, form=form, coding=coding) == body


OTHER_WORKER = """
import sys
from pathlib import Path
from gevent import monkey
monkey.patch_all()
from pytail.storage.catalog import Catalog
from pytail.web.rendered import RenderedPages
from pytail.simple.negotiation import Coding, Form

catalog = Catalog(Path(sys.argv[1]))
pages = RenderedPages(storage=catalog)
load = lambda: catalog.page("demo")
body = pages.project("demo", "r1", load, sys.argv[2], Form.JSON, Coding.GZIP)
pages.close()
catalog.close()
print(body.etag)
"""


def test_a_page_stored_by_another_process_is_sent(catalog, path):
    command = [sys.executable, "-c", OTHER_WORKER, str(path), FILES]
    etag = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    body = after_a_start(catalog, coding=Coding.GZIP)
    assert body.etag == etag
    assert len(json.loads(plain(body))["files"]) == len(LARGE.files)


def test_a_page_read_from_storage_stays_in_memory(catalog):
    after_a_start(catalog, Load(LARGE))
    pages = RenderedPages(storage=catalog)
    body = project(pages, load=forbidden)
    catalog.forget()
    assert project(pages, load=forbidden) is body


def test_reading_a_stored_page_writes_nothing(catalog, path):
    after_a_start(catalog, Load(LARGE))
    with contextlib.closing(sqlite3.connect(path)) as watching:
        before = watching.execute("PRAGMA data_version").fetchone()
        after_a_start(catalog)
        assert watching.execute("PRAGMA data_version").fetchone() == before


def test_a_response_does_not_wait_for_the_write(catalog, path):
    # A write that waited for the lock would never return.
    with locked(path), gevent.Timeout(schema.BUSY_TIMEOUT / 2):
        pages = RenderedPages(storage=catalog)
        assert project(pages, load=Load(LARGE))
    pages.close()
    assert after_a_start(catalog)


def test_pages_waiting_to_be_written_are_bounded(catalog, path, monkeypatch):
    size = len(project(RenderedPages(), load=Load(LARGE)).data)
    monkeypatch.setattr(rendered_module, "_MAX_UNWRITTEN", 3 * size)
    with contextlib.closing(RenderedPages(storage=catalog)) as pages, locked(path):
        for number in range(10):
            project(pages, load=Load(LARGE), files=f"../{number}/")
    for number in range(3):
        after_a_start(catalog, files=f"../{number}/")
    load = Load(LARGE)
    after_a_start(catalog, load, files="../9/")
    assert load.count == 1


def test_a_page_of_few_files_is_not_stored(catalog):
    few = page("demo", 10)
    catalog.remember(entry(), few)
    loads = [Load(few), Load(few)]
    for load in loads:
        after_a_start(catalog, load)
    assert [load.count for load in loads] == [1, 1]


@pytest.mark.parametrize(
    "other",
    [
        {"form": Form.HTML},
        {"coding": Coding.ZSTD},
        {"files": "../../+f/"},
        {"options": "promising"},
        {"revision": "r2"},
    ],
    ids=str,
)
def test_a_stored_page_is_not_sent_for_another_variant(catalog, other):
    after_a_start(catalog, Load(LARGE))
    load = Load(LARGE)
    after_a_start(catalog, load, **other)
    assert load.count == 1
    after_a_start(catalog)


def test_another_version_of_pytail_replaces_stored_pages(catalog, path, monkeypatch):
    after_a_start(catalog, Load(LARGE))
    after_a_start(catalog, Load(LARGE), form=Form.HTML)
    monkeypatch.setattr(catalog_module, "__version__", "99")
    load = Load(LARGE)
    after_a_start(catalog, load)
    assert load.count == 1
    after_a_start(catalog)
    with contextlib.closing(sqlite3.connect(path)) as looking:
        assert looking.execute("SELECT version FROM ready").fetchall() == [("99",)]


@pytest.mark.parametrize(
    "damage",
    [
        "data = substr(data, 2)",
        "data = zeroblob(length(data))",
        "data = ''",
        "data = 7",
        "etag = 'x'",
    ],
)
def test_a_damaged_stored_page_is_rendered_again(catalog, path, damage):
    body = after_a_start(catalog, Load(LARGE))
    with contextlib.closing(sqlite3.connect(path)) as damaging:
        damaging.execute(f"UPDATE ready SET {damage}")
        damaging.commit()
    load = Load(LARGE)
    assert after_a_start(catalog, load) == body
    assert load.count == 1
    assert after_a_start(catalog) == body


# The project list


def test_the_project_list_is_json(pages):
    body = pages.projects(["a", "b"], 7, Form.JSON, Coding.IDENTITY)
    data = json.loads(body.data)
    assert data["projects"] == [{"name": "a"}, {"name": "b"}]
    assert data["meta"]["_last-serial"] == 7


def test_the_project_list_is_html(pages):
    body = pages.projects(["a", "b"], 7, Form.HTML, Coding.GZIP)
    assert b'<a href="a/">a</a>' in plain(body)


def test_the_etag_of_the_project_list_changes_with_the_list(pages):
    lists = [pages.projects(names, 7, Form.HTML, Coding.IDENTITY) for names in (["a"], ["a", "b"])]
    assert lists[0].etag != lists[1].etag
