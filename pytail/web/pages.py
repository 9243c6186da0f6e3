"""The project list and the project pages, below ``/simple/`` and below ``/root/pypi/+simple/``."""

from __future__ import annotations

import math

import falcon

from pytail.cache.index import Index
from pytail.errors import ProjectNameInvalid
from pytail.model import Outcome
from pytail.simple.names import is_project_name, normalized
from pytail.simple.negotiation import Coding, Form, coding_for, form_for
from pytail.web.conditional import matches
from pytail.web.middleware import STILL_VALID
from pytail.web.rendered import RenderedPage, RenderedPages

#: Seconds; what a client may reuse a page for at most, and a list that changes with each question.
LONGEST_REUSE, LIST_REUSE = 600, 10
#: Seconds for a copy that upstream could not confirm.
STALE_REUSE = 10


class RedirectResource:
    """Sends clients on to `target`, relative, so that it holds behind any prefix."""

    def __init__(self, target: str) -> None:
        self._target = target

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        redirect(req, resp, self._target)

    on_head = on_get


class ProjectListResource:
    """``/simple/``: the projects asked for and found."""

    def __init__(self, index: Index, pages: RenderedPages) -> None:
        self._index, self._pages = index, pages

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        form, coding = _wanted(req)
        names, last_serial = self._index.projects()
        body = self._pages.projects(names, last_serial, form, coding)
        _send(req, resp, body, LIST_REUSE, last_serial)
        resp.set_header("X-Cache", Outcome.HIT.value)

    on_head = on_get


class ProjectResource:
    """``/simple/{project}/``: its page; `files` is where its links lead, relative to it."""

    def __init__(
        self,
        index: Index,
        pages: RenderedPages,
        files: str,
        *,
        no_cache_interval: float,
        max_age_interval: float,
    ) -> None:
        """The intervals are the seconds between revalidations that clients force."""
        self._index, self._pages, self._files = index, pages, files
        self._no_cache_interval, self._max_age_interval = no_cache_interval, max_age_interval

    def on_get(self, req: falcon.Request, resp: falcon.Response, project: str) -> None:
        if not is_project_name(project):
            raise ProjectNameInvalid(project)
        if project != normalized(project):
            redirect(req, resp, f"../{normalized(project)}/")
            return
        form, coding = _wanted(req)
        max_age = self._max_age(req)
        answer = self._index.page(project, max_age)
        revision = answer.entry.revision
        body = self._pages.project(
            project, revision, lambda: self._index.content(answer), self._files, form, coding
        )
        # As if clients did not subtract Age, which pip and poetry do not: to none of them may the
        # page be fresh for longer than to us.
        reuse = min(int(answer.fresh_for), LONGEST_REUSE)
        if answer.outcome is Outcome.STALE:
            reuse = STALE_REUSE
        _send(req, resp, body, reuse, answer.entry.last_serial)
        resp.set_header("X-Cache", answer.outcome.value)
        resp.set_header("Age", str(int(answer.age)))
        req.env[STILL_VALID] = self._index.still_valid(answer, max_age)

    on_head = on_get

    def _max_age(self, req: falcon.Request) -> float:
        """How old a copy this client takes, but not so fresh that each request would go through."""
        asked = (req.get_header("Cache-Control") or "").lower().replace(" ", "").split(",")
        if "no-cache" in asked:
            return self._no_cache_interval
        return self._max_age_interval if "max-age=0" in asked else math.inf


class MissingSlash:
    """``/simple/{project}``: the slash is missing."""

    def on_get(self, req: falcon.Request, resp: falcon.Response, project: str) -> None:
        if not is_project_name(project):
            raise ProjectNameInvalid(project)
        redirect(req, resp, f"{normalized(project)}/")

    on_head = on_get


def redirect(req: falcon.Request, resp: falcon.Response, target: str) -> None:
    """Answer 302 to `target`. Never 301: pip keeps those for ever."""
    resp.status = falcon.HTTP_302
    resp.location = f"{target}?{req.query_string}" if req.query_string else target
    resp.cache_control = ["no-store"]
    resp.content_type = falcon.MEDIA_TEXT
    resp.text = ""


def _wanted(req: falcon.Request) -> tuple[Form, Coding]:
    wanted = req.get_param("format")
    return form_for(req.get_header("Accept"), wanted), coding_for(req.get_header("Accept-Encoding"))


def _send(
    req: falcon.Request,
    resp: falcon.Response,
    body: RenderedPage,
    reuse: int,
    last_serial: int | None,
) -> None:
    resp.set_headers(
        {
            "Cache-Control": f"max-age={reuse}, public",
            "ETag": body.etag,
            "Vary": "Accept, Accept-Encoding",
        }
    )
    resp.content_type = body.form.value
    if last_serial is not None:
        resp.set_header("X-PyPI-Last-Serial", str(last_serial))
    if matches(req.get_header("If-None-Match"), body.etag):
        resp.status = falcon.HTTP_304
        return
    if body.coding is not Coding.IDENTITY:
        resp.set_header("Content-Encoding", body.coding.value)
    resp.data = body.data
