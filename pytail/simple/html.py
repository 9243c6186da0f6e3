"""The HTML form of the Simple API (PEP 503, 592, 658, 714, 740, 792): parse and render."""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterable, Mapping
from html import escape

from lxml import etree

from pytail import urls
from pytail.errors import NoProjectPage, PageUnreadable
from pytail.model import File, ProjectPage, directory_of
from pytail.simple import fields, listing, names

#: The last version of the HTML form (PEP 833).
REPOSITORY_VERSION = "1.4"

#: The name of the meta element with the version.
_VERSION = "pypi:repository-version"
#: A fragment names one hash. The algorithms that most clients read come first, above all uv.
_FRAGMENT_HASHES = ("sha256", "sha512", "sha384", "md5", "sha1")
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_META_CHARSET = re.compile(rb"<meta\s[^>]*charset\s*=\s*[\"']?\s*([\w.:-]+)", re.IGNORECASE)


def parse(
    body: bytes, url: str, project: str, charset: str | None = None, *, is_delimited: bool = True
) -> ProjectPage:
    """Return the page of `project` (normalized) in `body`.

    `url` is the URL of the page, the base of relative links without ``<base>``. `charset` is the
    one of the Content-Type; None: the charset of the document, else UTF-8. Without `is_delimited`, only
    the markup can tell that the end of `body` is missing. Raises PageUnreadable
    where `body` does not look like a project page, such as the login page of a captive portal;
    NoProjectPage where it is a list of projects or directories.
    """
    text = _text(body, charset)
    if not is_delimited:
        _require_end(text)
    markup = text.encode("utf-8", "replace")
    tags = _tags(markup)
    version = tags.metas.get(_VERSION, "1.0")
    if version.partition(".")[0] != "1":
        raise PageUnreadable(f"its repository version is {version[:20]!r}, which is not 1.x")
    # The first <base> with an href counts, but only where the href is an http URL.
    base = urls.http_url(tags.base, url) or url
    found = (_file(attributes, base, project) for attributes in tags.anchors)
    files = fields.unique(file for file in found if file is not None)
    if not files:
        _require_empty(_tree(markup), base, project, is_marked=_VERSION in tags.metas)
    status = fields.status(tags.metas.get("pypi:project-status"))
    reason = fields.text(tags.metas.get("pypi:project-status-reason"))
    files = () if status == "quarantined" else files
    return ProjectPage(
        name=project,
        files=files,
        versions=fields.versions_of(files, project),
        status=status,
        status_reason=reason if status else None,
    )


class _Tags:
    """The start tags that matter, as lxml's parser finds them (https://lxml.de/parsing.html).

    No tree is built, because a tree has a maximum depth and a place for each tag. Indexes write
    neither well-formed nor valid HTML, and pip looks at the start tags alone.
    """

    def __init__(self) -> None:
        #: The content by name, in lower case.
        self.metas: dict[str, str] = {}
        #: The href of the first ``<base>`` that has one.
        self.base: str | None = None
        #: The attributes of each ``<a>``.
        self.anchors: list[Mapping[str, str]] = []

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        """Take a start tag; names are in lower case."""
        if tag == "a":
            self.anchors.append(attributes)
        elif tag == "meta":
            self.metas[attributes.get("name", "").lower()] = attributes.get("content", "")
        elif tag == "base" and self.base is None:
            self.base = attributes.get("href")

    def close(self) -> _Tags:
        """Return the tags: the result of the parser."""
        return self


def _tags(markup: bytes) -> _Tags:
    tags = _Tags()
    parser = etree.HTMLParser(target=tags, encoding="utf-8", huge_tree=True)
    try:
        etree.fromstring(markup, parser)
    except (etree.XMLSyntaxError, ValueError) as error:
        raise PageUnreadable(f"the HTML is broken: {error}") from None
    # At its limits the parser stops, and the result would look like a page with fewer files.
    if fatal := parser.error_log.filter_from_fatals():
        raise PageUnreadable(f"the parser stopped before the end of the HTML: {fatal[0].message}")
    return tags


def _require_end(text: str) -> None:
    lowered = text.lower()
    is_open = "<html" in lowered and "</html" not in lowered
    if is_open or text.rfind("<") > text.rfind(">"):
        raise PageUnreadable("the HTML is truncated: a tag is not closed")


def _text(body: bytes, charset: str | None) -> str:
    # Decoded here: lxml fails in several ways on bytes that are not of the charset.
    declared = _META_CHARSET.search(body, 0, 2048)
    if charset is None and declared is not None:
        charset = declared[1].decode("ascii", "replace")
    # A byte order mark overrides both (https://encoding.spec.whatwg.org/#decode).
    charset = next((name for mark, name in _MARKS if body.startswith(mark)), charset)
    try:
        return body.decode(charset or "utf-8", "replace")
    except (LookupError, ValueError):
        return body.decode("utf-8", "replace")


def _tree(markup: bytes) -> etree._Element | None:
    """Return the tree of `markup`; None where there is nothing in it."""
    parser = etree.HTMLParser(encoding="utf-8", huge_tree=True, remove_comments=True)
    try:
        return etree.fromstring(markup, parser)
    except (etree.XMLSyntaxError, ValueError):
        return None


def _require_empty(
    root: etree._Element | None, base: str, project: str, *, is_marked: bool
) -> None:
    """Raise PageUnreadable where the document `root`, which lists no file, is no page of `project`."""
    if root is not None and listing.is_of_directories(root, base):
        raise NoProjectPage
    if not is_marked and not _is_empty(root, project):
        raise PageUnreadable(f"the HTML lists no file of {project!r} and is not an empty listing")


def _is_empty(root: etree._Element | None, project: str) -> bool:
    # In an empty listing an index names the project in the title or heading, or has no text.
    if root is None or listing.is_interactive(root):
        return False
    headings = " ".join("".join(element.itertext()) for element in root.iter("title", "h1"))
    if project in map(names.normalized, re.split(r"[\s/]+", headings)):
        return True
    return not "".join(root.itertext()).strip() and next(root.iter("a"), None) is None


def _file(attributes: Mapping[str, str], base: str, project: str) -> File | None:
    href, _, fragment = attributes.get("href", "").partition("#")
    url = urls.http_url(href, base)
    if url is None:
        return None
    filename = urls.filename_in(url)
    is_file = names.is_filename(filename) and names.is_distribution(filename)
    if not is_file or not names.is_of_project(filename, project):
        return None
    hashes = fields.hash_in(fragment)
    size = fields.decimal(attributes.get("data-size"))
    signature = attributes.get("data-gpg-sig")
    return File(
        filename=filename,
        url=url,
        directory=directory_of(hashes, url, size),
        hashes=hashes,
        size=size,
        upload_time=fields.upload_time(attributes.get("data-upload-time")),
        requires_python=fields.text(attributes.get("data-requires-python")),
        yanked=attributes["data-yanked"].strip() or True if "data-yanked" in attributes else False,
        core_metadata=_core_metadata(
            attributes.get("data-core-metadata", attributes.get("data-dist-info-metadata", ""))
        ),
        gpg_sig=signature.lower() == "true" if signature else None,
        provenance=fields.provenance(attributes.get("data-provenance"), base),
    )


def _core_metadata(value: str) -> dict[str, str] | bool | None:
    if value.strip().lower() in ("", "false"):
        return None
    return fields.hash_in(value) or True


def render(page: ProjectPage, href: Callable[[File], str]) -> bytes:
    """Return the body of `page`; `href` returns the URL of a file."""
    head = ""
    if page.status is not None:
        head = _meta("pypi:project-status", page.status)
        if page.status_reason is not None:
            head += _meta("pypi:project-status-reason", page.status_reason)
    lines = [_anchor(file, href(file)) for file in page.files]
    return _page(f"Links for {page.name}", head, lines)


def render_projects(projects: Iterable[str]) -> bytes:
    """Return the body of the project list, with relative links."""
    lines = [f'<a href="{escape(name)}/">{escape(name)}</a><br>' for name in projects]
    return _page("Simple index", "", lines)


def _page(title: str, head: str, lines: Iterable[str]) -> bytes:
    # pip 22.0 requires exactly this doctype. No <base>: a relative one breaks every client.
    opening = (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"{_meta('pypi:repository-version', REPOSITORY_VERSION)}{head}"
        f"<title>{escape(title)}</title>\n</head>\n<body>\n<h1>{escape(title)}</h1>\n"
    )
    return "\n".join([opening, *lines, "</body>\n</html>\n"]).encode()


def _meta(name: str, content: str) -> str:
    return f'<meta name="{name}" content="{escape(content)}">\n'


def _anchor(file: File, url: str) -> str:
    fragment = _expression(file.hashes)
    attributes = [("href", f"{url}#{fragment}" if fragment else url)]
    if file.requires_python is not None:
        attributes.append(("data-requires-python", file.requires_python))
    if file.core_metadata:
        known = file.core_metadata if isinstance(file.core_metadata, Mapping) else {}
        value = _expression(known) or "true"
        attributes += [("data-dist-info-metadata", value), ("data-core-metadata", value)]
    if file.yanked:
        attributes.append(("data-yanked", file.yanked if isinstance(file.yanked, str) else ""))
    if file.gpg_sig is not None:
        attributes.append(("data-gpg-sig", "true" if file.gpg_sig else "false"))
    if file.provenance is not None:
        attributes.append(("data-provenance", file.provenance))
    text = " ".join(f'{name}="{escape(value)}"' for name, value in attributes)
    return f"<a {text}>{escape(file.filename)}</a><br>"


def _expression(hashes: Mapping[str, str]) -> str:
    for name in _FRAGMENT_HASHES:
        if name in hashes:
            return f"{name}={hashes[name]}"
    return ""
