"""Of a page, the files that an installer would choose among, or the very ones of a lock."""

from __future__ import annotations

import pytest

from pytail.model import File, ProjectPage
from pytail.warm.requirements import required
from pytail.warm.selection import Locked, LockedFile
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
    shelf = f"{digest * 3}/{digest * 13}"
    return File(filename=filename, url=f"https://index.example.org/{filename}", directory=shelf, hashes=hashes, **more)  # fmt: skip


def chosen(text: str, listing: ProjectPage, *targets: Target) -> list[str]:
    return [file.filename for file in required(text).choose(listing, targets).files.values()]


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
def test_the_newest_that_is_allowed(text: str, version: str):
    assert chosen(text, page(*ANY), LINUX) == [f"demo-{version}-py3-none-any.whl"]


def test_a_newer_version_without_a_file_that_fits_is_passed_over():
    listing = page("demo-1.0-py3-none-any.whl", "demo-2.0-cp312-cp312-win_amd64.whl")
    assert chosen("demo", listing, LINUX) == ["demo-1.0-py3-none-any.whl"]


def test_each_machine_gets_the_newest_version_for_its_python():
    listing = page(
        listed("demo-1.0.tar.gz", requires_python=">=3.8"),
        listed("demo-2.0.tar.gz", requires_python=">=3.12"),
    )
    assert chosen("demo", listing, LINUX, WINDOWS) == ["demo-2.0.tar.gz", "demo-1.0.tar.gz"]


def test_yanked_files_are_for_who_pins_them():
    listing = page("demo-1.0.tar.gz", listed("demo-2.0.tar.gz", yanked="broken"))
    assert chosen("demo>=1", listing, LINUX) == ["demo-1.0.tar.gz"]
    assert chosen("demo==2.0", listing, LINUX) == ["demo-2.0.tar.gz"]
    assert chosen("demo==2.*", listing, LINUX) == []


def test_what_no_installer_takes_is_no_version():
    listing = page("demo-latest.tar.gz", "demo-1.0.exe", "demo-1.0-py3.12.egg", "other-9.zip")
    assert chosen("demo", listing, LINUX) == []


def test_for_whatever_machine_all_files_of_the_version():
    listing = page("demo-1.0.tar.gz", "demo-2.0.tar.gz", "demo-2.0-cp39-cp39-win32.whl")
    assert chosen("demo", listing) == ["demo-2.0.tar.gz", "demo-2.0-cp39-cp39-win32.whl"]


def test_what_is_missing_says_for_which_machine():
    choice = required("demo>=4").choose(page(*ANY), [LINUX, WINDOWS])
    assert choice.missing == [
        ("demo>=4", "no version of demo has a file that matches for Python 3.12 on linux"),
        ("demo>=4", "no version of demo has a file that matches for Python 3.10 on win32"),
    ]


def test_a_quarantined_project_says_so():
    ((_, reason),) = required("demo").choose(page(status="quarantined"), [LINUX]).missing
    assert "quarantine" in reason


WHEEL, WINDOWS_WHEEL = "demo-1.0-py3-none-manylinux2014_x86_64.whl", "demo-1.0-py3-none-win32.whl"


def locked(*files: LockedFile, **more) -> Locked:
    return Locked("demo", "1.0", files, **more)


def entry(filename: str, digest: str = "a") -> LockedFile:
    return LockedFile(filename, {"sha256": digest * 64})


def test_of_a_lock_the_wheel_that_fits_else_the_sdist():
    lock = locked(entry(WHEEL), entry(WINDOWS_WHEEL), entry("demo-1.0.tar.gz"))
    listing = page(WHEEL, WINDOWS_WHEEL, "demo-1.0.tar.gz")
    for targets, expected in (
        ([LINUX], [WHEEL]),
        ([WINDOWS], ["demo-1.0.tar.gz"]),
        ([], [WHEEL, WINDOWS_WHEEL, "demo-1.0.tar.gz"]),
    ):
        choice = lock.choose(listing, targets)
        assert [file.filename for file in choice.files.values()] == expected
        assert choice.missing == []


def test_a_lock_for_another_python_or_platform_wants_nothing():
    assert not locked(entry("demo-1.0.tar.gz"), requires_python=">=3.13").is_for([LINUX])
    assert not locked(entry(WINDOWS_WHEEL)).is_for([LINUX])
    assert locked(entry(WINDOWS_WHEEL)).is_for([])


@pytest.mark.parametrize(
    ("there", "reason"),
    [
        (listed(WHEEL, "b"), "another digest"),
        (listed(WHEEL, hashes={"md5": "a" * 32}), "no digest to compare"),
        (listed(WHEEL, hashes={}), "no digest to compare"),
        (listed(WINDOWS_WHEEL), "does not list it"),
    ],
)
def test_no_other_file_is_taken_for_that_of_a_lock(there: File, reason: str):
    choice = locked(entry(WHEEL)).choose(page(there), [LINUX])
    assert choice.files == {}
    ((what, why),) = choice.missing
    assert what == WHEEL
    assert reason in why


def test_a_lock_without_digests_goes_by_the_name():
    choice = locked(LockedFile(WHEEL, {})).choose(page(WHEEL), [LINUX])
    assert len(choice.files) == 1
