"""Project pages asked for again within a second, answered without entering Falcon.

Nothing is decided here. Whether the page is fresh is asked anew each time, where it is always asked;
and only when that gives the same answer as it gave before, for the same question, the same response
is sent again. Its headers count in seconds, so a response is good for one second at most.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from pytail.freshness import Answer
from pytail.index import Index

#: In a WSGI environment: the answer that a response shows, and how old it might have been.
ANSWER = "pytail.answer"

#: What a response of a project page depends on, beside the answer.
_QUESTION = (
    "REQUEST_METHOD", "PATH_INFO", "QUERY_STRING", "HTTP_ACCEPT", "HTTP_ACCEPT_ENCODING",
    "HTTP_CACHE_CONTROL", "HTTP_IF_NONE_MATCH",
)  # fmt: skip
#: Characters; a longer question is no client's of an index.
_LONGEST = 2000


@dataclass(frozen=True, slots=True)
class _Response:
    project: str
    max_age: float
    moment: tuple[Any, ...]
    status: str
    headers: list[tuple[str, str]]
    body: list[bytes]


class ReadyPages:
    """A WSGI application that answers for `application` where it would say the same again."""

    def __init__(self, application: Callable[..., Iterable[bytes]], index: Index) -> None:
        self._application, self._index = application, index
        self._responses: dict[tuple[str | None, ...], _Response] = {}
        #: When those there are began to be kept: each pass of a second starts anew.
        self._second = 0

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """As WSGI has it (PEP 3333)."""
        question = tuple(map(environ.get, _QUESTION))
        ready = self._responses.get(question)
        if ready is not None:
            answer = self._index.fresh(ready.project, ready.max_age)
            if answer is not None and _moment(answer) == ready.moment:
                self._index.tell(answer)
                # A copy: whoever is around may add to it.
                start_response(ready.status, ready.headers.copy())
                return ready.body
        return self._ask(question, environ, start_response)

    def _ask(
        self, question: tuple[str | None, ...], environ: dict[str, Any], start_response: Any
    ) -> Iterable[bytes]:
        said = ("", list[tuple[str, str]]())

        def begin(status: str, headers: list[tuple[str, str]], *failure: Any) -> Any:
            nonlocal said
            said = status, headers.copy()
            return start_response(status, headers, *failure)

        body = self._application(environ, begin)
        answer, max_age = environ.get(ANSWER, (None, 0.0))
        if answer is not None and isinstance(body, list):
            project, (status, headers) = answer.entry.name, said
            response = _Response(project, max_age, _moment(answer), status, headers, body)
            self._keep(question, response)
        return body

    def _keep(self, question: tuple[str | None, ...], response: _Response) -> None:
        second = int(time.monotonic())
        if second != self._second:
            # Bodies are kept elsewhere, up to a limit: here only those just sent.
            self._second, self._responses = second, {}
        if sum(len(part) for part in question if part) <= _LONGEST:
            self._responses[question] = response


def _moment(answer: Answer) -> tuple[Any, ...]:
    """All of `answer` that a response shows."""
    return answer.entry, answer.outcome, int(answer.age), int(answer.fresh_for)
