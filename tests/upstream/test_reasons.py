"""Why a request failed: in words without any text of upstream."""

from __future__ import annotations

import errno
import os
import socket
import ssl

import pytest
from urllib3.exceptions import (
    DecodeError,
    HTTPError,
    IncompleteRead,
    LocationParseError,
    ProtocolError,
    ProxyError,
)

from pytail.upstream.reasons import detail_of, reason_of

TEXT = "https://user:pa55@index.example.org/t0ken?sig=51gn 51gn"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, TEXT), os.strerror(errno.ECONNREFUSED)),
        (ProtocolError(TEXT, OSError(errno.ECONNRESET, TEXT)), os.strerror(errno.ECONNRESET)),
        (socket.gaierror(-2, TEXT), "the name of the host cannot be resolved"),
        (ProtocolError(TEXT, IncompleteRead(1, 2)), "the connection broke off"),
        (DecodeError(TEXT), "the content coding of the body is broken"),
        (LocationParseError(TEXT), "the URL cannot be requested"),
        (ProxyError(TEXT, OSError(f"Tunnel connection failed: 407 {TEXT}")),
         "the proxy refused with status 407"),
        (ProxyError(TEXT, ValueError(TEXT)), "the proxy did not connect to the host"),
        (TimeoutError("no response within 2 seconds"), "no response within 2 seconds"),
        (ssl.SSLError(1, TEXT), "TLS failed"),
        (HTTPError(TEXT), "the response is broken"),
    ],
)  # fmt: skip
def test_a_reason_has_no_text_of_upstream(error: Exception, reason: str):
    assert reason_of(error) == reason


def test_an_error_that_is_its_own_cause_has_a_reason():
    error = HTTPError(TEXT)
    error.__context__ = ProtocolError(error)
    assert reason_of(error) == "the response is broken"


def test_a_detail_is_one_line_without_credentials_and_query():
    assert detail_of(HTTPError(f"a\nb {TEXT}")) == "a b https://***@index.example.org/t0ken?***"
    assert detail_of(HTTPError()) == "HTTPError"
    assert len(detail_of(HTTPError("x" * 1000))) == 300
