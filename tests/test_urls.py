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


SECRET = "https://user:pa55@index.example.org:8443/t0ken/simple/?sig=51gn#fr4g"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("GET /a?sig=51gn HTTP/1.1", "GET /a?*** HTTP/1.1"),
        ('"GET /a?sig=51gn"', '"GET /a?***"'),
        ("user:pa55@index.example.org", "***@index.example.org"),
        ("https://user:pa/55@index.example.org/a", "https://***@index.example.org/a"),
        ("https://index.example.org:8443/@scope/a", "https://index.example.org:8443/@scope/a"),
        ("did you mean --bind?", "did you mean --bind?"),
        ("what? (why?)", "what? (why?)"),
    ],
)
def test_masked_texts_have_neither_credentials_nor_queries(text: str, shown: str):
    assert urls.masked(text) == shown


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (SECRET, "https://***@index.example.org:8443/t0ken/simple/"),
        ("https://index.example.org/a b\u3000é", "https://index.example.org/a%20b%E3%80%80%C3%A9"),
        ("nonsense", "nonsense"),
    ],
)
def test_a_url_is_shown_in_ascii_without_credentials_query_and_fragment(url: str, shown: str):
    assert urls.shown(url) == shown


@pytest.mark.parametrize(
    ("url", "host"),
    [
        (SECRET, "https://index.example.org:8443"),
        ("http://[::1]:80/a", "http://[::1]:80"),
        ("https://[::1/a", "(a URL without a host)"),
        ("https://index.example.org:x/a", "(a URL without a host)"),
        ("/t0ken", "(a URL without a host)"),
        ("https:\\\\user@index.example.org\\a", "(a URL without a host)"),
    ],
)
def test_clients_see_the_host_of_a_url(url: str, host: str):
    assert urls.host_of(url) == host


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"upstream {SECRET}: no", "upstream https://index.example.org:8443: no"),
        ("redirects to '/t0ken/a'", "redirects to '/...'"),
        ("accept application/json, text/html", "accept application/json, text/html"),
        ("demo-1.0.whl: sent md5 1, not 2", "demo-1.0.whl: sent md5 1, not 2"),
    ],
)
def test_a_text_for_clients_has_the_hosts_of_its_urls_alone(text: str, shown: str):
    assert urls.hosts_only(text) == shown


@quickly
@given(st.text("ab/?#@: %\\[]=é\u3000", max_size=20))
def test_no_text_makes_the_functions_for_outputs_fail(text: str):
    for url in (text, f"https://{text}", f"https://user:{text}@index.example.org/"):
        for show in (urls.masked, urls.shown, urls.host_of, urls.hosts_only):
            assert isinstance(show(url), str)


def test_a_redacted_url_has_a_digest_for_its_query():
    url = "https://files.example.org/a/demo.whl?sig=51gn"
    redacted = urls.redacted(url)
    assert urls.is_redacted(redacted)
    assert not urls.is_redacted(url)
    assert "51gn" not in redacted
    assert urls.url_digest(redacted) == urls.url_digest(url)
    assert urls.without_query(redacted) == urls.without_query(url)
    assert urls.redacted("https://files.example.org/a") == "https://files.example.org/a"
    assert urls.redacted(redacted) == redacted
    texts = [f'"{urls.redacted(each)}"'.encode() for each in (url, f"{url}2", f"{url[1:]}")]
    one, same, other = map(urls.without_digests, texts)
    assert one == same != other


def test_a_suffix_is_added_to_the_path_of_a_url():
    assert urls.with_suffix("https://h/a.whl?b=c", ".asc") == "https://h/a.whl.asc?b=c"
    assert urls.with_suffix("https://h/a.whl", ".asc") == "https://h/a.whl.asc"
