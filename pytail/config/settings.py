"""What an operator can choose: each setting defined once, for flags, variables and a file.

A `Settings` is checked when it is made; whoever holds one may trust it.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pytail.config import values
from pytail.config.values import Bind
from pytail.errors import SettingError

#: The public index. It stands here and nowhere else in the code.
PUBLIC_INDEX = "https://pypi.org"

#: What is no URL may hold credentials anywhere, so all that could be is taken for them.
_BEFORE_LAST_AT = re.compile(r"^([a-z]+://)?.*@", re.IGNORECASE | re.DOTALL)


def _setting(parse: Callable[[str], Any], default: str, meaning: str) -> Any:
    metadata = {"parse": parse, "default": default, "meaning": meaning}
    return dataclasses.field(default_factory=lambda: parse(default), metadata=metadata)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything an operator can choose, parsed; the fields' metadata make the command line."""

    bind: Bind = _setting(
        values.bind, "127.0.0.1:3141", "listen address: host:port, [ipv6]:port or unix:/path"
    )
    upstream_base_url: str = _setting(
        values.upstream_base_url, PUBLIC_INDEX, "upstream index, with or without /simple"
    )
    cache_dir: Path = _setting(values.directory, ".cache/pytail", "cache directory")
    project_cache_ttl_secs: float = _setting(
        values.seconds, "900", "age in seconds after which a cached page is revalidated"
    )
    request_timeout_secs: float = _setting(
        values.timeout, "15", "upstream connect and read timeout in seconds"
    )

    revalidate_wait_secs: float = _setting(
        values.seconds,
        "2",
        "seconds a client waits for a revalidation before it gets the copy we have",
    )
    max_stale_secs: float = _setting(
        values.seconds,
        "0",
        "age in seconds beyond which a copy is not served in upstream's stead; 0: any",
    )
    missing_ttl_secs: float = _setting(
        values.seconds, "60", "seconds for which it is believed that upstream has no such project"
    )
    no_cache_interval_secs: float = _setting(
        values.seconds, "10", "seconds between revalidations that clients force by no-cache"
    )
    max_age_interval_secs: float = _setting(
        values.seconds, "30", "seconds between revalidations that clients force by max-age=0"
    )
    max_page_bytes: int = _setting(
        values.size,
        "64MiB",
        "bytes of a page of upstream's, decompressed, beyond which it is refused",
    )
    hot_cache_size: int = _setting(
        values.limit,
        "64MiB",
        "bytes of memory for pages that are ready to send, least recently used go first",
    )
    grace_secs: float = _setting(
        values.seconds, "30", "seconds that responses under way get to end when pytail is stopped"
    )
    cache_max_size: int = _setting(
        values.limit,
        "0",
        "bytes that the cache directory may take, least recently used go first; 0: any",
    )
    min_free: int = _setting(
        values.limit, "0", "bytes of the cache directory's disk that are to stay free"
    )
    max_connections: int = _setting(
        values.count,
        "1000",
        "connections of clients at the same time; those that only wait make room",
    )
    # More than uv asks for at once, 50, since a file can take long; and more pages than that many
    # processors can read would only be late together.
    max_page_fetches: int = _setting(
        values.count, "32", "pages fetched from upstream at the same time; others wait their turn"
    )
    max_file_fetches: int = _setting(
        values.count,
        "64",
        "files fetched from upstream at the same time, and as many parts of files",
    )
    upstream_ca: Path | None = _setting(
        values.file, "", "PEM file or directory of certificates to trust beside the system's"
    )
    upstream_client_cert: Path | None = _setting(
        values.file, "", "PEM file with the certificate and key to show upstream"
    )
    accel_redirect: str = _setting(
        values.internal_path,
        "",
        "internal location of the nginx in front, for it to send held files itself",
    )
    offline: bool = _setting(
        values.switch, "no", "never ask upstream, list only files that are held"
    )
    core_metadata_from_wheels: bool = _setting(
        values.switch,
        "no",
        "promise core metadata of wheels where upstream has none, and read it out",
    )
    log_format: str = _setting(
        values.choice("text", "json"), "text", "log lines for people or for machines: text or json"
    )
    log_level: str = _setting(
        values.choice("debug", "info", "warning", "error"),
        "info",
        "least level of what is logged: debug, info, warning or error",
    )
    stall_report_secs: float = _setting(
        values.seconds,
        "0",
        "seconds that the event loop may stand still before the log says why; 0: any",
    )

    @classmethod
    def of(cls, given: Mapping[str, str | None], spell: Callable[[str], str]) -> Settings:
        """The settings for the strings `given` by field name, None and "" meaning the default.

        `spell` gives a field's name as the operator knows it. Raises SettingError.
        """
        parsed = {}
        for field in dataclasses.fields(cls):
            value = given.get(field.name)
            if value:
                try:
                    parsed[field.name] = field.metadata["parse"](value)
                except ValueError as error:
                    shown = _BEFORE_LAST_AT.sub(r"\1***@", value) if "url" in field.name else value
                    raise SettingError(spell(field.name), shown, str(error)) from None
        return cls(**parsed)


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return f"PYTAIL_{name.upper()}"


def flag(name: str) -> str:
    """The command-line option of a setting."""
    return f"--{name.replace('_', '-')}"
