"""What pytail counts and measures of itself, for Prometheus and for ``/+status``.

All instruments stand here; other rooms tell what happened and know nothing of their names. Under
gunicorn what is read is the sum over all workers, whichever of them is asked. Each series is there
from the start, at zero, so that a rate sees its first step.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import gevent
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector

from pytail import __version__
from pytail.model import Outcome
from pytail.telemetry import multiprocess
from pytail.telemetry.access import AccessRecord

log = logging.getLogger("pytail.telemetry")

#: Of the text that `Metrics.text` gives.
MEDIA_TYPE = CONTENT_TYPE_LATEST
#: Fetched for this very client; everything else comes from what is known, held or arriving anyway.
_FETCHED = (Outcome.MISS.value, Outcome.PASS.value)
_ERRORS = ("unreachable", "refused", "garbled", "cut")
#: Of fetches: pages and all that is small, whole files, parts of files.
KINDS = ("page", "file", "part")
#: Seconds.
_UPSTREAM_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15, 30)
_HUB_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)


class Snapshot:
    """What the series said at one moment."""

    def __init__(self, samples: Iterable[Any]) -> None:
        self._samples = list(samples)

    def total(self, name: str) -> float:
        """The value of the series `name`, those of all labels added up."""
        return sum(self.by(name).values())

    def by(self, name: str, label: str = "") -> dict[str, float]:
        """The values of the series `name` by the value of their `label`, others added up."""
        totals: dict[str, float] = {}
        for sample in self._samples:
            if sample.name == name:
                key = sample.labels.get(label, "")
                totals[key] = totals.get(key, 0.0) + sample.value
        return totals


class Metrics:
    """The instruments of one application."""

    def __init__(self) -> None:
        disable_created_metrics()
        directory = os.environ.get(multiprocess.VARIABLE)
        self._shared = None if directory is None else Path(directory)
        self._registry = CollectorRegistry()
        self._make_counters()
        self._make_gauges()
        #: Responses and bytes by outcome and status that the counters do not have yet.
        self._answered: dict[tuple[str, str], list[int]] = {}
        for outcome in Outcome:
            self._count(outcome.value, "200", 0, 0)
        for kind in _ERRORS:
            self._upstream_errors.labels(kind)
        for kind in KINDS:
            self._turned_away.labels(kind)
        self._evicted_files = self._evicted_bytes = 0
        #: Whether anyone has told what is held.
        self.is_store_known = False

    def _make_counters(self) -> None:
        def counter(name: str, meaning: str, *labels: str) -> Counter:
            return Counter(f"pytail_{name}", meaning, labels, registry=self._registry)

        def histogram(name: str, meaning: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"pytail_{name}", meaning, buckets=buckets, registry=self._registry)

        self._requests = counter("requests", "Responses to clients", "outcome", "status")
        self._sent = counter("sent_bytes", "Bytes of bodies sent to clients", "source")
        self._cut = counter("cut_responses", "Responses that broke off before their end")
        self._upstream_errors = counter("upstream_errors", "Failures of upstream", "kind")
        self._turned_away = counter("turned_away", "Fetches that got no turn in time", "kind")
        self._evictions = counter("evictions", "Files removed to make room")
        self._evicted = counter("evicted_bytes", "Bytes removed to make room")
        self._upstream_seconds = histogram(
            "upstream_seconds", "Seconds until upstream begins to answer", _UPSTREAM_BUCKETS
        )
        self._hub_delay = histogram(
            "hub_delay_seconds", "Seconds by which the event loop is late", _HUB_BUCKETS
        )

    def _make_gauges(self) -> None:
        def gauge(name: str, meaning: str, mode: Any, *labels: str) -> Gauge:
            full, registry = f"pytail_{name}", self._registry
            return Gauge(full, meaning, labels, multiprocess_mode=mode, registry=registry)

        self._breaker = gauge("breaker_open", "1 while upstream is left alone", "livemax")
        self._arriving = gauge("arriving_files", "Files that are being fetched", "livesum")
        self._fetches = gauge("fetches", "What is fetched from upstream", "livesum", "kind")
        self._waiting = gauge("waiting_fetches", "What waits to be fetched", "livesum", "kind")
        self._held = gauge("store_files", "Files held", "livemostrecent")
        self._size = gauge("store_bytes", "Bytes held", "livemostrecent")
        self._limit = gauge("store_limit_bytes", "Bytes that may be held; 0: any", "livemax")
        self._started = gauge("start_time_seconds", "When the oldest worker began", "livemin")
        self._started.set(time.time())
        gauge("build_info", "1, with the version", "livemax", "version").labels(__version__).set(1)

    def count_response(self, exchange: AccessRecord) -> None:
        """A response is over; those to whoever watches pytail do not count."""
        if exchange.is_monitoring:
            return
        if not self._answered:
            # Counters take locks: once in a round of the event loop, however many it answers.
            gevent.get_hub().loop.run_callback(self._settle)
        key = exchange.outcome, exchange.status
        answered = self._answered.get(key) or self._answered.setdefault(key, [0, 0])
        answered[0] += 1
        answered[1] += exchange.bytes_sent
        if exchange.is_interrupted:
            self._cut.inc()

    def _settle(self) -> None:
        """Let the counters have what was answered since the last time."""
        answered, self._answered = self._answered, {}
        for (outcome, status), (responses, sent) in answered.items():
            self._count(outcome, status, responses, sent)

    def observe_upstream(self, seconds: float) -> None:
        """Upstream began to answer after `seconds`, whatever it says."""
        self._upstream_seconds.observe(seconds)

    def count_upstream_error(self, kind: str) -> None:
        """No usable answer: unreachable, refused (5xx, 429), garbled, or a file cut short."""
        self._upstream_errors.labels(kind).inc()

    def observe_loop_delay(self, seconds: float) -> None:
        """The event loop came to something `seconds` after it was due."""
        self._hub_delay.observe(max(0.0, seconds))

    def set_breaker(self, *, is_open: bool) -> None:
        """Whether upstream is left alone."""
        self._breaker.set(is_open)

    def set_downloading(self, files: int) -> None:
        """The files that this process is fetching."""
        self._arriving.set(files)

    def set_fetches(self, kind: str, *, under_way: int, waiting: int) -> None:
        """What this process fetches of a `kind`, and what waits for its turn."""
        self._fetches.labels(kind).set(under_way)
        self._waiting.labels(kind).set(waiting)

    def count_turned_away(self, kind: str) -> None:
        """A fetch of a `kind` got no turn in time."""
        self._turned_away.labels(kind).inc()

    def set_store(self, *, files: int, size: int, limit: int) -> None:
        """What is held by all processes together; sizes in bytes, no `limit`: 0."""
        self.is_store_known = True
        self._held.set(files)
        self._size.set(size)
        self._limit.set(limit)

    def count_evictions(self, files: int, size: int) -> None:
        """Files and bytes that this process has removed to make room, since it began."""
        self._evictions.inc(files - self._evicted_files)
        self._evicted.inc(size - self._evicted_bytes)
        self._evicted_files, self._evicted_bytes = files, size

    def exposition(self) -> bytes:
        """Everything, in the text format of Prometheus."""
        with self._read() as registry:
            return generate_latest(registry)

    def snapshot(self) -> Snapshot:
        """What all series say now."""
        with self._read() as registry:
            return Snapshot(sample for family in registry.collect() for sample in family.samples)

    @contextlib.contextmanager
    def _read(self) -> Iterator[CollectorRegistry]:
        self._settle()
        registry = self._registry
        with contextlib.ExitStack() as stack:
            if self._shared is not None:
                try:
                    stack.enter_context(multiprocess.living(self._shared))
                    registry = CollectorRegistry()
                    MultiProcessCollector(registry, str(self._shared))
                except OSError as error:
                    # Someone may have emptied the cache directory.
                    log.warning("what is told is of this worker alone: %s", error)
            yield registry

    def _count(self, outcome: str, status: str, responses: int, sent: int) -> None:
        self._requests.labels(outcome or "NONE", f"{status[:1] or '0'}xx").inc(responses)
        self._sent.labels("upstream" if outcome in _FETCHED else "cache").inc(sent)
