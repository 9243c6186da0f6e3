"""What an operator can choose: each setting defined once, for flags, variables and a file.

A `Settings` is checked when it is made; whoever holds one may trust it.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from pytail.errors import SettingError

#: The public index. It stands here and nowhere else in the code.
PUBLIC_INDEX = "https://pypi.org"

_HOST = re.compile(r"[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+(?:%[\w.-]+)?\]")
_PORT = re.compile(r"[0-9]{1,5}")
_QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]+)?|\.[0-9]+|[0-9]+e[0-9])\s*([A-Za-z]*)", re.ASCII)
_INTERNAL = re.compile(r"(?:/[A-Za-z0-9._+~-]+)+/*")
_DURATIONS = {"": 1, "ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
#: Letters alone are powers of 1024, as in nginx and systemd.
_SIZES = {"": 1, "b": 1} | {
    letter + suffix: base**power
    for power, letter in enumerate("kmgt", start=1)
    for suffix, base in (("", 1024), ("ib", 1024), ("b", 1000))
}
#: What is no URL may hold credentials anywhere, so all that could be is taken for them.
_BEFORE_LAST_AT = re.compile(r"^([a-z]+://)?.*@", re.IGNORECASE | re.DOTALL)


@dataclasses.dataclass(frozen=True, slots=True)
class Bind:
    """Where to listen: a TCP `host` and `port`, or the `path` of a Unix socket."""

    host: str = ""
    port: int = 0
    #: None for TCP.
    path: str | None = None

    def __str__(self) -> str:
        if self.path is not None:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def bind(value: str) -> Bind:
    """``host:port``, ``[::1]:port`` or ``unix:/path``; ValueError with the remedy otherwise."""
    if value.startswith("unix:"):
        path = value.removeprefix("unix:")
        if not path or "\0" in path:
            raise ValueError("name the socket: unix:/path")
        return Bind(path=path)
    host, _, port = value.rpartition(":")
    if not _HOST.fullmatch(host) or not _PORT.fullmatch(port) or int(port) > 65535:
        raise ValueError("give host:port, [ipv6]:port or unix:/path, with a port from 0 to 65535")
    return Bind(host=host.strip("[]"), port=int(port))


def upstream_base_url(value: str) -> str:
    """The URL above ``/simple/``, without trailing slash; ValueError with the remedy otherwise."""
    value = value.strip()
    try:
        parts = urlsplit(value)
        is_usable = parts.scheme in ("http", "https") and bool(parts.hostname)
        is_usable = is_usable and parts.port != 0 and not re.search(r"[\x00-\x20\x7f\\]", value)
    except ValueError:
        is_usable = False
    if not is_usable:
        raise ValueError("give an http or https URL, such as https://index.example.org")
    if parts.query or parts.fragment:
        raise ValueError("give the URL without ? and #")
    if "@" in parts.path:
        # More likely the rest of a password, which would be shown and asked for.
        raise ValueError("write / in a password as %2F, and @ in a path as %40")
    path = re.sub(r"//+", "/", parts.path).rstrip("/")
    path = path.removesuffix("/simple").rstrip("/")
    return urlunsplit((parts.scheme, parts.netloc, path, "", ""))


def directory(value: str) -> Path:
    """A directory, which need not exist yet; ValueError with the remedy otherwise."""
    if not value.strip() or "\0" in value:
        raise ValueError("name a directory")
    try:
        return Path(value).expanduser()
    except RuntimeError:
        raise ValueError("name a directory, not one of a user who has none") from None


def seconds(value: str) -> float:
    """Seconds, zero or more, as a number or with a unit; ValueError with the remedy otherwise."""
    match = _QUANTITY.fullmatch(value.strip())
    unit = _DURATIONS.get(match[2].lower()) if match else None
    number = math.nan if match is None or unit is None else float(match[1]) * unit
    if not 0 <= number < 10**9:
        raise ValueError("give a number of seconds, zero or more, or one with a unit, such as 15m")
    return number


def timeout(value: str) -> float:
    """Seconds above zero, as `seconds`; ValueError with the remedy otherwise."""
    number = seconds(value)
    if number == 0:
        raise ValueError("give a number of seconds above zero")
    return number


def limit(value: str) -> int:
    """Bytes, zero or more, as a number or with a unit; ValueError with the remedy otherwise."""
    match = _QUANTITY.fullmatch(value.strip())
    unit = _SIZES.get(match[2].lower()) if match else None
    number = math.nan if match is None or unit is None else float(match[1]) * unit
    if not 0 <= number < 10**18:
        raise ValueError("give a number of bytes, zero or more, or one with a unit, such as 20GiB")
    return int(number)


def size(value: str) -> int:
    """Bytes above zero, as `limit`; ValueError with the remedy otherwise."""
    number = limit(value)
    if number == 0:
        raise ValueError("give a number of bytes above zero")
    return number


def count(value: str) -> int:
    """A whole number above zero; ValueError with the remedy otherwise."""
    if not re.fullmatch(r"[0-9]{1,9}", value.strip(), re.ASCII) or int(value) == 0:
        raise ValueError("give a whole number above zero")
    return int(value)


def file(value: str) -> Path | None:
    """A file, None for an empty string; ValueError with the remedy otherwise."""
    return directory(value) if value else None


def internal_path(value: str) -> str:
    """A path that ends in a slash, empty for an empty string; ValueError with the remedy otherwise."""
    value = value.strip()
    if value and (not _INTERNAL.fullmatch(value) or ".." in value):
        raise ValueError("give the path of an internal location of nginx, such as /+held/")
    return f"{value.rstrip('/')}/" if value else ""


def switch(value: str) -> bool:
    """Yes or no; ValueError with the remedy otherwise."""
    words = {"1": True, "true": True, "yes": True, "on": True}
    words |= {"0": False, "false": False, "no": False, "off": False}
    if value.strip().lower() not in words:
        raise ValueError("give yes or no")
    return words[value.strip().lower()]


def choice(*words: str) -> Callable[[str], str]:
    """One of `words`, in any case; the parser raises ValueError with the remedy otherwise."""

    def parse(value: str) -> str:
        word = value.strip().lower()
        if word not in words:
            meant = difflib.get_close_matches(word, words, n=1)
            hint = f"; did you mean {meant[0]}?" if meant else ""
            raise ValueError(f"give {', '.join(words[:-1])} or {words[-1]}{hint}")
        return word

    return parse


def _setting(parse: Callable[[str], Any], default: str, meaning: str) -> Any:
    metadata = {"parse": parse, "default": default, "meaning": meaning}
    return dataclasses.field(default_factory=lambda: parse(default), metadata=metadata)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything an operator can choose, parsed; the fields' metadata make the command line."""

    bind: Bind = _setting(
        bind, "127.0.0.1:3141", "listen address: host:port, [ipv6]:port or unix:/path"
    )
    upstream_base_url: str = _setting(
        upstream_base_url, PUBLIC_INDEX, "upstream index, with or without /simple"
    )
    cache_dir: Path = _setting(directory, ".cache/pytail", "cache directory")
    project_cache_ttl_secs: float = _setting(
        seconds, "900", "age in seconds after which a cached page is revalidated"
    )
    request_timeout_secs: float = _setting(
        timeout, "15", "upstream connect and read timeout in seconds"
    )

    revalidate_wait_secs: float = _setting(
        seconds, "2", "seconds a client waits for a revalidation before it gets the copy we have"
    )
    max_stale_secs: float = _setting(
        seconds, "0", "age in seconds beyond which a copy is not served in upstream's stead; 0: any"
    )
    missing_ttl_secs: float = _setting(
        seconds, "60", "seconds for which it is believed that upstream has no such project"
    )
    no_cache_interval_secs: float = _setting(
        seconds, "10", "seconds between revalidations that clients force by no-cache"
    )
    max_age_interval_secs: float = _setting(
        seconds, "30", "seconds between revalidations that clients force by max-age=0"
    )
    max_page_bytes: int = _setting(
        size, "64MiB", "bytes of a page of upstream's, decompressed, beyond which it is refused"
    )
    hot_cache_size: int = _setting(
        limit,
        "64MiB",
        "bytes of memory for pages that are ready to send, least recently used go first",
    )
    grace_secs: float = _setting(
        seconds, "30", "seconds that responses under way get to end when pytail is stopped"
    )
    cache_max_size: int = _setting(
        limit, "0", "bytes that the cache directory may take, least recently used go first; 0: any"
    )
    min_free: int = _setting(
        limit, "0", "bytes of the cache directory's disk that are to stay free"
    )
    max_connections: int = _setting(
        count, "1000", "connections of clients at the same time; those that only wait make room"
    )
    # More than uv asks for at once, 50, since a file can take long; and more pages than that many
    # processors can read would only be late together.
    max_page_fetches: int = _setting(
        count, "32", "pages fetched from upstream at the same time; others wait their turn"
    )
    max_file_fetches: int = _setting(
        count, "64", "files fetched from upstream at the same time, and as many parts of files"
    )
    upstream_ca: Path | None = _setting(
        file, "", "PEM file or directory of certificates to trust beside the system's"
    )
    upstream_client_cert: Path | None = _setting(
        file, "", "PEM file with the certificate and key to show upstream"
    )
    accel_redirect: str = _setting(
        internal_path,
        "",
        "internal location of the nginx in front, for it to send held files itself",
    )
    offline: bool = _setting(switch, "no", "never ask upstream, list only files that are held")
    core_metadata_from_wheels: bool = _setting(
        switch, "no", "promise core metadata of wheels where upstream has none, and read it out"
    )
    log_format: str = _setting(
        choice("text", "json"), "text", "log lines for people or for machines: text or json"
    )
    log_level: str = _setting(
        choice("debug", "info", "warning", "error"),
        "info",
        "least level of what is logged: debug, info, warning or error",
    )
    stall_report_secs: float = _setting(
        seconds, "0", "seconds that the event loop may stand still before the log says why; 0: any"
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


def masked(url: str) -> str:
    """`url` with credentials replaced, as it may be shown and logged."""
    return re.sub(r"(?<=//)[^/@]*(?:@[^/@]*)*@", "***@", url)


def without_credentials(url: str) -> str:
    """`url` as it names what we know of an index, whoever asked for it."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
