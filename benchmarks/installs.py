"""Real clients that install the wheels of the mix, with empty caches and targets of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

from benchmarks.load import WrongAnswer
from benchmarks.peers import Peers, Server, bare_environ
from benchmarks.upstream import Site


class Client:
    """uv or pip, from an environment of its own."""

    def __init__(self, peers: Peers, site: Site, name: str) -> None:
        self._room = peers.work / "run" / f"client-{name}"
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
        """Seconds to install the mix from `server`. Raises WrongAnswer where one is missing."""
        shutil.rmtree(self._room, ignore_errors=True)
        self._room.mkdir(parents=True)
        command = [*self._command, "--cache-dir", self._room / "cache"]
        command += ["--target", self._room / "target"]
        command += ["--index-url", f"{server.url}{server.index}", *self._roots]
        env = {**bare_environ(), "PIP_CONFIG_FILE": os.devnull}
        before = time.perf_counter()
        ran = subprocess.run(command, check=False, capture_output=True, env=env)
        seconds = time.perf_counter() - before
        there = {_project(path) for path in self._room.glob("target/*.dist-info")}
        shutil.rmtree(self._room)
        if ran.returncode or there != self._expected:
            raise WrongAnswer(f"{server.name}: {len(there)} installed: {ran.stderr[-500:]!r}")
        return seconds


def _project(info: Path) -> str:
    return info.name.partition("-")[0].replace("_", "-")
