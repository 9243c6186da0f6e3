"""The database: threads, locks, the memo of look-ups, and errors of SQLite."""

import contextlib
import dataclasses
import os
import shutil
import sqlite3
import subprocess
import sys
import time

import gevent
import peewee
import pytest

from pytail.storage import database as database_module
from pytail.storage.catalog import Catalog
from pytail.storage.database import Database
from tests.support.storage import (
    BARE_FILE,
    FULL_ENTRY,
    FULL_PAGE,
    UPSTREAM,
    entry,
    filled,
    locked,
    page,
    process,
    set_aside,
)
from tests.support.watching import open_below, until

DIRECTORY = BARE_FILE.directory


# The memo


def test_the_memo_has_a_maximum_of_results(catalog, monkeypatch):
    monkeypatch.setattr(database_module, "_MAX_LOOK_UPS", 3)
    for number in range(10):
        catalog.remember(entry(f"p{number}"), page(f"p{number}"))
    for number in range(10):
        assert catalog.entry(f"p{number}").name == f"p{number}"
        assert len(catalog._database._memo) <= 3


def test_a_query_runs_once_until_another_connection_writes(path):
    asked = []

    def count(connection, name):
        asked.append(name)
        sql = "SELECT count(*) FROM project WHERE name = ?"
        return connection.execute_sql(sql, (name,)).fetchone()[0]

    with contextlib.closing(Database(path)) as database:
        assert [database.look_up(count, "demo") for _ in range(3)] == [0, 0, 0]
        assert asked == ["demo"]
        with contextlib.closing(Catalog(path)) as other:
            other.remember(entry(), page("demo"))
        assert [database.look_up(count, "demo") for _ in range(3)] == [1, 1, 1]
        assert asked == ["demo", "demo"]


# Locks


@pytest.mark.parametrize("kind", ["IMMEDIATE", "EXCLUSIVE"])
def test_a_locked_file_can_be_read(catalog, path, kind):
    catalog.remember(FULL_ENTRY, FULL_PAGE)
    with locked(path, kind):
        assert catalog.entry("demo") == FULL_ENTRY
        assert catalog.page("demo") == FULL_PAGE
        assert catalog.file(DIRECTORY, BARE_FILE.filename, UPSTREAM) == BARE_FILE
        assert catalog.projects(UPSTREAM) == ["demo"]


@pytest.mark.parametrize("kind", ["IMMEDIATE", "EXCLUSIVE"])
def test_a_write_to_a_locked_file_has_no_effect_and_is_logged(
    short_busy_timeout, path, kind, caplog
):
    with contextlib.closing(Catalog(path)) as catalog, locked(path, kind):
        catalog.remember(FULL_ENTRY, FULL_PAGE)
        catalog.mark_revalidated(entry(checked_at=30.0))
        catalog.remember_missing(entry("gone", found=False))
        assert catalog.entry("demo") is None
    # One line for errors that follow each other.
    assert caplog.text.count("cannot write") == 1
    assert "locked" in caplog.text


def test_writes_succeed_again_after_the_lock(short_busy_timeout, path):
    with contextlib.closing(Catalog(path)) as catalog:
        with locked(path):
            catalog.remember(FULL_ENTRY, FULL_PAGE)
        catalog.remember(FULL_ENTRY, FULL_PAGE)
        assert catalog.page("demo") == FULL_PAGE


def test_a_write_waits_for_a_short_one(path):
    with contextlib.closing(Catalog(path)) as catalog:
        with locked(path):
            write = gevent.spawn(catalog.remember, FULL_ENTRY, FULL_PAGE)
            gevent.idle()
        write.join()
        assert catalog.page("demo") == FULL_PAGE


def test_many_writes_wait_for_a_long_lock_no_longer_than_one(short_busy_timeout, path):
    with contextlib.closing(Catalog(path)) as catalog, locked(path):
        started = time.monotonic()
        names = [f"p{number}" for number in range(20)]
        writes = [gevent.spawn(catalog.remember, entry(name), page(name)) for name in names]
        gevent.joinall(writes, raise_error=True)
        assert time.monotonic() - started < 2


def test_the_event_loop_runs_while_a_write_waits_for_the_lock(short_busy_timeout, path):
    ticks = []

    def tick():
        while True:
            ticks.append(time.monotonic())
            gevent.sleep(0.01)

    with contextlib.closing(Catalog(path)) as catalog, locked(path):
        ticking = gevent.spawn(tick)
        catalog.remember(FULL_ENTRY, FULL_PAGE)
        ticking.kill()
    assert len(ticks) > 5


def test_closing_finishes_the_writes_under_way(path):
    with contextlib.closing(Catalog(path)) as catalog:
        with locked(path):
            write = gevent.spawn(catalog.remember_missing, entry(found=False))
            gevent.idle()
            closing = gevent.spawn(catalog.close)
            gevent.idle()
        gevent.joinall([write, closing], raise_error=True)
    with contextlib.closing(Catalog(path)) as again:
        assert again.entry("demo") == entry(found=False)


# Damage


def test_damage_while_the_file_is_open_is_no_error_of_the_caller(path, caplog):
    filled(path)
    with contextlib.closing(Catalog(path)) as opened:
        with path.open("r+b") as out:
            out.seek(4096)
            out.write(b"\xff" * 200_000)
        opened.page("p1")
        opened.entry("p1")
        opened.file(DIRECTORY, "p1-1.tar.gz", UPSTREAM)
        opened.projects(UPSTREAM)
        opened.last_serial(UPSTREAM)
        opened.remember(FULL_ENTRY, FULL_PAGE)
        opened.remember_missing(entry("gone", found=False))
        opened.mark_revalidated(entry(checked_at=30.0))
    assert "continuing without" in caplog.text


def overwritten(path):
    with path.open("r+b") as out:
        out.seek(4096)
        out.write(b"\xff\x93noise" * 30_000)


def noise(path):
    path.write_bytes(b"\xff\x93noise" * 1000)


def emptied(path):
    os.truncate(path, 0)


def shortened(path):
    os.truncate(path, path.stat().st_size // 2 // 4096 * 4096)


def removed(path):
    path.unlink()


def removed_with_all_beside(path):
    for found in path.parent.iterdir():
        found.unlink()


def replaced_by_noise(path):
    path.unlink()
    noise(path)


def replaced_by_another_program(path):
    path.unlink()
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE theirs AS SELECT 'precious' AS value")
        other.commit()


def without_a_table(path):
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute("DROP TABLE project")
        other.commit()


DAMAGES = [
    overwritten, noise, emptied, shortened, removed, removed_with_all_beside, replaced_by_noise,
    replaced_by_another_program, without_a_table,
]  # fmt: skip


def is_remembered(*catalogs):
    """Return whether each of `catalogs` finds what the first one writes."""
    for each in catalogs:
        # As requests do all the time.
        each.entry("p1")
        each.page("p1")
    catalogs[0].remember(FULL_ENTRY, FULL_PAGE)
    return all(each.page("demo") == FULL_PAGE for each in catalogs)


def is_complete(path):
    """Return whether a process that starts now finds the page."""
    with contextlib.closing(Catalog(path)) as later:
        return later.page("demo") == FULL_PAGE


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_file_that_is_damaged_while_it_is_open_is_replaced(path, damage, caplog):
    filled(path)
    with contextlib.closing(Catalog(path)) as opened:
        opened.page("p1")
        opened.entry("p1")
        damage(path)

        def is_steady():
            # The damaged file may still answer for a moment before it is set aside.
            caplog.clear()
            works = is_remembered(opened) and is_complete(path) and is_remembered(opened)
            return works and caplog.text == ""

        until(is_steady, 10)
    assert is_complete(path)
    assert len(set_aside(path)) <= 1
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA quick_check").fetchone() == ("ok",)
        assert connection.execute("PRAGMA auto_vacuum").fetchone() == (2,)


@pytest.mark.parametrize("damage", DAMAGES)
def test_processes_that_share_a_damaged_file_continue_with_one_new_file(path, damage):
    filled(path)
    with (
        contextlib.closing(Catalog(path)) as opened,
        process(FOLLOWER, str(path)) as follower,
    ):
        opened.page("p1")
        damage(path)

        def agree():
            follower.stdin.write("\n")
            follower.stdin.flush()
            return is_remembered(opened) and follower.stdout.readline() == "demo other\n"

        until(agree, 15)
        assert is_complete(path)
    assert len(set_aside(path)) <= 1


FOLLOWER = """
import sys
from pathlib import Path
from gevent import monkey
monkey.patch_all()
from pytail.storage.catalog import Catalog, Entry
from pytail.model import ProjectPage

catalog = Catalog(Path(sys.argv[1]))
print("ready", flush=True)
for line in sys.stdin:
    entry = Entry(name="other", upstream="http://index.example.org", found=True, fetched_at=1.0,
                  checked_at=1.0)
    catalog.entry("p1")
    catalog.remember(entry, ProjectPage(name="other"))
    found = [name for name in ("demo", "other") if catalog.page(name) is not None]
    print(*found, flush=True)
"""


def test_errors_that_follow_each_other_are_logged_once(path, caplog, monkeypatch):
    filled(path)
    monkeypatch.setattr(database_module, "_RETRY_INTERVAL", 0.0)
    with contextlib.closing(Catalog(path)) as opened:
        shutil.rmtree(path.parent)
        for _ in range(20):
            opened.entry("p1")
            opened.remember(FULL_ENTRY, FULL_PAGE)
            gevent.sleep(0.01)
    assert caplog.text.count("cannot open the catalog") <= 1
    assert len(caplog.records) <= 3


@pytest.mark.parametrize("column", ["fetched_at", "checked_at"])
@pytest.mark.parametrize(
    "value", ["-1.0", "9e999", "-9e999", "1e300", "'soon'", "x'ff'", "CAST(x'ff' AS TEXT)"]
)
def test_a_row_with_an_impossible_time_is_unknown_until_it_is_written_again(path, column, value):
    with contextlib.closing(Catalog(path)) as opened:
        opened.remember(FULL_ENTRY, FULL_PAGE)
        with contextlib.closing(sqlite3.connect(path)) as other:
            other.execute(f"UPDATE project SET {column} = {value}")
            other.commit()
        assert opened.entry("demo") is None
        assert opened.recent_entry("demo") is None
        opened.remember(FULL_ENTRY, FULL_PAGE)
        assert opened.entry("demo") == FULL_ENTRY


def test_a_closed_catalog_knows_nothing_and_opens_no_file(path):
    with contextlib.closing(Catalog(path)) as opened:
        opened.remember(FULL_ENTRY, FULL_PAGE)
    assert opened.entry("demo") is None
    assert opened.page("demo") is None
    opened.remember(FULL_ENTRY, FULL_PAGE)
    assert open_below(path.parent) == []


@pytest.mark.parametrize("seconds", [2**31, 2**32, 2.0**33])
def test_times_after_2038_are_kept(path, seconds):
    later = dataclasses.replace(FULL_ENTRY, fetched_at=float(seconds), checked_at=float(seconds))
    with contextlib.closing(Catalog(path)) as opened:
        opened.remember(later, FULL_PAGE)
        assert opened.entry("demo") == later


def test_a_file_that_cannot_be_opened_is_an_error_of_the_constructor(path):
    path.mkdir()
    with pytest.raises((peewee.PeeweeException, sqlite3.Error)):
        Catalog(path)


# Several users

OPENER = """
import sys
from pathlib import Path
from gevent import monkey
monkey.patch_all()
from pytail.storage.catalog import Catalog, Entry
from pytail.model import File, ProjectPage

name = sys.argv[1]
print("ready", flush=True)
for line in sys.stdin:
    catalog = Catalog(Path(line.strip()))
    entry = Entry(name=name, upstream="http://index.example.org", found=True, fetched_at=1.0,
                  checked_at=1.0)
    catalog.remember(entry, ProjectPage(name=name))
    print(catalog.entry(name) == entry, flush=True)
    catalog.close()
"""


def test_processes_can_create_one_file_at_the_same_time(tmp_path):
    with contextlib.ExitStack() as processes:
        openers = [
            processes.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", OPENER, f"p{number}"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for number in range(3)
        ]
        assert [opener.stdout.readline() for opener in openers] == ["ready\n"] * 3
        for attempt in range(10):
            path = tmp_path / str(attempt) / "index.sqlite3"
            path.parent.mkdir()
            for opener in openers:
                opener.stdin.write(f"{path}\n")
                opener.stdin.flush()
            assert [opener.stdout.readline() for opener in openers] == ["True\n"] * 3
            with contextlib.closing(Catalog(path)) as catalog:
                assert catalog.projects("http://index.example.org") == ["p0", "p1", "p2"]
            assert set_aside(path) == []


def test_greenlets_can_read_and_write_at_the_same_time(catalog):
    def use(name):
        for files in range(1, 15):
            catalog.remember(entry(name), page(name, files))
            assert catalog.page(name) == page(name, files)
            assert (
                catalog.file(DIRECTORY, f"{name}-0.tar.gz", UPSTREAM).filename == f"{name}-0.tar.gz"
            )

    users = [gevent.spawn(use, f"p{number}") for number in range(8)]
    gevent.joinall(users, raise_error=True)
    assert len(catalog.projects(UPSTREAM)) == 8
