"""Parsers of one value of a setting."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytail.config.values import (
    Bind,
    Proxies,
    bind,
    directory,
    internal_path,
    limit,
    proxies,
    seconds,
    size,
    switch,
    timeout,
    upstream_base_url,
)

INDEX = "https://index.example.org"


@pytest.mark.parametrize(
    ("value", "address"),
    [
        ("127.0.0.1:3141", Bind("127.0.0.1", 3141)),
        ("localhost:0", Bind("localhost", 0)),
        ("cache-1.example.org:65535", Bind("cache-1.example.org", 65535)),
        ("[::1]:3141", Bind("::1", 3141)),
        ("[::]:80", Bind("::", 80)),
        ("[fe80::1%eth0]:80", Bind("fe80::1%eth0", 80)),
        ("unix:/run/pytail.sock", Bind(path="/run/pytail.sock")),
        ("unix:pytail.sock", Bind(path="pytail.sock")),
    ],
)
def test_a_listen_address_is_host_and_port_or_a_socket(value: str, address: Bind):
    assert bind(value) == address
    assert str(address) == value


@pytest.mark.parametrize(
    "value",
    [
        "", ":", "3141", ":3141", "localhost", "localhost:", "localhost:x", "localhost:-1", "a b:80",
        "localhost:65536", "localhost:\u0661", "::1:3141", "[::1]", "[]:80", "[::1:80", "http://a:80",
        "localhost:" + "9" * 5000, "unix:", "unix:a\0b", "a\n:80",
    ],
)  # fmt: skip
def test_an_invalid_listen_address_is_refused(value: str):
    with pytest.raises(ValueError, match=r"give host:port|name the socket"):
        bind(value)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("", ""),
        ("unix", "unix"),
        ("UNIX,", "unix"),
        ("127.0.0.1", "127.0.0.1"),
        ("10.0.0.0/8, ::1", "10.0.0.0/8, ::1"),
        ("10.1.2.3/8", "10.0.0.0/8"),
        ("2001:DB8::/32,unix", "unix, 2001:db8::/32"),
        ("[::1]", "::1"),
        ("::ffff:192.0.2.0/120", "192.0.2.0/24"),
        ("fe80::1%eth0", "fe80::1%eth0"),
    ],
)
def test_proxies_are_addresses_networks_and_unix(value: str, shown: str):
    assert str(proxies(value)) == shown
    assert proxies(shown) == proxies(value)
    assert (proxies(value) == Proxies()) is (not value)


@pytest.mark.parametrize(
    "value",
    ["*", "localhost", "10.0.0.0/33", "10.0.0.1:80", "10.0.0", "::1]", "unix:/run/x", "a b"],
)
def test_an_invalid_proxy_is_refused(value: str):
    with pytest.raises(ValueError, match=r"give addresses or networks"):
        proxies(value)


@pytest.mark.parametrize(
    ("value", "base"),
    [
        (INDEX, INDEX),
        (f"{INDEX}/", INDEX),
        (f"{INDEX}/simple", INDEX),
        (f"{INDEX}/simple/", INDEX),
        (f" {INDEX}/simple/ \n", INDEX),
        (f"{INDEX}/a/b", f"{INDEX}/a/b"),
        (f"{INDEX}//a//simple//", f"{INDEX}/a"),
        (f"{INDEX}/not-simple", f"{INDEX}/not-simple"),
        (f"{INDEX}/simple/a", f"{INDEX}/simple/a"),
        ("HTTP://index.example.org:8080/", "http://index.example.org:8080"),
        ("http://[::1]:3141/root/pypi", "http://[::1]:3141/root/pypi"),
        ("https://user:p%40ss@index.example.org/", "https://user:p%40ss@index.example.org"),
    ],
)
def test_the_upstream_url_ends_before_simple(value: str, base: str):
    assert upstream_base_url(value) == base  # item 115


@pytest.mark.parametrize(
    "value",
    [
        "", "index.example.org", "ftp://index.example.org", "file:///srv/index", "https://", "https:",
        "https:///simple", "https://[::1", "https://h:0/", "https://h:99999/", "https://h:x/",
        "https://h/a b", "https://h/\x01", "https://h\\x", "https://user@/",
    ],
)  # fmt: skip
def test_an_upstream_that_is_no_http_url_is_refused(value: str):
    with pytest.raises(ValueError, match="give an http or https URL"):
        upstream_base_url(value)


@pytest.mark.parametrize("tail", ["?a=b", "/simple/?a=b", "#a", "/#/a"])
def test_an_upstream_url_with_query_or_fragment_is_refused(tail: str):
    with pytest.raises(ValueError, match=r"without \? and #"):
        upstream_base_url(INDEX + tail)


def test_a_password_with_a_raw_slash_is_refused():
    # The rest of the password would be sent to upstream and logged.
    with pytest.raises(ValueError, match="%2F"):
        upstream_base_url("https://user:a@b/c@index.example.org")


@pytest.mark.parametrize(
    ("value", "path"),
    [("/+held/", "/+held/"), (" /a/+b-c ", "/a/+b-c/"), ("/a//", "/a/"), ("", "")],
)
def test_an_nginx_location_ends_in_one_slash(value: str, path: str):
    assert internal_path(value) == path


@pytest.mark.parametrize(
    "value", ["held/", "/", "/a/../b/", "/a%2f/", "/a b/", "/a?b/", "/a\r\nb/"]
)
def test_an_invalid_nginx_location_is_refused(value: str):
    with pytest.raises(ValueError, match=r"such as /\+held/"):
        internal_path(value)


def test_a_tilde_is_the_home_directory(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", "/home/user")
    assert directory("~/cache") == Path("/home/user/cache")
    assert directory("a/b") == Path("a/b")


@pytest.mark.parametrize("value", ["", " ", "a\0b", "~no-such-user-of-this-system/cache"])
def test_an_invalid_directory_is_refused(value: str):
    with pytest.raises(ValueError, match="name a directory"):
        directory(value)


@pytest.mark.parametrize(
    ("value", "number"),
    [
        *[("0", 0), ("0.5", 0.5), (".5", 0.5), ("900", 900), ("1e3", 1000), ("15m", 900)],
        *[("250ms", 0.25), ("2 h", 7200), ("1.5d", 129_600), ("1W", 604_800), ("10s", 10)],
    ],
)
def test_a_duration_is_in_seconds_or_has_a_unit(value: str, number: float):
    assert seconds(value) == number


@pytest.mark.parametrize(
    "value", ["", "-1", "-0.1", "x", "1y", "m", "nan", "inf", "-inf", "1e9", "1,5"]
)
def test_an_invalid_duration_is_refused(value: str):
    with pytest.raises(ValueError, match="zero or more"):
        seconds(value)


def test_a_timeout_of_zero_is_refused():
    assert timeout("0.1") == 0.1
    with pytest.raises(ValueError, match="above zero"):
        timeout("0")


@pytest.mark.parametrize(
    ("value", "number"),
    [
        *[("0", 0), ("1024", 1024), ("1k", 1024), ("20GiB", 20 * 2**30), ("1.5 MB", 1_500_000)],
        *[("2T", 2**41), ("7b", 7), ("3kb", 3000), ("5Gb", 5 * 10**9)],
    ],
)
def test_a_limit_is_in_bytes_or_has_a_unit(value: str, number: int):
    assert limit(value) == number


@pytest.mark.parametrize(
    "value", ["", "-1", "x", "1 PiB", "GiB", "nan", "1,5", "9999999TiB", "1m2"]
)
def test_an_invalid_limit_is_refused(value: str):
    with pytest.raises(ValueError, match=r"such as 20GiB"):
        limit(value)


def test_a_size_of_zero_is_refused():
    assert size("1MiB") == 2**20
    with pytest.raises(ValueError, match="above zero"):
        size("0.5")


@pytest.mark.parametrize(
    ("yes", "no"), [("yes", "no"), ("1", "0"), ("true", "false"), ("on", "off"), (" YES ", " No\n")]
)
def test_a_switch_has_four_spellings(yes: str, no: str):
    assert switch(yes) is True
    assert switch(no) is False


@pytest.mark.parametrize("value", ["", " ", "maybe", "2", "y", "yes no"])
def test_an_invalid_switch_is_refused(value: str):
    with pytest.raises(ValueError, match="give yes or no"):
        switch(value)
