"""A public upstream leads to no host in a private network, neither by links nor by redirects.

In these tests 127.0.0.1, where the index runs, is public, and all other addresses are what they are.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pytail.cache.cache import Upstream
from pytail.errors import UpstreamAddressRefused, UpstreamError
from pytail.model import Validators
from pytail.upstream.addresses import Endpoint, resolve
from pytail.upstream.networks import Network, any_network, network_of
from tests.support.fakeindex import JSON, FakeIndex, reply
from tests.support.upstreams import PAGE, fetched, following, json_page, redirect

FILE = "/file?token=S3cr3t"


def classify(address: str) -> Network:
    return Network.GLOBAL if address == "127.0.0.1" else network_of(address)


@pytest.fixture
def public(index: FakeIndex) -> Iterator[Upstream]:
    """The clients of `index`, which is public."""
    with following(index.url, classify=classify) as upstream:
        yield upstream


@pytest.fixture
def private() -> Iterator[FakeIndex]:
    """A server that only pytail can reach."""
    with FakeIndex(host="127.0.0.2") as running:
        running.answers["/file"] = reply(b"data", None)
        running.answers[PAGE] = reply(json_page(), JSON)
        yield running


REQUESTS: list[Callable[[Upstream, str], Any]] = [
    lambda upstream, url: upstream.files.open(url),
    lambda upstream, url: upstream.files.open(url, 2),
    lambda upstream, url: upstream.files.open_range(url, 0, 2, 4),
    lambda upstream, url: upstream.files.read_range(url, 0, 2),
    lambda upstream, url: upstream.files.size(url),
    lambda upstream, url: upstream.files.revalidate(url, Validators('"x"', None, 4)),
]


@pytest.mark.parametrize("request_", REQUESTS)
def test_no_request_follows_a_link_or_redirect(
    public: Upstream, index: FakeIndex, private: FakeIndex, request_: Callable[[Upstream, str], Any]
):
    index.answers["/moved"] = redirect(f"{private.url}{FILE}")
    for url in (f"{private.url}{FILE}", f"{index.url}/moved"):
        with pytest.raises(UpstreamAddressRefused):
            request_(public, url)
    assert private.seen == []


def test_no_page_is_read_from_a_private_address(
    public: Upstream, index: FakeIndex, private: FakeIndex
):
    index.answers[PAGE] = redirect(f"{private.url}{PAGE}")
    with pytest.raises(UpstreamAddressRefused):
        fetched(public)
    assert private.seen == []


def test_the_error_names_the_host_and_the_remedy_only(public: Upstream, private: FakeIndex):
    url = private.url.replace("//", "//user:S3cr3t@")
    with pytest.raises(UpstreamAddressRefused) as caught:
        public.files.open(f"{url}/S3cr3t{FILE}")
    assert "S3cr3t:" not in str(caught.value)
    assert caught.value.for_clients == (
        f"upstream {private.url}: the host has a loopback address, to which upstream must not lead;"
        " if it may, set --allow-private-redirects yes"
    )


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.2", "2130706434", "0x7f.2", "127.2", "[::ffff:127.0.0.2]", "[::1]",
        "0.0.0.0", "[::]", "169.254.169.254", "10.0.0.1", "192.168.0.1", "100.64.0.1", "[fe80::1]",
        "[fd00::1]", "[64:ff9b::a00:1]", "[2002:a00:1::]", "224.0.0.1", "localhost",
    ],
)  # fmt: skip
def test_every_spelling_of_a_private_address_is_refused(host: str, private: FakeIndex):
    port = private.url.rpartition(":")[2]
    # The only public address is another one, so that "localhost" is private.
    classify = lambda address: network_of("8.8.8.8" if address == "127.9.9.9" else address)  # noqa: E731
    with (
        following("http://127.9.9.9", classify=classify) as upstream,
        pytest.raises(UpstreamAddressRefused),
    ):
        upstream.files.open(f"http://{host}:{port}/file")
    assert private.seen == []


def test_the_upstream_is_not_charged(public: Upstream, index: FakeIndex, private: FakeIndex):
    index.answers["/moved"] = redirect(f"{private.url}{FILE}")
    for _ in range(5):
        with pytest.raises(UpstreamAddressRefused):
            public.files.open(f"{index.url}/moved")
    assert not public.client.is_circuit_open(index.url)


def test_the_resolved_address_counts_and_is_the_one_connected_to(
    index: FakeIndex, private: FakeIndex
):
    index.answers["/file"] = reply(b"data", None)
    port = int(index.url.rpartition(":")[2])
    answers = [["127.0.0.1"], ["127.0.0.2"]]
    asked = []

    def rebinding(host: str, port: int) -> list[Endpoint]:
        if host != "files.example.org":
            return resolve(host, port)
        asked.append(host)
        # A public address the first time, a private one from then on.
        addresses = answers[min(len(asked), 2) - 1]
        return [(socket.AF_INET, (address, port)) for address in addresses]

    with following(index.url, classify=classify, resolve=rebinding, idle=0) as upstream:
        url = f"http://files.example.org:{port}/file"
        upstream.files.open(url).close()
        assert asked == ["files.example.org"]
        with pytest.raises(UpstreamAddressRefused, match=r"files\.example\.org"):
            upstream.files.open(url)
    assert private.seen == []


def test_the_public_ones_of_several_addresses_are_used(index: FakeIndex):
    index.answers["/file"] = reply(b"data", None)
    port = int(index.url.rpartition(":")[2])

    def both(host: str, port: int) -> list[Endpoint]:
        return [(socket.AF_INET, (address, port)) for address in ("127.0.0.2", "127.0.0.1")]

    with following(index.url, classify=classify, resolve=both) as upstream:
        assert upstream.files.open(f"http://files.example.org:{port}/file").read() == b"data"


def test_with_the_option_upstream_leads_anywhere(index: FakeIndex, private: FakeIndex):
    index.answers[PAGE] = redirect(f"{private.url}{PAGE}")
    with following(index.url, classify=any_network) as upstream:
        assert fetched(upstream).page.name == "demo"
        assert upstream.files.size(f"{private.url}{FILE}") == 4


def test_a_private_upstream_leads_to_hosts_of_its_network(index: FakeIndex, private: FakeIndex):
    index.answers[PAGE] = redirect(f"{private.url}{PAGE}")
    with following(index.url) as upstream:
        assert fetched(upstream).page.name == "demo"
        assert upstream.files.size(f"{private.url}{FILE}") == 4


@pytest.mark.parametrize(
    "address", ["169.254.169.254", "[fe80::1]", "[fd00:ec2::254]", "224.0.0.1"]
)
def test_an_upstream_on_loopback_leads_to_no_link_local_address(index: FakeIndex, address: str):
    with following(index.url) as upstream, pytest.raises(UpstreamAddressRefused):
        upstream.files.open(f"http://{address}/latest/meta-data/")


def test_upstream_itself_may_have_any_address(private: FakeIndex):
    with following(private.url, classify=lambda _: Network.MULTICAST) as upstream:
        assert fetched(upstream).page.name == "demo"


@pytest.mark.parametrize("host", ["10.0.0.1", "127.1", "localhost", "[::1]", "169.254.169.254"])
def test_behind_a_proxy_addresses_are_refused_and_names_are_left_to_the_proxy(
    index: FakeIndex, host: str
):
    # The index is the proxy: it answers for any host.
    environ = {"http_proxy": index.url, "HOME": "/x"}
    options = {"classify": network_of, "environ": environ}
    index.answers["/file"] = reply(b"data", None)
    with following("http://8.8.8.8", **options) as upstream:
        with pytest.raises(UpstreamAddressRefused):
            upstream.files.open(f"http://{host}/file")
        assert index.seen == []
        with pytest.raises(UpstreamError):
            upstream.files.open("http://files.example.org/file")
        assert len(index.seen) == 1
