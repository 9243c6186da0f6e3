"""Sources of settings, and the errors for misspelt ones."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from pytail.config.load import ChosenValue, load
from pytail.config.settings import PUBLIC_INDEX, Settings
from pytail.config.values import Bind
from pytail.errors import SettingError

CONF = Path(__file__).parents[2] / "conf" / "pytail.toml"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "pytail.toml"


def error_for(file: Path, text: str) -> str:
    """Return the error for a file of that `text`."""
    file.write_text(text)
    with pytest.raises(SettingError) as caught:
        load({}, {"config": str(file)})
    message = str(caught.value)
    assert str(file) in message
    return message


def test_without_values_the_defaults_are_in_force():
    found = load({})
    assert found.settings == Settings()
    assert {choice.origin for choice in found.choices.values()} == {"default"}


@pytest.mark.parametrize(
    ("places", "origin"),
    [
        ((), "default"),
        (("file",), "file"),
        (("file", "variable"), "variable"),
        (("file", "variable", "flag"), "flag"),
        (("file", "flag"), "flag"),
        (("variable", "flag"), "flag"),
        (("variable",), "variable"),
        (("flag",), "flag"),
    ],
)
def test_a_flag_overrides_a_variable_overrides_the_file_overrides_the_default(
    file: Path, places: tuple[str, ...], origin: str
):
    file.write_text('cache-dir = "/file"\n' if "file" in places else "")
    environ = {"PYTAIL_CONFIG": str(file)}
    if "variable" in places:
        environ["PYTAIL_CACHE_DIR"] = "/variable"
    found = load(environ, {"cache_dir": "/flag"} if "flag" in places else {})
    assert found.choices["cache_dir"].origin == origin
    wanted = Settings().cache_dir if origin == "default" else Path(f"/{origin}")
    assert found.settings.cache_dir == wanted


def test_each_value_has_its_source(file: Path):
    file.write_text("offline = true\n")
    found = load(
        {"PYTAIL_CONFIG": str(file), "PYTAIL_BIND": "[::1]:80"}, {"missing_ttl_secs": "1m"}
    )
    assert found.choices["offline"] == ChosenValue("True", "file", str(file))
    assert found.choices["bind"] == ChosenValue("[::1]:80", "variable", "PYTAIL_BIND")
    assert found.choices["missing_ttl_secs"] == ChosenValue("1m", "flag", "--missing-ttl-secs")
    assert found.settings == Settings(offline=True, bind=Bind("::1", 80), missing_ttl_secs=60)


def test_the_config_flag_overrides_the_config_variable(file: Path):
    file.write_text("offline = true\n")
    assert load({"PYTAIL_CONFIG": "/nowhere"}, {"config": str(file)}).settings.offline is True


def test_a_file_has_strings_numbers_and_booleans(file: Path):
    file.write_text(
        'project_cache_ttl_secs = "15m"\nrequest-timeout-secs = 2.5\nmax-page-bytes = 1024\n'
        "offline = false\ncore_metadata_from_wheels = true\nupstream-ca = ''\n"
    )
    assert load({}, {"config": str(file)}).settings == Settings(
        project_cache_ttl_secs=900,
        request_timeout_secs=2.5,
        max_page_bytes=1024,
        core_metadata_from_wheels=True,
    )


@pytest.mark.parametrize("empty", ["variable", "flag"])
def test_an_empty_value_counts_as_not_set(file: Path, empty: str):
    file.write_text("offline = true\n")
    environ = {"PYTAIL_OFFLINE": ""} if empty == "variable" else {}
    flags = {"config": str(file), "offline": "" if empty == "flag" else None}
    assert load(environ, flags).choices["offline"].origin == "file"


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("cachedir", "cache-dir"),
        ("cache_directory", "cache-dir"),
        ("upstream-url", "upstream-base-url"),
        ("project-cache-ttl", "project-cache-ttl-secs"),
    ],
)
def test_an_error_for_an_unknown_key_names_the_nearest_key(file: Path, key: str, nearest: str):
    message = error_for(file, f'{key} = "x"\n')
    assert f"'{key}'" in message
    assert f"did you mean {nearest}?" in message


def test_an_error_for_a_key_far_from_all_names_no_other(file: Path):
    assert error_for(file, "zzzz = 1\n").endswith("key 'zzzz': there is no such setting")


def test_a_key_in_both_spellings_is_refused(file: Path):
    assert "twice" in error_for(file, 'cache-dir = "a"\ncache_dir = "b"\n')


@pytest.mark.parametrize(("value", "kind"), [("[1]", "list"), ("{a = 1}", "dict"), ("1979-05-27", "date")])  # fmt: skip
def test_a_value_of_another_toml_type_is_refused(file: Path, value: str, kind: str):
    assert f"not a {kind}" in error_for(file, f"cache-dir = {value}\n")


def test_an_error_for_a_value_in_the_file_names_file_and_key(file: Path):
    message = error_for(file, 'request_timeout_secs = "soon"\n')
    assert message.startswith(f"{file}: request-timeout-secs 'soon': give a number of seconds")


def test_an_error_for_a_choice_names_the_nearest_word(file: Path):
    assert "give text or json; did you mean json?" in error_for(file, 'log-format = "jsn"\n')


@pytest.mark.parametrize("content", [b"a b\n", b"\xff = 1\n", b"a = " + b"[" * 99999, b"a=1\na=1"])
def test_a_file_that_is_not_toml_is_refused(file: Path, content: bytes):
    file.write_bytes(content)
    with pytest.raises(SettingError, match="cannot be read as TOML"):
        load({"PYTAIL_CONFIG": str(file)})


@pytest.mark.parametrize("path", ["/nowhere/pytail.toml", "/"])
def test_an_error_for_an_unreadable_file_names_the_flag_or_variable(path: str):
    with pytest.raises(SettingError, match=r"^PYTAIL_CONFIG '.*': cannot be read: "):
        load({"PYTAIL_CONFIG": path})
    with pytest.raises(SettingError, match=r"^--config '.*': cannot be read: "):
        load({}, {"config": path})


def test_a_warning_for_an_unknown_variable_names_the_nearest_variable():
    found = load({"PYTAIL_CACHEDIR": "s3cret", "PYTAIL_ZZ": "1", "OTHER_CACHE_DIR": "x"})
    assert found.warnings == (
        "PYTAIL_CACHEDIR is not a setting of pytail; did you mean PYTAIL_CACHE_DIR?",
        "PYTAIL_ZZ is not a setting of pytail",
    )


def test_known_variables_cause_no_warning(file: Path):
    file.touch()
    environ = {"PYTAIL_CONFIG": str(file), "PYTAIL_VERBOSE": "no", "PYTAIL_LOG_FORMAT": "json"}
    assert load(environ).warnings == ()


@pytest.mark.parametrize(
    ("environ", "flags", "level"),
    [
        ({}, {"verbose": True}, "debug"),
        ({"PYTAIL_VERBOSE": "1"}, {}, "debug"),
        ({"PYTAIL_VERBOSE": "0"}, {}, "info"),
        ({"PYTAIL_LOG_LEVEL": "error"}, {"verbose": True}, "debug"),
        ({"PYTAIL_LOG_LEVEL": "error", "PYTAIL_VERBOSE": "1"}, {}, "error"),
        ({"PYTAIL_VERBOSE": "1"}, {"log_level": "warning"}, "warning"),
    ],
)
def test_verbose_sets_the_level_debug(
    environ: dict[str, str], flags: dict[str, object], level: str
):
    assert load(environ, flags).settings.log_level == level


def test_an_invalid_verbose_is_refused():
    with pytest.raises(SettingError, match="PYTAIL_VERBOSE 'maybe': give yes or no"):
        load({"PYTAIL_VERBOSE": "maybe"})


def test_shown_settings_have_no_credentials():
    shown = load({"PYTAIL_UPSTREAM_BASE_URL": "https://user:secret@index.example.org"}).shown()
    assert shown["upstream_base_url"]["value"] == "https://***@index.example.org"
    assert "secret" not in str(shown)


def test_the_file_in_conf_has_each_meaning_and_default():
    shown = re.findall(r"^# (.+)\n# ([a-z-]+) = \"(.*)\"$", CONF.read_text(), re.MULTILINE)
    defaults = [
        (field.metadata["meaning"], field.name.replace("_", "-"), field.metadata["default"])
        for field in dataclasses.fields(Settings)
    ]
    # The file has "", the default, for the public index: only one module may name that.
    assert shown == [(m, key, "" if text == PUBLIC_INDEX else text) for m, key, text in defaults]


def test_the_file_in_conf_without_comment_signs_loads_the_defaults(file: Path):
    file.write_text(re.sub(r"^# (?=[a-z-]+ = )", "", CONF.read_text(), flags=re.MULTILINE))
    assert file.read_text().count("\ncache-dir = ") == 1
    assert load({}, {"config": str(file)}).settings == Settings()
