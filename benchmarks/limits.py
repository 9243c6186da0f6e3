"""The rows with absolute bounds: memory, start, and the delay of hits during downloads."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from functools import partial
from pathlib import Path

from benchmarks import load
from benchmarks.load import GZIP, PLAIN
from benchmarks.peers import Server
from benchmarks.results import OURS, Bound, Row, interleaved, percentile
from benchmarks.rows import Bench
from benchmarks.upstream import GIB, MIB

#: Makes pytail download something new; returns when the download has ended.
Download = Callable[[], object]


def idle_memory(bench: Bench) -> Row:
    """Resident memory after one request."""

    def measure() -> float:
        with bench.ours() as server:
            load.get(server, "/simple/")
            return server.memory() / 1e6

    return _row("memory-idle", "idle resident memory", "MB", 70, bench.rounds, measure)


def pages_memory(bench: Bench) -> Row:
    """Resident memory after 200 large pages, each served as a miss and then as a hit."""
    projects = [bench.site.page(f"many-{number}", 3000) for number in range(200)]

    def measure() -> float:
        with bench.ours() as server:
            for _ in range(2):
                load.get_pages(server, projects, bench.uv)
            return server.memory() / 1e6

    work = "memory after serving 200 projects of 3,000 files"
    return _row("memory-pages", work, "MB", 300, 1, measure)


def file_memory(bench: Bench) -> Row:
    """Peak resident memory while 32 clients read one large file that pytail downloads."""
    size = 256 * MIB if bench.quick else GIB
    project = f"large-{size}"
    [digest] = bench.site.ballast(project, size).values()

    def measure() -> float:
        with bench.ours() as server:
            path = load.file_paths(server, project)[digest]
            load.drained(server, {path: size}, 32)
            return server.memory("VmHWM") / MIB

    row = _row("memory-file", "peak memory, 32 clients of one 1 GiB file", "MiB", 150, 1, measure)
    return _quick(row, bench, "256 MiB instead of 1 GiB")


def start(bench: Bench) -> Row:
    """Seconds from start to first response, with 20,000 projects in the catalog."""
    count = 2_000 if bench.quick else 20_000
    projects = [bench.site.page(f"known-{n}", 3, packed=False) for n in range(count)]
    with tempfile.TemporaryDirectory(dir=bench.peers.work) as directory:
        cache = Path(directory)
        with bench.peers.pytail(cache) as server:
            load.get_pages(server, projects, bench.uv)

        def measure() -> float:
            with bench.peers.pytail(cache) as server:
                load.page_request(server, projects[-1], 3)
                return time.monotonic() - server.born

        work = "start to first response with 20,000 known projects"
        row = _row("start", work, "s", 1, bench.rounds, measure)
    return _quick(row, bench, "2,000 projects instead of 20,000")


def page_neighbours(bench: Bench) -> Row:
    """99th percentile of small hits while pytail fetches pages of 20,000 files."""
    pages = [bench.site.page(f"huge-{number}", 20_000) for number in range(3)]

    def downloads(server: Server) -> list[Download]:
        return [partial(load.get_pages, server, [page], bench.uv) for page in pages]

    work = "p99 of small hits while pages of 20,000 files are fetched"
    return _neighbours(bench, "p99-page", work, 25, downloads)


def storm_neighbours(bench: Bench) -> Row:
    """99th percentile of small hits while pytail fetches 15 pages of 5,000 files."""
    pages = [bench.site.page(f"cold-5000-{number}", 5000) for number in range(15)]

    def downloads(server: Server) -> list[Download]:
        return [partial(load.get_pages, server, pages, bench.uv)]

    work = "p99 of small hits while pages of 5,000 files are fetched, eight at a time"
    return _neighbours(bench, "p99-pages", work, 25, downloads)


def file_neighbours(bench: Bench) -> Row:
    """99th percentile of small hits while pytail downloads files of 200 MiB."""
    size, names = 200 * MIB, [f"big-{number}" for number in range(8)]
    digests = {name: bench.site.ballast(name, size)[size] for name in names}

    def downloads(server: Server) -> list[Download]:
        paths = [load.file_paths(server, name)[digest] for name, digest in digests.items()]
        return [partial(load.drained, server, dict.fromkeys(paths, size))]

    work = "p99 of small hits while eight files of 200 MB are downloaded"
    return _neighbours(bench, "p99-files", work, 20, downloads)


LIMITS: dict[str, Callable[[Bench], Row]] = {
    "memory-idle": idle_memory,
    "memory-pages": pages_memory,
    "memory-file": file_memory,
    "start": start,
    "p99-page": page_neighbours,
    "p99-pages": storm_neighbours,
    "p99-files": file_neighbours,
}


def _row(
    key: str, work: str, unit: str, most: float, rounds: int, measure: Callable[[], float]
) -> Row:
    return Row(key, work, unit, interleaved(rounds, {OURS: measure}), [Bound(most, False)])


def _quick(row: Row, bench: Bench, note: str) -> Row:
    # The report shows that the work was less than the bound is for.
    if bench.quick:
        row.work += f" (here {note})"
    return row


def _neighbours(
    bench: Bench, key: str, work: str, most: float, downloads: Callable[[Server], list[Download]]
) -> Row:
    def measure(downloads: Callable[[Server], list[Download]]) -> float:
        with bench.ours() as server:
            return percentile(_disturbed(bench, server, downloads(server)), 0.99)

    def nothing(_server: Server) -> list[Download]:
        return [partial(time.sleep, 2)]

    contestants = {
        OURS: partial(measure, downloads),
        "nothing downloaded": partial(measure, nothing),
    }
    samples = interleaved(1 if bench.quick else 3, contestants)
    return Row(key, work, "ms", samples, [Bound(most, False)])


def _disturbed(bench: Bench, server: Server, downloads: list[Download]) -> list[float]:
    """Return the milliseconds of small hits, sent every 10 ms, while `downloads` run in turn.

    The downloads run in another process, so that this one only measures.
    """
    small = load.page_request(server, bench.site.page("page-10", 10), 10, PLAIN)
    load.page_request(server, "page-10", 10, GZIP)
    taken: list[float] = []
    with ProcessPoolExecutor(1) as pool:
        # Start the process before the measurement.
        pool.submit(int).result()
        for download in downloads:
            running: Future[object] = pool.submit(download)
            taken += load.probed(server, small, running.done)
            running.result()
    return taken
