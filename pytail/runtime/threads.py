"""Work off the gevent hub: parsing, rendering, compressing, hashing and waiting for the disk.

While such work runs in a thread, the greenlet that wants it waits and all others go on.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TypeVar

import gevent
from gevent.threadpool import ThreadPool

Result = TypeVar("Result")

#: Host names looked up at once.
_LOOKUPS = 10
#: Seconds that a thread computes on while others wait.
_TURN = 0.0005


def off_loop(work: Callable[[], Result], pool: ThreadPool | None = None) -> Result:
    """What `work` returns or raises, run on `pool` (None: the hub's own) while others go on."""
    # Not `pool or`: a pool with nothing to do is false.
    threads = gevent.get_hub().threadpool if pool is None else pool
    try:
        error, result = threads.apply(_outcome, (work,))
    except RuntimeError as refusal:
        if "interpreter shutdown" not in str(refusal):
            raise
        # The process ends: from Python 3.12 on no thread begins any more, and nobody waits for it.
        raise gevent.GreenletExit from None
    if error is not None:
        raise error
    return result  # type: ignore[no-any-return]


def use_resolver_threads() -> None:
    """Give the looking up of host names threads of its own.

    A name server that is silent takes up a thread for half a minute, and nothing else must wait for
    that.
    """
    hub = gevent.get_hub()
    if getattr(hub.resolver, "pool", None) is hub.threadpool:
        hub.resolver.pool = ThreadPool(_LOOKUPS)


def give_way() -> None:
    """Let the other greenlets go on that can."""
    gevent.sleep(0)


def shorten_switch_interval() -> None:
    """Let threads that compute hand over to the hub in half a millisecond, not in five.

    A small request takes the hub some rounds, and in each it waits that long while a page is read.
    """
    sys.setswitchinterval(_TURN)


def _outcome(work: Callable[[], Result]) -> tuple[BaseException | None, Result | None]:
    # Raised in the thread, gevent would also print it.
    try:
        return None, work()
    except BaseException as error:  # noqa: BLE001
        return error, None
