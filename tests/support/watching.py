"""What a test observes: open descriptors, stored and partial files, memory, metrics, durations."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import gevent
from prometheus_client.parser import text_string_to_metric_families

from tests.support.running import Client

Result = TypeVar("Result")


def until(condition: Callable[[], object], seconds: float = 5) -> None:
    """Wait until `condition` returns a true value. Raises gevent.Timeout after `seconds`."""
    with gevent.Timeout(seconds):
        while not condition():
            gevent.sleep(0.001)


def until_earlier_requests_wait(client: Client) -> None:
    """Wait until pytail waits for upstream in all requests that were sent before.

    pytail starts requests in the order of their arrival. Three more requests then end with 404 after
    a round trip to the fake index, which must not have these projects.
    """
    for name in ("later-a", "later-b", "later-c"):
        assert client.get(f"/simple/{name}/").status == 404


def timed(work: Callable[[], Result]) -> tuple[Result, float]:
    """Return the result of `work` and the seconds that it took."""
    started = time.monotonic()
    return work(), time.monotonic() - started


def open_below(directory: Path) -> list[str]:
    """Return the files below `directory` that this process has open, one entry per descriptor."""
    found = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(str(descriptor.readlink()))
    return [path for path in found if path.startswith(f"{directory}/")]


def stored_files(cache: Path) -> list[Path]:
    """Return the paths of all stored files."""
    return [path for path in (cache / "+files").rglob("*") if path.is_file()]


def stored_names(cache: Path) -> set[str]:
    """Return the names of all stored files."""
    return {path.name for path in stored_files(cache)}


def stored_keys(cache: Path) -> set[str]:
    """Return the keys of all stored files. Asserts that the content of each has its digest."""
    keys = set()
    for path in stored_files(cache):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        assert (path.parts[-3], path.parts[-2]) == (digest[:3], digest[3:16])
        keys.add("/".join(path.parts[-3:]))
    return keys


def partial_sizes(cache: Path) -> list[int]:
    """Return the bytes of each partial file; none before the directory exists."""
    sizes = []
    for path in cache.glob("+partial/*"):
        # pytail may remove or rename it meanwhile.
        with contextlib.suppress(FileNotFoundError):
            sizes.append(path.stat().st_size)
    return sizes


def memory(process: int, field: str = "VmRSS") -> int:
    """Return the resident bytes of a process: now, or with `VmHWM` at most so far, see proc(5)."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.partition(f"{field}:")[2].split()[0]) * 1024


def samples(client: Client) -> dict[tuple[str, ...], float]:
    """Return the value of each sample of ``/+metrics``, by its name and its labels' values."""
    text = client.get("/+metrics").data.decode()
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
