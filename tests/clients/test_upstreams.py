"""pip and uv install through pytail from real servers, by several spellings of the root."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pytail.config.values import upstream_base_url
from tests.clients.conftest import INSTALLED, WORLD, Machine
from tests.support.fakeindex import JSON, FakeIndex
from tests.support.running import clean_environ, file_path, free_port, program, serving

pytestmark = pytest.mark.clients

#: Without the files that only the page of an index keeps from being installed.
SERVED = [dist for dist in WORLD if not dist.extra]
#: The paths by which an operator may name the root of each server.
SPELLINGS = {
    "devpi": ["/root/dev/+simple/", "/root/dev/+simple", "/root/dev", "/root/dev/"],
    "http.server": ["/simple/", "/simple", ""],
    "http.server without simple": ["/", "", "//"],
    "proxpi": ["/index/", "/index"],
    "pypiserver": ["/simple/", "/simple", "", "/"],
    "pytail": ["/simple/", "", "/root/pypi/+simple/", "/root/pypi"],
    "simple-repository-server": ["/simple/", "/simple", ""],
}
CASES = [(server, path) for server, paths in SPELLINGS.items() for path in paths]


@dataclasses.dataclass
class Place:
    """Where a server is to run."""

    home: Path
    port: int
    #: Returns the directory of a program that is no dependency of the tests.
    tool_dir: Callable[[str], Path]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def run(self, *command: str | Path, **environ: str) -> Any:
        return program(list(map(str, command)), self.home / "log", self.url, **environ)

    def files(self, name: str, *, by_project: bool) -> Path:
        """Return a new directory with all files."""
        for dist in SERVED:
            path = self.home / name / (dist.project if by_project else "") / dist.filename
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(dist.data)
        return self.home / name


@contextlib.contextmanager
def devpi(place: Place) -> Iterator[None]:
    tools, home = place.tool_dir("devpi"), place.home / "server"
    environ = clean_environ(HOME=str(place.home), PIP_CONFIG_FILE="/dev/null")
    subprocess.run(
        [tools / "devpi-init", "--serverdir", home, "--no-root-pypi"], check=True, env=environ
    )
    with place.run(tools / "devpi-server", "--serverdir", home, "--port", str(place.port)):
        for command in (
            ["use", place.url],
            ["login", "root", "--password="],
            ["index", "-c", "root/dev", "bases="],
            ["use", "root/dev"],
            ["upload", *place.files("uploads", by_project=False).iterdir()],
        ):
            subprocess.run([tools / "devpi", *command], check=True, env=environ)
        yield


def http_server(place: Place) -> Any:
    directory = place.files("tree/simple", by_project=True).parent
    return _http_server(place, directory)


def http_server_without_simple(place: Place) -> Any:
    return _http_server(place, place.files("tree", by_project=True))


def _http_server(place: Place, directory: Path) -> Any:
    command = [sys.executable, "-m", "http.server", str(place.port), "--bind", "127.0.0.1"]
    return place.run(*command, "--directory", directory)


@contextlib.contextmanager
def proxpi(place: Place) -> Iterator[None]:
    with FakeIndex() as index:
        index.add(*SERVED)
        flask = place.tool_dir("proxpi") / "flask"
        command = [flask, "--app", "proxpi.server", "run", "-p", str(place.port)]
        with place.run(*command, PROXPI_INDEX_URL=f"{index.url}/simple/"):
            yield


def pypiserver(place: Place) -> Any:
    command = place.tool_dir("pypiserver") / "pypi-server"
    options = ["--disable-fallback", "-i", "127.0.0.1", "-p", str(place.port)]
    return place.run(command, "run", *options, place.files("packages", by_project=False))


@contextlib.contextmanager
def pytail(place: Place) -> Iterator[None]:
    with FakeIndex() as index:
        index.add(*SERVED)
        command = [sys.executable, "-m", "pytail", "--bind", f"127.0.0.1:{place.port}"]
        options = ["--cache-dir", place.home / "cache", "--upstream-base-url", index.url]
        with place.run(*command, *options):
            yield


def simple_repository_server(place: Place) -> Any:
    command = place.tool_dir("simple-repository-server") / "simple-repository-server"
    options = ["--host", "127.0.0.1", "--port", str(place.port)]
    return place.run(command, *options, place.files("tree", by_project=True))


SERVERS = {
    "devpi": devpi,
    "http.server": http_server,
    "http.server without simple": http_server_without_simple,
    "proxpi": proxpi,
    "pypiserver": pypiserver,
    "pytail": pytail,
    "simple-repository-server": simple_repository_server,
}


@pytest.fixture(scope="module")
def start_server(
    tmp_path_factory: pytest.TempPathFactory, tool_dir: Callable[[str], Path]
) -> Iterator[Callable[[str], str]]:
    """Return a function that starts a server, once, and returns its URL."""
    urls: dict[str, str] = {}
    with contextlib.ExitStack() as running:

        def start(name: str) -> str:
            if name not in urls:
                home = tmp_path_factory.mktemp(name.replace(" ", "-"))
                place = Place(home, free_port(), tool_dir)
                running.enter_context(SERVERS[name](place))
                urls[name] = place.url
            return urls[name]

        yield start


@pytest.mark.parametrize(("server", "path"), CASES)
def test_pip_and_uv_install_from_a_real_server(
    server: str,
    path: str,
    start_server: Callable[[str], str],
    tmp_path: Path,
    machine: Callable[[], Machine],
    install: Callable[..., None],
):
    upstream = upstream_base_url(start_server(server) + path)
    with serving(tmp_path / "cache", upstream) as client:
        machine_ = machine()
        install(machine_, f"{client.url}/simple/", "web-app")
        assert machine_.installed() == INSTALLED


@pytest.mark.parametrize(("server", "path"), CASES)
def test_pages_and_files_of_a_real_server_are_served(
    server: str, path: str, start_server: Callable[[str], str], tmp_path: Path
):
    upstream = upstream_base_url(start_server(server) + path)
    with serving(tmp_path / "cache", upstream) as client:
        # The first request is for a project that upstream does not have.
        assert client.get("/simple/no-such-project/").status == 404
        for dist in SERVED:
            entries = {entry["filename"]: entry for entry in client.json(dist.project)["files"]}
            entry = entries[dist.filename]
            assert entry["hashes"].get("sha256", dist.sha256) == dist.sha256
            assert entry.get("size", len(dist.data)) == len(dist.data)
            data = client.get(file_path(entry)).data
            assert hashlib.sha256(data).hexdigest() == dist.sha256
            if "core-metadata" in entry:
                assert client.get(f"{file_path(entry)}.metadata").data == dist.metadata
        listed = client.get("/simple/", Accept=JSON).json()["projects"]
        assert {project["name"] for project in listed} == {dist.project for dist in SERVED}


def test_a_server_of_another_kind_is_no_index(start_server: Callable[[str], str], tmp_path: Path):
    # The page of proxpi for people, above its index.
    with serving(tmp_path / "cache", start_server("proxpi")) as client:
        answer = client.get("/simple/web-app/")
        assert answer.status == 502
        assert "is no index: asked " in answer.json()["detail"]
