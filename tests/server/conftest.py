"""Running servers, with and without TLS."""

from __future__ import annotations

import ssl
from collections.abc import Iterator

import pytest
import trustme

from pytail.server.server import Server
from tests.support.raw_http import listening


@pytest.fixture
def server() -> Iterator[Server]:
    with listening(Server) as running:
        yield running


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def tls_server(authority: trustme.CA) -> Iterator[Server]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with listening(Server, ssl_context=context) as running:
        yield running
