"""Reads lock files: ``pylock.toml`` (PEP 751), ``uv.lock`` and ``poetry.lock``.

Packages of other indexes are skipped with a reason: asking upstream for them would disclose the
names of private projects.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

from packaging.markers import InvalidMarker, Marker
from packaging.pylock import (
    Package,
    PackageSdist,
    PackageWheel,
    Pylock,
    PylockValidationError,
)

from pytail.config.values import upstream_base_url
from pytail.simple import names
from pytail.urls import masked
from pytail.warm.selection import LockedFile, LockedPackage

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_KINDS = "give a requirements.txt, pylock.toml, uv.lock or poetry.lock"
#: The path of pytail's files; lock files that were made through pytail have such URLs.
_FILES_PATH = "/root/pypi/+f/"


@dataclass(frozen=True, slots=True)
class IndexUrls:
    """The URLs by which lock files name the index that pytail follows."""

    #: Host and path, see `_bare`.
    urls: frozenset[str]

    @classmethod
    def of(cls, urls: Iterable[str]) -> IndexUrls:
        """Return those of `urls`, each with or without ``/simple``."""
        return cls(frozenset(map(_bare, urls)))

    def include(self, url: str, files: Iterable[str] = ()) -> bool:
        """Whether `url` names the index, or one of the URLs `files` is that of a file of pytail."""
        return _bare(url) in self.urls or any(_FILES_PATH in file for file in files)


@dataclass(slots=True)
class Lockfile:
    """The packages of a lock file that come from the index."""

    packages: list[LockedPackage] = field(default_factory=list)
    #: Packages that are left out, each with the reason.
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def skip(self, package: str, reason: str) -> None:
        """Leave out `package`."""
        self.skipped.append((package, reason))


def read_lockfile(text: str, indexes: IndexUrls) -> Lockfile:
    """Return the content of a lock file. Raises ValueError with the reason."""
    try:
        content = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"cannot be read as TOML ({error}); {_KINDS}") from None
    lockfile = Lockfile()
    try:
        _reader(content)(content, indexes, lockfile)
    except (PylockValidationError, InvalidMarker) as error:
        raise ValueError(f"is not a valid lock file: {' '.join(str(error).split())}") from None
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"is not a valid lock file: {error!r}; lock again") from None
    return lockfile


def _reader(content: Mapping[str, Any]) -> Callable[[dict[str, Any], IndexUrls, Lockfile], None]:
    """Return the function that reads this kind of lock file. Raises ValueError."""
    if "lock-version" in content and "packages" in content:
        return _read_pylock
    metadata = content.get("metadata")
    if isinstance(metadata, dict) and "content-hash" in metadata:
        return _read_poetry
    if metadata is None and content.get("version") == 1 and "project" not in content:
        return _read_uv
    raise ValueError(f"is not a lock file that pytail can read; {_KINDS}")


def _read_pylock(content: dict[str, Any], indexes: IndexUrls, lockfile: Lockfile) -> None:
    pylock = Pylock.from_dict(content)
    groups = frozenset(
        [*(pylock.extras or ()), *(pylock.dependency_groups or ()), *(pylock.default_groups or ())]
    )
    for package in pylock.packages:
        version = str(package.version or "")
        files = _pylock_files(package)
        urls = [file.url or "" for file in files]
        reason = _not_from_index(package, urls) or _other_index(package.index, urls, indexes)
        if reason is not None:
            lockfile.skip(f"{package.name} {version}".strip(), reason)
            continue
        lockfile.packages.append(
            LockedPackage(
                package.name,
                version,
                tuple(LockedFile(file.filename, file.hashes) for file in files),
                (package.marker,) if package.marker else (),
                groups,
                str(package.requires_python) if package.requires_python else None,
            )
        )


def _pylock_files(package: Package) -> list[PackageWheel | PackageSdist]:
    return [*(package.wheels or ()), *([package.sdist] if package.sdist else ())]


def _not_from_index(package: Package, urls: list[str]) -> str | None:
    """Return the reason to skip `package`, None where it comes from an index."""
    for kind in ("vcs", "directory", "archive"):
        if getattr(package, kind):
            return f"from a {kind}, not from an index"
    return None if any(urls) else "from a path, not from an index"


def _read_uv(content: dict[str, Any], indexes: IndexUrls, lockfile: Lockfile) -> None:
    for package in content.get("package", []):
        title = f"{package['name']} {package.get('version', '')}".strip()
        kind, source = next(iter(package["source"].items()), ("unknown source", ""))
        entries = [*package.get("wheels", []), *filter(None, [package.get("sdist")])]
        if kind in ("editable", "virtual", "directory") and source == ".":
            # The project that was locked.
            continue
        reason = f"from a {kind}, not from an index"
        if kind == "registry":
            urls = [entry.get("url", "") for entry in entries]
            reason = _other_index(source, urls, indexes) or ""
        if reason:
            lockfile.skip(title, reason)
            continue
        files = (
            LockedFile(
                entry.get("filename") or _last_component(entry.get("url") or entry["path"]),
                _hashes(entry.get("hash")),
            )
            for entry in entries
        )
        markers = [Marker(text) for text in package.get("resolution-markers", [])]
        lockfile.packages.append(
            LockedPackage(
                names.normalized(package["name"]),
                package.get("version", ""),
                tuple(files),
                _without_extras(markers),
            )
        )


def _read_poetry(content: dict[str, Any], indexes: IndexUrls, lockfile: Lockfile) -> None:
    extras = frozenset(content.get("extras", {}))
    # poetry up to 1.4 lists all files here, by package.
    all_files = content["metadata"].get("files", {})
    for package in content.get("package", []):
        title, source = f"{package['name']} {package['version']}", package.get("source", {})
        kind = source.get("type", "legacy")
        reason = None if kind == "legacy" else f"from a {kind}, not from an index"
        if kind == "legacy" and source:
            reason = _other_index(source["url"], [], indexes)
        if reason is not None:
            lockfile.skip(title, reason)
            continue
        entries = package.get("files") or all_files.get(package["name"], [])
        lockfile.packages.append(
            LockedPackage(
                names.normalized(package["name"]),
                package["version"],
                tuple(LockedFile(entry["file"], _hashes(entry.get("hash"))) for entry in entries),
                tuple(map(Marker, _marker_texts(package.get("markers")))),
                extras,
            )
        )


def _other_index(index: str | None, files: Iterable[str], indexes: IndexUrls) -> str | None:
    """Return the reason to skip a package of `index`, None where that is our index."""
    if index is None or indexes.include(index, files):
        return None
    return f"from another index; if {masked(index)} is this index, give --index {masked(index)}"


def _marker_texts(markers: str | Mapping[str, str] | None) -> Iterator[str]:
    """Yield the one marker for all groups, or the marker of each group."""
    yield from [markers] if isinstance(markers, str) else (markers or {}).values()


def _without_extras(markers: list[Marker]) -> tuple[Marker, ...]:
    # uv invents extras for conflicting forks, which no target can match. All forks are fetched.
    return () if any("extra" in str(marker) for marker in markers) else tuple(markers)


def _hashes(text: str | None) -> dict[str, str]:
    name, _, value = (text or "").partition(":")
    return {name: value} if value else {}


def _last_component(url: str) -> str:
    return unquote(urlsplit(url).path.rpartition("/")[2])


def _bare(url: str) -> str:
    """Return host and path of an index URL without ``/simple`` and credentials, for comparison."""
    try:
        parts = urlsplit(upstream_base_url(url))
    except ValueError:
        return url
    path = parts.path.removesuffix("/simple").removesuffix("/+simple").removesuffix("/root/pypi")
    return f"{parts.netloc.rpartition('@')[2].lower()}{path}"
