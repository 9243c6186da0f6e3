"""The errors of pytail, as a tree, and the remedies of the errors at start-up.

::

    PytailError
    ├── SettingError                an option, variable, file or directory cannot be used
    ├── ProjectNotFound             upstream has no such project
    ├── ProjectNameInvalid          the requested name cannot be a project name
    ├── FileNotListed               no page lists a file of that name and digest
    ├── FileGone                    a page lists the file, but upstream does not have it
    ├── WheelUnreadable             a wheel without readable core metadata
    ├── NotAcceptable               the client accepts none of the formats of a page
    ├── PageUnreadable              a response that is not a project page
    │   └── NoProjectPage           a list of projects or directories, so there is no such project
    ├── DigestMismatch              bytes with another digest or length than the page says
    ├── DownloadInterrupted         a download that failed; also a ConnectionResetError
    ├── NotStored                   a file that cannot be stored: disk or quota
    │   ├── TooLarge                the file alone is larger than the quota
    │   └── DownloadAbandoned       the process that downloaded the file stopped
    └── UpstreamError               upstream sent no usable response
        ├── UpstreamUnreachable     no response: connection, TLS or timeout
        │   ├── UpstreamNotConnected    no connection: name, TCP, TLS or proxy
        │   ├── UpstreamCircuitOpen not asked: a circuit breaker is open
        │   └── UpstreamBusy        not asked: all slots are in use
        ├── UpstreamOffline         not asked: pytail runs with --offline
        ├── UpstreamRefused         a response with an error status
        └── UpstreamGarbled         a response that cannot be parsed or trusted
            ├── UpstreamAddressRefused  not asked: the host has a private address
            ├── UpstreamNotIndex        no URL that the configured one can mean is an index
            └── UpstreamWithoutRanges   a response with the whole of a large file, not the range

The attributes of an error are its facts; ``str(error)`` is the message for the log: what happened,
why, and what to do. `PytailError.for_clients` is the message for clients, to whom the path of a URL may be a
secret. ``pytail.web.errors`` maps the errors to HTTP statuses.
"""

from __future__ import annotations

import enum
import errno
import os

from pytail.urls import host_of, hosts_only, shown

#: Errors of the system that forbid to write: by owner or mode, or on a read-only file system.
NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)


class Remedy(str, enum.Enum):
    """The message of each SettingError that is not about one bad value; `format` fills it in."""

    # The configuration file
    NO_SUCH_SETTING = "there is no such setting{hint}"
    KEY_TWICE = "the file has this key twice, with '-' and with '_'; remove one of them"
    TYPE_NOT_USABLE = "give a string, a number, true or false, not a {type}"
    FILE_NOT_READABLE = "cannot be read: {reason}"
    FILE_NOT_TOML = "cannot be read as TOML: {reason}"
    # The bind address
    ADDRESS_IN_USE = "is in use; stop the process that listens there or choose another address"
    ADDRESS_NOT_PERMITTED = "is not permitted; choose a port above 1023 or another path"
    ADDRESS_NOT_USABLE = "cannot be listened on: {reason}"
    # The cache directory
    DIRECTORY_NOT_WRITABLE = (
        "cannot be written ({reason}); choose another directory or change its owner"
    )
    DIRECTORY_UNKNOWN = (
        "is no cache directory of pytail; give the server's by --cache-dir or --config"
    )
    OWNER_NOT_USABLE = (
        "belongs to the user {owner}, and root cannot act as that user ({reason});"
        " run pytail as {owner}"
    )
    CATALOG_NEWER = (
        "a newer pytail wrote its catalog (schema {version});"
        " run that version, or name another directory"
    )
    CATALOG_LOCKED = (
        "its catalog has to be created or migrated, but another process has held {lock} for"
        " {seconds} seconds; end that process, or wait until it ends"
    )
    # Upstream
    PROXY_NOT_USABLE = (
        "give the http or https URL of a proxy, such as http://proxy.example.org:3128"
    )
    CA_NOT_USABLE = "{reason}; name a PEM file of certificates, or a directory of PEM files"
    CLIENT_CERT_NOT_USABLE = (
        "{reason}; name a PEM file with a certificate and its key, not encrypted"
    )
    # pytail warm
    UPSTREAM_NEEDED = "pytail warm fetches from upstream; give no"
    NO_ROOM = (
        "the requested files take {excess} more than the cache directory may store;"
        " change the limit or request fewer files"
    )

    def __str__(self) -> str:
        # Else an f-string shows the name of the member from Python 3.12 on.
        return self.value


class PytailError(Exception):
    """Any error of pytail itself."""

    #: The X-Cache value of a response that reports the error.
    outcome = "HIT"

    @property
    def for_clients(self) -> str:
        """The message for clients: of each URL the host alone, and no text of libraries."""
        return hosts_only(self._for_clients())

    def _for_clients(self) -> str:
        return str(self)


class SettingError(PytailError):
    """A setting that cannot be used: `name` as the operator wrote it, its `value`, the `remedy`."""

    def __init__(self, name: str, value: object, remedy: str) -> None:
        super().__init__(name, value, remedy)
        self.name, self.value, self.remedy = name, value, remedy

    def __str__(self) -> str:
        return f"{self.name} {str(self.value)!r}: {self.remedy}"


class ProjectNotFound(PytailError):
    """Upstream answered that it has no `project`; `upstream` is the URL of upstream.

    `outcome` is the X-Cache value, `age` the seconds since upstream answered.
    """

    def __init__(
        self, project: str, upstream: str, outcome: str = "MISS", age: float = 0.0
    ) -> None:
        super().__init__(project, shown(upstream), outcome, age)
        self.project, self.upstream = project, shown(upstream)
        self.outcome, self.age = outcome, age

    def __str__(self) -> str:
        return self._message(self.upstream)

    def _for_clients(self) -> str:
        return self._message(host_of(self.upstream))

    def _message(self, upstream: str) -> str:
        return (
            f"the upstream index {upstream} has no project {self.project!r};"
            " check the name, or wait a minute if the project is new"
        )


class ProjectNameInvalid(PytailError):
    """`name` cannot be a project name, so upstream is not asked."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        return (
            f"{self.name[:80]!r} is not a project name; use ASCII letters, digits, '.', '-' and '_',"
            " with a letter or digit at the beginning and at the end"
        )


class FileNotListed(PytailError):
    """No project page lists a file called `filename` with the digest of the URL.

    `outcome` is the X-Cache value.
    """

    def __init__(self, filename: str, outcome: str = "HIT") -> None:
        super().__init__(filename, outcome)
        self.filename, self.outcome = filename, outcome

    def __str__(self) -> str:
        return (
            f"no project page lists a file {self.filename[:200]!r} with this digest;"
            " upstream may have removed the file: lock again"
        )


class FileGone(PytailError):
    """Upstream lists `filename`, but answers that it has no such file."""

    outcome = "MISS"

    def __init__(self, filename: str) -> None:
        super().__init__(filename)
        self.filename = filename

    def __str__(self) -> str:
        return f"the upstream index lists {self.filename} but does not have it; try another version"


class WheelUnreadable(PytailError):
    """The core metadata of the wheel `filename` cannot be read, for the given `reason`."""

    outcome = "MISS"

    def __init__(self, filename: str, reason: str | Exception) -> None:
        super().__init__(filename, str(reason))
        self.filename, self.reason = filename, reason

    def __str__(self) -> str:
        return f"cannot read the core metadata of {self.filename}: {self.reason}"

    def _for_clients(self) -> str:
        reason = _reason_for_clients(self.reason)
        return f"cannot read the core metadata of {self.filename}: {reason}"


class NotAcceptable(PytailError):
    """The client accepts none of the formats of a page; `wanted` is its Accept header or `format`."""

    def __init__(self, wanted: str) -> None:
        super().__init__(wanted)
        self.wanted = wanted

    def __str__(self) -> str:
        return (
            f"cannot send a page as {self.wanted[:200]!r}; accept one of"
            " application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html, text/html"
        )


class PageUnreadable(PytailError):
    """Bytes that are not a project page, for the given `reason`."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


class NoProjectPage(PageUnreadable):
    """A list of projects or of directories, where the page of a project was asked for."""

    def __init__(self) -> None:
        super().__init__("a list of directories, not a project page")


class DigestMismatch(PytailError):
    """Upstream sent `filename` with a digest or length of `found`, not `expected`.

    `kind` is the algorithm of the digest, or "bytes" for a length.
    """

    outcome = "MISS"

    def __init__(self, filename: str, kind: str, expected: str, found: str) -> None:
        super().__init__(filename, kind, expected, found)
        self.filename, self.kind, self.expected, self.found = filename, kind, expected, found

    def __str__(self) -> str:
        return f"{self.filename}: upstream sent {self.kind} {self.found}, not {self.expected}"


class DownloadInterrupted(PytailError, ConnectionResetError):
    """The download of `filename` ended before its last byte, for the given `reason`.

    A response body raises this error after the head was sent, when the server can only close the
    connection. For a ConnectionResetError, pywsgi and gunicorn do so without a traceback.
    """

    outcome = "MISS"

    def __init__(self, filename: str, reason: str | BaseException) -> None:
        super().__init__(errno.ECONNRESET, str(reason))
        self.filename, self.reason = filename, reason

    def __str__(self) -> str:
        return f"{self.filename}: {self.reason}"

    def _for_clients(self) -> str:
        return f"{self.filename}: {_reason_for_clients(self.reason)}"


class NotStored(PytailError):
    """A file cannot be stored because of the disk or the quota, for the given `reason`."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


class TooLarge(NotStored):
    """The file alone is larger than the quota."""


class DownloadAbandoned(NotStored):
    """The process that downloaded the file stopped before the end."""

    def __init__(self) -> None:
        super().__init__("the process that downloaded the file stopped")


class UpstreamError(PytailError):
    """Upstream sent no usable response for `url`, for the given `reason`.

    `detail` is text of upstream or of a library, for the log alone. The attribute `url` has neither
    credentials nor a query.
    """

    outcome = "MISS"

    def __init__(self, url: str, reason: str, *, detail: str = "") -> None:
        super().__init__(shown(url), reason)
        self.url, self.reason, self.detail = shown(url), reason, detail

    def __str__(self) -> str:
        detail = f" ({self.detail})" if self.detail else ""
        return f"upstream {self.url}: {self.reason}{detail}"

    def _for_clients(self) -> str:
        return f"upstream {host_of(self.url)}: {self.reason}"

    def shared(self) -> UpstreamError:
        """Return a copy for a client that waited for the request of another client."""
        # `copy.copy` calls the constructor with `args`, which differ from its parameters.
        other = type(self).__new__(type(self), *self.args)
        vars(other).update(vars(self), outcome="COALESCED")
        return other


class UpstreamUnreachable(UpstreamError):
    """Upstream sent no response: name resolution, connection, TLS or a timeout.

    `retry_after` is in seconds, None where it is unknown.
    """

    def __init__(
        self, url: str, reason: str, retry_after: int | None = None, *, detail: str = ""
    ) -> None:
        super().__init__(url, reason, detail=detail)
        self.retry_after = retry_after


class UpstreamNotConnected(UpstreamUnreachable):
    """No connection to the host: name resolution, TCP, TLS or the proxy failed."""


class UpstreamCircuitOpen(UpstreamUnreachable):
    """The circuit breaker of the object or its host is open for another `retry_after` seconds."""


class UpstreamBusy(UpstreamUnreachable):
    """No slot became free in time; `limit` names the limit of concurrent fetches."""

    def __init__(self, url: str, limit: str) -> None:
        super().__init__(url, f"too many fetches are in progress ({limit})")


class UpstreamOffline(UpstreamError):
    """pytail runs with --offline, so upstream is not asked."""

    def __init__(self, url: str) -> None:
        super().__init__(url, "not cached, and pytail runs with --offline")


class UpstreamRefused(UpstreamError):
    """Upstream sent an error `status`; `retry_after` is in seconds, None where upstream gave none.

    `is_missing` tells that the status means "no such project or file" (--missing-statuses).
    """

    def __init__(
        self, url: str, status: int, retry_after: int | None = None, *, is_missing: bool = False
    ) -> None:
        super().__init__(url, f"answered with status {status}")
        self.status, self.retry_after, self.is_missing = status, retry_after, is_missing


class UpstreamGarbled(UpstreamError):
    """A response that cannot be parsed or trusted: a wrong type, truncated, of another project."""


class UpstreamNotIndex(UpstreamGarbled):
    """No URL that the configured `url` can mean answers like an index; `tried` are their answers."""

    def __init__(self, url: str, tried: str) -> None:
        super().__init__(url, f"is no index: asked {tried}")


class UpstreamAddressRefused(UpstreamGarbled):
    """A link or redirect of upstream leads to a host in a `network` that only pytail can reach."""

    def __init__(self, url: str, network: str) -> None:
        super().__init__(
            url,
            f"the host has a {network} address, to which upstream must not lead;"
            " if it may, set --allow-private-redirects yes",
        )
        self.network = network


class UpstreamWithoutRanges(UpstreamGarbled):
    """Upstream sends the whole of a large file in response to a range request."""

    def __init__(self, url: str) -> None:
        super().__init__(url, "does not support range requests")


def _reason_for_clients(reason: str | BaseException) -> str:
    """Return `reason` without the paths of URLs, and without the texts of libraries."""
    if isinstance(reason, PytailError):
        return reason.for_clients
    if isinstance(reason, OSError) and reason.errno is not None:
        return os.strerror(reason.errno)
    return reason if isinstance(reason, str) else type(reason).__name__
