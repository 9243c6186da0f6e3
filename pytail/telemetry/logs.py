"""Writes the log to standard error, as text or as JSON.

Each line has the credentials and the queries of URLs masked. There can be thousands of access lines a second, so the
handler writes them in batches. It writes each other line immediately, after the batch before it.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

import gevent
import orjson

from pytail.telemetry.access import AccessRecord, current_id
from pytail.urls import masked

log = logging.getLogger("pytail.access")

#: The seconds and the lines of the longest batch.
BATCH_SECONDS, BATCH_LINES = 0.2, 500


def configure(level: str, form: str) -> None:
    """Log to standard error from `level` on, in the format `form`: ``text`` or ``json``.

    A second call changes level and format.
    """
    formatter = JsonFormatter() if form == "json" else TextFormatter()
    logging.getLogger("pytail").setLevel(level.upper())
    # urllib3 warns of each connection that it closes because its pool is full. That is normal after
    # many requests that waited for a slow upstream.
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
    for handler in log.handlers:
        if isinstance(handler, BatchingHandler):
            handler.change(formatter)
            return
    handler = BatchingHandler(sys.stderr, formatter)
    logging.basicConfig(handlers=[handler])
    log.addHandler(handler)
    log.propagate = False


def access(record: AccessRecord) -> None:
    """Log a request whose response has ended."""
    # Probes and scrapers come every few seconds and would fill the log.
    level = logging.DEBUG if record.is_monitoring else logging.INFO
    if log.isEnabledFor(level):
        moment = time.time()
        for handler in log.handlers:
            if isinstance(handler, BatchingHandler):
                handler.add(moment, level, record)


class TextFormatter(logging.Formatter):
    """Formats ``<time> <level> <logger>: <message>``, with a traceback below if any."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")
        self._clock = _Clock("%Y-%m-%d %H:%M:%S", time.localtime)

    def format(self, record: logging.LogRecord) -> str:
        return _safe(super().format(record))

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: ARG002, N802
        return f"{self._clock(record.created)},{int(record.msecs):03d}"

    def line(self, moment: float, level: int, record: AccessRecord) -> str:
        """Return the line of `record`, which ended at `moment` in seconds since the epoch."""
        name, thousandths = logging.getLevelName(level), int(moment % 1 * 1000)
        return _safe(f"{self._clock(moment)},{thousandths:03d} {name} {log.name}: {record}")


class JsonFormatter(logging.Formatter):
    """Formats one JSON object a line."""

    def __init__(self) -> None:
        super().__init__()
        self._clock = _Clock("%Y-%m-%dT%H:%M:%S", time.gmtime)

    def format(self, record: logging.LogRecord) -> str:
        line = self._common(record.created, record.levelno, record.name, current_id())
        line["message"] = _safe(record.getMessage())
        if record.exc_info:
            line["traceback"] = _safe(self.formatException(record.exc_info))
        return orjson.dumps(line).decode()

    def line(self, moment: float, level: int, record: AccessRecord) -> str:
        """Return the line of `record`, which ended at `moment` in seconds since the epoch."""
        line = self._common(moment, level, log.name, record.id) | record.as_dict()
        line["path"] = _safe(line["path"])
        return orjson.dumps(line).decode()

    def _common(
        self, moment: float, level: int, name: str, request_id: str | None
    ) -> dict[str, Any]:
        return {
            "time": f"{self._clock(moment)}.{int(moment % 1 * 1000):03d}Z",
            "level": logging.getLevelName(level).lower(),
            "logger": name,
            "request_id": request_id,
        }


class _Clock:
    """Formats times to the second, and formats each second once."""

    def __init__(self, form: str, split: Callable[[float], time.struct_time]) -> None:
        self._form, self._split = form, split
        self._second, self._text = -1, ""

    def __call__(self, moment: float) -> str:
        second = int(moment)
        if second != self._second:
            self._second, self._text = second, time.strftime(self._form, self._split(second))
        return self._text


def _safe(line: str) -> str:
    return masked(line) if "@" in line or "?" in line else line


class BatchingHandler(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes lines immediately, but access lines in batches."""

    def __init__(self, stream: TextIO, formatter: TextFormatter | JsonFormatter) -> None:
        super().__init__(stream)
        self._batch: list[str] = []
        self.change(formatter)

    def change(self, formatter: TextFormatter | JsonFormatter) -> None:
        """Format further lines with `formatter`."""
        self.setFormatter(formatter)
        self._line = formatter.line

    def add(self, moment: float, level: int, record: AccessRecord) -> None:
        """Add the line of `record` to the batch. For the thread of the event loop only."""
        self._batch.append(self._line(moment, level, record))
        if len(self._batch) == 1:
            gevent.spawn_later(BATCH_SECONDS, self.flush)
        elif len(self._batch) >= BATCH_LINES:
            self.flush()

    def emit(self, record: logging.LogRecord) -> None:
        self._write()
        super().emit(record)

    def flush(self) -> None:
        self._write()
        super().flush()

    def _write(self) -> None:
        lines, self._batch = self._batch, []
        if lines:
            # An unwritable log must not fail a response, and there is no other place to report it.
            with contextlib.suppress(OSError, ValueError):
                self.stream.write("\n".join([*lines, ""]))
