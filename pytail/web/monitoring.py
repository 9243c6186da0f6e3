"""What those ask who watch pytail: is it there, how is it, what has it counted.

Nothing here asks upstream, writes to the database or looks through the store.
"""

from __future__ import annotations

import time

import falcon
import orjson

from pytail import __version__
from pytail.model import Outcome
from pytail.telemetry.metrics import KINDS, MEDIA_TYPE, Metrics, Snapshot

#: Answered without fetching content from upstream for this very client.
_HITS = {outcome.value for outcome in Outcome} - {Outcome.MISS.value, Outcome.PASS.value}


class HealthResource:
    """``/+health``: 200 as long as requests are answered."""

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        _send(resp, {"status": "ok", "version": __version__})

    on_head = on_get


class StatusResource:
    """``/+status``: how pytail is, of all workers together."""

    def __init__(self, metrics: Metrics, upstream_url: str) -> None:
        self._metrics, self._upstream_url = metrics, upstream_url

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        read = self._metrics.snapshot()
        requests = read.by("pytail_requests_total", "outcome")
        sent = read.by("pytail_sent_bytes_total", "source")
        _send(
            resp,
            {
                "version": __version__,
                "uptime_secs": round(time.time() - read.total("pytail_start_time_seconds"), 1),
                "upstream": self._of_upstream(read),
                "held": _held(read) if self._metrics.is_store_known else None,
                "evicted_files": int(read.total("pytail_evictions_total")),
                "arriving_files": int(read.total("pytail_arriving_files")),
                "fetches": _fetches(read),
                "requests": {name: int(number) for name, number in requests.items()},
                "sent_bytes": {name: int(number) for name, number in sent.items()},
                "hit_ratio": {
                    "requests": _share(requests, _HITS),
                    "bytes": _share(sent, {"cache"}),
                },
            },
        )

    on_head = on_get

    def _of_upstream(self, read: Snapshot) -> dict[str, object]:
        errors = read.by("pytail_upstream_errors_total", "kind")
        return {
            "url": self._upstream_url,
            "breaker": "open" if read.total("pytail_breaker_open") else "closed",
            "answers": int(read.total("pytail_upstream_seconds_count")),
            "errors": {name: int(number) for name, number in errors.items()},
        }


class ExpositionResource:
    """``/+metrics``: what was counted and measured, in the text format of Prometheus."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        resp.content_type = MEDIA_TYPE
        resp.cache_control = ["no-store"]
        resp.data = self._metrics.exposition()

    on_head = on_get


def _fetches(read: Snapshot) -> dict[str, dict[str, int]]:
    """By kind, what is fetched, what waits for its turn, and what has got none in time."""
    series = {
        "under_way": read.by("pytail_fetches", "kind"),
        "waiting": read.by("pytail_waiting_fetches", "kind"),
        "turned_away": read.by("pytail_turned_away_total", "kind"),
    }
    return {
        kind: {name: int(numbers.get(kind, 0)) for name, numbers in series.items()}
        for kind in KINDS
    }


def _held(read: Snapshot) -> dict[str, object]:
    return {
        "files": int(read.total("pytail_store_files")),
        "bytes": int(read.total("pytail_store_bytes")),
        "limit_bytes": int(read.total("pytail_store_limit_bytes")) or None,
    }


def _send(resp: falcon.Response, content: dict[str, object]) -> None:
    resp.content_type = falcon.MEDIA_JSON
    resp.cache_control = ["no-store"]
    resp.data = orjson.dumps(content)


def _share(numbers: dict[str, float], good: set[str]) -> float | None:
    """The share of `good` in all `numbers`; None where there are none."""
    every = sum(numbers.values())
    return round(sum(numbers.get(name, 0) for name in good) / every, 4) if every else None
