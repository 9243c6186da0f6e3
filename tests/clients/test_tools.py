"""poetry, pdm, pipenv and pip-tools lock and install through pytail."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.clients.conftest import INSTALLED, PROJECT, Machine, warm
from tests.support.fakeindex import FakeIndex
from tests.support.running import embedded

pytestmark = pytest.mark.clients


@dataclasses.dataclass
class Tool:
    """A package manager: files of a project, commands that lock and install, the lock file."""

    files: dict[str, str]
    commands: list[list[str]]
    lock: str
    environ: dict[str, str] = dataclasses.field(default_factory=dict)
    #: Whether ``pytail warm`` reads its lock file.
    can_warm: bool = False


TOOLS = {
    "poetry": Tool(
        {
            "pyproject.toml": f"{PROJECT}[tool.poetry]\npackage-mode = false\n"
            '[[tool.poetry.source]]\nname = "pytail"\nurl = "ROOT"\npriority = "primary"\n'
        },
        [["poetry", "lock"], ["poetry", "install"]],
        "poetry.lock",
        {"POETRY_VIRTUALENVS_IN_PROJECT": "true"},
        can_warm=True,
    ),
    "pdm": Tool(
        {
            "pyproject.toml": f"{PROJECT}[tool.pdm]\ndistribution = false\n"
            '[[tool.pdm.source]]\nname = "pypi"\nurl = "ROOT"\n'
        },
        [["pdm", "lock"], ["pdm", "sync"]],
        "pdm.lock",
        {"PDM_CHECK_UPDATE": "false"},
    ),
    "pipenv": Tool(
        {
            "Pipfile": '[[source]]\nname = "pytail"\nurl = "ROOT"\nverify_ssl = false\n'
            '[packages]\nweb-app = "*"\n'
        },
        [["pipenv", "lock"], ["pipenv", "sync"]],
        "Pipfile.lock",
        {"PIPENV_VENV_IN_PROJECT": "1"},
    ),
    "pip-tools": Tool(
        {"requirements.in": "web-app\n"},
        [
            ["pip-compile", "-q", "--generate-hashes", "--no-strip-extras", "-i", "ROOT"],
            ["python", "-m", "venv", ".venv"],
            ["pip-sync", "-q", "-i", "ROOT", "--python-executable", ".venv/bin/python"],
        ],
        "requirements.txt",
        can_warm=True,
    ),
}


@pytest.mark.parametrize("name", TOOLS)
def test_a_tool_locks_and_installs(
    name: str,
    tool_dir: Callable[[str], Path],
    machine: Callable[[], Machine],
    tmp_path: Path,
    world: FakeIndex,
):
    tool, client = TOOLS[name], machine()
    path = f"{tool_dir(name)}:/usr/bin:/bin"
    with embedded(tmp_path / "cache", world.url, tmp_path / "log") as running:
        root = f"{running.client.url}/simple/"
        for filename, text in tool.files.items():
            (client.home / filename).write_text(text.replace("ROOT", root))
        for command in tool.commands:
            words = [word.replace("ROOT", root) for word in command]
            client.run(*words, PATH=path, LANG="C.UTF-8", **tool.environ)
    client.site = next((client.home / ".venv" / "lib").glob("python*/site-packages"))
    assert INSTALLED.items() <= client.installed().items()
    lock = (client.home / tool.lock).read_text()
    for dist in world.dists:
        if dist.filename.split("-")[1] == INSTALLED[dist.project]:
            assert f"sha256:{dist.sha256}" in lock
    if tool.can_warm:
        # The lock file has URLs of the pytail that has ended.
        bind = root.removeprefix("http://").removesuffix("/simple/")
        report = warm(tmp_path / "ahead", world.url, client.home / tool.lock, "--bind", bind)
        assert report["fetched"]["files"] == 2 * len(INSTALLED)
        assert report["skipped"] == []
