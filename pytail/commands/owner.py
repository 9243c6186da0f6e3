"""Acts as the owner of the cache directory where root runs pytail.

A server that runs as that owner cannot use files that root leaves there.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import pwd
from dataclasses import dataclass
from pathlib import Path

import gevent

import pytail
from pytail.errors import Remedy, SettingError

log = logging.getLogger("pytail.commands")

#: Files that the owner has to read: a process loads some modules only when it needs them.
_CODE = tuple(Path(module.__file__ or "") for module in (pytail, gevent, os))


@dataclass(frozen=True, slots=True)
class User:
    """A user with its groups; `home` is None for an id without an account."""

    name: str
    uid: int
    gid: int
    groups: list[int]
    home: str | None

    @classmethod
    def of(cls, status: os.stat_result) -> User:
        """Return the owner of the file with that `status`."""
        try:
            account = pwd.getpwuid(status.st_uid)
        except KeyError:
            return cls(str(status.st_uid), status.st_uid, status.st_gid, [], None)
        groups = os.getgrouplist(account.pw_name, account.pw_gid)
        return cls(account.pw_name, account.pw_uid, account.pw_gid, groups, account.pw_dir)


def act_as_owner(directory: Path, *, is_required: bool = True) -> None:
    """Change the user of this process to the owner of `directory`, where root runs it.

    The nearest parent counts where `directory` is missing. Nothing changes for another user, or in a
    directory of root. Raises SettingError where the owner cannot read pytail or the directory, or
    where the process may not change its user; the latter only if the change `is_required`.
    """
    existing, status = _existing(directory)
    if os.geteuid() != 0 or status.st_uid == 0:
        return
    owner = User.of(status)
    try:
        _become(owner, existing)
    except OSError as error:
        if error.errno == errno.EPERM and not is_required:
            return
        remedy = Remedy.OWNER_NOT_USABLE.format(owner=owner.name, reason=error)
        raise SettingError("cache directory", directory, remedy) from error
    log.info("acting as %s, the owner of %s", owner.name, existing)


def _existing(directory: Path) -> tuple[Path, os.stat_result]:
    """Return `directory`, or its nearest parent that exists, and its status."""
    for path in (directory.absolute(), *directory.absolute().parents):
        with contextlib.suppress(OSError):
            return path, path.stat()
    raise SettingError("cache directory", directory, Remedy.DIRECTORY_UNKNOWN)


def _become(owner: User, directory: Path) -> None:
    """Change user and groups for the whole process, for good. Raises OSError and changes nothing."""
    gid, groups = os.getegid(), os.getgroups()
    os.setgroups(owner.groups)
    try:
        os.setegid(owner.gid)
        os.seteuid(owner.uid)
        try:
            _require_readable(directory)
        finally:
            os.seteuid(0)
    except OSError:
        os.setegid(gid)
        os.setgroups(groups)
        raise
    os.setresgid(owner.gid, owner.gid, owner.gid)
    os.setresuid(owner.uid, owner.uid, owner.uid)
    if owner.home is not None:
        # For netrc.
        os.environ["HOME"] = owner.home


def _require_readable(directory: Path) -> None:
    """Raise OSError where the effective user may not read `directory` or the code of pytail."""
    os.scandir(directory).close()
    for path in _CODE:
        path.open("rb").close()
