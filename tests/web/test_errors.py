"""Error responses: status, headers and body of an error."""

from __future__ import annotations

from typing import Any

import falcon
import pytest
from falcon.testing import Result, TestClient

from pytail import errors
from pytail.web.errors import RETRY_AFTER, on_error

URL = "https://index.example.org/simple/demo/"


def response_to(error: Exception, **headers: str) -> Result:
    """Return the response of an application whose only resource raises `error`."""

    class Failing:
        def on_get(self, req: Any, resp: Any) -> None:
            resp.set_header("ETag", '"x"')
            resp.set_header("Content-Range", "bytes 0-1/2")
            raise error

    app: falcon.App = falcon.App()
    app.add_route("/", Failing())
    for kind in (Exception, falcon.HTTPError):
        app.add_error_handler(kind, on_error)
    return TestClient(app).simulate_get("/", headers=headers)


def test_an_unexpected_error_is_500_and_logged_with_its_traceback(
    caplog: pytest.LogCaptureFixture,
):
    result = response_to(ZeroDivisionError("secret"))
    assert result.status_code == 500
    assert result.json["title"] == "Internal Server Error"
    assert "secret" not in result.text
    (record,) = caplog.records
    assert record.getMessage() == "GET / failed"
    assert record.exc_info is not None


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.ProjectNotFound("demo", URL), 404),
        (errors.UpstreamOffline(URL), 404),
        (errors.UpstreamRefused(URL, 500), 502),
        (errors.UpstreamRefused(URL, 429), 503),
        (errors.UpstreamUnreachable(URL, "timeout"), 503),
        (errors.UpstreamCircuitOpen(URL, "open"), 503),
        (errors.DigestMismatch("demo.zip", "sha256", "a", "b"), 502),
    ],
)
def test_the_most_specific_class_of_an_error_decides_the_status(error: Exception, status: int):
    assert response_to(error).status_code == status


def test_an_error_response_has_no_headers_of_the_content():
    result = response_to(errors.DownloadInterrupted("demo.zip", "truncated"))
    assert not {"etag", "content-range"} & result.headers.keys()
    assert result.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(("seconds", "header"), [(None, RETRY_AFTER), (42, 42)])
def test_a_503_has_the_retry_after_of_upstream_or_the_default(seconds: int | None, header: int):
    error = errors.UpstreamRefused(URL, 429, seconds)
    assert response_to(error).headers["retry-after"] == str(header)


def test_a_browser_gets_an_escaped_html_page():
    result = response_to(errors.ProjectNotFound("<b>", URL), Accept="text/html")
    assert result.headers["content-type"] == "text/html; charset=utf-8"
    assert "&lt;b&gt;" in result.text
    assert "<b>" not in result.text
