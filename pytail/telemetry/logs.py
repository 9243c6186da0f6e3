"""How the log is written: lines for people or JSON for machines, on standard error.

Whatever a line says, credentials of a URL are masked in it. The lines of single requests, of which
there can be thousands a second, are gathered for a moment and written at once; every other line goes
out immediately, and the gathered ones before it.
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

#: Seconds and lines for which the lines of requests are gathered at most.
BATCH_SECONDS, BATCH_LINES = 0.2, 500


def configure(level: str, form: str) -> None:
    """Log to standard error from `level` on, in the `form` ``text`` or ``json``."""
    handler = BatchingHandler(sys.stderr, JsonFormatter() if form == "json" else TextFormatter())
    logging.basicConfig(handlers=[handler])
    logging.getLogger("pytail").setLevel(level.upper())
    log.addHandler(handler)
    log.propagate = False


def access(exchange: AccessRecord) -> None:
    """Log an exchange that is over."""
    # Those who watch pytail would fill the log with themselves.
    level = logging.DEBUG if exchange.is_monitoring else logging.INFO
    if log.isEnabledFor(level):
        moment = time.time()
        for handler in log.handlers:
            if isinstance(handler, BatchingHandler):
                handler.gather(moment, level, exchange)


class TextFormatter(logging.Formatter):
    """``<time> <level> <logger>: <message>``, and a traceback below where there is one."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")
        self._clock = _Clock("%Y-%m-%d %H:%M:%S", time.localtime)

    def format(self, record: logging.LogRecord) -> str:
        return _safe(super().format(record))

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: ARG002, N802
        return f"{self._clock(record.created)},{int(record.msecs):03d}"

    def line(self, moment: float, level: int, exchange: AccessRecord) -> str:
        """The line of an exchange that ended at `moment`, in seconds since the epoch."""
        word, thousandths = logging.getLevelName(level), int(moment % 1 * 1000)
        return _safe(f"{self._clock(moment)},{thousandths:03d} {word} {log.name}: {exchange}")


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def __init__(self) -> None:
        super().__init__()
        self._clock = _Clock("%Y-%m-%dT%H:%M:%S", time.gmtime)

    def format(self, record: logging.LogRecord) -> str:
        line = self._head(record.created, record.levelno, record.name, current_id())
        line["message"] = record.getMessage()
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return _safe(orjson.dumps(line).decode())

    def line(self, moment: float, level: int, exchange: AccessRecord) -> str:
        """The line of an exchange that ended at `moment`, in seconds since the epoch."""
        line = self._head(moment, level, log.name, exchange.id) | exchange.as_dict()
        return _safe(orjson.dumps(line).decode())

    def _head(self, moment: float, level: int, name: str, request_id: str | None) -> dict[str, Any]:
        return {
            "time": f"{self._clock(moment)}.{int(moment % 1 * 1000):03d}Z",
            "level": logging.getLevelName(level).lower(),
            "logger": name,
            "request_id": request_id,
        }


class _Clock:
    """The time of a log line to the second, worded anew only when that is over."""

    def __init__(self, words: str, parts: Callable[[float], time.struct_time]) -> None:
        self._format, self._parts = words, parts
        self._second, self._words = -1, ""

    def __call__(self, moment: float) -> str:
        second = int(moment)
        if second != self._second:
            self._second, self._words = second, time.strftime(self._format, self._parts(second))
        return self._words


def _safe(line: str) -> str:
    return masked(line) if "@" in line else line


class BatchingHandler(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes lines, those of exchanges a moment later and together."""

    def __init__(self, stream: TextIO, formatter: TextFormatter | JsonFormatter) -> None:
        super().__init__(stream)
        self.setFormatter(formatter)
        self._line = formatter.line
        self._gathered: list[str] = []

    def gather(self, moment: float, level: int, exchange: AccessRecord) -> None:
        """Write the line of `exchange` soon. For the hub's thread only."""
        self._gathered.append(self._line(moment, level, exchange))
        if len(self._gathered) == 1:
            gevent.spawn_later(BATCH_SECONDS, self.flush)
        elif len(self._gathered) >= BATCH_LINES:
            self.flush()

    def emit(self, record: logging.LogRecord) -> None:
        self._write()
        super().emit(record)

    def flush(self) -> None:
        self._write()
        super().flush()

    def _write(self) -> None:
        lines, self._gathered = self._gathered, []
        if lines:
            # Nobody is left to be told of it, and a client's response must not suffer.
            with contextlib.suppress(OSError, ValueError):
                self.stream.write("\n".join([*lines, ""]))
