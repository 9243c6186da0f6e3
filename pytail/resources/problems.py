"""Errors as answers: problem details (RFC 9457) for tools, a short page for people."""

from __future__ import annotations

from html import escape

import falcon
import orjson

from pytail.errors import NotAcceptable
from pytail.simple.negotiation import form_for

_PAGE = (
    '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}</title>\n'
    "</head>\n<body>\n<h1>{title}</h1>\n<p>{detail}</p>\n</body>\n</html>\n"
)
#: What says something of the content that is not sent.
_OF_CONTENT = (
    "Accept-Ranges", "Age", "Content-Encoding", "Content-Length", "Content-Range", "ETag",
)  # fmt: skip


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
