"""README and docs are complete, name only things that exist, and have no dead links.

``clients/test_documents.py`` runs the commands that they show.
"""

from __future__ import annotations

import ast
import configparser
import inspect
import re
import sys
from collections.abc import Iterator

import pytest
import yaml

from pytail import errors
from pytail.commands.main import pytail as command_line
from pytail.web.errors import STATUSES
from tests.support.documents import (
    COMMANDS,
    ELSEWHERE,
    FILES,
    NOT_RUN,
    ROOT,
    Block,
    Document,
    documents,
)
from tests.support.running import Client
from tests.support.watching import until

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

REFERENCE, RUNBOOK = Document("docs/reference.md"), Document("docs/runbook.md")
RULES = yaml.safe_load((ROOT / "conf" / "prometheus-rules.yml").read_text())
ALERTS = {rule["alert"]: rule for group in RULES["groups"] for rule in group["rules"]}
BLOCKS = [(document, block) for document in documents() for block in document.blocks]
#: Documents that also name options of other programs.
OF_OTHERS = {"docs/clients.md", "docs/deploy.md", "docs/migrating.md", "docs/performance.md"}
LEVELS = {"debug", "info", "warning", "error"}
#: Placeholders of the arguments of a log line.
_ARGUMENT = re.compile(r"%[.\d]*[sdf]")


def cells(heading: str, *columns: int) -> list[tuple[str, ...]]:
    """Return the `columns` of the tables below a heading of reference.md, without backticks."""
    rows = REFERENCE.rows(heading)
    return [tuple(row[column].strip("`") for column in columns) for row in rows]


def trees() -> Iterator[tuple[str, ast.Module]]:
    """Yield each module of ``pytail``, parsed, with the name of its folder."""
    for path in (ROOT / "pytail").rglob("*.py"):
        folder = path.relative_to(ROOT / "pytail").with_suffix("").parts[0]
        yield folder, ast.parse(path.read_text("utf-8"))


def loggers(tree: ast.Module) -> set[str]:
    """Return the names of the loggers of a module, without "pytail."; not the parent of all."""
    return {
        node.args[0].value.removeprefix("pytail.")
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).endswith("getLogger")
        and isinstance(node.args[0], ast.Constant)
        and node.args[0].value.startswith("pytail.")
    }


def log_lines() -> set[tuple[str, str, str]]:
    """Return logger, level and message of each log line in the code.

    The lines of requests and of decisions have no literal level: other sections explain them.
    """
    found = set()
    for folder, tree in trees():
        names = loggers(tree)
        for node in ast.walk(tree) if names else ():
            match node:
                case ast.Call(
                    func=ast.Attribute(attr=level), args=[ast.Constant(value=str(message)), *_]
                ) if level in LEVELS:
                    # Which logger a call uses is plain only where a module has one.
                    (name,) = names
                    found.add((name, level, _ARGUMENT.sub("…", message)))
                case ast.Call(func=ast.Attribute(attr=method)):
                    # This function could not read such a line.
                    assert method not in {*LEVELS, "exception", "critical"}, folder
                    assert method != "log" or folder == "cache"
    return found


def remedies() -> set[str]:
    """Return the text of each `Remedy`, with `…` for its placeholders."""
    return {re.sub(r"\{\w+\}", "…", remedy) for remedy in errors.Remedy}


def test_the_table_of_log_lines_is_that_of_the_code():
    rows = cells("All others", 0, 1, 2)
    assert len(set(rows)) == len(rows)
    assert set(rows) == log_lines()


def test_every_error_at_the_start_is_explained():
    rows = {line for (line,) in cells("Errors at the start", 0)}
    assert rows - {"without --preload"} == remedies()
    assert "without --preload" in (ROOT / "pytail" / "wsgi.py").read_text()


def test_every_error_is_explained_with_its_status():
    known = {
        kind.__name__: next((STATUSES[each][:3] for each in kind.__mro__ if each in STATUSES), "")
        for _, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, errors.PytailError)
    }
    rows = dict(row for row in cells("Errors that clients see", 0, 1) if row[0].isidentifier())
    assert rows == {name: known[name] for name in rows}
    others = REFERENCE.text.partition("\nNot for clients:")[2].partition("\n\n")[0]
    assert rows.keys() | set(re.findall(r"`([A-Z]\w+)`", others)) == known.keys()


def test_the_quoted_text_of_an_error_is_in_the_code():
    code = "".join(
        node.value
        for name in ("pytail/errors.py", "pytail/upstream/client.py")
        for node in ast.walk(ast.parse((ROOT / name).read_text("utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )
    rows = REFERENCE.rows("Errors that clients see")
    quoted = [row[2].strip("`") for row in rows if len(row) == 4 and row[2]]
    assert len(quoted) > 10
    for text in quoted:
        for part in filter(None, (part.strip(" ()") for part in text.split("…"))):
            assert part in code, text


def test_every_series_is_explained(pytail: Client):
    series = re.findall(
        r"^# TYPE (pytail_\w+) (\w+)", pytail.get("/+metrics").data.decode(), re.MULTILINE
    )
    rows = [name for (names,) in cells("Metrics", 0) for name in re.findall(r"pytail_\w+", names)]
    assert sorted(rows) == sorted(name for name, _ in series)


def test_every_field_of_the_status_is_explained(pytail: Client):
    until(lambda: pytail.get("/+status").json()["held"])
    status = pytail.get("/+status").json()
    fields = set(status)
    for name in ("upstream", "held", "hit_ratio"):
        fields |= {f"{name}.{field}" for field in status[name]}
    rows = {name for (names,) in cells("Health and status", 0) for name in names.split("`, `")}
    assert rows == fields - {"upstream", "hit_ratio"}
    assert pytail.get("/+health").json().keys() == {"status", "version"}


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_links_a_section_of_the_runbook_that_names_it(name: str):
    page, _, anchor = ALERTS[name]["annotations"]["runbook"].partition("#")
    assert page == RUNBOOK.name
    assert f"`{name}`" in RUNBOOK.section(anchor)


def test_the_runbook_names_no_other_alert():
    assert set(re.findall(r"`(Pytail\w+)`", RUNBOOK.prose)) == ALERTS.keys()


@pytest.mark.parametrize("document", documents(), ids=str)
def test_no_link_is_dead(document: Document):
    for link in document.links:
        path, _, anchor = link.partition("#")
        if not re.match(r"https?:", link):
            target = (document.path.parent / path).resolve() if path else document.path
            assert target.exists(), link
            assert target.is_relative_to(ROOT), link
            if anchor:
                assert anchor in Document(str(target.relative_to(ROOT))).anchors, link


def test_readme_links_every_document():
    linked = set(Document("README.md").links)
    assert {document.name for document in documents()[1:]} <= linked


@pytest.mark.parametrize(
    ("document", "block"), BLOCKS, ids=lambda part: str(getattr(part, "line", part))
)
def test_every_block_is_run_or_says_why_not(document: Document, block: Block):
    if block.language in COMMANDS and document.name not in ELSEWHERE:
        assert block.note in {"", "serves", *NOT_RUN}
    elif block.language not in COMMANDS | FILES:
        # Output and drawings: such a block has no commands, since no test runs it.
        assert block.language == ""
        assert not re.search(r"^(\$|#|sudo |curl |pip |uv |pytail [a-z])", block.text, re.MULTILINE)


def test_few_blocks_are_not_run():
    notes = [block.note for document, block in BLOCKS if document.name not in ELSEWHERE]
    assert {note: notes.count(note) for note in NOT_RUN} == {"container": 1, "ci": 1}


@pytest.mark.parametrize(
    ("document", "block"),
    [pair for pair in BLOCKS if pair[1].language in FILES],
    ids=lambda part: str(getattr(part, "line", part)),
)
def test_every_file_that_is_shown_can_be_parsed(document: Document, block: Block):
    if block.language == "toml":
        assert tomllib.loads(block.text)
    elif block.language == "yaml":
        assert yaml.safe_load(block.text)
    elif block.language == "ini":
        # systemd's files may have a key twice.
        parser = configparser.ConfigParser(strict=False, interpolation=None)
        parser.read_string(block.text)
        assert parser.sections()


@pytest.mark.parametrize("document", documents(), ids=str)
def test_every_command_in_the_text_exists_with_its_options(document: Document):
    for span in document.spans:
        if re.match(r"pytail [a-z]", span):
            command = command_line.commands[span.split()[1]]
            options = {option for each in command.params for option in each.opts}
            assert set(re.findall(r"--[\w-]+", span)) <= options, span


@pytest.mark.parametrize(
    "document", [each for each in documents() if each.name not in OF_OTHERS], ids=str
)
def test_every_option_in_the_text_exists(document: Document):
    commands = [command_line, *command_line.commands.values()]
    options = {option for command in commands for each in command.params for option in each.opts}
    named = {span.split()[0] for span in document.spans if span.startswith("--")}
    assert named <= options | {"--version"}
