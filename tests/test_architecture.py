"""Which folder may import which, and which third-party package each folder uses."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

import pytail
from pytail.config.settings import PUBLIC_INDEX

ROOT = Path(pytail.__file__).parent

#: The floors of the house, top first: a folder imports from floors below its own.
FLOORS: list[set[str]] = [
    {"__main__", "wsgi", "gunicorn"},
    {"commands"},
    {"web", "warm"},
    {"cache"},
    {"upstream", "storage", "server"},
    {"simple", "config", "telemetry"},
    {"runtime", "errors", "model"},
    {"urls", "__init__"},
]

#: By folder: the folders that it imports, and its third-party packages.
PLAN: dict[str, tuple[set[str], set[str]]] = {
    "__init__": (set(), set()),
    "__main__": ({"commands"}, {"gevent"}),
    "wsgi": ({"config", "errors", "telemetry", "urls", "web"}, {"gevent"}),
    "gunicorn": ({"config", "errors", "server", "urls"}, {"gevent", "gunicorn"}),
    "commands": (
        {"cache", "config", "errors", "model", "server", "simple", "storage", "telemetry",
         "urls", "warm", "web", "__init__"},
        {"click", "gevent"},
    ),
    "web": (
        {"cache", "config", "errors", "model", "runtime", "server", "simple", "telemetry",
         "urls", "__init__"},
        {"backports", "falcon", "gevent", "orjson"},
    ),
    "warm": (
        {"cache", "config", "errors", "model", "simple", "storage", "urls"},
        {"gevent", "packaging", "tomli"},
    ),
    "cache": (
        {"config", "errors", "model", "runtime", "simple", "storage", "telemetry", "upstream",
         "urls"},
        {"gevent", "peewee"},
    ),
    "upstream": (
        {"errors", "model", "runtime", "simple", "telemetry", "urls", "__init__"},
        {"gevent", "urllib3"},
    ),
    "storage": (
        {"errors", "model", "runtime", "simple", "__init__", "urls"},
        {"gevent", "orjson", "peewee"},
    ),
    "server": ({"config", "errors", "runtime", "telemetry"}, {"gevent"}),
    "simple": ({"errors", "model", "urls"}, {"lxml", "orjson", "packaging"}),
    "config": ({"errors", "urls"}, {"tomli"}),
    "telemetry": ({"model", "runtime", "urls", "__init__"}, {"gevent", "orjson", "prometheus_client"}),
    "runtime": (set(), {"gevent"}),
    "errors": ({"urls"}, set()),
    "model": ({"urls"}, set()),
    "urls": (set(), set()),
}  # fmt: skip

#: In the standard library of newer Pythons.
BACKPORTED = {"compression", "tomllib"}


def modules() -> dict[str, Path]:
    """By its dotted name below ``pytail``, the path of each module."""
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in ROOT.rglob("*.py")
    }


def folder_of(module: str) -> str:
    return module.partition(".")[0]


def imports(path: Path) -> set[str]:
    """The modules that the module at `path` imports, at its top or further in."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            module = node.module or ""
            names = {f"{module}.{alias.name}" for alias in node.names}
            is_package = (ROOT.parent / module.replace(".", "/")).is_dir()
            found |= names if is_package and module.startswith("pytail") else {module}
    return found


def own(path: Path) -> set[str]:
    """The modules of pytail that the module at `path` imports."""
    names = {name.removeprefix("pytail.") for name in imports(path) if name.startswith("pytail.")}
    return {"__init__" if name.startswith("__version__") else name for name in names}


def of_folder(folder: str) -> list[tuple[str, Path]]:
    return [(name, path) for name, path in modules().items() if folder_of(name) == folder]


def test_every_folder_is_on_the_plan_and_on_one_floor():
    assert {folder_of(name) for name in modules()} == PLAN.keys()
    assert sorted(folder for floor in FLOORS for folder in floor) == sorted(PLAN)


@pytest.mark.parametrize("folder", PLAN)
def test_the_plan_runs_down_only(folder: str):
    floor = next(number for number, floor in enumerate(FLOORS) if folder in floor)
    below = set().union(*FLOORS[floor + 1 :])
    assert PLAN[folder][0] <= below


@pytest.mark.parametrize("folder", PLAN)
def test_each_folder_imports_the_folders_of_the_plan(folder: str):
    found = {folder_of(name) for _, path in of_folder(folder) for name in own(path)}
    assert found - {folder} == PLAN[folder][0]


@pytest.mark.parametrize("folder", PLAN)
def test_each_folder_uses_the_packages_of_the_plan(folder: str):
    tops = {name.partition(".")[0] for _, path in of_folder(folder) for name in imports(path)} - {
        "pytail"
    }
    assert tops - set(sys.stdlib_module_names) - BACKPORTED == PLAN[folder][1]


@pytest.mark.parametrize("folder", [name for name in PLAN if (ROOT / name).is_dir()])
def test_no_folder_has_a_circle_inside(folder: str):
    arrows = {name: own(path) for name, path in of_folder(folder)}
    done: set[str] = set()
    while left := arrows.keys() - done:
        free = {name for name in left if not arrows[name] & left}
        assert free, f"these import each other: {sorted(left)}"
        done |= free


def test_the_package_imports_nothing():
    assert imports(ROOT / "__init__.py") == set()


@pytest.mark.parametrize("module", modules().keys() - {"wsgi"})
def test_a_module_level_holds_only_constants_types_and_loggers(module: str):
    targets = [
        ast.unparse(target)
        for node in ast.parse(modules()[module].read_text()).body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
    ]
    names = {name.lstrip("_") for name in targets} - {"log", "version__"}
    assert all(name.isupper() or name.istitle() for name in names), names


@pytest.mark.parametrize("module", modules())
def test_a_logger_is_named_by_its_folder(module: str):
    names = {
        ast.unparse(node.args[0])
        for node in ast.walk(ast.parse(modules()[module].read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "logging.getLogger"
    }
    # "pytail" is the parent of all; requests have a logger of their own.
    folder = folder_of(module)
    # The one of urllib3 is only told to be quiet.
    others = {"'pytail'", "'pytail.access'", "'urllib3.connectionpool'"}
    assert names <= others | {f"'pytail.{folder}'"}


def test_the_public_index_stands_once():
    host = PUBLIC_INDEX.partition("//")[2]
    found = [module for module, path in modules().items() if host in path.read_text()]
    assert found == ["config.settings"]
