"""The event loop of the real program goes on, whatever large things are asked of it.

What is bounded strictly is how long the loop's own thread computes at a stretch: parsing, rendering,
compressing or loading a page of 20,000 files takes it 100 ms and more. How late the loop is depends on
what else the machine does as well, so that bound only tells when a thread keeps the interpreter.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest

from pytail.simple.negotiation import Coding, Form
from tests.faults.test_memory import MIB, Large, asked, read
from tests.support.fakeindex import HTML, JSON, Dist, FakeIndex, reply, sdist
from tests.support.running import Client, clean_environ, embedded, file_path
from tests.support.watching import until

pytestmark = pytest.mark.slow

FILES = 20_000
#: Milliseconds that the loop's thread may compute at a stretch, and that the loop may be late.
COMPUTING, LATE = 50, 300

TOLD = re.compile(r"loop blocked for (\d+) ms, computing for (\d+) ms: .*")


def stalls(log: Path) -> list[str]:
    """What the log tells of stalls beyond the bounds."""
    return [
        told[0]
        for told in TOLD.finditer(log.read_text())
        if int(told[1]) > LATE or int(told[2]) > COMPUTING
    ]


@contextlib.contextmanager
def never_still(tmp_path: Path, index: FakeIndex, *options: str) -> Iterator[Client]:
    """A client of a real pytail, which must have gone on when the block has ended."""
    log = tmp_path / "log"
    options = ("--stall-report-secs", f"{COMPUTING}ms", *options)
    with embedded(tmp_path / "cache", index.url, log, *options) as running:
        yield running.client
        # It is told a moment later.
        gevent.sleep(4 * COMPUTING / 1000)
    assert stalls(log) == []


def huge(project: str) -> Iterator[dict[str, Any]]:
    for number in range(FILES):
        name = f"{project}-{number}.0-cp310-cp310-manylinux_2_17_x86_64.whl"
        digest = hashlib.sha256(name.encode()).hexdigest()
        yield {
            "filename": name,
            "url": f"/packages/{name}",
            "hashes": {"sha256": digest},
            "size": number,
            "upload-time": "2024-05-06T07:08:09.123456Z",
            "requires-python": ">=3.9",
            "core-metadata": {"sha256": digest},
        }


@pytest.fixture
def large_pages(index: FakeIndex) -> FakeIndex:
    """``hugejson`` and ``hugehtml``, pages of upstream's in either form."""
    page = {"meta": {"api-version": "1.4"}, "name": "hugejson", "files": list(huge("hugejson"))}
    index.answers["/simple/hugejson/"] = reply(json.dumps(page).encode(), JSON)
    anchors = "<br>\n".join(
        f'<a href="{file["url"]}#sha256={file["hashes"]["sha256"]}">{file["filename"]}</a>'
        for file in huge("hugehtml")
    )
    index.answers["/simple/hugehtml/"] = reply(f"<!DOCTYPE html>{anchors}".encode(), HTML)
    return index


def in_all_forms(client: Client, project: str) -> None:
    for form in Form:
        for coding in Coding:
            path = f"/simple/{project}/"
            answer = client.get(path, Accept=form.media_type, Accept_Encoding=coding.value)
            assert answer.status == 200
            assert len(answer.data) > 100 * FILES / 4


def is_ready(cache: Path, form: Form, coding: Coding) -> bool:
    """Whether the catalog keeps a page in that form and coding."""
    with contextlib.closing(sqlite3.connect(cache / "index.sqlite3")) as catalog:
        variants = catalog.execute("SELECT variant FROM ready").fetchall()
    return any(variant.startswith(f"{form.value} {coding.value} ") for (variant,) in variants)


def evictions(client: Client) -> float:
    metrics = client.get("/+metrics").data.decode()
    return float(metrics.partition("\npytail_evictions_total ")[2].split()[0])


def test_the_program_tells_of_stalls(tmp_path: Path, index: FakeIndex):
    options = ("--stall-report-secs", "1ms")
    with embedded(tmp_path / "cache", index.url, tmp_path / "log", *options):
        until(lambda: TOLD.search((tmp_path / "log").read_text()))


@pytest.mark.parametrize("project", ["hugejson", "hugehtml"])
def test_large_pages_hold_up_nothing(tmp_path: Path, large_pages: FakeIndex, project: str):
    with never_still(tmp_path, large_pages) as client:
        in_all_forms(client, project)
    # Those that are ready now, and are read back.
    with never_still(tmp_path, large_pages, "--hot-cache-size", "1MiB") as client:
        in_all_forms(client, project)
        assert large_pages.page_count(project) == 1


def test_a_file_that_arrives_holds_up_nothing(tmp_path: Path, index: FakeIndex):
    Large(index, 64)
    with never_still(tmp_path, index) as client, contextlib.ExitStack() as stack:
        path = file_path(client.json("large")["files"][0])
        readers = [gevent.spawn(read, response) for response in asked(stack, client, path, 8)]
        gevent.joinall(readers, raise_error=True)
        assert all(reader.value for reader in readers)


def test_making_room_holds_up_nothing(tmp_path: Path, large_pages: FakeIndex):
    data = os.urandom(8 * MIB)
    for number in range(8):
        large_pages.add(Dist("files", f"files-{number}.0.tar.gz", data + b"%d" % number))
    with never_still(tmp_path, large_pages, "--cache-max-size", "48MiB") as client:
        client.get("/simple/hugejson/", Accept=JSON, Accept_Encoding="zstd")
        until(lambda: is_ready(tmp_path / "cache", Form.JSON, Coding.ZSTD))
        in_all_forms(client, "hugejson")
        # Not all of them have room in half of the limit.
        until(lambda: not is_ready(tmp_path / "cache", Form.JSON, Coding.ZSTD), 20)
        for file in client.json("files")["files"]:
            assert client.get(file_path(file)).status == 200
        until(lambda: evictions(client) > 0, 20)


def test_a_purge_beside_holds_up_nothing(tmp_path: Path, large_pages: FakeIndex):
    large_pages.add(*(sdist(f"p{number}") for number in range(100)))
    with never_still(tmp_path, large_pages) as client:
        for project in ["hugejson", *(f"p{number}" for number in range(100))]:
            (file, *_) = client.json(project)["files"]
            assert client.get(file_path(file)).status == (404 if project == "hugejson" else 200)
        command = [sys.executable, "-m", "pytail", "purge", "--all", "--yes"]
        command += ["--cache-dir", str(tmp_path / "cache")]
        subprocess.run(command, check=True, capture_output=True, env=clean_environ())
        assert len(client.json("hugejson")["files"]) == FILES
        assert large_pages.page_count("hugejson") == 2
