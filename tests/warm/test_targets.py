"""Which wheels a machine takes that is not at hand, and which markers hold on it."""

from __future__ import annotations

import sys

import pytest
from packaging.markers import Marker
from packaging.tags import parse_tag, sys_tags

from pytail.warm.targets import Target


def takes(target: Target, tag: str) -> bool:
    return target.takes(parse_tag(tag))


@pytest.mark.parametrize(
    ("platform", "taken", "refused"),
    [
        (
            "manylinux_2_28_x86_64",
            ["manylinux_2_28_x86_64", "manylinux_2_5_x86_64", "manylinux2014_x86_64", "manylinux1_x86_64", "linux_x86_64"],
            ["manylinux_2_29_x86_64", "manylinux_2_28_aarch64", "musllinux_1_1_x86_64", "win_amd64"],
        ),
        ("manylinux2014_aarch64", ["manylinux_2_17_aarch64", "manylinux2014_aarch64"], ["manylinux_2_18_aarch64", "manylinux2010_aarch64"]),
        ("manylinux2010_x86_64", ["manylinux_2_12_x86_64", "manylinux1_x86_64"], ["manylinux2014_x86_64"]),
        ("linux_x86_64", ["manylinux_2_41_x86_64", "linux_x86_64"], ["musllinux_1_2_x86_64", "linux_i686"]),
        ("musllinux_1_2_x86_64", ["musllinux_1_1_x86_64", "musllinux_1_2_x86_64"], ["musllinux_1_3_x86_64", "manylinux2014_x86_64"]),
        ("macosx_14_0_arm64", ["macosx_11_0_arm64", "macosx_10_9_universal2", "macosx_14_0_arm64"], ["macosx_15_0_arm64", "macosx_11_0_x86_64"]),
        ("win_amd64", ["win_amd64"], ["win32", "win_arm64"]),
    ],
)  # fmt: skip
def test_a_platform_stands_for_the_older_ones_that_it_takes(
    platform: str, taken: list[str], refused: list[str]
):
    target = Target.of("3.12", platform)
    assert [tag for tag in taken if not takes(target, f"cp312-cp312-{tag}")] == []
    assert [tag for tag in refused if takes(target, f"cp312-cp312-{tag}")] == []
    assert takes(target, "py3-none-any")


@pytest.mark.parametrize(
    ("python", "taken", "refused"),
    [
        ("3.12", ["cp312-cp312", "cp39-abi3", "cp312-none", "py3-none", "py312-none", "py2.py3-none"], ["cp313-cp313", "cp311-cp311", "cp313-abi3", "py313-none", "py2-none"]),
        ("3.12.4", ["cp312-cp312"], ["cp311-cp311"]),
        ("3.14t", ["cp314-cp314t", "py3-none"], ["cp314-cp314", "cp39-abi3"]),
    ],
)  # fmt: skip
def test_a_python_takes_its_own_and_the_stable_abi(
    python: str, taken: list[str], refused: list[str]
):
    target = Target.of(python, "win_amd64")
    assert [tag for tag in taken if not takes(target, f"{tag}-win_amd64")] == []
    assert [tag for tag in refused if takes(target, f"{tag}-win_amd64")] == []


def test_without_either_it_is_this_machine():
    assert Target.of().tags == set(sys_tags())
    assert Target.of().is_meant(
        Marker(f"python_version == '{sys.version_info[0]}.{sys.version_info[1]}'")
    )


def test_with_a_python_only_the_platform_is_that_of_this_machine():
    newest = next(iter(sys_tags())).platform
    assert takes(Target.of("3.10"), f"cp310-cp310-{newest}")


@pytest.mark.parametrize(
    ("platform", "marker"),
    [
        ("manylinux_2_28_aarch64", "sys_platform == 'linux' and platform_machine == 'aarch64' and os_name == 'posix'"),
        ("macosx_14_0_arm64", "sys_platform == 'darwin' and platform_system == 'Darwin' and platform_machine == 'arm64'"),
        ("win_amd64", "sys_platform == 'win32' and platform_machine == 'AMD64' and os_name == 'nt'"),
        ("win32", "platform_system == 'Windows' and python_version < '3.11'"),
        ("win32", "python_full_version > '3.10.0' and implementation_version < '3.11'"),
    ],
)  # fmt: skip
def test_markers_are_judged_for_the_machine(platform: str, marker: str):
    assert Target.of("3.10", platform).is_meant(Marker(marker))
    assert not Target.of("3.12", "musllinux_1_2_i686").is_meant(Marker(marker))


def test_extras_and_groups_are_all_meant():
    target, groups = Target.of("3.12", "win32"), frozenset({"fast", "dev"})
    assert target.is_meant(Marker("extra == 'fast'"), groups)
    assert target.is_meant(Marker("'dev' in dependency_groups and 'fast' in extras"), groups)
    assert not target.is_meant(Marker("extra == 'fast' and os_name == 'posix'"), groups)
    assert not target.is_meant(Marker("extra == 'fast'"))


def test_without_a_patch_number_the_newest_is_meant():
    assert Target.of("3.9", "win32").has_python(">=3.7,!=3.9.0,!=3.9.1")
    assert not Target.of("3.9.1", "win32").has_python(">=3.7,!=3.9.0,!=3.9.1")
    assert not Target.of("3.9", "win32").has_python(">=3.10")


@pytest.mark.parametrize("specifier", [None, "", "~=nonsense"])
def test_what_cannot_be_read_is_no_hindrance(specifier: str | None):
    assert Target.of("3.9", "win32").has_python(specifier)


@pytest.mark.parametrize("python", ["", "3", "2.7", "3.x", "three", "3.12.1.2", "cp312", "3.999"])
def test_other_pythons_are_refused_with_the_remedy(python: str):
    with pytest.raises(ValueError, match=r"such as 3\.12"):
        Target.of(python, None)


@pytest.mark.parametrize(
    "platform", ["", "any", "manylinux", "linux", "macosx_14_arm64", "win64", "manylinux_2_28_X86"]
)
def test_other_platforms_are_refused_with_the_remedy(platform: str):
    with pytest.raises(ValueError, match="manylinux_2_28_x86_64"):
        Target.of(None, platform)
