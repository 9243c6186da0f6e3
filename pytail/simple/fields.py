"""The fields of a page, normalized or dropped: upstream may send any value.

Each function takes the decoded value and returns one that every released client can read, or None.
A bad field does not lose its file, and a bad file does not lose its page.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime, timedelta

from packaging.version import InvalidVersion, Version

from pytail import urls
from pytail.model import DIGEST_LENGTHS, File, digest_in
from pytail.simple import names

#: The project statuses of PEP 792.
PROJECT_STATUSES = frozenset({"active", "archived", "deprecated", "quarantined"})

#: JSON can spell half of a surrogate pair, which no encoding can (RFC 8259, section 8.2).
_SURROGATE = re.compile(r"[\ud800-\udfff]")
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
    """Return a string that is not blank and can be encoded as UTF-8, else None."""
    is_text = isinstance(value, str) and value.strip() and not _SURROGATE.search(value)
    return value if is_text else None  # type: ignore[return-value]


def size(value: object) -> int | None:
    """Return a number of bytes, None for any other value."""
    return value if type(value) is int and 0 <= value < 2**63 else None


def decimal(value: object) -> int | None:
    """Return the number that up to 18 decimal digits spell, None for any other value."""
    is_number = isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 18
    return int(value) if is_number else None  # type: ignore[call-overload]


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

    As in pip, each value but an empty one means "yanked", and an empty reason in JSON means "not yanked".
    """
    return text(value) or bool(value)


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
    return decimal(value) if isinstance(value, str) else size(value)


def provenance(value: object, base: str) -> str | None:
    """Return the absolute https URL of a provenance document, else None.

    `base` is the URL of the page, against which a relative URL is resolved. A URL with a directory of
    the index in its path is left out too: that may be a token.
    """
    url = urls.http_url(value, base)
    if url is None or not url.startswith("https:") or urls.shares_directory(url, base):
        return None
    return url


def unique(files: Iterable[File]) -> tuple[File, ...]:
    """Return `files` with each content once, in the same order.

    A filename with two digests stands for two files. Of entries with one filename and no digest, the
    first remains, unless another entry of that name has a digest.
    """
    found: dict[tuple[str, object], File] = {}
    digested: set[str] = set()
    for file in files:
        digest = digest_in(file.directory)
        found.setdefault((file.filename, digest), file)
        if digest is not None:
            digested.add(file.filename)
    return tuple(
        file for (name, digest), file in found.items() if digest is not None or name not in digested
    )


def versions_of(files: Iterable[File], project: str) -> tuple[str, ...]:
    """Return the versions in the filenames of `files` of `project`, each once, the lowest first.

    A filename may spell a version in another way than its release (1.0_1, 1.0.post1). Text that is no
    version, such as a version with the platform of an old installer, is left out.
    """
    spelled = dict.fromkeys(names.version_text(file.filename, project) or "" for file in files)
    # Of equal versions (1.0, 1.0.0) the first one remains, in every process.
    known = dict.fromkeys(version for version in map(_version, spelled) if version is not None)
    return tuple(map(str, sorted(known)))


def _version(text: str) -> Version | None:
    try:
        return Version(text.replace("_", "-"))
    except InvalidVersion:
        return None
