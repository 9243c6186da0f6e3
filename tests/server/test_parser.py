"""Request heads: the environ of good ones, and the status for malformed and ambiguous ones."""

from __future__ import annotations

import http.client
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytail.server.parser import MAX_FIELDS, MAX_HEAD, MAX_LINE, RequestRefused, parse


def head(*fields: str, line: str = "GET /simple/ HTTP/1.1", host: str | None = "Host: x") -> bytes:
    return "\r\n".join([line, *([host] if host else []), *fields]).encode("latin-1")


def status_of(data: bytes) -> int:
    with pytest.raises(RequestRefused) as refused:
        parse(data)
    return int(refused.value.status[:3])


def test_request_line_and_fields_become_an_environ():
    found = parse(
        head(
            "Accept: a/b \t",
            "X-Two:one",
            "x-two: two",
            "Content-Type:",
            line="GET /a%20b?c=%20 HTTP/1.1",
        )
    )
    assert found.environ == {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": "/a b",
        "QUERY_STRING": "c=%20",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "HTTP_HOST": "x",
        "HTTP_ACCEPT": "a/b",
        "HTTP_X_TWO": "one,two",
        "CONTENT_TYPE": "",
    }
    assert (found.method, found.target, found.length) == ("GET", "/a%20b?c=%20", 0)


def test_cookies_are_joined_with_semicolons():
    assert parse(head("Cookie: a=1", "Cookie: b=2")).environ["HTTP_COOKIE"] == "a=1; b=2"


def test_name_with_an_underscore_is_dropped():
    environ = parse(head("X_Forwarded_For: evil", "Content_Length: 5")).environ
    assert not {"HTTP_X_FORWARDED_FOR", "CONTENT_LENGTH", "HTTP_CONTENT_LENGTH", ""} & set(environ)


@pytest.mark.parametrize(
    ("target", "path", "host"),
    [
        ("http://other.example.org/simple/", "/simple/", "other.example.org"),
        ("HTTPS://other.example.org:8443/simple/?x", "/simple/", "other.example.org:8443"),
        ("http://other.example.org", "/", "other.example.org"),
        ("http://other.example.org?x", "/", "other.example.org"),
    ],
)
def test_absolute_target_names_the_host(target: str, path: str, host: str):
    environ = parse(head(line=f"GET {target} HTTP/1.1")).environ
    assert (environ["PATH_INFO"], environ["HTTP_HOST"]) == (path, host)


def test_asterisk_is_a_target_of_options_alone():
    assert parse(head(line="OPTIONS * HTTP/1.1")).environ["PATH_INFO"] == "*"
    assert status_of(head(line="GET * HTTP/1.1")) == 400


@pytest.mark.parametrize(
    ("line", "fields", "is_persistent"),
    [
        ("GET / HTTP/1.1", [], True),
        ("GET / HTTP/1.1", ["Connection: close"], False),
        ("GET / HTTP/1.1", ["Connection: TE, Close"], False),
        ("GET / HTTP/1.1", ["Connection: x", "Connection: close"], False),
        ("GET / HTTP/1.0", [], False),
        ("GET / HTTP/1.0", ["Connection: Keep-Alive"], True),
        ("GET / HTTP/1.0", ["Connection: keep-alive, close"], False),
    ],
)
def test_version_and_connection_options_decide_whether_the_connection_persists(
    line: str, fields: list[str], is_persistent: bool
):
    assert parse(head(*fields, line=line)).keeps_alive is is_persistent


@pytest.mark.parametrize(
    "line",
    [
        "",
        "GET",
        "GET /",
        "GET  / HTTP/1.1",
        "GET / HTTP/1.1 ",
        " GET / HTTP/1.1",
        "GET\t/ HTTP/1.1",
        "GET / / HTTP/1.1",
        "GET simple HTTP/1.1",
        "GET ftp://x/ HTTP/1.1",
        "GET http:/// HTTP/1.1",
        "GET http://user@x/ HTTP/1.1",
        "G(T / HTTP/1.1",
        "GET /\x00 HTTP/1.1",
        "GET /\x7f HTTP/1.1",
    ],
)
def test_bad_request_line_is_refused(line: str):
    assert status_of(head(line=line)) == 400


@pytest.mark.parametrize(
    "version", ["HTTP/2.0", "HTTP/0.9", "HTTP/1", "HTTP/1.10", "http/1.1", "X"]
)
def test_other_version_is_refused(version: str):
    assert status_of(head(line=f"GET / {version}")) == 505


@pytest.mark.parametrize(
    "fields",
    [
        ["Accept: a", " folded"],
        ["Accept: a", "\tfolded"],
        [" Accept: a"],
        ["Accept : a"],
        ["Accept\t: a"],
        ["Accept"],
        [": a"],
        ["Acc\xe9pt: a"],
        ["Acc ept: a"],
        ["Accept: a\rX: b"],
        ["Accept: a\nX: b"],
        ["Accept: a\x00"],
        ["Accept: \x1b[31m"],
        ["Host: y"],
        ["Host: x"],
        ["Content-Type: a/b", "Content-Type: c/d"],
        ["Content-Length: 1", "Content-Length: 2"],
        ["Content-Length: 1", "Content-Length: 1"],
        ["Content-Length: 1, 1"],
        ["Content-Length: -1"],
        ["Content-Length: +1"],
        ["Content-Length: 0x1"],
        ["Content-Length: 1_0"],
        ["Content-Length: \xb2"],
        ["Content-Length:"],
        ["Content-Length: 9999999999999999999"],
        ["Transfer-Encoding: chunked", "Content-Length: 1"],
        ["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding: gzip, chunked"],
        ["Transfer-Encoding: xchunked"],
        ["Transfer-Encoding: identity"],
        ["Transfer-Encoding:"],
    ],
)
def test_ambiguous_field_is_refused(fields: list[str]):
    assert status_of(head(*fields)) == 400


def test_chunked_body_of_http_1_0_is_refused():
    assert status_of(head("Transfer-Encoding: chunked", line="POST / HTTP/1.0")) == 400


def test_head_request_with_a_body_is_refused():
    assert status_of(head("Content-Length: 1", line="HEAD / HTTP/1.1")) == 400
    assert parse(head("Content-Length: 0", line="HEAD / HTTP/1.1")).length == 0


def test_host_is_required_since_http_1_1():
    assert status_of(head(host=None)) == 400
    assert parse(head(line="GET / HTTP/1.0", host=None)).version == "HTTP/1.0"


def test_length_of_the_body_is_none_for_chunked():
    assert parse(head("Content-Length: 12", line="POST / HTTP/1.1")).length == 12
    assert parse(head("Transfer-Encoding: Chunked", line="POST / HTTP/1.1")).length is None


def test_sizes_up_to_the_limits_are_accepted():
    line = "GET /" + "a" * (MAX_LINE - len("GET / HTTP/1.1")) + " HTTP/1.1"
    assert parse(head(line=line)).environ["PATH_INFO"].endswith("aa")
    assert status_of(head(line=line.replace("/a", "/aa"))) == 414
    fields = [f"X-{number}: x" for number in range(MAX_FIELDS - 1)]
    assert len(parse(head(*fields)).environ) == MAX_FIELDS + 4
    assert status_of(head(*fields, "X: x")) == 431
    room = MAX_HEAD - len(head("X: "))
    assert parse(head("X: " + "x" * room)).environ["HTTP_X"] == "x" * room
    assert status_of(head("X: " + "x" * (room + 1))) == 431


tokens = st.text(st.sampled_from("aZ09-_!~.'*"), min_size=1, max_size=6)
values = st.text(st.characters(min_codepoint=0, max_codepoint=255), max_size=12)
fields = st.one_of(
    st.tuples(tokens, values).map(": ".join),
    st.tuples(
        st.sampled_from(["Content-Length", "Transfer-Encoding", "Host", "Connection", "Accept"]),
        st.sampled_from([":", ": ", " : ", ":\t", "", ":\r", ":\n "]),
        st.sampled_from(["0", "1", "chunked", "x", "close", "", " ", "a,b", "1 1", "\xa0"]),
    ).map("".join),
    values,
)


@given(st.lists(fields, max_size=6), st.sampled_from(["\r\n", "\r\n", "\n", "\r", "\r\n "]))
def test_accepted_head_is_the_same_to_the_standard_library(lines: list[str], end: str):
    data = end.join(["Host: x", *lines]).encode("latin-1")
    try:
        found = parse(b"GET / HTTP/1.1\r\n" + data)
    except RequestRefused:
        return
    message = http.client.parse_headers(io.BytesIO(data + b"\r\n\r\n"))
    assert not message.defects
    expected: dict[str, str] = {}
    for name, value in message.items():
        key = name.upper().replace("-", "_")
        key = key if key in {"CONTENT_LENGTH", "CONTENT_TYPE"} else f"HTTP_{key}"
        if "_" not in name:
            glue = "; " if name.lower() == "cookie" else ","
            stripped = value.strip(" \t")
            expected[key] = expected[key] + glue + stripped if key in expected else stripped
    of_request_line = {"REQUEST_METHOD", "PATH_INFO", "QUERY_STRING", "SERVER_PROTOCOL"}
    assert {
        key: value for key, value in found.environ.items() if key not in of_request_line
    } == expected


@given(
    st.lists(
        st.tuples(tokens, st.text(st.characters(min_codepoint=33, max_codepoint=126))), max_size=20
    )
)
def test_plain_fields_are_accepted(pairs: list[tuple[str, str]]):
    found = parse(head(*(f"X{name}: {value}" for name, value in pairs)))
    assert found.length == 0


@given(st.binary(max_size=200))
def test_any_bytes_are_parsed_or_refused(data: bytes):
    try:
        found = parse(data)
    except RequestRefused:
        return
    assert found.environ["PATH_INFO"].startswith(("/", "*"))
