"""Fetches files of the upstream index, whole or in ranges, as the bytes they are stored as."""

from __future__ import annotations

from dataclasses import dataclass, replace

from urllib3 import BaseHTTPResponse
from urllib3.exceptions import HTTPError

from pytail.errors import (
    UpstreamGarbled,
    UpstreamRefused,
    UpstreamWithoutRanges,
)
from pytail.model import Validators
from pytail.telemetry.access import UpstreamWait
from pytail.telemetry.metrics import Metrics
from pytail.upstream.client import RANGE, Client, Exchange, discard
from pytail.upstream.headers import (
    content_length,
    content_range,
    is_chunked,
    strong_etag,
    validators,
)
from pytail.upstream.reasons import unreachable

#: Digests and sizes are those of the bytes without content coding.
_HEADERS = {"Accept-Encoding": "identity"}
#: Bytes read at once.
_CHUNK = 256 * 1024
#: Bytes of a file up to which `read_range` reads the whole where upstream sends no range.
_SMALL_FILE = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Piece:
    """The bytes `data` of a file of `size` bytes, from the offset `start` on."""

    start: int
    data: bytes
    size: int

    def bytes_of(self, start: int, stop: int) -> bytes | None:
        """Return the bytes from `start` to before `stop`; None where some are not in this piece."""
        first, last = start - self.start, stop - self.start
        return self.data[first:last] if 0 <= first <= last <= len(self.data) else None


class UpstreamFile:
    """The body of a response: bytes of a file, never decoded."""

    def __init__(
        self,
        response: BaseHTTPResponse,
        url: str,
        metrics: Metrics,
        exchange: Exchange,
    ) -> None:
        """`close` closes `exchange`."""
        self._response, self._url, self._metrics = response, url, metrics
        self._exchange = exchange
        #: Offset in the file of the first byte; -1 where a partial response does not say.
        self.start = 0
        #: Offset one behind the last byte; None where upstream does not say.
        self.stop = content_length(response.headers)
        #: Bytes of the whole file; None where upstream does not say.
        self.size = self.stop
        if response.status == 206:
            found = content_range(response.headers)
            self.start, self.stop, self.size = found or (-1, None, None)
        #: The strong validator of the file; None where there is none.
        self.etag = strong_etag(response.headers)
        #: What upstream says of the version of the file.
        self.validators = replace(validators(response.headers), size=self.size)
        #: Whether the end of the body is marked (RFC 9112, section 6.3), not just that of the connection.
        self.is_delimited = self.size is not None or is_chunked(response.headers)

    def read(self, size: int = _CHUNK) -> bytes:
        """Return the bytes that have arrived, up to `size` or 256 KiB; waits for the first.

        Empty at the end. Raises UpstreamUnreachable where the connection breaks or times out.
        """
        try:
            return self._exchange.wait(
                lambda: self._response.read1(min(size, _CHUNK), decode_content=False)
            )
        except (HTTPError, OSError) as error:
            self._metrics.count_upstream_error("cut")
            raise unreachable(self._url, error) from error

    def close(self) -> None:
        """Close the connection, unless the body was read to its end and the pool has it again."""
        self._response.close()
        self._exchange.close()


class FileClient:
    """Fetches files from any host."""

    def __init__(self, client: Client, max_range_bytes: int = 64 * 1024 * 1024) -> None:
        """`max_range_bytes` bounds the bytes that `read_range` reads."""
        self._client, self._max_range_bytes = client, max_range_bytes

    def open(
        self,
        url: str,
        start: int = 0,
        *,
        etag: str | None = None,
        size: int | None = None,
        kind: str = "file",
    ) -> UpstreamFile:
        """Open the file at `url` from `start` on, in a slot of `kind`.

        The result starts at 0 where upstream sends no ranges, or where the strong `etag` or the
        `size` of the file is another by now (None: any). Raises an UpstreamError.
        """
        if start:
            rest = self._open_rest(url, start, etag, kind)
            is_same = etag in (None, rest.etag) and size in (None, rest.size)
            if rest.stop == rest.size and (rest.start == 0 or (rest.start == start and is_same)):
                return rest
            rest.close()
        with self._client.exchange(url, kind) as exchange, self._client.attempt(exchange):
            return self._opened(exchange, self._request_whole(exchange))

    def open_range(self, url: str, start: int, stop: int, size: int) -> UpstreamFile:
        """Open the bytes from `start` to before `stop` of the file at `url`, of `size` bytes.

        Raises UpstreamWithoutRanges where upstream sends whole files only, or another
        UpstreamError.
        """
        with (
            self._client.exchange(url, "part", RANGE) as exchange,
            self._client.attempt(exchange),
        ):
            try:
                response = self._request_range(exchange, start, stop, size)
            except UpstreamRefused as error:
                if error.status in (416, 501):
                    raise UpstreamWithoutRanges(url) from error
                raise
            if response.status == 200:
                discard(response)
                raise UpstreamWithoutRanges(url)
            return self._opened(exchange, response)

    def read_range(self, url: str, start: int, stop: int) -> Piece:
        """Read the bytes from `start` to before `stop` of the file at `url`, or to its end.

        Where upstream sends no ranges, a file of up to 8 MiB is read whole. Raises
        UpstreamWithoutRanges for a larger one, or another UpstreamError: UpstreamRefused with the
        status 416 where the file ends before `start`.
        """
        with (
            self._client.exchange(url, "page", RANGE) as exchange,
            self._client.attempt(exchange),
        ):
            response = self._request_range(exchange, start, stop)
            try:
                if response.status == 200:
                    return self._read_whole(exchange, response)
                found = content_range(response.headers)
                if found is None or found[0] != start or found[1] != min(stop, found[2]):
                    raise UpstreamGarbled(url, "sends another range than asked for")
                data = self._client.read_body(exchange, response, url, self._max_range_bytes)
            finally:
                response.close()
            length = found[1] - start
            if data is None or len(data) != length:
                sent = f"over {self._max_range_bytes}" if data is None else len(data)
                raise UpstreamGarbled(url, f"sent {sent} bytes, not {length}")
            return Piece(start, data, found[2])

    def size(self, url: str) -> int | None:
        """Return the bytes of the file at `url`; None where upstream does not say.

        Raises an UpstreamError.
        """
        with (
            UpstreamWait(),
            self._client.exchange(url, "page", "HEAD") as exchange,
            self._client.attempt(exchange),
        ):
            response, _ = self._client.request(exchange, url, _HEADERS, method="HEAD")
            if response.status in (405, 501):
                # Headers of GET are those of HEAD (RFC 9110, section 9.3.2); the body is not read.
                discard(response)
                response, _ = self._client.request(exchange, url, _HEADERS)
            self._require(response, url, 200)
            response.close()
            return content_length(response.headers)

    def revalidate(self, url: str, known: Validators) -> Validators | None:
        """Return what upstream says of the file at `url` now; None: it is the one of `known` (304).

        The body is not read, but for its first byte. Raises UpstreamGarbled where that byte begins
        HTML or JSON, such as the login page of a captive portal, or another UpstreamError.
        """
        conditions = {"If-None-Match": known.etag, "If-Modified-Since": known.last_modified}
        headers = {**_HEADERS, **{name: value for name, value in conditions.items() if value}}
        # Not HEAD: a signed URL is for one method only, and some hosts refuse HEAD.
        with self._client.exchange(url, "page") as exchange, self._client.attempt(exchange):
            response, _ = self._client.request(exchange, url, headers)
            self._require(response, url, 200, 304)
            try:
                if response.status == 304:
                    return None
                first = exchange.wait(lambda: response.read1(1, decode_content=False))
            except (HTTPError, OSError) as error:
                raise unreachable(url, error) from error
            finally:
                response.close()
            if first in (b"<", b"{", b""):
                raise UpstreamGarbled(url, "sends no distribution")
            return validators(response.headers)

    def is_lost(self, url: str, age: float) -> bool:
        """Return whether a request for `url`, sent `age` seconds ago, is to be sent once more.

        See `CircuitBreakers.is_lost`.
        """
        return self._client.is_lost(url, age)

    def _open_rest(self, url: str, start: int, etag: str | None, kind: str) -> UpstreamFile:
        """Open the bytes from `start` on, or the whole file where upstream sends that."""
        with self._client.exchange(url, kind, RANGE) as exchange, self._client.attempt(exchange):
            try:
                response = self._request_range(exchange, start, etag=etag)
            except UpstreamRefused as error:
                # The file of upstream ends before `start`, so it is another file (416). Or the host
                # fails for ranges, and may not for the whole file.
                fails = error.status >= 500 and error.retry_after is None
                if error.status != 416 and not fails:
                    raise
                response = self._request_whole(exchange)
            return self._opened(exchange, response)

    def _read_whole(self, exchange: Exchange, response: BaseHTTPResponse) -> Piece:
        """Return a small file whose response has no range. Raises an UpstreamError."""
        url = exchange.url
        length = content_length(response.headers)
        data = None
        if length is None or length <= _SMALL_FILE:
            data = self._client.read_body(exchange, response, url, _SMALL_FILE)
        if data is None:
            raise UpstreamWithoutRanges(url)
        if length not in (None, len(data)):
            raise UpstreamGarbled(url, f"sent {len(data)} bytes, not {length}")
        return Piece(0, data, len(data))

    def _request_whole(self, exchange: Exchange) -> BaseHTTPResponse:
        response, _ = self._client.request(exchange, exchange.url, _HEADERS)
        return self._require(response, exchange.url, 200)

    def _request_range(
        self,
        exchange: Exchange,
        start: int,
        stop: int | None = None,
        size: int | None = None,
        etag: str | None = None,
    ) -> BaseHTTPResponse:
        """Return a response with the whole file (200) or with the range asked for (206).

        `stop` None: to the end. `size` None: the range of the response is not checked. Raises
        UpstreamGarbled where upstream sends another range, or another UpstreamError.
        """
        url, last = exchange.url, "" if stop is None else stop - 1
        headers = {**_HEADERS, "Range": f"bytes={start}-{last}"}
        if etag is not None:
            headers["If-Range"] = etag
        response, _ = self._client.request(exchange, url, headers)
        self._require(response, url, 200, 206)
        is_checked = size is not None and response.status == 206
        if is_checked and content_range(response.headers) != (start, stop, size):
            response.close()
            raise UpstreamGarbled(url, "sends another range than asked for")
        return response

    def _opened(self, exchange: Exchange, response: BaseHTTPResponse) -> UpstreamFile:
        opened = UpstreamFile(response, exchange.url, self._client.metrics, exchange)
        exchange.keep()
        return opened

    def _require(self, response: BaseHTTPResponse, url: str, *statuses: int) -> BaseHTTPResponse:
        """Return `response`. Raises UpstreamRefused where its status is none of `statuses`."""
        if response.status not in statuses:
            discard(response)
            raise self._client.refusal(response, url)
        return response
