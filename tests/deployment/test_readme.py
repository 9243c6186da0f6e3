"""The first section of the README starts a pytail that installs a project and caches its files.

The test runs the commands of the README in a checkout. It replaces the port, which may be in use, the
upstream and the name of the project.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.conftest import Machine
from tests.deployment.conftest import ROOT
from tests.support.fakeindex import FakeIndex, wheel
from tests.support.running import Client, free_port
from tests.support.watching import until

README = (ROOT / "README.md").read_text()
START = README.partition("## Start it")[2].partition("## Options")[0]
EMBEDDED, INSTALLS, FOR_GOOD, GUNICORN = re.findall(r"```sh.*?\n(.*?)```", START, re.DOTALL)
STATUS = FOR_GOOD.splitlines()[-1]


def answers(client: Client) -> bool:
    try:
        return client.get("/+health").status == 200
    except OSError:
        return False


@contextlib.contextmanager
def shell(command: str, checkout: Path, **environ: str) -> Iterator[subprocess.Popen[str]]:
    """Run `command` as in a terminal, and stop its process group at the end of the block."""
    process = subprocess.Popen(
        ["sh", "-c", command],
        cwd=checkout,
        env={**os.environ, **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    with process:
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)


@pytest.mark.clients
def test_the_first_steps_install_a_project_and_the_second_install_is_a_hit(
    tmp_path: Path, checkout: Path, index: FakeIndex
):
    index.add(wheel("demo", payload=bytes(range(256)) * 100))
    address = f"127.0.0.1:{free_port()}"
    client = Client(f"http://{address}")
    ours = {"PYTAIL_BIND": address, "PYTAIL_UPSTREAM_BASE_URL": index.url}
    installs = INSTALLS.replace("127.0.0.1:3141", address).replace("PROJECT", "demo").splitlines()
    assert len(installs) == 2
    for number, start in enumerate((EMBEDDED, GUNICORN)):
        with shell(start, checkout, **ours) as server:
            until(lambda: answers(client), 300)
            for tool, install in enumerate(installs):
                machine = Machine(tmp_path / f"machine-{number}-{tool}")
                arguments = [*install.split(), "--no-cache-dir", "--target", str(machine.site)]
                machine.run(sys.executable, "-m", *arguments)
                assert machine.installed() == {"demo": "1.0"}
            with shell(STATUS, checkout, **ours) as status:
                printed = status.communicate()[0]
            assert server.poll() is None
        assert re.search(r"^hits +[1-9]\d*\.\d% of [1-9]", printed, re.MULTILINE), printed
    assert index.page_count("demo") == 1
