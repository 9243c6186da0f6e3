"""Connections use the right certificates, proxies and credentials."""

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
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from gevent.pywsgi import WSGIServer
from gevent.server import StreamServer

from pytail.config.settings import Settings
from pytail.errors import SettingError, UpstreamGarbled, UpstreamUnreachable
from pytail.upstream.transport import Transport
from pytail.web.app import create_app
from tests.support.fakeindex import JSON, FakeIndex, RawServer, reply, wheel
from tests.support.leftovers import sockets
from tests.support.running import free_port
from tests.support.upstreams import PAGE, fetched, first_root, following
from tests.support.watching import until


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
    """The URL of a TLS server of `answers` by path; with `asks`, it wants a client certificate."""
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
    # gevent would print the failed handshake of a client that does not trust the server.
    server.wrap_socket_and_handle = _quietly(server.wrap_socket_and_handle)
    server.start()
    yield f"https://127.0.0.1:{server.server_port}"
    server.stop(timeout=0)


def _quietly(handle: Any) -> Any:
    def handling(*given: Any) -> None:
        with contextlib.suppress(ssl.SSLError, OSError):
            handle(*given)

    return handling


def page() -> dict[str, Any]:
    return {PAGE: reply(b'{"files": []}', JSON)}


class Proxy:
    """A forward proxy for both schemes; `seen` has the first request of each connection."""

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
        fetched(upstream)


def test_an_authority_named_by_the_setting_is_trusted(authority: trustme.CA, ca: Path):
    for where in (ca, ca.parent):
        with secure(authority, page()) as url, following(url, ca=where) as upstream:
            assert fetched(upstream).page.name == "demo"


def test_an_authority_named_by_ssl_cert_file_is_trusted(authority: trustme.CA, ca: Path):
    environ = {"SSL_CERT_FILE": str(ca), "HOME": "/nonexistent"}
    with secure(authority, page()) as url, following(url, environ=environ) as upstream:
        assert fetched(upstream).page.name == "demo"


@pytest.mark.parametrize("name", ["ca", "client_cert"])
@pytest.mark.parametrize("content", [None, b"", b"not a certificate"])
def test_an_unusable_certificate_file_is_a_setting_error(
    tmp_path: Path, name: str, content: bytes | None
):
    path = tmp_path / "file.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SettingError, match=re.escape(str(path))):
        Transport("https://index.example.org", 5, {}, **{name: path})


def test_the_client_certificate_is_sent_to_upstream_only(
    authority: trustme.CA, ca: Path, tmp_path: Path
):
    client = tmp_path / "client.pem"
    authority.issue_cert("pytail@index.example.org").private_key_and_cert_chain_pem.write_to_path(
        str(client)
    )
    with secure(authority, page(), asks=True) as url:
        with following(url, ca=ca, client_cert=client) as upstream:
            assert fetched(upstream).page.name == "demo"
        with following(url, ca=ca) as upstream, pytest.raises(UpstreamUnreachable):
            fetched(upstream)
        with (
            following("https://127.0.0.1:1", ca=ca, client_cert=client) as upstream,
            pytest.raises(UpstreamUnreachable),
        ):
            upstream.files.open(f"{url}{PAGE}")


# Redirects


def test_a_redirect_never_leads_down_from_https(authority: trustme.CA, ca: Path, index: FakeIndex):
    down = {PAGE: reply(b"", None, "302 Found", Location=f"{index.url}{PAGE}")}
    with (
        secure(authority, down) as url,
        following(url, ca=ca) as upstream,
        pytest.raises(UpstreamGarbled, match="redirects to a URL that is not followed"),
    ):
        fetched(upstream)
    assert index.seen == []  # item 140


def test_a_redirect_between_https_hosts_is_followed(authority: trustme.CA, ca: Path):
    with secure(authority, page()) as target:
        to = {PAGE: reply(b"", None, "302 Found", Location=f"{target}{PAGE}")}
        with secure(authority, to) as url, following(url, ca=ca) as upstream:
            assert fetched(upstream).page.name == "demo"


# Proxies


def test_http_uses_its_proxy_and_the_credentials_of_the_proxy(index: FakeIndex):
    index.add(wheel("demo"))
    proxy = Proxy()
    with proxy as address:
        environ = {"http_proxy": f"http://user:secret@{address}", "HOME": "/nonexistent"}
        with following(index.url, environ=environ) as upstream:
            assert fetched(upstream).page.name == "demo"
    (head,) = proxy.seen
    assert head.startswith(f"GET {index.url}{PAGE} HTTP/1.1")
    pair = base64.b64encode(b"user:secret").decode()
    assert f"proxy-authorization: basic {pair}".lower() in head.lower()
    assert "AUTHORIZATION" not in index.seen[0].headers


@pytest.mark.parametrize("variable", ["https_proxy", "HTTPS_PROXY", "ALL_PROXY"])
def test_https_uses_a_tunnel(authority: trustme.CA, ca: Path, variable: str):
    proxy = Proxy()
    with secure(authority, page()) as url, proxy as address:
        environ = {variable: address, "HOME": "/nonexistent"}
        with following(url, ca=ca, environ=environ) as upstream:
            assert fetched(upstream).page.name == "demo"
    assert proxy.seen[0].startswith("CONNECT 127.0.0.1:")


@pytest.mark.parametrize("hosts", ["127.0.0.1", "*", "x.example.org, 127.0.0.1", "127.0.0.0/8"])
def test_no_proxy_names_hosts_without_proxy(index: FakeIndex, hosts: str):
    index.add(wheel("demo"))
    environ = {"http_proxy": f"127.0.0.1:{free_port()}", "NO_PROXY": hosts, "HOME": "/nonexistent"}
    with following(index.url, environ=environ) as upstream:
        assert fetched(upstream).page.name == "demo"


def test_an_error_of_a_proxy_does_not_show_its_password(index: FakeIndex):
    environ = {"http_proxy": f"http://user:secret@127.0.0.1:{free_port()}"}
    with (
        following(index.url, environ=environ) as upstream,
        pytest.raises(UpstreamUnreachable) as caught,
    ):
        fetched(upstream)
    assert "secret" not in str(caught.value)


def test_an_unsupported_proxy_url_is_a_setting_error():
    with pytest.raises(SettingError, match="HTTP_PROXY") as caught:
        Transport("http://index.example.org", 5, {"HTTP_PROXY": "ftp://u:secret@x"})
    assert "secret" not in str(caught.value)


# Credentials


def test_credentials_of_netrc_are_sent_to_the_upstream_origin_only(
    tmp_path: Path, index: FakeIndex
):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login user password secret\n")
    netrc.chmod(0o600)
    with FakeIndex() as other, following(index.url, environ={"NETRC": str(netrc)}) as upstream:
        index.answers[PAGE] = reply(b"", None, "302 Found", Location=f"{other.url}{PAGE}")
        other.answers[PAGE] = reply(b'{"files": []}', JSON)
        assert fetched(upstream).page.name == "demo"
        sent = f"Basic {base64.b64encode(b'user:secret').decode()}"
        assert index.seen[0].headers["AUTHORIZATION"] == sent  # item 141
        assert "AUTHORIZATION" not in other.seen[0].headers


def test_credentials_of_the_url_are_preferred_to_netrc(tmp_path: Path, index: FakeIndex):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login user password secret\n")
    index.add(wheel("demo"))
    url = index.url.replace("//", "//me:mine@")
    with following(url, environ={"NETRC": str(netrc)}) as upstream:
        fetched(upstream)
    sent = f"Basic {base64.b64encode(b'me:mine').decode()}"
    assert index.seen[0].headers["AUTHORIZATION"] == sent


def test_a_broken_netrc_is_ignored_with_a_warning(
    tmp_path: Path, index: FakeIndex, caplog: pytest.LogCaptureFixture
):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 password secret nonsense\n")
    index.add(wheel("demo"))
    with following(index.url, environ={"NETRC": str(netrc)}) as upstream:
        assert fetched(upstream).page.name == "demo"
    assert str(netrc) in caplog.text
    assert "secret" not in caplog.text


# Messages, and rarer cases


@pytest.mark.parametrize("line", ["secret", "machine 127.0.0.1 login user secret pass"])
def test_a_password_in_a_broken_netrc_is_not_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, line: str
):
    (tmp_path / "netrc").write_text(f"{line}\n")
    Transport("http://127.0.0.1", 5, {"NETRC": str(tmp_path / "netrc")}).close()
    assert len(caplog.records) == 1
    assert "secret" not in caplog.text


def test_only_a_netrc_named_by_the_variable_must_exist(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    Transport("http://127.0.0.1", 5, {"HOME": str(tmp_path)}).close()
    assert caplog.records == []
    Transport("http://127.0.0.1", 5, {"NETRC": str(tmp_path / "missing")}).close()
    assert len(caplog.records) == 1


def test_the_proxy_in_use_is_logged_without_its_credentials(caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO")
    environ = {"HTTPS_PROXY": "http://user:secret@proxy.example.org:3128", "HOME": "/nonexistent"}
    Transport("https://index.example.org", 5, environ).close()
    assert "using the proxy http://proxy.example.org:3128 of HTTPS_PROXY for https" in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.parametrize(
    "value",
    [
        "socks5://user:secret@proxy.example.org", "http://user:secret@", "http://[::1",
        "http://user:1/secret@proxy.example.org", "http://user:1?secret@proxy.example.org",
        "http://user:1#secret@proxy.example.org", "user:secret@proxy.example.org:x",
    ],
)  # fmt: skip
def test_an_unusable_proxy_url_is_shown_without_its_password(value: str):
    with pytest.raises(SettingError) as caught:
        Transport("https://index.example.org", 5, {"https_proxy": value})
    assert "secret" not in f"{caught.value!s}{caught.value!r}"


def test_lower_case_variables_are_preferred(index: FakeIndex):
    index.add(wheel("demo"))
    proxy = Proxy()
    with proxy as address:
        environ = {"HTTP_PROXY": f"127.0.0.1:{free_port()}", "http_proxy": address, "HOME": "/x"}
        with following(index.url, environ=environ) as upstream:
            assert fetched(upstream).page.name == "demo"
    assert len(proxy.seen) == 1


def test_an_unused_proxy_url_is_not_checked(index: FakeIndex):
    index.add(wheel("demo"))
    environ = {"ALL_PROXY": "socks5://proxy.example.org:1080", "NO_PROXY": "*", "HOME": "/x"}
    with following(index.url, environ=environ) as upstream:
        assert fetched(upstream).page.name == "demo"


def test_no_proxy_may_name_a_port(index: FakeIndex):
    index.add(wheel("demo"))
    where = index.url.removeprefix("http://")
    environ = {"http_proxy": f"127.0.0.1:{free_port()}", "NO_PROXY": where, "HOME": "/x"}
    with following(index.url, environ=environ) as upstream:
        assert fetched(upstream).page.name == "demo"


def test_no_proxy_may_name_an_ipv6_address():
    proxy = Proxy()
    with proxy as address:
        environ = {"http_proxy": address, "NO_PROXY": "::1", "HOME": "/x"}
        with (
            following(f"http://[::1]:{free_port()}", environ=environ) as upstream,
            pytest.raises(UpstreamUnreachable),
        ):
            fetched(upstream)
    assert proxy.seen == []


def test_a_connection_that_the_proxy_closed_is_replaced_without_an_error():
    def script(connection: Any) -> None:
        # One response for each connection; the next request on it gets none.
        connection.request()
        connection.send("HTTP/1.1 200 OK", "Content-Length: 4", body=b"data")
        connection.request()

    with RawServer(script) as proxy:
        environ = {"http_proxy": proxy.url, "HOME": "/x"}
        with following("http://index.example.org", environ=environ) as upstream:
            for _ in range(3):
                file = upstream.files.open("http://index.example.org/file")
                assert (file.read(), file.read()) == (b"data", b"")
        assert proxy.connections == 3


def test_a_refused_tunnel_is_requested_once():
    def script(connection: Any) -> None:
        connection.request()
        connection.send("HTTP/1.1 407 Proxy Authentication Required", "Content-Length: 0")

    with RawServer(script) as proxy:
        environ = {"https_proxy": proxy.url.replace("//", "//user:secret@"), "HOME": "/x"}
        with (
            following("https://index.example.org", environ=environ, recall=first_root) as upstream,
            pytest.raises(UpstreamUnreachable, match="407") as caught,
        ):
            fetched(upstream)
        assert proxy.connections == 1
    assert "secret" not in f"{caught.value!s}{caught.value!r}"


@pytest.mark.parametrize("is_trusted", [True, False])
def test_a_tls_proxy_is_verified_and_gets_no_client_certificate(
    authority: trustme.CA, ca: Path, tmp_path: Path, is_trusted: bool
):
    shown = []

    def handle(client: Any, _: Any) -> None:
        shown.append(client.getpeercert())
        client.recv(4096)
        client.close()

    client = tmp_path / "client" / "client.pem"
    client.parent.mkdir()
    authority.issue_cert("pytail@index.example.org").private_key_and_cert_chain_pem.write_to_path(
        str(client)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_OPTIONAL
    server = StreamServer(("127.0.0.1", 0), handle, ssl_context=context)
    server.wrap_socket_and_handle = _quietly(server.wrap_socket_and_handle)
    server.start()
    environ = {"https_proxy": f"https://127.0.0.1:{server.server_port}", "HOME": "/x"}
    options = {"ca": ca} if is_trusted else {}
    with (
        following(
            "https://index.example.org", environ=environ, client_cert=client, **options
        ) as upstream,
        pytest.raises(UpstreamUnreachable),
    ):
        fetched(upstream)
    server.stop(timeout=0)
    assert set(map(bool, shown)) == ({False} if is_trusted else set())


def test_a_certificate_for_another_host_is_refused(authority: trustme.CA, ca: Path):
    with (
        secure(authority, page()) as url,
        following(url.replace("127.0.0.1", "localhost"), ca=ca) as upstream,
        pytest.raises(UpstreamUnreachable, match=r"(?i)mismatch|not valid for"),
    ):
        fetched(upstream)


def test_a_key_with_a_passphrase_is_a_setting_error(authority: trustme.CA, tmp_path: Path):
    issued = authority.issue_cert("pytail@index.example.org")
    key = load_pem_private_key(issued.private_key_pem.bytes(), None).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")
    )
    path = tmp_path / "client.pem"
    path.write_bytes(key + issued.cert_chain_pems[0].bytes())
    with pytest.raises(SettingError, match="not encrypted"):
        Transport("https://index.example.org", 5, {}, client_cert=path)


def test_an_unusable_authority_leaves_no_cache_directory(tmp_path: Path):
    settings = Settings(cache_dir=tmp_path / "cache", upstream_ca=tmp_path / "missing.pem")
    with pytest.raises(SettingError):
        create_app(settings)
    assert not (tmp_path / "cache").exists()


def test_closing_closes_idle_connections_also_while_a_response_is_kept(index: FakeIndex):
    before = set(sockets())
    transport = Transport(index.url, 5, {})
    response = transport.request("GET", f"{index.url}/simple/none/", {})
    assert response.read()
    assert set(sockets()) > before
    transport.close()
    until(lambda: set(sockets()) == before)
    assert response.status == 404
