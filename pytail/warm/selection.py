"""Which files of a project's page are wanted.

A requirement wants those that an installer on each machine would choose among; a lock wants the very
files that it lists, known by name and digest, and never another one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from packaging.markers import Marker
from packaging.specifiers import SpecifierSet
from packaging.tags import Tag
from packaging.utils import InvalidWheelFilename, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from pytail.model import File, ProjectPage
from pytail.simple import names
from pytail.warm.targets import Target


@dataclass(slots=True)
class Selection:
    """What was chosen of one page, or of several."""

    #: By location.
    files: dict[str, File] = field(default_factory=dict)
    #: What is wanted and not there: what it is, and why not.
    missing: list[tuple[str, str]] = field(default_factory=list)

    def add(self, files: Iterable[File]) -> None:
        """Take `files`, each once."""
        self.files.update((file.key, file) for file in files)


@dataclass(frozen=True, slots=True)
class Clause:
    """One line about a project."""

    text: str
    specifier: SpecifierSet
    marker: Marker | None = None
    #: ``sha256:…`` and the like, one of which a file must have; empty for any file.
    hashes: frozenset[str] = frozenset()
    #: Whether versions before a release are as good as others.
    takes_pre: bool = False
    #: Whether it only limits what other lines want.
    is_constraint: bool = False


@dataclass(frozen=True, slots=True)
class Required:
    """A project of which the newest version is wanted that all `clauses` allow."""

    #: Normalized.
    project: str
    clauses: tuple[Clause, ...]

    def __str__(self) -> str:
        return ", ".join(each.text for each in self.clauses)

    def is_for(self, targets: Sequence[Target]) -> bool:
        """Whether anything is wanted for one of `targets`; without any, it is."""
        wishes = [each for each in self.clauses if not each.is_constraint]
        return not targets or any(
            target.is_meant(each.marker) for target in targets for each in wishes
        )

    def choose(self, page: ProjectPage, targets: Sequence[Target]) -> Selection:
        """The files for all `targets`; without any, all files of the version."""
        choice, versions = Selection(), _by_version(page)
        for target in targets or (None,):
            clauses = [
                each for each in self.clauses if target is None or target.is_meant(each.marker)
            ]
            if all(each.is_constraint for each in clauses):
                continue
            files = _newest(versions, clauses, target)
            choice.add(files)
            if not files:
                wanted = ", ".join(each.text for each in clauses)
                choice.missing.append((wanted, _why_none(page, clauses, target)))
        choice.missing = list(dict.fromkeys(choice.missing))
        return choice


@dataclass(frozen=True, slots=True)
class LockedFile:
    """A file as a lock lists it."""

    filename: str
    #: As those of a `File`; empty where the lock has none.
    hashes: Mapping[str, str]

    def find(self, page: ProjectPage) -> File | str:
        """The same file on `page`, or why there is none."""
        listed = next((file for file in page.files if file.filename == self.filename), None)
        if listed is None:
            return f"the page of {page.name} does not list it; it may have been removed: lock again"
        common = self.hashes.keys() & listed.hashes.keys()
        if any(self.hashes[name].lower() != listed.hashes[name] for name in common):
            return "the file that its page lists has another digest than the lock"
        if self.hashes and not common:
            return "its page gives no digest to compare with that of the lock"
        return listed


@dataclass(frozen=True, slots=True)
class Locked:
    """A version of a project, with its files, as a lock lists it."""

    #: Normalized.
    project: str
    version: str
    files: tuple[LockedFile, ...]
    #: One of them must hold; empty: for any machine.
    markers: tuple[Marker, ...] = ()
    #: The extras and dependency groups that its markers may ask for.
    groups: frozenset[str] = frozenset()
    requires_python: str | None = None

    def __str__(self) -> str:
        return f"{self.project} {self.version}".strip()

    def is_for(self, targets: Sequence[Target]) -> bool:
        """Whether any file is wanted for one of `targets`; without any, it is."""
        return not targets or any(self._for(target) for target in targets)

    def choose(self, page: ProjectPage, targets: Sequence[Target]) -> Selection:
        """The files for all `targets`; without any, all of them."""
        choice = Selection()
        wanted = {file.filename: file for target in targets for file in self._for(target)}
        for file in wanted.values() if targets else self.files:
            found = file.find(page)
            if isinstance(found, File):
                choice.add([found])
            else:
                choice.missing.append((file.filename, found))
        return choice

    def _for(self, target: Target) -> list[LockedFile]:
        is_meant = not self.markers or any(
            target.is_meant(marker, self.groups) for marker in self.markers
        )
        if not is_meant or not target.has_python(self.requires_python):
            return []
        wheels = [file for file in self.files if target.takes(_tags(file.filename))]
        return wheels or [file for file in self.files if _is_sdist(file.filename)]


def _by_version(page: ProjectPage) -> dict[Version, list[File]]:
    found: dict[Version, list[File]] = {}
    for file in page.files:
        text = names.version_text(file.filename, page.name)
        try:
            found.setdefault(Version(text or ""), []).append(file)
        except InvalidVersion:
            # No installer looks at it.
            continue
    return found


def _newest(
    versions: Mapping[Version, list[File]], clauses: Sequence[Clause], target: Target | None
) -> list[File]:
    """The files of the newest version that has some for `target`."""
    specifier = SpecifierSet()
    for clause in clauses:
        specifier &= clause.specifier
    takes_pre = specifier.prereleases or any(clause.takes_pre for clause in clauses)
    allowed = specifier.filter(versions, prereleases=True)
    # As installers do (PEP 440): a version before a release only where there is nothing else.
    order = sorted(allowed, key=lambda each: (takes_pre or not each.is_prerelease, each))
    for version in reversed(order):
        if files := _fitting(versions[version], clauses, target):
            return files
    return []


def _fitting(files: Iterable[File], clauses: Sequence[Clause], target: Target | None) -> list[File]:
    is_pinned = any(_is_pinned(clause.specifier) for clause in clauses)
    usable = [
        file
        for file in files
        if (is_pinned or not file.yanked)
        and all(_has_digest(file, clause.hashes) for clause in clauses)
        and (target is None or target.has_python(file.requires_python))
    ]
    if target is None:
        return usable
    wheels = [file for file in usable if target.takes(_tags(file.filename))]
    return wheels or [file for file in usable if _is_sdist(file.filename)]


def _is_pinned(specifier: SpecifierSet) -> bool:
    """Whether it names one version, for which a yanked one is taken too (PEP 592)."""
    return any(
        each.operator in ("==", "===") and not each.version.endswith(".*") for each in specifier
    )


def _has_digest(file: File, hashes: frozenset[str]) -> bool:
    return not hashes or any(f"{name}:{value}" in hashes for name, value in file.hashes.items())


def _why_none(page: ProjectPage, clauses: Sequence[Clause], target: Target | None) -> str:
    if page.is_quarantined:
        return "upstream has the project in quarantine"
    digests = " and has one of the digests" if any(each.hashes for each in clauses) else ""
    machine = ""
    if target is not None:
        told = target.environment
        machine = f" for Python {told['python_version']} on {told['sys_platform']}"
    return f"no version of {page.name} has a file that matches{digests}{machine}"


def _tags(filename: str) -> frozenset[Tag]:
    """Those of a wheel; none for anything else."""
    try:
        return parse_wheel_filename(filename)[3] if filename.endswith(".whl") else frozenset()
    except InvalidWheelFilename:
        return frozenset()


def _is_sdist(filename: str) -> bool:
    return filename.endswith((".tar.gz", ".zip", ".tar.bz2", ".tgz", ".tar.xz"))
