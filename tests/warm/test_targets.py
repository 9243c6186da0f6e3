"""The wheels that another machine supports, and the markers that match on it."""

from __future__ import annotations

import sys

import pytest
from packaging.markers import Marker
from packaging.tags import parse_tag, sys_tags

from pytail.warm.targets import Target


def supports(target: Target, tag: str) -> bool:
    return target.supports(parse_tag(tag))


@pytest.mark.parametrize(
    ("platform", "supported", "unsupported"),
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
def test_a_platform_supports_wheels_for_older_ones(
    platform: str, supported: list[str], unsupported: list[str]
):
    target = Target.of("3.12", platform)
    assert [tag for tag in supported if not supports(target, f"cp312-cp312-{tag}")] == []
    assert [tag for tag in unsupported if supports(target, f"cp312-cp312-{tag}")] == []
    assert supports(target, "py3-none-any")


@pytest.mark.parametrize(
    ("python", "supported", "unsupported"),
    [
        ("3.12", ["cp312-cp312", "cp39-abi3", "cp312-none", "py3-none", "py312-none", "py2.py3-none"], ["cp313-cp313", "cp311-cp311", "cp313-abi3", "py313-none", "py2-none"]),
        ("3.12.4", ["cp312-cp312"], ["cp311-cp311"]),
        ("3.14t", ["cp314-cp314t", "py3-none"], ["cp314-cp314", "cp39-abi3"]),
    ],
)  # fmt: skip
def test_a_python_supports_its_own_and_the_stable_abi(
    python: str, supported: list[str], unsupported: list[str]
):
    target = Target.of(python, "win_amd64")
    assert [tag for tag in supported if not supports(target, f"{tag}-win_amd64")] == []
    assert [tag for tag in unsupported if supports(target, f"{tag}-win_amd64")] == []


def test_without_python_and_platform_the_target_is_this_machine():
    assert Target.of().tags == set(sys_tags())
    assert Target.of().matches(
        Marker(f"python_version == '{sys.version_info[0]}.{sys.version_info[1]}'")
    )


def test_without_a_platform_it_is_that_of_this_machine():
    newest = next(iter(sys_tags())).platform
    assert supports(Target.of("3.10"), f"cp310-cp310-{newest}")


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
def test_markers_are_evaluated_for_the_target(platform: str, marker: str):
    assert Target.of("3.10", platform).matches(Marker(marker))
    assert not Target.of("3.12", "musllinux_1_2_i686").matches(Marker(marker))


def test_a_marker_matches_with_any_of_the_given_groups():
    target, groups = Target.of("3.12", "win32"), frozenset({"fast", "dev"})
    assert target.matches(Marker("extra == 'fast'"), groups)
    assert target.matches(Marker("'dev' in dependency_groups and 'fast' in extras"), groups)
    assert not target.matches(Marker("extra == 'fast' and os_name == 'posix'"), groups)
    assert not target.matches(Marker("extra == 'fast'"))


def test_without_a_patch_number_the_newest_patch_counts():
    assert Target.of("3.9", "win32").satisfies(">=3.7,!=3.9.0,!=3.9.1")
    assert not Target.of("3.9.1", "win32").satisfies(">=3.7,!=3.9.0,!=3.9.1")
    assert not Target.of("3.9", "win32").satisfies(">=3.10")


@pytest.mark.parametrize("specifier", [None, "", "~=nonsense"])
def test_an_invalid_specifier_is_satisfied(specifier: str | None):
    assert Target.of("3.9", "win32").satisfies(specifier)


@pytest.mark.parametrize("python", ["", "3", "2.7", "3.x", "three", "3.12.1.2", "cp312", "3.999"])
def test_an_invalid_python_is_refused_with_the_remedy(python: str):
    with pytest.raises(ValueError, match=r"such as 3\.12"):
        Target.of(python, None)


@pytest.mark.parametrize(
    "platform", ["", "any", "manylinux", "linux", "macosx_14_arm64", "win64", "manylinux_2_28_X86"]
)
def test_an_invalid_platform_is_refused_with_the_remedy(platform: str):
    with pytest.raises(ValueError, match="manylinux_2_28_x86_64"):
        Target.of(None, platform)
