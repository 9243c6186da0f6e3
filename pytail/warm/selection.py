"""Selects the files of a project page that a requirement or a lock file asks for.

For a requirement, these are the files among which an installer on each target would choose. For a
lock file, these are the listed files, matched by filename and digest.
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
    """The files selected from one page, or from several."""

    #: By key.
    files: dict[str, File] = field(default_factory=dict)
    #: The requirements and filenames without a file on the page, each with the reason.
    missing: list[tuple[str, str]] = field(default_factory=list)

    def add(self, files: Iterable[File]) -> None:
        """Add `files`; a file that was added before is not added again."""
        self.files.update((file.key, file) for file in files)


@dataclass(frozen=True, slots=True)
class RequirementLine:
    """A requirement (PEP 508) with the options of its line in a requirements file."""

    text: str
    specifier: SpecifierSet
    marker: Marker | None = None
    #: Such as ``sha256:...``; a file must have one of them. Empty: any file.
    hashes: frozenset[str] = frozenset()
    #: Whether pre-releases are allowed.
    allows_prereleases: bool = False
    #: Whether the line comes from a constraints file: it limits versions and requires nothing.
    is_constraint: bool = False


@dataclass(frozen=True, slots=True)
class RequiredProject:
    """A project of which the newest version is required that all `lines` allow."""

    #: Normalized.
    project: str
    lines: tuple[RequirementLine, ...]

    def __str__(self) -> str:
        return ", ".join(line.text for line in self.lines)

    def is_for(self, targets: Sequence[Target]) -> bool:
        """Whether one of `targets` needs the project; True without targets."""
        lines = [line for line in self.lines if not line.is_constraint]
        return not targets or any(
            target.matches(line.marker) for target in targets for line in lines
        )

    def select(self, page: ProjectPage, targets: Sequence[Target]) -> Selection:
        """Return the files for all `targets`; without targets, all files of the version."""
        selection, versions = Selection(), _by_version(page)
        for target in targets or (None,):
            lines = [line for line in self.lines if target is None or target.matches(line.marker)]
            if all(line.is_constraint for line in lines):
                continue
            files = _newest(versions, lines, target)
            selection.add(files)
            if not files:
                text = ", ".join(line.text for line in lines)
                selection.missing.append((text, _why_none(page, lines, target)))
        selection.missing = list(dict.fromkeys(selection.missing))
        return selection


@dataclass(frozen=True, slots=True)
class LockedFile:
    """A file as a lock file lists it."""

    filename: str
    #: As in `File`; empty where the lock file gives none.
    hashes: Mapping[str, str]

    def find(self, page: ProjectPage) -> File | str:
        """Return the same file on `page`, or the reason why the page does not have it."""
        reason = f"the page of {page.name} does not list the file; lock again if it was removed"
        # A page can list one filename with several digests.
        for listed in (file for file in page.files if file.filename == self.filename):
            fault = self._fault(listed)
            if fault is None:
                return listed
            reason = fault
        return reason

    def _fault(self, listed: File) -> str | None:
        """Return why `listed` is not known to be the same file, None where it is."""
        common = self.hashes.keys() & listed.hashes.keys()
        if any(self.hashes[name].lower() != listed.hashes[name] for name in common):
            return "the project page gives another digest than the lock file"
        if self.hashes and not common:
            return "the project page gives no digest to compare with the lock file"
        return None


@dataclass(frozen=True, slots=True)
class LockedPackage:
    """A version of a project, with its files, as a lock file lists it."""

    #: Normalized.
    project: str
    version: str
    files: tuple[LockedFile, ...]
    #: One of them must match the target; empty: any target.
    markers: tuple[Marker, ...] = ()
    #: The extras and dependency groups that the markers may name.
    groups: frozenset[str] = frozenset()
    #: A specifier; None: any Python.
    requires_python: str | None = None

    def __str__(self) -> str:
        return f"{self.project} {self.version}".strip()

    def is_for(self, targets: Sequence[Target]) -> bool:
        """Whether one of `targets` needs any of the files; True without targets."""
        return not targets or any(self._files_for(target) for target in targets)

    def select(self, page: ProjectPage, targets: Sequence[Target]) -> Selection:
        """Return the files for all `targets`; without targets, all files of the package."""
        selection = Selection()
        needed = {file.filename: file for target in targets for file in self._files_for(target)}
        for file in needed.values() if targets else self.files:
            found = file.find(page)
            if isinstance(found, File):
                selection.add([found])
            else:
                selection.missing.append((file.filename, found))
        return selection

    def _files_for(self, target: Target) -> list[LockedFile]:
        """Return the wheels that `target` supports, or the sdists where it supports none."""
        is_needed = not self.markers or any(
            target.matches(marker, self.groups) for marker in self.markers
        )
        if not is_needed or not target.satisfies(self.requires_python):
            return []
        wheels = [file for file in self.files if target.supports(_tags(file.filename))]
        return wheels or [file for file in self.files if _is_sdist(file.filename)]


def _by_version(page: ProjectPage) -> dict[Version, list[File]]:
    found: dict[Version, list[File]] = {}
    for file in page.files:
        text = names.version_text(file.filename, page.name)
        try:
            found.setdefault(Version(text or ""), []).append(file)
        except InvalidVersion:
            # Installers ignore such files (PEP 440).
            continue
    return found


def _newest(
    versions: Mapping[Version, list[File]],
    lines: Sequence[RequirementLine],
    target: Target | None,
) -> list[File]:
    """Return the files of the newest allowed version that has files for `target`."""
    specifier = SpecifierSet()
    for line in lines:
        specifier &= line.specifier
    allows_prereleases = specifier.prereleases or any(line.allows_prereleases for line in lines)
    allowed = specifier.filter(versions, prereleases=True)
    # PEP 440: a pre-release is chosen only where no other version is allowed.
    order = sorted(
        allowed, key=lambda version: (allows_prereleases or not version.is_prerelease, version)
    )
    for version in reversed(order):
        if files := _matching(versions[version], lines, target):
            return files
    return []


def _matching(
    files: Iterable[File], lines: Sequence[RequirementLine], target: Target | None
) -> list[File]:
    is_pinned = any(_is_pinned(line.specifier) for line in lines)
    usable = [
        file
        for file in files
        if (is_pinned or not file.yanked)
        and all(_has_digest(file, line.hashes) for line in lines)
        and (target is None or target.satisfies(file.requires_python))
    ]
    if target is None:
        return usable
    wheels = [file for file in usable if target.supports(_tags(file.filename))]
    return wheels or [file for file in usable if _is_sdist(file.filename)]


def _is_pinned(specifier: SpecifierSet) -> bool:
    """Whether `specifier` allows one version only, which may then be a yanked one (PEP 592)."""
    return any(
        each.operator in ("==", "===") and not each.version.endswith(".*") for each in specifier
    )


def _has_digest(file: File, hashes: frozenset[str]) -> bool:
    return not hashes or any(f"{name}:{value}" in hashes for name, value in file.hashes.items())


def _why_none(page: ProjectPage, lines: Sequence[RequirementLine], target: Target | None) -> str:
    if page.is_quarantined:
        return "upstream has put the project in quarantine"
    digests = " and has one of the digests" if any(line.hashes for line in lines) else ""
    machine = ""
    if target is not None:
        environment = target.environment
        machine = f" for Python {environment['python_version']} on {environment['sys_platform']}"
    return f"no version of {page.name} has a file that matches{digests}{machine}"


def _tags(filename: str) -> frozenset[Tag]:
    """Return the tags of a wheel, none for another file."""
    try:
        return parse_wheel_filename(filename)[3] if filename.endswith(".whl") else frozenset()
    except InvalidWheelFilename:
        return frozenset()


def _is_sdist(filename: str) -> bool:
    return filename.endswith((".tar.gz", ".zip", ".tar.bz2", ".tgz", ".tar.xz"))
