"""The plain values of pytail: `ProjectPage` and `File`, and the layout of the files below ``+f``.

The parsers in `pytail.simple` make these values out of upstream's pages; the renderers make pages
out of them again. A parser drops each field that no client could read or that cannot be true.
Therefore the filename of every listed `File` is safe in a path. Its digests are lower-case and of the
right length. Its URL is absolute, with the scheme http or https.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from typing import Any, Protocol
from urllib.parse import urlsplit

from pytail.urls import redacted, url_digest, with_suffix, without_query

#: The hash algorithms that clients can verify, best first, with the length of a digest in hex digits.
DIGEST_LENGTHS: Mapping[str, int] = {
    "sha256": 64,
    "sha512": 128,
    "sha384": 96,
    "sha3_256": 64,
    "sha3_512": 128,
    "sha3_384": 96,
    "blake2b": 128,
    "blake2s": 64,
    "sha3_224": 56,
    "sha224": 56,
    "sha1": 40,
    "md5": 32,
}

METADATA_SUFFIX = ".metadata"
SIGNATURE_SUFFIX = ".asc"
#: Bytes; larger core metadata and signatures are refused, because they are read whole.
LARGEST_SIDECAR = 8 * 1024 * 1024

#: Algorithms for which two files with one digest can be made. Their directories name the size too.
_WEAK = ("sha1", "md5")
_BY_URL = "_url/"
_BY_SHA256 = r"[0-9a-f]{3}/[0-9a-f]{13}"
_BY_OTHER_DIGEST = "|".join(
    rf"_{name}/[0-9a-f]{{{length}}}" + (r"(?:-[0-9]{1,19})?" if name in _WEAK else "")
    for name, length in DIGEST_LENGTHS.items()
    if name != "sha256"
)
_DIRECTORY = re.compile(f"{_BY_SHA256}|{_BY_OTHER_DIGEST}|{_BY_URL}[0-9a-f]{{64}}", re.ASCII)


class Outcome(enum.Enum):
    """The origin of a response, as its ``X-Cache`` header names it."""

    #: From the cache, or made by pytail itself; upstream was not asked.
    HIT = "HIT"
    #: Not in the cache; fetched from upstream for this request.
    MISS = "MISS"
    #: From the cache, after upstream answered that the page is unchanged.
    REVALIDATED = "REVALIDATED"
    #: From the cache and beyond its TTL, because upstream could not be asked.
    STALE = "STALE"
    #: Fetched from upstream for the request of another client.
    COALESCED = "COALESCED"
    #: Fetched from upstream and not stored.
    PASS = "PASS"  # noqa: S105


def directory_of(hashes: Mapping[str, str], url: str, size: int | None = None) -> str:
    """Return the directory of a file below ``+f``, from the strongest digest in `hashes`.

    ``<first 3 digits of the sha256>/<next 13>`` for a sha256, else ``_<algorithm>/<digest>``. That of a
    sha1 or md5 ends in ``-<size>`` where the page gives the `size` in bytes. Without a digest
    ``_url/<sha256 of url without query and fragment>``: a query may be a signature, which changes.
    """
    for algorithm in DIGEST_LENGTHS:
        if algorithm in hashes:
            return _directory_by(algorithm, hashes[algorithm], size)
    return _BY_URL + url_digest(without_query(url))


def former_directories(file: File) -> list[str]:
    """Return the other directories that pages and lock files may name for `file`.

    They are those of its weaker digests, and those of its URL without and with the query. A page may
    have given fewer digests before. Up to schema 4 of the catalog, pytail took the whole URL where there
    was no sha256.
    """
    url, found = file.url, []
    if file.is_sidecar:
        # The directory is that of the wheel or sdist, and so was each former one.
        parts = urlsplit(url)
        url = parts._replace(path=parts.path.rpartition(".")[0]).geturl()
    else:
        for algorithm, digest in file.hashes.items():
            sizes = {None, file.size} if algorithm in _WEAK else {None}
            found += [_directory_by(algorithm, digest, size) for size in sizes]
    found += [_BY_URL + url_digest(without_query(url)), _BY_URL + url_digest(url)]
    return [each for each in dict.fromkeys(found) if each != file.directory]


def is_directory_of(directory: str, file: File) -> bool:
    """Return whether `directory` is that of `file`, or one of `former_directories`.

    The size in a directory does not count, because a page can correct it.
    """
    if directory == file.directory:
        return True
    digest = digest_in(directory)
    if digest is None:
        return directory in former_directories(file)
    algorithm, digits = digest
    return file.hashes.get(algorithm, "").startswith(digits)


def _directory_by(algorithm: str, digest: str, size: int | None) -> str:
    if algorithm == "sha256":
        return f"{digest[:3]}/{digest[3:16]}"
    tail = f"-{size}" if algorithm in _WEAK and size is not None else ""
    return f"_{algorithm}/{digest}{tail}"


def is_directory(text: str) -> bool:
    """Return whether `text` has the form of `directory_of`, and so is safe in a path."""
    return _DIRECTORY.fullmatch(text) is not None


def directory_in(path: PurePath) -> str:
    """Return the directory of the file at `path`, which lies below a ``+f``.

    For other paths the result is not a directory of that form, see `is_directory`.
    """
    return "/".join(path.parts[-3:-1])


def digest_in(directory: str) -> tuple[str, str] | None:
    """Return the algorithm and the digest, or its first 16 digits, that `directory` is made of.

    None for a directory from a URL.
    """
    first, _, rest = directory.partition("/")
    if not first.startswith("_"):
        return "sha256", first + rest
    return None if directory.startswith(_BY_URL) else (first[1:], rest.partition("-")[0])


def digest_prefix(directory: str) -> str:
    """Return the first 16 digits of the sha256 of each file in `directory`; "" where it has none."""
    algorithm, digits = digest_in(directory) or ("", "")
    return digits if algorithm == "sha256" else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """One wheel or sdist of a project page, or the core metadata or the signature of one.

    Most fields are those of the Simple API (PEP 503, PEP 691, PEP 700). The fields `directory`,
    `verified_size` and `wheel` are pytail's own.
    """

    filename: str
    #: Absolute upstream URL without fragment; empty when upstream does not list the file. From the
    #: catalog, a digest stands for its query (`pytail.urls.redacted`).
    url: str
    #: Directory below ``+f``, from `directory_of`.
    directory: str
    #: Lower-case hex digest by algorithm name; empty when upstream gives none.
    hashes: Mapping[str, str] = field(default_factory=dict)
    #: Bytes; None when the page does not say.
    size: int | None = None
    #: Bytes that the file had when pytail verified it; None when `size` is known or pytail never
    #: verified the file.
    verified_size: int | None = None
    #: ``yyyy-mm-ddThh:mm:ss[.ffffff]Z`` (PEP 700); None when upstream does not say.
    upload_time: str | None = None
    #: The version specifier, verbatim; None when there is none.
    requires_python: str | None = None
    #: True when yanked without a reason, the reason (never empty) when yanked with one (PEP 592).
    yanked: bool | str = False
    #: Hashes of the core metadata of this file (PEP 658, PEP 714). True: core metadata without
    #: a digest; False: there is no core metadata; None: upstream does not say.
    core_metadata: Mapping[str, str] | bool | None = None
    #: Whether upstream has a detached signature of this file; None when upstream does not say.
    gpg_sig: bool | None = None
    #: Absolute URL of the provenance document (PEP 740); None when there is none.
    provenance: str | None = None
    #: The keys of the JSON page that no standard names yet, with their values unchanged.
    other: Mapping[str, Any] = field(default_factory=dict)
    #: The wheel that contains this core metadata; None when this file is anything else.
    wheel: File | None = None

    @property
    def key(self) -> str:
        """The path below ``+f``: in URLs (not percent-encoded here) and in the store."""
        return f"{self.directory}/{self.filename}"

    @property
    def is_wheel(self) -> bool:
        """Whether the filename is that of a wheel."""
        return self.filename.endswith(".whl")

    @property
    def is_sidecar(self) -> bool:
        """Whether this is the core metadata or the signature of another file."""
        return self.filename.endswith((METADATA_SUFFIX, SIGNATURE_SUFFIX))

    @property
    def has_digest(self) -> bool:
        """Whether a digest of the bytes is known, so that upstream need not be asked for changes."""
        return bool(self.hashes) or (not self.is_sidecar and self._is_by_digest)

    @property
    def is_immutable(self) -> bool:
        """Whether the URL always means the same bytes.

        Core metadata counts too, where it has a digest and its directory is that of the wheel's digest.
        """
        return self.has_digest and self._is_by_digest

    def redacted(self) -> File:
        """Return the same file without the query of its link, which can be a signature."""
        return replace(self, url=redacted(self.url)) if "?" in self.url else self

    @property
    def _is_by_digest(self) -> bool:
        return not self.directory.startswith(_BY_URL)

    @property
    def metadata(self) -> File | None:
        """The core metadata of this file; None when upstream does not offer any."""
        if not self.core_metadata:
            return None
        hashes = self.core_metadata if isinstance(self.core_metadata, Mapping) else {}
        wheel = self if self.is_wheel else None
        return replace(self._sidecar(METADATA_SUFFIX, hashes), wheel=wheel)

    @property
    def signature(self) -> File | None:
        """The detached signature of this file; None when upstream does not offer one."""
        return self._sidecar(SIGNATURE_SUFFIX, {}) if self.gpg_sig else None

    def _sidecar(self, suffix: str, hashes: Mapping[str, str]) -> File:
        url = with_suffix(self.url, suffix)
        return File(
            filename=self.filename + suffix, url=url, directory=self.directory, hashes=hashes
        )


@dataclass(frozen=True, slots=True)
class Validators:
    """What upstream says of the version of a file that it sends (RFC 9110, section 8.8)."""

    #: ETag and Last-Modified, verbatim; None where there is none.
    etag: str | None = None
    last_modified: str | None = None
    #: Bytes of the whole file; None where upstream does not say.
    size: int | None = None


@dataclass(frozen=True, slots=True)
class ByteRange:
    """Bytes of a file of `size` bytes (RFC 9110): from `start` up to but not including `stop`."""

    start: int
    stop: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectPage:
    """All that an index lists for one project: its files, versions and status."""

    #: The normalized name of the project (PEP 503).
    name: str
    #: In upstream's order. A filename with two digests stands for two files.
    files: tuple[File, ...] = ()
    #: All versions, also those without files (PEP 700), as upstream gives them, else those of the
    #: files. None for a page that an earlier pytail wrote to the catalog.
    versions: tuple[str, ...] | None = None
    #: active, archived, quarantined or deprecated (PEP 792); None when upstream does not say.
    status: str | None = None
    #: The reason for the status, as free text; None when upstream gives none.
    status_reason: str | None = None
    #: Upstream's serial of the last change (``X-PyPI-Last-Serial``); None when upstream has none.
    last_serial: int | None = None
    #: The keys of the JSON page that no standard names yet, with their values unchanged.
    other: Mapping[str, Any] = field(default_factory=dict)

    def with_serial(self, last_serial: int | None) -> ProjectPage:
        """Return the same page with another `last_serial`."""
        return replace(self, last_serial=last_serial)

    def redacted(self) -> ProjectPage:
        """Return the same page without the queries of its links, which can be signatures."""
        return replace(self, files=tuple(file.redacted() for file in self.files))

    @property
    def is_quarantined(self) -> bool:
        """Whether an index must not offer any file of the project (PEP 792)."""
        return self.status == "quarantined"


@dataclass(frozen=True, slots=True)
class PageVersion:
    """What tells one version of a page of upstream from another."""

    #: SHA-256 of all that the page is made of, in hex: an equal one means an equal page.
    fingerprint: str
    #: ETag and Last-Modified of upstream, verbatim; None where there is none.
    etag: str | None = None
    last_modified: str | None = None


class Source(Protocol):
    """The bytes of a file, from an offset on."""

    #: Bytes of the whole file; None where the source does not know.
    size: int | None
    #: The strong validator of the file; None where there is none.
    etag: str | None
    #: Whether the source itself tells a complete file from one whose end is missing.
    is_delimited: bool
    #: What upstream says of the version of the file; None where the bytes do not come from there.
    validators: Validators | None

    def read(self) -> bytes:
        """Return the bytes that have arrived, waiting for the first; empty at the end."""

    def close(self) -> None:
        """Free the connection."""


class FileStream(Protocol):
    """The bytes of a file for one reader, in memory or in an open file."""

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes as soon as there is one; empty at the end."""

    def sendable(self, size: int, /) -> tuple[int, int, int] | None:
        """Return descriptor, offset and length of the next bytes, as soon as there is one.

        The length is up to `size`. The caller sends them and then calls `advance`. None at the end,
        and where `read` has the next bytes.
        """

    def advance(self, count: int, /) -> None:
        """Skip `count` bytes."""

    def close(self) -> None:
        """Free descriptor and connection."""
