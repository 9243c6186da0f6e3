"""The root of the upstream index: the URL right above its project pages.

Clients name an index by its root, which may have any name. Operators also name the URL above
``/simple/`` or ``/+simple/``. So the configured URL leaves a few roots to choose from, and
`pytail.upstream.finder` finds out which of them has the pages.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import unquote

from pytail.urls import without_credentials

log = logging.getLogger("pytail.upstream")

#: What may lie between the configured URL and the project pages. The URL itself is the last, because
#: some servers have pages for people below it.
_SUFFIXES = ("/simple/", "/+simple/", "/")
#: Names that only roots have. A configured URL that ends in one is the root, most likely.
_ROOT_NAMES = ("simple", "+simple")
_SIMPLE = "/simple/"


@dataclass(frozen=True, slots=True)
class Root:
    """One URL that may be the root; it ends with a slash and has no credentials."""

    url: str
    #: The end of `url` that the configured URL does not have.
    suffix: str
    #: The name of the index in the catalog: the URL above ``/simple/``, or else the root. One index has
    #: one name, however its URL is spelled. Only the second form ends with a slash.
    key: str

    def page_url(self, project: str) -> str:
        """Return the URL of the page of `project` (normalized)."""
        return f"{self.url}{project}/"

    @property
    def is_named(self) -> bool:
        """Whether the root has a name that only roots have."""
        return _last_name(self.url) in _ROOT_NAMES


def roots_of(base_url: str) -> tuple[Root, ...]:
    """Return the possible roots for the configured URL, which has no slash at its end.

    The likeliest is the first.
    """
    base, suffixes = without_credentials(base_url), _SUFFIXES
    if _last_name(base) in _ROOT_NAMES:
        suffixes = (_SUFFIXES[-1], *_SUFFIXES[:-1])
    urls = {suffix: base + suffix for suffix in suffixes}
    return tuple(Root(url, suffix, url.removesuffix(_SIMPLE)) for suffix, url in urls.items())


def _last_name(url: str) -> str:
    return unquote(url.rstrip("/").rpartition("/")[2])


class IndexRoot:
    """The root of one index, once it is found."""

    def __init__(self, base_url: str, recall: Callable[[Sequence[str]], str | None]) -> None:
        """`recall` returns the first of some keys under which the catalog knows a project, or None.

        So the catalog is the memory of the root, for other processes and after a restart.
        """
        #: The configured URL without credentials.
        self.base_url = without_credentials(base_url)
        #: The likeliest first.
        self.candidates = roots_of(base_url)
        self._recall = recall
        #: None also where only the catalog knows the root.
        self.found: Root | None = None

    @property
    def known(self) -> Root | None:
        """The root, None while it is not found. Waits for the catalog while it is not found."""
        if self.found is None:
            key = self._recall([root.key for root in self.candidates])
            recalled = next((root for root in self.candidates if root.key == key), None)
            # Meanwhile another greenlet may have found the root, and the catalog not have it yet.
            self.found = self.found or recalled
        return self.found

    @property
    def likeliest(self) -> Root:
        """The root, the likeliest one while it is not found."""
        return self.known or self.candidates[0]

    @property
    def key(self) -> str:
        """The key of `likeliest`, for each request."""
        return self.likeliest.key if self.found is None else self.found.key

    def find(self, root: Root) -> None:
        """Note that `root` is the root, from now on."""
        if self.found is None:
            log.info("found the index %s: its pages are below %s", self.base_url, root.url)
            self.found = root
