"""The listening socket; of a Unix socket, which file is removed and which not."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest

from pytail.config.values import Bind
from pytail.errors import SettingError
from pytail.server.listener import listening


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pytail.sock"


def is_served(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0


def test_an_abandoned_socket_is_replaced_and_removed_at_the_end(path: Path):
    with socket.socket(socket.AF_UNIX) as abandoned:
        abandoned.bind(str(path))
    with listening(Bind(path=str(path))):
        assert is_served(path)
    assert not path.exists()


def test_the_socket_that_another_program_bound_instead_stays(path: Path):
    with listening(Bind(path=str(path))) as first, socket.socket(socket.AF_UNIX) as other:
        first.close()
        path.unlink()
        # Its inode number may be the same, but its time is not.
        time.sleep(0.02)
        other.bind(str(path))
    assert path.exists()


def test_the_socket_of_a_successor_stays_when_the_server_ends(path: Path):
    bind = Bind(path=str(path))
    old = listening(bind)
    old.__enter__().close()
    with listening(bind):
        old.__exit__(None, None, None)
        assert is_served(path)


def test_the_socket_of_a_living_server_is_not_replaced(path: Path):
    with listening(Bind(path=str(path))):
        with pytest.raises(SettingError, match="is in use"), listening(Bind(path=str(path))):
            pass
        assert is_served(path)


def test_the_socket_of_a_living_server_that_accepts_nothing_is_not_replaced(path: Path):
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as client:
        busy.bind(str(path))
        busy.listen(0)
        client.connect(str(path))
        with pytest.raises(SettingError, match="is in use"), listening(Bind(path=str(path))):
            pass
        assert path.is_socket()


@pytest.mark.parametrize("kind", ["file", "directory", "link"])
def test_a_file_that_is_no_socket_is_not_removed(path: Path, kind: str):
    if kind == "file":
        path.write_text("mine")
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to(path.with_name("nowhere"))
    before = path.lstat()
    with pytest.raises(SettingError), listening(Bind(path=str(path))):
        pass
    assert os.path.samestat(before, path.lstat())


def test_a_socket_for_datagrams_is_not_removed(path: Path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagrams:
        datagrams.bind(str(path))
        with pytest.raises(SettingError), listening(Bind(path=str(path))):
            pass
        assert path.is_socket()


def test_a_socket_that_another_program_replaced_by_a_file_stays(path: Path):
    with listening(Bind(path=str(path))):
        path.unlink()
        path.write_text("mine")
    assert path.read_text() == "mine"
