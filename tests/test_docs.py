"""README and docs say all there is to say, name only what is there, and lead to where they say.

That the commands they show work is tested in ``clients/test_documents.py``.
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

OPERATE = Document("docs/operate.md")
BLOCKS = [(document, block) for document in documents() for block in document.blocks]
#: Documents that tell of options of other programs too.
OF_OTHERS = {"docs/clients.md", "docs/deploy.md", "docs/migrating.md", "docs/performance.md"}
LEVELS = {"debug", "info", "warning", "error"}
#: What a line of the log has in place of its arguments.
_ARGUMENT = re.compile(r"%[.\d]*[sdf]")


def cells(heading: str, *columns: int) -> list[tuple[str, ...]]:
    """Those `columns` of the tables below a heading of operate.md, without their marks."""
    rows = OPERATE.rows(heading)
    return [tuple(row[column].strip("`") for column in columns) for row in rows]


def trees() -> Iterator[tuple[str, ast.Module]]:
    """By the name of its folder below ``pytail`` each module, parsed."""
    for path in (ROOT / "pytail").rglob("*.py"):
        folder = path.relative_to(ROOT / "pytail").with_suffix("").parts[0]
        yield folder, ast.parse(path.read_text("utf-8"))


def log_lines() -> set[tuple[str, str, str]]:
    """Logger, level and words of each line that the code writes, but those of decisions."""
    found = set()
    for module, tree in trees():
        for node in ast.walk(tree):
            match node:
                case ast.Call(
                    func=ast.Attribute(value=ast.Name(id="log"), attr=level),
                    args=[ast.Constant(value=str(words)), *_],
                ) if level in LEVELS:
                    found.add((module, level, _ARGUMENT.sub("…", words)))
                case ast.Call(func=ast.Attribute(value=ast.Name(id="log"), attr=method)):
                    # What is not read here would go unexplained.
                    assert method not in {*LEVELS, "exception", "critical"}, module
                    assert method != "log" or module == "cache"
    return found


def remedies() -> set[str]:
    """Return the text of each `Remedy`, with `…` for its placeholders."""
    return {re.sub(r"\{\w+\}", "…", remedy) for remedy in errors.Remedy}


def test_every_line_of_the_log_is_explained():
    told = cells("All others", 0, 1, 2)
    assert len(set(told)) == len(told)
    assert set(told) == log_lines()


def test_every_error_at_the_start_is_explained():
    told = {line for (line,) in cells("Starting and stopping", 0)}
    assert told - {"without --preload"} == remedies()
    assert "without --preload" in (ROOT / "pytail" / "wsgi.py").read_text()


def test_every_error_is_explained_with_its_status():
    known = {
        kind.__name__: next((STATUSES[each][:3] for each in kind.__mro__ if each in STATUSES), "")
        for _, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, errors.PytailError)
    }
    told = dict(cells("Errors that clients see", 0, 1))
    assert told == {name: known[name] for name in told}
    silent = OPERATE.text.partition("\nNot for clients:")[2].partition("\n\n")[0]
    assert told.keys() | set(re.findall(r"`([A-Z]\w+)`", silent)) == known.keys()


def test_every_series_is_explained(pytail: Client):
    series = re.findall(
        r"^# TYPE (pytail_\w+) (\w+)", pytail.get("/+metrics").data.decode(), re.MULTILINE
    )
    told = [name for (names,) in cells("Metrics", 0) for name in re.findall(r"pytail_\w+", names)]
    assert sorted(told) == sorted(name for name, _ in series)


def test_every_field_of_the_status_is_explained(pytail: Client):
    until(lambda: pytail.get("/+status").json()["held"])
    status = pytail.get("/+status").json()
    fields = set(status)
    for name in ("upstream", "held", "hit_ratio"):
        fields |= {f"{name}.{field}" for field in status[name]}
    told = {name for (names,) in cells("Health and status", 0) for name in names.split("`, `")}
    assert told == fields - {"upstream", "hit_ratio"}
    assert pytail.get("/+health").json().keys() == {"status", "version"}


def test_every_alert_leads_to_what_to_do():
    rules = (ROOT / "conf" / "prometheus-rules.yml").read_text()
    assert set(re.findall(r"- alert: (\w+)", rules)) == set(re.findall(r"`(Pytail\w+)`", OPERATE.prose)) - {"PytailError"}  # fmt: skip


@pytest.mark.parametrize("document", documents(), ids=str)
def test_every_link_leads_somewhere(document: Document):
    for link in document.links:
        path, _, anchor = link.partition("#")
        if not re.match(r"https?:", link):
            target = (document.path.parent / path).resolve() if path else document.path
            assert target.exists(), link
            assert target.is_relative_to(ROOT), link
            if anchor:
                assert anchor in Document(str(target.relative_to(ROOT))).anchors, link


def test_readme_leads_to_every_document():
    linked = set(Document("README.md").links)
    assert {document.name for document in documents()[1:]} <= linked


@pytest.mark.parametrize(
    ("document", "block"), BLOCKS, ids=lambda part: str(getattr(part, "line", part))
)
def test_every_block_is_run_or_says_why_not(document: Document, block: Block):
    if block.language in COMMANDS and document.name not in ELSEWHERE:
        assert block.note in {"", "serves", *NOT_RUN}
    elif block.language not in COMMANDS | FILES:
        # Answers and drawings: no commands that nobody runs.
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
def test_every_file_that_is_shown_can_be_read(document: Document, block: Block):
    if block.language == "toml":
        assert tomllib.loads(block.text)
    elif block.language == "yaml":
        assert yaml.safe_load(block.text)
    elif block.language == "ini":
        # As in systemd's files, a key may stand there twice.
        parser = configparser.ConfigParser(strict=False, interpolation=None)
        parser.read_string(block.text)
        assert parser.sections()


@pytest.mark.parametrize("document", documents(), ids=str)
def test_every_command_in_the_text_is_there_with_its_options(document: Document):
    for span in document.spans:
        if re.match(r"pytail [a-z]", span):
            command = command_line.commands[span.split()[1]]
            options = {option for each in command.params for option in each.opts}
            assert set(re.findall(r"--[\w-]+", span)) <= options, span


@pytest.mark.parametrize(
    "document", [each for each in documents() if each.name not in OF_OTHERS], ids=str
)
def test_every_option_in_the_text_is_there(document: Document):
    commands = [command_line, *command_line.commands.values()]
    options = {option for command in commands for each in command.params for option in each.opts}
    named = {span.split()[0] for span in document.spans if span.startswith("--")}
    assert named <= options | {"--version"}
