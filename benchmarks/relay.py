"""``relay.py PORT UPSTREAM_PORT SECONDS``: adds latency to an upstream on loopback.

It forwards connections from one port to the other. Bytes from clients are delayed, so that each
request takes that much longer. Bytes from upstream are not delayed.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from functools import partial

_CHUNK = 256 * 1024


async def relay(port: int, upstream: int, delay: float) -> None:
    """Forward connections until cancelled; `delay` is in seconds."""
    server = await asyncio.start_server(partial(_pair, upstream, delay), "127.0.0.1", port)
    async with server:
        await server.serve_forever()


async def _pair(
    upstream: int, delay: float, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    # Opening a connection takes one round trip too.
    await asyncio.sleep(delay)
    there, back = await asyncio.open_connection("127.0.0.1", upstream)
    await asyncio.gather(_copy(reader, back, delay), _copy(there, writer, 0))


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter, delay: float) -> None:
    with contextlib.suppress(ConnectionError):
        while chunk := await source.read(_CHUNK):
            await asyncio.sleep(delay)
            target.write(chunk)
            await target.drain()
    target.close()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(relay(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
