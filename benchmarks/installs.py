"""uv and pip install the wheels of the mix, with an empty cache into an empty directory."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

from benchmarks.load import WrongResponse
from benchmarks.peers import Peers, Server, bare_environ
from benchmarks.upstream import Site


class Client:
    """uv or pip, from the environment ``clients``."""

    def __init__(self, peers: Peers, site: Site, name: str) -> None:
        self._directory = peers.work / "run" / f"client-{name}"
        self._roots, self._expected = site.roots(), set(site.mix())
        python = peers.environments.program("clients", "python")
        self._command: list[Any] = (
            [
                peers.environments.program("clients", "uv"),
                "pip",
                "install",
                "--no-config",
                "--python",
                python,
            ]
            if name == "uv"
            else [python, "-m", "pip", "install", "--disable-pip-version-check"]
        )

    def install(self, server: Server) -> float:
        """Return the seconds to install the mix from `server`.

        Raises WrongResponse where a project is missing.
        """
        shutil.rmtree(self._directory, ignore_errors=True)
        self._directory.mkdir(parents=True)
        command = [*self._command, "--cache-dir", self._directory / "cache"]
        command += ["--target", self._directory / "target"]
        command += ["--index-url", f"{server.url}{server.index}", *self._roots]
        env = {**bare_environ(), "PIP_CONFIG_FILE": os.devnull}
        before = time.perf_counter()
        ran = subprocess.run(command, check=False, capture_output=True, env=env)
        seconds = time.perf_counter() - before
        installed = {_project(path) for path in self._directory.glob("target/*.dist-info")}
        shutil.rmtree(self._directory)
        if ran.returncode or installed != self._expected:
            raise WrongResponse(f"{server.name}: {len(installed)} installed: {ran.stderr[-500:]!r}")
        return seconds


def _project(info: Path) -> str:
    return info.name.partition("-")[0].replace("_", "-")
