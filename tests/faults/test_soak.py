"""Two pytails on one cache directory while everything around them fails, for a minute or longer.

Upstream flaps, one of the two is killed or stopped at random moments, files are evicted, purged and
verified. No complete response may be wrong, and nothing may leak or be left over.

``PYTAIL_TESTS_SOAK_SECS=600`` makes it ten minutes, ``PYTAIL_TESTS_SEED`` repeats the choices of a run.
The last line of its output has the figures (``pytest -rP`` shows it).
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import gevent
import pytest

from tests.support.fakeindex import JSON, Dist, wheel
from tests.support.flapping import DECEIVING, Body, Host, Mood
from tests.support.running import Answer, Client, Program, clean_environ, free_port, program
from tests.support.sending import seeded
from tests.support.storage import files_in
from tests.support.watching import memory, until

pytestmark = pytest.mark.slow

#: Seconds of disorder; order follows for a few seconds more.
SECONDS = float(os.environ.get("PYTAIL_TESTS_SOAK_SECS") or 60)
PROJECTS, VERSIONS, HOSTS, CLIENTS = 12, 5, 6, 10
#: Bytes: the cache directory holds about half of all files.
LIMIT, LARGEST = 8 * 2**20, 2 * 2**20
#: Few slots, so that a slot that is lost shows soon.
SLOTS = 8
OPTIONS = [
    f"--cache-max-size={LIMIT}",
    f"--max-file-fetches={SLOTS}",
    f"--max-page-fetches={SLOTS}",
]
OPTIONS += ["--project-cache-ttl-secs=2", "--request-timeout-secs=2", "--missing-ttl-secs=1"]
#: Seconds until a client has a response, at most: pytail's own bound of 9 s, and a busy machine.
PATIENCE = 14
#: Bytes by which the memory of a process may grow after the first quarter of the time.
GROWTH = 60_000_000
#: A user without privileges; the programs of this machine may be readable to root only.
UNPRIVILEGED = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all"]
#: Messages of a log that no fault of this test explains.
FAULTS = re.compile(r"Traceback|ResourceWarning|internal error|Exception ignored")


@dataclasses.dataclass
class Listed:
    """A file of upstream, its entry on the page, and its path at pytail."""

    dist: Dist
    entry: dict[str, Any]
    #: What is wrong or missing on the page: "", "no size", "wrong size", "no sha256" or "no digest".
    kind: str
    path: str = ""

    @property
    def is_size_known(self) -> bool:
        """Whether pytail can know the size before it has the bytes."""
        return self.kind not in ("no size", "wrong size")


class Index:
    """Projects on one host, their files on others, with all kinds of entries."""

    def __init__(self, chance: random.Random) -> None:
        self.pages, *self.files = (Host(random.Random(chance.random())) for _ in range(HOSTS + 1))
        self.listed = [
            self._list(f"soak{project}", f"{version}.0", chance)
            for project in range(PROJECTS)
            for version in range(1, VERSIONS + 1)
        ]
        for project in {each.dist.project for each in self.listed}:
            entries = [each.entry for each in self.listed if each.dist.project == project]
            page = {"meta": {"api-version": "1.1"}, "name": project, "files": entries}
            # A page has no digest, so no test can tell whether another valid page is wrong.
            spared = frozenset({Mood.WRONG, Mood.LONGER, Mood.LOGIN})
            body = Body(json.dumps(page).encode(), JSON, spared)
            self.pages.bodies[f"/simple/{project}/"] = body

    @property
    def hosts(self) -> list[Host]:
        return [self.pages, *self.files]

    def _list(self, project: str, version: str, chance: random.Random) -> Listed:
        size = int(1000 * (LARGEST / 1000) ** chance.random())
        dist = wheel(project, version, payload=chance.randbytes(size))
        host, path = chance.choice(self.files), f"/packages/{dist.sha256[:8]}/{dist.filename}"
        entry = dist.entry() | {"url": host.url + path}
        kinds = ["no size", "wrong size", "no sha256", "no digest", *[""] * 6]
        kind, spared = chance.choice(kinds), frozenset[Mood]()
        if kind == "no size":
            del entry["size"]
        elif kind == "wrong size":
            entry["size"] += chance.choice([-1, 1, -entry["size"]])
        elif kind == "no sha256":
            name = chance.choice(["md5", "sha512"])
            entry["hashes"] = {name: hashlib.new(name, dist.data).hexdigest()}
        elif kind == "no digest":
            entry["hashes"], spared = {}, frozenset(DECEIVING)
        host.bodies[path] = Body(dist.data, spared=spared)
        host.bodies[f"{path}.metadata"] = Body(dist.metadata or b"")
        return Listed(dist, entry, kind)


class Node:
    """A pytail that can be killed and started again on its port."""

    def __init__(self, name: str, command: list[str], directory: Path) -> None:
        self.name, self._directory, self._starts = name, directory, 0
        port = free_port()
        self._command = [*command, "--bind", f"127.0.0.1:{port}"]
        self.client = Client(f"http://127.0.0.1:{port}")
        self._stack, self.running = ExitStack(), None
        #: How often it was killed or stopped, and whether it is now.
        self.disturbed, self.is_disturbed = 0, False
        self.start()

    def start(self) -> None:
        self._starts += 1
        log = self._directory / f"{self.name}-{self._starts}.log"
        started = program(self._command, log, self.client.url)
        self.running: Program | None = self._stack.enter_context(started)

    @property
    def pid(self) -> int:
        assert self.running
        return self.running.process.pid

    def kill(self) -> None:
        assert self.running
        self.running.process.kill()
        self._stack.close()

    def stop(self) -> int:
        """Send SIGTERM; return the exit code."""
        assert self.running
        self._stack.close()
        return self.running.process.wait()


class Soak:
    """The disorder, and what its clients saw."""

    def __init__(self, seed: str, cache: Path, prefix: list[str], directory: Path) -> None:
        self._seed, self._cache, self._prefix = seed, cache, prefix
        self.index = Index(self.chance("index"))
        url = self.index.pages.url
        self._options = ["--cache-dir", str(cache), "--upstream-base-url", url, *OPTIONS]
        command = [*prefix, sys.executable, "-m", "pytail", *self._options]
        self.survivor, self.victim = (Node(name, command, directory) for name in ("a", "b"))
        self.seen: Counter[str] = Counter()
        #: Each is a fault of pytail.
        self.wrong: list[str] = []
        self.slowest = 0.0
        self.most_bytes = 0
        self.memory: list[int] = []
        self.is_over = False

    def chance(self, name: str) -> random.Random:
        """Return a generator for one part of the run, so that it does not depend on the others."""
        return random.Random(f"{self._seed} {name}")

    @property
    def nodes(self) -> tuple[Node, Node]:
        return self.survivor, self.victim

    def find_paths(self) -> None:
        """Read from all pages where pytail serves their files."""
        for project in {each.dist.project for each in self.index.listed}:
            page = f"/simple/{project}/"
            files = {
                file["filename"]: file["url"]
                for file in self.survivor.client.json(project)["files"]
            }
            for each in self.index.listed:
                if each.dist.project == project:
                    each.path = urlsplit(urljoin(page, files[each.dist.filename])).path

    def run(self, seconds: float) -> None:
        """Let everything fail for `seconds`."""
        parts: list[tuple[str, Callable[[random.Random], None]]] = [
            *((f"client {number}", self._request) for number in range(CLIENTS)),
            *((f"host {number}", self._flap(host)) for number, host in enumerate(self.index.hosts)),
            ("kills", self._kill),
            ("commands", self._command),
            ("operator", self._tamper),
            ("samples", self._sample),
        ]
        greenlets = [gevent.spawn(self._repeat, name, work) for name, work in parts]
        gevent.sleep(seconds)
        self.is_over = True
        for host in self.index.hosts:
            host.change(Mood.GOOD)
        gevent.joinall(greenlets, raise_error=True)
        if self.most_bytes > LIMIT + LARGEST:
            self._fault(f"{self.most_bytes} bytes on the disk, with a limit of {LIMIT}")
        if self.memory[-1] - self._first_memory() > GROWTH:
            self._fault(f"memory: {self._first_memory()} bytes, and later {self.memory[-1]}")

    def _repeat(self, name: str, work: Callable[[random.Random], None]) -> None:
        chance = self.chance(name)
        while not self.is_over:
            work(chance)

    # What fails

    def _flap(self, host: Host) -> Callable[[random.Random], None]:
        def flap(chance: random.Random) -> None:
            # A host that failed is asked again after a pause, so most of the time is good.
            host.change(chance.choice(list(Mood)))
            gevent.sleep(chance.uniform(0.2, 2))
            host.change(Mood.GOOD)
            gevent.sleep(chance.uniform(0, 4))

        return flap

    def _kill(self, chance: random.Random) -> None:
        gevent.sleep(chance.uniform(1, 5))
        node = self.victim
        node.disturbed, node.is_disturbed = node.disturbed + 1, True
        if chance.random() < 0.7:
            self.seen["kills"] += 1
            node.kill()
            gevent.sleep(chance.uniform(0, 1))
            node.start()
        else:
            self.seen["stops"] += 1
            os.kill(node.pid, signal.SIGSTOP)
            gevent.sleep(chance.uniform(0.5, 4))
            os.kill(node.pid, signal.SIGCONT)
            # Requests that waited meanwhile.
            gevent.sleep(1)
        node.is_disturbed = False

    def _command(self, chance: random.Random) -> None:
        gevent.sleep(chance.uniform(0.5, 3))
        project = f"soak{chance.randrange(PROJECTS)}"
        purges = [["purge", project, "--yes"], ["purge", "--older-than", "2s", "--yes"]]
        words = chance.choice([*purges, ["verify"], ["gc"], ["list"], ["status"]])
        command = [*self._prefix, sys.executable, "-m", "pytail", *words, *self._options]
        self.seen[words[0]] += 1
        try:
            ran = subprocess.run(
                command,
                check=False,
                capture_output=True,
                text=True,
                env=clean_environ(),
                stdin=subprocess.DEVNULL,
                timeout=60,
            )
        except subprocess.TimeoutExpired:
            self._fault(f"{words}: no end within 60 seconds")
            return
        # `purge` leaves files in use, and says so.
        if ran.returncode not in ((0, 1) if words[0] == "purge" else (0,)):
            self._fault(f"{words}: exit code {ran.returncode}: {ran.stdout}{ran.stderr}")

    def _tamper(self, chance: random.Random) -> None:
        """Remove a partial file, or all of them, or a stored one, as an operator may."""
        gevent.sleep(chance.uniform(0.5, 4))
        partials, stored = (
            # Other processes remove directories meanwhile, which `Path.rglob` does not bear.
            [Path(root, name) for root, _, names in os.walk(self._cache / part) for name in names]
            for part in ("+partial", "+files")
        )
        kind = chance.choice(["a partial file", "all partial files", "a stored file"])
        chosen = (
            partials if kind == "all partial files" else chance.sample(partials, len(partials))[:1]
        )
        if kind == "a stored file":
            chosen = chance.sample(stored, len(stored))[:1]
        for path in chosen:
            path.unlink(missing_ok=True)
            self.seen["removed files"] += 1

    def _sample(self, _: random.Random) -> None:
        gevent.sleep(0.2)
        size = allocated(self._cache)
        self.most_bytes = max(self.most_bytes, size)
        self.memory.append(memory(self.survivor.pid))

    # What clients ask for

    def _request(self, chance: random.Random) -> None:
        gevent.sleep(chance.uniform(0, 0.1))
        node = chance.choice(self.nodes)
        # A few files are asked for often.
        listed = self.index.listed[int(len(self.index.listed) * chance.random() ** 2)]
        ask = chance.choice(
            [self._whole, self._range, self._old, self._head, self._page, self._metadata]
        )
        before, started = (node.disturbed, node.is_disturbed), time.monotonic()
        self.seen["requests"] += 1
        try:
            ask(node, listed, chance)
        except (OSError, HTTPException) as error:
            self.seen["interrupted"] += 1
            is_calm = before == (node.disturbed, False)
            if is_calm and isinstance(error, ConnectionRefusedError | TimeoutError):
                took = time.monotonic() - started
                self._fault(f"{node.name} {ask.__name__} {listed.path}: {error!r} in {took:.1f} s")

    def _timed(
        self, node: Node, method: str, path: str, headers: dict[str, str], kind: str
    ) -> Answer | None:
        """Return the complete response of status 200 or 206, None for any other.

        Raises OSError or HTTPException where the response breaks off.
        """
        started = time.monotonic()
        with contextlib.closing(node.client.open(method, path, headers)) as connection:
            response = connection.getresponse()
            took = time.monotonic() - started
            data = response.read()
        if node is self.survivor:
            self.slowest = max(self.slowest, took)
            if took > PATIENCE:
                self._fault(f"{method} {path} {headers}: first byte after {took:.1f} s")
        self.seen[f"status {response.status}"] += 1
        if response.status in (200, 206):
            return Answer(response.status, response.headers, data)
        if response.status not in (502, 503):
            self._fault(
                f"{method} {path} {headers} ({kind}): status {response.status}: {data[:300]!r}"
            )
        return None

    def _whole(self, node: Node, listed: Listed, chance: random.Random) -> None:
        answer = self._timed(node, "GET", listed.path, {}, listed.kind)
        if answer is not None:
            self._compare(answer.data, listed.dist.data, f"GET {listed.path} ({listed.kind})")

    def _range(self, node: Node, listed: Listed, chance: random.Random) -> None:
        data = listed.dist.data
        start = chance.randrange(len(data))
        stop = chance.randrange(start, len(data)) + 1
        asked = chance.choice([f"{start}-{stop - 1}", f"{start}-", f"-{len(data) - start}"])
        answer = self._timed(node, "GET", listed.path, {"Range": f"bytes={asked}"}, listed.kind)
        if answer is None:
            return
        what = f"GET {listed.path} ({listed.kind}) bytes={asked} {answer.headers['Content-Range']}"
        if answer.status == 200:
            self._compare(answer.data, data, what)
            return
        found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", answer.headers["Content-Range"])
        if found is None or (listed.is_size_known and found[3] not in ("*", str(len(data)))):
            self._fault(f"{what}: not a range of {len(data)} bytes")
            return
        right = data[int(found[1]) : int(found[2]) + 1]
        if answer.data != right and answer.headers["X-Cache"] != "HIT":
            # A range of a file that is downloading is sent before the digest of the file is known.
            self.seen["wrong ranges, not verified"] += 1
        else:
            self._compare(answer.data, right, what)

    def _old(self, node: Node, listed: Listed, chance: random.Random) -> None:
        """Send a request of HTTP/1.0: the end of the connection may be the end of the body."""
        received = b""
        address = urlsplit(node.client.url)
        with socket.create_connection((address.hostname, address.port), timeout=20) as connection:
            connection.sendall(f"GET {listed.path} HTTP/1.0\r\n\r\n".encode())
            while chunk := connection.recv(65536):
                received += chunk
        self.seen["HTTP/1.0"] += 1
        head, _, data = received.partition(b"\r\n\r\n")
        status = head.split(b" ", 2)[1:2]
        what = f"HTTP/1.0 GET {listed.path} ({listed.kind})"
        length = re.search(rb"\r\ncontent-length: (\d+)", head, re.IGNORECASE)
        if status and status[0] not in (b"200", b"502", b"503"):
            self._fault(f"{what}: {head!r}")
        elif status == [b"200"] and (length is None or int(length[1]) == len(data)):
            self._compare(data, listed.dist.data, what)

    def _head(self, node: Node, listed: Listed, chance: random.Random) -> None:
        answer = self._timed(node, "HEAD", listed.path, {}, listed.kind)
        length = answer and answer.headers["Content-Length"]
        if length and listed.is_size_known and int(length) != len(listed.dist.data):
            self._fault(f"HEAD {listed.path}: {length} bytes, not {len(listed.dist.data)}")

    def _page(self, node: Node, listed: Listed, chance: random.Random) -> None:
        project = listed.dist.project
        answer = self._timed(node, "GET", f"/simple/{project}/", {"Accept": JSON}, "page")
        if answer is None:
            return
        self.seen["complete pages"] += 1
        found = {file["filename"]: file["hashes"].items() for file in answer.json()["files"]}
        entries = [each.entry for each in self.index.listed if each.dist.project == project]
        if found != {entry["filename"]: entry["hashes"].items() for entry in entries}:
            self._fault(f"{project}: another page: {answer.data!r}")

    def _metadata(self, node: Node, listed: Listed, chance: random.Random) -> None:
        answer = self._timed(node, "GET", f"{listed.path}.metadata", {}, listed.kind)
        if answer is not None:
            self._compare(answer.data, listed.dist.metadata, f"GET {listed.path}.metadata")

    def _compare(self, data: bytes, right: bytes | None, what: str) -> None:
        """Count a complete body."""
        self.seen["complete bodies"] += 1
        self.seen["bytes"] += len(data)
        if data != right:
            self.seen["wrong bodies"] += 1
            self._fault(f"{what}: {len(data)} bytes with another digest, not {len(right or b'')}")

    def _fault(self, what: str) -> None:
        if len(self.wrong) < 20:
            self.wrong.append(what)

    # What is left over

    def recover(self) -> None:
        """Fetch each file whole from both processes; for 60 s, or those that fail are faults."""
        deadline = time.monotonic() + 60
        left = [(node, listed) for node in self.nodes for listed in self.index.listed]
        while left and time.monotonic() < deadline:
            left = [
                (node, listed) for node, listed in left if not self._is_served(node.client, listed)
            ]
            gevent.sleep(0.2)
        for node, listed in left:
            self._fault(f"{node.name} does not serve {listed.path} ({listed.kind})")

    def _is_served(self, client: Client, listed: Listed) -> bool:
        try:
            answer = client.get(listed.path)
        except (OSError, HTTPException):
            return False
        if answer.status == 200:
            self._compare(answer.data, listed.dist.data, f"GET {listed.path} after the faults")
        return answer.status == 200

    def figures(self) -> dict[str, Any]:
        sent = sum((host.sent for host in self.index.hosts), Counter[str]())
        memories = {"memory_first": self._first_memory(), "memory_last": self.memory[-1]}
        return {
            "seconds": SECONDS,
            **dict(sorted(self.seen.items())),
            "wrong bodies": self.seen["wrong bodies"],
            "faults": len(self.wrong),
            "slowest_first_byte_secs": round(self.slowest, 1),
            "most_bytes_on_disk": self.most_bytes,
            **memories,
            "upstream": dict(sorted(sent.items())),
        }

    def _first_memory(self) -> int:
        return self.memory[len(self.memory) // 4]


def allocated(directory: Path) -> int:
    """Return the bytes that `directory` takes on the disk, as du(1) counts them."""
    total = 0
    for root, _, names in os.walk(directory):
        for path in (Path(root), *(Path(root, name) for name in names)):
            with contextlib.suppress(FileNotFoundError):
                total += path.stat().st_blocks * 512
    return total


def descriptors(pid: int, directory: Path) -> list[str]:
    """Return the stored and partial files that a process has open."""
    found = []
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(str(descriptor.readlink()))
    return [
        path for path in found if path.startswith((f"{directory}/+files", f"{directory}/+partial"))
    ]


def fetches(node: Node) -> dict[str, int]:
    """Return what a process fetches, by kind; empty for an idle process."""
    status = node.client.get("/+status").json()
    counts = {
        f"{kind} {name}": number
        for kind, numbers in status["fetches"].items()
        for name, number in numbers.items()
        if name != "turned_away"
    }
    counts["arriving"] = status["arriving_files"]
    return {name: number for name, number in counts.items() if number}


def is_free(path: Path) -> bool:
    """Return whether no process has a lock on the file."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def processes_of(cache: Path) -> list[str]:
    """Return the command lines of all processes with this cache directory."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found.append(path.read_bytes().replace(b"\0", b" ").decode())
    return [line for line in found if str(cache) in line and "pytest" not in line]


@pytest.fixture
def prefix() -> list[str]:
    """The words before a command that take root's privileges, which hide faults of files."""
    if os.geteuid() != 0:
        return []
    if (
        shutil.which("setpriv") is None
        or subprocess.run([*UNPRIVILEGED, "true"], check=False).returncode
    ):
        pytest.skip("root's capabilities hide faults of files, and setpriv cannot drop them here")
    return UNPRIVILEGED


@pytest.fixture
def soak(tmp_path: Path, prefix: list[str]) -> Iterator[Soak]:
    seed = str(seeded().getrandbits(64))
    running = Soak(seed, tmp_path / "cache", prefix, tmp_path)
    try:
        yield running
    finally:
        for node in running.nodes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(node.pid, signal.SIGCONT)
            node.stop()
        for host in running.index.hosts:
            host.stop()


def test_nothing_wrong_is_served_and_nothing_is_left_over(soak: Soak, tmp_path: Path):
    cache = tmp_path / "cache"
    soak.find_paths()
    soak.run(SECONDS)
    sys.stdout.write(f"{json.dumps(soak.figures())}\n")
    assert soak.seen["complete bodies"] > 3 * SECONDS
    assert soak.seen["kills"] > 0
    soak.recover()
    for node in soak.nodes:
        until(lambda node=node: not fetches(node), 30)
        assert descriptors(node.pid, cache) == []
    assert not soak.wrong, "\n".join(soak.wrong)
    assert [node.stop() for node in soak.nodes] == [0, 0]
    assert processes_of(cache) == []
    assert_only_right_files(cache, soak.index.listed)
    for log in tmp_path.glob("*.log"):
        assert not FAULTS.search(log.read_text()), log.read_text()[-20_000:]


def assert_only_right_files(cache: Path, listed: list[Listed]) -> None:
    """Assert that each file below `cache` is known, right and free."""
    right = {each.dist.filename: each.dist.data for each in listed}
    right |= {f"{each.dist.filename}.metadata": each.dist.metadata or b"" for each in listed}
    prefix = "/root/pypi/+f/"
    keys = [each.path.removeprefix(prefix) for each in listed]
    names = {
        hashlib.sha256(f"{key}{suffix}".encode()).hexdigest()
        for key in keys
        for suffix in ("", ".metadata")
    }
    for path in files_in(cache):
        place = path.relative_to(cache).parts[0]
        assert is_free(path), path
        if place == "+files":
            assert path.read_bytes() == right[path.name], path
            assert path.name.endswith(".metadata") or not path.stat().st_mode & 0o222, path
        elif place == "+partial":
            # A file that was never asked for again; it belongs to a file of upstream.
            assert path.name in names, path
        else:
            assert re.fullmatch(r"index\.sqlite3(-wal|-shm|\.lock)?|.*\.lock", place), path
