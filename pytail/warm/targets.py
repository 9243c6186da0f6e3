"""Describes the machines to fetch for: the wheels that they support and the markers that match.

A machine other than this one is given by its Python and one platform tag. A machine with that tag
also supports the tags of older platforms. A marker that cannot be evaluated counts as a match: a
superfluous file costs less than a missing one.
"""

from __future__ import annotations

import re
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from packaging.markers import (
    Marker,
    UndefinedComparison,
    UndefinedEnvironmentName,
    default_environment,
)
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.tags import (
    Tag,
    compatible_tags,
    cpython_tags,
    mac_platforms,
    platform_tags,
    sys_tags,
)

_PYTHON = re.compile(r"3\.([0-9]{1,2})(?:\.([0-9]{1,2}))?(t?)")
_LINUX = re.compile(
    r"(?:linux|manylinux(?:1|2010|2014|_2_([0-9]{1,2}))|musllinux_1_([0-9]{1,2}))_([a-z][a-z0-9_]*)"
)
_MACOS = re.compile(r"macosx_([0-9]{2})_([0-9]{1,2})_(x86_64|arm64)")
_WINDOWS = {"win32": "x86", "win_amd64": "AMD64", "win_arm64": "ARM64"}
#: By minor version of glibc, the platform name from before PEP 600.
_LEGACY = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
#: Above every minor version of glibc, and above every patch number of a Python. The latter stands
#: for the newest patch, where the operator gives none.
_NEWEST = 99
#: By architecture, the minor version of the oldest glibc of any wheel. Others have 17 (PEP 599).
_OLDEST = {"x86_64": 5, "i686": 5}


@dataclass(frozen=True, slots=True)
class Target:
    """A machine as an installer that runs on it sees it."""

    #: The tags of all wheels that the machine supports.
    tags: frozenset[Tag]
    #: The values of environment markers by name (PEP 508).
    environment: Mapping[str, str]

    @classmethod
    def of(cls, python: str | None = None, platform_tag: str | None = None) -> Target:
        """Return the machine with this version of CPython and this platform.

        None means the Python or the platform of this machine. Raises ValueError.
        """
        if python is None and platform_tag is None:
            return cls(frozenset(sys_tags()), _as_strings(default_environment()))
        minor, patch, suffix = _parse_python(_running_python() if python is None else python)
        platforms, environment = _parse_platform(platform_tag)
        name, tags = f"cp3{minor}", set[Tag]()
        # Tags of CPython also where another implementation runs pytail: few projects have wheels
        # for others.
        tags.update(cpython_tags((3, minor), [name + suffix], platforms))
        tags.update(compatible_tags((3, minor), name, platforms))
        full = f"3.{minor}.{patch}"
        return cls(
            frozenset(tags),
            environment
            | {
                "implementation_name": "cpython",
                "implementation_version": full,
                "platform_python_implementation": "CPython",
                "python_full_version": full,
                "python_version": f"3.{minor}",
            },
        )

    def supports(self, tags: Iterable[Tag]) -> bool:
        """Whether the machine supports a wheel with these `tags`."""
        return not self.tags.isdisjoint(tags)

    def satisfies(self, requires_python: str | None) -> bool:
        """Whether the Python is one of `requires_python`; True where that is no valid specifier."""
        try:
            return SpecifierSet(requires_python or "").contains(
                self.environment["python_full_version"], prereleases=True
            )
        except InvalidSpecifier:
            return True

    def matches(self, marker: Marker | None, groups: frozenset[str] = frozenset()) -> bool:
        """Whether `marker` is true on the machine, with any of `groups` installed.

        These are extras and dependency groups. True where the marker cannot be evaluated.
        """
        if marker is None:
            return True
        chosen = {"extras": groups, "dependency_groups": groups}
        try:
            return any(
                marker.evaluate({**self.environment, **chosen, "extra": extra}, "requirement")
                for extra in ("", *groups)
            )
        except (UndefinedComparison, UndefinedEnvironmentName):
            return True


def _running_python() -> str:
    suffix = "t" if sysconfig.get_config_var("Py_GIL_DISABLED") else ""
    return f"{'.'.join(map(str, sys.version_info[:3]))}{suffix}"


def _parse_python(text: str) -> tuple[int, int, str]:
    """Return the minor version, the patch number and the suffix of the ABI. Raises ValueError."""
    match = _PYTHON.fullmatch(text)
    if match is None:
        raise ValueError("give a version of Python 3, such as 3.12, 3.12.4 or 3.14t")
    return int(match[1]), _NEWEST if match[2] is None else int(match[2]), match[3]


def _parse_platform(tag: str | None) -> tuple[list[str], dict[str, str]]:
    """Return the platform tags that a machine of `tag` supports, and its environment markers.

    None means this machine. Raises ValueError.
    """
    if tag is None:
        return list(platform_tags()), _as_strings(default_environment())
    if match := _LINUX.fullmatch(tag):
        return list(_linux_tags(tag, match)), _markers("posix", "linux", "Linux", match[3])
    if match := _MACOS.fullmatch(tag):
        platforms = mac_platforms((int(match[1]), int(match[2])), match[3])
        return list(platforms), _markers("posix", "darwin", "Darwin", match[3])
    if tag in _WINDOWS:
        return [tag], _markers("nt", "win32", "Windows", _WINDOWS[tag])
    raise ValueError(
        "give a platform tag, such as manylinux_2_28_x86_64, musllinux_1_2_aarch64,"
        " macosx_14_0_arm64 or win_amd64"
    )


def _linux_tags(tag: str, match: re.Match[str]) -> Iterator[str]:
    """Yield the platform tags that `tag` includes, newest first (PEP 600, PEP 656).

    ``linux_x86_64`` and the like include every version of glibc.
    """
    glibc, musl, machine = match.groups()
    if musl is not None:
        yield from (f"musllinux_1_{minor}_{machine}" for minor in range(int(musl), -1, -1))
    else:
        legacy = (minor for minor, name in _LEGACY.items() if tag.startswith(f"{name}_"))
        newest = next(legacy, _NEWEST) if glibc is None else int(glibc)
        for minor in range(newest, _OLDEST.get(machine, 17) - 1, -1):
            yield f"manylinux_2_{minor}_{machine}"
            if minor in _LEGACY:
                yield f"{_LEGACY[minor]}_{machine}"
    yield f"linux_{machine}"


def _markers(os_name: str, sys_platform: str, system: str, machine: str) -> dict[str, str]:
    return {
        "os_name": os_name,
        "sys_platform": sys_platform,
        "platform_system": system,
        "platform_machine": machine,
        "platform_release": "",
        "platform_version": "",
    }


def _as_strings(environment: Mapping[str, object]) -> dict[str, str]:
    return {name: str(value) for name, value in environment.items()}
