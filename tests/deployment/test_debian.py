"""The commands of `docs/deploy.md` set up a Debian machine.

They run unchanged, in namespaces, over copies of the system's directories that the test drops. Four
things are not real: `apt-get` only looks whether the packages are installed; `systemctl` is a
stand-in, because systemd does not run here; HTTPS has another port; the upstream is a fake index.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deployment.conftest import PATH, ROOT, needed
from tests.support.fakeindex import FakeIndex, wheel
from tests.support.running import free_port

#: The title and the blocks of commands of each section with commands.
SECTIONS = [
    [part.partition("\n")[0], *blocks]
    for part in re.split(r"^##+ ", (ROOT / "docs" / "deploy.md").read_text(), flags=re.MULTILINE)
    if (blocks := re.findall(r"```sh\n(.*?)```", part, re.DOTALL))
]

APT_GET = """\
#!/bin/sh
test "$1" = update || dpkg --status $(printf '%s\\n' "$@" | grep -v -e install -e --) >/dev/null
"""

#: Mounts copies over the directories that the commands change.
MACHINE = """\
set -eu
mount -t tmpfs tmpfs {over}
mkdir {over}/saved
# Some machines have mounts of their own for the first two.
cp --dereference /etc/hosts /etc/resolv.conf {over}/saved
test ! -e /etc/pip.conf || cp /etc/pip.conf {over}/saved
for place in etc opt var usr/local; do
    mkdir -p {over}/$place.upper {over}/$place.work
    mount -t overlay overlay -o lowerdir=/$place,upperdir={over}/$place.upper,workdir={over}/$place.work /$place
done
mount -t tmpfs tmpfs /run
rm -f /etc/nginx/sites-enabled/*
cp --remove-destination {over}/saved/* /etc
echo '127.0.0.1 pytail.example.org' >> /etc/hosts
"""
#: Runs commands of a client without the configuration of this machine.
CLIENT = """\
(
export HOME={home}
unset ${{!PIP_*}} ${{!UV_*}} ${{!SSL_CERT_*}} REQUESTS_CA_BUNDLE CURL_CA_BUNDLE
{commands})
rm -f /etc/pip.conf
test ! -e {over}/saved/pip.conf || cp {over}/saved/pip.conf /etc
"""
INSTALL_AGAIN = "uv pip install --no-cache --reinstall --python ~/second/bin/python iniconfig\n"


@pytest.fixture
def stand_ins(tmp_path: Path) -> Path:
    """A directory with the stand-ins, to be first in PATH."""
    directory = tmp_path / "stand-ins"
    directory.mkdir()
    (directory / "apt-get").write_text(APT_GET)
    systemctl = Path(__file__).with_name("systemctl.py")
    (directory / "systemctl").write_text(f'#!/bin/sh\nexec {sys.executable} {systemctl} "$@"\n')
    for path in directory.iterdir():
        path.chmod(0o755)
    (directory / "uv").symlink_to(Path(sys.executable).with_name("uv"))
    return directory


@pytest.mark.clients
def test_the_commands_of_deploy_md_set_up_a_machine(
    tmp_path: Path, checkout: Path, stand_ins: Path, index: FakeIndex
):
    for program in ("nginx", "systemd-analyze", "openssl", "unshare", "dpkg"):
        needed(program)
    isolated = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if os.getuid() != 0 or subprocess.run([*isolated, "true"], check=False).returncode != 0:
        pytest.skip("this machine does not let the test have namespaces")
    dist = wheel("iniconfig", "2.0", payload=bytes(range(256)) * 100)
    index.add(dist)
    port = free_port()
    for name in ("nginx.conf", "pip.conf", "uv.toml"):
        path = checkout / "conf" / name
        text = path.read_text().replace("listen 443", f"listen 127.0.0.1:{port}")
        text = text.replace("    listen [::]:443 ssl http2;\n", "")
        path.write_text(text.replace("//pytail.example.org/", f"//pytail.example.org:{port}/"))
    over = tmp_path / "over"
    over.mkdir()
    script = MACHINE.format(over=over) + "set -x\n"
    for title, *blocks in SECTIONS:
        commands = "".join(blocks)
        if title == "A client":
            commands = CLIENT.format(home=tmp_path, over=over, commands=commands)
        script += commands
    # Installs once more, after the last section.
    script += CLIENT.format(home=tmp_path, over=over, commands=INSTALL_AGAIN)
    script += "cat /var/log/pytail.log /var/log/nginx/error.log\n"
    (tmp_path / "script").write_text(script)
    environ = {"PATH": f"{stand_ins}:/usr/bin:/bin:{PATH}", "PYTAIL_UPSTREAM_BASE_URL": index.url}
    out = subprocess.run(
        [*isolated, "bash", str(tmp_path / "script")],
        cwd=checkout,
        env={**os.environ, **environ, "PYTHONDEVMODE": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=400,
        check=False,
    )
    assert out.returncode == 0, out.stdout
    assert re.search(r"^hits +[1-9]\d\.\d% of \d+ requests", out.stdout, re.MULTILINE)
    assert index.count(dist.path) == 1
    assert "Booting worker" in out.stdout
    assert not re.search(r"\[(warn|error|crit|alert|emerg)\]|Traceback| ERROR ", out.stdout)
