"""What pytail serves: the page of a project, and the file that a URL means."""

from __future__ import annotations

import hashlib
import logging
import math
import os
import time
from collections.abc import Callable
from dataclasses import replace

from pytail.cache.freshness import Freshness, FreshnessPolicy, PageAnswer
from pytail.errors import (
    FileNotListed,
    ProjectNameInvalid,
    ProjectNotFound,
    UpstreamError,
    UpstreamUnreachable,
)
from pytail.model import (
    METADATA_SUFFIX,
    SIGNATURE_SUFFIX,
    File,
    Outcome,
    ProjectPage,
    is_directory,
)
from pytail.runtime.threads import off_loop
from pytail.simple import names
from pytail.storage.catalog import Catalog
from pytail.storage.store import Store, is_directory
from pytail.upstream.pages import PageClient

log = logging.getLogger("pytail.cache")

#: Seconds within which a page is not asked for again because a file was not on it.
REFRESH_INTERVAL = 10.0


class Index:
    """The projects of upstream, as far as they were asked for."""

    def __init__(
        self,
        catalog: Catalog,
        store: Store,
        upstream: PageClient,
        policy: FreshnessPolicy,
        clock: Callable[[], float] = time.time,
        *,
        offline: bool = False,
        promises_metadata: bool = False,
    ) -> None:
        """`clock` gives seconds since the epoch.

        With `offline` pages list stored files only; with `promises_metadata` they promise the core
        metadata of every wheel.
        """
        self._catalog, self._store, self._upstream = catalog, store, upstream
        self._clock, self._is_offline, self._promises_metadata = clock, offline, promises_metadata
        self._freshness = Freshness(catalog, upstream, policy, clock)

    def page(self, project: str, max_age: float = math.inf) -> PageAnswer:
        """The answer for `project` (normalized).

        `max_age` is how old in seconds a copy may be before upstream is asked, where that is less
        than the TTL. Raises ProjectNameInvalid, ProjectNotFound, or an UpstreamError where there is
        no copy.
        """
        if not names.is_project_name(project):
            raise ProjectNameInvalid(project)
        answer = self._freshness.answer(project, max_age)
        return self._held_only(answer) if self._is_offline else answer

    def still_valid(
        self, answer: PageAnswer, max_age: float = math.inf
    ) -> Callable[[], bool] | None:
        """Says whether `page` would give `answer` again now, to the second; None: it never will."""
        # Offline, what is held may be another thing at any moment.
        return None if self._is_offline else self._freshness.still_valid(answer, max_age)

    def content(self, answer: PageAnswer) -> ProjectPage:
        """The page of `answer`, asked for anew where the catalog has lost it.

        Raises ProjectNotFound or an UpstreamError.
        """
        name = answer.entry.name
        page = answer.page or self._catalog.page(name)
        if page is None:
            log.warning("%s: the catalog has lost its page, asking upstream", name)
            page = self._freshness.anew(name).page
        assert page is not None, "what was asked for without a validator comes whole"
        if not self._promises_metadata:
            return page
        return replace(page, files=tuple(map(self._promising, page.files)))

    def projects(self) -> tuple[list[str], int | None]:
        """The names of the projects asked for and found, sorted, and the highest serial."""
        upstream = self._upstream.url
        return self._catalog.projects(upstream), self._catalog.last_serial(upstream)

    def file(self, shelf: str, filename: str) -> File:
        """The file whose URL has that `shelf` and `filename`.

        One that no page we know lists is looked for on the page of the project that its filename
        names, so that URLs in lock files work with an empty cache. Raises FileNotListed, or an
        UpstreamError where upstream could not be asked.
        """
        if not is_directory(shelf) or not names.is_filename(filename):
            raise FileNotListed(filename)
        return self._measured(self._meant(shelf, filename))

    def _meant(self, shelf: str, filename: str) -> File:
        for suffix in (METADATA_SUFFIX, SIGNATURE_SUFFIX):
            if filename.endswith(suffix):
                listed = self._promising(self._file(shelf, filename, filename.removesuffix(suffix)))
                beside = listed.metadata if suffix == METADATA_SUFFIX else listed.signature
                if beside is not None:
                    return beside
                if listed.filename == filename:
                    return listed
                raise FileNotListed(filename)
        return self._file(shelf, filename, filename)

    def stored_age(self, file: File) -> float | None:
        """The seconds since `file` came, None when it is not held."""
        opened = self._store.open(file)
        if opened is None:
            return None
        with opened:
            return self.age(os.fstat(opened.fileno()).st_mtime)

    def still_stored(self, file: File, came: float) -> Callable[[], bool] | None:
        """Says whether `file`, held since `came`, is the answer now too, to the second of its age.

        None where it cannot be told.
        """
        shelf, name, seconds = file.directory, file.filename, int(self.age(came))
        catalog, store, upstream = self._catalog, self._store, self._upstream.url
        if catalog.recent_file(shelf, name, upstream) != file:
            # Not listed, or it lies beside one that is.
            return None

        def is_same() -> bool:
            if int(self.age(came)) != seconds or store.stored_at(file) != came:
                return False
            listed = catalog.recent_file(shelf, name, upstream)
            return listed is file or listed == file

        return is_same

    def age(self, came: float) -> float:
        """The seconds since `came`, itself in seconds since the epoch."""
        return max(0.0, self._clock() - came)

    def _measured(self, file: File) -> File:
        """`file`, with the size it had when it was verified where its page says none."""
        if file.size is not None:
            return file
        return replace(file, verified_size=self._catalog.verified_size(file.key))

    def _promising(self, file: File) -> File:
        """`file`, with core metadata promised where it is a wheel to read them out of."""
        reads = self._promises_metadata
        if reads and file.is_wheel and file.core_metadata is None:
            return replace(file, core_metadata=True)
        return file

    def _held_only(self, answer: PageAnswer) -> PageAnswer:
        """`answer` with the files that can be had without upstream."""
        page = self.content(answer)

        def hold() -> tuple[File, ...]:
            return tuple(file for file in page.files if self._store.has(file))

        files = off_loop(hold)
        held = "\n".join(file.key for file in files)
        revision = hashlib.sha256(f"{answer.entry.revision}\n{held}".encode()).hexdigest()
        entry = replace(answer.entry, revision=revision)
        return replace(answer, entry=entry, page=replace(page, files=files))

    def _file(self, shelf: str, filename: str, main: str) -> File:
        """The file `main`, or `filename` itself where it is held and no page lists `main`."""
        listed = self._catalog.file(shelf, main, self._upstream.url)
        if listed is not None:
            return listed
        candidates = names.projects_of(main)
        entries = [self._catalog.entry(name) for name in candidates]
        if any(entry is not None and entry.status == "quarantined" for entry in entries):
            raise FileNotListed(filename)
        unlisted = self._measured(File(filename=filename, url="", directory=shelf))
        if self._store.has(unlisted):
            return unlisted
        return self._look_for(shelf, main, candidates)

    def _look_for(self, shelf: str, filename: str, candidates: list[str]) -> File:
        trouble, outcome = None, Outcome.HIT.value
        for name in candidates:
            try:
                answer = self._freshness.answer(name, REFRESH_INTERVAL)
                page = self.content(answer)
            except ProjectNotFound as error:
                outcome = _later(outcome, error.outcome)
                continue
            except UpstreamError as error:
                trouble = trouble or error
                if isinstance(error, UpstreamUnreachable):
                    # Another wait as long as this one is more than a client has.
                    break
                continue
            for file in page.files:
                if file.directory == shelf and file.filename == filename:
                    return file
            # The copy of a page cannot tell that the file is not on the page.
            trouble = trouble or answer.trouble
            outcome = _later(outcome, answer.outcome.value)
        raise trouble or FileNotListed(filename, outcome)


def _later(outcome: str, then: str) -> str:
    """How what needed both came to be."""
    return outcome if then == Outcome.HIT.value else then
