"""Pages and files are there before anybody asks, and each is fetched once."""

from __future__ import annotations

import json
import os
import pty
import signal
import time
from pathlib import Path

import pytest

from tests.commands.conftest import Beside, Commands
from tests.support.fakeindex import Dist, FakeIndex, reply, sdist, wheel
from tests.support.running import embedded
from tests.support.sending import Sending
from tests.support.watching import held, until

pytestmark = pytest.mark.process

LINUX = "cp312-cp312-manylinux_2_17_x86_64.manylinux2014_x86_64"
SIZE = 400_000


def names(*dists: Dist, metadata: bool = True) -> set[str]:
    """The filenames of `dists`, with those of their core metadata."""
    beside = {f"{dist.filename}.metadata" for dist in dists if metadata and dist.metadata}
    return {dist.filename for dist in dists} | beside


def partials(cache: Path) -> list[int]:
    """The bytes of each partial file."""
    return [path.stat().st_size for path in cache.glob("+partial/*")]


def large(index: FakeIndex, *stops: int) -> tuple[Dist, Sending]:
    """A file of `index` that stops at `stops` until its gate is opened."""
    dist = wheel("large", payload=os.urandom(SIZE))
    index.add(dist)
    answer = index.answers[dist.path] = Sending(dist.data, *stops)
    return dist, answer


def test_the_newest_version_is_fetched_and_then_served_without_upstream(
    alone: Commands, index: FakeIndex, tmp_path: Path
):
    index.add(wheel("demo", "1.0"), newest := wheel("demo", "2.0"), wheel("demo", "3.0rc1"))
    out = alone.run("warm", "Demo")
    assert (out.returncode, out.stderr) == (0, "")
    size = len(newest.data) + len(newest.metadata)
    assert out.stdout == f"1 project, 2 files fetched, {size} B; 0 already held\n"
    assert held(alone.cache) == names(newest)
    index.stop()
    with embedded(alone.cache, index.url, tmp_path / "log") as running:
        assert len(running.client.json("demo")["files"]) == 3
        assert running.client.get(newest.served).data == newest.data


def test_what_is_held_is_not_fetched_again(alone: Commands, index: FakeIndex):
    index.add(dist := wheel("demo"))
    assert alone.json("warm", "demo")["fetched"]["files"] == 2
    told = alone.json("warm", "demo")
    assert told == {
        "projects": 1,
        "fetched": {"files": 0, "bytes": 0},
        "held": 2,
        "failed": [],
        "skipped": [],
    }
    assert (index.count(dist.path), index.page_count("demo")) == (1, 1)


@pytest.mark.parametrize("is_right", [True, False])
def test_what_someone_else_put_there_is_held_if_it_is_right(
    alone: Commands, index: FakeIndex, is_right: bool
):
    index.add(dist := wheel("demo"))
    path = alone.cache / "+files/root/pypi/+f" / dist.key
    path.parent.mkdir(parents=True)
    path.write_bytes(dist.data if is_right else dist.data[::-1])
    told = alone.json("warm", "demo")
    assert (told["held"], told["fetched"]["files"]) == ((1, 1) if is_right else (0, 2))
    assert path.read_bytes() == dist.data


def test_wheels_for_each_python_and_platform_are_fetched(alone: Commands, index: FakeIndex):
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
    alone.json("warm", "demo", *targets, "--platform", "manylinux_2_28_x86_64")
    assert held(alone.cache) == names(*wanted)


def test_where_no_wheel_fits_it_is_the_sdist(alone: Commands, index: FakeIndex):
    index.add(wheel("demo", tag="cp312-cp312-win_amd64"), source := sdist("demo"))
    alone.json("warm", "demo", "--python", "3.12", "--platform", "musllinux_1_2_x86_64")
    assert held(alone.cache) == names(source)


def test_all_files_of_the_version_can_be_had(alone: Commands, index: FakeIndex):
    files = [wheel("demo", tag="cp39-cp39-win32"), wheel("demo", tag=LINUX), sdist("demo")]
    index.add(*files, wheel("demo", "0.9"))
    alone.json("warm", "demo", "--all-files")
    assert held(alone.cache) == names(*files)


def test_each_failure_is_a_line_and_the_rest_is_fetched(alone: Commands, index: FakeIndex):
    index.add(good := wheel("good"), bad := wheel("bad"))
    index.answers[bad.path] = reply(bad.data[:-1] + b"!", "application/octet-stream")
    out = alone.run("warm", "good", "bad", "nope", "good>=9", "other; python_version < '3'")
    assert out.returncode == 1
    assert out.stdout.endswith("; 0 already held; 1 skipped; 3 failed\n")
    lines = sorted(out.stderr.splitlines())
    assert len(lines) == 4
    assert lines[0].startswith(f"failed {bad.filename}: {bad.filename}: upstream sent sha256 ")
    assert lines[1].startswith("failed good>=9: no version of good has a file that matches ")
    assert "has no project 'nope'" in lines[2]
    assert lines[3].startswith("skipped other")
    assert good.filename in held(alone.cache)
    assert bad.filename not in held(alone.cache)


def test_the_failures_are_in_the_json_too(alone: Commands, index: FakeIndex):
    index.add(wheel("demo"))
    told = alone.json("warm", "demo", "nope", code=1)
    assert [failure["what"] for failure in told["failed"]] == ["nope"]


def test_an_upstream_that_is_gone_is_a_failure_and_no_wait(alone: Commands, index: FakeIndex):
    index.stop()
    started = time.monotonic()
    told = alone.json("warm", *[f"p{number}" for number in range(8)], code=1)
    assert len(told["failed"]) == 8
    assert time.monotonic() - started < 30


@pytest.mark.parametrize(
    ("kill", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -15), (signal.SIGKILL, -9)]
)
def test_one_that_was_stopped_goes_on_where_it_was(
    alone: Commands, index: FakeIndex, kill: signal.Signals, code: int
):
    dist, answer = large(index, 100_000)
    with alone.running("warm", "large") as process:
        until(lambda: partials(alone.cache) == [100_000], seconds=30)
        process.send_signal(kill)
        out, err = process.communicate(timeout=30)
        assert (process.returncode, out, err.strip()) == (code, "", "")
    assert partials(alone.cache) == [100_000]
    answer.gate.set()
    assert alone.run("warm", "large").returncode == 0
    assert answer.ranges == [None, "bytes=100000-"]
    assert held(alone.cache) == names(dist)


def test_what_a_server_is_fetching_comes_once(beside: Beside, index: FakeIndex):
    dist, answer = large(index, 100_000)
    beside.client.json("large")
    connection = beside.client.open("GET", dist.served)
    until(lambda: partials(beside.cache) == [100_000])
    with beside.running("warm", "large", "--json") as process:
        until(lambda: f"{dist.filename}.metadata" in held(beside.cache), seconds=30)
        answer.gate.set()
        out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, "")
    assert json.loads(out)["fetched"]["files"] == 2
    assert connection.getresponse().read() == dist.data
    connection.close()
    assert (len(answer.ranges), index.page_count("large")) == (1, 1)


def test_a_server_beside_answers_from_it_at_once(beside: Beside, index: FakeIndex):
    index.add(dist := wheel("demo"))
    assert beside.run("warm", "demo").returncode == 0
    answers = [beside.client.get("/simple/demo/"), beside.client.get(dist.served)]
    assert [answer.headers["X-Cache"] for answer in answers] == ["HIT", "HIT"]
    assert (index.page_count("demo"), index.count(dist.path)) == (1, 1)


def test_more_than_may_be_kept_is_refused_before_it_is_begun(alone: Commands, index: FakeIndex):
    dists = [wheel(f"p{number}", payload=os.urandom(340_000)) for number in range(4)]
    index.add(*dists)
    projects = [dist.project for dist in dists]
    out = alone.run("warm", *projects, "--cache-max-size", "1MB")
    assert (out.returncode, out.stdout) == (2, "")
    (line,) = out.stderr.splitlines()
    assert line.startswith("pytail: --cache-max-size '976.6 KiB': the files that are wanted take ")
    assert held(alone.cache) == set()
    assert alone.run("warm", *projects[:2], "--cache-max-size", "1MB").returncode == 0
    # What was used longest ago makes room; what is wanted, held before or not, stays.
    assert alone.run("warm", projects[0], projects[2], "--cache-max-size", "1MB").returncode == 0
    assert held(alone.cache) >= names(dists[0], dists[2])
    assert dists[1].filename not in held(alone.cache)


def test_sizes_that_the_page_does_not_tell_count_too(alone: Commands, index: FakeIndex):
    index.html_only = True
    index.add(*(wheel(f"p{number}", payload=os.urandom(300_000)) for number in range(4)))
    out = alone.run("warm", "p0", "p1", "p2", "p3", "--cache-max-size", "1MB")
    assert (out.returncode, out.stdout) == (2, "")
    assert held(alone.cache) == set()


def test_a_terminal_sees_progress(alone: Commands, index: FakeIndex):
    index.add(wheel("demo"))
    primary, terminal = pty.openpty()
    try:
        out = alone.run("warm", "demo", stderr=terminal)
        shown = os.read(primary, 10_000).decode()
    finally:
        os.close(terminal)
        os.close(primary)
    assert "asking for pages" in shown
    assert "fetching" in shown
    assert "100%" in shown
    assert out.stdout.startswith("1 project, 2 files fetched, ")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "give a NAME or -r FILE"),
        (["demo", "--offline", "yes"], "--offline 'yes': "),
        (["de mo"], "NAME 'de mo': is no requirement such as 'demo>=2,<3': "),
        (["demo", "--python", "2.7"], "--python '2.7': give a version of Python 3"),
        (["demo", "--platform", "amiga"], "--platform 'amiga': give a platform tag"),
        (["-r", "nowhere.txt"], "-r 'nowhere.txt': cannot be read: No such file"),
    ],
)
def test_what_was_called_wrongly_is_one_line_and_exit_code_2(
    alone: Commands, arguments: list[str], told: str
):
    out = alone.run("warm", *arguments)
    assert (out.returncode, out.stdout) == (2, "")
    (line,) = out.stderr.splitlines()
    assert line.startswith(f"pytail: {told}")
    assert not alone.cache.exists()


def test_requirements_want_what_they_pin(alone: Commands, index: FakeIndex, tmp_path: Path):
    old, other = wheel("demo", "1.0"), wheel("other")
    index.add(old, wheel("demo", "2.0"), other)
    (tmp_path / "more.txt").write_text(f"other==1.0 --hash=sha256:{other.sha256}\n")
    (tmp_path / "reqs.txt").write_text("demo==1.0 \\\n  # old\n-r more.txt\n-e .\n")
    out = alone.run("warm", "-r", str(tmp_path / "reqs.txt"))
    assert out.returncode == 0
    assert out.stderr == "skipped .: editable, not from an index\n"
    assert held(alone.cache) == names(old, other)


def test_what_a_lock_has_of_another_index_is_asked_of_nobody(
    alone: Commands, index: FakeIndex, tmp_path: Path
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
    told = alone.json("warm", "-r", str(lock))
    assert [skipped["what"] for skipped in told["skipped"]] == ["private 1.0", "gone 1.0"]
    assert "--index https://other.example.org/simple" in told["skipped"][0]["reason"]
    assert index.seen == []
    alone.json("warm", "-r", str(lock), "--index", "https://other.example.org")
    assert held(alone.cache) == names(private)


def test_a_lock_gets_its_own_files_or_none(alone: Commands, index: FakeIndex, tmp_path: Path):
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
    told = alone.json("warm", "-r", str(lock), code=1)
    assert told["failed"] == [
        {
            "what": wrong.filename,
            "reason": "the file that its page lists has another digest than the lock",
        }
    ]
    assert held(alone.cache) == names(right)
