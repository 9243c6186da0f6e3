"""The unit of `conf/`, checked by systemd-analyze; `test_debian` runs it."""

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
    """The unit, its programs replaced by one that exists."""
    path = tmp_path / "pytail.service"
    path.write_text(replaced(UNIT, {"/opt/pytail/bin/pytail ": f"{sys.executable} "}))
    if request.param:
        directory = tmp_path / "pytail.service.d"
        directory.mkdir()
        text = replaced(DROP_IN, {"/opt/pytail/bin/gunicorn ": f"{sys.executable} "})
        (directory / "gunicorn.conf").write_text(text)
    return path


def analyzed(*arguments: str) -> str:
    """Return what systemd-analyze writes to stderr. Asserts that it succeeds."""
    command = [needed("systemd-analyze"), *arguments]
    out = subprocess.run(command, capture_output=True, text=True, check=False)
    assert out.returncode == 0, out.stdout + out.stderr
    return out.stderr


def test_systemd_knows_all_settings_of_the_unit(unit: Path):
    assert str(unit) not in analyzed("verify", "--man=no", str(unit))


def test_systemd_rates_the_exposure_as_low(unit: Path):
    # In tenths: at most 1.5 of 10, for the network and the group of nginx.
    analyzed("security", "--offline=yes", "--no-pager", "--threshold=15", str(unit))


def test_the_limits_of_the_unit_fit_the_settings():
    settings = Settings()
    assert int(SETTINGS["TimeoutStopSec"]) > settings.grace_secs + 10
    assert int(SETTINGS["LimitNOFILE"]) > 10 * settings.max_connections
    assert int(SETTINGS["MemoryHigh"].removesuffix("M")) * 2**20 > 8 * settings.hot_cache_size
