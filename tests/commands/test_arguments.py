"""Wrong arguments end with exit code 2 and one line on standard error, before anything changes."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path

import pytest

from pytail.urls import masked
from tests.commands.conftest import Commands, Installation, call_main
from tests.support.fakeindex import Dist


def refusal(out: subprocess.CompletedProcess[str]) -> str:
    """Return the only line that a refused command prints."""
    assert (out.returncode, out.stdout) == (2, "")
    (line,) = out.stderr.splitlines()
    assert line.startswith("pytail: ")
    return line


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("bind", "nonsense"),
        ("bind", "127.0.0.1"),
        ("bind", "127.0.0.1:65536"),
        ("bind", "[::1]"),
        ("bind", "unix:"),
        ("upstream-base-url", "ftp://index.example.org"),
        ("upstream-base-url", "index.example.org"),
        ("upstream-base-url", "https://index.example.org/?q"),
        ("project-cache-ttl-secs", "soon"),
        ("project-cache-ttl-secs", "-1"),
        ("project-cache-ttl-secs", "nan"),
        ("request-timeout-secs", "0"),
        ("max-connections", "0"),
        ("max-page-bytes", "0"),
        ("max-page-bytes", "64XB"),
    ],
)
def test_a_bad_value_of_a_setting_is_refused_with_the_name_that_was_given(option: str, value: str):
    variable = f"PYTAIL_{option.upper().replace('-', '_')}"
    for name, out in (
        (f"--{option}", call_main(f"--{option}", value)),
        (variable, call_main(**{variable: value})),
    ):
        line = refusal(out)
        assert line.startswith(f"pytail: {name} ")
        # A query may be a secret.
        assert masked(value) in line


def test_an_unknown_option_is_refused():
    refusal(call_main("--no-such-option"))


def test_an_unknown_command_is_refused():
    assert "confg" in refusal(call_main("confg"))


def test_a_refusal_masks_credentials():
    line = refusal(call_main("--upstream-base-url", "ftp://user:secret@index.example.org"))
    assert "secret" not in line


def test_config_refuses_a_file_that_the_server_would_refuse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pytail.toml").write_text("cachedir = 1\n")
    line = refusal(call_main("config", "--config", "pytail.toml"))
    assert line == "pytail: pytail.toml: key 'cachedir': there is no such setting; did you mean cache-dir?"  # fmt: skip


def test_serve_refuses_a_port_in_use_and_creates_no_cache_directory(tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = refusal(
            call_main("--bind", f"127.0.0.1:{port}", "--cache-dir", str(tmp_path / "cache"))
        )
    assert f"127.0.0.1:{port}" in line
    assert "in use" in line
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("cache_dir", ["/dev/null/cache", "/proc/cache", "{tmp}/file"])
def test_serve_refuses_a_cache_directory_that_cannot_be_created(tmp_path: Path, cache_dir: str):
    (tmp_path / "file").write_text("not a directory")
    path = cache_dir.format(tmp=tmp_path)
    assert path in refusal(call_main("--bind", "127.0.0.1:0", "--cache-dir", path))


@pytest.mark.parametrize(
    "command",
    [["status"], ["list"], ["refresh", "x"], ["purge", "--all"], ["verify"], ["gc"]],
    ids=" ".join,
)
def test_a_directory_that_pytail_never_used_is_refused_and_not_changed(
    commands: Commands, tmp_path: Path, command: list[str]
):
    other = tmp_path / "other"
    other.mkdir()
    line = refusal(commands.call(*command, "--cache-dir", str(other)))
    assert line.startswith(f"pytail: cache directory '{other}': ")
    assert list(other.iterdir()) == []


def test_list_refuses_an_invalid_project_name(installation: Installation):
    refusal(installation.call("list", "../nope"))


@pytest.mark.parametrize("options", [[], ["--all", "demo"], ["--all", "--older-than", "1d"]])
def test_purge_refuses_none_or_two_ways_to_choose_files(
    installation: Installation, stored: list[Dist], options: list[str]
):
    refusal(installation.call("purge", *options))
    assert installation.path(stored[0]).exists()


def test_purge_refuses_an_age_that_is_no_duration(installation: Installation, stored: list[Dist]):
    line = refusal(installation.call("purge", "--older-than", "soon"))
    assert "give a number of seconds" in line
    assert installation.path(stored[0]).exists()


def test_adopt_refuses_no_directory_and_a_missing_one(installation: Installation, tmp_path: Path):
    for arguments in ([], [str(tmp_path / "missing")]):
        refusal(installation.call("adopt", *arguments))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give a NAME or -r FILE"),
        (["demo", "--offline", "yes"], "--offline 'yes': "),
        (["de mo"], "NAME 'de mo': is not a requirement such as 'demo>=2,<3': "),
        (["demo", "--python", "2.7"], "--python '2.7': give a version of Python 3"),
        (["demo", "--platform", "amiga"], "--platform 'amiga': give a platform tag"),
        (["-r", "nowhere.txt"], "-r 'nowhere.txt': cannot be read: No such file"),
    ],
)
def test_warm_refuses_wrong_arguments_and_creates_no_cache_directory(
    commands: Commands, arguments: list[str], message: str
):
    line = refusal(commands.call("warm", *arguments))
    assert line.startswith(f"pytail: {message}")
    assert not commands.cache.exists()
