"""Lists of projects, as the root of an index sends them (PEP 503, PEP 691), and of directories."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from lxml import etree

from pytail import urls
from pytail.simple import names

#: The beginning of the media types that only the Simple API has (PEP 691).
_OWN_TYPES = "application/vnd.pypi.simple."
#: Projects of a `ProjectList` at most.
_MAX_PROJECTS = 3

_JSON_NAME = re.compile(rb'"name"\s*:\s*"([^"\\]{1,200})"')
#: Titles of lists without projects: of indexes, and of web servers that list directories.
_TITLE = re.compile(r"\bsimple (?:index|list)|directory listing|\bindex of\b", re.IGNORECASE)
#: Elements of pages for people, such as login pages.
_INTERACTIVE = ("form", "input", "script", "iframe")


@dataclass(frozen=True, slots=True)
class ProjectList:
    """The beginning of a list of projects."""

    #: The first projects (normalized), at most 3; none where the list is empty.
    projects: tuple[str, ...]
    #: Whether this is the list of an index beyond doubt, or of a web server without projects.
    is_certain: bool


def project_list(start: bytes, url: str, kind: str) -> ProjectList | None:
    """Return the list of projects that begins with the bytes `start`; None where it is no such list.

    `url` is that of the list, `kind` its media type: one of the Simple API, JSON or HTML.
    """
    found = _in_json(start) if kind.endswith("json") else _in_html(start, url)
    listed = (names.normalized(name) for name in found.names if names.is_project_name(name))
    projects = tuple(dict.fromkeys(listed))[:_MAX_PROJECTS]
    is_certain = found.is_certain or kind.startswith(_OWN_TYPES)
    return ProjectList(projects, is_certain) if projects or is_certain else None


def is_of_directories(root: etree._Element, base: str) -> bool:
    """Return whether all links of the HTML document `root` lead to directories.

    `base` is the base of relative links. A directory below it may have any text. Others are named by
    their link, as projects in a list are; links of login pages seldom are. Links to the page itself,
    sorted otherwise, and to directories above it do not count.
    """
    if is_interactive(root):
        return False
    links = [(path, text) for path, text in _links(root, base) if not _is_upward(path, base)]
    return bool(links) and all(_is_directory(path, text, base) for path, text in links)


def is_interactive(root: etree._Element) -> bool:
    """Return whether the HTML document `root` has a form or a script, as pages for people have."""
    return next(root.iter(*_INTERACTIVE), None) is not None


class _Found(NamedTuple):
    #: What may be names of projects.
    names: list[str]
    is_certain: bool


def _in_json(start: bytes) -> _Found:
    _, key, projects = start.partition(b'"projects"')
    found = [match[1].decode("utf-8", "replace") for match in _JSON_NAME.finditer(projects)]
    return _Found(found, bool(key))


def _in_html(start: bytes, url: str) -> _Found:
    """Return the names of what lies right below `url`."""
    root = _document(start)
    if root is None:
        return _Found([], False)
    paths = [path for path, _ in _links(root, url) if not _is_upward(path, url)]
    below = urlsplit(url).path
    children = [path.removeprefix(below).rstrip("/") for path in paths if path.startswith(below)]
    titles = " ".join("".join(each.itertext()) for each in root.iter("title", "h1"))
    is_empty = _TITLE.search(titles) is not None and not paths and not is_interactive(root)
    is_certain = is_empty or b"pypi:repository-version" in start
    return _Found([name for name in children if not names.is_distribution(name)], is_certain)


def _document(start: bytes) -> etree._Element | None:
    try:
        return etree.fromstring(start, etree.HTMLParser(encoding="utf-8", remove_comments=True))
    except (etree.XMLSyntaxError, ValueError):
        return None


def _links(root: etree._Element, base: str) -> Iterator[tuple[str, str]]:
    """Yield the path and the text of each link; the path "" for a link to another host."""
    for anchor in root.iter("a"):
        target = urls.http_url(anchor.get("href"), base)
        if target is not None:
            is_own = urls.origin(target) == urls.origin(base)
            path = unquote(urlsplit(target).path) if is_own else ""
            yield path, "".join(anchor.itertext()).strip()


def _is_upward(path: str, base: str) -> bool:
    page = urlsplit(base).path
    return path == page or (path.endswith("/") and page.startswith(path))


def _is_directory(path: str, text: str, base: str) -> bool:
    name = path.rstrip("/").rpartition("/")[2]
    is_named = names.normalized(text.rstrip("/")) == names.normalized(name)
    return path.endswith("/") and (is_named or path.startswith(urlsplit(base).path))
