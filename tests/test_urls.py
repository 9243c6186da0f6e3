"""URLs: resolved, split, and shown without credentials."""

from __future__ import annotations

import re
from urllib.parse import urljoin

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytail import urls

quickly = settings(max_examples=200, deadline=None)

BASE = "https://index.example.org/simple/foo/"
INDEX = "https://index.example.org"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://user:secret@index.example.org/a", "https://***@index.example.org/a"),
        ("https://token@index.example.org", "https://***@index.example.org"),
        ("https://user:a@b@index.example.org", "https://***@index.example.org"),
        (
            "from https://u:p@a.example.org/ to https://u:p@b.example.org/",
            "from https://***@a.example.org/ to https://***@b.example.org/",
        ),
        ("https://index.example.org/@scope/foo", "https://index.example.org/@scope/foo"),
        ("nobody@example.org", "nobody@example.org"),
        (INDEX, INDEX),
    ],
)
def test_masked_urls_have_no_credentials(text: str, shown: str):
    assert urls.masked(text) == shown  # item 141


@pytest.mark.parametrize(
    ("value", "url"),
    [
        ("foo.whl", "https://index.example.org/simple/foo/foo.whl"),
        ("../../f/foo.whl", "https://index.example.org/f/foo.whl"),
        ("/f/foo.whl", "https://index.example.org/f/foo.whl"),
        ("//files.example.org/foo.whl", "https://files.example.org/foo.whl"),
        ("HTTP://files.example.org/foo.whl", "http://files.example.org/foo.whl"),
        ("https://files.example.org/foo.whl?a=1&b=2#sha256=00", "https://files.example.org/foo.whl?a=1&b=2"),
        ("https://files.example.org:8443/a b.whl", "https://files.example.org:8443/a%20b.whl"),
        ("https://[::1]:8443/foo.whl", "https://[::1]:8443/foo.whl"),
        (" foo.whl\n", "https://index.example.org/simple/foo/foo.whl"),
        ("https://user:secret@files.example.org/foo.whl", "https://files.example.org/foo.whl"),
    ],
)  # fmt: skip
def test_a_url_is_resolved_without_fragment_and_credentials(value: str, url: str):
    assert urls.http_url(value, BASE) == url  # items 129, 141


@pytest.mark.parametrize(
    "value",
    [
        "javascript:alert(1)", "data:text/plain,x", "file:///etc/passwd", "ftp://example.org/foo.whl",
        "mailto:a@example.org", "https://[::1/foo.whl", "https://exa mple.org/x", "", " \n",
        "https://example.org:0/x", "https://example.org:99999/x", "https://example.org:x/x",
        "https://example.org\\@evil.example.net/x", "..\\foo.whl", "foo\0.whl", "foo\x7f.whl",
        None, 1, True, [], {}, b"https://example.org/x",
    ],
)  # fmt: skip
def test_a_url_that_is_not_http_is_dropped(value: object):
    assert urls.http_url(value, BASE) is None  # items 138, 139, 140


@quickly
@given(st.text() | st.from_regex(r"(https?:|ftp:)?//?[a-z@:/\\ \[\]?#%.0-9]*", fullmatch=True))
def test_every_resolved_url_is_http_without_unsafe_characters(value: str):
    url = urls.http_url(value, BASE)
    if url is not None:
        assert re.fullmatch(
            r"https?://[^\x00-\x20/@\\]+(/[^\x00-\x20\\#]*)?(\?[^\x00-\x20\\#]*)?", url
        )


@quickly
@given(
    st.from_regex(r"(\.\./){0,5}([a-z0-9.%+-]{1,3}/){0,3}[a-z0-9.%+-]{1,3}", fullmatch=True),
    st.sampled_from([BASE, "http://index.example.org", "http://index.example.org/a/b;c?d#e"]),
)
def test_a_plain_path_is_resolved_as_urljoin_does(value: str, base: str):
    assert urls.http_url(value, base) == urljoin(base, value)


@pytest.mark.parametrize(
    ("url", "filename"),
    [
        ("https://files.example.org/a/torch-2.0%2Bcu121.whl", "torch-2.0+cu121.whl"),
        ("https://files.example.org/a/torch-2.0+cu121.whl", "torch-2.0+cu121.whl"),
        ("https://files.example.org/a/foo.whl?b=c/d.whl", "foo.whl"),
        ("https://files.example.org/a/foo%252f.whl", "foo%2f.whl"),
        ("https://files.example.org/a/", ""),
    ],
)
def test_a_filename_is_the_last_component_decoded_once(url: str, filename: str):
    assert urls.filename_in(url) == filename  # item 133


@quickly
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=5,
    )
)
def test_no_value_of_json_raises(value: object):
    urls.http_url(value, BASE)
