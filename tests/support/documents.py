"""The documents as they are written: their blocks, headings, links and tables."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).parents[2]

#: Languages whose blocks are run, and those whose blocks name a file that is used.
COMMANDS, FILES = {"sh"}, {"toml", "ini", "yaml", "dockerfile"}

#: Documents whose commands a test of their own runs.
ELSEWHERE = {"docs/deploy.md", "docs/migrating.md"}
#: By the note of a fence why its block is not run.
NOT_RUN = {"container": "needs a container engine", "ci": "is what runs this test"}

_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_CODE = re.compile(r"`[^`\n]*`")


@dataclass(frozen=True)
class Block:
    """What stands between two fences."""

    line: int
    #: Empty for what is only to be read: answers, drawings.
    language: str
    #: What the fence says beyond its language, which nobody sees who reads the page.
    note: str
    text: str
    #: The ``##`` heading that it stands under.
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
        """Everything outside of blocks."""
        return re.sub(r"^```.*?^```$", "", self.text, flags=re.MULTILINE | re.DOTALL)

    @property
    def headings(self) -> list[str]:
        return re.findall(r"^#+ (.+)$", self.prose, re.MULTILINE)

    @property
    def anchors(self) -> set[str]:
        """What can stand behind the ``#`` of a link, as GitHub has it."""
        plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in self.headings)
        return {heading.replace(" ", "-") for heading in plain}

    @property
    def links(self) -> list[str]:
        return _LINK.findall(_CODE.sub("", self.prose))

    @property
    def spans(self) -> list[str]:
        """What stands in the prose as code."""
        return [span.strip("`") for span in _CODE.findall(self.prose)]

    def rows(self, heading: str) -> list[list[str]]:
        """The cells of the tables below `heading`, without the tables' heads, up to the next one."""
        section = re.split(rf"^#+ {re.escape(heading)}$", self.text, flags=re.MULTILINE)[1]
        lines = re.split(r"^#", section, maxsplit=1, flags=re.MULTILINE)[0].splitlines()
        cells = [re.split(r"(?<!\\)\|", line.strip("|")) for line in lines if line.startswith("|")]
        rules = [number for number, row in enumerate(cells) if set("".join(row)) <= set("-: ")]
        head = {number - 1 for number in rules} | set(rules)
        return [
            [cell.strip() for cell in row] for number, row in enumerate(cells) if number not in head
        ]

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


def documents() -> list[Document]:
    """Those for people who run or use pytail."""
    names = ["README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))]
    return [Document(name) for name in names]
