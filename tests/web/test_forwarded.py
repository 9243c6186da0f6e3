"""The address of a client: the right-most one in X-Forwarded-For that is not of a trusted proxy."""

from __future__ import annotations

import pytest

from pytail.config.values import proxies
from pytail.web.forwarded import ClientAddresses

PROXY, CLIENT = "10.0.0.1", "203.0.113.7"


def client(forwarded: str | None, peer: str = PROXY, trusted: str = "10.0.0.0/8, fd00::/8") -> str:
    return ClientAddresses(proxies(trusted)).of(peer, forwarded)


@pytest.mark.parametrize(
    ("forwarded", "expected"),
    [
        (CLIENT, CLIENT),
        (f"  {CLIENT} ", CLIENT),
        (f"{CLIENT}:51234", CLIENT),
        ("2001:db8::7", "2001:db8::7"),
        ("2001:0DB8:0::7", "2001:db8::7"),
        ("[2001:db8::7]", "2001:db8::7"),
        ("[2001:db8::7]:443", "2001:db8::7"),
        (f"::ffff:{CLIENT}", CLIENT),
        # Each proxy appends the address that it sees.
        (f"{CLIENT}, 10.9.9.9", CLIENT),
        (f"{CLIENT},10.9.9.9,[fd00::1]:80,10.0.0.2:80", CLIENT),
        # What a client invented stands before its address.
        (f"192.0.2.66, {CLIENT}", CLIENT),
        (f"garbage, 10.0.0.5, {CLIENT}, 10.0.0.2", CLIENT),
        (f"{CLIENT}, ,", CLIENT),
        # All are trusted: the farthest one.
        ("10.0.0.7, 10.0.0.8", "10.0.0.7"),
    ],
)
def test_the_client_is_the_rightmost_address_that_is_no_trusted_proxy(
    forwarded: str, expected: str
):
    assert client(forwarded) == expected


@pytest.mark.parametrize(
    "forwarded",
    [None, "", " ", ",", "unknown", "_hidden", "203.0.113.7.9", "203.0.113.256", "203.0.113.7:port",
     "[2001:db8::7", "2001:db8::7]:80", f"{CLIENT}, garbage", "\x00", "\u0661.1.1.1", f"{CLIENT} x",
     f'"{CLIENT}"', "for=203.0.113.7"],
)  # fmt: skip
def test_garbage_falls_back_to_the_peer(forwarded: str | None):
    assert client(forwarded) == PROXY


@pytest.mark.parametrize(
    ("peer", "trusted"),
    [
        ("192.0.2.1", "10.0.0.0/8"),
        (PROXY, ""),
        (PROXY, "unix"),
        ("", "10.0.0.0/8, ::/0, 0.0.0.0/0"),
        ("fd00::1", "10.0.0.0/8"),
    ],
)
def test_a_peer_that_is_not_trusted_is_the_client(peer: str, trusted: str):
    assert client(CLIENT, peer, trusted) == peer


@pytest.mark.parametrize(
    ("peer", "trusted"),
    [
        ("", "unix"),
        ("/run/proxy.sock", "unix"),
        ("::ffff:10.0.0.1", "10.0.0.0/8"),
        ("10.0.0.1", "::ffff:10.0.0.0/104"),
        ("fd00::1", "fd00::1"),
        ("fe80::1%eth0", "fe80::/10"),
    ],
)
def test_a_trusted_peer_tells_the_client(peer: str, trusted: str):
    assert client(CLIENT, peer, trusted) == CLIENT
