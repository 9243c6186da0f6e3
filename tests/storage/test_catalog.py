"""The catalog: projects, their files, verified sizes and ready pages."""

import contextlib
import dataclasses
import sqlite3

import pytest

from pytail.model import File, PageVersion, ProjectPage, directory_of, former_directories
from pytail.storage import catalog as catalog_module
from pytail.storage.catalog import Catalog, FileCheck
from tests.support.storage import (
    BARE_FILE,
    BARE_PAGE,
    FULL_ENTRY,
    FULL_FILE,
    FULL_PAGE,
    OTHER_FILE,
    READY,
    UPSTREAM,
    entry,
    page,
    ready,
    store_ready,
)
from tests.support.watching import until

DIRECTORY = BARE_FILE.directory

# Round trips


@pytest.mark.parametrize("remembered", [FULL_PAGE, BARE_PAGE, ProjectPage(name="demo")])
def test_a_page_is_read_as_it_was_written(catalog, remembered):
    catalog.remember(entry(last_serial=remembered.last_serial), remembered)
    assert catalog.page("demo") == remembered


@pytest.mark.parametrize("remembered", [FULL_FILE, BARE_FILE, OTHER_FILE], ids=repr)
def test_a_file_is_read_as_it_was_written(catalog, remembered):
    catalog.remember(FULL_ENTRY, FULL_PAGE)
    found = catalog.file(remembered.directory, remembered.filename, UPSTREAM)
    assert found == remembered
    assert type(found.gpg_sig) is type(remembered.gpg_sig)


@pytest.mark.parametrize("remembered", [FULL_ENTRY, entry()], ids=["full", "bare"])
def test_an_entry_is_read_as_it_was_written(catalog, remembered):
    catalog.remember(remembered, dataclasses.replace(FULL_PAGE, status=remembered.status))
    assert catalog.entry("demo") == remembered


def test_a_closed_catalog_can_be_opened_again(path):
    with contextlib.closing(Catalog(path)) as first:
        first.remember(FULL_ENTRY, FULL_PAGE)
    with contextlib.closing(Catalog(path)) as second:
        assert second.entry("demo") == FULL_ENTRY
        assert second.page("demo") == FULL_PAGE


def test_a_large_page_is_read_in_its_order(catalog):
    catalog.remember(entry("large"), page("large", 5000))
    assert catalog.page("large") == page("large", 5000)


def test_an_empty_catalog_knows_nothing(catalog):
    assert catalog.entry("demo") is None
    assert catalog.page("demo") is None
    assert catalog.file(DIRECTORY, "demo-1.0.tar.gz", UPSTREAM) is None
    assert catalog.projects(UPSTREAM) == []
    assert catalog.last_serial(UPSTREAM) is None


# Changes


def test_a_new_page_replaces_the_old_one(catalog):
    catalog.remember(FULL_ENTRY, FULL_PAGE)
    catalog.remember(entry(), BARE_PAGE)
    assert catalog.entry("demo") == entry()
    assert catalog.page("demo") == BARE_PAGE
    assert catalog.file(FULL_FILE.directory, FULL_FILE.filename, UPSTREAM) is None


def test_a_new_page_replaces_no_page_of_another_project(catalog):
    catalog.remember(entry("one"), page("one"))
    catalog.remember(entry("two"), page("two"))
    assert catalog.page("one") == page("one")


@pytest.mark.parametrize(
    "version",
    [
        FULL_ENTRY.page_version,
        PageVersion("ff" * 32, '"new"'),
        PageVersion("ff" * 32, None, "Tue, 07 May 2024 07:08:09 GMT"),
    ],
)
def test_a_revalidation_changes_only_when_the_page_was_checked_and_its_version(
    catalog, path, version
):
    catalog.remember(FULL_ENTRY, FULL_PAGE)
    before = rows_of_files(path)
    checked = dataclasses.replace(
        FULL_ENTRY.with_version(version), checked_at=1_800_000_000.5, fetched_at=1.0
    )
    catalog.mark_revalidated(checked)
    fetched_at = FULL_ENTRY.fetched_at
    assert catalog.entry("demo") == dataclasses.replace(checked, fetched_at=fetched_at)
    assert catalog.entry("demo").page_version == version
    assert catalog.page("demo") == FULL_PAGE
    assert rows_of_files(path) == before


def rows_of_files(path):
    """Return the rows with files; a row that is written again has another id."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT * FROM part ORDER BY id").fetchall()


@pytest.mark.parametrize("others", [[], [entry(revision="r2")]])
def test_a_revalidation_of_a_page_that_is_gone_or_changed_has_no_effect(catalog, others):
    for other in others:
        catalog.remember(other, BARE_PAGE)
    catalog.mark_revalidated(entry(checked_at=30.0, revision="r1"))
    assert catalog.entry("demo") == (others[0] if others else None)


def test_an_equal_page_is_found_and_no_other(catalog):
    catalog.remember(FULL_ENTRY, FULL_PAGE)
    catalog.remember(entry("large"), page("large", 1000))
    assert catalog.has_page(FULL_PAGE, UPSTREAM)
    assert catalog.has_page(page("large", 1000), UPSTREAM)
    assert not catalog.has_page(FULL_PAGE, "https://other.example.org")
    for count in (0, 1, 999, 1001, 1200):
        assert not catalog.has_page(page("large", count), UPSTREAM)
    for change in (
        {"name": "other"},
        {"files": FULL_PAGE.files[::-1]},
        {"files": ()},
        {"files": (dataclasses.replace(FULL_FILE, yanked="new"), *FULL_PAGE.files[1:])},
        {"versions": ("9.0",)},
        {"versions": None},
        {"status": None},
        {"status_reason": "new"},
        {"last_serial": 7},
        {"other": {"new": 1}},
    ):
        assert not catalog.has_page(dataclasses.replace(FULL_PAGE, **change), UPSTREAM)


def test_a_missing_project_has_no_equal_page(catalog):
    catalog.remember_missing(entry(found=False))
    assert not catalog.has_page(ProjectPage(name="demo"), UPSTREAM)


def test_a_missing_project_has_an_entry_and_no_page(catalog):
    catalog.remember_missing(entry(found=False))
    assert catalog.entry("demo") == entry(found=False)
    assert catalog.page("demo") is None


def test_a_project_that_became_missing_has_no_files(catalog):
    catalog.remember(FULL_ENTRY, FULL_PAGE)
    catalog.remember_missing(entry(found=False))
    assert catalog.page("demo") is None
    assert catalog.file(BARE_FILE.directory, BARE_FILE.filename, UPSTREAM) is None
    assert catalog.projects(UPSTREAM) == []


def test_missing_projects_beyond_the_maximum_are_forgotten_oldest_first(catalog, monkeypatch):
    monkeypatch.setattr(catalog_module, "MAX_MISSING", 3)
    catalog.remember(entry("found", checked_at=0.0), page("found"))
    for number in (4, 1, 5, 2, 3):
        catalog.remember_missing(entry(f"m{number}", found=False, checked_at=float(number)))
    known = [name for name in ("m1", "m2", "m3", "m4", "m5") if catalog.entry(name)]
    assert known == ["m3", "m4", "m5"]
    assert catalog.entry("found") is not None


def test_the_projects_are_the_found_ones_sorted(catalog):
    for name in ("zope", "a", "b-c"):
        catalog.remember(entry(name), page(name))
    catalog.remember_missing(entry("missing", found=False))
    assert catalog.projects(UPSTREAM) == ["a", "b-c", "zope"]


def test_the_last_serial_is_the_highest(catalog):
    for name, serial in (("a", 7), ("b", None), ("c", 12), ("d", 3)):
        catalog.remember(entry(name, last_serial=serial), page(name))
    assert catalog.last_serial(UPSTREAM) == 12


def test_the_first_upstream_with_a_project_is_known(catalog):
    missing, found = "https://a.example.org", "https://b.example.org/whl/"
    assert catalog.first_known([missing, found]) is None
    catalog.remember_missing(entry("nope", upstream=missing, found=False, revision=""))
    catalog.remember(entry("demo", upstream=found), page("demo"))
    catalog.remember(entry("other"), page("other"))
    assert catalog.first_known([missing, found, UPSTREAM]) == found
    assert catalog.first_known([UPSTREAM, found]) == UPSTREAM
    assert catalog.first_known([missing]) is None
    catalog.remember_missing(entry("no", upstream=missing, found=False, revision="missing"))
    assert catalog.first_known([missing]) == missing
    assert catalog.first_known([]) is None


def test_pages_of_another_upstream_do_not_count(catalog):
    catalog.remember(entry(last_serial=7), BARE_PAGE)
    other = "https://other.example.org"
    assert catalog.file(DIRECTORY, BARE_FILE.filename, UPSTREAM) == BARE_FILE
    assert catalog.file(DIRECTORY, BARE_FILE.filename, other) is None
    assert catalog.projects(other) == []
    assert catalog.last_serial(other) is None


def test_forgotten_projects_are_unknown(catalog):
    for name in ("demo", "other"):
        catalog.remember(entry(name), page(name))
    catalog.remember_missing(entry("gone", found=False))
    assert catalog.forget(["demo", "gone", "never-known"]) == 2
    assert catalog.projects(UPSTREAM) == ["other"]
    assert (catalog.entry("gone"), catalog.page("demo")) == (None, None)
    assert catalog.file(DIRECTORY, "demo-0.tar.gz", UPSTREAM) is None
    assert catalog.file(DIRECTORY, "other-0.tar.gz", UPSTREAM) is not None


def test_all_projects_are_forgotten_in_several_transactions(catalog, monkeypatch):
    monkeypatch.setattr(catalog_module, "_BATCH", 2)
    for number in range(5):
        catalog.remember(entry(f"demo{number}"), page(f"demo{number}"))
    assert catalog.forget() == 5
    assert catalog.projects(UPSTREAM) == []


# Other processes


def test_changes_of_another_process_show_at_once(catalog, path):
    with contextlib.closing(Catalog(path)) as other:
        for number in range(3):
            file = dataclasses.replace(BARE_FILE, size=number)
            other.remember(entry(revision=str(number)), ProjectPage(name="demo", files=(file,)))
            for _ in range(2):
                assert catalog.entry("demo").revision == str(number)
                assert catalog.file(DIRECTORY, BARE_FILE.filename, UPSTREAM) == file
            other.mark_revalidated(entry(revision=str(number), checked_at=100.0 + number))
            assert catalog.entry("demo").checked_at == 100.0 + number
        other.remember_missing(entry(found=False))
        assert not catalog.entry("demo").found
        assert catalog.file(DIRECTORY, BARE_FILE.filename, UPSTREAM) is None


def test_a_recent_entry_shows_own_changes_at_once_and_others_soon(catalog, path):
    with contextlib.closing(Catalog(path)) as other:
        for number in range(3):
            catalog.remember(entry(revision=str(number)), ProjectPage(name="demo"))
            assert catalog.recent_entry("demo").revision == str(number)
            other.mark_revalidated(entry(revision=str(number), checked_at=100.0 + number))
            until(lambda number=number: catalog.recent_entry("demo").checked_at == 100.0 + number)


# Files


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


def test_the_project_of_a_file_is_the_one_that_lists_it(catalog):
    catalog.remember(entry(), FULL_PAGE)
    assert catalog.project_of(BARE_FILE.directory, BARE_FILE.filename) == "demo"
    assert catalog.project_of(BARE_FILE.directory, FULL_FILE.filename) is None


MISNAMED = [
    dataclasses.replace(FULL_FILE, filename=filename)
    for filename in ("other-1.0-py3-none-any.whl", "other-1.0.tar.gz", "demo", "demo_1.0.zip")
]


def test_a_file_is_found_by_its_former_directories(catalog):
    url = "https://files.example.org/demo-1.0.zip"
    hashes = {"sha512": "a" * 128, "md5": "b" * 32}
    file = File(
        filename="demo-1.0.zip",
        url=f"{url}?signature=1",
        directory=directory_of(hashes, url),
        hashes=hashes,
        size=7,
    )
    catalog.remember(entry(), ProjectPage(name="demo", files=(BARE_FILE, file)))
    assert file.directory == f"_sha512/{'a' * 128}"
    former = former_directories(file)
    assert f"_md5/{'b' * 32}-7" in former
    assert f"_md5/{'b' * 32}" in former
    assert len(former) == 4
    for directory in (file.directory, *former):
        assert catalog.file(directory, file.filename, UPSTREAM) == file
    assert catalog.file(f"_md5/{'c' * 32}", file.filename, UPSTREAM) is None
    assert catalog.file(file.directory, "demo-1.1.zip", UPSTREAM) is None


def test_a_check_is_read_as_it_was_written(catalog, path):
    check = FileCheck(key="_url/0/x", stored_at=1.5, size=7, checked_at=2.5, etag='"é"')
    catalog.remember_check(dataclasses.replace(check, etag="another"))
    catalog.remember_check(check)
    assert catalog.file_check(check.key) == check
    assert catalog.file_check("_url/1/x") is None
    with contextlib.closing(Catalog(path)) as other:
        assert other.file_check(check.key) == check


def test_a_file_whose_name_does_not_tell_its_project_is_found(catalog):
    catalog.remember(entry(), ProjectPage(name="demo", files=(BARE_FILE, *MISNAMED)))
    for file in (BARE_FILE, *MISNAMED):
        assert catalog.file(file.directory, file.filename, UPSTREAM) == file
        assert catalog.project_of(file.directory, file.filename) == "demo"
    catalog.set_core_metadata(MISNAMED[0], "d" * 64)
    changed = catalog.file(MISNAMED[0].directory, MISNAMED[0].filename, UPSTREAM)
    assert changed.core_metadata == {"sha256": "d" * 64}


@pytest.mark.parametrize(
    "change",
    [
        lambda catalog: catalog.remember(entry(), BARE_PAGE),
        lambda catalog: catalog.remember_missing(entry(found=False)),
        lambda catalog: catalog.forget(["demo"]),
    ],
    ids=["changed", "missing", "forgotten"],
)
def test_a_misnamed_file_is_deleted_with_its_page(catalog, path, change):
    catalog.remember(entry(), ProjectPage(name="demo", files=tuple(MISNAMED)))
    catalog.remember(entry("third"), ProjectPage(name="third", files=(MISNAMED[0],)))
    change(catalog)
    assert catalog.project_of(MISNAMED[0].directory, MISNAMED[0].filename) == "third"
    assert catalog.project_of(MISNAMED[1].directory, MISNAMED[1].filename) is None
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT project FROM stray").fetchall() == [("third",)]


# Core metadata


@pytest.mark.parametrize(("sha256", "expected"), [("d" * 64, {"sha256": "d" * 64}), (None, False)])
def test_the_core_metadata_of_a_listed_wheel_can_be_set(catalog, sha256, expected):
    catalog.remember(entry(), FULL_PAGE)
    catalog.set_core_metadata(FULL_FILE, sha256)
    found = catalog.file(FULL_FILE.directory, FULL_FILE.filename, UPSTREAM)
    assert found == dataclasses.replace(FULL_FILE, core_metadata=expected)


def test_new_core_metadata_changes_the_revision_of_its_page_only(catalog):
    catalog.remember(FULL_ENTRY, FULL_PAGE)
    catalog.remember(entry("other"), page("other"))
    catalog.set_core_metadata(FULL_FILE, "d" * 64)
    changed = catalog.entry("demo")
    assert changed.revision not in ("", FULL_ENTRY.revision)
    assert dataclasses.replace(changed, revision=FULL_ENTRY.revision) == FULL_ENTRY
    assert catalog.page("demo").files[1:] == FULL_PAGE.files[1:]
    assert catalog.entry("other") == entry("other")


def test_unchanged_core_metadata_changes_no_revision(catalog):
    catalog.remember(FULL_ENTRY, FULL_PAGE)
    catalog.set_core_metadata(FULL_FILE, FULL_FILE.core_metadata["sha256"])
    assert catalog.entry("demo") == FULL_ENTRY


def test_core_metadata_of_a_wheel_holds_for_later_pages(catalog):
    catalog.remember(FULL_ENTRY, FULL_PAGE)
    catalog.set_core_metadata(FULL_FILE, "d" * 64)
    assert catalog.with_core_metadata(FULL_PAGE) == catalog.page("demo")
    others = dataclasses.replace(FULL_PAGE, files=FULL_PAGE.files[1:])
    assert catalog.with_core_metadata(others) is others
    other = dataclasses.replace(FULL_PAGE, name="other")
    assert catalog.with_core_metadata(other) is other


@pytest.mark.parametrize("core_metadata", [None, False])
def test_core_metadata_that_a_later_page_does_not_promise_is_not_added(catalog, core_metadata):
    catalog.remember(entry(), FULL_PAGE)
    catalog.set_core_metadata(FULL_FILE, "d" * 64)
    file = dataclasses.replace(FULL_FILE, core_metadata=core_metadata)
    later = ProjectPage(name="demo", files=(file,))
    assert catalog.with_core_metadata(later) is later


def test_a_wheel_without_core_metadata_is_asked_for_with_each_page(catalog):
    catalog.remember(entry(), FULL_PAGE)
    catalog.set_core_metadata(FULL_FILE, None)
    assert catalog.with_core_metadata(FULL_PAGE) is FULL_PAGE


@pytest.mark.parametrize(
    "change",
    [
        lambda catalog: catalog.forget(["demo"]),
        lambda catalog: catalog.remember_missing(entry(found=False)),
        lambda catalog: catalog.trim(0),
    ],
    ids=["forgotten", "missing", "trimmed"],
)
def test_core_metadata_is_forgotten_with_its_project(catalog, change):
    catalog.remember(entry(), FULL_PAGE)
    catalog.set_core_metadata(FULL_FILE, "d" * 64)
    change(catalog)
    assert catalog.with_core_metadata(FULL_PAGE) is FULL_PAGE


def test_core_metadata_of_an_unlisted_file_has_no_effect(catalog):
    catalog.set_core_metadata(FULL_FILE, "d" * 64)
    assert catalog.file(FULL_FILE.directory, FULL_FILE.filename, UPSTREAM) is None


# Ready pages


def all_ready(path):
    """Return the project and variant of each ready page, in the order of writing."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT project, variant FROM ready ORDER BY id").fetchall()


def test_a_ready_page_is_read_as_it_was_written(catalog):
    catalog.remember(entry(), BARE_PAGE)
    store_ready(catalog)
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
    ids=["changed", "missing", "core metadata", "forgotten", "all forgotten", "trimmed"],
)
def test_a_ready_page_is_deleted_when_its_page_changes(catalog, path, change):
    catalog.remember(entry(), FULL_PAGE)
    catalog.remember(entry("other"), page("other"))
    store_ready(catalog)
    change(catalog)
    assert ready(catalog) is None
    assert all_ready(path) == []


def test_a_ready_page_stays_while_its_page_is_unchanged(catalog):
    catalog.remember(entry(), BARE_PAGE)
    store_ready(catalog)
    catalog.remember(entry(checked_at=30.0), BARE_PAGE)
    catalog.mark_revalidated(entry(checked_at=40.0))
    catalog.remember(entry("other"), page("other"))
    assert ready(catalog) == READY


def test_a_ready_page_of_an_older_revision_is_not_stored(catalog, path):
    store_ready(catalog)
    catalog.remember(entry(revision="r2"), BARE_PAGE)
    store_ready(catalog)
    assert all_ready(path) == []


def test_ready_pages_are_trimmed_before_projects_oldest_first(catalog, path):
    for number in range(60):
        catalog.remember(entry(f"p{number}"), page(f"p{number}"))
        store_ready(catalog, f"p{number}", data=bytes(50_000))
    store_ready(catalog, "p0", data=bytes(50_000))
    catalog.trim(2_000_000)
    assert catalog.size() <= 2_000_000
    assert len(catalog.projects(UPSTREAM)) == 60
    left = [name for name, _ in all_ready(path)]
    assert left[-1] == "p0"
    assert left[:-1] == [f"p{number}" for number in range(61 - len(left), 60)]
    catalog.trim(1)
    assert all_ready(path) == []
    assert len(catalog.projects(UPSTREAM)) < 60
