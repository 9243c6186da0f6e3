"""Ends a block of code after a time limit."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import gevent


@contextlib.contextmanager
def time_limit(seconds: float, error: Exception) -> Iterator[None]:
    """Run the block for at most `seconds`, then end it and raise `error`."""
    # Not `Timeout(seconds, error)`, which raises `error` inside of the block, where a handler of
    # `Exception` would catch it. A limit around this one is not confused with it.
    limit = gevent.Timeout(seconds)
    try:
        with limit:
            yield
    except gevent.Timeout as reached:
        if reached is not limit:
            raise
        raise error from None
