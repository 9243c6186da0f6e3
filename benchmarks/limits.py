"""The rows of the table that are absolute: memory, start, and what neighbours feel."""

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

#: Something cold that comes in; it ends when it has come.
Arrival = Callable[[], object]


def idle_memory(bench: Bench) -> Row:
    """Resident memory of a pytail that was asked once."""

    def measure() -> float:
        with bench.ours() as server:
            load.get(server, "/simple/")
            return server.memory() / 1e6

    return _row("memory-idle", "idle resident memory", "MB", 70, bench.rounds, measure)


def pages_memory(bench: Bench) -> Row:
    """Resident memory once many large pages went out, cold and then hot."""
    projects = [bench.site.page(f"many-{number}", 3000) for number in range(200)]

    def measure() -> float:
        with bench.ours() as server:
            for _ in range(2):
                load.asked_each(server, projects, bench.uv)
            return server.memory() / 1e6

    work = "memory after serving 200 projects of 3,000 files"
    return _row("memory-pages", work, "MB", 300, 1, measure)


def file_memory(bench: Bench) -> Row:
    """Peak resident memory while many clients read one large file that arrives."""
    size = 256 * MIB if bench.quick else GIB
    project = f"arriving-{size}"
    [digest] = bench.site.ballast(project, size).values()

    def measure() -> float:
        with bench.ours() as server:
            path = load.file_paths(server, project)[digest]
            load.drained(server, {path: size}, 32)
            return server.memory("VmHWM") / MIB

    row = _row("memory-file", "peak memory, 32 clients of one 1 GiB file", "MiB", 150, 1, measure)
    return _quick(row, bench, "256 MiB instead of 1 GiB")


def start(bench: Bench) -> Row:
    """From start to first answer, with a catalog that knows many projects."""
    count = 2_000 if bench.quick else 20_000
    projects = [bench.site.page(f"known-{n}", 3, packed=False) for n in range(count)]
    with tempfile.TemporaryDirectory(dir=bench.peers.work) as directory:
        cache = Path(directory)
        with bench.peers.pytail(cache) as server:
            load.asked_each(server, projects, bench.uv)

        def measure() -> float:
            with bench.peers.pytail(cache) as server:
                load.page_request(server, projects[-1], 3)
                return time.monotonic() - server.born

        work = "start to first answer with 20,000 known projects"
        row = _row("start", work, "s", 1, bench.rounds, measure)
    return _quick(row, bench, "2,000 projects instead of 20,000")


def page_neighbours(bench: Bench) -> Row:
    """What small hits feel while pages of 20,000 files arrive."""
    pages = [bench.site.page(f"huge-{number}", 20_000) for number in range(3)]

    def arrivals(server: Server) -> list[Arrival]:
        return [partial(load.asked_each, server, [page], bench.uv) for page in pages]

    work = "p99 of small hits while 20,000-file pages arrive cold"
    return _neighbours(bench, "p99-page", work, 25, arrivals)


def storm_neighbours(bench: Bench) -> Row:
    """What small hits feel while many large pages arrive at the same time."""
    pages = [bench.site.page(f"cold-5000-{number}", 5000) for number in range(15)]

    def arrivals(server: Server) -> list[Arrival]:
        return [partial(load.asked_each, server, pages, bench.uv)]

    work = "p99 of small hits while 5,000-file pages arrive cold, eight at a time"
    return _neighbours(bench, "p99-pages", work, 25, arrivals)


def file_neighbours(bench: Bench) -> Row:
    """What small hits feel while large files arrive."""
    size, names = 200 * MIB, [f"big-{number}" for number in range(8)]
    digests = {name: bench.site.ballast(name, size)[size] for name in names}

    def arrivals(server: Server) -> list[Arrival]:
        paths = [load.file_paths(server, name)[digest] for name, digest in digests.items()]
        return [partial(load.drained, server, dict.fromkeys(paths, size))]

    work = "p99 of small hits while eight 200 MB files arrive cold"
    return _neighbours(bench, "p99-files", work, 20, arrivals)


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
    # A verdict on less work must not look like one on the whole.
    if bench.quick:
        row.work += f" (here {note})"
    return row


def _neighbours(
    bench: Bench, key: str, work: str, most: float, arrivals: Callable[[Server], list[Arrival]]
) -> Row:
    def measure(arrivals: Callable[[Server], list[Arrival]]) -> float:
        with bench.ours() as server:
            return percentile(_disturbed(bench, server, arrivals(server)), 0.99)

    def nothing(_server: Server) -> list[Arrival]:
        return [partial(time.sleep, 2)]

    contestants = {OURS: partial(measure, arrivals), "nothing arriving": partial(measure, nothing)}
    samples = interleaved(1 if bench.quick else 3, contestants)
    return Row(key, work, "ms", samples, [Bound(most, False)])


def _disturbed(bench: Bench, server: Server, arrivals: list[Arrival]) -> list[float]:
    """Milliseconds of small hits, sent every 10 ms, while one of `arrivals` after the other runs.

    Those run in another process, so that the one that measures has no other work.
    """
    small = load.page_request(server, bench.site.page("page-10", 10), 10, PLAIN)
    load.page_request(server, "page-10", 10, GZIP)
    taken: list[float] = []
    with ProcessPoolExecutor(1) as pool:
        # Its start is no part of what is measured.
        pool.submit(int).result()
        for arrival in arrivals:
            arriving: Future[object] = pool.submit(arrival)
            taken += load.probed(server, small, arriving.done)
            arriving.result()
    return taken
