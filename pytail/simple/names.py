"""Names of projects and files: their validation, and the project of a filename.

Every name from a client or from upstream is validated here before it becomes part of a path, a URL
or a header.
"""

from __future__ import annotations

import functools
import re

from packaging.utils import canonicalize_name

from pytail.model import METADATA_SUFFIX, SIGNATURE_SUFFIX

#: https://packaging.python.org/en/latest/specifications/name-normalization/
_PROJECT = re.compile(r"[A-Z0-9]|[A-Z0-9][A-Z0-9._-]*[A-Z0-9]", re.IGNORECASE | re.ASCII)
#: Characters. A longer name would not fit a filename, and no index has one.
_PROJECT_LENGTH = 200
#: Bytes without ``.metadata``: file systems allow 255 with it.
_FILENAME_LENGTH = 240
#: Also percent escapes, which a client could decode once more: no real filename has them.
_UNSAFE = re.compile(
    r"[\x00-\x1f\x7f-\x9f/\\#?\ud800-\udfff\u2028\u2029]|%[0-9a-f]{2}",
    re.IGNORECASE,
)
#: Most filenames match, and need no further checks.
_PLAIN_FILENAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+!-]{1,200}")
_DRIVE = re.compile(r".:")
#: Sdists and old installers, whose filenames may have dashes in the project.
_DASHED = re.compile(
    r"\.(?:tar(?:\.(?:gz|bz2|xz|lz|lzma|zst|Z))?|tgz|tbz|txz|tlz|zip|exe|msi|rpm|deb|dmg)\Z",
    re.IGNORECASE,
)
#: Kinds of files whose project ends at the first dash.
_ESCAPED = re.compile(r"\.(?:whl|egg)\Z", re.IGNORECASE)
_VERSION_START = re.compile(r"v?[0-9]", re.IGNORECASE)
#: Maximum candidates for the project of one filename.
_MAX_CANDIDATES = 6


def is_project_name(name: str) -> bool:
    """Return whether `name` is a valid project name, normalized or not."""
    return len(name) <= _PROJECT_LENGTH and _PROJECT.fullmatch(name) is not None


def normalized(name: str) -> str:
    """Return the normalized name of a project (PEP 503)."""
    return canonicalize_name(name)


def is_filename(name: str) -> bool:
    """Return whether `name` is safe as the last component of a path and of a URL, on every system."""
    if _PLAIN_FILENAME.fullmatch(name):
        return True
    main = name.removesuffix(METADATA_SUFFIX).removesuffix(SIGNATURE_SUFFIX)
    return (
        name not in ("", ".", "..")
        and _UNSAFE.search(name) is None
        and _DRIVE.match(name) is None
        and len(main.encode("utf-8", "replace")) <= _FILENAME_LENGTH
    )


def is_distribution(filename: str) -> bool:
    """Return whether `filename` is a wheel, an sdist or an older kind of distribution."""
    return bool(_DASHED.search(filename) or _ESCAPED.search(filename))


def projects_of(filename: str) -> list[str]:
    """Return the projects that `filename` may belong to, normalized, the likeliest first, at most 6.

    A wheel names its project before the first dash. In the filename of an sdist, project and
    version may have dashes (``python-dateutil-2.8.2``, ``foo-1.0-2``), so each dash gives a
    candidate. Candidates before text that begins like a version come first.
    """
    candidates = dict.fromkeys(normalized(head) for head, _ in _splits(filename))
    return list(candidates)[:_MAX_CANDIDATES]


def may_belong_to(filename: str, project: str) -> bool:
    """Return whether `projects_of` the `filename` include `project` (normalized)."""
    head, dash, rest = filename.rpartition("-")
    # The likeliest candidate of most sdists, and the only one of a wheel.
    if filename.endswith(".whl"):
        head = filename.partition("-")[0]
    elif not (dash and _VERSION_START.match(rest) and _DASHED.search(rest)):
        return project in projects_of(filename)
    return _is_named(head, project) or project in projects_of(filename)


def is_of_project(filename: str, project: str) -> bool:
    """Return whether `project` (normalized) is among the likeliest projects of `filename`."""
    if filename.endswith(".whl"):
        return _is_named(filename.partition("-")[0], project)
    splits = _splits(filename)
    likely = [head for head, version in splits if _VERSION_START.match(version)]
    return project in map(normalized, likely or [head for head, _ in splits])


def version_text(filename: str, project: str) -> str | None:
    """Return the version in the `filename` of a file of `project` (normalized), None without one."""
    if filename.endswith(".whl") and filename.count("-") > 1:
        head, version, _ = filename.split("-", 2)
        return version or None if _is_named(head, project) else None
    if not is_distribution(filename):
        return None
    for head, version in _splits(filename):
        if normalized(head) == project:
            return version or None
    return None


@functools.lru_cache(maxsize=256)
def _is_named(head: str, project: str) -> bool:
    return is_project_name(head) and normalized(head) == project


def _splits(filename: str) -> list[tuple[str, str]]:
    stem = _DASHED.sub("", filename)
    if stem == filename:
        head, _, rest = _ESCAPED.sub("", filename).partition("-")
        splits = [(head, rest.partition("-")[0])]
    else:
        cuts = [match.start() for match in re.finditer("-", stem)]
        splits = [(stem[:cut], stem[cut + 1 :]) for cut in reversed(cuts)]
        splits.sort(key=lambda split: _VERSION_START.match(split[1]) is None)
    return [(head, version) for head, version in splits if is_project_name(head)]
