"""The machines that files are wanted for: which wheels they take, and which markers hold on them.

A machine that is not at hand is told by its Python and one platform tag, which stands for the older
ones that it takes too. Where it cannot be known whether a marker holds, it does: a file too many
costs less than one that is missing.
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
#: The minor versions of glibc that have a name of their own.
_LEGACY = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
#: No glibc is as new; and no patch of a Python, where none is told: the newest is meant.
_NEWEST = 99
#: The oldest glibc of any wheel, by architecture.
_OLDEST = {"x86_64": 5, "i686": 5}


@dataclass(frozen=True, slots=True)
class Target:
    """One machine, as an installer on it sees itself."""

    #: Of all wheels that it takes.
    tags: frozenset[Tag]
    #: By the names that markers know (PEP 508).
    environment: Mapping[str, str]

    @classmethod
    def of(cls, python: str | None = None, platform_tag: str | None = None) -> Target:
        """The machine with that version of CPython and that platform; None means those of this one.

        Raises ValueError with the remedy.
        """
        if python is None and platform_tag is None:
            return cls(frozenset(sys_tags()), _plain(default_environment()))
        minor, patch, suffix = _python(_running() if python is None else python)
        platforms, environment = _platform(platform_tag)
        name, tags = f"cp3{minor}", set[Tag]()
        # Also for another implementation that runs this, whose wheels few projects have.
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

    def takes(self, tags: Iterable[Tag]) -> bool:
        """Whether it takes a wheel of these `tags`."""
        return not self.tags.isdisjoint(tags)

    def has_python(self, specifier: str | None) -> bool:
        """Whether its Python is one of `specifier`; what cannot be read is no hindrance."""
        try:
            return SpecifierSet(specifier or "").contains(
                self.environment["python_full_version"], prereleases=True
            )
        except InvalidSpecifier:
            return True

    def is_meant(self, marker: Marker | None, groups: frozenset[str] = frozenset()) -> bool:
        """Whether `marker` holds on it, with any of the `groups`, extras or dependency groups."""
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


def _running() -> str:
    suffix = "t" if sysconfig.get_config_var("Py_GIL_DISABLED") else ""
    return f"{'.'.join(map(str, sys.version_info[:3]))}{suffix}"


def _python(text: str) -> tuple[int, int, str]:
    """The minor version, the patch and the suffix of its ABI."""
    match = _PYTHON.fullmatch(text)
    if match is None:
        raise ValueError("give a version of Python 3, such as 3.12, 3.12.4 or 3.14t")
    return int(match[1]), _NEWEST if match[2] is None else int(match[2]), match[3]


def _platform(tag: str | None) -> tuple[list[str], dict[str, str]]:
    """The platform tags that a machine of `tag` takes, and what markers say of it."""
    if tag is None:
        return list(platform_tags()), _plain(default_environment())
    if match := _LINUX.fullmatch(tag):
        return list(_linux(tag, match)), _system("posix", "linux", "Linux", match[3])
    if match := _MACOS.fullmatch(tag):
        platforms = mac_platforms((int(match[1]), int(match[2])), match[3])
        return list(platforms), _system("posix", "darwin", "Darwin", match[3])
    if tag in _WINDOWS:
        return [tag], _system("nt", "win32", "Windows", _WINDOWS[tag])
    raise ValueError(
        "give a platform tag, such as manylinux_2_28_x86_64, musllinux_1_2_aarch64,"
        " macosx_14_0_arm64 or win_amd64"
    )


def _linux(tag: str, match: re.Match[str]) -> Iterator[str]:
    """As installers on Linux have them (PEP 600, PEP 656); ``linux_x86_64`` is any with glibc."""
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


def _system(os_name: str, sys_platform: str, system: str, machine: str) -> dict[str, str]:
    return {
        "os_name": os_name,
        "sys_platform": sys_platform,
        "platform_system": system,
        "platform_machine": machine,
        "platform_release": "",
        "platform_version": "",
    }


def _plain(environment: Mapping[str, object]) -> dict[str, str]:
    return {name: str(value) for name, value in environment.items()}
