"""nginx with the configuration of `conf/` in front of a pytail, on other ports and paths."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import trustme

from tests.support.fakeindex import FakeIndex
from tests.support.running import Client, free_port, serving

ROOT = Path(__file__).parents[2]
CONF = ROOT / "conf"
#: Debian leaves /usr/sbin out of the PATH of users other than root.
PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"

#: Debian's own nginx.conf, with paths below the current directory.
NGINX_CONF = """\
daemon off;
worker_processes 1;
pid nginx.pid;
error_log {directory}/error.log;
events {{ worker_connections 256; }}
http {{
    include /etc/nginx/mime.types;
    default_type text/plain;
    access_log {directory}/access.log;
    gzip on;
    client_body_temp_path client; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi; scgi_temp_path scgi;
    include {directory}/site.conf;
}}
"""


def needed(program: str) -> str:
    """Return the path of `program`. Without it, skip the test; in CI, fail it."""
    found = shutil.which(program, path=PATH)
    if found is None:
        reason = f"there is no {program}; apt-get install it"
        if "CI" in os.environ:
            pytest.fail(reason)
        pytest.skip(reason)
    return found


def replaced(text: str, replacements: dict[str, str]) -> str:
    """Return `text` with each key of `replacements` replaced. Asserts that all of them occur."""
    for old, new in replacements.items():
        assert old in text, old
        text = text.replace(old, new)
    return text


class Tls:
    """A certificate of the site with its key, its authority, and a context that trusts it."""

    def __init__(self, directory: Path) -> None:
        authority, self.context = trustme.CA(), ssl.create_default_context()
        authority.configure_trust(self.context)
        self.ca, self.cert, self.key = (directory / name for name in ("ca.pem", "cert.pem", "key"))
        authority.cert_pem.write_to_path(str(self.ca))
        issued = authority.issue_cert("localhost", "127.0.0.1", "pytail.example.org")
        issued.private_key_pem.write_to_path(str(self.key))
        self.cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))


class Site(Client):
    """Sends requests to nginx; a path is that of pytail, below the prefix of the site."""

    def __init__(self, url: str, tls: Tls, directory: Path) -> None:
        super().__init__(url)
        #: A client of the pytail behind nginx.
        self.behind = Client("")
        self.tls, self.directory = tls, directory
        self._parts = urlsplit(url)

    def connection(self) -> HTTPConnection:
        return HTTPSConnection(self._parts.netloc, timeout=20, context=self.tls.context)

    def open(self, method: str, path: str, *more: object) -> HTTPConnection:  # type: ignore[override]
        return super().open(method, self._parts.path + path, *more)  # type: ignore[arg-type]

    def log(self, name: str) -> str:
        return (self.directory / f"{name}.log").read_text()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the package and `conf/`."""
    copy = tmp_path / "checkout"
    unwanted = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("pytail", "conf"):
        shutil.copytree(ROOT / name, copy / name, ignore=unwanted)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    return copy


Start = Callable[..., contextlib.AbstractContextManager[Site]]


@pytest.fixture
def nginx(tmp_path: Path) -> Start:
    """Return a function that starts nginx with `conf/nginx.conf` in front of `backend`.

    Without `fails`, it asserts at the end that nginx has logged no warning and no error.
    """
    program = needed("nginx")

    @contextlib.contextmanager
    def starting(
        backend: str,
        cache_dir: Path,
        prefix: str = "/pypi",
        *,
        store: bool = False,
        fails: bool = False,
    ) -> Iterator[Site]:
        directory, port = tmp_path / "nginx", free_port()
        directory.mkdir()
        tls = Tls(directory)
        files = {"/var/cache/pytail/": f"{cache_dir}/"}
        site = {
            "server unix:/run/pytail/pytail.sock;": f"server {backend};",
            "listen 443 ssl http2;": f"listen 127.0.0.1:{port} ssl http2;",
            "listen [::]:443 ssl http2;": "",
            "/etc/ssl/pytail/cert.pem": str(tls.cert),
            "/etc/ssl/pytail/key.pem": str(tls.key),
            **files,
        }
        if prefix == "":
            site["location /pypi/ {"] = "location / {"
        if store:
            site["# include /etc/nginx/pytail-store.conf;"] = f"include {directory}/store.conf;"
            text = replaced((CONF / "nginx-store.conf").read_text(), files)
            (directory / "store.conf").write_text(text)
        (directory / "site.conf").write_text(replaced((CONF / "nginx.conf").read_text(), site))
        text = NGINX_CONF.format(directory=directory)
        if os.getuid() == 0:
            # Only root may read the directories of its tests.
            text = f"user root;\n{text}"
        (directory / "nginx.conf").write_text(text)
        command = [program, "-p", str(directory), "-c", "nginx.conf"]
        with (directory / "stderr.log").open("w") as stderr:
            process = subprocess.Popen(command, cwd=directory, stderr=stderr)
        try:
            _wait_for(process, port, directory)
            yield Site(f"https://localhost:{port}{prefix}", tls, directory)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(20)
        if fails:
            return
        levels = [f" [{level}] " for level in ("warn", "error", "alert", "emerg")]
        lines = (directory / "stderr.log").read_text() + (directory / "error.log").read_text()
        assert [line for line in lines.splitlines() if any(map(line.__contains__, levels))] == []

    return starting


def _wait_for(process: subprocess.Popen[bytes], port: int, directory: Path) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        assert process.poll() is None, (directory / "stderr.log").read_text()
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        time.sleep(0.02)
    raise AssertionError("nginx does not listen")


@pytest.fixture(params=["/pypi", ""], ids=["prefix", "root"])
def site(request: pytest.FixtureRequest, tmp_path: Path, index: FakeIndex, nginx: Start):
    """nginx in front of a pytail with `accel_redirect`."""
    cache = tmp_path / "cache"
    with (
        serving(cache, index.url, accel_redirect="/+held/") as pytail,
        nginx(pytail.url.removeprefix("http://"), cache, request.param) as running,
    ):
        running.behind, running.cache_dir = pytail, pytail.cache_dir
        yield running
