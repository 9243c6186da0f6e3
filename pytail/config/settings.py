"""The settings: each defined once for options, environment variables and the file.

The values of a `Settings` object are valid: the parsers check them.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pytail.config import values
from pytail.config.values import Bind, Proxies
from pytail.errors import SettingError
from pytail.urls import masked

#: The public index. No other module names it.
PUBLIC_INDEX = "https://pypi.org"

#: A text that is not a URL may have credentials anywhere before an "@", so all of that is masked.
_BEFORE_LAST_AT = re.compile(r"^([a-z]+://)?.*@", re.IGNORECASE | re.DOTALL)


def _setting(parse: Callable[[str], Any], default: str, meaning: str) -> Any:
    metadata = {"parse": parse, "default": default, "meaning": meaning}
    return dataclasses.field(default_factory=lambda: parse(default), metadata=metadata)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The parsed settings. The metadata of each field has its parser, default and meaning."""

    bind: Bind = _setting(
        values.bind, "127.0.0.1:3141", "listen address: host:port, [ipv6]:port or unix:/path"
    )
    upstream_base_url: str = _setting(
        values.upstream_base_url,
        PUBLIC_INDEX,
        "URL of the upstream index, as for pip, or the URL above its /simple/ or /+simple/",
    )
    cache_dir: Path = _setting(values.directory, ".cache/pytail", "cache directory")
    project_cache_ttl_secs: float = _setting(
        values.seconds, "900", "age after which a cached page is revalidated"
    )
    request_timeout_secs: float = _setting(
        values.timeout, "15", "timeout of a connection to upstream and of each read from it"
    )
    revalidate_wait_secs: float = _setting(
        values.seconds,
        "2",
        "maximum wait of a client for a revalidation; after it the stale page is served",
    )
    client_wait_secs: float = _setting(
        values.timeout,
        "9",
        "maximum wait of a client for a response to begin; after it the client gets an error",
    )
    max_stale_secs: float = _setting(
        values.seconds,
        "0",
        "maximum age of a stale page served when upstream fails; 0: no limit",
    )
    missing_ttl_secs: float = _setting(
        values.seconds, "60", "time for which it is cached that upstream has no such project"
    )
    missing_statuses: tuple[int, ...] = _setting(
        values.missing_statuses,
        "404,410",
        "statuses of upstream that mean that it has no such project or file, such as 403,404,410",
    )
    no_cache_interval_secs: float = _setting(
        values.seconds,
        "10",
        "minimum time between revalidations of a page that clients force by no-cache",
    )
    max_age_interval_secs: float = _setting(
        values.seconds,
        "30",
        "minimum time between revalidations of a page that clients force by max-age=0",
    )
    max_page_bytes: int = _setting(
        values.size, "64MiB", "maximum size of a page from upstream, decompressed"
    )
    hot_cache_size: int = _setting(
        values.limit,
        "64MiB",
        "memory for rendered pages in each process; the least recently used are evicted",
    )
    grace_secs: float = _setting(
        values.seconds,
        "30",
        "time for responses in progress to end when pytail stops; a second signal stops at once",
    )
    cache_max_size: int = _setting(
        values.limit,
        "0",
        "maximum size of the cache directory; the least recently used files are evicted;"
        " 0: no limit",
    )
    min_free: int = _setting(
        values.limit, "0", "space to leave free on the disk of the cache directory"
    )
    max_connections: int = _setting(
        values.count,
        "1000",
        "maximum number of client connections; idle and slow ones are closed to make room",
    )
    trusted_proxies: Proxies = _setting(
        values.proxies,
        "",
        "proxies that tell the client's address in X-Forwarded-For: addresses, networks,"
        " or unix for a Unix socket, separated by commas",
    )
    # uv fetches up to 50 pages at once, but a page takes processor time to parse: more than 32 at
    # once would only make all of them late. A file takes long, so 64 leaves room beyond the 50.
    max_page_fetches: int = _setting(
        values.count,
        "32",
        "maximum number of pages and core metadata read at a time; others wait for a slot",
    )
    max_file_fetches: int = _setting(
        values.count,
        "64",
        "maximum number of files read at a time, and separately of ranges; others wait for a slot",
    )
    upstream_ca: Path | None = _setting(
        values.file,
        "",
        "PEM file or directory of certificates to trust in addition to the system's",
    )
    upstream_client_cert: Path | None = _setting(
        values.file, "", "PEM file with the client certificate and key for upstream"
    )
    allow_private_redirects: bool = _setting(
        values.switch,
        "no",
        "yes: follow links and redirects of a public upstream to hosts with private addresses",
    )
    accel_redirect: str = _setting(
        values.internal_path,
        "",
        "internal location from which nginx sends stored files, such as /+held/",
    )
    offline: bool = _setting(
        values.switch, "no", "yes: send no requests to upstream and list only stored files"
    )
    core_metadata_from_wheels: bool = _setting(
        values.switch,
        "no",
        "yes: offer core metadata for all wheels; read it from the wheel where upstream has none",
    )
    log_format: str = _setting(
        values.choice("text", "json"), "text", "format of log lines: text or json"
    )
    log_level: str = _setting(
        values.choice("debug", "info", "warning", "error"),
        "info",
        "minimum level of log lines: debug, info, warning or error",
    )
    stall_report_secs: float = _setting(
        values.seconds,
        "0",
        "minimum duration of an event loop stall that is logged with its cause, such as 20ms;"
        " 0: none is logged",
    )

    @classmethod
    def of(cls, texts: Mapping[str, str | None], spell: Callable[[str], str]) -> Settings:
        """Return the settings of `texts`, by field name; None and "" mean the default.

        `spell` returns the name of a field for the error message. Raises SettingError.
        """
        parsed = {}
        for field in dataclasses.fields(cls):
            value = texts.get(field.name)
            if value:
                try:
                    parsed[field.name] = field.metadata["parse"](value)
                except ValueError as error:
                    shown = _shown(value) if "url" in field.name else value
                    raise SettingError(spell(field.name), shown, str(error)) from None
        return cls(**parsed)


def _shown(url: str) -> str:
    """Return a text that is to be a URL, without credentials and query."""
    return masked(_BEFORE_LAST_AT.sub(r"\1***@", url))


def variable(name: str) -> str:
    """Return the environment variable of a setting."""
    return f"PYTAIL_{name.upper()}"


def flag(name: str) -> str:
    """Return the command-line option of a setting."""
    return f"--{name.replace('_', '-')}"
