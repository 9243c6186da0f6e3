"""The commands beside the server, as an operator runs them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.fakeindex import FakeIndex, wheel
from tests.support.running import clean_environ, free_port, program

pytestmark = pytest.mark.process

PYTAIL = [sys.executable, "-m", "pytail"]


def run(
    *arguments: str, cwd: Path | None = None, **environ: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PYTAIL, *arguments],
        capture_output=True,
        text=True,
        env=clean_environ(**environ),
        cwd=cwd,
        timeout=30,
        check=False,
    )


def test_serve_is_what_pytail_does_without_a_command(tmp_path: Path, index: FakeIndex):
    port = free_port()
    command = [*PYTAIL, "--bind", f"127.0.0.1:{port}", "serve", "--upstream-base-url", index.url]
    index.add(wheel("demo"))
    environ = {"PYTAIL_CACHE_DIR": str(tmp_path / "cache")}
    with program(command, tmp_path / "log", f"http://127.0.0.1:{port}", **environ) as running:
        assert running.client.json("demo")["name"] == "demo"


def test_help_names_the_commands():
    out = run("--help").stdout
    assert "Commands:" in out
    for name in ("serve", "config"):
        assert f"\n  {name} " in out


def test_help_of_a_command_is_its_own_options():
    out = run("config", "--help")
    assert out.returncode == 0
    assert "--json" in out.stdout
    assert "--cache-dir" not in out.stdout
    assert "see pytail --help" in " ".join(out.stdout.split())


def test_an_unknown_command_is_one_line_and_exit_code_2():
    out = run("confg")
    assert (out.returncode, out.stdout) == (2, "")
    (line,) = out.stderr.splitlines()
    assert line.startswith("pytail: ")
    assert "confg" in line


def test_config_shows_each_value_and_its_origin(tmp_path: Path):
    file = tmp_path / "pytail.toml"
    file.write_text('project-cache-ttl-secs = "15m"\n')
    out = run("--config", str(file), "config", "--bind", "[::1]:80", PYTAIL_CACHE_DIR="/srv/cache")
    rows = {line.split()[0]: line.split()[1:] for line in out.stdout.splitlines()}
    assert rows["project-cache-ttl-secs"] == ["15m", "file", str(file)]
    assert rows["bind"] == ["[::1]:80", "flag", "--bind"]
    assert rows["cache-dir"] == ["/srv/cache", "variable", "PYTAIL_CACHE_DIR"]
    assert rows["offline"] == ["no", "default"]


def test_config_for_scripts_is_json_in_seconds_and_bytes():
    shown = json.loads(run("config", "--json", PYTAIL_MISSING_TTL_SECS="2m").stdout)
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
    out = run("--upstream-base-url", url, "config", *options)
    assert "secret" not in out.stdout + out.stderr
    assert "https://***@index.example.org" in out.stdout


def test_config_tells_of_a_variable_that_is_none():
    out = run("config", PYTAIL_CACHEDIR="x")
    assert out.returncode == 0
    assert "did you mean PYTAIL_CACHE_DIR?" in out.stderr


def test_config_refuses_what_the_server_would_refuse(tmp_path: Path):
    (tmp_path / "pytail.toml").write_text("cachedir = 1\n")
    out = run("config", "--config", "pytail.toml", cwd=tmp_path)
    assert (out.returncode, out.stdout) == (2, "")
    (line,) = out.stderr.splitlines()
    assert line == "pytail: pytail.toml: key 'cachedir': there is no such setting; did you mean cache-dir?"  # fmt: skip
