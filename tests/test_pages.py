"""Rendered pages, ready to send."""

import gzip
import itertools
import json

import gevent
import pytest
from gevent.event import Event

from pytail.errors import UpstreamUnreachable
from pytail.model import File, ProjectPage
from pytail.pages import Pages, zstd
from pytail.simple.negotiation import Coding, Form

FILES = "../../root/pypi/+f/"
PAGE = ProjectPage(
    name="demo",
    files=(
        File(
            filename="demo 1.0+x.tar.gz",
            url="https://files.example.org/demo-1.0.tar.gz",
            shelf="abc/0123456789abc",
            size=9,
        ),
    ),
    versions=("1.0",),
)


class Load:
    """Gives a page, and counts how often it was asked."""

    def __init__(self, page=PAGE):
        self.page, self.count = page, 0

    def __call__(self):
        self.count += 1
        return self.page


@pytest.fixture
def pages():
    return Pages()


def project(pages, revision="r1", load=None, form=Form.JSON, coding=Coding.IDENTITY, files=FILES):
    return pages.project(revision, load or Load(), files, form, coding)


def plain(body):
    unpack = {Coding.GZIP: gzip.decompress, Coding.ZSTD: zstd.decompress, Coding.IDENTITY: bytes}
    return unpack[body.coding](body.data)


@pytest.mark.parametrize("coding", Coding)
def test_a_json_page_has_links_below_the_files(pages, coding):
    data = json.loads(plain(project(pages, coding=coding)))
    (file,) = data["files"]
    assert file["url"] == "../../root/pypi/+f/abc/0123456789abc/demo%201.0%2Bx.tar.gz"
    assert file["filename"] == "demo 1.0+x.tar.gz"


@pytest.mark.parametrize("coding", Coding)
@pytest.mark.parametrize("form", [Form.HTML, Form.HTML_V1])
def test_an_html_page_has_links_below_the_files(pages, form, coding):
    href = b'href="../../+f/abc/0123456789abc/demo%201.0%2Bx.tar.gz"'
    assert href in plain(project(pages, form=form, coding=coding, files="../../+f/"))


def test_a_page_is_rendered_once_for_each_revision(pages):
    load = Load()
    first = project(pages, load=load)
    assert project(pages, load=load) is first
    assert load.count == 1
    project(pages, "r2", load)
    assert load.count == 2


def test_readers_who_come_at_once_share_one_rendering(pages):
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


def test_a_page_that_cannot_be_had_is_an_error_and_tried_again(pages):
    def fail():
        raise UpstreamUnreachable("http://index.example.org", "no answer")

    with pytest.raises(UpstreamUnreachable):
        project(pages, load=fail)
    assert json.loads(project(pages).data)["name"] == "demo"


def test_no_two_different_responses_share_a_validator(pages):
    bodies = [
        project(pages, form=form, coding=coding) for form, coding in itertools.product(Form, Coding)
    ]
    assert len({body.etag for body in bodies}) == len(Form) * len(Coding)


def test_the_validator_changes_with_the_content(pages):
    other = ProjectPage(name="demo", versions=("1.0",))
    assert project(pages).etag != project(pages, "r2", Load(other)).etag


def test_the_same_bytes_have_the_same_validator_in_every_process():
    first = project(Pages(), coding=Coding.GZIP)
    second = project(Pages(), "r2", coding=Coding.GZIP)
    assert (first.etag, first.data) == (second.etag, second.data)


def test_a_validator_is_strong_and_quoted(pages):
    etag = project(pages).etag
    assert etag.startswith('"')
    assert etag.endswith('"')
    assert etag.strip('"').isalnum()


def test_the_links_depend_on_where_the_page_is_served(pages):
    assert project(pages).data != project(pages, files="../../+f/").data


# Memory


def noise(size):
    """A page of a little over `size` bytes."""
    return Load(ProjectPage(name="demo", other={"_noise": "x" * size}))


def test_the_page_not_used_for_longest_goes_first():
    pages, loads = Pages(memory_limit=20_000), {name: noise(5000) for name in "abcd"}
    for name in "abc":
        project(pages, name, loads[name])
    project(pages, "a", loads["a"])
    project(pages, "d", loads["d"])
    for name in "acd":
        project(pages, name, loads[name])
    assert {name: load.count for name, load in loads.items()} == {"a": 1, "b": 1, "c": 1, "d": 1}
    project(pages, "b", loads["b"])
    assert loads["b"].count == 2


def test_what_is_kept_stays_within_the_limit():
    pages = Pages(memory_limit=50_000)
    for number in range(100):
        project(pages, str(number), noise(number * 100))
    assert sum(len(body.data) for body in pages._ready.values()) <= 50_000
    assert len(pages._ready) > 1


def test_small_pages_do_not_add_up_beyond_the_limit_either():
    pages = Pages(memory_limit=50_000)
    for number in range(1000):
        project(pages, str(number))
    assert len(pages._ready) < 50


def test_a_page_beyond_the_limit_is_sent_and_drops_no_other():
    pages, load = Pages(memory_limit=10_000), Load()
    project(pages, "small", load)
    assert len(project(pages, "large", noise(20_000)).data) > 20_000
    project(pages, "small", load)
    assert load.count == 1


# The project list


def test_the_project_list_is_json(pages):
    body = pages.projects(["a", "b"], 7, Form.JSON, Coding.IDENTITY)
    data = json.loads(body.data)
    assert data["projects"] == [{"name": "a"}, {"name": "b"}]
    assert data["meta"]["_last-serial"] == 7


def test_the_project_list_is_html(pages):
    body = pages.projects(["a", "b"], 7, Form.HTML, Coding.GZIP)
    assert b'<a href="a/">a</a>' in plain(body)


def test_the_validator_of_the_project_list_changes_with_it(pages):
    lists = [pages.projects(names, 7, Form.HTML, Coding.IDENTITY) for names in (["a"], ["a", "b"])]
    assert lists[0].etag != lists[1].etag
