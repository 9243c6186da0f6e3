"""A file's bytes from upstream, taken up again where the connection broke.

What was passed on stays passed on: the rest is asked for from where it broke off, and where upstream
can only begin anew, what came before is skipped. Whether the whole is right its digest tells in the
end; a file without one is only continued where upstream vouches, by its ETag, that it is the same.
"""

from __future__ import annotations

import logging

import gevent

from pytail.errors import UpstreamError, UpstreamUnreachable
from pytail.model import File
from pytail.upstream import Transfer, Upstream

log = logging.getLogger(__name__)

#: Seconds before each further attempt; bytes that come in between begin the count anew.
PAUSES = (0.1, 0.5, 1.0, 2.0)


class ResumingTransfer:
    """A transfer that survives its connection; `size` and `read` are as a transfer's."""

    def __init__(self, upstream: Upstream, file: File) -> None:
        """Raises an UpstreamError when upstream does not begin."""
        self._upstream, self._file = upstream, file
        self._transfer = upstream.file(file.url)
        #: Bytes of the whole file; None when upstream does not say.
        self.size = self._transfer.size
        self._position, self._attempts = 0, 0

    def read(self) -> bytes:
        """The bytes that have arrived, waiting for the first; empty at the end.

        Raises UpstreamUnreachable when it broke too often.
        """
        while True:
            try:
                data = self._transfer.read()
            except UpstreamUnreachable as error:
                self._take_up(error)
                continue
            if data or self.size is None or self._position >= self.size:
                self._position += len(data)
                self._attempts = 0 if data else self._attempts
                return data
            reason = f"ended after {self._position} of {self.size} bytes"
            self._take_up(UpstreamUnreachable(self._file.url, reason))

    def close(self) -> None:
        """Drop the connection."""
        self._transfer.close()

    def _take_up(self, trouble: UpstreamUnreachable) -> None:
        """Go on where it broke, or raise `trouble`."""
        self._transfer.close()
        while self._attempts < len(PAUSES):
            gevent.sleep(PAUSES[self._attempts])
            self._attempts += 1
            log.warning(
                "%s: asking again from %d: %s", self._file.location, self._position, trouble
            )
            try:
                transfer = self._rest()
                if transfer is not None:
                    self._transfer = transfer
                    return
            except UpstreamError as error:
                log.debug("%s: %s", self._file.location, error)
        raise trouble

    def _rest(self) -> Transfer | None:
        etag = self._transfer.etag
        rest = self._upstream.file(self._file.url, self._position, etag=etag, size=self.size)
        is_same = rest.size == self.size and (self._file.hashes or (etag and rest.etag == etag))
        if not is_same:
            rest.close()
            return None
        skipped = rest.start
        while skipped < self._position:
            data = rest.read(self._position - skipped)
            if not data:
                rest.close()
                return None
            skipped += len(data)
        return rest
