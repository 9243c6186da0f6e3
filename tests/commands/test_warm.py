"""``pytail warm`` fetches pages and files ahead of requests, each once."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

from tests.commands.conftest import Commands, Installation
from tests.support.fakeindex import Dist, FakeIndex, reply, sdist, wheel
from tests.support.moving import Moving
from tests.support.running import embedded
from tests.support.sending import Sending
from tests.support.watching import until

pytestmark = pytest.mark.process

LINUX = "cp312-cp312-manylinux_2_17_x86_64.manylinux2014_x86_64"
SIZE = 400_000


def names(*dists: Dist) -> set[str]:
    """Return the filenames of `dists` and of their core metadata."""
    sidecars = {f"{dist.filename}.metadata" for dist in dists if dist.metadata}
    return {dist.filename for dist in dists} | sidecars


def large(index: FakeIndex, *stops: int) -> tuple[Dist, Sending]:
    """Add a file to `index` whose responses pause at `stops` until the gate opens."""
    dist = wheel("large", payload=os.urandom(SIZE))
    index.add(dist)
    answer = index.answers[dist.path] = Sending(dist.data, *stops)
    return dist, answer


def test_the_newest_version_is_fetched_and_served_without_upstream(
    commands: Commands, index: FakeIndex, tmp_path: Path
):
    index.add(wheel("demo", "1.0"), newest := wheel("demo", "2.0"), wheel("demo", "3.0rc1"))
    out = commands.run("warm", "Demo")
    assert (out.returncode, out.stderr) == (0, "")
    size = len(newest.data) + len(newest.metadata)
    assert out.stdout == f"1 project, 2 files fetched, {size} B; 0 already stored\n"
    assert commands.stored_names() == names(newest)
    index.stop()
    with embedded(commands.cache, index.url, tmp_path / "log") as running:
        assert len(running.client.json("demo")["files"]) == 3
        assert running.client.get(newest.served).data == newest.data


@pytest.mark.parametrize("is_signed", [False, True])
def test_files_whose_links_moved_are_fetched(
    installation: Installation, index: FakeIndex, *, is_signed: bool
):
    moving = Moving(index, demo := wheel("demo"), is_signed=is_signed)
    installation.client.json("demo")
    moving.move()
    out = installation.run("warm", "demo")
    assert (out.returncode, out.stderr) == (0, "")
    assert installation.client.get(demo.served).headers["X-Cache"] == "HIT"


def test_stored_files_are_not_fetched_again(commands: Commands, index: FakeIndex):
    index.add(dist := wheel("demo"))
    assert commands.json("warm", "demo")["fetched"]["files"] == 2
    result = commands.json("warm", "demo")
    assert result == {
        "projects": 1,
        "fetched": {"files": 0, "bytes": 0},
        "held": 2,
        "failed": [],
        "skipped": [],
    }
    assert (index.count(dist.path), index.page_count("demo")) == (1, 1)


@pytest.mark.parametrize("is_right", [True, False])
def test_a_file_of_another_program_is_used_only_with_the_right_digest(
    commands: Commands, index: FakeIndex, is_right: bool
):
    index.add(dist := wheel("demo"))
    path = commands.cache / "+files/root/pypi/+f" / dist.key
    path.parent.mkdir(parents=True)
    path.write_bytes(dist.data if is_right else dist.data[::-1])
    result = commands.json("warm", "demo")
    assert (result["held"], result["fetched"]["files"]) == ((1, 1) if is_right else (0, 2))
    assert path.read_bytes() == dist.data


def test_wheels_for_each_python_and_platform_are_fetched(commands: Commands, index: FakeIndex):
    wanted = [
        wheel("demo", tag=LINUX),
        wheel("demo", tag="cp313-cp313-manylinux_2_28_x86_64"),
        wheel("demo", tag="cp312-cp312-win_amd64"),
        wheel("demo", tag="cp310-abi3-win_amd64"),
    ]
    index.add(
        *wanted,
        wheel("demo", tag="cp312-cp312-manylinux_2_34_x86_64"),
        wheel("demo", tag="cp312-cp312-macosx_11_0_arm64"),
        wheel("demo", tag="cp311-cp311-win_amd64"),
        sdist("demo"),
    )
    targets = ["--python", "3.12", "--python", "3.13", "--platform", "win_amd64"]
    commands.json("warm", "demo", *targets, "--platform", "manylinux_2_28_x86_64")
    assert commands.stored_names() == names(*wanted)


def test_the_sdist_is_fetched_where_no_wheel_matches(commands: Commands, index: FakeIndex):
    index.add(wheel("demo", tag="cp312-cp312-win_amd64"), source := sdist("demo"))
    commands.json("warm", "demo", "--python", "3.12", "--platform", "musllinux_1_2_x86_64")
    assert commands.stored_names() == names(source)


def test_all_files_fetches_every_file_of_the_version(commands: Commands, index: FakeIndex):
    files = [wheel("demo", tag="cp39-cp39-win32"), wheel("demo", tag=LINUX), sdist("demo")]
    index.add(*files, wheel("demo", "0.9"))
    commands.json("warm", "demo", "--all-files")
    assert commands.stored_names() == names(*files)


def test_each_failure_is_a_line_and_the_rest_is_fetched(commands: Commands, index: FakeIndex):
    index.add(good := wheel("good"), bad := wheel("bad"))
    index.answers[bad.path] = reply(bad.data[:-1] + b"!", "application/octet-stream")
    out = commands.call("warm", "good", "bad", "nope", "good>=9", "other; python_version < '3'")
    assert out.returncode == 1
    assert out.stdout.endswith("; 0 already stored; 1 skipped; 3 failed\n")
    lines = sorted(out.stderr.splitlines())
    assert len(lines) == 4
    assert lines[0].startswith(f"failed {bad.filename}: {bad.filename}: upstream sent sha256 ")
    assert lines[1].startswith("failed good>=9: no version of good has a file that matches ")
    assert "has no project 'nope'" in lines[2]
    assert lines[3].startswith("skipped other")
    assert good.filename in commands.stored_names()
    assert bad.filename not in commands.stored_names()


def test_the_json_lists_failures(commands: Commands, index: FakeIndex):
    index.add(wheel("demo"))
    result = commands.json("warm", "demo", "nope", code=1)
    assert [failure["what"] for failure in result["failed"]] == ["nope"]


def test_an_upstream_that_never_answered_is_not_waited_for(commands: Commands, index: FakeIndex):
    index.stop()
    started = time.monotonic()
    result = commands.json("warm", *[f"p{number}" for number in range(8)], code=1)
    assert len(result["failed"]) == 8
    assert time.monotonic() - started < 30


@pytest.mark.parametrize(
    ("kill", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -15), (signal.SIGKILL, -9)]
)
def test_an_interrupted_run_is_resumed_by_the_next_one(
    commands: Commands, index: FakeIndex, kill: signal.Signals, code: int
):
    dist, answer = large(index, 100_000)
    with commands.start("warm", "large") as process:
        until(lambda: commands.partial_sizes() == [100_000], seconds=30)
        process.send_signal(kill)
        out, err = process.communicate(timeout=30)
        assert (process.returncode, out, err.strip()) == (code, "", "")
    assert commands.partial_sizes() == [100_000]
    answer.gate.set()
    assert commands.run("warm", "large").returncode == 0
    assert answer.ranges == [None, "bytes=100000-"]
    assert commands.stored_names() == names(dist)


def test_a_file_that_a_server_is_downloading_is_fetched_once(
    installation: Installation, index: FakeIndex
):
    dist, answer = large(index, 100_000)
    installation.client.json("large")
    connection = installation.client.open("GET", dist.served)
    until(lambda: installation.partial_sizes() == [100_000])
    with installation.start("warm", "large", "--json") as process:
        until(lambda: f"{dist.filename}.metadata" in installation.stored_names(), seconds=30)
        answer.gate.set()
        out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, "")
    assert json.loads(out)["fetched"]["files"] == 2
    assert connection.getresponse().read() == dist.data
    connection.close()
    assert (len(answer.ranges), index.page_count("large")) == (1, 1)


def test_a_running_server_answers_with_fetched_pages_and_files(
    installation: Installation, index: FakeIndex
):
    index.add(dist := wheel("demo"))
    assert installation.run("warm", "demo").returncode == 0
    responses = [installation.client.get("/simple/demo/"), installation.client.get(dist.served)]
    assert [response.headers["X-Cache"] for response in responses] == ["HIT", "HIT"]
    assert (index.page_count("demo"), index.count(dist.path)) == (1, 1)


def test_more_files_than_the_limit_allows_are_refused_before_any_fetch(
    commands: Commands, index: FakeIndex
):
    dists = [wheel(f"p{number}", payload=os.urandom(340_000)) for number in range(4)]
    index.add(*dists)
    projects = [dist.project for dist in dists]
    out = commands.call("warm", *projects, "--cache-max-size", "1MB")
    assert (out.returncode, out.stdout) == (2, "")
    (line,) = out.stderr.splitlines()
    assert line.startswith("pytail: --cache-max-size '976.6 KiB': the requested files take ")
    assert commands.stored_names() == set()
    assert commands.call("warm", *projects[:2], "--cache-max-size", "1MB").returncode == 0
    # The least recently used files are evicted, and none of the requested files.
    assert (
        commands.call("warm", projects[0], projects[2], "--cache-max-size", "1MB").returncode == 0
    )
    assert commands.stored_names() >= names(dists[0], dists[2])
    assert dists[1].filename not in commands.stored_names()


def test_sizes_that_the_page_does_not_give_count_too(commands: Commands, index: FakeIndex):
    index.html_only = True
    index.add(*(wheel(f"p{number}", payload=os.urandom(300_000)) for number in range(4)))
    out = commands.call("warm", "p0", "p1", "p2", "p3", "--cache-max-size", "1MB")
    assert (out.returncode, out.stdout) == (2, "")
    assert commands.stored_names() == set()


def test_a_terminal_shows_progress_bars(commands: Commands, index: FakeIndex):
    index.add(wheel("demo"))
    out, shown = commands.run_on_terminal("warm", "demo")
    assert "fetching pages" in shown
    assert "fetching files" in shown
    assert "100%" in shown
    assert out.stdout.startswith("1 project, 2 files fetched, ")


def test_a_requirements_file_pins_versions_and_hashes(
    commands: Commands, index: FakeIndex, tmp_path: Path
):
    old, other = wheel("demo", "1.0"), wheel("other")
    index.add(old, wheel("demo", "2.0"), other)
    (tmp_path / "more.txt").write_text(f"other==1.0 --hash=sha256:{other.sha256}\n")
    (tmp_path / "reqs.txt").write_text("demo==1.0 \\\n  # old\n-r more.txt\n-e .\n")
    out = commands.call("warm", "-r", str(tmp_path / "reqs.txt"))
    assert out.returncode == 0
    assert out.stderr == "skipped .: editable, not from an index\n"
    assert commands.stored_names() == names(old, other)


def test_a_package_of_another_index_is_skipped_and_no_request_names_it(
    commands: Commands, index: FakeIndex, tmp_path: Path
):
    index.add(private := wheel("private"))
    lock = tmp_path / "uv.lock"
    lock.write_text(
        'version = 1\n[[package]]\nname = "private"\nversion = "1.0"\n'
        'source = { registry = "https://other.example.org/simple" }\n'
        f'wheels = [{{ url = "https://files.example.org/{private.filename}" }}]\n'
        '[[package]]\nname = "gone"\nversion = "1.0"\n'
        f'source = {{ registry = "{index.url}/simple" }}\n'
        'wheels = [{ url = "https://files.example.org/gone-1.0-py3-none-win32.whl" }]\n'
    )
    result = commands.json("warm", "-r", str(lock))
    assert [skipped["what"] for skipped in result["skipped"]] == ["private 1.0", "gone 1.0"]
    assert "--index https://other.example.org/simple" in result["skipped"][0]["reason"]
    assert index.seen == []
    commands.json("warm", "-r", str(lock), "--index", "https://other.example.org")
    assert commands.stored_names() == names(private)


def test_of_a_lock_file_only_the_same_files_are_fetched(
    commands: Commands, index: FakeIndex, tmp_path: Path
):
    right, wrong = wheel("right"), wheel("wrong")
    index.add(right, wheel("right", "2.0"), wrong)
    lock = tmp_path / "poetry.lock"
    lock.write_text(
        "".join(
            f'[[package]]\nname = "{dist.project}"\nversion = "1.0"\n'
            f'files = [{{file = "{dist.filename}", hash = "sha256:{digest}"}}]\n'
            for dist, digest in ((right, right.sha256), (wrong, "0" * 64))
        )
        + '[metadata]\nlock-version = "2.1"\ncontent-hash = ""\n'
    )
    result = commands.json("warm", "-r", str(lock), code=1)
    assert result["failed"] == [
        {
            "what": wrong.filename,
            "reason": "the project page gives another digest than the lock file",
        }
    ]
    assert commands.stored_names() == names(right)
