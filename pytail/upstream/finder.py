"""Finds the root of the upstream index, by asking.

A root is proven by a project page below it. The page that a client asks for proves most roots, so that
finding out costs no request of its own. Where no possible root has that page, the project may be
missing. Then the projects that the roots list are tried.

Nothing is remembered but a proven root. So an upstream that is down or sends login pages is asked
again by the next request.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, Protocol, TypeGuard, TypeVar

from pytail.errors import (
    UpstreamError,
    UpstreamGarbled,
    UpstreamNotIndex,
    UpstreamRefused,
    UpstreamUnreachable,
)
from pytail.runtime.singleflight import SingleFlight
from pytail.simple.listing import ProjectList
from pytail.telemetry.access import for_client
from pytail.upstream.root import IndexRoot, Root


class _HasProof(Protocol):
    """A response to a request for a page."""

    @property
    def is_proof(self) -> bool:
        """Whether only an index sends such a response."""


Answer = TypeVar("Answer", bound=_HasProof)


class RootFinder(Generic[Answer]):
    """Finds the root of one index, once."""

    def __init__(
        self,
        root: IndexRoot,
        ask: Callable[[str, str], Answer],
        list_projects: Callable[[str], ProjectList | None],
    ) -> None:
        """`ask` takes the URL of a page and its project; `list_projects` takes the URL of a root.

        Both raise an UpstreamError.
        """
        self._root, self._ask, self._list = root, ask, list_projects
        self._searches: SingleFlight[Root | None] = SingleFlight()

    def first(self, project: str) -> Answer:
        """Return the answer of upstream for `project` (normalized), and find the root by that.

        Raises UpstreamNotIndex where no possible root is one, or another UpstreamError.
        """
        answers: dict[Root, Answer | UpstreamError] = {}
        for root in self._root.candidates:
            answer = answers[root] = self._answer(root, project)
            if isinstance(answer, UpstreamUnreachable) and len(answers) == 1:
                # The host is down. Later, when it has answered, one path may be what hangs.
                raise answer
            if not isinstance(answer, UpstreamError) and answer.is_proof:
                self._root.find(root)
                return answer
        answer = answers[self._search(answers)]
        if isinstance(answer, UpstreamError):
            raise answer
        return answer

    def _answer(self, root: Root, project: str) -> Answer | UpstreamError:
        """Return the answer for `project` at `root`, or the error."""
        try:
            return self._ask(root.page_url(project), project)
        except UpstreamError as error:
            return error

    def _search(self, answers: dict[Root, Answer | UpstreamError]) -> Root:
        """Return the root, found by the lists of projects; `answers` are those for one project.

        Raises an UpstreamError.
        """
        first = answers[self._root.candidates[0]]
        if _is_failure(first):
            # Most likely the host fails, and would fail for each list too.
            raise first
        try:
            found = self._searches.run("root", for_client(self._search_lists))
            # Meanwhile, the page of another project may have proven a root that has no list.
            found = found or self._root.known
        except UpstreamError:
            if isinstance(first, UpstreamError):
                raise first from None
            raise
        if found is None:
            raise UpstreamNotIndex(self._root.base_url, _tried(answers))
        self._root.find(found)
        return found

    def _search_lists(self) -> Root | None:
        """Return the first root that is one by its list of projects, None where there is none.

        Raises an UpstreamError.
        """
        likely, failure = None, None
        for root in self._root.candidates:
            try:
                listed = self._list(root.url)
            except UpstreamGarbled:
                continue
            except UpstreamError as error:
                failure = failure or error
                continue
            if listed is None:
                continue
            if listed.is_certain and root.is_named:
                return root
            # The pages may be elsewhere: devpi lists the projects of `INDEX/+simple/` at `INDEX/` too.
            if any(_is_proof(self._answer(root, project)) for project in listed.projects):
                return root
            if listed.is_certain:
                likely = likely or root
        if failure is not None:
            raise failure
        return likely


def _is_proof(answer: _HasProof | UpstreamError) -> bool:
    return not isinstance(answer, UpstreamError) and answer.is_proof


def _is_failure(answer: object) -> TypeGuard[UpstreamRefused]:
    """Return whether `answer` shows a host in trouble, and nothing of the page."""
    return isinstance(answer, UpstreamRefused) and (answer.status >= 500 or answer.status == 429)


def _tried(answers: dict[Root, Answer | UpstreamError]) -> str:
    """Return the roots that were asked, each with its answer. The path above them may be a secret."""
    *others, last = (f"...{root.suffix} ({_shown(answer)})" for root, answer in answers.items())
    return f"{', '.join(others)} and {last}"


def _shown(answer: object) -> str:
    return answer.reason if isinstance(answer, UpstreamError) else "no such project"
