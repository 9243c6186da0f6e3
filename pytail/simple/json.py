"""The JSON form of the Simple API (PEP 691, 700, 714, 740, 792): parse and render."""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import orjson

from pytail import urls
from pytail.errors import NoProjectPage, PageUnreadable
from pytail.model import File, ProjectPage, directory_of
from pytail.simple import fields, json_chunks, names

#: The newest version that pytail sends, and the version of pages without the sizes and versions
#: that 1.1 requires (PEP 700).
API_VERSION, API_VERSION_WITHOUT_SIZES = "1.4", "1.0"

_PAGE_KEYS = frozenset(
    {"meta", "name", "files", "versions", "project-status", "project-status-reason"}
    # Dropped: PEP 708 is rejected, and PEP 752 needs endpoints that pytail does not have.
    | {"tracks", "alternate-locations", "namespaces"}
)
#: The key of PEP 714, the key before it (PEP 658), and a common misspelling of that.
_METADATA_KEYS = ("core-metadata", "dist-info-metadata", "data-dist-info-metadata")
#: A URL within a string, or a relative one that is the string.
_URL = re.compile(rb'(?://|\\\\\\\\)[\w%\[]|"(?:\.{0,2}/|\?)[\w%.]')
_FILE_KEYS = frozenset(
    {"filename", "url", "hashes", "size", "upload-time", "requires-python", "yanked"}
    | {*_METADATA_KEYS, "data-core-metadata", "gpg-sig", "provenance"}
)


def parse(body: bytes, url: str, project: str) -> ProjectPage:
    """Return the page of `project` (normalized) in `body`.

    `url` is the URL of the page, the base of relative links. Raises PageUnreadable where `body` is
    not a page, has another API version than 1.x, or is the page of another project; NoProjectPage
    where it is a list of projects.
    """

    def file(entry: object) -> File | None:
        return _file(entry, url) if isinstance(entry, dict) else None

    try:
        data, found = json_chunks.decoded(body.removeprefix(codecs.BOM_UTF8), file)
    except ValueError as error:
        raise PageUnreadable(f"the JSON is broken: {error}") from None
    if found is None and isinstance(data, dict) and isinstance(data.get("projects"), list):
        raise NoProjectPage
    if found is None:
        raise PageUnreadable("the JSON is not a project page: it has no list of files")
    meta = data["meta"] if isinstance(data.get("meta"), dict) else {}
    _check_version(meta.get("api-version"))
    name = fields.text(data.get("name"))
    if name is not None and names.normalized(name) != project:
        raise PageUnreadable(f"the page is for {name[:80]!r}, not for {project!r}")
    files = fields.unique(file for file in found if file is not None)
    status, reason = _status(data, meta)
    return ProjectPage(
        name=project,
        files=() if status == "quarantined" else files,
        versions=fields.versions(data.get("versions")) or fields.versions_of(files, project),
        status=status,
        status_reason=reason,
        last_serial=fields.serial(meta.get("_last-serial")),
        other=_other(data, _PAGE_KEYS),
    )


def _check_version(version: object) -> None:
    is_given = isinstance(version, (str, int, float)) and not isinstance(version, bool)
    text = str(version) if is_given and version != "" else "1.0"
    if text.partition(".")[0] != "1":
        raise PageUnreadable(f"its api-version is {text[:20]!r}, which is not 1.x")


def _status(data: dict[str, Any], meta: dict[str, Any]) -> tuple[str | None, str | None]:
    # PEP 792 has an object at the top level, its example has it in meta, and old drafts a string.
    value = data.get("project-status") or meta.get("project-status")
    if isinstance(value, dict):
        status, reason = value.get("status"), value.get("reason")
    else:
        status, reason = value, meta.get("project-status-reason")
    known = fields.status(status)
    return known, fields.text(reason) if known else None


def _file(entry: dict[str, Any], base: str) -> File | None:
    filename, url = entry.get("filename"), urls.http_url(entry.get("url"), base)
    if not isinstance(filename, str) or not names.is_filename(filename) or url is None:
        return None
    hashes, size = fields.hashes(entry.get("hashes")), fields.size(entry.get("size"))
    if "#" in entry["url"]:
        hashes = fields.hash_in(entry["url"].partition("#")[2]) | hashes
    metadata = None
    for key in _METADATA_KEYS:
        metadata = entry.get(key)
        if metadata is not None:
            break
    signed = entry.get("gpg-sig")
    return File(
        filename=filename,
        url=url,
        directory=directory_of(hashes, url, size),
        hashes=hashes,
        size=size,
        upload_time=fields.upload_time(entry.get("upload-time")),
        requires_python=fields.text(entry.get("requires-python")),
        yanked=fields.yanked(entry.get("yanked")),
        core_metadata=fields.core_metadata(metadata),
        gpg_sig=signed if isinstance(signed, bool) else None,
        provenance=fields.provenance(entry.get("provenance"), base),
        other=_other(entry, _FILE_KEYS),
    )


def _other(data: dict[str, Any], known: frozenset[str]) -> dict[str, Any]:
    if data.keys() <= known:
        return {}
    return {key: value for key, value in data.items() if key not in known and _can_send(key, value)}


def _can_send(key: str, value: object) -> bool:
    try:
        # Two levels deeper, as in a page: orjson decodes deeper nesting than it encodes.
        sent = orjson.dumps([[{key: value}]])
    except orjson.JSONEncodeError:
        return False
    # A URL of upstream can have secrets in it.
    return _URL.search(sent) is None


def render(page: ProjectPage, href: Callable[[File], str]) -> bytes:
    """Return the body of `page`; `href` returns the URL of a file."""
    is_complete = page.versions is not None and all(file.size is not None for file in page.files)
    meta: dict[str, Any] = {
        "api-version": API_VERSION if is_complete else API_VERSION_WITHOUT_SIZES
    }
    if page.last_serial is not None:
        meta["_last-serial"] = page.last_serial
    data: dict[str, Any] = {"meta": meta, "name": page.name}
    if page.status is not None:
        data["project-status"] = {"status": page.status}
        if page.status_reason is not None:
            data["project-status"]["reason"] = page.status_reason
    if page.versions is not None:
        data["versions"] = page.versions
    files = json_chunks.encoded(_entry(file, href(file)) for file in page.files)
    return orjson.dumps(data | {"files": orjson.Fragment(files)} | dict(page.other))


def _entry(file: File, url: str) -> dict[str, Any]:
    entry: dict[str, Any] = {"filename": file.filename, "url": url, "hashes": file.hashes}
    optional: Mapping[str, object] = {
        "size": file.size,
        "upload-time": file.upload_time,
        "requires-python": file.requires_python,
        "core-metadata": file.core_metadata,
        "gpg-sig": file.gpg_sig,
        "provenance": file.provenance,
    }
    # Absent, never null: uv refuses a whole page for one null size, upload-time or yanked.
    entry.update((key, value) for key, value in optional.items() if value is not None)
    entry["yanked"] = file.yanked
    return {**file.other, **entry}


def render_projects(projects: Iterable[str], last_serial: int | None) -> bytes:
    """Return the body of the project list."""
    meta: dict[str, Any] = {"api-version": API_VERSION}
    if last_serial is not None:
        meta["_last-serial"] = last_serial
    return orjson.dumps({"meta": meta, "projects": [{"name": name} for name in projects]})
