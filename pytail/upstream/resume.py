"""A file's bytes from upstream, taken up again where the connection broke.

What was passed on stays passed on: the rest is asked for from where it broke off, and where upstream
can only begin anew, what came before is skipped. Whether the whole is right its digest tells in the
end; a file without one is only continued where upstream vouches, by its ETag, that it is the same.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from typing import Protocol

import gevent
from gevent.queue import Queue

from pytail.errors import UpstreamError, UpstreamRefused, UpstreamUnreachable
from pytail.model import File
from pytail.upstream.client import Upstream, UpstreamFile

log = logging.getLogger("pytail.upstream")

#: Seconds before each further attempt; bytes that come in between begin the count anew.
PAUSES = (0.1, 0.5, 1.0, 2.0)
#: Pieces that are read before those that came before them were worked on.
_AHEAD = 1
#: Statuses below 500 that may be others in a moment.
_PASSING = frozenset({408, 425, 429})


class Source(Protocol):
    """Where the bytes of a file come from."""

    #: Bytes of the whole file, None when nobody says.
    size: int | None
    #: The strong validator of the file, None when there is none.
    etag: str | None

    def read(self) -> bytes:
        """The bytes that have arrived, waiting for the first; empty at the end."""

    def close(self) -> None:
        """Drop the connection."""


class ResumingSource:
    """A source that survives its connection."""

    def __init__(
        self,
        file: File,
        ask: Callable[[int, str | None], UpstreamFile],
        start: int,
        stop: int | None,
        etag: str | None = None,
    ) -> None:
        """`ask` gives a transfer from an offset on, or from before it, of the file with an ETag.

        `start` and `stop` are the bytes wanted of the file, `stop` None to the end. Raises what
        `ask` raises.
        """
        self._file, self._ask = file, ask
        self._position, self._stop, self._attempts = start, stop, 0
        self._transfer = ask(start, etag)
        self.size, self.etag = self._transfer.size, self._transfer.etag
        # Where in the file the transfer stands; before the position where it had to begin anew.
        self._offset = self._transfer.start

    @classmethod
    def whole(
        cls, upstream: Upstream, file: File, start: int = 0, etag: str | None = None
    ) -> ResumingSource:
        """The file from `start` on, of that strong `etag` (None: any). Raises an UpstreamError."""

        def ask(position: int, etag: str | None) -> UpstreamFile:
            # What is small takes its turn among what is.
            kind = "page" if file.is_sidecar else "file"
            return upstream.file(file.url, position, etag=etag, size=file.size, kind=kind)

        return cls(file, ask, start, None, etag)

    @classmethod
    def part(
        cls, upstream: Upstream, file: File, start: int, stop: int, size: int
    ) -> ResumingSource:
        """The bytes from `start` to before `stop` of the file, of `size` in all.

        Raises UpstreamWithoutRanges or another UpstreamError.
        """

        def ask(position: int, _: str | None) -> UpstreamFile:
            return upstream.range(file.url, position, stop, size)

        return cls(file, ask, start, stop)

    def read(self) -> bytes:
        """The bytes that have arrived, waiting for the first; empty at the end.

        Raises UpstreamUnreachable when it broke too often.
        """
        while True:
            try:
                data = self._next()
            except UpstreamUnreachable as error:
                self._take_up(error)
                continue
            self._position += len(data)
            self._attempts = 0 if data else self._attempts
            return data

    def close(self) -> None:
        """Drop the connection."""
        self._transfer.close()

    def _next(self) -> bytes:
        ends = (self._stop, self.size, self._position)
        end = next(end for end in ends if end is not None)
        while True:
            data = self._transfer.read()
            if not data and self._offset < end:
                reason = f"ended after {self._offset} of {end} bytes"
                raise UpstreamUnreachable(self._file.url, reason)
            self._offset += len(data)
            if not data or self._offset > self._position:
                return data[-(self._offset - self._position) :]
            # Skipping what a fast upstream sends never waits; others want their turn.
            gevent.sleep(0)

    def _take_up(self, trouble: UpstreamUnreachable) -> None:
        """Go on where it broke, or raise `trouble`."""
        self._transfer.close()
        while self._attempts < len(PAUSES):
            gevent.sleep(PAUSES[self._attempts])
            self._attempts += 1
            where = self._position
            log.warning("%s: asking again from %d: %s", self._file.key, where, trouble)
            try:
                if self._resume():
                    return
            except UpstreamError as error:
                log.debug("%s: %s", self._file.key, error)
                if _is_final(error):
                    break
        raise trouble

    def _resume(self) -> bool:
        rest = self._ask(self._position, self.etag)
        is_same = self._file.hashes or (self.etag and rest.etag == self.etag)
        if not is_same or (self.size is not None and rest.size not in (None, self.size)):
            rest.close()
            return False
        self._transfer, self._offset = rest, rest.start
        return True


def read_ahead(source: Source) -> Generator[list[bytes], None, None]:
    """What `source` gives, read on while what came before is worked on: all that came meanwhile.

    Raises what its `read` raises. To be closed before the source is.
    """
    pieces: Queue[bytes | BaseException] = Queue(_AHEAD)

    def read() -> None:
        last: bytes | BaseException = b""
        try:
            while data := source.read():
                pieces.put(data)
        except gevent.GreenletExit:
            return
        except BaseException as error:  # noqa: BLE001
            # Whoever waits for the next piece learns of it.
            last = error
        pieces.put(last)

    reading = gevent.spawn(read)
    try:
        while True:
            some = [pieces.get()]
            while not pieces.empty():
                some.append(pieces.get())
            found = [piece for piece in some if piece and isinstance(piece, bytes)]
            if found:
                yield found
            if isinstance(some[-1], BaseException):
                raise some[-1]
            if not some[-1]:
                return
    finally:
        reading.kill()


def _is_final(error: UpstreamError) -> bool:
    if not isinstance(error, UpstreamRefused):
        return False
    return error.status < 500 and error.status not in _PASSING
