"""The commands of README and docs succeed, with the real programs.

Each section runs in a sandbox of its own, with a pytail. A block of commands must succeed. A block of
a file is appended to that file, and the commands that a container or a CI system would run are run.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest
import trustme
import yaml
from gevent.server import StreamServer

from tests.clients.conftest import PROJECT, REQUIREMENTS
from tests.support.documents import COMMANDS, ELSEWHERE, FILES, NOT_RUN, ROOT, Block, documents
from tests.support.fakeindex import FakeIndex
from tests.support.running import Client, free_port, program

pytestmark = pytest.mark.clients

#: By the name of a command, the package that installs it.
TOOLS = {name: name for name in REQUIREMENTS} | {
    "pip-compile": "pip-tools",
    "pip-sync": "pip-tools",
}


def sections() -> dict[str, list[Block]]:
    """Return the blocks to run or to write, by document and heading."""
    found: dict[str, list[Block]] = {}
    for document in documents():
        if document.name not in ELSEWHERE:
            for block in document.blocks:
                is_run = block.language in COMMANDS and block.note not in NOT_RUN
                if is_run or (block.language in FILES and block.note):
                    found.setdefault(f"{document.name}: {block.section}", []).append(block)
    return found


class Sandbox:
    """A home directory and the programs that a section needs, with a pytail."""

    def __init__(self, home: Path, upstream: FakeIndex, tool_dir: Callable[[str], Path]) -> None:
        self.home, self.here = home, home / "here"
        self._upstream, self._tool_dir = upstream, tool_dir
        self._programs = home / "programs"
        self._programs.mkdir(parents=True)
        self.cache, self.bind = self.here / ".cache" / "pytail", f"127.0.0.1:{free_port()}"
        self.client = Client(f"http://{self.bind}")
        #: The URL of pytail for clients.
        self.url = self.client.url
        for name in ("pytail", "uv"):
            (self._programs / name).symlink_to(Path(sys.executable).with_name(name))

    def settings(self) -> dict[str, str]:
        """Return the settings of the server and of its commands, as variables."""
        return {
            "PYTAIL_BIND": self.bind,
            "PYTAIL_CACHE_DIR": str(self.cache),
            "PYTAIL_UPSTREAM_BASE_URL": self._upstream.url,
        }

    def environ(self) -> dict[str, str]:
        path = (self.here / ".venv" / "bin", self._programs, "/usr/bin", "/bin")
        return {
            "HOME": str(self.home),
            "LANG": "C.UTF-8",
            "PATH": ":".join(map(str, path)),
            "VIRTUAL_ENV": str(self.here / ".venv"),
            # pdm would ask another index for its own updates.
            "PDM_CHECK_UPDATE": "false",
            **self.settings(),
        }

    def localized(self, text: str) -> str:
        """Return `text` with the names of examples replaced by those of this sandbox."""
        for example, real in {
            "https://pytail.example.org": self.url,
            "127.0.0.1:3141": self.bind,
            "/var/cache/pytail": str(self.cache),
            "/srv/pytail": str(self.home / "srv"),
            "PROJECT": "web-app",
        }.items():
            text = text.replace(example, real)
        return text

    def run(self, commands: str, environ: dict[str, str]) -> None:
        for name in TOOLS:
            if re.search(rf"(?<![\w.-]){name} ", commands) and not (self._programs / name).exists():
                (self._programs / name).symlink_to(self._tool_dir(TOOLS[name]) / name)
        out = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", self.localized(commands)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self.here,
            env=environ,
            timeout=300,
            check=False,
        )
        assert out.returncode == 0, f"{commands}\n{out.stdout}"

    def serve(self, commands: str) -> contextlib.AbstractContextManager[Any]:
        """Run all `commands` but the last, a server that runs until the block ends."""
        setup, _, server = commands.rpartition("&& ")
        # Only this step installs from a package index: the one this machine is configured for.
        self.run(setup.strip().removesuffix("\\"), {**os.environ, **self.settings()})
        first, *rest = shlex.split(self.localized(server))
        command = [str(self.here / first), *rest]
        return program(command, self.here / "log", self.client.url, **self.settings())

    def write(self, block: Block) -> None:
        """Append the text of `block` to the file that its fence names."""
        path = Path(block.note.replace("~", str(self.home)))
        path = path if path.is_absolute() else self.here / path
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write(self.localized(block.text))


def in_a_checkout(sandbox: Sandbox) -> None:
    shutil.copytree(ROOT, sandbox.here, ignore=shutil.ignore_patterns(".*", "build", "*.egg-info"))


def in_a_project(sandbox: Sandbox) -> None:
    sandbox.here.mkdir()
    for name, text in {"pyproject.toml": PROJECT, "requirements.in": "web-app\n"}.items():
        (sandbox.here / name).write_text(text)
    subprocess.run([sys.executable, "-m", "venv", sandbox.here / ".venv"], check=True)


def beside_a_server(sandbox: Sandbox) -> None:
    sandbox.here.mkdir()


@contextlib.contextmanager
def behind_tls(sandbox: Sandbox) -> Iterator[None]:
    """Put a TLS proxy in front of pytail; its authority is unknown, and in ``company-ca.pem``."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(sandbox.here / "company-ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)

    def relay(client: socket.socket, _: object) -> None:
        with client, socket.create_connection(sandbox.bind.split(":")) as server:
            pairs = (client, server), (server, client)
            gevent.joinall([gevent.spawn(copy, *pair) for pair in pairs])

    def copy(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    proxy = StreamServer(("127.0.0.1", 0), relay, ssl_context=context)
    proxy.start()
    sandbox.url = f"https://127.0.0.1:{proxy.server_port}"
    yield
    proxy.stop(timeout=0)


def machine_run(block: Block) -> tuple[dict[str, str], str]:
    """Return the variables and commands of a file for a CI system or a container engine."""
    variables, commands = {}, []
    if block.language == "dockerfile":
        lines = block.text.replace("\\\n", " ").splitlines()
        for word, _, rest in (line.partition(" ") for line in lines):
            if word in {"ARG", "ENV"}:
                variables.update(pair.split("=", 1) for pair in shlex.split(rest))
            elif word == "RUN":
                commands.append(re.sub(r"--\w+=\S+ ", "", rest))
        return variables, "\n".join(commands)

    def look(node: Any) -> None:
        for key, value in node.items() if isinstance(node, dict) else ():
            if key in {"env", "variables"}:
                variables.update(value)
            elif key in {"run", "script"}:
                commands.extend(value if isinstance(value, list) else [value])
            else:
                look(value)
        for value in node if isinstance(node, list) else ():
            look(value)

    look(yaml.safe_load(block.text))
    return variables, "\n".join(commands)


MACHINES = {"README.md": in_a_checkout, "docs/clients.md": in_a_project}


@contextlib.contextmanager
def served(sandbox: Sandbox, blocks: list[Block]) -> Iterator[None]:
    """Run a server during the block, unless the `blocks` start one."""
    if any(block.note == "serves" for block in blocks):
        yield
        return
    log = sandbox.home / "log"
    command = [sys.executable, "-m", "pytail"]
    with contextlib.ExitStack() as stack:
        stack.enter_context(program(command, log, sandbox.client.url, **sandbox.settings()))
        if any("company-ca.pem" in block.text for block in blocks):
            stack.enter_context(behind_tls(sandbox))
        yield


@pytest.mark.parametrize("section", sections())
def test_the_commands_of_a_section_succeed(
    section: str, tmp_path: Path, world: FakeIndex, tool_dir: Callable[[str], Path]
):
    document, blocks = section.partition(": ")[0], sections()[section]
    sandbox = Sandbox(tmp_path / "home", world, tool_dir)
    MACHINES.get(document, beside_a_server)(sandbox)
    with contextlib.ExitStack() as running:
        running.enter_context(served(sandbox, blocks))
        for block in blocks:
            if block.note == "serves":
                running.pop_all().close()
                running.enter_context(sandbox.serve(block.text))
            elif block.language in COMMANDS:
                sandbox.run(block.text, sandbox.environ())
            else:
                sandbox.write(block)
            if block.language in {"yaml", "dockerfile"}:
                variables, commands = machine_run(block)
                given = {name: sandbox.localized(value) for name, value in variables.items()}
                sandbox.run(commands, sandbox.environ() | given)
    # Otherwise the installed files came from another index.
    assert world.seen or document not in MACHINES
