"""Runs work outside of the event loop, in threads: parsing, compressing, hashing, disk access."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TypeVar

import gevent
from gevent.threadpool import ThreadPool

Result = TypeVar("Result")

#: Host names resolved at a time.
_RESOLVER_THREADS = 10
#: Seconds after which a computing thread yields the GIL to a waiting one; Python's default is 0.005.
_SWITCH_INTERVAL = 0.0005


def off_loop(work: Callable[[], Result], pool: ThreadPool | None = None) -> Result:
    """Run `work` in a thread, and return its result or raise its error.

    Other greenlets run meanwhile. `pool` is a thread pool, None for the event loop's own.
    """
    # Not `pool or ...`: a pool without tasks is false.
    threads = gevent.get_hub().threadpool if pool is None else pool
    try:
        error, result = threads.apply(outcome, (work,))
    except RuntimeError as refusal:
        if "interpreter shutdown" not in str(refusal):
            raise
        # Since Python 3.12 no thread starts while the interpreter shuts down.
        raise gevent.GreenletExit from None
    if error is not None:
        try:
            raise error
        finally:
            # Else error and frame refer to each other, and their descriptors stay open until the
            # garbage collector runs.
            del error
    return result  # type: ignore[no-any-return]


def use_resolver_threads() -> None:
    """Resolve host names in threads of their own.

    A name server that does not respond blocks a thread for half a minute.
    """
    hub = gevent.get_hub()
    if getattr(hub.resolver, "pool", None) is hub.threadpool:
        hub.resolver.pool = ThreadPool(_RESOLVER_THREADS)


def give_way() -> None:
    """Let other greenlets run."""
    gevent.sleep(0)


def shorten_switch_interval() -> None:
    """Let computing threads yield the GIL to the event loop after half a millisecond, not five.

    A small request takes several rounds of the event loop. While a thread parses a page, each round
    waits for that interval.
    """
    sys.setswitchinterval(_SWITCH_INTERVAL)


def outcome(work: Callable[[], Result]) -> tuple[BaseException | None, Result | None]:
    """Return the error of `work`, or None and its result.

    gevent prints errors that its threads and greenlets raise, so they are returned.
    """
    try:
        return None, work()
    except BaseException as error:  # noqa: BLE001
        return error, None
