"""The rows of the table that compare pytail with its peers; each returns one `Row`.

All contestants of a row run at the same time, warm and checked; one is measured while the others
idle. Where something must be cold, each measurement gets a server of its own.
"""

from __future__ import annotations

import contextlib
import importlib.util
import random
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import partial

from benchmarks import load
from benchmarks.installs import Client
from benchmarks.load import GZIP, PLAIN, Request
from benchmarks.peers import Peers, Server
from benchmarks.results import OURS, Bound, Row, Samples, interleaved
from benchmarks.upstream import KIB, MIB, Site

Start = Callable[[], AbstractContextManager[Server]]
Ask = Callable[[Server], list[Request]]


@dataclass(frozen=True)
class Bench:
    """What a row needs: the peers, the index upstream, how long to measure, uv's headers."""

    peers: Peers
    site: Site
    nginx: Server
    rounds: int
    seconds: float
    quick: bool
    uv: Mapping[str, str]

    @property
    def ours(self) -> Start:
        """Starts a pytail."""
        return self.peers.pytail

    @property
    def rust(self) -> Start:
        """Starts a Rust pytail."""
        return self.peers.rust

    @property
    def static(self) -> Start:
        """The nginx that serves upstream's pages and files, which runs already."""
        return lambda: contextlib.nullcontext(self.nginx)


def mix(bench: Bench) -> Row:
    """40 projects, as uv asks for them."""
    projects = list(bench.site.mix().items())
    # So that a slow server, which gets through them once or twice, meets an even selection.
    random.Random(1).shuffle(projects)
    peers = bench.peers
    samples = _hot(
        bench,
        [bench.static, bench.ours, bench.rust, peers.devpi, peers.proxpi],
        lambda server: [load.page_request(server, name, n, bench.uv) for name, n in projects],
    )
    bounds = [_rate(0.8, "nginx"), _rate(100, "rust"), _rate(80, "devpi"), _rate(80, "proxpi")]
    return Row("mix", "hot pages, realistic mix, uv's headers", "requests/s", samples, bounds)


def page_10(bench: Bench) -> Row:
    """A small page."""
    samples = _hot_page(bench, 10, PLAIN, bench.rust)
    return Row("page-10", "hot page of 10 files", "requests/s", samples, [_rate(0.5, "rust")])


def page_500(bench: Bench) -> Row:
    """A page of middling size."""
    samples = _hot_page(bench, 500, GZIP, bench.rust)
    work = "hot page of 500 files, gzip"
    return Row("page-500", work, "requests/s", samples, [_rate(0.5, "rust")])


def page_5000(bench: Bench) -> Row:
    """A large page."""
    samples = _hot_page(bench, 5000, GZIP, bench.static)
    work = "hot page of 5,000 files, gzip"
    return Row("page-5000", work, "requests/s", samples, [_rate(0.8, "nginx")])


def unchanged(bench: Bench) -> Row:
    """304 for pages of three sizes."""

    def ask(server: Server) -> list[Request]:
        pages = [_page(bench, server, count, GZIP) for count in (10, 500, 5000)]
        return [load.unchanged_request(server, page) for page in pages]

    samples = _hot(bench, [bench.ours, bench.rust], ask)
    work = "304 on pages of 10, 500 and 5,000 files"
    return Row("unchanged", work, "requests/s", samples, [_rate(0.5, "rust")])


def file_100k(bench: Bench) -> Row:
    """A small held file."""
    samples = _held_file(bench, 100 * KIB, 16)
    return Row("file-100k", "held file of 100 KB", "requests/s", samples, [_rate(1.2, "rust")])


def file_10m(bench: Bench) -> Row:
    """A held file of some size."""
    samples = _held_file(bench, 10 * MIB, 8)
    return Row("file-10m", "held file of 10 MB", "requests/s", samples, [_rate(0.9, "rust")])


def file_range(bench: Bench) -> Row:
    """A part of a held file."""
    samples = _held_file(bench, 10 * MIB, 16, (4 * MIB, 5 * MIB))
    work = "1 MB range of a held file of 10 MB"
    return Row("file-range", work, "requests/s", samples, [_rate(0.8, "rust")])


def cold_file(bench: Bench, clients: int) -> Row:
    """`clients` of a file that nobody has yet."""
    size = 64 * MIB
    [digest] = bench.site.ballast("cold-64m", size).values()
    _page(bench, bench.nginx, 10, PLAIN)

    def measure(start: Start) -> float:
        with start() as server:
            # The server is warm, the file's page known; the file itself is cold.
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


def cold_page(bench: Bench) -> Row:
    """A large page that nobody has asked for yet, another one in each round."""
    rounds = 2 * bench.rounds + 1
    pages = [bench.site.page(f"cold-5000-{turn}", 5000) for turn in range(rounds)]
    with ExitStack() as stack:
        servers = [stack.enter_context(start()) for start in (bench.ours, bench.rust)]

        def measure(server: Server, left: list[str]) -> float:
            seconds, answer = load.timed_page(server, left.pop(), bench.uv)
            if len(answer.json()["files"]) != 5000:
                raise load.WrongAnswer(f"{server.name}: another page")
            return seconds * 1000

        for server in servers:
            _page(bench, server, 10, bench.uv)
        contestants = {each.name: partial(measure, each, [*pages]) for each in servers}
        samples = interleaved(rounds, contestants)
    work = "cold page of 5,000 files, request to last byte"
    return Row("cold-page", work, "ms", samples, [_time(1.0, "rust")])


def uv_warm(bench: Bench) -> Row:
    """uv, from a cache that holds everything."""
    samples = _warm_installs(bench, "uv")
    return Row("uv-warm", "uv pip install of 40 wheels, warm", "s", samples, [_time(1.1, "nginx")])


def pip_warm(bench: Bench) -> Row:
    """The same with pip."""
    samples = _warm_installs(bench, "pip")
    work = "pip install of 40 wheels, warm"
    return Row("pip-warm", work, "s", samples, [_time(1.05, "nginx")])


def uv_cold(bench: Bench) -> Row:
    """uv, from an empty cache, in each round again."""
    client, peers = Client(bench.peers, bench.site, "uv"), bench.peers

    def measure(start: Start) -> float:
        with start() as server:
            return client.install(server)

    starts: dict[str, Start] = {OURS: bench.ours, "rust": bench.rust}
    starts |= {"devpi": peers.devpi, "proxpi": peers.proxpi}
    samples = interleaved(bench.rounds, {n: partial(measure, s) for n, s in starts.items()})
    bounds = [_time(1.0, "rust", "devpi", "proxpi")]
    return Row("uv-cold", "uv pip install of 40 wheels, cold", "s", samples, bounds)


def gunicorn(bench: Bench) -> Row:
    """The mix under gunicorn, with one worker and with two, beside the program itself."""
    classes, notes = ["gevent"], []
    if importlib.util.find_spec("pytail.gunicorn"):
        classes.append("pytail.gunicorn.Worker")
    else:
        notes.append("pytail.gunicorn.Worker is not there yet")
    starts: list[Start] = [bench.ours]
    starts += [partial(bench.peers.gunicorn, n, kind) for kind in classes for n in (1, 2)]
    projects = bench.site.mix().items()
    samples = _hot(
        bench,
        starts,
        lambda server: [load.page_request(server, name, n, bench.uv) for name, n in projects],
        connections=32,
    )
    bounds = [Bound(1.5, True, (f"{kind} -w 1",), f"{kind} -w 2") for kind in classes]
    work = "hot pages, realistic mix, under gunicorn"
    return Row("gunicorn", work, "requests/s", samples, bounds, notes)


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
    "cold-page": cold_page,
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


def _hot(bench: Bench, starts: list[Start], ask: Ask, connections: int = 16) -> Samples:
    """Requests a second of each, for what `ask` has seen to be answered right."""
    with ExitStack() as stack:
        servers = [stack.enter_context(start()) for start in starts]
        requests = {server.name: ask(server) for server in servers}

        def measure(server: Server, seconds: float) -> float:
            return load.hammered(server, requests[server.name], seconds, connections).rate

        for server in servers:
            measure(server, 1)
        contestants = {each.name: partial(measure, each, bench.seconds) for each in servers}
        return interleaved(bench.rounds, contestants)


def _hot_page(bench: Bench, count: int, headers: Mapping[str, str], peer: Start) -> Samples:
    return _hot(bench, [bench.ours, peer], lambda server: [_page(bench, server, count, headers)])


def _held_file(
    bench: Bench, size: int, connections: int, part: tuple[int, int] | None = None
) -> Samples:
    digest = bench.site.ballast("held", 100 * KIB, 10 * MIB)[size]
    return _hot(
        bench,
        [bench.ours, bench.rust],
        lambda server: [load.file_request(server, "held", digest, part)],
        connections,
    )


def _warm_installs(bench: Bench, program: str) -> Samples:
    client = Client(bench.peers, bench.site, program)
    with bench.ours() as ours:
        servers = [ours, bench.nginx]
        for server in servers:
            client.install(server)
        return interleaved(bench.rounds, {s.name: partial(client.install, s) for s in servers})
