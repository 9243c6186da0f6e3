"""Lists of projects and of directories are told from other pages."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree

from pytail.simple.listing import is_of_directories, project_list

URL = "https://index.example.org/simple/"
JSON, HTML = "application/vnd.pypi.simple.v1+json", "application/vnd.pypi.simple.v1+html"


def listed(
    text: str, kind: str = "text/html", url: str = URL
) -> tuple[tuple[str, ...], bool] | None:
    found = project_list(text.encode(), url, kind)
    return None if found is None else (found.projects, found.is_certain)


def of_directories(text: str, url: str = f"{URL}demo/") -> bool:
    return is_of_directories(etree.fromstring(f"<html>{text}</html>", etree.HTMLParser()), url)


def links(*hrefs: str) -> str:
    return "".join(f'<a href="{href}">{href.rstrip("/").rpartition("/")[2]}</a>' for href in hrefs)


# Lists of projects


@pytest.mark.parametrize("kind", [JSON, "application/json"])
def test_the_first_projects_of_a_json_list_are_returned(kind: str):
    text = '{"meta": {"name": "x"}, "projects": [{"name": "A.b"}, {"_n": 1, "name": "c"}, {"name"'
    assert listed(text, kind) == (("a-b", "c"), True)
    many = ", ".join(f'{{"name": "p{number}"}}' for number in range(9))
    assert listed(f'{{"projects": [{many}]}}', kind) == (("p0", "p1", "p2"), True)


@pytest.mark.parametrize("text", ['{"projects": []}', '{"meta":{},"projects":[\n]}'])
def test_an_empty_json_list_is_certain(text: str):
    assert listed(text, "application/json") == ((), True)


@pytest.mark.parametrize("text", ["{}", '{"detail": "Not Found"}', '{"name": "demo"}', ""])
def test_other_json_is_no_list(text: str):
    assert listed(text, "application/json") is None


@pytest.mark.parametrize(
    "text",
    [
        links("a/", "b/"),
        links("/simple/a/", "/simple/b"),
        links(f"{URL}a/", "b"),
        f"{links('../', '?C=N;O=D', '/', 'a/', 'b/')}",
        f"<h1>Directory listing for /simple/</h1><ul>{links('a/', 'b/')}",
        f"{links('a/', 'b/')}<a href='c",
        f"{links('#top', 'mailto:a@b', 'javascript:x()', 'a/', 'b/', '/help/', 'https://x.example/')}",
    ],
)
def test_projects_of_an_html_list_are_what_lies_right_below_it(text: str):
    assert listed(text) == (("a", "b"), False)


def test_an_html_list_of_the_simple_api_is_certain():
    assert listed(links("a/"), HTML) == (("a",), True)
    mark = '<meta name="pypi:repository-version" content="1.0">'
    assert listed(mark + links("a/")) == (("a",), True)
    assert listed(mark) == ((), True)


@pytest.mark.parametrize("title", ["Simple Index", "Simple index", "root/dev: simple list",
                                   "Directory listing for /simple/", "Index of /simple/"])  # fmt: skip
def test_an_empty_list_is_certain_by_its_title(title: str):
    assert listed(f"<title>{title}</title><a href='../'>../</a>") == ((), True)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "It works!",
        "<title>Index of nothing</title><form></form>",
        "<title>Welcome to nginx!</title><a href='https://nginx.example/'>nginx</a>",
        "<title>Directory listing for /</title><a href='demo-1.0.tar.gz'>demo-1.0.tar.gz</a>",
        "<title>Directory listing for /</title><a href='a b/'>a b/</a>",
        "\0",
    ],
)
def test_other_html_is_no_list(text: str):
    assert listed(text) is None


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), st.sampled_from([JSON, "application/json", HTML, "text/html"]))
def test_any_bytes_are_a_list_or_not(start: bytes, kind: str):
    found = project_list(start, URL, kind)
    assert found is None or len(found.projects) <= 3


# Lists of directories


@pytest.mark.parametrize(
    "text",
    [
        links("a/"),
        links("/simple/a/", "../b/", f"{URL}c/"),
        links("../", "?C=M;O=A", "1.0/", "2.0/"),
        '<a href="very-long-name/">very-l..&gt;</a>',
        '<a href="../other/">Other</a>',
        links("/whl/cpu/", "/whl/cu128/"),
    ],
)
def test_links_to_directories_are_a_listing(text: str):
    assert of_directories(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        links("../"),
        links("?C=N;O=D", "#top", "/simple/"),
        links("a/", "demo-1.0.tar.gz"),
        links("a/", "b"),
        '<a href="/login/">Log in</a>',
        '<a href="https://portal.example/login/">login</a>',
        f"{links('a/')}<form></form>",
        f"{links('a/')}<input>",
    ],
)
def test_other_links_are_no_listing(text: str):
    assert not of_directories(text)
