"""The arrows between the rooms, and which third-party package lives in which room."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

import pytail
from pytail.settings import PUBLIC_INDEX

ROOT = Path(pytail.__file__).parent

WORDS = {"errors", "model", "settings", "__init__"}
WIRE = {
    "simple.names", "simple.fields", "simple.json", "simple.html", "simple.negotiation",
    "simple.pieces", "simple.codings",
}  # fmt: skip

#: Who may import whom, beside the words, which everyone may.
MAY_IMPORT: dict[str, set[str]] = {
    "__init__": set(),
    "errors": set(),
    "model": set(),
    "settings": set(),
    "configuration": set(),
    "exchanges": set(),
    "logs": {"exchanges"},
    "workers": set(),
    "metrics": {"exchanges", "workers"},
    "pulse": set(),
    "stalls": set(),
    "threads": set(),
    "singleflight": set(),
    "simple.__init__": set(),
    "simple.names": set(),
    "simple.fields": {"simple.names"},
    "simple.pieces": set(),
    "simple.codings": set(),
    "simple.json": {"simple.names", "simple.fields", "simple.pieces"},
    "simple.html": {"simple.names", "simple.fields"},
    "simple.negotiation": set(),
    "parts": set(),
    "schema": {"parts", "simple.names"},
    "catalog": {"parts", "schema", "simple.names", "threads"},
    "store": {"simple.names"},
    "connections": {"threads"},
    "upstream": {
        "breaker", "connections", "exchanges", "fetches", "metrics", "threads", "simple.codings", "simple.fields", "simple.json",
        "simple.html",
    },
    "memory": {"threads"},
    "pages": {"memory", "threads", "singleflight", "simple.json", "simple.html", "simple.negotiation"},
    "breaker": set(),
    "fetches": set(),
    "freshness": {"catalog", "exchanges", "upstream", "singleflight"},
    "index": {"catalog", "store", "upstream", "freshness", "threads", "simple.names"},
    "wheels": set(),
    "metadata": {"catalog", "store", "upstream", "threads", "wheels"},
    "transfers": {"upstream"},
    "checks": set(),
    "bounds": {"catalog", "store", "threads"},
    "passing": {"checks", "transfers"},
    "arrivals": {"bounds", "checks", "passing", "store", "threads", "transfers"},
    "downloads": {
        "arrivals", "bounds", "catalog", "checks", "exchanges", "metadata", "passing", "singleflight", "store",
        "threads", "transfers", "upstream",
    },
    "wants.__init__": set(),
    "wants.targets": set(),
    "wants.choice": {"simple.names", "wants.targets"},
    "wants.requirements": {"simple.names", "wants.choice"},
    "wants.locks": {"simple.names", "wants.choice"},
    "wants.sources": {"wants.choice", "wants.locks", "wants.requirements", "wants.targets"},
    "warming": {
        "bounds", "downloads", "index", "store", "wants.choice", "wants.sources", "wants.targets",
    },
    "resources.__init__": set(),
    "resources.conditions": set(),
    "resources.common": set(),
    "resources.problems": {"simple.negotiation"},
    "resources.pages": {
        "exchanges", "index", "pages", "resources.conditions", "simple.names",
        "simple.negotiation",
    },
    "resources.files": {"downloads", "exchanges", "index", "resources.conditions"},
    "resources.watching": {"metrics", "upstream"},
    "app": {
        "bounds", "catalog", "downloads", "exchanges", "freshness", "index", "logs", "metadata", "metrics",
        "pages", "pulse", "stalls", "store", "threads", "upstream",
        "resources.common", "resources.files", "resources.pages", "resources.problems",
        "resources.watching",
    },
    "heads": set(),
    "porter": {"exchanges"},
    "handler": {"exchanges", "heads", "porter"},
    "wire": {"handler", "porter"},
    "gunicorn": {"handler", "wire"},
    "server": {"app", "wire"},
    "commands.__init__": set(),
    "commands.options": {"configuration", "logs"},
    "commands.config": {"configuration", "commands.options"},
    "commands.serve": {"configuration", "commands.options", "server"},
    "commands.holdings": {"app", "catalog", "configuration", "simple.names", "store"},
    "commands.status": {"configuration", "commands.holdings", "commands.options"},
    "commands.list": {"configuration", "commands.holdings", "commands.options"},
    "commands.refresh": {
        "configuration", "commands.holdings", "commands.options", "freshness", "upstream",
    },
    "commands.purge": {"configuration", "commands.holdings", "commands.options", "store"},
    "commands.verify": {"checks", "configuration", "commands.holdings", "commands.options"},
    "commands.adopt": {
        "checks", "commands.holdings", "commands.options", "configuration", "simple.names", "store",
    },
    "commands.gc": {"bounds", "configuration", "commands.holdings", "commands.options"},
    "commands.warm": {
        "app", "commands.holdings", "commands.options", "configuration", "warming",
        "wants.choice", "wants.locks", "wants.sources", "wants.targets",
    },
    "cli": {
        "commands.adopt", "commands.config", "commands.gc", "commands.list", "commands.options", "commands.purge",
        "commands.refresh", "commands.serve", "commands.status", "commands.verify",
        "commands.warm",
    },
    "wsgi": {"app", "configuration", "logs", "workers"},
    "__main__": {"cli"},
}  # fmt: skip

#: Which room each third-party package lives in.
LIVES_IN = {
    "backports": {"pages"},  # in the standard library as compression.zstd from 3.14 on
    "click": {
        "cli", "commands.adopt", "commands.config", "commands.gc", "commands.holdings", "commands.list",
        "commands.options", "commands.purge", "commands.refresh", "commands.serve",
        "commands.status", "commands.verify", "commands.warm",
    },
    "falcon": {
        "app", "resources.common", "resources.files", "resources.pages", "resources.problems",
        "resources.watching",
    },
    "gunicorn": {"gunicorn"},
    "lxml": {"simple.html"},
    "orjson": {"logs", "simple.json", "simple.pieces", "catalog", "parts", "schema", "resources.problems", "resources.watching"},
    "packaging": {
        "simple.names", "simple.fields",
        "wants.choice", "wants.locks", "wants.requirements", "wants.targets",
    },
    "peewee": {"catalog", "schema", "app"},
    "prometheus_client": {"metrics", "workers"},
    "tomli": {"configuration", "wants.locks"},  # in the standard library as tomllib from 3.11 on
    "urllib3": {"connections", "upstream"},
    "gevent": {
        "__main__", "wsgi", "handler", "metrics", "porter", "wire", "transfers", "server", "singleflight", "threads",
        "catalog", "downloads", "fetches", "resources.files", "arrivals", "bounds", "app", "connections", "logs", "pulse", "memory",
        "warming", "commands.warm",
        "pages", "stalls", "upstream",
    },
}  # fmt: skip


def rooms() -> dict[str, Path]:
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in ROOT.rglob("*.py")
    }


def imports(path: Path) -> set[str]:
    """The modules that `path` imports, at the top or deeper in."""
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
    names = {name.removeprefix("pytail.") for name in imports(path) if name.startswith("pytail.")}
    return {"__init__" if name.startswith("__version__") else name for name in names}


def test_every_room_is_on_the_plan():
    assert rooms().keys() == MAY_IMPORT.keys()


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_arrows_run_one_way(room: str):
    allowed = MAY_IMPORT[room] | (WORDS if room not in WORDS else WORDS - {"settings"})
    assert own(rooms()[room]) <= allowed


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_third_party_packages_stay_in_their_rooms(room: str):
    tops = {name.partition(".")[0] for name in imports(rooms()[room])} - {"pytail"}
    third_party = tops - set(sys.stdlib_module_names) - {"compression", "tomllib"}
    assert third_party == {package for package, homes in LIVES_IN.items() if room in homes}


def test_package_imports_nothing():
    assert imports(ROOT / "__init__.py") == set()


@pytest.mark.parametrize("room", MAY_IMPORT.keys() - {"wsgi"})
def test_module_level_holds_only_constants_types_and_loggers(room: str):
    targets = [
        ast.unparse(target)
        for node in ast.parse(rooms()[room].read_text()).body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
    ]
    names = {name.lstrip("_") for name in targets} - {"log", "version__"}
    assert all(name.isupper() or name.istitle() for name in names), names


def test_the_public_index_stands_once():
    host = PUBLIC_INDEX.partition("//")[2]
    assert [room for room, path in rooms().items() if host in path.read_text()] == ["settings"]
