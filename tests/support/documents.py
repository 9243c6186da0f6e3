"""Read the documents: their blocks, headings, links and tables."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).parents[2]

#: Languages of blocks that are run, and of blocks that are the text of a file.
COMMANDS, FILES = {"sh"}, {"toml", "ini", "yaml", "dockerfile"}

#: Documents whose commands other tests run.
ELSEWHERE = {"docs/deploy.md", "docs/migrating.md"}
#: Notes of blocks that are not run, with the reason.
NOT_RUN = {"container": "needs a container engine", "ci": "is what runs this test"}

_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_CODE = re.compile(r"`[^`\n]*`")


@dataclass(frozen=True)
class Block:
    """The text between two fences."""

    line: int
    #: Empty for output and drawings.
    language: str
    #: The words of the fence after its language, which a rendered page does not show.
    note: str
    text: str
    #: The ``##`` heading above it.
    section: str


class Document:
    """A document below the root of the project."""

    def __init__(self, name: str) -> None:
        self.name, self.path = name, ROOT / name
        self.text = self.path.read_text("utf-8")
        self.blocks = list(self._blocks())

    def __repr__(self) -> str:
        return self.name

    @cached_property
    def prose(self) -> str:
        """The text outside of blocks."""
        return re.sub(r"^```.*?^```$", "", self.text, flags=re.MULTILINE | re.DOTALL)

    @property
    def headings(self) -> list[str]:
        return re.findall(r"^#+ (.+)$", self.prose, re.MULTILINE)

    @property
    def anchors(self) -> set[str]:
        """The anchors of the headings, as GitHub makes them."""
        return set(map(_anchor, self.headings))

    @property
    def links(self) -> list[str]:
        return _LINK.findall(_CODE.sub("", self.prose))

    @property
    def spans(self) -> list[str]:
        """The code spans of the prose, without backticks."""
        return [span.strip("`") for span in _CODE.findall(self.prose)]

    def rows(self, heading: str) -> list[list[str]]:
        """Return the cells of the tables below `heading`, up to the next heading.

        The heads of the tables are left out.
        """
        section = re.split(rf"^#+ {re.escape(heading)}$", self.text, flags=re.MULTILINE)[1]
        lines = re.split(r"^#", section, maxsplit=1, flags=re.MULTILINE)[0].splitlines()
        cells = [re.split(r"(?<!\\)\|", line.strip("|")) for line in lines if line.startswith("|")]
        rules = [number for number, row in enumerate(cells) if set("".join(row)) <= set("-: ")]
        head = {number - 1 for number in rules} | set(rules)
        return [
            [cell.strip() for cell in row] for number, row in enumerate(cells) if number not in head
        ]

    def section(self, anchor: str) -> str:
        """Return the text between the heading of `anchor` and the next; "" for no such heading."""
        parts = re.split(r"^#+ (.+)$", self.prose, flags=re.MULTILINE)
        texts = dict(zip(map(_anchor, parts[1::2]), parts[2::2], strict=True))
        return texts.get(anchor, "")

    def _blocks(self) -> Iterator[Block]:
        section, begun = "", None
        for number, line in enumerate(self.text.splitlines(), start=1):
            fence = re.fullmatch(r"```(\w*) *(.*)", line)
            if begun is None and line.startswith("## "):
                section = line.removeprefix("## ")
            elif begun is None and fence:
                begun, lines = (number, *fence.groups()), []
            elif begun is not None and line == "```":
                yield Block(*begun, "\n".join([*lines, ""]), section)
                begun = None
            elif begun is not None:
                lines.append(line)
        assert begun is None, f"{self.name}:{begun[0]} is never closed"


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def documents() -> list[Document]:
    """Return README and docs: the documents for people who run or use pytail."""
    names = ["README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))]
    return [Document(name) for name in names]
