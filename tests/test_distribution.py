"""The installed distribution, and the names of commands and indexes in the repository."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import pytail
from pytail.config.settings import PUBLIC_INDEX

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_installed_wheel_is_tested(tmp_path: Path):
    wanted = os.environ.get("PYTAIL_TESTS_WANT")
    if wanted is None:
        pytest.skip("tox sets PYTAIL_TESTS_WANT where it installs the wheel")
    code = "import pytail; print(pytail.__file__)"
    found = subprocess.check_output([sys.executable, "-c", code], text=True, cwd=tmp_path).strip()
    assert pytail.__file__ == found
    assert wanted in found


def test_ci_runs_the_test_command_of_the_readme():
    commands = re.findall(r"```sh.*?\n(.*?)```", README.partition("## Test it")[2], re.DOTALL)
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    assert commands[0].strip() in map(str.strip, lines)


def test_readme_names_the_public_index_once():
    assert README.count(PUBLIC_INDEX) == 1


@pytest.mark.parametrize("folder", ["tests", "conf", "docs", ".ci", "benchmarks"])
def test_other_folders_name_no_public_index(folder: str):
    host = PUBLIC_INDEX.partition("//")[2]
    texts = [path for path in (ROOT / folder).rglob("*") if path.suffix in {".py", ".md", ".toml"}]
    named = [path for path in texts if re.search(rf"\b{re.escape(host)}\b", path.read_text())]
    assert named == []
