"""Real pip and uv install through nginx, TLS and a prefix, with the configuration of `conf/`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.clients.conftest import INSTALLED, WORLD, Machine
from tests.deployment.conftest import CONF, Site, replaced
from tests.support.fakeindex import FakeIndex

pytestmark = pytest.mark.clients

INDEX = "https://pytail.example.org/pypi/simple/"
PYTHON = [sys.executable, "-m"]
INSTALL = {
    "pip": [*PYTHON, "pip", "install", "--disable-pip-version-check", "--no-cache-dir"],
    "uv": [*PYTHON, "uv", "pip", "install", "--no-cache", "--python", sys.executable],
}


def configure(home: Path, site: Site) -> dict[str, str]:
    """Write `pip.conf` and `uv.toml` to `home`; return the environment for a client."""
    urls = {INDEX: f"{site.url}/simple/"}
    trusted = {"/etc/ssl/certs/ca-certificates.crt": str(site.tls.ca)}
    (home / "pip.conf").write_text(replaced((CONF / "pip.conf").read_text(), urls | trusted))
    (home / "uv").mkdir()
    (home / "uv" / "uv.toml").write_text(replaced((CONF / "uv.toml").read_text(), urls))
    return {
        "PIP_CONFIG_FILE": str(home / "pip.conf"),
        "XDG_CONFIG_HOME": str(home),
        # uv reads it as the authorities of the system.
        "SSL_CERT_FILE": str(site.tls.ca),
        "REQUESTS_CA_BUNDLE": "",
        "CURL_CA_BUNDLE": "",
    }


@pytest.mark.parametrize("site", ["/pypi"], indirect=True)
@pytest.mark.parametrize("tool", INSTALL)
def test_a_second_machine_installs_without_upstream(
    tmp_path: Path, site: Site, index: FakeIndex, tool: str
):
    index.add(*WORLD)
    for name in ("first", "second"):
        client = Machine(tmp_path / name)
        environ = configure(client.home, site)
        client.run(*INSTALL[tool], "--target", str(client.site), "web-app", **environ)
        assert client.installed() == INSTALLED
        index.stop()
