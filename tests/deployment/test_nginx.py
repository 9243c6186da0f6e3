"""A real nginx with `conf/nginx.conf` in front of pytail."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import socket
import subprocess
import sys
from email.utils import formatdate
from pathlib import Path

import pytest

from tests.deployment.conftest import CONF, Site, Start
from tests.support.fakeindex import (
    HTML,
    JSON,
    Dist,
    FakeIndex,
    Gated,
    RawConnection,
    RawServer,
    wheel,
)
from tests.support.running import Answer, Client, clean_environ, file_path, serving
from tests.support.watching import until

pytestmark = pytest.mark.slow

DEMO = wheel("demo", "1.0+local.1", payload=bytes(range(256)) * 4000)
SERVER = {"server", "date", "connection"}

#: Headers of requests for a stored file.
CONDITIONS: list[dict[str, str]] = [
    {},
    {"Range": "bytes=5-99"},
    {"Range": "bytes=-7"},
    {"Range": "bytes=1000000-"},
    {"Range": "bytes=5-99", "If-Range": f'"{DEMO.key}"'},
    {"Range": "bytes=5-99", "If-Range": '"other"'},
    {"Range": "bytes=9-5"},
    {"Range": "bytes=0-1,5-6"},
    {"Range": "bytes=99999999-"},
    {"If-None-Match": f'"{DEMO.key}"'},
    {"If-None-Match": '"other"'},
    {"If-Match": '"other"'},
    {"If-Unmodified-Since": "Thu, 01 Jan 1970 00:00:00 GMT"},
]


@pytest.fixture
def demo(site: Site, index: FakeIndex) -> Dist:
    """A file that pytail has stored."""
    index.add(DEMO)
    assert site.behind.get(DEMO.served).data == DEMO.data
    return DEMO


def pytails_headers(answer: Answer) -> dict[str, str]:
    """Return the headers that pytail sets, by lower-case name."""
    items = answer.headers.items()
    assert len({name.lower() for name, _ in items}) == len(items)
    unlike = SERVER | {"x-request-id", "x-accel-buffering", "x-accel-redirect"}
    return {name.lower(): value for name, value in items if name.lower() not in unlike}


@pytest.mark.parametrize("accept", [JSON, HTML])
def test_a_page_and_the_files_it_links_are_those_of_pytail(site: Site, demo: Dist, accept: str):
    path = "/simple/demo/"
    for coding in ("identity", "gzip"):
        headers = {"Accept": accept, "Accept-Encoding": coding}
        through = site.request("GET", path, headers)
        direct = site.behind.request("GET", path, headers)
        assert (through.status, through.data) == (200, direct.data)
        assert pytails_headers(through) == pytails_headers(direct)
        assert (
            site.request("GET", path, headers | {"If-None-Match": through.headers["ETag"]}).status
            == 304
        )
    if accept == JSON:
        (entry,) = site.json("demo")["files"]
        assert site.get(file_path(entry)).data == demo.data


@pytest.mark.parametrize("path", ["/", "/simple", "/simple/Demo/", "/simple/demo", "/nothing"])
def test_redirects_and_errors_are_those_of_pytail(site: Site, demo: Dist, path: str):
    through, direct = site.get(path), site.behind.get(path)
    assert (through.status, through.data) == (direct.status, direct.data)
    assert pytails_headers(through) == pytails_headers(direct)


def test_the_prefix_without_a_slash_redirects(site: Site):
    assert site.get("/").headers["Location"] == "simple/"
    if site.url.endswith("/pypi"):
        answer = site.get("")
        assert (answer.status, answer.headers["Location"]) == (301, "/pypi/")


def test_a_stored_file_is_served_as_by_pytail(site: Site, demo: Dist):
    for method, headers in itertools.product(("GET", "HEAD"), CONDITIONS):
        through = site.request(method, demo.served, headers)
        direct = site.behind.request(method, demo.served, headers | {"X-Accel-Redirect": "no"})
        assert (through.status, through.data) == (direct.status, direct.data), headers
        assert pytails_headers(through) == pytails_headers(direct), headers


def test_if_modified_since_is_ignored(site: Site, demo: Dist, tmp_path: Path):
    until(lambda: list(tmp_path.rglob(demo.filename)))
    (stored,) = tmp_path.rglob(demo.filename)
    modified = formatdate(stored.stat().st_mtime, usegmt=True)
    answer = site.get(demo.served, If_Modified_Since=modified)
    assert (answer.status, answer.headers["Last-Modified"]) == (200, None)


def test_nginx_sends_the_file_itself(site: Site, demo: Dist):
    assert site.behind.get(demo.served).headers["X-Accel-Redirect"].startswith("/+held/")
    answer = site.get(demo.served)
    assert answer.data == demo.data
    assert answer.headers["X-Accel-Redirect"] is None
    assert answer.headers["ETag"] == site.head(demo.served).headers["ETag"]  # item 90
    # pytail counts the bytes that nginx sends as its own.
    assert site.behind.get("/+status").json()["sent_bytes"]["cache"] >= 2 * len(demo.data)


@pytest.mark.parametrize("spelled", ["+", "%2B", "%2b"])
def test_each_spelling_of_a_plus_is_the_file(site: Site, demo: Dist, spelled: str):
    path = demo.served.replace("+local", f"{spelled}local")
    for _ in range(2):
        assert site.get(path).data == demo.data


def test_clients_cannot_request_the_internal_location(site: Site, demo: Dist):
    assert Client.request(site, "GET", f"/+held/{demo.key}").status == 404
    bare = Site(site.url.removesuffix("/pypi"), site.tls, site.directory)
    assert bare.get(f"/+held/{demo.key}").status == 404


def test_a_file_that_nginx_does_not_find_is_sent_by_pytail(
    tmp_path: Path, index: FakeIndex, nginx: Start
):
    # As if the file was removed between the two responses.
    index.add(DEMO)
    with (
        serving(tmp_path / "cache", index.url, accel_redirect="/+held/") as behind,
        nginx(behind.url.removeprefix("http://"), tmp_path / "elsewhere") as site,
    ):
        for _ in range(2):
            assert site.get(DEMO.served).data == DEMO.data
        assert behind.get(DEMO.served).headers["X-Accel-Redirect"] is not None
        ranged = site.get(DEMO.served, Range="bytes=5-99")
        assert (ranged.status, ranged.data) == (206, DEMO.data[5:100])
        assert site.head(DEMO.served).headers["ETag"] == ranged.headers["ETag"]
    assert index.count(DEMO.path.replace("%2B", "+")) == 1


def test_bytes_of_a_downloading_file_are_sent_at_once(site: Site, index: FakeIndex):
    dist = wheel("coming", payload=bytes(range(256)) * 40)
    index.add(dist)
    index.answers[dist.path] = gated = Gated(
        dist.data[:6000], dist.data[6000:], size=len(dist.data)
    )
    gated.open()
    with contextlib.closing(site.open("GET", dist.served)) as connection:
        response = connection.getresponse()
        # pytail sends the last bytes once it has verified the file.
        assert response.read(4000) == dist.data[:4000]
        gated.open()
        assert response.read() == dist.data[4000:]


def test_an_upload_gets_the_405_of_pytail(site: Site):
    for size in (10, 5_000_000):
        answer = site.request("POST", "/simple/", {"Content-Type": "text/plain"}, bytes(size))
        assert answer.status == 405
        assert b"read-only" in answer.data


def test_an_upload_is_refused_before_its_body_is_sent(site: Site):
    with contextlib.closing(site.open("POST", "/", {"Content-Length": "9000000"})) as connection:
        assert connection.getresponse().status == 405


def test_large_headers_are_accepted(site: Site, demo: Dist):
    answer = site.get("/simple/demo/", Cookie="a" * 15_000)
    assert answer.status == 200


def test_the_request_id_is_the_clients_or_nginxs(site: Site, demo: Dist):
    assert site.get(demo.served, X_Request_Id="mine-1").headers["X-Request-Id"] == "mine-1"
    assert len(site.get(demo.served).headers["X-Request-Id"]) == 32
    assert site.get("/simple/demo/", X_Request_Id="mine-2").headers["X-Request-Id"] == "mine-2"


def test_pytail_gets_one_connection_and_no_forged_headers(tmp_path: Path, nginx: Start):
    heads = []

    def script(connection: RawConnection) -> None:
        while head := connection.request():
            heads.append(head.decode().lower())
            connection.send("HTTP/1.1 200 OK", "Content-Length: 2", body=b"ok")

    forged = {
        "X-Accel-Redirect": "no",
        "Connection": "close",
        "X-Request-Id": "mine",
        "X-Forwarded-For": "192.0.2.66",
    }
    with RawServer(script) as pytail, nginx(pytail.url.removeprefix("http://"), tmp_path) as site:
        for path in ("/simple/a%2Bb+c/", "//x/../y", "/?q=%2F"):
            assert site.request("GET", path, forged).data == b"ok"
        assert pytail.connections == 1
    assert [head.split()[1] for head in heads] == ["/simple/a%2bb+c/", "//x/../y", "/?q=%2f"]
    for head in heads:
        assert "x-accel-redirect" not in head
        assert "connection:" not in head
        assert "x-request-id: mine\r\n" in head
        # pytail takes the last address, which is what nginx saw.
        assert "x-forwarded-for: 192.0.2.66, 127.0.0.1\r\n" in head


def test_this_machine_may_read_the_monitoring_pages(site: Site):
    for path in ("/+health", "/+status", "/+metrics"):
        assert site.get(path).status == 200


def test_http_2_is_offered(site: Site):
    context = site.tls.context
    context.set_alpn_protocols(["h2", "http/1.1"])
    host, port = site.connection().host, site.connection().port
    with (
        socket.create_connection((host, port)) as connection,
        context.wrap_socket(connection, server_hostname=host) as secured,
    ):
        assert secured.selected_alpn_protocol() == "h2"


@pytest.mark.parametrize("server", ["pytail", "gunicorn"])
def test_nginx_finds_the_unix_socket_after_a_stop_and_a_kill(
    tmp_path: Path, index: FakeIndex, nginx: Start, server: str
):
    index.add(DEMO)
    cache, path = tmp_path / "cache", tmp_path / "pytail.sock"
    environ = clean_environ(
        PYTAIL_CACHE_DIR=str(cache),
        PYTAIL_UPSTREAM_BASE_URL=index.url,
        PYTAIL_BIND=f"unix:{path}",
        PYTAIL_ACCEL_REDIRECT="/+held/",
    )
    command = [sys.executable, "-m", "pytail"]
    if server == "gunicorn":
        conf = str(CONF / "gunicorn.conf.py")
        command = [sys.executable, "-m", "gunicorn", "--no-control-socket", "-c", conf]
    with nginx(f"unix:{path}", cache, fails=True) as site:
        assert site.get("/simple/demo/").status == 502
        for end in (signal.SIGTERM, signal.SIGKILL, signal.SIGTERM):
            process = subprocess.Popen(
                command,
                env=environ,
                cwd=tmp_path,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            try:
                until(lambda: site.get("/simple/demo/").status == 200, 20)
                assert path.stat().st_mode & 0o666 == 0o666
                assert site.get(DEMO.served).data == DEMO.data
            finally:
                # The group includes gunicorn's workers.
                os.killpg(process.pid, end)
                process.wait(20)
            assert path.exists() == (end == signal.SIGKILL)
            assert site.get("/simple/demo/").status == 502
    assert index.count(DEMO.path.replace("%2B", "+")) == 1
