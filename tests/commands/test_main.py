"""The group: options before and after a command, help, ``pytail config``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.commands.conftest import PYTAIL, call_main, run_program
from tests.support.fakeindex import FakeIndex, wheel
from tests.support.running import free_port, program


@pytest.mark.process
def test_serve_takes_settings_before_and_after_the_command(tmp_path: Path, index: FakeIndex):
    port = free_port()
    command = [*PYTAIL, "--bind", f"127.0.0.1:{port}", "serve", "--upstream-base-url", index.url]
    index.add(wheel("demo"))
    environ = {"PYTAIL_CACHE_DIR": str(tmp_path / "cache")}
    with program(command, tmp_path / "log", f"http://127.0.0.1:{port}", **environ) as running:
        assert running.client.json("demo")["name"] == "demo"


@pytest.mark.process
def test_help_names_the_commands():
    out = run_program("--help").stdout
    assert "Commands:" in out
    for name in ("serve", "config"):
        assert f"\n  {name} " in out


def test_help_of_a_command_shows_its_own_options_only():
    out = call_main("config", "--help")
    assert out.returncode == 0
    assert "--json" in out.stdout
    assert "--cache-dir" not in out.stdout
    assert "see pytail --help" in " ".join(out.stdout.split())


@pytest.mark.process
def test_an_unknown_command_of_the_program_is_one_line_and_exit_code_2():
    out = run_program("confg")
    assert (out.returncode, out.stdout) == (2, "")
    (line,) = out.stderr.splitlines()
    assert line.startswith("pytail: ")
    assert "confg" in line


@pytest.mark.process
def test_config_shows_each_value_and_its_origin(tmp_path: Path):
    file = tmp_path / "pytail.toml"
    file.write_text('project-cache-ttl-secs = "15m"\n')
    arguments = ["--config", str(file), "config", "--bind", "[::1]:80"]
    out = run_program(*arguments, PYTAIL_CACHE_DIR="/srv/cache")
    rows = {line.split()[0]: line.split()[1:] for line in out.stdout.splitlines()}
    assert rows["project-cache-ttl-secs"] == ["15m", "file", str(file)]
    assert rows["bind"] == ["[::1]:80", "flag", "--bind"]
    assert rows["cache-dir"] == ["/srv/cache", "variable", "PYTAIL_CACHE_DIR"]
    assert rows["offline"] == ["no", "default"]


def test_config_prints_json_in_seconds_and_bytes():
    shown = json.loads(call_main("config", "--json", PYTAIL_MISSING_TTL_SECS="2m").stdout)
    assert shown["missing_ttl_secs"] == {
        "value": 120,
        "origin": "variable",
        "source": "PYTAIL_MISSING_TTL_SECS",
    }
    assert shown["offline"] == {"value": False, "origin": "default", "source": None}
    assert shown["upstream_ca"]["value"] is None


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_config_masks_secrets(options: list[str]):
    url = "https://user:secret@index.example.org"
    out = call_main("--upstream-base-url", url, "config", *options)
    assert "secret" not in out.stdout + out.stderr
    assert "https://***@index.example.org" in out.stdout


@pytest.mark.process
def test_an_unknown_variable_is_a_warning_with_the_nearest_name():
    out = run_program("config", PYTAIL_CACHEDIR="x")
    assert out.returncode == 0
    assert "did you mean PYTAIL_CACHE_DIR?" in out.stderr
