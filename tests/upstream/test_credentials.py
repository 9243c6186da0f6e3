"""The credentials of netrc are those of the file as it is now."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import pytest

from pytail.upstream.credentials import Netrc

HOST = "index.example.org"


def write(path: Path, password: str) -> None:
    path.write_text(f"machine {HOST} login user password {password}\n")


def header(password: str) -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(f'user:{password}'.encode()).decode()}"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / ".netrc"
    write(path, "old")
    return path


def test_a_changed_file_is_read_again(path: Path):
    netrc = Netrc({"NETRC": str(path)}, HOST, interval=0)
    assert netrc.headers() == header("old")
    write(path, "newer")
    assert netrc.headers() == header("newer")


def test_a_file_replaced_by_one_of_the_same_size_and_time_is_read_again(path: Path):
    netrc = Netrc({"NETRC": str(path)}, HOST, interval=0)
    other = path.with_name("other")
    write(other, "new")
    times = path.stat()
    os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
    other.replace(path)
    assert netrc.headers() == header("new")


def test_a_file_that_did_not_exist_is_read_when_it_does(tmp_path: Path):
    netrc = Netrc({"HOME": str(tmp_path)}, HOST, interval=0)
    assert netrc.headers() == {}
    write(tmp_path / ".netrc", "new")
    assert netrc.headers() == header("new")


def test_credentials_end_where_the_entry_or_the_file_of_the_home_directory_is_removed(path: Path):
    netrc = Netrc({"HOME": str(path.parent)}, HOST, interval=0)
    path.write_text("machine other.example.org login user password old\n")
    assert netrc.headers() == {}
    write(path, "old")
    assert netrc.headers() == header("old")
    path.unlink()
    assert netrc.headers() == {}


def test_a_broken_file_keeps_the_credentials_with_one_warning(
    path: Path, caplog: pytest.LogCaptureFixture
):
    netrc = Netrc({"NETRC": str(path)}, HOST, interval=0)
    for broken in ("machine", "machine x password secret nonsense", "\udcff"):
        path.write_bytes(broken.encode("utf-8", "surrogateescape"))
        assert netrc.headers() == header("old")
    path.unlink()
    assert netrc.headers() == header("old")
    assert len(caplog.records) == 1
    assert "secret" not in caplog.text
    write(path, "new")
    assert netrc.headers() == header("new")
    path.write_text("machine")
    netrc.headers()
    assert len(caplog.records) == 2


def test_an_unchanged_file_is_not_read_again(path: Path):
    netrc = Netrc({"NETRC": str(path)}, HOST, interval=0)
    before = path.stat()
    write(path, "new")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert netrc.headers() == header("old")


def test_the_file_is_looked_at_once_in_an_interval(path: Path):
    netrc = Netrc({"NETRC": str(path)}, HOST, interval=3600)
    write(path, "newer")
    assert netrc.headers() == header("old")
