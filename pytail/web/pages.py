"""The project list and the project pages, below ``/simple/`` and below ``/root/pypi/+simple/``."""

from __future__ import annotations

import math

import falcon

from pytail.cache.index import Index
from pytail.errors import ProjectNameInvalid
from pytail.model import Outcome
from pytail.simple.names import is_project_name, normalized
from pytail.simple.negotiation import Coding, Form, coding_for, form_for
from pytail.web.conditional import etag_matches
from pytail.web.middleware import STILL_VALID
from pytail.web.rendered import RenderedPage, RenderedPages

#: Maximum ``max-age`` in seconds of a page.
PAGE_MAX_AGE = 600
#: ``max-age`` in seconds of the project list, to which each new project adds a name.
LIST_MAX_AGE = 10
#: ``max-age`` in seconds of a stale page.
STALE_MAX_AGE = 10


class RedirectResource:
    """Redirects to `target`, which is relative so that it works behind any path prefix."""

    def __init__(self, target: str) -> None:
        self._target = target

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        redirect(req, resp, self._target)

    on_head = on_get


class MissingSlashResource:
    """``/simple/{project}``: redirects to the same URL with a slash at the end."""

    def on_get(self, req: falcon.Request, resp: falcon.Response, project: str) -> None:
        if not is_project_name(project):
            raise ProjectNameInvalid(project)
        redirect(req, resp, f"{normalized(project)}/")

    on_head = on_get


class ProjectListResource:
    """``/simple/``: the projects that clients requested and that upstream has."""

    def __init__(self, index: Index, pages: RenderedPages) -> None:
        self._index, self._pages = index, pages

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        form, coding = _negotiated(req)
        names, last_serial = self._index.projects()
        page = self._pages.projects(names, last_serial, form, coding)
        _send(req, resp, page, LIST_MAX_AGE, last_serial)
        resp.set_header("X-Cache", Outcome.HIT.value)

    on_head = on_get


class ProjectResource:
    """``/simple/{project}/``: the page of a project."""

    def __init__(
        self,
        index: Index,
        pages: RenderedPages,
        files: str,
        *,
        no_cache_interval: float,
        max_age_interval: float,
    ) -> None:
        """`files` is the URL of the files, relative to the page.

        The intervals are the minimum seconds between revalidations that clients force.
        """
        self._index, self._pages, self._files = index, pages, files
        self._no_cache_interval, self._max_age_interval = no_cache_interval, max_age_interval

    def on_get(self, req: falcon.Request, resp: falcon.Response, project: str) -> None:
        if not is_project_name(project):
            raise ProjectNameInvalid(project)
        if project != normalized(project):
            redirect(req, resp, f"../{normalized(project)}/")
            return
        form, coding = _negotiated(req)
        max_age = self._max_age(req)
        result = self._index.page(project, max_age)
        page = self._pages.project(
            project,
            result.entry.revision,
            lambda: self._index.content(result),
            self._files,
            form,
            coding,
        )
        _send(
            req,
            resp,
            page,
            _client_max_age(result.outcome, result.fresh_for),
            result.entry.last_serial,
        )
        resp.set_header("X-Cache", result.outcome.value)
        resp.set_header("Age", str(int(result.age)))
        req.env[STILL_VALID] = self._index.still_valid(result, max_age)

    on_head = on_get

    def _max_age(self, req: falcon.Request) -> float:
        """Return the maximum age in seconds of a cached page for this request.

        Not 0 for ``no-cache`` and ``max-age=0``, with which each request would go to upstream.
        """
        directives = (req.get_header("Cache-Control") or "").lower().replace(" ", "").split(",")
        if "no-cache" in directives:
            return self._no_cache_interval
        return self._max_age_interval if "max-age=0" in directives else math.inf


def redirect(req: falcon.Request, resp: falcon.Response, target: str) -> None:
    """Answer with 302 to `target` and the query. Not 301: pip caches a 301 for ever."""
    resp.status = falcon.HTTP_302
    resp.location = f"{target}?{req.query_string}" if req.query_string else target
    resp.cache_control = ["no-store"]
    resp.content_type = falcon.MEDIA_TEXT
    resp.text = ""


def _negotiated(req: falcon.Request) -> tuple[Form, Coding]:
    form = form_for(req.get_header("Accept"), req.get_param("format"))
    return form, coding_for(req.get_header("Accept-Encoding"))


def _client_max_age(outcome: Outcome, fresh_for: float) -> int:
    """Return the ``max-age`` of a page that stays fresh for `fresh_for` seconds.

    The page must not stay fresh for longer at a client than in pytail. pip and poetry do not
    subtract Age, so max-age is the remaining TTL.
    """
    return STALE_MAX_AGE if outcome is Outcome.STALE else min(int(fresh_for), PAGE_MAX_AGE)


def _send(
    req: falcon.Request,
    resp: falcon.Response,
    page: RenderedPage,
    max_age: int,
    last_serial: int | None,
) -> None:
    resp.set_headers(
        {
            "Cache-Control": f"max-age={max_age}, public",
            "ETag": page.etag,
            "Vary": "Accept, Accept-Encoding",
        }
    )
    resp.content_type = page.form.value
    if last_serial is not None:
        resp.set_header("X-PyPI-Last-Serial", str(last_serial))
    if etag_matches(req.get_header("If-None-Match"), page.etag):
        resp.status = falcon.HTTP_304
        return
    if page.coding is not Coding.IDENTITY:
        resp.set_header("Content-Encoding", page.coding.value)
    resp.data = page.data
