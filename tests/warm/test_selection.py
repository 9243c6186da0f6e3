"""The files that are selected from a page, for a requirement or a locked package."""

from __future__ import annotations

import pytest

from pytail.model import File, ProjectPage
from pytail.warm.requirements import parse_requirement
from pytail.warm.selection import LockedFile, LockedPackage
from pytail.warm.targets import Target

LINUX = Target.of("3.12", "manylinux_2_28_x86_64")
WINDOWS = Target.of("3.10", "win_amd64")


def page(*files: str | File, status: str | None = None) -> ProjectPage:
    return ProjectPage(
        name="demo",
        files=tuple(file if isinstance(file, File) else listed(file) for file in files),
        status=status,
    )


def listed(filename: str, digest: str = "a", **more) -> File:
    hashes = more.pop("hashes", {"sha256": digest * 64})
    directory = f"{digest * 3}/{digest * 13}"
    return File(filename=filename, url=f"https://index.example.org/{filename}", directory=directory, hashes=hashes, **more)  # fmt: skip


def selected(text: str, listing: ProjectPage, *targets: Target) -> list[str]:
    selection = parse_requirement(text).select(listing, targets)
    return [file.filename for file in selection.files.values()]


ANY = [f"demo-{version}-py3-none-any.whl" for version in ("1.0", "2.0", "3.0rc1")]


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("demo", "2.0"),
        ("demo[fast]", "2.0"),
        ("demo<2", "1.0"),
        ("demo==1.*", "1.0"),
        ("demo>=3.0rc1", "3.0rc1"),
        ("demo==3.0rc1", "3.0rc1"),
        ("demo>2", "3.0rc1"),
    ],
)
def test_the_newest_allowed_version_is_selected(text: str, version: str):
    assert selected(text, page(*ANY), LINUX) == [f"demo-{version}-py3-none-any.whl"]


def test_a_newer_version_without_a_matching_file_is_not_selected():
    listing = page("demo-1.0-py3-none-any.whl", "demo-2.0-cp312-cp312-win_amd64.whl")
    assert selected("demo", listing, LINUX) == ["demo-1.0-py3-none-any.whl"]


def test_each_target_gets_the_newest_version_for_its_python():
    listing = page(
        listed("demo-1.0.tar.gz", requires_python=">=3.8"),
        listed("demo-2.0.tar.gz", requires_python=">=3.12"),
    )
    assert selected("demo", listing, LINUX, WINDOWS) == ["demo-2.0.tar.gz", "demo-1.0.tar.gz"]


def test_a_yanked_file_is_selected_only_where_its_version_is_pinned():
    listing = page("demo-1.0.tar.gz", listed("demo-2.0.tar.gz", yanked="broken"))
    assert selected("demo>=1", listing, LINUX) == ["demo-1.0.tar.gz"]
    assert selected("demo==2.0", listing, LINUX) == ["demo-2.0.tar.gz"]
    assert selected("demo==2.*", listing, LINUX) == []


def test_files_that_installers_ignore_are_no_version():
    listing = page("demo-latest.tar.gz", "demo-1.0.exe", "demo-1.0-py3.12.egg", "other-9.zip")
    assert selected("demo", listing, LINUX) == []


def test_without_targets_all_files_of_the_version_are_selected():
    listing = page("demo-1.0.tar.gz", "demo-2.0.tar.gz", "demo-2.0-cp39-cp39-win32.whl")
    assert selected("demo", listing) == ["demo-2.0.tar.gz", "demo-2.0-cp39-cp39-win32.whl"]


def test_a_missing_requirement_names_the_target():
    selection = parse_requirement("demo>=4").select(page(*ANY), [LINUX, WINDOWS])
    assert selection.missing == [
        ("demo>=4", "no version of demo has a file that matches for Python 3.12 on linux"),
        ("demo>=4", "no version of demo has a file that matches for Python 3.10 on win32"),
    ]


def test_a_quarantined_project_is_missing_with_that_reason():
    ((_, reason),) = parse_requirement("demo").select(page(status="quarantined"), [LINUX]).missing
    assert "quarantine" in reason


WHEEL, WINDOWS_WHEEL = "demo-1.0-py3-none-manylinux2014_x86_64.whl", "demo-1.0-py3-none-win32.whl"


def locked(*files: LockedFile, **more) -> LockedPackage:
    return LockedPackage("demo", "1.0", files, **more)


def entry(filename: str, digest: str = "a") -> LockedFile:
    return LockedFile(filename, {"sha256": digest * 64})


def test_of_a_locked_package_the_matching_wheel_or_else_the_sdist_is_selected():
    lock = locked(entry(WHEEL), entry(WINDOWS_WHEEL), entry("demo-1.0.tar.gz"))
    listing = page(WHEEL, WINDOWS_WHEEL, "demo-1.0.tar.gz")
    for targets, expected in (
        ([LINUX], [WHEEL]),
        ([WINDOWS], ["demo-1.0.tar.gz"]),
        ([], [WHEEL, WINDOWS_WHEEL, "demo-1.0.tar.gz"]),
    ):
        selection = lock.select(listing, targets)
        assert [file.filename for file in selection.files.values()] == expected
        assert selection.missing == []


def test_a_locked_package_for_another_python_or_platform_is_not_needed():
    assert not locked(entry("demo-1.0.tar.gz"), requires_python=">=3.13").is_for([LINUX])
    assert not locked(entry(WINDOWS_WHEEL)).is_for([LINUX])
    assert locked(entry(WINDOWS_WHEEL)).is_for([])


@pytest.mark.parametrize(
    ("listing", "reason"),
    [
        (listed(WHEEL, "b"), "another digest"),
        (listed(WHEEL, hashes={"md5": "a" * 32}), "no digest to compare"),
        (listed(WHEEL, hashes={}), "no digest to compare"),
        (listed(WINDOWS_WHEEL), "does not list the file"),
    ],
)
def test_a_file_with_another_digest_or_name_is_not_the_locked_one(listing: File, reason: str):
    selection = locked(entry(WHEEL)).select(page(listing), [LINUX])
    assert selection.files == {}
    ((filename, message),) = selection.missing
    assert filename == WHEEL
    assert reason in message


@pytest.mark.parametrize("digest", ["a", "b"])
def test_of_files_with_one_name_the_one_with_the_locked_digest_is_selected(digest: str):
    listing = page(listed(WHEEL, "a"), listed(WHEEL, "b"))
    (found,) = locked(entry(WHEEL, digest)).select(listing, [LINUX]).files.values()
    assert found.hashes == {"sha256": digest * 64}


def test_a_locked_file_without_digests_is_found_by_its_name():
    selection = locked(LockedFile(WHEEL, {})).select(page(WHEEL), [LINUX])
    assert len(selection.files) == 1
