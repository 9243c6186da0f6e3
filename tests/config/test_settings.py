"""What an operator can choose, and what an operator is told who chose wrong."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytail.config.load import load
from pytail.config.settings import Settings, flag, variable
from pytail.config.values import (
    Bind,
    bind,
    directory,
    internal_path,
    limit,
    seconds,
    size,
    switch,
    timeout,
    upstream_base_url,
)
from pytail.errors import SettingError
from pytail.urls import masked

quickly = settings(max_examples=200, deadline=None)

INDEX = "https://index.example.org"


@pytest.mark.parametrize(
    ("value", "where"),
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
def test_an_address_is_host_and_port_or_a_socket(value: str, where: Bind):
    assert bind(value) == where
    assert str(where) == value


@pytest.mark.parametrize(
    "value",
    [
        "", ":", "3141", ":3141", "localhost", "localhost:", "localhost:x", "localhost:-1", "a b:80",
        "localhost:65536", "localhost:\u0661", "::1:3141", "[::1]", "[]:80", "[::1:80", "http://a:80",
        "localhost:" + "9" * 5000, "unix:", "unix:a\0b", "a\n:80",
    ],
)  # fmt: skip
def test_another_address_is_refused_with_a_remedy(value: str):
    with pytest.raises(ValueError, match=r"give host:port|name the socket"):
        bind(value)


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
def test_an_upstream_is_the_url_above_simple(value: str, base: str):
    assert upstream_base_url(value) == base  # item 115


@pytest.mark.parametrize(
    "value",
    [
        "", "index.example.org", "ftp://index.example.org", "file:///srv/index", "https://", "https:",
        "https:///simple", "https://[::1", "https://h:0/", "https://h:99999/", "https://h:x/",
        "https://h/a b", "https://h/\x01", "https://h\\x", "https://user@/",
    ],
)  # fmt: skip
def test_an_upstream_that_cannot_be_asked_is_refused(value: str):
    with pytest.raises(ValueError, match="give an http or https URL"):
        upstream_base_url(value)


@pytest.mark.parametrize("tail", ["?a=b", "/simple/?a=b", "#a", "/#/a"])
def test_an_upstream_with_more_than_a_path_is_refused(tail: str):
    with pytest.raises(ValueError, match=r"without \? and #"):
        upstream_base_url(INDEX + tail)


def test_a_password_with_a_slash_is_not_taken_for_a_path():
    # Its rest would be asked for, and shown.
    with pytest.raises(ValueError, match="%2F"):
        upstream_base_url("https://user:a@b/c@index.example.org")


@pytest.mark.parametrize(
    ("value", "path"),
    [("/+held/", "/+held/"), (" /a/+b-c ", "/a/+b-c/"), ("/a//", "/a/"), ("", "")],
)
def test_an_internal_location_is_a_path(value: str, path: str):
    assert internal_path(value) == path


@pytest.mark.parametrize(
    "value", ["held/", "/", "/a/../b/", "/a%2f/", "/a b/", "/a?b/", "/a\r\nb/"]
)
def test_what_could_be_another_location_is_refused(value: str):
    with pytest.raises(ValueError, match=r"such as /\+held/"):
        internal_path(value)


def test_a_directory_may_begin_at_home(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", "/home/someone")
    assert directory("~/cache") == Path("/home/someone/cache")
    assert directory("a/b") == Path("a/b")


@pytest.mark.parametrize("value", ["", " ", "a\0b", "~no-such-user-of-this-system/cache"])
def test_what_is_no_directory_is_refused(value: str):
    with pytest.raises(ValueError, match="name a directory"):
        directory(value)


@pytest.mark.parametrize(
    ("value", "number"),
    [
        *[("0", 0), ("0.5", 0.5), (".5", 0.5), ("900", 900), ("1e3", 1000), ("15m", 900)],
        *[("250ms", 0.25), ("2 h", 7200), ("1.5d", 129_600), ("1W", 604_800), ("10s", 10)],
    ],
)
def test_seconds_are_a_number(value: str, number: float):
    assert seconds(value) == number


@pytest.mark.parametrize(
    "value", ["", "-1", "-0.1", "x", "1y", "m", "nan", "inf", "-inf", "1e9", "1,5"]
)
def test_other_seconds_are_refused(value: str):
    with pytest.raises(ValueError, match="zero or more"):
        seconds(value)


def test_a_timeout_is_above_zero():
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
def test_a_limit_is_in_bytes(value: str, number: int):
    assert limit(value) == number


@pytest.mark.parametrize(
    "value", ["", "-1", "x", "1 PiB", "GiB", "nan", "1,5", "9999999TiB", "1m2"]
)
def test_another_limit_is_refused(value: str):
    with pytest.raises(ValueError, match=r"such as 20GiB"):
        limit(value)


def test_a_size_is_above_zero():
    assert size("1MiB") == 2**20
    with pytest.raises(ValueError, match="above zero"):
        size("0.5")


@pytest.mark.parametrize(
    ("yes", "no"), [("yes", "no"), ("1", "0"), ("true", "false"), ("on", "off"), (" YES ", " No\n")]
)
def test_a_switch_is_yes_or_no(yes: str, no: str):
    assert switch(yes) is True
    assert switch(no) is False


@pytest.mark.parametrize("value", ["", " ", "maybe", "2", "y", "yes no"])
def test_another_switch_is_refused(value: str):
    with pytest.raises(ValueError, match="give yes or no"):
        switch(value)


def test_the_table_of_the_readme_is_that_of_the_code():
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    told = dict(re.findall(r"^\| `(--[a-z-]+)` \| .* \| `?(.*?)`? ?\|$", readme, re.MULTILINE))
    assert (told.pop("--verbose"), told.pop("--config")) == ("", "")
    fields = dataclasses.fields(Settings)
    assert told == {flag(field.name): field.metadata["default"] for field in fields}


@pytest.mark.parametrize("value", [None, ""])
def test_a_setting_that_is_not_given_has_its_default(value: str | None):
    given_ = dict.fromkeys((field.name for field in dataclasses.fields(Settings)), value)
    assert Settings.of(given_, flag) == Settings()


def test_each_setting_is_a_variable():
    found = load(
        {
            "PYTAIL_BIND": "[::1]:80",
            "PYTAIL_UPSTREAM_BASE_URL": f"{INDEX}/simple/",
            "PYTAIL_CACHE_DIR": "/srv/cache",
            "PYTAIL_PROJECT_CACHE_TTL_SECS": "0",
            "PYTAIL_REQUEST_TIMEOUT_SECS": "2.5",
            "PYTAIL_OTHER": "x",
        }
    ).settings
    assert found == Settings(
        bind=Bind("::1", 80),
        upstream_base_url=INDEX,
        cache_dir=Path("/srv/cache"),
        project_cache_ttl_secs=0,
        request_timeout_secs=2.5,
    )


def test_a_setting_has_one_name_in_two_spellings():
    assert variable("cache_dir") == "PYTAIL_CACHE_DIR"
    assert flag("cache_dir") == "--cache-dir"


def test_an_operator_is_told_what_is_wrong_and_what_would_be_right():
    with pytest.raises(SettingError) as caught:
        load({"PYTAIL_REQUEST_TIMEOUT_SECS": "soon"})
    message = "PYTAIL_REQUEST_TIMEOUT_SECS 'soon': give a number of seconds, zero or more, or one with a unit, such as 15m"
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "url",
    [
        "ftp://user:secret@index.example.org/", "https://user:secret@index.example.org/?a=b",
        "https://user:se/secret@index.example.org", "https://user:se?secret@index.example.org",
        "https://user:se#secret@index.example.org", "https://user:secret@secret@h:0/",
        "https://user:secret secret@h/", "https://user:secret\nsecret@h/", "user:secret@h/simple",
        "https:user:secret@h/", "//user:secret@h", "https://secret@/", "https:/user:secret@h/",
    ],
)  # fmt: skip
def test_a_refused_url_is_told_without_its_credentials(url: str):
    with pytest.raises(SettingError) as caught:
        Settings.of({"upstream_base_url": url}, flag)
    assert "secret" not in str(caught.value)  # item 141
    assert "***@" in str(caught.value)


def test_a_refused_url_without_credentials_is_told_as_it_is():
    with pytest.raises(SettingError, match=r"'ftp://index\.example\.org/a'"):
        Settings.of({"upstream_base_url": "ftp://index.example.org/a"}, flag)


def test_settings_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().cache_dir = Path()  # type: ignore[misc]


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
def test_credentials_are_masked_wherever_a_url_is_shown(text: str, shown: str):
    assert masked(text) == shown  # item 141


@quickly
@given(st.text(min_size=3, max_size=20), st.sampled_from([flag, variable]), st.data())
def test_no_value_does_worse_than_a_setting_error(value: str, spell: Any, data: st.DataObject):
    name = data.draw(st.sampled_from([field.name for field in dataclasses.fields(Settings)]))
    try:
        Settings.of({name: value}, spell)
    except SettingError as error:
        assert str(error).startswith(spell(name))  # noqa: PT017


@quickly
@given(
    st.text("ab/?#@: %\\[]", max_size=12),
    st.sampled_from(["https://", "http://", "https:", "//", ""]),
)
def test_no_password_is_ever_told(password: str, scheme: str):
    url = f"{scheme}user:SECRET{password}SECRET@index.example.org/simple"
    try:
        base = Settings.of({"upstream_base_url": url}, flag).upstream_base_url
    except SettingError as error:
        assert "SECRET" not in str(error)  # noqa: PT017
    else:
        assert "SECRET" not in masked(base)  # item 141
