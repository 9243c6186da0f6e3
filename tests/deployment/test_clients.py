"""Real pip and uv install through nginx, TLS and a prefix, configured as `conf/` ships it."""

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


def configured(home: Path, site: Site) -> dict[str, str]:
    """The environment of a client that has both files."""
    places = {INDEX: f"{site.url}/simple/"}
    trusted = {"/etc/ssl/certs/ca-certificates.crt": str(site.tls.ca)}
    (home / "pip.conf").write_text(replaced((CONF / "pip.conf").read_text(), places | trusted))
    (home / "uv").mkdir()
    (home / "uv" / "uv.toml").write_text(replaced((CONF / "uv.toml").read_text(), places))
    return {
        "PIP_CONFIG_FILE": str(home / "pip.conf"),
        "XDG_CONFIG_HOME": str(home),
        # What this machine trusts, for uv.
        "SSL_CERT_FILE": str(site.tls.ca),
        "REQUESTS_CA_BUNDLE": "",
        "CURL_CA_BUNDLE": "",
    }


@pytest.mark.parametrize("site", ["/pypi"], indirect=True)
@pytest.mark.parametrize("tool", INSTALL)
def test_a_client_installs_cold_and_then_without_upstream(
    tmp_path: Path, site: Site, index: FakeIndex, tool: str
):
    index.add(*WORLD)
    for name in ("first", "second"):
        client = Machine(tmp_path / name)
        environ = configured(client.home, site)
        client.run(*INSTALL[tool], "--target", str(client.site), "web-app", **environ)
        assert client.installed() == INSTALLED
        index.stop()
