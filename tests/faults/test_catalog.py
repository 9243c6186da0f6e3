"""A catalog that is damaged while pytail serves."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pytail.storage.catalog import Catalog
from tests.support.fakeindex import FakeIndex, wheel
from tests.support.running import Client
from tests.support.watching import until


def overwrite(path: Path) -> None:
    with path.open("r+b") as out:
        out.write(os.urandom(path.stat().st_size))
    # SQLite has the pages in memory. Another worker that starts finds the damage.
    Catalog(path).close()


def empty(path: Path) -> None:
    os.truncate(path, 0)


def remove(path: Path) -> None:
    path.unlink()


def remove_all(path: Path) -> None:
    for found in path.parent.glob("index.sqlite3*"):
        found.unlink()


@pytest.mark.parametrize("damage", [overwrite, empty, remove, remove_all])
def test_a_damaged_catalog_costs_no_response_and_heals(
    pytail: Client, index: FakeIndex, tmp_path: Path, damage: Callable[[Path], None]
):
    dist = wheel("demo")
    index.add(dist, *(wheel("other", f"{number}.0") for number in range(50)))
    for path in ("/simple/demo/", "/simple/other/", dist.served):
        assert pytail.get(path).status == 200
    (catalog,) = tmp_path.rglob("index.sqlite3")
    inode = catalog.stat().st_ino
    damage(catalog)

    def is_new() -> bool:
        for path in ("/simple/demo/", "/simple/other/", dist.served):
            assert pytail.get(path).status == 200
        return catalog.exists() and catalog.stat().st_ino != inode

    until(is_new, 15)
    until(lambda: pytail.get("/simple/demo/").headers["X-Cache"] == "HIT", 15)
    assert index.count(dist.path) == 1
