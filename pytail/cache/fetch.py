"""Reads a source ahead of its consumer, so that network and disk work at the same time."""

from __future__ import annotations

from collections.abc import Generator

import gevent
from gevent.queue import Queue

from pytail.model import Source

#: Chunks that wait for the consumer; a further one waits for a place among them.
_AHEAD = 1


def read_ahead(source: Source) -> Generator[list[bytes], None, None]:
    """Yield the chunks of `source`, several where they arrived while the consumer was busy.

    Raises what `source.read` raises. Close the generator before `source`.
    """
    chunks: Queue[bytes | BaseException] = Queue(_AHEAD)

    def read() -> None:
        last: bytes | BaseException = b""
        try:
            while data := source.read():
                chunks.put(data)
        except gevent.GreenletExit:
            return
        except BaseException as error:  # noqa: BLE001
            # The consumer waits for a chunk and must not wait for ever.
            last = error
        chunks.put(last)

    reader = gevent.spawn(read)
    try:
        while True:
            some = [chunks.get()]
            while not chunks.empty():
                some.append(chunks.get())
            found = [chunk for chunk in some if chunk and isinstance(chunk, bytes)]
            if found:
                yield found
            if isinstance(some[-1], BaseException):
                raise some[-1]
            if not some[-1]:
                return
    finally:
        reader.kill()
