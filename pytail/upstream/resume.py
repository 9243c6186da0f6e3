"""Reads a file from upstream, and requests the rest where the connection breaks.

The rest is requested from the last byte read on. Where upstream starts at 0 again, the bytes
already read are skipped. The caller verifies a file with a digest at its end. A file without one is
continued only where its strong ETag (RFC 9110, section 8.8.3) is still the same.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeAlias

import gevent

from pytail.errors import UpstreamError, UpstreamRefused, UpstreamUnreachable
from pytail.model import File, Validators
from pytail.runtime.threads import give_way
from pytail.upstream.files import FileClient, UpstreamFile

log = logging.getLogger("pytail.upstream")

#: Calls a request with the link that a file has now, and returns its result.
Follow: TypeAlias = Callable[[File, Callable[[str], UpstreamFile]], UpstreamFile]

#: Seconds before each further request; the count starts again with each byte read.
PAUSES = (0.1, 0.5, 1.0, 2.0, 2.0, 3.0)
#: Statuses below 500 after which the same request may succeed: timeout, too early, too many.
_TRANSIENT = frozenset({408, 425, 429})


def _directly(file: File, ask: Callable[[str], UpstreamFile]) -> UpstreamFile:
    return ask(file.url)


class ResumingSource:
    """A `Source` of bytes from upstream that continues after its connection breaks."""

    def __init__(
        self,
        file: File,
        request: Callable[[int, str | None], UpstreamFile],
        start: int,
        stop: int | None,
        etag: str | None = None,
    ) -> None:
        """The source reads `file` from `start` to before `stop`; None: to the end.

        `request` opens the file with a strong ETag (None: any) at an offset or before it. Raises
        what `request` raises.
        """
        self._file, self._request = file, request
        self._position, self._stop, self._attempts = start, stop, 0
        self._opened = request(start, etag)
        self.size, self.etag = self._opened.size, self._opened.etag
        #: What upstream says of the version of the file.
        self.validators: Validators | None = self._opened.validators
        self.is_delimited = self._opened.is_delimited
        # Offset of the next byte of the response; below `_position` where upstream started at 0.
        self._offset = self._opened.start

    @classmethod
    def open(
        cls,
        files: FileClient,
        file: File,
        start: int = 0,
        etag: str | None = None,
        *,
        follow: Follow = _directly,
    ) -> ResumingSource:
        """Open `file` from `start` on, with the strong `etag` (None: any).

        Raises an UpstreamError, or what `follow` raises.
        """

        def request(position: int, etag: str | None) -> UpstreamFile:
            # Small files share the slots of pages, so that large ones do not delay them.
            kind = "page" if file.is_sidecar else "file"
            return follow(file, lambda url: files.open(url, position, etag=etag, kind=kind))

        return cls(file, request, start, None, etag)

    @classmethod
    def open_range(
        cls,
        files: FileClient,
        file: File,
        start: int,
        stop: int,
        size: int,
        *,
        follow: Follow = _directly,
    ) -> ResumingSource:
        """Open the bytes from `start` to before `stop` of `file`, of `size` bytes in all.

        Raises UpstreamWithoutRanges, another UpstreamError, or what `follow` raises.
        """

        def request(position: int, _: str | None) -> UpstreamFile:
            return follow(file, lambda url: files.open_range(url, position, stop, size))

        return cls(file, request, start, stop)

    def read(self) -> bytes:
        """Return the bytes that have arrived, waiting for the first; empty at the end.

        Raises UpstreamUnreachable where the connection broke and no further request succeeded.
        """
        while True:
            try:
                data = self._next()
            except UpstreamUnreachable as error:
                self._continue(error)
                continue
            self._position += len(data)
            self._attempts = 0 if data else self._attempts
            return data

    def close(self) -> None:
        """Close the connection."""
        self._opened.close()

    def _next(self) -> bytes:
        ends = (self._stop, self.size, self._position)
        end = next(end for end in ends if end is not None)
        while True:
            data = self._opened.read()
            if not data and self._offset < end:
                reason = f"ended after {self._offset} of {end} bytes"
                raise UpstreamUnreachable(self._file.url, reason)
            self._offset += len(data)
            if not data or self._offset > self._position:
                return data[-(self._offset - self._position) :]
            # Skipping the bytes of a fast upstream never waits, so other greenlets would not run.
            give_way()

    def _continue(self, trouble: UpstreamUnreachable) -> None:
        """Open the rest of the file. Raises `trouble` where that fails."""
        self._opened.close()
        while self._attempts < len(PAUSES):
            gevent.sleep(PAUSES[self._attempts])
            self._attempts += 1
            log.warning(
                "%s broke off, requesting the rest from byte %d on: %s",
                self._file.key,
                self._position,
                trouble,
            )
            try:
                if self._is_reopened():
                    return
            except UpstreamError as error:
                log.debug("cannot request the rest of %s: %s", self._file.key, error)
                if _is_final(error):
                    break
        raise trouble

    def _is_reopened(self) -> bool:
        """Open the rest, and return whether it is of the same file."""
        rest = self._request(self._position, self.etag)
        is_same = self._file.hashes or (self.etag and rest.etag == self.etag)
        if not is_same or (self.size is not None and rest.size not in (None, self.size)):
            rest.close()
            return False
        self._opened, self._offset = rest, rest.start
        return True


def _is_final(error: UpstreamError) -> bool:
    if not isinstance(error, UpstreamRefused):
        return False
    return error.status < 500 and error.status not in _TRANSIENT
