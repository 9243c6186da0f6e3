"""Files, pages and entries for tests of the storage, and other processes that use it."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pytail.model import File, ProjectPage
from pytail.storage.catalog import Catalog, Entry
from pytail.storage.store import Store

# Files

DATA = b"the bytes of a file\n" * 100
SHA256 = hashlib.sha256(DATA).hexdigest()
DIRECTORY = f"{SHA256[:3]}/{SHA256[3:16]}"


def file(
    filename: str = "demo-1.0.tar.gz",
    directory: str = DIRECTORY,
    size: int | None = len(DATA),
    **more: Any,
) -> File:
    url = "http://files.example.org/demo"
    return File(filename=filename, url=url, directory=directory, size=size, **more)


def store_file(store: Store, file: File, data: bytes = DATA) -> None:
    partial = store.partial(file)
    partial.write(data)
    partial.commit()
    partial.close()


def read(store: Store, file: File) -> bytes | None:
    """Return the bytes of a stored file, None when it is not stored."""
    opened = store.open(file)
    if opened is None:
        return None
    with opened:
        return opened.read()


def files_in(directory: Path) -> list[Path]:
    """Return the paths of all files below `directory`, sorted."""
    return sorted(path for path in directory.rglob("*") if not path.is_dir())


def bytes_below(directory: Path) -> int:
    """Return the bytes of all files below `directory`."""
    size = 0
    for root, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                size += Path(root, name).stat().st_size
    return size


@contextlib.contextmanager
def process(script: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run a Python `script`, which prints one line when it is ready, and kill it in the end."""
    with subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as running:
        try:
            assert running.stdout is not None
            assert running.stdout.readline() == "ready\n"
            yield running
        finally:
            running.kill()


_WRITER = """
import sys
from pathlib import Path
from pytail.model import File
from pytail.storage.store import Store

file = File(filename=sys.argv[3], url="", directory=sys.argv[2])
partial = Store(Path(sys.argv[1])).partial(file)
partial.write(bytes.fromhex(sys.argv[4]))
print("ready", flush=True)
if sys.stdin.readline() == "commit\\n":
    partial.commit()
    print("committed", flush=True)
    sys.stdin.readline()
"""


@contextlib.contextmanager
def another_process_writing(
    directory: Path, file: File, data: bytes = b"half"
) -> Iterator[subprocess.Popen[str]]:
    """Have another process write `data` to the partial file of `file`; see `commit_in`."""
    arguments = (str(directory), file.directory, file.filename, data.hex())
    with process(_WRITER, *arguments) as running:
        yield running


def commit_in(writer: subprocess.Popen[str]) -> None:
    """Have the process of `another_process_writing` commit its file."""
    assert writer.stdin is not None
    assert writer.stdout is not None
    writer.stdin.write("commit\n")
    writer.stdin.flush()
    assert writer.stdout.readline() == "committed\n"


_EVICTOR = """
import fcntl, os, sys
fcntl.flock(os.open(sys.argv[1], os.O_RDWR | os.O_CREAT), fcntl.LOCK_EX)
print("ready", flush=True)
input()
"""


@contextlib.contextmanager
def another_process_evicting(directory: Path) -> Iterator[subprocess.Popen[str]]:
    """Have another process hold the lock for evictions, until it reads a line."""
    with process(_EVICTOR, str(directory / "+evict.lock")) as running:
        yield running


# Pages

UPSTREAM = "https://index.example.org"

BARE_FILE = File(
    filename="demo-1.0.tar.gz",
    url="https://files.example.org/demo-1.0.tar.gz",
    directory="abc/0123456789abc",
)
FULL_FILE = File(
    filename="demo-2.0-py3-none-any.whl",
    url="https://files.example.org/dèmo-2.0-py3-none-any.whl?x=1&y=%20",
    directory="aaa/" + "a" * 13,
    hashes={"sha256": "a" * 64, "md5": "b" * 32},
    size=2**62,
    upload_time="2024-05-06T07:08:09.123456Z",
    requires_python=">=3.9, <4 ; 'é'",
    yanked="it was 'broken'\n\N{SNOWMAN}",
    core_metadata={"sha256": "c" * 64},
    gpg_sig=True,
    provenance="https://index.example.org/provenance",
    other={"_key": [1, 2.5, None, {"deep": True}], "other": "\0"},
)
OTHER_FILE = File(
    filename="demo-3.0.zip",
    url="http://files.example.org/demo-3.0.zip",
    directory=BARE_FILE.directory,
    size=0,
    yanked=True,
    core_metadata=True,
    gpg_sig=False,
)
FULL_PAGE = ProjectPage(
    name="demo",
    files=(FULL_FILE, BARE_FILE, OTHER_FILE),
    versions=("2.0", "1.0", "not a version"),
    status="deprecated",
    status_reason="use 'another' \N{SNOWMAN}",
    last_serial=2**62,
    other={"x": {"y": ["z", 1, None]}},
)
BARE_PAGE = ProjectPage(name="demo", files=(BARE_FILE,))


def page(name: str, files: int = 1) -> ProjectPage:
    made = (
        dataclasses.replace(BARE_FILE, filename=f"{name}-{number}.tar.gz", size=number)
        for number in range(files)
    )
    return ProjectPage(name=name, files=tuple(made))


def entry(name: str = "demo", found: bool = True, checked_at: float = 20.0, **more: Any) -> Entry:
    return Entry(
        name=name,
        found=found,
        checked_at=checked_at,
        **{"upstream": UPSTREAM, "fetched_at": 10.0, "revision": "r1", **more},
    )


FULL_ENTRY = entry(
    fetched_at=1_700_000_000.123456,
    checked_at=1_700_000_001.654321,
    etag='W/"é, \\"verbatim"',
    last_serial=2**62,
    revision="0123",
    status="deprecated",
    last_modified="Mon, 06 May 2024 07:08:09 GMT",
    fingerprint="fe" * 32,
)


def filled(path: Path) -> bytes:
    """Create a catalog of 20 pages with 40 files each; return its bytes."""
    with contextlib.closing(Catalog(path)) as opened:
        for number in range(20):
            opened.remember(entry(f"p{number}"), page(f"p{number}", 40))
    return path.read_bytes()


def set_aside(path: Path) -> list[Path]:
    """Return the catalogs that were renamed because they could not be used."""
    suffixes = ("-journal", "-wal", "-shm")
    found = [found for found in path.parent.iterdir() if "set-aside" in found.name]
    return [found for found in found if not found.name.endswith(suffixes)]


# Ready pages

READY = ("etag", b"bytes")


def store_ready(
    catalog: Catalog,
    name: str = "demo",
    revision: str = "r1",
    variant: str = "v",
    data: bytes = READY[1],
) -> None:
    catalog.store_ready_page(name, revision, variant, READY[0], data)


def ready(
    catalog: Catalog, name: str = "demo", revision: str = "r1", variant: str = "v"
) -> tuple[str, bytes] | None:
    return catalog.ready_page(name, revision, variant)


# Locks

_LOCKER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN " + sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
"""


@contextlib.contextmanager
def locked(path: Path, kind: str = "IMMEDIATE") -> Iterator[None]:
    """Have another process hold a lock of the SQLite file at `path`."""
    with process(_LOCKER, str(path), kind):
        yield
