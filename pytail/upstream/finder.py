"""Finds the root of the upstream index, by asking.

A root is proven by a project page below it. The page that a client asks for proves most roots, so that
finding out costs no request of its own. Where no possible root has that page, the project may be
missing. Then the projects that the roots list are tried.

A path that hangs beside the root delays the page by seconds only: meanwhile the other roots are asked.

Nothing is remembered but a proven root. So an upstream that is down or sends login pages is asked
again by the next request.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Generic, Protocol, TypeAlias, TypeVar

from pytail.errors import (
    UpstreamError,
    UpstreamGarbled,
    UpstreamNotIndex,
    UpstreamRefused,
    UpstreamUnreachable,
)
from pytail.runtime.race import first_result
from pytail.runtime.singleflight import SingleFlight
from pytail.simple.listing import ProjectList
from pytail.telemetry.access import for_client
from pytail.upstream.root import IndexRoot, Root

#: Seconds without an answer of one root after which the next one is asked too. Three roots are asked
#: within the 9 seconds that a client waits, and a slow one has time to answer.
_PATIENCE = 2.0


class HasProof(Protocol):
    """A response to a request for a page."""

    @property
    def is_proof(self) -> bool:
        """Whether only an index sends such a response."""

    @property
    def has_files(self) -> bool:
        """Whether it is a page with files, as pages for people can be too."""


Answer = TypeVar("Answer", bound=HasProof)
Search: TypeAlias = Callable[[], Root | None]
#: Calls a function and returns its result.
Wait: TypeAlias = Callable[[Search], Root | None]


class _Unproven(Exception):
    """No page that was asked for proves a root."""


class RootFinder(Generic[Answer]):
    """Finds the root of one index, once."""

    def __init__(self, root: IndexRoot) -> None:
        self._root = root
        self._searches: SingleFlight[Root | None] = SingleFlight()

    def first(
        self,
        ask: Callable[[Root], Answer],
        beside: Callable[[Root], Answer],
        search: Search,
        wait: Wait,
    ) -> Answer:
        """Return the answer of `ask`, which asks for the page of one project, at the root that is found.

        `beside` asks as `ask` does, while that waits. `search` finds the root by `root_by_lists`.
        `wait` waits for the search of another request. Raises UpstreamNotIndex where no possible root
        is one, or another UpstreamError.
        """
        answers: dict[Root, Answer | UpstreamError] = {}
        with contextlib.suppress(_Unproven):
            root = first_result(self._rounds(answers, ask, beside), _PATIENCE, lambda _: None)
            self._root.find(root)
            return answers[root]  # type: ignore[return-value]
        answers = {root: answers[root] for root in self._root.candidates}
        answer = answers[self._search(answers, search, wait)]
        if isinstance(answer, UpstreamError):
            raise answer
        return answer

    def _rounds(
        self,
        answers: dict[Root, Answer | UpstreamError],
        ask: Callable[[Root], Answer],
        beside: Callable[[Root], Answer],
    ) -> Iterator[Callable[[], Root]]:
        """Yield functions that ask the roots not asked yet, and return the one that is proven.

        Each notes its `answers`, and raises _Unproven at the end.
        """
        left = deque(self._root.candidates)

        def go_round(ask: Callable[[Root], Answer]) -> Root:
            while left:
                root = left.popleft()
                answers[root] = _answer(ask, root)
                if _is_proof(answers[root]):
                    return root
            raise _Unproven

        # Before the first round: what asks for further ones is a greenlet without a client.
        another = for_client(partial(go_round, beside))
        yield partial(go_round, ask)
        while left:
            yield another

    def _search(
        self, answers: dict[Root, Answer | UpstreamError], search: Search, wait: Wait
    ) -> Root:
        """Return the root, found by the lists of projects; `answers` are those for one project.

        Raises an UpstreamError.
        """
        first = answers[self._root.candidates[0]]
        # Meanwhile, the page of another project may have proven a root. The catalog is not asked: it may
        # be closed while a request goes on.
        if (known := self._root.found) is not None:
            return known
        if isinstance(first, UpstreamError) and all(map(_is_trouble, answers.values())):
            # The host fails, and would fail for each list too.
            raise first
        try:
            # As above, also a root that has no list.
            found = self._shared(search, wait) or self._root.found
        except UpstreamError:
            if isinstance(first, UpstreamError):
                raise first from None
            raise
        if found is None:
            # Some indexes have pages with menus, and nothing here speaks for another root.
            found = next((root for root, answer in answers.items() if _has_files(answer)), None)
        if found is None:
            raise UpstreamNotIndex(self._root.base_url, _tried(answers))
        self._root.find(found)
        return found

    def _shared(self, search: Search, wait: Wait) -> Root | None:
        """Return the result of the search in progress, or of a new one."""

        def run() -> Root | None:
            return self._searches.run("root", for_client(search))

        return wait(run) if "root" in self._searches else run()


def root_by_lists(
    candidates: Iterable[Root],
    ask: Callable[[Root, str], HasProof],
    list_projects: Callable[[Root], ProjectList | None],
) -> Root | None:
    """Return the first of `candidates` that is the root by its list of projects; None: there is none.

    `ask` takes a root and a project. Raises an UpstreamError where one of the lists fails.
    """
    likely, failure = None, None
    for root in candidates:
        try:
            listed = list_projects(root)
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
        has_files = False
        for project in listed.projects:
            answer = _asked(ask, root, project)
            if _is_proof(answer):
                return root
            has_files = has_files or _has_files(answer)
        if listed.is_certain or has_files:
            likely = likely or root
    if failure is not None:
        raise failure
    return likely


def _asked(
    ask: Callable[[Root, str], HasProof], root: Root, project: str
) -> HasProof | UpstreamError:
    return _answer(lambda root: ask(root, project), root)


def _answer(ask: Callable[[Root], Answer], root: Root) -> Answer | UpstreamError:
    """Return what `ask` returns, or the error that it raises."""
    try:
        return ask(root)
    except UpstreamError as error:
        return error


def _is_proof(answer: HasProof | UpstreamError) -> bool:
    return not isinstance(answer, UpstreamError) and answer.is_proof


def _has_files(answer: HasProof | UpstreamError) -> bool:
    return not isinstance(answer, UpstreamError) and answer.has_files


def _is_trouble(answer: object) -> bool:
    """Return whether `answer` shows a host in trouble, and nothing of the page."""
    if isinstance(answer, UpstreamRefused):
        return answer.status >= 500 or answer.status == 429
    return isinstance(answer, UpstreamUnreachable)


def _tried(answers: dict[Root, Answer | UpstreamError]) -> str:
    """Return the roots that were asked, each with its answer. The path above them may be a secret."""
    *others, last = (f"...{root.suffix} ({_shown(answer)})" for root, answer in answers.items())
    return f"{', '.join(others)} and {last}"


def _shown(answer: object) -> str:
    return answer.reason if isinstance(answer, UpstreamError) else "no such project"
