"""NO_PROXY is read as curl reads it, and also with ports."""

from __future__ import annotations

import pytest

from pytail.upstream.proxies import NoProxy


@pytest.mark.parametrize(
    ("value", "host"),
    [
        ("example.org", "example.org"),
        ("example.org", "index.example.org"),
        (".example.org", "index.example.org"),
        (".example.org", "example.org"),
        ("EXAMPLE.org", "Index.Example.ORG"),
        ("example.org.", "index.example.org"),
        ("example.org", "index.example.org."),
        ("a.example,example.org", "example.org"),
        ("a.example example.org", "example.org"),
        (" a.example ,\texample.org , ", "example.org"),
        ("10.0.0.0/8", "10.1.2.3"),
        ("10.9.9.9/8", "10.1.2.3"),
        ("10.0.0.1", "10.0.0.1"),
        ("10.0.0.1", "10.0.0.1."),
        ("192.168.0.0/16 10.0.0.0/8", "10.1.2.3"),
        ("fd00::/8", "fd12::1"),
        ("fd00::/8", "[fd12::1]"),
        ("[fd00::]/8", "fd12::1"),
        ("[::1]", "::1"),
        ("::1", "[::1]"),
        ("0:0:0:0:0:0:0:1", "::1"),
        ("FD00::A", "fd00::a"),
        ("127.0.0.0/8", "127.1"),
        ("localhost", "localhost"),
        ("example.org:8080", "index.example.org"),
        ("10.0.0.1:8080", "10.0.0.1"),
        ("[::1]:8080", "::1"),
    ],
)
def test_the_host_is_reached_without_proxy(value: str, host: str):
    assert NoProxy(value).covers(host, 8080)


@pytest.mark.parametrize(
    ("value", "host"),
    [
        ("", "example.org"),
        (",, ,", "example.org"),
        ("example.org", "notexample.org"),
        ("index.example.org", "example.org"),
        ("example.org:443", "example.org"),
        ("[::1]:443", "::1"),
        ("10.0.0.0/8", "11.0.0.1"),
        ("10.0.0.0/8", "10.example.org"),
        ("10.0.0.0/33", "10.0.0.1"),
        ("0.0.1", "10.0.0.1"),
        (".0.0.1", "10.0.0.1"),
        ("fd00::/8", "fe00::1"),
        ("fd00::/8", "10.0.0.1"),
        ("::/0", "10.0.0.1"),
        ("127.0.0.1", "localhost"),
        ("localhost", "127.0.0.1"),
        (".", "example.org"),
        # As curl: a star means all hosts only where it stands alone.
        ("example.com,*", "example.org"),
        ("*.example.org", "index.example.org"),
    ],
)
def test_the_host_is_reached_by_the_proxy(value: str, host: str):
    assert not NoProxy(value).covers(host, 8080)


def test_a_star_means_every_host():
    assert NoProxy(" * ").is_everything
    assert not NoProxy("*.example.org").is_everything
