"""A store and a catalog in a directory of the test."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytail.storage import schema
from pytail.storage.catalog import Catalog
from pytail.storage.store import Store
from tests.support.storage import DIRECTORY
from tests.support.watching import open_below


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A store, which must have no file open in the end."""
    yield Store(tmp_path)
    assert open_below(tmp_path) == []


@pytest.fixture
def final(tmp_path: Path) -> Path:
    """The path of `tests.support.storage.file` once it is stored."""
    return tmp_path / "+files" / "root" / "pypi" / "+f" / DIRECTORY / "demo-1.0.tar.gz"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The path of the catalog."""
    return tmp_path / "index.sqlite3"


@pytest.fixture
def catalog(path: Path) -> Iterator[Catalog]:
    """An empty catalog."""
    with contextlib.closing(Catalog(path)) as opened:
        yield opened


@pytest.fixture
def short_busy_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have writes wait 0.3 seconds for a lock."""
    monkeypatch.setattr(schema, "BUSY_TIMEOUT", 0.3)
