"""What every response says, and what a browser asks before it dares to ask."""

from __future__ import annotations

from typing import Any

import falcon

METHODS = ("GET", "HEAD", "OPTIONS")
ALLOW = ", ".join(METHODS)

_EVERY_RESPONSE = {
    "X-Content-Type-Options": "nosniff",
    # For installers that run in a browser, such as micropip.
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Expose-Headers": "Content-Length, Content-Range, Accept-Ranges, ETag",
    # Whatever a page holds, a browser runs none of it and sends nothing from it.
    "Content-Security-Policy": "sandbox allow-top-navigation; default-src 'none'",
}
#: How a response came to be that nobody else had a part in, such as a redirect.
_MADE_HERE = {"X-Cache": "HIT", "Age": "0"}
_PREFLIGHT = {
    "Allow": ALLOW,
    "Access-Control-Allow-Methods": ALLOW,
    "Access-Control-Allow-Headers": "Accept, Cache-Control, If-None-Match, If-Range, Range",
    "Access-Control-Max-Age": "86400",
}


class CommonHeaders:
    """Falcon middleware around each request."""

    def process_request(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Drop what follows a raw ``#``: it is no part of a path, but some clients send it."""
        req.path = req.path.partition("#")[0]

    def process_response(
        self, req: falcon.Request, resp: falcon.Response, resource: Any, req_succeeded: bool
    ) -> None:
        """Add the headers; answer OPTIONS, for any path."""
        resp.set_headers(_EVERY_RESPONSE)
        for name, value in _MADE_HERE.items():
            if resp.get_header(name) is None:
                resp.set_header(name, value)
        if req.method == "OPTIONS":
            resp.set_headers(_PREFLIGHT)
            resp.status = falcon.HTTP_204
            resp.data = resp.text = resp.stream = None
