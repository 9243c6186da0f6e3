"""Load the settings from flags, environment variables, the file and the defaults, in this order.

The command line and gunicorn load the same way. An unknown key is an error in the file, but only a
warning in the environment, where other programs set variables too. Both messages name the nearest
known key.
"""

from __future__ import annotations

import dataclasses
import difflib
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pytail.config.settings import Settings, flag, variable
from pytail.config.values import switch
from pytail.errors import Remedy, SettingError
from pytail.urls import masked

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

#: Two options that are not settings: the path of the file, and the short form of a log level.
CONFIG, VERBOSE = "config", "verbose"
_NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclasses.dataclass(frozen=True, slots=True)
class ChosenValue:
    """The text of a setting, and where the text comes from."""

    text: str
    #: One of default, file, variable, flag.
    origin: str
    #: The path of the file, or the name of the variable or flag; empty for a default.
    source: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Configuration:
    """The settings in force, with their sources."""

    settings: Settings
    #: By field name.
    choices: Mapping[str, ChosenValue]
    #: One text for each unknown ``PYTAIL_*`` variable.
    warnings: tuple[str, ...]
    #: The command-line options, which `reloaded` takes again.
    flags: Mapping[str, Any]

    def reloaded(self, environ: Mapping[str, str]) -> Configuration:
        """Return the configuration as the file and `environ` have it now. Raises SettingError."""
        return load(environ, self.flags)

    def as_variables(self) -> dict[str, str]:
        """Return the variables that alone, without a file, make this configuration."""
        return {variable(name): choice.text for name, choice in self.choices.items()}

    def shown(self) -> dict[str, dict[str, Any]]:
        """Return by field name the value for JSON, its origin and its source; credentials are masked."""
        return {
            name: {
                "value": _plain(getattr(self.settings, name)),
                "origin": choice.origin,
                "source": choice.source or None,
            }
            for name, choice in self.choices.items()
        }


def load(environ: Mapping[str, str], flags: Mapping[str, Any] = _NOTHING) -> Configuration:
    """Return the configuration of the command-line `flags`, the variables in `environ` and the file.

    ``--config`` or ``PYTAIL_CONFIG`` names the file. An empty value counts as not set. Raises
    SettingError.
    """
    variables = _of_variables(environ)
    source, path = _file_named_by(environ, flags)
    chosen = {
        **{name: ChosenValue(default, "default") for name, default in _defaults().items()},
        **(_of_file(Path(path), source) if path else {}),
        **variables,
        **_of_flags(flags),
    }
    settings = Settings.of(
        {name: choice.text for name, choice in chosen.items()},
        lambda name: _spelled(chosen[name], name),
    )
    return Configuration(settings, chosen, tuple(_unknown_variables(environ)), flags)


def _file_named_by(environ: Mapping[str, str], flags: Mapping[str, Any]) -> tuple[str, str | None]:
    """Return the flag or variable that names the file, and the path; None without a file."""
    if path := flags.get(CONFIG):
        return flag(CONFIG), path
    return variable(CONFIG), environ.get(variable(CONFIG))


def _defaults() -> dict[str, str]:
    return {field.name: field.metadata["default"] for field in dataclasses.fields(Settings)}


def _spelled(choice: ChosenValue, name: str) -> str:
    return f"{choice.source}: {_key(name)}" if choice.origin == "file" else choice.source


def _of_flags(flags: Mapping[str, Any]) -> dict[str, ChosenValue]:
    short = {"log_level": ChosenValue("debug", "flag", flag(VERBOSE))} if flags.get(VERBOSE) else {}
    return short | {
        name: ChosenValue(flags[name], "flag", flag(name))
        for name in _defaults()
        if flags.get(name)
    }


def _of_variables(environ: Mapping[str, str]) -> dict[str, ChosenValue]:
    name, short = variable(VERBOSE), {}
    try:
        if switch(environ.get(name) or "no"):
            short = {"log_level": ChosenValue("debug", "variable", name)}
    except ValueError as error:
        raise SettingError(name, environ[name], str(error)) from None
    return short | {
        name: ChosenValue(environ[variable(name)], "variable", variable(name))
        for name in _defaults()
        if environ.get(variable(name))
    }


def _of_file(path: Path, source: str) -> dict[str, ChosenValue]:
    found: dict[str, ChosenValue] = {}
    for key, value in _read(path, source).items():
        name = key.replace("-", "_")
        if name not in _defaults():
            hint = _nearest(_key(name), map(_key, _defaults()))
            raise SettingError(f"{path}: key", key, Remedy.NO_SUCH_SETTING.format(hint=hint))
        if name in found:
            raise SettingError(f"{path}: key", key, Remedy.KEY_TWICE)
        if not isinstance(value, str | int | float):
            remedy = Remedy.TYPE_NOT_USABLE.format(type=type(value).__name__)
            raise SettingError(f"{path}: key", key, remedy)
        if value != "":
            # str(True) is "True", which `switch` accepts.
            found[name] = ChosenValue(str(value), "file", str(path))
    return found


def _read(path: Path, source: str) -> dict[str, Any]:
    try:
        content: dict[str, Any] = tomllib.loads(path.expanduser().read_text("utf-8"))
    except OSError as error:
        remedy = Remedy.FILE_NOT_READABLE.format(reason=error.strerror)
        raise SettingError(source, path, remedy) from None
    except (ValueError, RecursionError, RuntimeError) as error:
        # The text of the error has lines and columns but no values, which may be passwords.
        raise SettingError(source, path, Remedy.FILE_NOT_TOML.format(reason=error)) from None
    return content


def _unknown_variables(environ: Mapping[str, str]) -> Iterable[str]:
    known = {variable(name) for name in (*_defaults(), CONFIG, VERBOSE)}
    for name in sorted(environ):
        if name.startswith(variable("")) and name not in known:
            yield f"{name} is not a setting of pytail{_nearest(name, known, variable(''))}"


def _nearest(name: str, known: Iterable[str], prefix: str = "") -> str:
    """Return a hint at the nearest of `known`, empty without a near one.

    The shared `prefix` is left out of the comparison: it makes all names look alike.
    """
    words = [word.removeprefix(prefix) for word in known]
    found = difflib.get_close_matches(name.removeprefix(prefix), words, n=1)
    return f"; did you mean {prefix}{found[0]}?" if found else ""


def _key(name: str) -> str:
    return name.replace("_", "-")


def _plain(value: object) -> object:
    if isinstance(value, tuple):
        return list(value)
    return value if isinstance(value, bool | int | float | None) else masked(str(value))
