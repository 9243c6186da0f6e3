"""The monitoring paths ``/+health``, ``/+status`` and ``/+metrics``.

They send no request to upstream, write nothing to the catalog and do not list the store.
"""

from __future__ import annotations

import time

import falcon
import orjson

from pytail import __version__
from pytail.cache.cache import Cache
from pytail.model import Outcome
from pytail.telemetry.metrics import KINDS, MEDIA_TYPE, Metrics, Snapshot
from pytail.urls import host_of

#: Outcomes of responses without a fetch from upstream for that request alone.
_HITS = {outcome.value for outcome in Outcome} - {Outcome.MISS.value, Outcome.PASS.value}


class HealthResource:
    """``/+health``: 200 while the process answers requests."""

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        _send(resp, {"status": "ok", "version": __version__})

    on_head = on_get


class StatusResource:
    """``/+status``: counters and gauges as JSON, summed over all workers."""

    def __init__(self, metrics: Metrics, upstream_url: str) -> None:
        # Clients may read the status: the path of upstream may be a secret.
        self._metrics, self._upstream = metrics, host_of(upstream_url)

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        snapshot = self._metrics.snapshot()
        requests = snapshot.by("pytail_requests_total", "outcome")
        sent = snapshot.by("pytail_sent_bytes_total", "source")
        _send(
            resp,
            {
                "version": __version__,
                "uptime_secs": round(time.time() - snapshot.total("pytail_start_time_seconds"), 1),
                "upstream": _upstream_status(snapshot, self._upstream),
                "held": _store_status(snapshot) if self._metrics.is_store_known else None,
                "evicted_files": int(snapshot.total("pytail_evictions_total")),
                "arriving_files": int(snapshot.total("pytail_arriving_files")),
                "fetches": _fetch_status(snapshot),
                "requests": {name: int(number) for name, number in requests.items()},
                "sent_bytes": {name: int(number) for name, number in sent.items()},
                "hit_ratio": {
                    "requests": _share(requests, _HITS),
                    "bytes": _share(sent, {"cache"}),
                },
            },
        )

    on_head = on_get


class MetricsResource:
    """``/+metrics``: all series in the text format of Prometheus."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        resp.content_type = MEDIA_TYPE
        resp.cache_control = ["no-store"]
        resp.data = self._metrics.exposition()

    on_head = on_get


def sample_gauges(cache: Cache) -> None:
    """Set the gauges of `cache.metrics` to the state of this process."""
    metrics, quota = cache.metrics, cache.quota
    client, url = cache.upstream.client, cache.upstream.pages.root.base_url
    metrics.set_breaker(is_open=client.is_circuit_open(url))
    metrics.set_downloading(cache.files.downloading)
    for kind, limiter in client.limiters.items():
        metrics.set_fetches(kind, under_way=limiter.in_progress, waiting=limiter.waiting)
    metrics.set_store(files=quota.files, size=quota.size, limit=quota.limit)
    metrics.count_evictions(quota.evicted, quota.evicted_bytes)


def _upstream_status(snapshot: Snapshot, url: str) -> dict[str, object]:
    errors = snapshot.by("pytail_upstream_errors_total", "kind")
    return {
        "url": url,
        "breaker": "open" if snapshot.total("pytail_breaker_open") else "closed",
        "answers": int(snapshot.total("pytail_upstream_seconds_count")),
        "errors": {name: int(number) for name, number in errors.items()},
    }


def _fetch_status(snapshot: Snapshot) -> dict[str, dict[str, int]]:
    """Return by kind the fetches in progress, waiting for a slot, and without a slot in time."""
    series = {
        "under_way": snapshot.by("pytail_fetches", "kind"),
        "waiting": snapshot.by("pytail_waiting_fetches", "kind"),
        "turned_away": snapshot.by("pytail_turned_away_total", "kind"),
    }
    return {
        kind: {name: int(numbers.get(kind, 0)) for name, numbers in series.items()}
        for kind in KINDS
    }


def _store_status(snapshot: Snapshot) -> dict[str, object]:
    return {
        "files": int(snapshot.total("pytail_store_files")),
        "bytes": int(snapshot.total("pytail_store_bytes")),
        "limit_bytes": int(snapshot.total("pytail_store_limit_bytes")) or None,
    }


def _send(resp: falcon.Response, content: dict[str, object]) -> None:
    resp.content_type = falcon.MEDIA_JSON
    resp.cache_control = ["no-store"]
    resp.data = orjson.dumps(content)


def _share(numbers: dict[str, float], names: set[str]) -> float | None:
    """Return the share of `names` in the sum of `numbers`, None where the sum is 0."""
    total = sum(numbers.values())
    return round(sum(numbers.get(name, 0) for name in names) / total, 4) if total else None
