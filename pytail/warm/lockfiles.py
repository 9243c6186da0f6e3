"""The files that lock files list: ``pylock.toml`` (PEP 751), ``uv.lock`` and ``poetry.lock``.

Only what comes from the index that pytail follows is wanted; projects of another one are not asked
for here, as their names are nobody else's business. What is left out is told.
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
from pytail.warm.selection import Locked, LockedFile

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_KINDS = "give a requirements.txt, pylock.toml, uv.lock or poetry.lock"
#: Where pytail has files; a lock that was made through it says so.
_OURS = "/root/pypi/+f/"


@dataclass(frozen=True, slots=True)
class Indexes:
    """The URLs under which lock files know the index that pytail follows."""

    urls: frozenset[str]

    @classmethod
    def of(cls, urls: Iterable[str]) -> Indexes:
        """Those of `urls`, each with or without ``/simple``."""
        return cls(frozenset(map(_bare, urls)))

    def has(self, url: str, files: Iterable[str] = ()) -> bool:
        """Whether `url` is one, or pytail by the URLs of its `files`."""
        return _bare(url) in self.urls or any(_OURS in file for file in files)


@dataclass(slots=True)
class Locks:
    """What a lock file wants."""

    locked: list[Locked] = field(default_factory=list)
    #: What is left out, and why.
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def skip(self, package: str, reason: str) -> None:
        """Leave out `package`."""
        self.skipped.append((package, reason))


def locks(text: str, indexes: Indexes) -> Locks:
    """What the lock file of that `text` wants. Raises ValueError with the reason."""
    try:
        found = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"cannot be read as TOML ({error}); {_KINDS}") from None
    result = Locks()
    try:
        _kind(found)(found, indexes, result)
    except (PylockValidationError, InvalidMarker) as error:
        raise ValueError(f"cannot be understood: {' '.join(str(error).split())}") from None
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"cannot be understood: {error!r}; lock again") from None
    return result


def _kind(found: Mapping[str, Any]) -> Callable[[dict[str, Any], Indexes, Locks], None]:
    if "lock-version" in found and "packages" in found:
        return _pylock
    metadata = found.get("metadata")
    if isinstance(metadata, dict) and "content-hash" in metadata:
        return _poetry
    if metadata is None and found.get("version") == 1 and "project" not in found:
        return _uv
    raise ValueError(f"is no lock file that pytail knows; {_KINDS}")


def _pylock(found: dict[str, Any], indexes: Indexes, result: Locks) -> None:
    lock = Pylock.from_dict(found)
    groups = frozenset(
        [*(lock.extras or ()), *(lock.dependency_groups or ()), *(lock.default_groups or ())]
    )
    for package in lock.packages:
        version = str(package.version or "")
        files = _files(package)
        urls = [file.url or "" for file in files]
        reason = _not_from_index(package, urls) or _of_another(package.index, urls, indexes)
        if reason is not None:
            result.skip(f"{package.name} {version}".strip(), reason)
            continue
        result.locked.append(
            Locked(
                package.name,
                version,
                tuple(LockedFile(file.filename, file.hashes) for file in files),
                (package.marker,) if package.marker else (),
                groups,
                str(package.requires_python) if package.requires_python else None,
            )
        )


def _files(package: Package) -> list[PackageWheel | PackageSdist]:
    return [*(package.wheels or ()), *([package.sdist] if package.sdist else ())]


def _not_from_index(package: Package, urls: list[str]) -> str | None:
    for kind in ("vcs", "directory", "archive"):
        if getattr(package, kind):
            return f"from a {kind}, not from an index"
    return None if any(urls) else "from a path, not from an index"


def _uv(found: dict[str, Any], indexes: Indexes, result: Locks) -> None:
    for package in found.get("package", []):
        title = f"{package['name']} {package.get('version', '')}".strip()
        kind, where = next(iter(package["source"].items()), ("source unknown", ""))
        entries = [*package.get("wheels", []), *filter(None, [package.get("sdist")])]
        if kind in ("editable", "virtual", "directory") and where == ".":
            # What was locked itself.
            continue
        reason = f"from a {kind}, not from an index"
        if kind == "registry":
            reason = _of_another(where, [entry.get("url", "") for entry in entries], indexes) or ""
        if reason:
            result.skip(title, reason)
            continue
        files = (
            LockedFile(
                entry.get("filename") or _last(entry.get("url") or entry["path"]),
                _hashes(entry.get("hash")),
            )
            for entry in entries
        )
        markers = [Marker(text) for text in package.get("resolution-markers", [])]
        result.locked.append(
            Locked(
                names.normalized(package["name"]),
                package.get("version", ""),
                tuple(files),
                _without_extras(markers),
            )
        )


def _poetry(found: dict[str, Any], indexes: Indexes, result: Locks) -> None:
    extras = frozenset(found.get("extras", {}))
    # Where it stood up to poetry 1.4.
    elsewhere = found["metadata"].get("files", {})
    for package in found.get("package", []):
        title, source = f"{package['name']} {package['version']}", package.get("source", {})
        kind = source.get("type", "legacy")
        reason = None if kind == "legacy" else f"from a {kind}, not from an index"
        if kind == "legacy" and source:
            reason = _of_another(source["url"], [], indexes)
        if reason is not None:
            result.skip(title, reason)
            continue
        entries = package.get("files") or elsewhere.get(package["name"], [])
        result.locked.append(
            Locked(
                names.normalized(package["name"]),
                package["version"],
                tuple(LockedFile(entry["file"], _hashes(entry.get("hash"))) for entry in entries),
                tuple(map(Marker, _texts(package.get("markers")))),
                extras,
            )
        )


def _of_another(index: str | None, files: Iterable[str], indexes: Indexes) -> str | None:
    """Why what a lock has of that `index` is left out; None where it is not."""
    if index is None or indexes.has(index, files):
        return None
    return f"from another index; if {masked(index)} is this one: --index {masked(index)}"


def _texts(markers: str | Mapping[str, str] | None) -> Iterator[str]:
    """One marker for all groups, or one for each."""
    yield from [markers] if isinstance(markers, str) else (markers or {}).values()


def _without_extras(markers: list[Marker]) -> tuple[Marker, ...]:
    # Those of uv's conflicts are names of its own; what they choose among is all wanted.
    return () if any("extra" in str(marker) for marker in markers) else tuple(markers)


def _hashes(text: str | None) -> dict[str, str]:
    name, _, value = (text or "").partition(":")
    return {name: value} if value else {}


def _last(url: str) -> str:
    return unquote(urlsplit(url).path.rpartition("/")[2])


def _bare(url: str) -> str:
    """Host and path above ``/simple`` of an index, as it is compared."""
    try:
        parts = urlsplit(upstream_base_url(url))
    except ValueError:
        return url
    path = parts.path.removesuffix("/root/pypi/+simple")
    return f"{parts.netloc.rpartition('@')[2].lower()}{path}"
