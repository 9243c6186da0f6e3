"""The unit that `conf/` ships, judged by systemd's own tools; `test_debian` does what it says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from pytail.config.settings import Settings
from tests.deployment.conftest import CONF, needed, replaced

pytestmark = pytest.mark.slow

UNIT = (CONF / "pytail.service").read_text()
DROP_IN = (CONF / "pytail.service.d" / "gunicorn.conf").read_text()
SETTINGS = dict(re.findall(r"^(\w+)=(.*)$", UNIT, re.MULTILINE))


@pytest.fixture(params=[False, True], ids=["pytail", "gunicorn"])
def unit(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The unit, of programs that are there."""
    path = tmp_path / "pytail.service"
    path.write_text(replaced(UNIT, {"/opt/pytail/bin/pytail ": f"{sys.executable} "}))
    if request.param:
        directory = tmp_path / "pytail.service.d"
        directory.mkdir()
        text = replaced(DROP_IN, {"/opt/pytail/bin/gunicorn ": f"{sys.executable} "})
        (directory / "gunicorn.conf").write_text(text)
    return path


def analyzed(*arguments: str) -> str:
    """What systemd-analyze says; it must agree."""
    command = [needed("systemd-analyze"), *arguments]
    out = subprocess.run(command, capture_output=True, text=True, check=False)
    assert out.returncode == 0, out.stdout + out.stderr
    return out.stderr


def test_systemd_understands_all_of_it(unit: Path):
    assert str(unit) not in analyzed("verify", "--man=no", str(unit))


def test_systemd_finds_little_that_is_exposed(unit: Path):
    # In tenths; the network and the group of nginx are what is left.
    analyzed("security", "--offline=yes", "--no-pager", "--threshold=15", str(unit))


def test_its_numbers_agree_with_the_settings():
    settings = Settings()
    assert int(SETTINGS["TimeoutStopSec"]) > settings.grace_secs + 10
    assert int(SETTINGS["LimitNOFILE"]) > 10 * settings.max_connections
    assert int(SETTINGS["MemoryHigh"].removesuffix("M")) * 2**20 > 8 * settings.hot_cache_size
