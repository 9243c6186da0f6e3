"""Header fields of responses are parsed, and malformed ones ignored."""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone
from email.utils import formatdate

import pytest

from pytail.upstream.headers import (
    content_length,
    content_range,
    location,
    media_type,
    retry_after,
    strong_etag,
)


def http_date(seconds: float) -> str:
    """The date that is `seconds` from now."""
    return formatdate(time.time() + seconds, usegmt=True)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("7", 7), (" 120 ", 120), ("0", 0), ("-1", None), ("soon", None), ("1.5", None), ("", None)],
)
def test_retry_after_in_seconds(value: str, seconds: int | None):
    assert retry_after({"Retry-After": value}) == seconds


def test_retry_after_as_a_date():
    assert 58 <= retry_after({"Retry-After": http_date(60)}) <= 60


@pytest.mark.parametrize("form", ["%A, %d-%b-%y %H:%M:%S GMT", "%a %b %d %H:%M:%S %Y"])
def test_retry_after_as_an_obsolete_date(form: str):
    date = (datetime.now(timezone.utc) + timedelta(seconds=60)).strftime(form)
    assert 58 <= retry_after({"Retry-After": date}) <= 60


def test_retry_after_as_a_past_date_is_0_seconds():
    assert retry_after({"Retry-After": http_date(-60)}) == 0
    assert retry_after({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0


@pytest.mark.parametrize(
    "date",
    [
        "Wed, 21 Oct 10000 07:28:00 GMT",
        "Wed, 21 Oct 99999999999999 07:28:00 GMT",
        "Wed, 21 Foo 2026 07:28:00 GMT",
        "Wed, 21",
        "9" * 5000,
        "\u0661",
        "\xff",
        ",",
    ],
)
def test_a_malformed_retry_after_is_ignored(date: str):
    assert retry_after({"Retry-After": date}) is None


def test_an_absent_retry_after_is_none():
    assert retry_after({}) is None


def test_content_range_gives_start_stop_and_size():
    assert content_range({"Content-Range": " bytes 10-19/100 "}) == (10, 20, 100)


@pytest.mark.parametrize(
    "value", ["", "bytes */100", "bytes 0-9/*", "bytes 0-9", "items 0-9/10", "bytes \u0661-9/10"]
)
def test_a_content_range_without_all_three_is_none(value: str):
    assert content_range({"Content-Range": value}) is None


@pytest.mark.parametrize(("value", "length"), [("10", 10), ("-1", None), ("ten", None)])
def test_content_length_is_a_number_of_bytes(value: str, length: int | None):
    assert content_length({"Content-Length": value}) == length


@pytest.mark.parametrize(
    ("value", "etag"),
    [('"one"', '"one"'), (' "one" ', '"one"'), ('W/"one"', None), ("one", None), ('"\xe9"', None)],
)
def test_only_a_strong_etag_is_returned(value: str, etag: str | None):
    assert strong_etag({"ETag": value}) == etag


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("text/html", ("text/html", None)),
        ("Text/HTML; Charset=UTF-8", ("text/html", "utf-8")),
        ("text/html, text/html; charset=utf-8", ("text/html", None)),
        (";;;", ("text/plain", None)),
    ],
)
def test_media_type_is_type_and_charset(value: str, found: tuple[str, str | None]):
    assert media_type({"Content-Type": value}) == found


def test_an_absent_media_type_is_none_of_the_simple_api():
    assert media_type({}) == ("none/none", None)


@pytest.mark.parametrize(
    ("sent", "url"),
    [
        (b"/simple/demo/", "/simple/demo/"),
        (b" https://files.example.org/a%20b?x=%2f&y=1#z ", "https://files.example.org/a%20b?x=%2f&y=1#z"),
        ("/d\u00e9mo/\u20ac.whl".encode(), "/d%C3%A9mo/%E2%82%AC.whl"),
        (b"/d\xe9mo/", "/d%E9mo/"),
        (b'/a b/c"<>^`{|}', "/a%20b/c%22%3C%3E%5E%60%7B%7C%7D"),
        ("?q=\u00e9".encode(), "?q=%C3%A9"),
        ("//b\u00fccher.example/\u00e9".encode(), "//xn--bcher-kva.example/%C3%A9"),
        ("https://b\u00fccher.example:8080".encode(), "https://xn--bcher-kva.example:8080"),
        (b"https://[::1]:8080/x", "https://[::1]:8080/x"),
        # Still malformed, so that the redirect is refused.
        (b"/x\\y", "/x\\y"),
        (b"/x\x00y", "/x\x00y"),
        (b"", None),
        (b"  ", None),
    ],
)  # fmt: skip
def test_a_location_is_ascii(sent: bytes, url: str | None):
    assert location({"Location": sent.decode("latin-1")}) == url


def test_an_absent_location_is_none():
    assert location({}) is None
