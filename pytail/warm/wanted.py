"""What is wanted in all: by requirements, and by files whose name or content tells their kind."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from pytail.errors import Remedy, SettingError
from pytail.warm.lockfiles import Indexes, locks
from pytail.warm.requirements import Requirements, required
from pytail.warm.selection import Locked, Required
from pytail.warm.targets import Target

Want: TypeAlias = Required | Locked


@dataclass(slots=True)
class Wanted:
    """What is wanted, by project."""

    by_project: dict[str, list[Want]] = field(default_factory=dict)
    #: What is left out, and why.
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def add(self, wants: Iterable[Want]) -> None:
        """Want these too."""
        for want in wants:
            self.by_project.setdefault(want.project, []).append(want)

    def leave_out(self, targets: Sequence[Target]) -> None:
        """Leave out what is for none of `targets`: no page is asked for it."""
        for project, wants in list(self.by_project.items()):
            self.by_project[project] = [want for want in wants if want.is_for(targets)]
            self.skipped += [
                (str(want), "not for any machine that was chosen")
                for want in wants
                if not want.is_for(targets)
            ]
            if not self.by_project[project]:
                del self.by_project[project]

    def name(self, text: str) -> None:
        """Want what a requirement names. Raises SettingError."""
        try:
            self.add([required(text)])
        except ValueError as error:
            raise SettingError("NAME", text, str(error)) from None

    def read(self, path: Path, indexes: Indexes) -> None:
        """Want what a file names or lists. Raises SettingError."""
        try:
            if path.suffix in (".toml", ".lock"):
                found = locks(path.read_text("utf-8"), indexes)
                self.add(found.locked)
                self.skipped += found.skipped
                return
            requirements = Requirements()
            requirements.add(path)
            self.add(requirements.required())
            self.skipped += requirements.skipped
        except OSError as error:
            remedy = Remedy.FILE_NOT_READABLE.format(reason=error.strerror)
            raise SettingError("-r", path, remedy) from None
        except ValueError as error:
            raise SettingError("-r", path, str(error)) from None
