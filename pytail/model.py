"""What an index says, as plain frozen data: `ProjectPage` and `File`.

They are the only values that travel between parse and render. Everything upstream said is in them,
except what would break clients or could not be true; a parser decides that, so that whoever holds
one of these may trust it: a `File` has a filename that is safe to be part of a path, lower-case
digests of the right length, and an absolute http or https URL.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol
from urllib.parse import urlsplit, urlunsplit

#: The hashes that clients can check, best first; the values are the digests' lengths in hex digits.
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
    "md5": 32,
    "sha1": 40,
}


class Outcome(enum.Enum):
    """How a response came to be, as its X-Cache header says."""

    #: From what we know or hold, or made here.
    HIT = "HIT"
    #: Not known or held; from upstream, asked for this.
    MISS = "MISS"
    #: Known, and confirmed by upstream just now.
    REVALIDATED = "REVALIDATED"
    #: Known, and older than it should be: upstream could not be asked.
    STALE = "STALE"
    #: From upstream, asked for another client.
    COALESCED = "COALESCED"
    #: From upstream, and not kept.
    PASS = "PASS"  # noqa: S105


METADATA_SUFFIX = ".metadata"
SIGNATURE_SUFFIX = ".asc"


def directory_of(hashes: Mapping[str, str], url: str) -> str:
    """The directory of a file under ``+f``: digest-addressed where a sha256 is known, else by URL.

    ``<first 3 of sha256>/<next 13>``, or ``_url/<sha256 of the upstream URL>``. Two different files
    never share one together with their filename, and a file keeps its own for ever, because lock
    files record it.
    """
    sha256 = hashes.get("sha256")
    if sha256 is None:
        return f"_url/{hashlib.sha256(url.encode()).hexdigest()}"
    return f"{sha256[:3]}/{sha256[3:16]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """One wheel or sdist (or a file beside one) as its project page lists it."""

    filename: str
    #: Absolute upstream URL, without fragment; empty for what upstream does not have.
    url: str
    #: Directory under ``+f``, see `directory_of`.
    directory: str
    #: Algorithm name to lower-case hex digest; empty when upstream gives none.
    hashes: Mapping[str, str] = field(default_factory=dict)
    #: Bytes; None when the page does not say.
    size: int | None = None
    #: Bytes that it had when it was verified; None when the page says its size, or nobody knows.
    verified_size: int | None = None
    #: ``yyyy-mm-ddThh:mm:ss[.ffffff]Z`` (PEP 700); None when upstream does not say.
    upload_time: str | None = None
    #: The specifier verbatim; None when there is none.
    requires_python: str | None = None
    #: True or the reason (never empty) when yanked (PEP 592).
    yanked: bool | str = False
    #: Hashes of the ``.metadata`` beside it, True when there is one without a hash, None when
    #: upstream does not say that there is one (PEP 658, PEP 714), False when there is none.
    core_metadata: Mapping[str, str] | bool | None = None
    #: Whether a detached signature lies beside it; None when upstream does not say.
    gpg_sig: bool | None = None
    #: Absolute URL of the provenance document (PEP 740); None when there is none.
    provenance: str | None = None
    #: Keys of the JSON page that no standard names yet, as they came.
    other: Mapping[str, Any] = field(default_factory=dict)
    #: The wheel that this file, being core metadata, can be read out of; None for other files.
    wheel: File | None = None

    @property
    def key(self) -> str:
        """Path below ``+f``, in URLs (unquoted) and in the store."""
        return f"{self.directory}/{self.filename}"

    @property
    def is_sidecar(self) -> bool:
        """Whether it is a small file that belongs to a wheel or sdist."""
        return self.filename.endswith((METADATA_SUFFIX, SIGNATURE_SUFFIX))

    @property
    def metadata(self) -> File | None:
        """The core metadata beside this file, a file of its own; None when not advertised."""
        if not self.core_metadata:
            return None
        hashes = self.core_metadata if isinstance(self.core_metadata, Mapping) else {}
        wheel = self if self.is_wheel else None
        return replace(self._beside(METADATA_SUFFIX, hashes), wheel=wheel)

    @property
    def is_wheel(self) -> bool:
        """Whether it is one by its name."""
        return self.filename.endswith(".whl")

    @property
    def signature(self) -> File | None:
        """The detached signature beside this file; None when not advertised."""
        return self._beside(SIGNATURE_SUFFIX, {}) if self.gpg_sig else None

    def _beside(self, suffix: str, hashes: Mapping[str, str]) -> File:
        # The suffix goes to the path: an upstream URL may carry a query.
        parts = urlsplit(self.url)
        url = urlunsplit(parts._replace(path=parts.path + suffix))
        return File(
            filename=self.filename + suffix, url=url, directory=self.directory, hashes=hashes
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectPage:
    """Everything an index says about one project."""

    #: Normalized.
    name: str
    #: In upstream's order, one of each filename.
    files: tuple[File, ...] = ()
    #: All versions, also those without files (PEP 700); None when upstream does not say.
    versions: tuple[str, ...] | None = None
    #: One of active, archived, quarantined, deprecated (PEP 792); None when upstream does not say.
    status: str | None = None
    #: Why it has that status; None when upstream does not say.
    status_reason: str | None = None
    #: Upstream's serial of the last change; None when upstream has none.
    last_serial: int | None = None
    #: Keys of the JSON page that no standard names yet, as they came.
    other: Mapping[str, Any] = field(default_factory=dict)

    def with_serial(self, last_serial: int | None) -> ProjectPage:
        """The same page with another serial."""
        return replace(self, last_serial=last_serial)

    @property
    def is_quarantined(self) -> bool:
        """Whether no file of it may be offered (PEP 792)."""
        return self.status == "quarantined"


class Source(Protocol):
    """The bytes of a file, from an offset on."""

    #: Bytes of the whole file; None where the source does not know.
    size: int | None
    #: The strong validator of the file; None where there is none.
    etag: str | None

    def read(self) -> bytes:
        """Return the bytes that have arrived, waiting for the first; empty at the end."""

    def close(self) -> None:
        """Free the connection."""
