"""A stand-in for systemctl, for a machine on which systemd does not run.

It follows the unit of pytail in user, directories, environment, start and stop, and starts nginx as
Debian's unit does. Of the hardening, it sets NoNewPrivileges and MemoryDenyWriteExecute.
"""

import ctypes
import os
import pwd
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

UNITS = Path("/etc/systemd/system")
PID, JOURNAL = Path("/run/pytail.pid"), Path("/var/log/pytail.log")
NO_NEW_PRIVILEGES, DENY_WRITE_EXECUTE = 38, 65


def settings() -> dict[str, list[str]]:
    """Return the values of each key of the unit and its drop-ins; an empty value clears a key."""
    found: dict[str, list[str]] = {}
    for path in [UNITS / "pytail.service", *sorted(UNITS.glob("pytail.service.d/*.conf"))]:
        for key, value in re.findall(r"^(\w+)=(.*)$", path.read_text(), re.MULTILINE):
            found[key] = [*found.get(key, []), value] if value else []
    return found


def stop() -> None:
    if PID.exists():
        process = int(PID.read_text())
        os.kill(process, signal.SIGTERM)
        while Path(f"/proc/{process}/exe").exists():
            time.sleep(0.05)
        PID.unlink()


def start() -> None:
    unit = {key: values[-1] for key, values in settings().items() if values}
    user = pwd.getpwnam(unit["User"])
    assert unit["Group"] == unit["User"]
    for kind, parent in (("Runtime", "/run"), ("Cache", "/var/cache")):
        directory = Path(parent, unit[f"{kind}Directory"])
        directory.mkdir(exist_ok=True)
        directory.chmod(int(unit[f"{kind}DirectoryMode"], 8))
        os.chown(directory, user.pw_uid, user.pw_gid)

    def become() -> None:
        os.umask(int(unit["UMask"], 8))
        os.initgroups(user.pw_name, user.pw_gid)
        os.setgid(user.pw_gid)
        os.setuid(user.pw_uid)
        prctl = ctypes.CDLL(None).prctl
        assert unit["NoNewPrivileges"] == unit["MemoryDenyWriteExecute"] == "yes"
        prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0)
        # Kernels before 6.3 ignore the second one.
        prctl(DENY_WRITE_EXECUTE, 1, 0, 0, 0)

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0{os.getpid()}")
        manager.settimeout(60)
        environ = dict(line.split("=", 1) for line in settings().get("Environment", []))
        environ |= {key: value for key, value in os.environ.items() if key.startswith("PYTAIL_")}
        environ |= {"PATH": "/usr/bin:/bin", "NOTIFY_SOCKET": f"@{os.getpid()}"}
        with JOURNAL.open("a") as journal:
            process = subprocess.Popen(
                unit["ExecStart"].split(),
                cwd=unit["WorkingDirectory"],
                env=environ,
                preexec_fn=become,  # noqa: PLW1509
                stdout=journal,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        PID.write_text(str(process.pid))
        assert unit["Type"] == "notify"
        while b"READY=1" not in manager.recv(4096).splitlines():
            pass


def main(*words: str) -> None:
    match words:
        case ["daemon-reload"]:
            subprocess.run(["systemd-analyze", "verify", UNITS / "pytail.service"], check=True)
        case ["enable", "--now", "pytail"] | ["restart", "pytail"]:
            stop()
            start()
        case ["restart", "nginx"]:
            subprocess.run(["nginx", "-g", "daemon on; master_process on;"], check=True)
        case _:
            sys.exit(f"the stand-in for systemctl does not support {words}")


if __name__ == "__main__":
    main(*sys.argv[1:])
