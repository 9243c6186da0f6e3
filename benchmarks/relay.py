"""``relay.py PORT UPSTREAM_PORT SECONDS``: makes upstream seem far away.

It listens on one port of the loopback interface and passes on to another. What a client sends is held
back for some time, so that each request takes that much longer; answers pass as they come.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from functools import partial

_PIECE = 256 * 1024


async def relay(port: int, upstream: int, delay: float) -> None:
    """Listen until cancelled."""
    server = await asyncio.start_server(partial(_pair, upstream, delay), "127.0.0.1", port)
    async with server:
        await server.serve_forever()


async def _pair(
    upstream: int, delay: float, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    # A connection costs a way there and back as well.
    await asyncio.sleep(delay)
    there, back = await asyncio.open_connection("127.0.0.1", upstream)
    await asyncio.gather(_copy(reader, back, delay), _copy(there, writer, 0))


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter, delay: float) -> None:
    with contextlib.suppress(ConnectionError):
        while piece := await source.read(_PIECE):
            await asyncio.sleep(delay)
            target.write(piece)
            await target.drain()
    target.close()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(relay(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
