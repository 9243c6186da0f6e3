"""Metrics of pytail, for Prometheus and for ``/+status``.

Only this module has the names of metrics; other folders call the methods of `Metrics`. Under gunicorn
each worker shows the sum over all workers. Each series exists from the start, with the value zero, so
that a rate in Prometheus includes the first increase.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import gevent
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    disable_created_metrics,
    generate_latest,
)

from pytail import __version__
from pytail.model import Outcome
from pytail.runtime.singleflight import SingleFlight
from pytail.runtime.threads import off_loop
from pytail.telemetry import multiprocess
from pytail.telemetry.access import AccessRecord

log = logging.getLogger("pytail.telemetry")

#: The media type of `Metrics.exposition`.
MEDIA_TYPE = CONTENT_TYPE_LATEST
#: Outcomes of responses that are fetched for one client; all others come from the cache.
_FETCHED = (Outcome.MISS.value, Outcome.PASS.value)
_ERRORS = ("unreachable", "refused", "garbled", "cut")
#: Kinds of fetches: pages and other small responses, whole files, ranges of files.
KINDS = ("page", "file", "part")
#: Bounds of histogram buckets, in seconds.
_UPSTREAM_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15, 30)
_LOOP_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)


class _Families:
    """Metrics as `generate_latest` wants them."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        return self._families


class Snapshot:
    """The values of all series at one moment."""

    def __init__(self, samples: Iterable[Any]) -> None:
        self._samples = list(samples)

    def total(self, name: str) -> float:
        """Return the sum of the series `name` over all labels."""
        return sum(self.by(name).values())

    def by(self, name: str, label: str = "") -> dict[str, float]:
        """Return the sums of the series `name` by the value of `label`."""
        totals: dict[str, float] = {}
        for sample in self._samples:
            if sample.name == name:
                key = sample.labels.get(label, "")
                totals[key] = totals.get(key, 0.0) + sample.value
        return totals


class Metrics:
    """The metrics of one application."""

    def __init__(self) -> None:
        disable_created_metrics()
        directory = os.environ.get(multiprocess.VARIABLE)
        self._shared = None if directory is None else multiprocess.SharedMetrics(Path(directory))
        #: One read for all who ask at the same time, so that it takes one thread.
        self._reads: SingleFlight[list[Metric]] = SingleFlight()
        #: Whether the last read failed.
        self._is_alone = False
        self._registry = CollectorRegistry()
        self._make_counters()
        self._make_gauges()
        #: Responses and bytes by outcome and status, not added to the counters yet.
        self._pending: dict[tuple[str, str], list[int]] = {}
        for outcome in Outcome:
            self._count(outcome.value, "200", 0, 0)
        for kind in _ERRORS:
            self._upstream_errors.labels(kind)
        for kind in KINDS:
            self._turned_away.labels(kind)
        self._evicted_files = self._evicted_bytes = 0
        #: Whether `set_store` was called.
        self.is_store_known = False

    def _make_counters(self) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"pytail_{name}", text, labels, registry=self._registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"pytail_{name}", text, buckets=buckets, registry=self._registry)

        self._requests = counter("requests", "Responses to clients", "outcome", "status")
        self._sent = counter("sent_bytes", "Bytes of response bodies sent to clients", "source")
        self._interrupted = counter("cut_responses", "Responses that ended early")
        self._upstream_errors = counter(
            "upstream_errors", "Requests to upstream without a usable response", "kind"
        )
        self._turned_away = counter("turned_away", "Fetches that got no slot in time", "kind")
        self._evictions = counter("evictions", "Files evicted")
        self._evicted = counter("evicted_bytes", "Bytes evicted")
        self._upstream_seconds = histogram(
            "upstream_seconds", "Seconds until upstream's response begins", _UPSTREAM_BUCKETS
        )
        self._loop_delay = histogram(
            "hub_delay_seconds", "Seconds by which the event loop runs a timer late", _LOOP_BUCKETS
        )

    def _make_gauges(self) -> None:
        def gauge(name: str, text: str, mode: Any, *labels: str) -> Gauge:
            full, registry = f"pytail_{name}", self._registry
            return Gauge(full, text, labels, multiprocess_mode=mode, registry=registry)

        self._breaker = gauge(
            "breaker_open", "1 while the circuit breaker of upstream is open", "livemax"
        )
        self._downloading = gauge("arriving_files", "Files in download", "livesum")
        self._fetches = gauge("fetches", "Fetches from upstream in progress", "livesum", "kind")
        self._waiting = gauge("waiting_fetches", "Fetches that wait for a slot", "livesum", "kind")
        self._files = gauge("store_files", "Stored files", "livemostrecent")
        self._size = gauge("store_bytes", "Bytes of stored files", "livemostrecent")
        self._limit = gauge(
            "store_limit_bytes", "Maximum bytes of stored files; 0: no limit", "livemax"
        )
        self._started = gauge(
            "start_time_seconds",
            "Start time of the oldest worker, in seconds since the epoch",
            "livemin",
        )
        self._started.set(time.time())
        gauge("build_info", "Always 1, labelled with the version", "livemax", "version").labels(
            __version__
        ).set(1)

    def count_response(self, record: AccessRecord) -> None:
        """Count a response that has ended; requests for monitoring do not count."""
        if record.is_monitoring:
            return
        if not self._pending:
            # Counters take locks, so they change once in a round of the event loop.
            gevent.get_hub().loop.run_callback(self._count_pending)
        key = record.outcome, record.status
        pending = self._pending.get(key) or self._pending.setdefault(key, [0, 0])
        pending[0] += 1
        pending[1] += record.bytes_sent
        if record.is_interrupted:
            self._interrupted.inc()

    def _count_pending(self) -> None:
        pending, self._pending = self._pending, {}
        for (outcome, status), (responses, sent) in pending.items():
            self._count(outcome, status, responses, sent)

    def observe_upstream(self, seconds: float) -> None:
        """Observe that a response of upstream, of any status, began after `seconds`."""
        self._upstream_seconds.observe(seconds)

    def count_upstream_error(self, kind: str) -> None:
        """Count a failure: ``unreachable``, ``refused`` (5xx, 429), ``garbled``, ``cut`` (file)."""
        self._upstream_errors.labels(kind).inc()

    def observe_loop_delay(self, seconds: float) -> None:
        """Observe that the event loop ran a timer `seconds` late."""
        self._loop_delay.observe(max(0.0, seconds))

    def set_breaker(self, *, is_open: bool) -> None:
        """Set whether the circuit breaker of upstream is open."""
        self._breaker.set(is_open)

    def set_downloading(self, files: int) -> None:
        """Set how many files this process downloads."""
        self._downloading.set(files)

    def set_fetches(self, kind: str, *, under_way: int, waiting: int) -> None:
        """Set how many fetches of a `kind` run in this process, and how many wait for a slot."""
        self._fetches.labels(kind).set(under_way)
        self._waiting.labels(kind).set(waiting)

    def count_turned_away(self, kind: str) -> None:
        """Count a fetch of a `kind` that got no slot in time."""
        self._turned_away.labels(kind).inc()

    def set_store(self, *, files: int, size: int, limit: int) -> None:
        """Set the files and bytes that all processes store; `limit` in bytes, 0 for no limit."""
        self.is_store_known = True
        self._files.set(files)
        self._size.set(size)
        self._limit.set(limit)

    def count_evictions(self, files: int, size: int) -> None:
        """Count evictions; `files` and `size` in bytes are totals since this process began."""
        self._evictions.inc(files - self._evicted_files)
        self._evicted.inc(size - self._evicted_bytes)
        self._evicted_files, self._evicted_bytes = files, size

    def exposition(self) -> bytes:
        """Return all metrics in the text format of Prometheus."""
        return generate_latest(_Families(self._read()))

    def snapshot(self) -> Snapshot:
        """Return the current values of all series."""
        return Snapshot(sample for family in self._read() for sample in family.samples)

    def _read(self) -> list[Metric]:
        """Return the metrics of all workers; those of this worker where that fails."""
        self._count_pending()
        shared = self._shared
        if shared is not None:
            try:
                families = self._reads.run(None, lambda: off_loop(shared.read))
            except OSError as error:
                # The cache directory may have been emptied, or a stopped process holds the lock.
                if not self._is_alone:
                    log.warning(
                        "cannot read the metrics of other workers,"
                        " showing those of this worker alone: %s",
                        error,
                    )
                self._is_alone = True
            else:
                self._is_alone = False
                return families
        return list(self._registry.collect())

    def _count(self, outcome: str, status: str, responses: int, sent: int) -> None:
        self._requests.labels(outcome or "NONE", f"{status[:1] or '0'}xx").inc(responses)
        self._sent.labels("upstream" if outcome in _FETCHED else "cache").inc(sent)
