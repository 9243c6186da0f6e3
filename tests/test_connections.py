"""How another host is reached: through which proxy, trusting whom, and who we say we are."""

from __future__ import annotations

import base64
import contextlib
import re
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest
import trustme
from gevent.pywsgi import WSGIServer
from gevent.server import StreamServer

from pytail.connections import Connections
from pytail.errors import SettingError, UpstreamGarbled, UpstreamUnreachable
from pytail.upstream import Upstream
from tests.fakeindex import JSON, FakeIndex, reply, wheel
from tests.running import free_port

PAGE = "/simple/demo/"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def ca(authority: trustme.CA, tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return path


@contextlib.contextmanager
def secure(authority: trustme.CA, answers: dict[str, Any], *, asks: bool = False) -> Iterator[str]:
    """A TLS server of `answers` by path, which `asks` for a client certificate; its URL."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    if asks:
        authority.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        return answers[environ["PATH_INFO"]](environ, start_response)

    server = WSGIServer(
        ("127.0.0.1", 0), application, log=None, error_log=None, ssl_context=context
    )
    # A client that does not trust us is no fault of the server's to tell of.
    server.wrap_socket_and_handle = _quietly(server.wrap_socket_and_handle)
    server.start()
    yield f"https://127.0.0.1:{server.server_port}"
    server.stop(timeout=0)


def _quietly(handle: Any) -> Any:
    def handling(*given: Any) -> None:
        with contextlib.suppress(ssl.SSLError, OSError):
            handle(*given)

    return handling


@contextlib.contextmanager
def following(url: str, **options: Any) -> Iterator[Upstream]:
    options.setdefault("environ", {"HOME": "/nonexistent"})
    upstream = Upstream(url, 5, **options)
    yield upstream
    upstream.close()


def page() -> dict[str, Any]:
    return {PAGE: reply(b'{"files": []}', JSON)}


class Proxy:
    """A forward proxy for both schemes; `seen` has the heads of what went through."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self._server = StreamServer(("127.0.0.1", 0), self._handle)

    def __enter__(self) -> str:
        self._server.start()
        return f"127.0.0.1:{self._server.server_port}"

    def __exit__(self, *_: object) -> None:
        self._server.stop(timeout=0)

    def _handle(self, client: socket.socket, _: Any) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += client.recv(4096)
        self.seen.append(head.decode())
        host, port = re.match(r"\w+ (?:http://)?([\d.]+):(\d+)", self.seen[-1]).groups()
        with client, socket.create_connection((host, int(port))) as server:
            if head.startswith(b"CONNECT"):
                client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            else:
                server.sendall(re.sub(rb" http://[\d.:]+", b" ", head, count=1))
            back = gevent.spawn(_pump, server, client)
            _pump(client, server)
            back.join()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


# Certificates


def test_an_unknown_authority_is_not_trusted(authority: trustme.CA):
    with (
        secure(authority, page()) as url,
        following(url) as upstream,
        pytest.raises(UpstreamUnreachable, match=r"(?i)certificate"),
    ):
        upstream.page("demo")


def test_an_authority_named_by_the_setting_is_trusted(authority: trustme.CA, ca: Path):
    for where in (ca, ca.parent):
        with secure(authority, page()) as url, following(url, ca=where) as upstream:
            assert upstream.page("demo") is not None


def test_an_authority_named_by_ssl_cert_file_is_trusted(authority: trustme.CA, ca: Path):
    environ = {"SSL_CERT_FILE": str(ca), "HOME": "/nonexistent"}
    with secure(authority, page()) as url, following(url, environ=environ) as upstream:
        assert upstream.page("demo") is not None


@pytest.mark.parametrize("name", ["ca", "client_cert"])
@pytest.mark.parametrize("content", [None, b"", b"not a certificate"])
def test_a_file_that_cannot_be_used_is_told_at_start(
    tmp_path: Path, name: str, content: bytes | None
):
    path = tmp_path / "file.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SettingError, match=re.escape(str(path))):
        Connections("https://index.example.org", 5, {}, **{name: path})


def test_a_client_certificate_is_shown_to_upstream(authority: trustme.CA, ca: Path, tmp_path: Path):
    client = tmp_path / "client.pem"
    authority.issue_cert("pytail@index.example.org").private_key_and_cert_chain_pem.write_to_path(
        str(client)
    )
    with secure(authority, page(), asks=True) as url:
        with following(url, ca=ca, client_cert=client) as upstream:
            assert upstream.page("demo") is not None
        with following(url, ca=ca) as upstream, pytest.raises(UpstreamUnreachable):
            upstream.page("demo")
        # And to nobody else.
        with (
            following("https://127.0.0.1:1", ca=ca, client_cert=client) as upstream,
            pytest.raises(UpstreamUnreachable),
        ):
            upstream.file(f"{url}{PAGE}")


# Redirects


def test_a_redirect_never_leads_down_from_https(authority: trustme.CA, ca: Path, index: FakeIndex):
    down = {PAGE: reply(b"", None, "302 Found", Location=f"{index.url}{PAGE}")}
    with (
        secure(authority, down) as url,
        following(url, ca=ca) as upstream,
        pytest.raises(UpstreamGarbled, match="redirects to 'http:"),
    ):
        upstream.page("demo")
    assert index.seen == []  # item 140


def test_a_redirect_between_https_hosts_is_followed(authority: trustme.CA, ca: Path):
    with secure(authority, page()) as target:
        to = {PAGE: reply(b"", None, "302 Found", Location=f"{target}{PAGE}")}
        with secure(authority, to) as url, following(url, ca=ca) as upstream:
            assert upstream.page("demo") is not None


# Proxies


def test_plain_http_goes_through_its_proxy_with_the_proxys_credentials(index: FakeIndex):
    index.add(wheel("demo"))
    proxy = Proxy()
    with proxy as address:
        environ = {"http_proxy": f"http://user:secret@{address}", "HOME": "/nonexistent"}
        with following(index.url, environ=environ) as upstream:
            assert upstream.page("demo") is not None
    (head,) = proxy.seen
    assert head.startswith(f"GET {index.url}{PAGE} HTTP/1.1")
    pair = base64.b64encode(b"user:secret").decode()
    assert f"proxy-authorization: basic {pair}".lower() in head.lower()
    assert "AUTHORIZATION" not in index.seen[0].headers


@pytest.mark.parametrize("variable", ["https_proxy", "HTTPS_PROXY", "ALL_PROXY"])
def test_https_goes_through_a_tunnel(authority: trustme.CA, ca: Path, variable: str):
    proxy = Proxy()
    with secure(authority, page()) as url, proxy as address:
        environ = {variable: address, "HOME": "/nonexistent"}
        with following(url, ca=ca, environ=environ) as upstream:
            assert upstream.page("demo") is not None
    assert proxy.seen[0].startswith("CONNECT 127.0.0.1:")


@pytest.mark.parametrize("hosts", ["127.0.0.1", "*", "index.example.org, 127.0.0.1"])
def test_no_proxy_is_heeded(index: FakeIndex, hosts: str):
    index.add(wheel("demo"))
    environ = {"http_proxy": f"127.0.0.1:{free_port()}", "NO_PROXY": hosts, "HOME": "/nonexistent"}
    with following(index.url, environ=environ) as upstream:
        assert upstream.page("demo") is not None


def test_a_proxy_that_is_down_is_told_without_its_password(index: FakeIndex):
    environ = {"http_proxy": f"http://user:secret@127.0.0.1:{free_port()}"}
    with (
        following(index.url, environ=environ) as upstream,
        pytest.raises(UpstreamUnreachable) as told,
    ):
        upstream.page("demo")
    assert "secret" not in str(told.value)


def test_a_proxy_that_is_no_url_is_told_at_start():
    with pytest.raises(SettingError, match="HTTP_PROXY") as told:
        Connections("http://index.example.org", 5, {"HTTP_PROXY": "ftp://u:secret@x"})
    assert "secret" not in str(told.value)


# Credentials


def test_netrc_gives_credentials_to_the_upstream_origin_only(tmp_path: Path, index: FakeIndex):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login user password secret\n")
    netrc.chmod(0o600)
    with FakeIndex() as other, following(index.url, environ={"NETRC": str(netrc)}) as upstream:
        index.answers[PAGE] = reply(b"", None, "302 Found", Location=f"{other.url}{PAGE}")
        other.answers[PAGE] = reply(b'{"files": []}', JSON)
        assert upstream.page("demo") is not None
        sent = f"Basic {base64.b64encode(b'user:secret').decode()}"
        assert index.seen[0].headers["AUTHORIZATION"] == sent  # item 141
        assert "AUTHORIZATION" not in other.seen[0].headers


def test_credentials_of_the_url_go_before_netrc(tmp_path: Path, index: FakeIndex):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login user password secret\n")
    index.add(wheel("demo"))
    url = index.url.replace("//", "//me:mine@")
    with following(url, environ={"NETRC": str(netrc)}) as upstream:
        upstream.page("demo")
    sent = f"Basic {base64.b64encode(b'me:mine').decode()}"
    assert index.seen[0].headers["AUTHORIZATION"] == sent


def test_a_broken_netrc_is_ignored_with_a_word(
    tmp_path: Path, index: FakeIndex, caplog: pytest.LogCaptureFixture
):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 password secret nonsense\n")
    index.add(wheel("demo"))
    with following(index.url, environ={"NETRC": str(netrc)}) as upstream:
        assert upstream.page("demo") is not None
    assert str(netrc) in caplog.text
    assert "secret" not in caplog.text
