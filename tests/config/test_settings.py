"""Settings: defaults, names and errors."""

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
from pytail.config.values import Bind
from pytail.errors import SettingError
from pytail.urls import masked

quickly = settings(max_examples=200, deadline=None)

ROOT = Path(__file__).parents[2]
INDEX = "https://index.example.org"


def test_the_option_table_of_the_docs_has_each_meaning_and_default():
    page = (ROOT / "docs" / "configuration.md").read_text()
    found = re.findall(r"^\| `(--[a-z-]+)` \| (.*) \| `?(.*?)`? ?\|$", page, re.MULTILINE)
    rows = {option: (meaning, default) for option, meaning, default in found}
    assert (rows.pop("--verbose")[1], rows.pop("--config")[1]) == ("", "")
    defaults = {"upstream_base_url": "the public index"}
    assert rows == {
        flag(field.name): (
            field.metadata["meaning"],
            defaults.get(field.name, field.metadata["default"]),
        )
        for field in dataclasses.fields(Settings)
    }


@pytest.mark.parametrize("value", [None, ""])
def test_a_setting_without_a_value_has_its_default(value: str | None):
    texts = dict.fromkeys((field.name for field in dataclasses.fields(Settings)), value)
    assert Settings.of(texts, flag) == Settings()


def test_a_setting_has_an_environment_variable():
    found = load(
        {
            "PYTAIL_BIND": "[::1]:80",
            "PYTAIL_UPSTREAM_BASE_URL": f"{INDEX}/",
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


def test_option_and_variable_have_the_name_of_the_setting():
    assert variable("cache_dir") == "PYTAIL_CACHE_DIR"
    assert flag("cache_dir") == "--cache-dir"


def test_an_error_names_the_variable_the_value_and_the_remedy():
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
def test_an_error_shows_a_url_without_its_credentials(url: str):
    with pytest.raises(SettingError) as caught:
        Settings.of({"upstream_base_url": url}, flag)
    assert "secret" not in str(caught.value)  # item 141
    assert "***@" in str(caught.value)


def test_an_error_shows_a_url_without_credentials_in_full():
    with pytest.raises(SettingError, match=r"'ftp://index\.example\.org/a'"):
        Settings.of({"upstream_base_url": "ftp://index.example.org/a"}, flag)


def test_settings_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().cache_dir = Path()  # type: ignore[misc]


@quickly
@given(st.text(min_size=3, max_size=20), st.sampled_from([flag, variable]), st.data())
def test_any_value_is_valid_or_a_setting_error(value: str, spell: Any, data: st.DataObject):
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
def test_no_error_and_no_masked_url_has_the_password(password: str, scheme: str):
    url = f"{scheme}user:SECRET{password}SECRET@index.example.org/simple"
    try:
        base = Settings.of({"upstream_base_url": url}, flag).upstream_base_url
    except SettingError as error:
        assert "SECRET" not in str(error)  # noqa: PT017
    else:
        assert "SECRET" not in masked(base)  # item 141
