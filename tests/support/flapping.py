"""An upstream of several hosts, each with a mood: it refuses, hangs, resets or sends wrong bytes."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import hashlib
import random
import re
import socket
import struct
from collections import Counter

import gevent
from gevent.event import Event
from gevent.pool import Pool
from gevent.server import StreamServer

from tests.support.running import free_port

_CHUNK = 16 * 1024
#: SO_LINGER of 0 seconds: close(2) sends RST instead of FIN.
_RESET = struct.pack("ii", 1, 0)
_LOGIN = b"<!DOCTYPE html><html><body><form>Password: <input></form></body></html>"


class Mood(enum.Enum):
    """How a host answers."""

    GOOD = "good"
    #: No process listens.
    REFUSING = "refusing"
    #: No response until the mood changes.
    HANGING = "hanging"
    #: RST in the middle of the body.
    RESETTING = "resetting"
    #: FIN in the middle of a body with Content-Length or in chunks.
    CUTTING = "cutting"
    #: One byte differs.
    WRONG = "wrong"
    #: A Content-Length, and a body, that are one byte longer.
    LONGER = "longer"
    #: The right bytes in chunks, or ended by FIN.
    WITHOUT_LENGTH = "without length"
    #: A body without length, ended by FIN in its middle.
    CUT_WITHOUT_LENGTH = "cut without length"
    #: The right bytes, 16 KiB at a time with pauses.
    SLOW = "slow"
    #: Status 500 or 503.
    FAILING = "failing"
    #: Status 200 with a form in HTML.
    LOGIN = "login page"


#: Moods of which the response is no error by HTTP alone: only a digest or the content tells.
DECEIVING = {Mood.WRONG, Mood.LONGER, Mood.CUT_WITHOUT_LENGTH, Mood.LOGIN}


@dataclasses.dataclass(frozen=True)
class Body:
    """The right response at a path."""

    data: bytes
    kind: str = "application/octet-stream"
    #: Moods that this path does not have; it is answered well instead.
    spared: frozenset[Mood] = frozenset()

    @property
    def etag(self) -> str:
        return f'"{hashlib.sha256(self.data).hexdigest()[:16]}"'


class Host:
    """One host; in a mood other than GOOD it answers two of three requests in that mood."""

    def __init__(self, chance: random.Random) -> None:
        self._chance, self._changed = chance, Event()
        self.bodies: dict[str, Body] = {}
        self.mood, self.port = Mood.GOOD, free_port()
        #: Responses by mood.
        self.sent: Counter[str] = Counter()
        self._server: StreamServer | None = None
        self._listen()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def change(self, mood: Mood) -> None:
        """Answer in another mood from now on; requests that hang end."""
        self.mood = mood
        changed, self._changed = self._changed, Event()
        changed.set()
        if mood is Mood.REFUSING:
            self.stop()
        elif self._server is None:
            self._listen()

    def stop(self) -> None:
        """Close the listening socket and all connections."""
        server, self._server = self._server, None
        if server is not None:
            server.stop(timeout=0)

    def _listen(self) -> None:
        self._server = StreamServer(("127.0.0.1", self.port), self._serve, spawn=Pool())
        self._server.start()

    def _serve(self, connection: socket.socket, _: object) -> None:
        with connection, contextlib.suppress(OSError):
            while head := _read_head(connection):
                if not self._respond(connection, head):
                    return

    def _respond(self, connection: socket.socket, head: str) -> bool:
        """Send a response; return whether the connection stays open."""
        method, path, _ = head.split(" ", 2)
        body = self.bodies.get(path)
        if body is None:
            return _send(connection, "404 Not Found", b"", method)
        mood = self.mood if self._chance.random() < 2 / 3 else Mood.GOOD
        asked = re.search(r"^range: bytes=(\d+)-(\d*)\r$", head, re.IGNORECASE | re.MULTILINE)
        # Nothing tells whether a bounded range is right, so those bytes are always right.
        if mood in body.spared or (asked and asked[2] and mood in DECEIVING):
            mood = Mood.GOOD
        self.sent[mood.value] += 1
        if mood is Mood.HANGING:
            self._changed.wait(20)
            return False
        if mood is Mood.FAILING:
            status = self._chance.choice(["500 Broken", "503 Busy"])
            return _send(connection, status, b"no", method)
        if mood is Mood.LOGIN:
            return _send(connection, "200 OK", _LOGIN, method, "Content-Type: text/html")
        etag = re.search(r"^if-none-match: (.*)\r$", head, re.IGNORECASE | re.MULTILINE)
        if etag and etag[1] == body.etag:
            _send_head(connection, "304 Not Modified", [f"ETag: {body.etag}"])
            return True
        return self._send_body(connection, method, body, mood, asked)

    def _send_body(
        self,
        connection: socket.socket,
        method: str,
        body: Body,
        mood: Mood,
        asked: re.Match[str] | None,
    ) -> bool:
        data, status = body.data, "200 OK"
        fields = [f"Content-Type: {body.kind}", f"ETag: {body.etag}", "Accept-Ranges: bytes"]
        if asked:
            start, stop = int(asked[1]), min(int(asked[2] or len(data)) + 1, len(data))
            if start >= len(data):
                fields = [f"Content-Range: bytes */{len(data)}"]
                return _send(connection, "416 Range Not Satisfiable", b"", method, *fields)
            status = "206 Partial Content"
            fields.append(f"Content-Range: bytes {start}-{stop - 1}/{len(data)}")
            data = data[start:stop]
        if mood is Mood.WRONG:
            place = self._chance.randrange(len(data))
            data = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        elif mood is Mood.LONGER:
            data += b"\0"
        if method == "HEAD":
            return _send(connection, status, data, method, *fields)
        return self._send_in_mood(connection, status, fields, data, mood)

    def _send_in_mood(
        self, connection: socket.socket, status: str, fields: list[str], data: bytes, mood: Mood
    ) -> bool:
        """Send a response with a body; return whether the connection stays open."""
        chunk, pause, end = len(data), 0.0, len(data)
        is_chunked = self._chance.random() < 0.5
        if mood is Mood.SLOW:
            chunk, pause = _CHUNK, 0.05
        elif mood in (Mood.RESETTING, Mood.CUTTING, Mood.CUT_WITHOUT_LENGTH):
            end = self._chance.randrange(len(data))
        is_unbounded = mood is Mood.CUT_WITHOUT_LENGTH or (
            mood is Mood.WITHOUT_LENGTH and not is_chunked
        )
        is_chunked &= mood in (Mood.RESETTING, Mood.CUTTING, Mood.WITHOUT_LENGTH)
        length = "Transfer-Encoding: chunked" if is_chunked else _length(data)
        _send_head(connection, status, [*fields, "Connection: close" if is_unbounded else length])
        for start in range(0, end, chunk):
            part = data[start : min(end, start + chunk)]
            head, tail = (f"{len(part):x}\r\n".encode(), b"\r\n") if is_chunked else (b"", b"")
            connection.sendall(head + part + tail)
            if pause:
                gevent.sleep(self._chance.uniform(0, pause))
        if is_chunked and end == len(data):
            connection.sendall(b"0\r\n\r\n")
        if mood is Mood.RESETTING:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        return end == len(data) and not is_unbounded


def _read_head(connection: socket.socket) -> str:
    """Return the head of the next request; empty where the client closed the connection."""
    head = b""
    # No client of these hosts sends a request before it has the last response.
    while not head.endswith(b"\r\n\r\n"):
        data = connection.recv(8192)
        if not data:
            return ""
        head += data
    return head.decode("latin-1")


def _send(connection: socket.socket, status: str, body: bytes, method: str, *fields: str) -> bool:
    """Send a whole response; return whether the connection stays open."""
    _send_head(connection, status, [*fields, _length(body)])
    if method != "HEAD":
        connection.sendall(body)
    return True


def _send_head(connection: socket.socket, status: str, fields: list[str]) -> None:
    connection.sendall("\r\n".join([f"HTTP/1.1 {status}", *fields, "", ""]).encode())


def _length(data: bytes) -> str:
    return f"Content-Length: {len(data)}"
