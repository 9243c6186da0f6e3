"""Where upstream may lead: by the kind of network of an address and of upstream itself."""

from __future__ import annotations

import socket

import pytest

from pytail.upstream.networks import Network, Reach, known_address, literal_address, network_of

PUBLIC = ["8.8.8.8", "2606:4700::1111", "172.32.0.1", "100.63.255.255", "11.0.0.1"]
PRIVATE = [
    "10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1", "fd12:3456::1",
    "fc00::1", "fec0::1", "240.0.0.1", "198.18.0.1", "64:ff9b:1::a00:1", "100::1",
]  # fmt: skip
LOOPBACK = ["127.0.0.1", "127.255.0.1", "0.0.0.0", "0.1.2.3", "::1", "::"]
LINK_LOCAL = [
    "169.254.169.254", "169.254.0.1", "fe80::1", "fe80::1%eth0", "fd00:ec2::254", "100.100.100.200",
]  # fmt: skip
MULTICAST = ["224.0.0.1", "239.1.2.3", "255.255.255.255", "ff02::1"]

#: Formats that put an IPv4 address into IPv6: mapped, compatible, translated, 6to4.
FORMATS = ["::ffff:{}", "::{}", "::ffff:0:{}", "64:ff9b::{}"]


@pytest.mark.parametrize(
    ("kind", "addresses"),
    [
        (Network.GLOBAL, PUBLIC),
        (Network.PRIVATE, PRIVATE),
        (Network.LOOPBACK, LOOPBACK),
        (Network.LINK_LOCAL, LINK_LOCAL),
        (Network.MULTICAST, MULTICAST),
    ],
    ids=lambda given: given.value if isinstance(given, Network) else "",
)
def test_each_address_is_of_one_kind(kind: Network, addresses: list[str]):
    assert {address: network_of(address) for address in addresses} == dict.fromkeys(addresses, kind)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("inner", ["10.0.0.1", "127.0.0.1", "169.254.169.254", "8.8.8.8"])
def test_an_address_inside_of_ipv6_counts_as_itself(form: str, inner: str):
    # :: and ::1 are no embedded addresses, and the embedded ones here are neither.
    assert network_of(form.format(inner)) == network_of(inner)


@pytest.mark.parametrize("inner", ["10.0.0.1", "127.0.0.1", "169.254.169.254", "8.8.8.8"])
def test_an_address_inside_of_a_tunnel_counts_as_itself(inner: str):
    digits = socket.inet_aton(inner)
    flipped = bytes(byte ^ 0xFF for byte in digits)
    six_to_four = socket.inet_ntop(socket.AF_INET6, b"\x20\x02" + digits + bytes(10))
    teredo = socket.inet_ntop(socket.AF_INET6, b"\x20\x01" + bytes(10) + flipped)
    assert network_of(six_to_four) == network_of(teredo) == network_of(inner)


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("127.0.0.1.", "127.0.0.1"),
        ("[::1]", "::1"),
        ("FD00::1%eth0", "fd00::1"),
        ("127.1", "127.0.0.1"),
        ("0x7f.1", "127.0.0.1"),
        ("2130706433", "127.0.0.1"),
        ("0251.0376.0251.0376", "169.254.169.254"),
        ("index.example.org", None),
        ("10.example.org", None),
        ("", None),
        ("\N{CIRCLED DIGIT ONE}.2", None),
    ],
)
def test_an_address_is_read_as_resolvers_read_it(host: str, address: str | None):
    assert literal_address(host) == address


def test_names_below_localhost_are_known_without_dns():
    hosts = ["localhost", "LOCALHOST.", "x.localhost", "10.1", "localhost.example.org"]
    addresses = ["127.0.0.1", "127.0.0.1", "127.0.0.1", "10.0.0.1", None]
    assert list(map(known_address, hosts)) == addresses


@pytest.mark.parametrize(
    ("own", "permitted"),
    [
        (["8.8.8.8"], {"public"}),
        (["10.0.0.1"], {"public", "private"}),
        (["127.0.0.1", "::1"], {"public", "private", "loopback"}),
        (["169.254.1.1"], {"public", "private", "link-local"}),
        # An internal index may have a public IPv6 address beside its private one.
        (["10.0.0.1", "2606:4700::1"], {"public", "private"}),
        # An address of the machine itself among others is no reason to trust upstream with it.
        (["8.8.8.8", "169.254.169.254"], {"public", "private"}),
        (["10.0.0.1", "127.0.0.1"], {"public", "private"}),
    ],
)
def test_upstream_leads_to_networks_like_its_own(own: list[str], permitted: set[str]):
    reach = Reach("index.example.org", lambda _: own)
    examples = ["8.8.8.8", "10.9.9.9", "127.0.0.2", "169.254.169.254", "224.0.0.1"]
    allowed = {network_of(each).value for each in examples if reach.refusal("x", each) is None}
    assert allowed == permitted


def test_an_upstream_that_cannot_be_resolved_is_public_until_it_can():
    answers: list[list[str]] = []

    def resolve(_: str) -> list[str]:
        if not answers:
            raise socket.gaierror
        return answers[0]

    reach = Reach("index.example.org", resolve)
    assert reach.refusal("files.example.org", "10.0.0.1") is not None
    assert reach.refusal("files.example.org", "8.8.8.8") is None
    answers.append(["10.0.0.2"])
    assert reach.refusal("files.example.org", "10.0.0.1") is None


def test_upstream_is_resolved_once_a_minute_and_only_for_private_addresses():
    asked = []

    def resolve(host: str) -> list[str]:
        asked.append(host)
        return ["8.8.8.8"]

    reach = Reach("index.example.org", resolve)
    assert reach.refusal("x", "8.8.4.4") is None
    assert asked == []
    for _ in range(3):
        assert reach.refusal("x", "10.0.0.1") is not None
    assert asked == ["index.example.org"]
