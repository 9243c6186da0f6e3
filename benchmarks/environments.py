"""The programs of the peers and their installation; each Python program has an environment."""

from __future__ import annotations

import os
import shutil
import subprocess
import venv
from pathlib import Path

import click

#: The packages of each environment; pinned where a bound is for that version.
PACKAGES = {
    "rust": ["pytail==0.1.11"],
    "devpi": ["devpi-server"],
    "proxpi": ["proxpi", "gunicorn", "packaging"],
    "clients": ["pip", "uv"],
}
#: Program -> Debian's package.
PROGRAMS = {"nginx": "nginx-light", "wrk": "wrk"}

_VERSIONS = "import importlib.metadata as m, sys; [print(n, m.version(n)) for n in sys.argv[1:]]"


class Environments:
    """Environments below `root`, by the names of PACKAGES."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def program(self, environment: str, program: str) -> Path:
        """Return the path of a program; install its environment first where it is missing."""
        directory = self._root / environment
        if not (directory / "complete").exists():
            click.echo(f"installing {' '.join(PACKAGES[environment])}", err=True)
            venv.create(directory, clear=True, with_pip=True)
            # -I keeps the working directory, which may have pytail's checkout, out of sys.path.
            python = str(directory / "bin" / "python")
            pip = [python, "-I", "-m", "pip", "install", "-q", "--upgrade"]
            subprocess.run([*pip, *PACKAGES[environment]], check=True)
            (directory / "complete").touch()
        return directory / "bin" / program

    def versions(self, environment: str) -> dict[str, str]:
        """Return the version of each package of an environment."""
        names = [package.partition("==")[0] for package in PACKAGES[environment]]
        command = [str(self.program(environment, "python")), "-I", "-c", _VERSIONS, *names]
        ran = subprocess.run(command, check=True, capture_output=True, text=True)
        return dict(line.split() for line in ran.stdout.splitlines())


def install_programs() -> None:
    """Install nginx and wrk where they are missing. Raises click.ClickException without root."""
    missing = [package for program, package in PROGRAMS.items() if shutil.which(program) is None]
    if not missing:
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise click.ClickException(
            f"{' and '.join(missing)} missing: install them first, or run this as root"
        )
    # RUNLEVEL=1 keeps Debian from starting nginx.
    env = {**os.environ, "RUNLEVEL": "1", "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(["apt-get", "update", "-qq"], check=True, env=env)
    install = ["apt-get", "install", "-qq", "--no-install-recommends", *missing]
    subprocess.run(install, check=True, env=env)
