"""The rows that compare pytail with its peers; each function returns one `Row`.

All contestants of a row run at the same time, warmed up and with verified responses. One is measured
while the others idle. For downloads, each measurement starts a new server or takes a new project.
"""

from __future__ import annotations

import contextlib
import math
import random
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import partial

from benchmarks import load
from benchmarks.installs import Client
from benchmarks.load import GZIP, PLAIN, Request
from benchmarks.peers import BARE, Peers, Server
from benchmarks.results import OURS, Bound, Row, Samples, interleaved, log_spaced
from benchmarks.upstream import KIB, MIB, Site

Start = Callable[[], AbstractContextManager[Server]]
Ask = Callable[[Server], list[Request]]


@dataclass(frozen=True)
class Bench:
    """The peers, the upstream index, rounds and seconds of a measurement, and uv's headers."""

    peers: Peers
    site: Site
    nginx: Server
    rounds: int
    seconds: float
    quick: bool
    uv: Mapping[str, str]

    @property
    def ours(self) -> Start:
        """Start a pytail."""
        return self.peers.pytail

    @property
    def rust(self) -> Start:
        """Start a Rust pytail."""
        return self.peers.rust

    @property
    def static(self) -> Start:
        """Return the nginx that serves upstream's pages and files, which runs already."""
        return lambda: contextlib.nullcontext(self.nginx)


def mix(bench: Bench) -> Row:
    """The pages of 40 projects, requested with uv's headers."""
    projects = list(bench.site.mix().items())
    # In random order, because slow servers get only through some of them.
    random.Random(1).shuffle(projects)
    bounds = [_rate(0.8, "nginx"), _rate(100, "rust"), _rate(80, "devpi"), _rate(80, "proxpi")]
    return _hot(
        bench,
        _requests("mix", "hot pages, realistic mix, uv's headers", *bounds),
        [bench.static, bench.ours, bench.rust, bench.peers.devpi, bench.peers.proxpi],
        lambda server: [load.page_request(server, name, n, bench.uv) for name, n in projects],
    )


def page_10(bench: Bench) -> Row:
    """A small page."""
    row = _requests("page-10", "hot page of 10 files", _rate(0.5, "rust"))
    return _hot_page(bench, row, 10, PLAIN, bench.rust)


def page_500(bench: Bench) -> Row:
    """A page of medium size."""
    row = _requests("page-500", "hot page of 500 files, gzip", _rate(0.5, "rust"))
    return _hot_page(bench, row, 500, GZIP, bench.rust)


def page_5000(bench: Bench) -> Row:
    """A large page."""
    row = _requests("page-5000", "hot page of 5,000 files, gzip", _rate(0.8, "nginx"))
    return _hot_page(bench, row, 5000, GZIP, bench.static)


def unchanged(bench: Bench) -> Row:
    """304 for pages of three sizes."""

    def ask(server: Server) -> list[Request]:
        pages = [_page(bench, server, count, GZIP) for count in (10, 500, 5000)]
        return [load.unchanged_request(server, page) for page in pages]

    work = "304 on pages of 10, 500 and 5,000 files"
    row = _requests("unchanged", work, _rate(0.5, "rust"))
    return _hot(bench, row, [bench.ours, bench.rust], ask)


def file_100k(bench: Bench) -> Row:
    """A small stored file."""
    row = _requests("file-100k", "stored file of 100 KB", _rate(1.2, "rust"))
    return _stored_file(bench, row, 100 * KIB, 16)


def file_10m(bench: Bench) -> Row:
    """A stored file of medium size."""
    row = _requests("file-10m", "stored file of 10 MB", _rate(0.9, "rust"))
    return _stored_file(bench, row, 10 * MIB, 8)


def file_range(bench: Bench) -> Row:
    """A range of a stored file."""
    work = "1 MB range of a stored file of 10 MB"
    row = _requests("file-range", work, _rate(0.8, "rust"))
    return _stored_file(bench, row, 10 * MIB, 16, (4 * MIB, 5 * MIB))


def cold_file(bench: Bench, clients: int) -> Row:
    """Megabytes a second of `clients` that read one file while the server downloads it."""
    size = 64 * MIB
    [digest] = bench.site.ballast("cold-64m", size).values()
    _page(bench, bench.nginx, 10, PLAIN)

    def measure(start: Start) -> float:
        with start() as server:
            # The server has served the pages, but not the file.
            _page(bench, server, 10, PLAIN)
            path = load.file_paths(server, "cold-64m")[digest]
            return clients * size / load.drained(server, {path: size}, clients) / 1e6

    for start in (bench.ours, bench.rust):
        with start() as server:
            load.file_request(server, "cold-64m", digest)
    starts = {OURS: bench.ours, "rust": bench.rust}
    samples = interleaved(bench.rounds, {n: partial(measure, s) for n, s in starts.items()})
    work = f"cold file of 64 MB, {clients} client{'s' * (clients > 1)}, aggregate"
    return Row(f"cold-file-{clients}", work, "MB/s", samples, [_rate(0.8, "rust")])


def cold_small_files(bench: Bench) -> Row:
    """Small files a second, 64 at a time, from an empty store: an installation of many small wheels.

    Each file has its own project, of which the server knows the page. The limit is an nginx that
    proxies the same upstream and stores the files.
    """
    sizes = log_spaced(KIB, 50 * KIB, 256 if bench.quick else 1024)
    digests: dict[str, str] = {}
    for place, size in enumerate(sizes):
        name = f"small-{place}"
        [digests[name]] = bench.site.ballast(name, size).values()
    work = "cold files of 1 to 50 KB, 64 at a time"
    row = Row("cold-small-files", work, "files/s", bounds=[_rate(0.5, "rust")])

    def measure(name: str, start: Start) -> float:
        with start() as server:
            # The server has served the pages, but not the files.
            due = load.paths_of(server, digests)
            server.settle()
            before = server.busy()
            seconds = load.fetched(server, due, 64)
            server.settle()
            cost = (server.busy() - before) * 1e6 / len(due)
            row.costs.setdefault(name, []).append(cost)
            return len(due) / seconds

    starts: dict[str, Start] = {OURS: bench.ours, "rust": bench.rust}
    starts["nginx proxy"] = bench.peers.nginx_proxy
    contestants = {name: partial(measure, name, start) for name, start in starts.items()}
    row.samples = interleaved(bench.rounds, contestants)
    return row


def cold_page(bench: Bench) -> Row:
    """Milliseconds of a miss for a large page, another one in each round."""
    rounds = 2 * bench.rounds + 1
    pages = [bench.site.page(f"cold-5000-{number}", 5000) for number in range(rounds)]
    with ExitStack() as stack:
        servers = [stack.enter_context(start()) for start in (bench.ours, bench.rust)]

        def measure(server: Server, left: list[str]) -> float:
            seconds, response = load.timed_page(server, left.pop(), bench.uv)
            if len(response.json()["files"]) != 5000:
                raise load.WrongResponse(f"{server.name}: another page")
            return seconds * 1000

        for server in servers:
            _page(bench, server, 10, bench.uv)
        contestants = {each.name: partial(measure, each, [*pages]) for each in servers}
        samples = interleaved(rounds, contestants)
    work = "cold page of 5,000 files, request to last byte"
    return Row("cold-page", work, "ms", samples, [_time(1.0, "rust")])


def refresh(bench: Bench) -> Row:
    """Milliseconds for each of 200 large pages that upstream has not changed."""
    count = 20 if bench.quick else 200
    projects = [bench.site.page(f"many-{number}", 3000) for number in range(count)]
    work = "refresh of 200 unchanged pages of 3,000 files, without ETag"
    work += " (here 20 pages)" * bench.quick
    row = Row("refresh", work, "ms a page", bounds=[_time(8.0, "with ETag")])

    def measure(server: Server, name: str, etags: Mapping[str, str]) -> float:
        # All pages get stale.
        time.sleep(1.1)
        server.settle()
        before = server.busy()
        seconds = load.refresh_pages(server, etags, bench.uv)
        row.costs.setdefault(name, []).append((server.busy() - before) * 1e6 / count)
        return seconds * 1000 / count

    with ExitStack() as stack:
        contestants: dict[str, Callable[[], float]] = {}
        for name, below in ((OURS, BARE), ("with ETag", "")):
            start = bench.peers.pytail(None, "--project-cache-ttl-secs", "1", below=below)
            server = stack.enter_context(start)
            etags = {
                project: load.get(server, server.page(project), bench.uv).headers["etag"]
                for project in projects
            }
            contestants[name] = partial(measure, server, name, etags)
        row.samples = interleaved(bench.rounds, contestants)
    return row


def uv_warm(bench: Bench) -> Row:
    """Seconds of an installation by uv, all files stored."""
    samples = _warm_installs(bench, "uv")
    return Row("uv-warm", "uv pip install of 40 wheels, warm", "s", samples, [_time(1.1, "nginx")])


def pip_warm(bench: Bench) -> Row:
    """Seconds of an installation by pip, all files stored."""
    samples = _warm_installs(bench, "pip")
    work = "pip install of 40 wheels, warm"
    return Row("pip-warm", work, "s", samples, [_time(1.05, "nginx")])


def uv_cold(bench: Bench) -> Row:
    """Seconds of an installation by uv, from an empty cache in each round."""
    work, unit = "uv pip install of 40 wheels, cold", "s"
    row = Row("uv-cold", work, unit, bounds=[_time(1.0, "rust", "devpi", "proxpi")])
    client, peers = Client(bench.peers, bench.site, "uv"), bench.peers

    def measure(name: str, start: Start) -> float:
        with start() as server:
            try:
                return client.install(server)
            except load.WrongResponse as error:
                if name == OURS:
                    raise
                row.notes.append(f"the installation from a peer failed: {error}")
                return math.inf

    starts: dict[str, Start] = {OURS: bench.ours, "rust": bench.rust}
    starts |= {"devpi": peers.devpi, "proxpi": peers.proxpi}
    contestants = {name: partial(measure, name, start) for name, start in starts.items()}
    row.samples = interleaved(bench.rounds, contestants)
    return row


def gunicorn(bench: Bench) -> Row:
    """The mix under gunicorn, with one worker and with two, and without gunicorn."""
    kinds = ("gevent", "pytail.gunicorn.Worker")
    starts: list[Start] = [bench.ours]
    starts += [partial(bench.peers.gunicorn, n, kind) for kind in kinds for n in (1, 2)]
    projects = bench.site.mix().items()
    # On two cores, the client needs one: a worker of the other class already keeps it busy.
    bound = Bound(1.5, True, ("gevent -w 1",), "gevent -w 2")
    row = _requests("gunicorn", "hot pages, realistic mix, under gunicorn", bound)
    return _hot(
        bench,
        row,
        starts,
        lambda server: [load.page_request(server, name, n, bench.uv) for name, n in projects],
        connections=32,
        # Each worker has its own caches in memory.
        warm=10,
    )


ROWS: dict[str, Callable[[Bench], Row]] = {
    "mix": mix,
    "page-10": page_10,
    "page-500": page_500,
    "page-5000": page_5000,
    "unchanged": unchanged,
    "file-100k": file_100k,
    "file-10m": file_10m,
    "file-range": file_range,
    "cold-file-1": partial(cold_file, clients=1),
    "cold-file-8": partial(cold_file, clients=8),
    "cold-file-32": partial(cold_file, clients=32),
    "cold-small-files": cold_small_files,
    "cold-page": cold_page,
    "refresh": refresh,
    "uv-warm": uv_warm,
    "uv-cold": uv_cold,
    "pip-warm": pip_warm,
    "gunicorn": gunicorn,
}


def _rate(factor: float, *against: str) -> Bound:
    return Bound(factor, True, against)


def _time(factor: float, *against: str) -> Bound:
    return Bound(factor, False, against)


def _page(bench: Bench, server: Server, count: int, headers: Mapping[str, str]) -> Request:
    project = bench.site.page(f"page-{count}", count)
    return load.page_request(server, project, count, headers)


def _requests(key: str, work: str, *bounds: Bound) -> Row:
    return Row(key, work, "requests/s", bounds=[*bounds])


def _hot(
    bench: Bench,
    row: Row,
    starts: list[Start],
    ask: Ask,
    connections: int = 16,
    warm: float = 1,
) -> Row:
    """Return `row` with requests a second and their processor time.

    `ask` returns the requests to a server, whose responses it has verified. Each server gets them for
    `warm` seconds before the measurement.
    """
    with ExitStack() as stack:
        servers = [stack.enter_context(start()) for start in starts]
        requests = {server.name: ask(server) for server in servers}

        def measure(server: Server, seconds: float) -> float:
            done = load.measured(server, requests[server.name], seconds, connections)
            row.costs.setdefault(server.name, []).append(done.cost)
            return done.rate

        for server in servers:
            measure(server, warm)
        row.costs.clear()
        contestants = {each.name: partial(measure, each, bench.seconds) for each in servers}
        row.samples = interleaved(bench.rounds, contestants)
    return row


def _hot_page(bench: Bench, row: Row, count: int, headers: Mapping[str, str], peer: Start) -> Row:
    def ask(server: Server) -> list[Request]:
        return [_page(bench, server, count, headers)]

    return _hot(bench, row, [bench.ours, peer], ask)


def _stored_file(
    bench: Bench, row: Row, size: int, connections: int, span: tuple[int, int] | None = None
) -> Row:
    digest = bench.site.ballast("stored", 100 * KIB, 10 * MIB)[size]

    def ask(server: Server) -> list[Request]:
        return [load.file_request(server, "stored", digest, span)]

    return _hot(bench, row, [bench.ours, bench.rust], ask, connections)


def _warm_installs(bench: Bench, program: str) -> Samples:
    client = Client(bench.peers, bench.site, program)
    with bench.ours() as ours:
        servers = [ours, bench.nginx]
        for server in servers:
            client.install(server)
        return interleaved(bench.rounds, {s.name: partial(client.install, s) for s in servers})
