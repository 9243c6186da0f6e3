"""Error responses: problem details (RFC 9457) for tools, an HTML page for browsers."""

from __future__ import annotations

import logging
from html import escape
from typing import Any

import falcon
import orjson

from pytail import errors
from pytail.simple.negotiation import form_for
from pytail.web.middleware import ALLOW

log = logging.getLogger("pytail.web")

#: By class of error, the status of the response; the most specific class decides.
#:
#: No 504, which pip does not retry. No 401, 403 and 410, at which uv stops looking. No 404 for a
#: failure of upstream, after which a client could ask another index.
STATUSES: dict[type[errors.PytailError], str] = {
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
#: Seconds of the Retry-After header, without which pip does not retry some statuses.
RETRY_AFTER = 5

_PAGE = (
    '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}</title>\n'
    "</head>\n<body>\n<h1>{title}</h1>\n<p>{detail}</p>\n</body>\n</html>\n"
)
#: Headers that describe the content that the error replaces.
_CONTENT_HEADERS = (
    "Accept-Ranges", "Age", "Content-Encoding", "Content-Length", "Content-Range", "ETag",
)  # fmt: skip
_READ_ONLY = (
    "uploads are not offered: pytail is a read-only cache of another index;"
    " upload to the upstream index"
)
_INTERNAL_ERROR = "internal error: the log of pytail has the traceback; report the error"
_STILL_SERVED = "; cached pages and files are still served"
_TRY_AGAIN = ", try again later"


def on_error(req: falcon.Request, resp: falcon.Response, error: Exception, params: Any) -> None:
    """Answer with the status and the text of `error`; an error without a status is a 500."""
    if isinstance(error, falcon.HTTPError):
        _send_http_error(req, resp, error)
    elif isinstance(error, errors.PytailError) and (status := _status_of(error)) is not None:
        _send_known_error(req, resp, error, status)
    else:
        log.error("%s %s failed", req.method, req.path, exc_info=error)
        send_problem(req, resp, falcon.HTTP_500, _INTERNAL_ERROR)


def send_problem(req: falcon.Request, resp: falcon.Response, status: str, detail: str) -> None:
    """Answer with `status` (code and phrase) and `detail`, as HTML or as problem details."""
    resp.status = status
    for name in _CONTENT_HEADERS:
        resp.delete_header(name)
    resp.stream = None
    resp.set_header("Cache-Control", "no-store")
    resp.set_header("Vary", "Accept")
    if _prefers_html(req):
        resp.content_type = falcon.MEDIA_HTML
        resp.data = _PAGE.format(title=escape(status), detail=escape(detail)).encode()
    else:
        resp.content_type = "application/problem+json"
        problem = {"title": status.partition(" ")[2], "status": int(status[:3]), "detail": detail}
        resp.data = orjson.dumps(problem)


def _status_of(error: errors.PytailError) -> str | None:
    if isinstance(error, errors.UpstreamRefused):
        asks_to_wait = error.status >= 500 and error.retry_after is not None
        if error.status == 429 or asks_to_wait:
            return falcon.HTTP_503
    return next((STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES), None)


def _send_http_error(req: falcon.Request, resp: falcon.Response, error: falcon.HTTPError) -> None:
    resp.set_headers(error.headers or {})
    description = error.description or ""
    if isinstance(error, falcon.HTTPMethodNotAllowed):
        resp.set_header("Allow", ALLOW)
        description = _READ_ONLY
    send_problem(req, resp, str(error.status), description)


def _send_known_error(
    req: falcon.Request, resp: falcon.Response, error: errors.PytailError, status: str
) -> None:
    send_problem(req, resp, status, error.for_clients + (_outlook(error) if status > "500" else ""))
    resp.set_header("X-Cache", error.outcome)
    if isinstance(error, errors.ProjectNotFound):
        resp.set_header("Age", str(int(error.age)))
    if status == falcon.HTTP_503:
        retry_after = getattr(error, "retry_after", None)
        resp.set_header("Retry-After", str(retry_after or RETRY_AFTER))


def _outlook(error: errors.PytailError) -> str:
    """Return what a client can expect in spite of `error`."""
    # Only the operator can permit an address.
    is_lasting = isinstance(error, errors.UpstreamAddressRefused)
    return _STILL_SERVED if is_lasting else _STILL_SERVED + _TRY_AGAIN


def _prefers_html(req: falcon.Request) -> bool:
    accept = req.get_header("Accept") or ""
    try:
        return "html" in accept.lower() and form_for(accept).is_html
    except errors.NotAcceptable:
        return False
