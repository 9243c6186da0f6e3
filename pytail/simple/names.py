"""Names of projects and files: which are real, and which project a filename belongs to.

Every name that comes in, from a client or from upstream, is checked here before it becomes part of
a path, a URL or a header.
"""

from __future__ import annotations

import functools
import re

from packaging.utils import canonicalize_name

from pytail.model import METADATA_SUFFIX, SIGNATURE_SUFFIX

#: https://packaging.python.org/en/latest/specifications/name-normalization/
_PROJECT = re.compile(r"[A-Z0-9]|[A-Z0-9][A-Z0-9._-]*[A-Z0-9]", re.IGNORECASE | re.ASCII)
#: Longer names would not fit a filename, and no index has them.
_PROJECT_LENGTH = 200
#: Bytes, without ``.metadata``, for which the 255 that file systems allow leave room.
_FILENAME_LENGTH = 240
#: Also anything a client could decode once more: no real filename has it.
_UNSAFE = re.compile(
    r"[\x00-\x1f\x7f-\x9f/\\#?\ud800-\udfff\u2028\u2029]|%[0-9a-f]{2}",
    re.IGNORECASE,
)
#: Most filenames are these, in which there is nothing to look for.
_PLAIN_FILENAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+!-]{1,200}")
_DRIVE = re.compile(r".:")
#: Kinds whose filenames spell the project as it likes, dashes and all; sdists and old installers.
_DASHED = re.compile(
    r"\.(?:tar(?:\.(?:gz|bz2|xz|lz|lzma|zst|Z))?|tgz|tbz|txz|tlz|zip|exe|msi|rpm|deb|dmg)\Z",
    re.IGNORECASE,
)
#: Kinds whose project ends at the first dash.
_ESCAPED = re.compile(r"\.(?:whl|egg)\Z", re.IGNORECASE)
_VERSION_START = re.compile(r"v?[0-9]", re.IGNORECASE)
#: Projects that are looked at for one filename.
_MOST_CANDIDATES = 6


def is_project_name(name: str) -> bool:
    """Whether `name` can name a project, normalized or not."""
    return len(name) <= _PROJECT_LENGTH and _PROJECT.fullmatch(name) is not None


def normalized(name: str) -> str:
    """The one spelling of a project's name that is asked for and kept (PEP 503)."""
    return canonicalize_name(name)


def is_filename(name: str) -> bool:
    """Whether `name` is safe as the last part of a path and of a URL, on every system."""
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
    """Whether a link to `filename` is one to a wheel, an sdist or an older kind of distribution."""
    return bool(_DASHED.search(filename) or _ESCAPED.search(filename))


def projects_of(filename: str) -> list[str]:
    """The projects that `filename` may belong to, normalized, the likeliest first, six at most.

    A wheel names its project before the first dash. An sdist's project and version may both hold
    dashes (``python-dateutil-2.8.2``, ``foo-1.0-2``), so each way of splitting it is a candidate,
    first those whose rest begins like a version.
    """
    candidates = dict.fromkeys(normalized(head) for head, _ in _splits(filename))
    return list(candidates)[:_MOST_CANDIDATES]


def tells_project(filename: str, project: str) -> bool:
    """Whether `project` (normalized) is among the `projects_of` that `filename`."""
    head, dash, rest = filename.rpartition("-")
    # The likeliest reading of most sdists, and the only one of a wheel.
    if filename.endswith(".whl"):
        head = filename.partition("-")[0]
    elif not (dash and _VERSION_START.match(rest) and _DASHED.search(rest)):
        return project in projects_of(filename)
    return _names(head, project) or project in projects_of(filename)


def is_of_project(filename: str, project: str) -> bool:
    """Whether `filename` can be one of `project` (normalized), going by its likeliest readings."""
    splits = _splits(filename)
    likely = [head for head, version in splits if _VERSION_START.match(version)]
    return project in map(normalized, likely or [head for head, _ in splits])


def version_text(filename: str, project: str) -> str | None:
    """The version of `project` (normalized) as `filename` spells it, None when it has none."""
    if filename.endswith(".whl") and filename.count("-") > 1:
        head, version, _ = filename.split("-", 2)
        return version or None if _names(head, project) else None
    if not is_distribution(filename):
        return None
    for head, version in _splits(filename):
        if normalized(head) == project:
            return version or None
    return None


@functools.lru_cache(maxsize=256)
def _names(head: str, project: str) -> bool:
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
