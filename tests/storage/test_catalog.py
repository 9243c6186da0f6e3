"""What we know of upstream, and since when."""

import contextlib
import dataclasses
import sqlite3
import subprocess
import sys
import time

import gevent
import orjson
import peewee
import pytest

from pytail.errors import SettingError
from pytail.model import File, ProjectPage
from pytail.storage import catalog as room
from pytail.storage import schema
from pytail.storage.catalog import Catalog, Entry
from tests.support.watching import until

UPSTREAM = "https://index.example.org"
SHELF = "abc/0123456789abc"

BARE_FILE = File(
    filename="demo-1.0.tar.gz", url="https://files.example.org/demo-1.0.tar.gz", directory=SHELF
)
FULL_FILE = File(
    filename="demo-2.0-py3-none-any.whl",
    url="https://files.example.org/dèmo-2.0-py3-none-any.whl?x=1&y=%20",
    directory="_url/" + "f" * 64,
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
    directory=SHELF,
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


def entry(name="demo", found=True, checked_at=20.0, **more):
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
)


def page(name, files=1):
    made = (
        dataclasses.replace(BARE_FILE, filename=f"{name}-{number}.tar.gz", size=number)
        for number in range(files)
    )
    return ProjectPage(name=name, files=tuple(made))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "index.sqlite3"


@pytest.fixture
def catalog(path):
    with contextlib.closing(Catalog(path)) as opened:
        yield opened


# Round trips


@pytest.mark.parametrize("remembered", [FULL_PAGE, BARE_PAGE, ProjectPage(name="demo")])
def test_a_page_comes_back_as_it_was(catalog, remembered):
    catalog.remember(entry(last_serial=remembered.last_serial), remembered)
    assert catalog.page("demo") == remembered


@pytest.mark.parametrize("remembered", [FULL_FILE, BARE_FILE, OTHER_FILE], ids=repr)
def test_a_file_comes_back_as_it_was(catalog, remembered):
    catalog.remember(FULL_ENTRY, FULL_PAGE)
    found = catalog.file(remembered.directory, remembered.filename, UPSTREAM)
    assert found == remembered
    assert type(found.gpg_sig) is type(remembered.gpg_sig)


@pytest.mark.parametrize("remembered", [FULL_ENTRY, entry()], ids=["full", "bare"])
def test_an_entry_comes_back_as_it_was(catalog, remembered):
    catalog.remember(remembered, dataclasses.replace(FULL_PAGE, status=remembered.status))
    assert catalog.entry("demo") == remembered


def test_what_is_remembered_survives_the_process(path):
    with contextlib.closing(Catalog(path)) as first:
        first.remember(FULL_ENTRY, FULL_PAGE)
    with contextlib.closing(Catalog(path)) as second:
        assert second.entry("demo") == FULL_ENTRY
        assert second.page("demo") == FULL_PAGE


def test_a_large_page_comes_back_in_its_order(catalog):
    catalog.remember(entry("large"), page("large", 5000))
    assert catalog.page("large") == page("large", 5000)


def test_nothing_is_known_at_first(catalog):
    assert catalog.entry("demo") is None
    assert catalog.page("demo") is None
    assert catalog.file(SHELF, "demo-1.0.tar.gz", UPSTREAM) is None
    assert catalog.projects(UPSTREAM) == []
    assert catalog.last_serial(UPSTREAM) is None


# What replaces what


def test_a_new_page_replaces_the_old_one(catalog):
    catalog.remember(FULL_ENTRY, FULL_PAGE)
    catalog.remember(entry(), BARE_PAGE)
    assert catalog.entry("demo") == entry()
    assert catalog.page("demo") == BARE_PAGE
    assert catalog.file(FULL_FILE.directory, FULL_FILE.filename, UPSTREAM) is None


def test_a_page_replaces_no_other_projects(catalog):
    catalog.remember(entry("one"), page("one"))
    catalog.remember(entry("two"), page("two"))
    assert catalog.page("one") == page("one")


def test_a_confirmed_page_is_as_old_as_its_confirmation(catalog):
    catalog.remember(FULL_ENTRY, FULL_PAGE)
    catalog.confirm("demo", 1_800_000_000.5)
    assert catalog.entry("demo") == dataclasses.replace(FULL_ENTRY, checked_at=1_800_000_000.5)
    assert catalog.page("demo") == FULL_PAGE


def test_a_confirmation_of_what_was_forgotten_is_nothing(catalog):
    catalog.confirm("demo", 30.0)
    assert catalog.entry("demo") is None


def test_a_missing_project_is_known_to_be_missing(catalog):
    catalog.remember_missing(entry(found=False))
    assert catalog.entry("demo") == entry(found=False)
    assert catalog.page("demo") is None


def test_a_missing_project_has_no_files_any_more(catalog):
    catalog.remember(FULL_ENTRY, FULL_PAGE)
    catalog.remember_missing(entry(found=False))
    assert catalog.page("demo") is None
    assert catalog.file(BARE_FILE.directory, BARE_FILE.filename, UPSTREAM) is None
    assert catalog.projects(UPSTREAM) == []


def test_the_projects_are_those_found_in_order(catalog):
    for name in ("zope", "a", "b-c"):
        catalog.remember(entry(name), page(name))
    catalog.remember_missing(entry("missing", found=False))
    assert catalog.projects(UPSTREAM) == ["a", "b-c", "zope"]


def test_the_last_serial_is_the_highest(catalog):
    for name, serial in (("a", 7), ("b", None), ("c", 12), ("d", 3)):
        catalog.remember(entry(name, last_serial=serial), page(name))
    assert catalog.last_serial(UPSTREAM) == 12


def test_what_another_process_changes_is_seen_at_once(catalog, path):
    with contextlib.closing(Catalog(path)) as other:
        for number in range(3):
            file = dataclasses.replace(BARE_FILE, size=number)
            other.remember(entry(revision=str(number)), ProjectPage(name="demo", files=(file,)))
            for _ in range(2):
                assert catalog.entry("demo").revision == str(number)
                assert catalog.file(SHELF, BARE_FILE.filename, UPSTREAM) == file
            other.confirm("demo", 100.0 + number)
            assert catalog.entry("demo").checked_at == 100.0 + number
        other.remember_missing(entry(found=False))
        assert not catalog.entry("demo").found
        assert catalog.file(SHELF, BARE_FILE.filename, UPSTREAM) is None


def test_a_glance_sees_what_this_process_writes_at_once_and_others_soon(catalog, path):
    with contextlib.closing(Catalog(path)) as other:
        for number in range(3):
            catalog.remember(entry(revision=str(number)), ProjectPage(name="demo"))
            assert catalog.recent_entry("demo").revision == str(number)
            other.confirm("demo", 100.0 + number)
            until(lambda number=number: catalog.recent_entry("demo").checked_at == 100.0 + number)


def test_what_is_looked_up_is_at_hand_up_to_a_number(catalog, monkeypatch):
    monkeypatch.setattr(room, "_MOST_FOUND", 3)
    for number in range(10):
        catalog.remember(entry(f"p{number}"), page(f"p{number}"))
    for number in range(10):
        assert catalog.entry(f"p{number}").name == f"p{number}"
        assert len(catalog._found) <= 3


def test_another_upstreams_pages_say_nothing_about_this_one(catalog):
    catalog.remember(entry(last_serial=7), BARE_PAGE)
    other = "https://other.example.org"
    assert catalog.file(SHELF, BARE_FILE.filename, UPSTREAM) == BARE_FILE
    assert catalog.file(SHELF, BARE_FILE.filename, other) is None
    assert catalog.projects(other) == []
    assert catalog.last_serial(other) is None


def test_missing_projects_are_forgotten_beyond_a_number_the_oldest_first(catalog, monkeypatch):
    monkeypatch.setattr(room, "MOST_MISSING", 3)
    catalog.remember(entry("found", checked_at=0.0), page("found"))
    for number in (4, 1, 5, 2, 3):
        catalog.remember_missing(entry(f"m{number}", found=False, checked_at=float(number)))
    known = [name for name in ("m1", "m2", "m3", "m4", "m5") if catalog.entry(name)]
    assert known == ["m3", "m4", "m5"]
    assert catalog.entry("found") is not None


def test_each_file_of_a_large_page_is_found(catalog):
    listed = [
        dataclasses.replace(
            BARE_FILE, filename=f"demo-{number}.tar.gz", directory=f"{number:03x}/{'0' * 13}"
        )
        for number in range(1000)
    ]
    catalog.remember(entry(), ProjectPage(name="demo", files=tuple(listed)))
    for file in listed:
        assert catalog.file(file.directory, file.filename, UPSTREAM) == file
    assert catalog.file(listed[0].directory, listed[1].filename, UPSTREAM) is None


STRAYS = [
    dataclasses.replace(FULL_FILE, filename=filename)
    for filename in ("other-1.0-py3-none-any.whl", "other-1.0.tar.gz", "demo", "demo_1.0.zip")
]


def test_a_file_by_whose_name_its_project_would_not_be_found_is_found(catalog):
    catalog.remember(entry(), ProjectPage(name="demo", files=(BARE_FILE, *STRAYS)))
    for file in (BARE_FILE, *STRAYS):
        assert catalog.file(file.directory, file.filename, UPSTREAM) == file
        assert catalog.project_of(file.directory, file.filename) == "demo"
    catalog.set_core_metadata(STRAYS[0], "d" * 64)
    learnt = catalog.file(STRAYS[0].directory, STRAYS[0].filename, UPSTREAM)
    assert learnt.core_metadata == {"sha256": "d" * 64}


@pytest.mark.parametrize(
    "change",
    [
        lambda catalog: catalog.remember(entry(), BARE_PAGE),
        lambda catalog: catalog.remember_missing(entry(found=False)),
        lambda catalog: catalog.forget(["demo"]),
    ],
    ids=["changed", "missing", "forgotten"],
)
def test_such_a_file_goes_with_its_page(catalog, path, change):
    catalog.remember(entry(), ProjectPage(name="demo", files=tuple(STRAYS)))
    catalog.remember(entry("third"), ProjectPage(name="third", files=(STRAYS[0],)))
    change(catalog)
    assert catalog.project_of(STRAYS[0].directory, STRAYS[0].filename) == "third"
    assert catalog.project_of(STRAYS[1].directory, STRAYS[1].filename) is None
    with contextlib.closing(sqlite3.connect(path)) as looking:
        assert looking.execute("SELECT project FROM stray").fetchall() == [("third",)]


# Learnt metadata


def test_the_owner_of_a_file_is_the_project_that_lists_it(catalog):
    catalog.remember(entry(), FULL_PAGE)
    assert catalog.project_of(BARE_FILE.directory, BARE_FILE.filename) == "demo"
    assert catalog.project_of(BARE_FILE.directory, FULL_FILE.filename) is None


def test_what_is_forgotten_is_as_never_known(catalog):
    for name in ("demo", "other"):
        catalog.remember(entry(name), page(name))
    catalog.remember_missing(entry("gone", found=False))
    assert catalog.forget(["demo", "gone", "never-known"]) == 2
    assert catalog.projects(UPSTREAM) == ["other"]
    assert (catalog.entry("gone"), catalog.page("demo")) == (None, None)
    assert catalog.file(SHELF, "demo-0.tar.gz", UPSTREAM) is None
    assert catalog.file(SHELF, "other-0.tar.gz", UPSTREAM) is not None


def test_all_is_forgotten_however_much_it_is(catalog, monkeypatch):
    monkeypatch.setattr(room, "_TRIMMED", 2)
    for number in range(5):
        catalog.remember(entry(f"demo{number}"), page(f"demo{number}"))
    assert catalog.forget() == 5
    assert catalog.projects(UPSTREAM) == []


@pytest.mark.parametrize(("sha256", "learnt"), [("d" * 64, {"sha256": "d" * 64}), (None, False)])
def test_what_is_learnt_of_a_wheels_metadata_is_known(catalog, sha256, learnt):
    catalog.remember(entry(), FULL_PAGE)
    catalog.set_core_metadata(FULL_FILE, sha256)
    found = catalog.file(FULL_FILE.directory, FULL_FILE.filename, UPSTREAM)
    assert found == dataclasses.replace(FULL_FILE, core_metadata=learnt)


def test_what_is_learnt_changes_the_revision_of_its_page_and_nothing_else(catalog):
    catalog.remember(FULL_ENTRY, FULL_PAGE)
    catalog.remember(entry("other"), page("other"))
    catalog.set_core_metadata(FULL_FILE, "d" * 64)
    changed = catalog.entry("demo")
    assert changed.revision not in ("", FULL_ENTRY.revision)
    assert dataclasses.replace(changed, revision=FULL_ENTRY.revision) == FULL_ENTRY
    assert catalog.page("demo").files[1:] == FULL_PAGE.files[1:]
    assert catalog.entry("other") == entry("other")


def test_what_was_known_already_changes_no_revision(catalog):
    catalog.remember(FULL_ENTRY, FULL_PAGE)
    catalog.set_core_metadata(FULL_FILE, FULL_FILE.core_metadata["sha256"])
    assert catalog.entry("demo") == FULL_ENTRY


def test_what_is_learnt_of_a_file_that_no_page_lists_is_nothing(catalog):
    catalog.set_core_metadata(FULL_FILE, "d" * 64)
    assert catalog.file(FULL_FILE.directory, FULL_FILE.filename, UPSTREAM) is None


# Ready pages

READY = ("etag", b"bytes")


def keep_ready(catalog, name="demo", revision="r1", variant="v", data=READY[1]):
    catalog.store_ready_page(name, revision, variant, READY[0], data)


def ready(catalog, name="demo", revision="r1", variant="v"):
    return catalog.ready_page(name, revision, variant)


def all_ready(path):
    """The variants kept of each project."""
    with contextlib.closing(sqlite3.connect(path)) as looking:
        return looking.execute("SELECT project, variant FROM ready ORDER BY id").fetchall()


def test_what_is_ready_comes_back_as_it_was(catalog):
    catalog.remember(entry(), BARE_PAGE)
    keep_ready(catalog)
    assert ready(catalog) == READY
    assert ready(catalog, variant="w") is None
    assert ready(catalog, "other") is None


@pytest.mark.parametrize(
    "change",
    [
        lambda catalog: catalog.remember(entry(revision="r2"), BARE_PAGE),
        lambda catalog: catalog.remember_missing(entry(found=False, revision="")),
        lambda catalog: catalog.set_core_metadata(FULL_FILE, "d" * 64),
        lambda catalog: catalog.forget(["demo"]),
        lambda catalog: catalog.forget(),
        lambda catalog: catalog.trim(0),
    ],
    ids=["changed", "missing", "learnt", "forgotten", "all forgotten", "trimmed"],
)
def test_what_is_ready_goes_with_what_it_shows(catalog, path, change):
    catalog.remember(entry(), FULL_PAGE)
    catalog.remember(entry("other"), page("other"))
    keep_ready(catalog)
    change(catalog)
    assert ready(catalog) is None
    assert all_ready(path) == []


def test_what_is_ready_stays_while_its_page_is_found_unchanged(catalog):
    catalog.remember(entry(), BARE_PAGE)
    keep_ready(catalog)
    catalog.remember(entry(checked_at=30.0), BARE_PAGE)
    catalog.confirm("demo", 40.0)
    catalog.remember(entry("other"), page("other"))
    assert ready(catalog) == READY


def test_what_was_rendered_of_an_older_page_is_not_kept(catalog, path):
    keep_ready(catalog)
    catalog.remember(entry(revision="r2"), BARE_PAGE)
    keep_ready(catalog)
    assert all_ready(path) == []


def test_ready_pages_make_room_before_what_is_known_the_first_kept_first(catalog, path):
    for number in range(60):
        catalog.remember(entry(f"p{number}"), page(f"p{number}"))
        keep_ready(catalog, f"p{number}", data=bytes(50_000))
    keep_ready(catalog, "p0", data=bytes(50_000))
    catalog.trim(2_000_000)
    assert catalog.size() <= 2_000_000
    assert len(catalog.projects(UPSTREAM)) == 60
    left = [name for name, _ in all_ready(path)]
    assert left[-1] == "p0"
    assert left[:-1] == [f"p{number}" for number in range(61 - len(left), 60)]
    catalog.trim(1)
    assert all_ready(path) == []
    assert len(catalog.projects(UPSTREAM)) < 60


# A file that cannot be used


def set_aside(path):
    beside = ("-journal", "-wal", "-shm")
    found = [found for found in path.parent.iterdir() if "set-aside" in found.name]
    return [found for found in found if not found.name.endswith(beside)]


def works_anew(path):
    with contextlib.closing(Catalog(path)) as opened:
        opened.remember(FULL_ENTRY, FULL_PAGE)
        return opened.page("demo") == FULL_PAGE


def filled(path):
    """The bytes of a sound catalog of some dozens of pages."""
    with contextlib.closing(Catalog(path)) as opened:
        for number in range(20):
            opened.remember(entry(f"p{number}"), page(f"p{number}", 40))
    return path.read_bytes()


def test_garbage_is_set_aside_with_a_line_in_the_log(path, caplog):
    path.write_bytes(b"garbage" * 1000)
    assert works_anew(path)
    (aside,) = set_aside(path)
    assert aside.read_bytes() == b"garbage" * 1000
    (record,) = [record for record in caplog.records if aside.name in record.getMessage()]
    assert record.levelname == "WARNING"
    assert "\n" not in record.getMessage()


def test_another_programs_file_is_set_aside_unharmed(path):
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE theirs AS SELECT 'precious' AS value")
        other.commit()
    before = path.read_bytes()
    assert works_anew(path)
    (aside,) = set_aside(path)
    assert aside.read_bytes() == before


@pytest.mark.parametrize("suffix", ["-wal", "-shm", "-journal"])
def test_what_lies_beside_a_damaged_file_goes_with_it(path, suffix):
    path.write_bytes(b"garbage" * 1000)
    path.with_name(path.name + suffix).write_bytes(b"beside" * 1000)
    assert works_anew(path)
    (aside,) = set_aside(path)
    assert aside.with_name(aside.name + suffix).exists()
    assert not path.with_name(f"{path.name}-journal").exists()


def test_another_programs_unfinished_write_is_set_aside_with_its_file(path):
    crash = (
        "import os, sqlite3, sys\n"
        "theirs = sqlite3.connect(sys.argv[1])\n"
        "theirs.execute('CREATE TABLE theirs (value)')\n"
        "theirs.commit()\n"
        "theirs.execute('PRAGMA cache_size = 1')\n"
        "theirs.executemany('INSERT INTO theirs VALUES (?)', [['x' * 500]] * 1000)\n"
        "os._exit(0)\n"
    )
    subprocess.run([sys.executable, "-c", crash, str(path)], check=True)
    assert path.with_name(f"{path.name}-journal").stat().st_size > 0
    assert works_anew(path)
    (aside,) = set_aside(path)
    assert aside.with_name(f"{aside.name}-journal").exists()


@pytest.mark.parametrize("part", [0.0001, 0.001, 0.3, 0.5, 0.9])
def test_a_truncated_file_is_set_aside(path, part):
    data = filled(path)
    path.write_bytes(data[: int(len(data) * part)])
    assert works_anew(path)
    assert len(set_aside(path)) == 1


def test_an_empty_file_is_a_new_one(path):
    path.touch()
    assert works_anew(path)
    assert set_aside(path) == []


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("noise", [bytes(8192), b"\xff\x93noise" * 1000])
def test_a_file_overwritten_in_the_middle_is_set_aside(path, part, noise):
    data = filled(path)
    start = int(len(data) * part)
    path.write_bytes(data[:start] + noise + data[start + len(noise) :])
    assert works_anew(path)
    assert len(set_aside(path)) == 1


def test_an_older_schema_is_set_aside(path):
    filled(path)
    with contextlib.closing(sqlite3.connect(path)) as older:
        older.execute("PRAGMA user_version = 0")
    assert works_anew(path)
    assert len(set_aside(path)) == 1


#: As it was up to schema 3.
ROWS = """
CREATE TABLE file (
    project VARCHAR(255) NOT NULL, position INTEGER NOT NULL, filename VARCHAR(255) NOT NULL,
    url TEXT NOT NULL, shelf VARCHAR(255) NOT NULL, hashes BLOB NOT NULL, size BIGINT,
    upload_time VARCHAR(255), requires_python TEXT, yanked BLOB NOT NULL,
    core_metadata BLOB NOT NULL, gpg_sig INTEGER, provenance TEXT, other BLOB NOT NULL,
    PRIMARY KEY (project, position)
) WITHOUT ROWID;
CREATE INDEX file_shelf_filename ON file (shelf, filename);
DROP TABLE part;
DROP TABLE stray;
"""


def as_schema(version, path, *pages):
    """Make a catalog that knows of `pages` what an earlier version wrote."""
    dump = orjson.dumps
    with contextlib.closing(sqlite3.connect(path)) as older:
        older.executescript(ROWS)
        for page in pages:
            for position, file in enumerate(page.files):
                row = (
                    page.name, position, file.filename, file.url, file.directory, dump(file.hashes),
                    file.size, file.upload_time, file.requires_python, dump(file.yanked),
                    dump(file.core_metadata), file.gpg_sig, file.provenance, dump(file.other),
                )  # fmt: skip
                older.execute(f"INSERT INTO file VALUES ({', '.join('?' * len(row))})", row)
        if version < 3:
            older.execute("DROP TABLE ready")
        older.execute(f"PRAGMA user_version = {version}")
        older.commit()


def test_a_schema_that_is_not_known_is_not_taken_for_an_older_one(path):
    filled(path)
    as_schema(3, path)
    with contextlib.closing(schema.database_at(path, 1)) as database:
        assert schema._is_older(database)
        for pragma in ("user_version = 1", "user_version = 99", "user_version = 2"):
            database.execute_sql(f"PRAGMA {pragma}")
            assert schema._is_older(database) == pragma.endswith("2")
        database.execute_sql("PRAGMA application_id = 7")
        assert not schema._is_older(database)


@pytest.mark.parametrize("version", [2, 3])
def test_an_earlier_schema_is_migrated_and_keeps_what_is_known(path, version, caplog):
    caplog.set_level("INFO")
    with contextlib.closing(Catalog(path)) as older:
        older.remember(FULL_ENTRY, FULL_PAGE)
        older.remember(entry("large"), page("large", 1000))
        older.remember_missing(entry("gone", found=False))
        older.remember_size("abc/x", 7)
        keep_ready(older, revision=FULL_ENTRY.revision)
    as_schema(version, path, FULL_PAGE, page("large", 1000))
    with contextlib.closing(Catalog(path)) as migrated:
        assert migrated.entry("demo") == FULL_ENTRY
        assert migrated.page("demo") == FULL_PAGE
        assert migrated.file(FULL_FILE.directory, FULL_FILE.filename, UPSTREAM) == FULL_FILE
        assert migrated.page("large") == page("large", 1000)
        assert migrated.entry("gone") == entry("gone", found=False)
        assert migrated.verified_size("abc/x") == 7
        assert ready(migrated, revision=FULL_ENTRY.revision) == (READY if version == 3 else None)
        keep_ready(migrated, revision=FULL_ENTRY.revision)
        assert ready(migrated, revision=FULL_ENTRY.revision) == READY
    assert set_aside(path) == []
    with contextlib.closing(sqlite3.connect(path)) as looking:
        assert looking.execute("PRAGMA user_version").fetchone() == (schema.SCHEMA_VERSION,)
    assert caplog.text.count("migrating it") == 1
    Catalog(path).close()
    assert caplog.text.count("migrating it") == 1


def test_a_migration_broken_off_is_done_the_next_time(path, impatient):
    filled(path)
    as_schema(3, path, page("p1", 40))
    with locked(path), pytest.raises(peewee.OperationalError, match="locked"):
        Catalog(path)
    with contextlib.closing(Catalog(path)) as migrated:
        assert migrated.page("p1") == page("p1", 40)
    assert set_aside(path) == []


def test_a_migration_goes_on_where_it_broke_off(path, monkeypatch):
    filled(path)
    as_schema(3, path, *[page(f"p{number}", 40) for number in range(20)])
    put_files, moved = schema.put_files, []

    def broken_off(database, project, files):
        if len(moved) == 7:
            raise KeyboardInterrupt
        moved.append(project)
        put_files(database, project, files)

    monkeypatch.setattr(schema, "put_files", broken_off)
    with pytest.raises(KeyboardInterrupt):
        Catalog(path)
    monkeypatch.setattr(schema, "put_files", put_files)
    with contextlib.closing(sqlite3.connect(path)) as looking:
        assert looking.execute("PRAGMA user_version").fetchone() == (3,)
        assert looking.execute("SELECT count(*) FROM part").fetchone() == (7,)
    with contextlib.closing(Catalog(path)) as migrated:
        for number in range(20):
            assert migrated.page(f"p{number}") == page(f"p{number}", 40)


def test_a_project_of_which_a_file_is_damaged_is_not_migrated(path):
    filled(path)
    as_schema(3, path, page("p1", 40), page("p2", 40))
    with contextlib.closing(sqlite3.connect(path)) as older, older:
        older.execute("UPDATE file SET hashes = '{' WHERE project = 'p1' AND position = 7")
    with contextlib.closing(Catalog(path)) as migrated:
        assert migrated.entry("p1") is None
        assert migrated.page("p2") == page("p2", 40)


def test_damage_that_only_the_migration_meets_has_the_file_set_aside(path, monkeypatch):
    filled(path)
    as_schema(3, path, page("p1", 400))
    with contextlib.closing(sqlite3.connect(path)) as older:
        root = "SELECT rootpage FROM sqlite_master WHERE name = 'file'"
        ((number,),) = older.execute(root)
    with path.open("r+b") as out:
        out.seek((number - 1) * 4096)
        out.write(b"\xff" * 4096)
    monkeypatch.setattr(schema, "_LONGEST_CHECK", -1.0)
    assert works_anew(path)
    assert len(set_aside(path)) == 1


def test_a_newer_schema_is_refused_and_not_touched(path):
    filled(path)
    with contextlib.closing(sqlite3.connect(path)) as newer:
        newer.execute("PRAGMA user_version = 99")
    before = path.read_bytes()
    with pytest.raises(SettingError, match="schema 99"):
        Catalog(path)
    assert path.read_bytes() == before
    assert set_aside(path) == []


def test_a_newer_schema_with_unmerged_writes_is_not_touched_either(path, tmp_path):
    with contextlib.closing(sqlite3.connect(path)) as newer:
        newer.execute("PRAGMA journal_mode = wal")
        newer.execute("CREATE TABLE future (value)")
        newer.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
        newer.execute("PRAGMA user_version = 99")
        newer.commit()
        # As a crash would leave it.
        crashed = tmp_path / "crashed" / path.name
        crashed.parent.mkdir()
        for suffix in ("", "-wal"):
            data = path.with_name(path.name + suffix).read_bytes()
            crashed.with_name(crashed.name + suffix).write_bytes(data)
    before = {found.name: found.read_bytes() for found in crashed.parent.iterdir()}
    with pytest.raises(SettingError, match="schema 99"):
        Catalog(crashed)
    after = {found.name: found.read_bytes() for found in crashed.parent.iterdir()}
    assert {name: after[name] for name in before} == before


def test_what_a_crash_left_unmerged_is_known(path, tmp_path):
    with contextlib.closing(Catalog(path)) as running:
        running.remember(FULL_ENTRY, FULL_PAGE)
        crashed = tmp_path / "crashed" / path.name
        crashed.parent.mkdir()
        for suffix in ("", "-wal"):
            data = path.with_name(path.name + suffix).read_bytes()
            crashed.with_name(crashed.name + suffix).write_bytes(data)
    with contextlib.closing(Catalog(crashed)) as recovered:
        assert recovered.page("demo") == FULL_PAGE
    assert set_aside(crashed) == []


def test_a_file_damaged_while_in_use_is_no_callers_trouble(path, caplog):
    filled(path)
    with contextlib.closing(Catalog(path)) as opened:
        with path.open("r+b") as out:
            out.seek(4096)
            out.write(b"\xff" * 200_000)
        opened.page("p1")
        opened.entry("p1")
        opened.file(SHELF, "p1-1.tar.gz", UPSTREAM)
        opened.projects(UPSTREAM)
        opened.last_serial(UPSTREAM)
        opened.remember(FULL_ENTRY, FULL_PAGE)
        opened.remember_missing(entry("gone", found=False))
        opened.confirm("demo", 30.0)
    assert "going on without" in caplog.text


def test_a_directory_that_cannot_be_used_is_an_error_of_the_start(path):
    path.mkdir()
    with pytest.raises((peewee.PeeweeException, sqlite3.Error)):
        Catalog(path)


# Locks

HOLDER = """
import sqlite3, sys
held = sqlite3.connect(sys.argv[1], isolation_level=None)
held.execute("BEGIN " + sys.argv[2])
print("locked", flush=True)
sys.stdin.readline()
"""


@contextlib.contextmanager
def locked(path, kind="IMMEDIATE"):
    """Another process has the file locked until the block ends."""
    command = [sys.executable, "-c", HOLDER, str(path), kind]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "locked\n"
        try:
            yield
        finally:
            process.kill()


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(schema, "LOCK_PATIENCE", 0.3)


@pytest.mark.parametrize("kind", ["IMMEDIATE", "EXCLUSIVE"])
def test_a_locked_file_can_be_read(catalog, path, kind):
    catalog.remember(FULL_ENTRY, FULL_PAGE)
    with locked(path, kind):
        assert catalog.entry("demo") == FULL_ENTRY
        assert catalog.page("demo") == FULL_PAGE
        assert catalog.file(SHELF, BARE_FILE.filename, UPSTREAM) == BARE_FILE
        assert catalog.projects(UPSTREAM) == ["demo"]


@pytest.mark.parametrize("kind", ["IMMEDIATE", "EXCLUSIVE"])
def test_a_write_that_the_lock_forbids_is_forgotten_with_a_line_in_the_log(
    impatient, path, kind, caplog
):
    with contextlib.closing(Catalog(path)) as catalog, locked(path, kind):
        catalog.remember(FULL_ENTRY, FULL_PAGE)
        catalog.confirm("demo", 30.0)
        catalog.remember_missing(entry("gone", found=False))
        assert catalog.entry("demo") is None
    assert caplog.text.count("cannot write") == 3
    assert "locked" in caplog.text


def test_writes_go_on_once_the_lock_is_gone(impatient, path):
    with contextlib.closing(Catalog(path)) as catalog:
        with locked(path):
            catalog.remember(FULL_ENTRY, FULL_PAGE)
        catalog.remember(FULL_ENTRY, FULL_PAGE)
        assert catalog.page("demo") == FULL_PAGE


def test_a_write_waits_for_one_that_is_short(path):
    with contextlib.closing(Catalog(path)) as catalog:
        with locked(path):
            write = gevent.spawn(catalog.remember, FULL_ENTRY, FULL_PAGE)
            gevent.idle()
        write.join()
        assert catalog.page("demo") == FULL_PAGE


def test_many_writes_wait_for_a_long_lock_no_longer_than_one(impatient, path):
    with contextlib.closing(Catalog(path)) as catalog, locked(path):
        started = time.monotonic()
        names = [f"p{number}" for number in range(20)]
        writes = [gevent.spawn(catalog.remember, entry(name), page(name)) for name in names]
        gevent.joinall(writes, raise_error=True)
        assert time.monotonic() - started < 2


def test_the_hub_goes_on_while_a_write_waits_for_the_lock(impatient, path):
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


def test_a_healthy_file_opens_while_another_process_writes(path):
    filled(path)
    with locked(path), contextlib.closing(Catalog(path)) as opened:
        assert opened.page("p1") == page("p1", 40)
    assert set_aside(path) == []


def test_a_healthy_file_that_cannot_even_be_read_is_not_set_aside(impatient, path):
    filled(path)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = delete")
    with locked(path, "EXCLUSIVE"), pytest.raises(peewee.OperationalError, match="locked"):
        Catalog(path)
    assert set_aside(path) == []
    with contextlib.closing(Catalog(path)) as opened:
        assert opened.page("p1") == page("p1", 40)


# Two processes

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


def test_processes_that_open_a_fresh_directory_at_once_all_work(tmp_path):
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


def test_greenlets_that_read_and_write_at_once_do_not_disturb_each_other(catalog):
    def use(name):
        for files in range(1, 15):
            catalog.remember(entry(name), page(name, files))
            assert catalog.page(name) == page(name, files)
            assert catalog.file(SHELF, f"{name}-0.tar.gz", UPSTREAM).filename == f"{name}-0.tar.gz"

    users = [gevent.spawn(use, f"p{number}") for number in range(8)]
    gevent.joinall(users, raise_error=True)
    assert len(catalog.projects(UPSTREAM)) == 8


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
