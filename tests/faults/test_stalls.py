"""Large requests do not stall the event loop of the real program.

The strict bound is for the processor time that the loop's thread takes without a pause: parsing,
rendering, compressing or loading a page of 20,000 files takes 100 ms and more. The delay of the loop
depends on other work of the machine too. Its bound only catches a thread that keeps the interpreter.
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
from tests.support.fakeindex import HTML, JSON, Dist, FakeIndex, reply, sdist
from tests.support.running import Client, clean_environ, embedded, file_path
from tests.support.sending import MIB, LargeFile, is_large_file, open_responses
from tests.support.watching import samples, until

pytestmark = pytest.mark.slow

FILES = 20_000
#: Milliseconds: the processor time without a pause, and the delay of the event loop, at most.
COMPUTING, LATE = 50, 300

REPORT = re.compile(r"loop blocked for (\d+) ms, computing for (\d+) ms: .*")


def stalls(log: Path) -> list[str]:
    """Return the stall reports in `log` that exceed one of the bounds."""
    return [
        report[0]
        for report in REPORT.finditer(log.read_text())
        if int(report[1]) > LATE or int(report[2]) > COMPUTING
    ]


@contextlib.contextmanager
def without_stalls(tmp_path: Path, index: FakeIndex, *options: str) -> Iterator[Client]:
    """A client of the real program. Asserts at the end that the log reports no stall."""
    log = tmp_path / "log"
    options = ("--stall-report-secs", f"{COMPUTING}ms", *options)
    with embedded(tmp_path / "cache", index.url, log, *options) as running:
        yield running.client
        # A report is logged after the stall; that none comes cannot be awaited.
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
    """An index with the pages ``hugejson`` and ``hugehtml``, in JSON and in HTML."""
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


def is_rendered(cache: Path, form: Form, coding: Coding) -> bool:
    """Return whether the catalog has a rendered page in that form and coding."""
    with contextlib.closing(sqlite3.connect(cache / "index.sqlite3")) as catalog:
        variants = catalog.execute("SELECT variant FROM ready").fetchall()
    return any(variant.startswith(f"{form.value} {coding.value} ") for (variant,) in variants)


def test_the_program_reports_stalls(tmp_path: Path, index: FakeIndex):
    options = ("--stall-report-secs", "1ms")
    with embedded(tmp_path / "cache", index.url, tmp_path / "log", *options):
        until(lambda: REPORT.search((tmp_path / "log").read_text()))


@pytest.mark.parametrize("project", ["hugejson", "hugehtml"])
def test_large_pages_do_not_stall(tmp_path: Path, large_pages: FakeIndex, project: str):
    with without_stalls(tmp_path, large_pages) as client:
        in_all_forms(client, project)
    # The second program reads the rendered pages from the catalog.
    with without_stalls(tmp_path, large_pages, "--hot-cache-size", "1MiB") as client:
        in_all_forms(client, project)
        assert large_pages.page_count(project) == 1


def test_a_large_download_does_not_stall(tmp_path: Path, index: FakeIndex):
    LargeFile(index, 64)
    with without_stalls(tmp_path, index) as client, contextlib.ExitStack() as stack:
        path = file_path(client.json("large")["files"][0])
        readers = [
            gevent.spawn(is_large_file, response)
            for response in open_responses(stack, client, path, 8)
        ]
        gevent.joinall(readers, raise_error=True)
        assert all(reader.value for reader in readers)


def test_eviction_does_not_stall(tmp_path: Path, large_pages: FakeIndex):
    data = os.urandom(8 * MIB)
    for number in range(8):
        large_pages.add(Dist("files", f"files-{number}.0.tar.gz", data + b"%d" % number))
    with without_stalls(tmp_path, large_pages, "--cache-max-size", "48MiB") as client:
        client.get("/simple/hugejson/", Accept=JSON, Accept_Encoding="zstd")
        until(lambda: is_rendered(tmp_path / "cache", Form.JSON, Coding.ZSTD))
        in_all_forms(client, "hugejson")
        # Rendered pages get half of the limit, which is too little for all forms and codings.
        until(lambda: not is_rendered(tmp_path / "cache", Form.JSON, Coding.ZSTD), 20)
        for file in client.json("files")["files"]:
            assert client.get(file_path(file)).status == 200
        until(lambda: samples(client)[("pytail_evictions_total",)] > 0, 20)


def test_a_purge_by_another_process_does_not_stall(tmp_path: Path, large_pages: FakeIndex):
    large_pages.add(*(sdist(f"p{number}") for number in range(100)))
    with without_stalls(tmp_path, large_pages) as client:
        for project in ["hugejson", *(f"p{number}" for number in range(100))]:
            (file, *_) = client.json(project)["files"]
            assert client.get(file_path(file)).status == (404 if project == "hugejson" else 200)
        # A file that is gone upstream makes pytail ask for its page again.
        before = large_pages.page_count("hugejson")
        command = [sys.executable, "-m", "pytail", "purge", "--all", "--yes"]
        command += ["--cache-dir", str(tmp_path / "cache")]
        subprocess.run(command, check=True, capture_output=True, env=clean_environ())
        assert len(client.json("hugejson")["files"]) == FILES
        assert large_pages.page_count("hugejson") == before + 1
