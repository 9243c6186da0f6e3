"""The fields of a page, normalized or dropped: upstream may send any value.

Each function takes the decoded value and returns one that every released client can read, or None.
A bad field does not lose its file, and a bad file does not lose its page.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime, timedelta
from urllib.parse import urlsplit

from packaging.version import InvalidVersion, Version

from pytail import urls
from pytail.model import DIGEST_LENGTHS, File
from pytail.simple import names

#: The project statuses of PEP 792.
PROJECT_STATUSES = frozenset({"active", "archived", "deprecated", "quarantined"})

_HEX = re.compile(r"[0-9a-f]+")
_TIME = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:[.,](\d{1,9}))?"
    r"(?:[Zz]|([+-])([01]\d|2[0-3]):?([0-5]\d))",
    re.ASCII,
)
#: The spelling of nearly every index. The days 29 to 31 are left out: not every month has them.
_PLAIN_TIME = re.compile(
    r"[12]\d{3}-(?:0[1-9]|1[0-2])-(?:0[1-9]|1\d|2[0-8])"
    r"T(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{6})?Z",
    re.ASCII,
)
#: Most files have this hash alone.
_PLAIN_SHA256 = re.compile(r"[0-9a-f]{64}")


def text(value: object) -> str | None:
    """Return a string that is not blank, else None."""
    return value if isinstance(value, str) and value.strip() else None


def size(value: object) -> int | None:
    """Return a number of bytes, None for any other value."""
    return value if type(value) is int and 0 <= value < 2**63 else None


def hashes(value: object) -> dict[str, str]:
    """Return the lower-case digests by algorithm, of the algorithms that clients know.

    Other entries are dropped: pip refuses a file with one algorithm that pip does not know.
    """
    if not isinstance(value, dict):
        return {}
    sha256 = value.get("sha256")
    if len(value) == 1 and isinstance(sha256, str) and _PLAIN_SHA256.fullmatch(sha256):
        return {"sha256": sha256}
    found = {}
    for key, text_ in value.items():
        if isinstance(key, str) and isinstance(text_, str):
            name, digest = key.lower(), text_.lower()
            if len(digest) == DIGEST_LENGTHS.get(name) and _HEX.fullmatch(digest):
                found[name] = digest
    return found


def hash_in(expression: str) -> dict[str, str]:
    """Return the hash of a URL fragment or an attribute, ``sha256=<hex>``; empty without one."""
    for member in expression.split("&"):
        name, _, digest = member.partition("=")
        found = hashes({name.strip(): digest.strip()})
        if found:
            return found
    return {}


def upload_time(value: object) -> str | None:
    """Return the time as ``yyyy-mm-ddThh:mm:ss[.ffffff]Z`` (PEP 700), None for any other value.

    A time without a zone is dropped: clients fail on a page with such a time.
    """
    if not isinstance(value, str):
        return None
    if _PLAIN_TIME.fullmatch(value):
        return value
    match = _TIME.fullmatch(value.strip())
    if match is None:
        return None
    day, clock, fraction, sign, hours, minutes = match.groups()
    try:
        moment = datetime.fromisoformat(f"{day}T{clock}")
        if sign:
            offset = timedelta(hours=int(hours), minutes=int(minutes))
            moment += offset if sign == "-" else -offset
    except (ValueError, OverflowError):
        return None
    tail = f".{fraction[:6]:0<6}" if fraction else ""
    return f"{moment.isoformat()}{tail}Z"


def yanked(value: object) -> bool | str:
    """Return True or the reason for a yanked file, False otherwise.

    Indexes that write an empty reason in JSON mean "not yanked".
    """
    if isinstance(value, str):
        return value if value.strip() else False
    return value is True


def core_metadata(value: object) -> dict[str, str] | bool | None:
    """Return the hashes of the core metadata, True where the hashes are unknown, else None."""
    if isinstance(value, dict):
        return hashes(value) or True
    return True if value is True else None


def status(value: object) -> str | None:
    """Return a project status of PEP 792, None for any other value."""
    return value if isinstance(value, str) and value in PROJECT_STATUSES else None


def versions(value: object) -> tuple[str, ...] | None:
    """Return each version string once, in the order of upstream; None without a list."""
    if not isinstance(value, list):
        return None
    return tuple(dict.fromkeys(version for version in value if text(version)))


def serial(value: object) -> int | None:
    """Return the last serial of a header or of JSON, None for any other value."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 18:
        value = int(value)
    return size(value)


def provenance(value: object, base: str) -> str | None:
    """Return the absolute URL of a provenance document; `base` is the URL of the page.

    None for an absolute URL that is not https, and for one with a directory of the index in its path,
    which may be a token.
    """
    url = urls.http_url(value, base)
    if url is None or urls.shares_directory(url, base):
        return None
    if url.startswith("https:"):
        return url
    is_relative = isinstance(value, str) and not urlsplit(value.strip()).scheme
    return url if is_relative else None


def unique(files: Iterable[File]) -> tuple[File, ...]:
    """Return `files` with each filename once, in the same order.

    Of several entries with one filename, the first with a hash remains, else the first.
    """
    found: dict[str, File] = {}
    for file in files:
        known = found.get(file.filename)
        if known is None or (file.hashes and not known.hashes):
            found[file.filename] = file
    return tuple(found.values())


def complete_versions(
    versions: tuple[str, ...] | None, files: Iterable[File], project: str
) -> tuple[str, ...] | None:
    """Return `versions` with the missing versions of `files`, as PEP 700 requires.

    None where `versions` is None.
    """
    if versions is None:
        return None
    spelled = {names.version_text(file.filename, project) or "" for file in files} - {*versions}
    # A filename may spell a listed version in another way (1.0_1, 1_0). Text that is not a version,
    # such as a version with the platform of an old installer, is not added.
    known = {None, *map(_version, versions)} if spelled else set()
    added = []
    for version in map(_version, sorted(spelled)):
        if version not in known:
            known.add(version)
            added.append(str(version))
    return versions + tuple(added)


def _version(text: str) -> Version | None:
    try:
        return Version(text.replace("_", "-"))
    except InvalidVersion:
        return None
