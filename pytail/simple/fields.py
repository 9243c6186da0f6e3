"""The fields of a page, each made right or dropped: upstream may say anything.

Each function takes whatever stood there and gives a value that every released client can read, or
None. One bad field never loses the file, and one bad file never loses the page.
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

STATUSES = frozenset({"active", "archived", "deprecated", "quarantined"})

_HEX = re.compile(r"[0-9a-f]+")
_TIME = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:[.,](\d{1,9}))?"
    r"(?:[Zz]|([+-])([01]\d|2[0-3]):?([0-5]\d))",
    re.ASCII,
)
#: As nearly every index writes it; the days that not each month has are looked at apart.
_PLAIN_TIME = re.compile(
    r"[12]\d{3}-(?:0[1-9]|1[0-2])-(?:0[1-9]|1\d|2[0-8])"
    r"T(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{6})?Z",
    re.ASCII,
)
#: Most hashes are this one alone.
_PLAIN_SHA256 = re.compile(r"[0-9a-f]{64}")


def text(value: object) -> str | None:
    """A string with something in it, else None."""
    return value if isinstance(value, str) and value.strip() else None


def size(value: object) -> int | None:
    """A number of bytes."""
    return value if type(value) is int and 0 <= value < 2**63 else None


def hashes(value: object) -> dict[str, str]:
    """Algorithm to lower-case digest, of the algorithms that clients know, of the right length.

    Anything else is left out: pip refuses a file with one hash name it does not know.
    """
    if not isinstance(value, dict):
        return {}
    sha256 = value.get("sha256")
    if len(value) == 1 and isinstance(sha256, str) and _PLAIN_SHA256.fullmatch(sha256):
        return {"sha256": sha256}
    found = {}
    for key, given in value.items():
        if isinstance(key, str) and isinstance(given, str):
            name, digest = key.lower(), given.lower()
            if len(digest) == DIGEST_LENGTHS.get(name) and _HEX.fullmatch(digest):
                found[name] = digest
    return found


def hash_in(expression: str) -> dict[str, str]:
    """The hash of a URL fragment or of an attribute, ``sha256=<hex>``; empty when there is none."""
    for part in expression.split("&"):
        name, _, digest = part.partition("=")
        found = hashes({name.strip(): digest.strip()})
        if found:
            return found
    return {}


def upload_time(value: object) -> str | None:
    """The same instant as ``yyyy-mm-ddThh:mm:ss[.ffffff]Z`` (PEP 700), None when it is not one.

    A time without a zone is no instant, and clients fail on a page with one.
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
    """True or a reason when yanked. An empty reason in JSON is an index saying "not yanked"."""
    if isinstance(value, str):
        return value if value.strip() else False
    return value is True


def core_metadata(value: object) -> dict[str, str] | bool | None:
    """The hashes, True where there is a metadata file of unknown hash, None where there is none."""
    if isinstance(value, dict):
        return hashes(value) or True
    return True if value is True else None


def status(value: object) -> str | None:
    """One of the project statuses of PEP 792."""
    return value if isinstance(value, str) and value in STATUSES else None


def versions(value: object) -> tuple[str, ...] | None:
    """All version strings once each, in upstream's order; None when upstream gives no list."""
    if not isinstance(value, list):
        return None
    return tuple(dict.fromkeys(version for version in value if text(version)))


def serial(value: object) -> int | None:
    """A last serial, from a header or from JSON."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 18:
        value = int(value)
    return size(value)


def provenance(value: object, base: str) -> str | None:
    """The absolute URL of a provenance document; relative ones are meant against the page."""
    url = urls.http_url(value, base)
    if url is None or url.startswith("https:"):
        return url
    is_relative = isinstance(value, str) and not urlsplit(value.strip()).scheme
    return url if is_relative else None


def one_of_each(files: Iterable[File]) -> tuple[File, ...]:
    """`files` with one of each filename, preferring the one that has a hash, order kept."""
    found: dict[str, File] = {}
    for file in files:
        known = found.get(file.filename)
        if known is None or (file.hashes and not known.hashes):
            found[file.filename] = file
    return tuple(found.values())


def complete_versions(
    versions: tuple[str, ...] | None, files: Iterable[File], project: str
) -> tuple[str, ...] | None:
    """`versions` and those of `files` that it lacks, which the standard wants in it (PEP 700)."""
    if versions is None:
        return None
    spelled = {names.version_text(file.filename, project) or "" for file in files} - {*versions}
    # Spelled otherwise in a filename (1.0_1, 1_0) is the same version, not a further one; what is
    # none is more than a version, such as the platform of an old installer.
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
