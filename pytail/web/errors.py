"""Errors as answers: problem details (RFC 9457) for tools, a short page for people."""

from __future__ import annotations

import logging
from html import escape
from typing import Any

import falcon
import orjson

from pytail import errors
from pytail.errors import NotAcceptable
from pytail.simple.negotiation import form_for
from pytail.web.middleware import ALLOW

log = logging.getLogger("pytail.web")

_PAGE = (
    '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}</title>\n'
    "</head>\n<body>\n<h1>{title}</h1>\n<p>{detail}</p>\n</body>\n</html>\n"
)
#: What says something of the content that is not sent.
_OF_CONTENT = (
    "Accept-Ranges", "Age", "Content-Encoding", "Content-Length", "Content-Range", "ETag",
)  # fmt: skip
#: The most specific class decides. Never 504, which pip does not retry, nor 401, 403 and 410, on
#: which uv stops looking; and never 404 for trouble: another index could be asked instead.
STATUSES: dict[type[Exception], str] = {
    errors.ProjectNotFound: falcon.HTTP_404,
    errors.ProjectNameInvalid: falcon.HTTP_404,
    errors.FileNotListed: falcon.HTTP_404,
    errors.FileGone: falcon.HTTP_404,
    errors.NotAcceptable: falcon.HTTP_406,
    errors.UpstreamUnreachable: falcon.HTTP_503,
    errors.UpstreamOffline: falcon.HTTP_404,
    errors.UpstreamError: falcon.HTTP_502,
    errors.DigestMismatch: falcon.HTTP_502,
    errors.WheelUnreadable: falcon.HTTP_502,
    errors.DownloadInterrupted: falcon.HTTP_502,
}
#: Seconds; pip retries some statuses only when it is told after how long.
RETRY_AFTER = 5

_UPLOADS = "pytail is a read-only cache of another index: uploads are not offered here"


def on_error(req: falcon.Request, resp: falcon.Response, error: Exception, params: Any) -> None:
    """Answer with the status and text of `error`."""
    if isinstance(error, falcon.HTTPError):
        resp.set_headers(error.headers or {})
        description = error.description or ""
        if isinstance(error, falcon.HTTPMethodNotAllowed):
            resp.set_header("Allow", ALLOW)
            description = _UPLOADS
        send_problem(req, resp, str(error.status), description)
        return
    status = next((STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES), None)
    if status is None:
        log.error("%s %s failed", req.method, req.path, exc_info=error)
        send_problem(req, resp, falcon.HTTP_500, "pytail has a fault; its log says more")
        return
    retry_after = getattr(error, "retry_after", None)
    if isinstance(error, errors.UpstreamRefused) and error.status == 429:
        status = falcon.HTTP_503
    advice = "; a copy is served where there is one, try again" if status > "500" else ""
    send_problem(req, resp, status, f"{error}{advice}")
    if isinstance(error, errors.PytailError):
        resp.set_header("X-Cache", error.outcome)
    if isinstance(error, errors.ProjectNotFound):
        resp.set_header("Age", str(int(error.age)))
    if status == falcon.HTTP_503:
        resp.set_header("Retry-After", str(retry_after or RETRY_AFTER))


def send_problem(req: falcon.Request, resp: falcon.Response, status: str, detail: str) -> None:
    """Answer with `status` (code and phrase) and `detail`, in the form the client can show."""
    resp.status = status
    # What was said of the response that there will not be.
    for name in _OF_CONTENT:
        resp.delete_header(name)
    resp.stream = None
    resp.set_header("Cache-Control", "no-store")
    resp.set_header("Vary", "Accept")
    if _is_person(req):
        resp.content_type = falcon.MEDIA_HTML
        resp.data = _PAGE.format(title=escape(status), detail=escape(detail)).encode()
    else:
        resp.content_type = "application/problem+json"
        problem = {"title": status.partition(" ")[2], "status": int(status[:3]), "detail": detail}
        resp.data = orjson.dumps(problem)


def _is_person(req: falcon.Request) -> bool:
    accept = req.get_header("Accept") or ""
    try:
        return "html" in accept.lower() and form_for(accept).is_html
    except NotAcceptable:
        return False
