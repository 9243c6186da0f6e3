"""The errors of pytail, as a tree.

::

    PytailError
    ├── SettingError            an option, variable or directory that cannot be used
    ├── ProjectNotFound         upstream has no such project
    ├── ProjectNameInvalid      what was asked for cannot be a project's name
    ├── FileNotListed           no page lists a file of that name and digest
    ├── FileGone                a page lists the file, but upstream does not have it
    ├── WheelUnreadable         a wheel out of which no core metadata can be read
    ├── NotAcceptable           no form of a page that the client would take
    ├── PageUnreadable          bytes that are not a project page
    ├── DigestMismatch          bytes that are not the file they claim to be
    ├── DownloadInterrupted             a file whose fetch ended early; also a ConnectionResetError
    ├── NotStored                 a file that the cache directory takes no more of
    │   ├── TooLarge                it alone is beyond the limit
    │   └── DownloadAbandoned                 the process that was writing it gave up
    └── UpstreamError           upstream gave no usable answer
        ├── UpstreamUnreachable     no answer at all: connection, TLS, timeout
        │   ├── UpstreamCircuitOpen       not asked: it failed too often
        │   └── UpstreamBusy            not asked: too much is being fetched already
        ├── UpstreamOffline         upstream is not to be asked
        ├── UpstreamRefused         an answer with an error status
        └── UpstreamGarbled         an answer that cannot be understood or trusted
            └── UpstreamWithoutRanges   a large file, whole, where a part was asked for

Each carries its facts as attributes and words itself for a person in ``__str__``. Which HTTP status
an error becomes stands in ``pytail.app`` and nowhere else.
"""

from __future__ import annotations

import errno


class PytailError(Exception):
    """Anything that pytail itself reports."""

    #: How a response that tells of it came to be, the word of an X-Cache header.
    outcome = "HIT"


class SettingError(PytailError):
    """A setting that cannot be used: `name` as the operator wrote it, its `value`, the `remedy`."""

    def __init__(self, name: str, value: object, remedy: str) -> None:
        super().__init__(name, value, remedy)
        self.name, self.value, self.remedy = name, value, remedy

    def __str__(self) -> str:
        return f"{self.name} {str(self.value)!r}: {self.remedy}"


class ProjectNotFound(PytailError):
    """Upstream answered 404 or 410 for `project`; `upstream` is its masked URL.

    `outcome` is how we come to know, `age` since how many seconds.
    """

    def __init__(
        self, project: str, upstream: str, outcome: str = "MISS", age: float = 0.0
    ) -> None:
        super().__init__(project, upstream, outcome, age)
        self.project, self.upstream = project, upstream
        self.outcome, self.age = outcome, age

    def __str__(self) -> str:
        return (
            f"the upstream index {self.upstream} has no project {self.project!r};"
            " check the name, or wait a minute if it is new"
        )


class ProjectNameInvalid(PytailError):
    """`name` cannot name a project, so upstream is not asked."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        return (
            f"{self.name[:80]!r} is not a project name: ASCII letters, digits, '.', '-' and '_',"
            " beginning and ending with a letter or digit"
        )


class FileNotListed(PytailError):
    """No project page lists a file called `filename` with the digest of the URL.

    `outcome` is how we come to know.
    """

    def __init__(self, filename: str, outcome: str = "HIT") -> None:
        super().__init__(filename, outcome)
        self.filename, self.outcome = filename, outcome

    def __str__(self) -> str:
        return (
            f"no project page lists a file {self.filename[:200]!r} with this digest;"
            " it may have been removed upstream: lock again"
        )


class FileGone(PytailError):
    """Upstream lists `filename` but answers that it is not there."""

    outcome = "MISS"

    def __init__(self, filename: str) -> None:
        super().__init__(filename)
        self.filename = filename

    def __str__(self) -> str:
        return f"the upstream index lists {self.filename} but does not have it; try another version"


class WheelUnreadable(PytailError):
    """No core metadata can be read out of the wheel `filename`, for the `reason` given."""

    outcome = "MISS"

    def __init__(self, filename: str, reason: str) -> None:
        super().__init__(filename, reason)
        self.filename, self.reason = filename, reason

    def __str__(self) -> str:
        return f"no core metadata can be read out of {self.filename}: {self.reason}"


class NotAcceptable(PytailError):
    """The client takes none of the forms a page comes in; `wanted` is what it asked for."""

    def __init__(self, wanted: str) -> None:
        super().__init__(wanted)
        self.wanted = wanted

    def __str__(self) -> str:
        return (
            f"cannot answer as {self.wanted[:200]!r}: pages come as"
            " application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html, text/html"
        )


class PageUnreadable(PytailError):
    """Bytes that are not a project page, for the `reason` given."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


class DigestMismatch(PytailError):
    """What upstream sent for `filename` has the digest or length `found`, not `expected`."""

    outcome = "MISS"

    def __init__(self, filename: str, kind: str, expected: str, found: str) -> None:
        super().__init__(filename, kind, expected, found)
        self.filename, self.kind, self.expected, self.found = filename, kind, expected, found

    def __str__(self) -> str:
        return f"{self.filename}: upstream sent {self.kind} {self.found}, not {self.expected}"


class DownloadInterrupted(PytailError, ConnectionResetError):
    """The fetch of `filename` ended before its last byte, for the `reason` given.

    It is raised out of a response body after the head was sent, where all that is left is to close
    the connection. Being a ConnectionResetError, it makes pywsgi and gunicorn do just that, quietly.
    """

    outcome = "MISS"

    def __init__(self, filename: str, reason: str) -> None:
        super().__init__(errno.ECONNRESET, reason)
        self.filename, self.reason = filename, reason

    def __str__(self) -> str:
        return f"{self.filename}: {self.reason}"


class NotStored(PytailError):
    """The cache directory takes no more of a file, for the `reason` given."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


class TooLarge(NotStored):
    """A file that alone is beyond what may be kept."""


class DownloadAbandoned(NotStored):
    """The process that was writing the file gave it up."""

    def __init__(self) -> None:
        super().__init__("the process that fetched it gave it up")


class UpstreamError(PytailError):
    """Upstream gave no usable answer for `url` (credentials masked), for the `reason` given."""

    outcome = "MISS"

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(url, reason)
        self.url, self.reason = url, reason

    def __str__(self) -> str:
        return f"upstream {self.url}: {self.reason}"

    def shared(self) -> UpstreamError:
        """The same as it is for who waited for another's request."""
        # Not copy.copy, which would call the constructor with what is not its arguments.
        other = type(self).__new__(type(self), *self.args)
        vars(other).update(vars(self), outcome="COALESCED")
        return other


class UpstreamUnreachable(UpstreamError):
    """No answer: name resolution, connection, TLS or a timeout.

    `retry_after` is in seconds, None where nobody knows.
    """

    def __init__(self, url: str, reason: str, retry_after: int | None = None) -> None:
        super().__init__(url, reason)
        self.retry_after = retry_after


class UpstreamCircuitOpen(UpstreamUnreachable):
    """It failed so often that it is not asked for another `retry_after` seconds."""


class UpstreamBusy(UpstreamUnreachable):
    """There was no turn to ask it: as much is fetched at the same time as the `limit` allows."""

    def __init__(self, url: str, limit: str) -> None:
        super().__init__(url, f"too much is being fetched already ({limit})")


class UpstreamOffline(UpstreamError):
    """pytail runs offline, and has not what was asked for."""

    def __init__(self, url: str) -> None:
        super().__init__(url, "pytail runs with --offline and has not seen this before")


class UpstreamRefused(UpstreamError):
    """An error `status`; `retry_after` is in seconds, None when upstream named no time."""

    def __init__(self, url: str, status: int, retry_after: int | None = None) -> None:
        super().__init__(url, f"answered with status {status}")
        self.status, self.retry_after = status, retry_after


class UpstreamGarbled(UpstreamError):
    """An answer that cannot be understood or trusted: wrong type, truncated, another project's."""


class UpstreamWithoutRanges(UpstreamGarbled):
    """It answers with the whole of a large file where a part was asked for."""

    def __init__(self, url: str) -> None:
        super().__init__(url, "does not answer ranges")
