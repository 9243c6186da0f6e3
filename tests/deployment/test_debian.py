"""A Debian machine is set up by `docs/deploy.md`, word for word.

The commands run as they stand there, in namespaces of their own, over a copy of the system's
directories that is thrown away. Not real are `apt-get`, in whose stead it is looked whether the
packages are there; `systemctl` (see the stand-in), because systemd does not run where tests do; the
port of HTTPS, which may be taken; and the upstream.
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

#: Title and blocks of commands, of each section that has some.
SECTIONS = [
    [part.partition("\n")[0], *blocks]
    for part in re.split(r"^##+ ", (ROOT / "docs" / "deploy.md").read_text(), flags=re.MULTILINE)
    if (blocks := re.findall(r"```sh\n(.*?)```", part, re.DOTALL))
]

APT_GET = """\
#!/bin/sh
test "$1" = update || dpkg --status $(printf '%s\\n' "$@" | grep -v -e install -e --) >/dev/null
"""

#: A machine like this one, that forgets everything.
MACHINE = """\
set -eu
mount -t tmpfs tmpfs {over}
mkdir {over}/kept
# Some machines have mounts of their own for the first two.
cp --dereference /etc/hosts /etc/resolv.conf {over}/kept
test ! -e /etc/pip.conf || cp /etc/pip.conf {over}/kept
for place in etc opt var usr/local; do
    mkdir -p {over}/$place.upper {over}/$place.work
    mount -t overlay overlay -o lowerdir=/$place,upperdir={over}/$place.upper,workdir={over}/$place.work /$place
done
mount -t tmpfs tmpfs /run
rm -f /etc/nginx/sites-enabled/*
cp --remove-destination {over}/kept/* /etc
echo '127.0.0.1 pytail.example.org' >> /etc/hosts
"""
#: A client knows nothing but what it has been told.
CLIENT = """\
(
export HOME={home}
unset ${{!PIP_*}} ${{!UV_*}} ${{!SSL_CERT_*}} REQUESTS_CA_BUNDLE CURL_CA_BUNDLE
{commands})
rm -f /etc/pip.conf
test ! -e {over}/kept/pip.conf || cp {over}/kept/pip.conf /etc
"""
STILL_VALID = "uv pip install --no-cache --reinstall --python ~/second/bin/python iniconfig\n"


@pytest.fixture
def stand_ins(tmp_path: Path) -> Path:
    """A directory for the front of PATH."""
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
def test_a_machine_is_set_up_word_for_word(
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
    # Through what the last section has made of it.
    script += CLIENT.format(home=tmp_path, over=over, commands=STILL_VALID)
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
