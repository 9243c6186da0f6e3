"""Gathers the projects and versions to fetch, from requirements and from files that list them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from pytail.errors import Remedy, SettingError
from pytail.warm.lockfiles import IndexUrls, read_lockfile
from pytail.warm.requirements import RequirementsFile, parse_requirement
from pytail.warm.selection import LockedPackage, RequiredProject
from pytail.warm.targets import Target

#: A project to fetch, or a version of one.
Want: TypeAlias = RequiredProject | LockedPackage


@dataclass(slots=True)
class Wanted:
    """The projects and versions to fetch."""

    #: By normalized name; a project may be required and locked, or locked in several versions.
    by_project: dict[str, list[Want]] = field(default_factory=dict)
    #: Lines and packages that are left out, each with the reason.
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def add(self, projects: Iterable[Want]) -> None:
        """Add `projects`."""
        for wanted in projects:
            self.by_project.setdefault(wanted.project, []).append(wanted)

    def add_requirement(self, text: str) -> None:
        """Add the project of a requirement. Raises SettingError."""
        try:
            self.add([parse_requirement(text)])
        except ValueError as error:
            raise SettingError("NAME", text, str(error)) from None

    def add_file(self, path: Path, indexes: IndexUrls) -> None:
        """Add the projects of a requirements or lock file. Raises SettingError.

        Files named ``*.toml`` and ``*.lock`` are lock files.
        """
        try:
            if path.suffix in (".toml", ".lock"):
                lockfile = read_lockfile(path.read_text("utf-8"), indexes)
                self.add(lockfile.packages)
                self.skipped += lockfile.skipped
                return
            requirements = RequirementsFile()
            requirements.read(path)
            self.add(requirements.projects())
            self.skipped += requirements.skipped
        except OSError as error:
            remedy = Remedy.FILE_NOT_READABLE.format(reason=error.strerror)
            raise SettingError("-r", path, remedy) from None
        except ValueError as error:
            raise SettingError("-r", path, str(error)) from None

    def limit_to(self, targets: Sequence[Target]) -> None:
        """Skip projects that none of `targets` needs, so that their pages are not fetched."""
        for project, wanted in list(self.by_project.items()):
            self.by_project[project] = [each for each in wanted if each.is_for(targets)]
            self.skipped += [
                (str(each), "no chosen Python and platform needs this")
                for each in wanted
                if not each.is_for(targets)
            ]
            if not self.by_project[project]:
                del self.by_project[project]
