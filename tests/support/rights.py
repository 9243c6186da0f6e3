"""Root without capabilities: a plain owner of its files, for whom owners and modes hold.

Root's capabilities hide most faults of files: root opens a file of mode 0. Other users may be unable
to read the Python that runs the tests, so these tests give up the capabilities and stay root.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator

import gevent

#: <linux/capability.h>
_VERSION_3, _CAP_SETPCAP = 0x20080522, 8
#: <linux/prctl.h> and <linux/securebits.h>
_PR_GET_SECUREBITS, _PR_SET_SECUREBITS, _SECBIT_NOROOT = 27, 28, 1


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint32) for name in ("effective", "permitted", "inheritable"))


#: The lower and the upper 32 capabilities.
_Capabilities = _Sets * 2
_LIBC = ctypes.CDLL(None, use_errno=True)


def has_capabilities() -> bool:
    """Return whether this thread has capabilities to give up and to take back."""
    return bool(os.geteuid() == 0 and _get()[0].effective >> _CAP_SETPCAP & 1)


@contextlib.contextmanager
def plain_owner() -> Iterator[None]:
    """Run the block, its threads and the programs that it starts without capabilities."""
    if not has_capabilities():
        yield
        return
    before, bits = _get(), _prctl(_PR_GET_SECUREBITS, 0)
    without = _get()
    for sets in without:
        sets.effective = sets.inheritable = 0
    # Else the kernel gives all capabilities to a program that root starts (capabilities(7)).
    _prctl(_PR_SET_SECUREBITS, bits | _SECBIT_NOROOT)
    _set(without)
    _end_threads()
    try:
        yield
    finally:
        _set(before)
        _prctl(_PR_SET_SECUREBITS, bits)
        _end_threads()


def _end_threads() -> None:
    # A thread gets the capabilities of the thread that starts it.
    gevent.get_hub().threadpool.size = 0


def _get() -> ctypes.Array[_Sets]:
    found = _Capabilities()
    _checked(_LIBC.capget(ctypes.byref(_Header(_VERSION_3, 0)), found))
    return found


def _set(capabilities: ctypes.Array[_Sets]) -> None:
    _checked(_LIBC.capset(ctypes.byref(_Header(_VERSION_3, 0)), capabilities))


def _prctl(option: int, value: int) -> int:
    return _checked(_LIBC.prctl(option, ctypes.c_ulong(value), 0, 0, 0))


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


#: The rights that tests of file faults run with: all of root's, and those of a plain owner.
RIGHTS = ("root", "owner") if has_capabilities() else ("owner",)
