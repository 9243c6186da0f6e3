"""The plots: how times, rates and memory grow with the work."""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import load
from benchmarks.charts import Plot
from benchmarks.load import Request
from benchmarks.peers import Server
from benchmarks.results import OURS, interleaved
from benchmarks.rows import Bench

SIZES = [10, 30, 100, 300, 1000, 3000, 10_000, 20_000]
CLIENTS = [1, 2, 4, 8, 16, 32, 64, 128, 256]
WORKERS = [1, 2, 4]
STORED = [1_000, 10_000, 100_000]


def latency(bench: Bench) -> Plot:
    """Milliseconds of a hit, for one client that sends uv's headers without pauses."""
    plot = Plot("latency", "hot page, one client, uv's headers", "files on the page", "ms, median")
    with _all(bench) as servers:
        for size in SIZES:
            project = bench.site.page(f"page-{size}", size)

            def measure(server: Server, project: str = project, size: int = size) -> float:
                requests = [load.page_request(server, project, size, bench.uv)]
                return load.measured(server, requests, bench.seconds, 1).p50

            _add(plot, size, {each.name: partial(measure, each) for each in servers}, bench.rounds)
    return plot


def memory(bench: Bench) -> Plot:
    """Resident memory of a pytail after one page, served as a miss and then as a hit."""
    plot = Plot("memory", "resident memory after one page", "files on the page", "MB")

    def measure(size: int) -> float:
        with bench.ours() as server:
            for _ in range(2):
                load.page_request(server, bench.site.page(f"page-{size}", size), size, bench.uv)
            return server.memory() / 1e6

    plot.lines[OURS] = [(size, measure(size)) for size in SIZES]
    return plot


def clients(bench: Bench) -> Plot:
    """Requests a second, by the number of connections."""
    plot = Plot("clients", "hot page of 10 files", "clients", "requests a second")
    project = bench.site.page("page-10", 10)
    with _all(bench) as servers:
        requests = {each.name: [load.page_request(each, project, 10)] for each in servers}
        for count in CLIENTS:

            def measure(server: Server, count: int = count) -> float:
                return load.measured(server, requests[server.name], bench.seconds, count).rate

            _add(plot, count, {each.name: partial(measure, each) for each in servers}, bench.rounds)
    return plot


def workers(bench: Bench) -> Plot:
    """Requests a second, by the number of gunicorn workers."""
    plot = Plot("workers", "hot pages, realistic mix", "gunicorn workers", "requests a second")
    mix = bench.site.mix().items()
    with ExitStack() as stack:
        starts = {count: partial(bench.peers.gunicorn, count, "gevent") for count in WORKERS}
        servers = {count: stack.enter_context(start()) for count, start in starts.items()}
        requests = [load.page_request(servers[1], name, n, bench.uv) for name, n in mix]

        def measure(count: int, seconds: float = bench.seconds) -> float:
            return load.measured(servers[count], requests, seconds, 32).rate

        for count in WORKERS:
            measure(count, 10)
        samples = interleaved(bench.rounds, {str(n): partial(measure, n) for n in WORKERS})
    plot.lines["gevent"] = [(n, statistics.median(samples[str(n)])) for n in WORKERS]
    return plot


def store(bench: Bench) -> Plot:
    """Requests a second for 1,000 files of 1 KiB, by the number of stored files."""
    plot = Plot("store", "stored files of 1 KiB", "files in the store", "requests a second")
    for count in STORED[: 2 if bench.quick else None]:
        with TemporaryDirectory(dir=bench.peers.work) as directory:
            paths = _fill(Path(directory), count)
            with bench.peers.pytail(Path(directory)) as server:
                requests = [Request(path, {}, 1024) for path in paths[:: count // 1000]]
                if len(load.get(server, requests[-1].path, {}).body) != 1024:
                    raise load.WrongResponse("a stored file is not served")

                def measure(server: Server = server, requests: list[Request] = requests) -> float:
                    return load.measured(server, requests, bench.seconds).rate

                _add(plot, count, {OURS: measure}, bench.rounds)
    return plot


CURVES: dict[str, Callable[[Bench], Plot]] = {
    "latency": latency,
    "memory": memory,
    "clients": clients,
    "workers": workers,
    "store": store,
}


@contextmanager
def _all(bench: Bench) -> Iterator[list[Server]]:
    with ExitStack() as stack:
        yield [stack.enter_context(start()) for start in (bench.ours, bench.rust, bench.static)]


def _add(plot: Plot, x: float, contestants: Mapping[str, Callable[[], float]], rounds: int) -> None:
    for name, values in interleaved(rounds, contestants).items():
        plot.lines.setdefault(name, []).append((x, statistics.median(values)))


def _fill(cache: Path, count: int) -> list[str]:
    """Write `count` files in the layout of docs/how-it-works.md; return the paths of their URLs."""
    paths = []
    for number in range(count):
        data = number.to_bytes(1024, "big")
        digest = hashlib.sha256(data).hexdigest()
        path = f"root/pypi/+f/{digest[:3]}/{digest[3:16]}/many-{number}.tar.gz"
        file = cache / "+files" / path
        file.parent.mkdir(parents=True)
        file.write_bytes(data)
        paths.append(f"/{path}")
    return paths
