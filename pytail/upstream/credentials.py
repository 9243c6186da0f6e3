"""Credentials for upstream: from its URL, else from netrc, which may change while pytail runs."""

from __future__ import annotations

import base64
import logging
import netrc
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias
from urllib.parse import SplitResult, unquote

from pytail.runtime.threads import off_loop

log = logging.getLogger("pytail.upstream")

#: Seconds between two looks at the netrc file.
_INTERVAL = 1.0
#: Time of modification in nanoseconds, size and inode of a file; None: there is no file.
_Identity: TypeAlias = tuple[int, int, int] | None


def credentials_in(parts: SplitResult, header: str = "Authorization") -> dict[str, str]:
    """Return the `header` for the credentials in a URL; empty where it has none (RFC 7617)."""
    if parts.username is None and parts.password is None:
        return {}
    return {header: _basic(unquote(parts.username or ""), unquote(parts.password or ""))}


def _basic(user: str | None, password: str | None) -> str:
    pair = f"{user or ''}:{password or ''}"
    # urllib3.util.make_headers encodes latin-1 only.
    return f"Basic {base64.b64encode(pair.encode()).decode()}"


class Netrc:
    """The credentials of one host in a netrc file, read again when the file changes."""

    def __init__(self, environ: Mapping[str, str], host: str, interval: float = _INTERVAL) -> None:
        """`environ` names the file by NETRC, or the directory of ``.netrc`` by HOME.

        The file is looked at every `interval` seconds at most.
        """
        self._host, self._named = host, environ.get("NETRC")
        self._path = _path(environ)
        self._headers: dict[str, str] = {}
        self._identity: _Identity = None
        self._interval, self._look_at = interval, time.monotonic() + interval
        self._is_broken = False
        # Not in a thread: a process that forks later, as gunicorn does, must have none.
        self._look(is_first=True)

    def headers(self) -> dict[str, str]:
        """Return the Authorization header; empty where the file has no entry for the host.

        While the file cannot be read, the credentials stay as they were.
        """
        now = time.monotonic()
        if self._path is not None and now >= self._look_at:
            self._look_at = now + self._interval
            off_loop(self._look)
        return self._headers

    def _look(self, *, is_first: bool = False) -> None:
        if self._path is None:
            return
        try:
            # Before reading: a change during that is seen with the next look.
            found = self._path.stat()
            identity: _Identity = (found.st_mtime_ns, found.st_size, found.st_ino)
        except OSError:
            identity = None
        if is_first or identity != self._identity:
            self._identity = identity
            self._read(self._path)

    def _read(self, path: Path) -> None:
        try:
            entry = netrc.netrc(path).authenticators(self._host)
        except (netrc.NetrcParseError, OSError, ValueError) as error:
            self._keep(path, error)
            return
        self._is_broken = False
        self._headers = {"Authorization": _basic(entry[0], entry[2])} if entry else {}

    def _keep(self, path: Path, error: Exception) -> None:
        if isinstance(error, FileNotFoundError) and not self._named:
            self._headers = {}
        elif not self._is_broken:
            self._is_broken = True
            # The message of a parse error may contain a password.
            reason = f"line {error.lineno}" if isinstance(error, netrc.NetrcParseError) else error
            log.warning("cannot read %s as netrc, using no new credentials of it: %s", path, reason)


def _path(environ: Mapping[str, str]) -> Path | None:
    try:
        return Path(environ.get("NETRC") or Path(environ.get("HOME") or Path.home(), ".netrc"))
    except RuntimeError:
        return None
