"""An upstream that moves the links of its files: other paths, other hosts, and signatures that expire."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

from tests.support.fakeindex import Dist, FakeIndex, reply
from tests.support.sending import Sending


class Moving:
    """The files of `index`, each at a link that `move` changes; its core metadata lies beside it."""

    def __init__(self, index: FakeIndex, *dists: Dist, is_signed: bool = False) -> None:
        """With `is_signed`, the path stays, and the signature in the query changes."""
        self.index, self.dists, self._is_signed = index, dists, is_signed
        self._numbers = itertools.count(1)
        #: The answer of a link that has moved.
        self.refusal = reply(b"moved", "text/plain", "404 Not Found")
        #: The ETag of pages, which hides that their links moved; None: as `FakeIndex` makes it.
        self.etag: str | None = None
        self.number = 0
        index.add(*dists)
        self.move()

    def move(self, host: str = "../..") -> None:
        """List each file at a new link, below `host`, and refuse the links of before."""
        self.number = next(self._numbers)
        for dist in self.dists:
            dist.extra["url"] = f"{host}{self.link(dist)}"
            for suffix, data in (("", dist.data), (".metadata", dist.metadata)):
                if data is not None:
                    self._answer(dist, suffix, data)

    def link(self, dist: Dist) -> str:
        """Return path and query of the present link of `dist`."""
        name = quote(dist.filename)
        return f"/signed/{name}?sig={self.number}" if self._is_signed else f"/{self.number}/{name}"

    def gone(self, dist: Dist) -> None:
        """Refuse the present link of `dist` too."""
        number, self.number = self.number, -1
        path = f"/signed/{dist.filename}" if self._is_signed else f"/{number}/{dist.filename}"
        self.index.answers[path] = self.refusal

    def _answer(self, dist: Dist, suffix: str, data: bytes) -> None:
        path = f"/signed/{dist.filename}" if self._is_signed else f"/{self.number}/{dist.filename}"
        number, good = self.number, Sending(data)

        def answer(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            is_present = number == self.number
            if self._is_signed:
                is_present = environ["QUERY_STRING"] == f"sig={self.number}"
            return (good if is_present else self.refusal)(environ, start_response)

        self.index.answers[path + suffix] = answer
