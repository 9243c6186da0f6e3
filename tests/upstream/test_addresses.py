"""A connection is made to the first address that accepts; the others may fail or hang."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator

import pytest

from pytail.errors import UpstreamError
from pytail.upstream.addresses import Connector, Endpoint, Resolve, resolve
from tests.support.fakeindex import FakeIndex, reply
from tests.support.leftovers import sockets
from tests.support.running import free_port
from tests.support.upstreams import following
from tests.support.watching import until


@contextlib.contextmanager
def listening(host: str = "127.0.0.1") -> Iterator[Endpoint]:
    """Let the block use the address of a server that accepts."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as server:
        yield family, server.getsockname()


@contextlib.contextmanager
def black_hole(host: str = "::1") -> Iterator[Endpoint]:
    """Let the block use an address at which nothing answers: its queue is full (Linux)."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as server, socket.socket(family) as held:
        server.bind((host, 0))
        server.listen(0)
        held.connect(server.getsockname())
        yield family, server.getsockname()


def refusing(host: str = "127.0.0.1") -> Endpoint:
    return socket.AF_INET, (host, free_port())


def connector(*addresses: Endpoint) -> Connector:
    return Connector(lambda _host, _port: list(addresses))


def connected(made: Connector, timeout: float = 20) -> Endpoint:
    with made.connect("index.example.org", 443, timeout) as connection:
        return connection.family, connection.getpeername()


def test_a_black_hole_costs_a_fraction_of_a_second():
    before = set(sockets())
    with black_hole() as hole, listening() as good:
        started = time.monotonic()
        assert connected(connector(hole, good)) == good
        # The connection to the black hole would fail after 20 seconds.
        assert time.monotonic() - started < 5
    until(lambda: set(sockets()) == before)


def test_a_refused_address_costs_nothing():
    with listening() as good:
        assert connected(connector(*[refusing()] * 30, good)) == good


def test_a_dead_family_costs_one_delay_however_many_addresses_it_has():
    with black_hole() as hole, listening() as good:
        started = time.monotonic()
        assert connected(connector(*[hole] * 20, good)) == good
        assert time.monotonic() - started < 4  # 20 delays are 5 seconds


def test_the_good_address_is_tried_first_next_time():
    with black_hole() as hole, listening() as good:
        made = connector(hole, hole, good)
        assert connected(made) == good
        started = time.monotonic()
        for _ in range(40):
            assert connected(made) == good
        assert time.monotonic() - started < 5  # 40 delays are 10 seconds


def test_another_address_is_used_where_the_good_one_is_gone():
    with listening("127.0.0.2") as other:
        with listening() as good:
            made = connector(good, other)
            assert connected(made) == good
        assert connected(made) == other


def test_all_addresses_together_have_one_timeout():
    before = set(sockets())
    with black_hole() as hole, black_hole("127.0.0.3") as other:
        started = time.monotonic()
        with pytest.raises(TimeoutError):
            connected(connector(hole, other), timeout=0.5)
        assert time.monotonic() - started < 5
    until(lambda: set(sockets()) == before)


def test_where_all_addresses_refuse_the_error_says_so():
    with pytest.raises(ConnectionRefusedError):
        connected(connector(refusing(), refusing("127.0.0.2")))


def test_a_name_without_addresses_is_an_error():
    with pytest.raises(OSError, match="no address"):
        connected(connector())


def test_the_socket_has_the_options_and_the_timeout():
    with listening() as good:
        option = (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        with connector(good).connect("index.example.org", 443, 7, [option]) as connection:
            assert connection.getsockopt(*option[:2]) == 1
            assert connection.gettimeout() == 7


def test_only_permitted_addresses_are_connected_to():
    with listening() as private, listening("127.0.0.2") as public:
        made = connector(private, public)

        def refusal(host: str, address: str) -> Exception | None:
            return OSError(f"{host} is private") if address == "127.0.0.1" else None

        with made.connect("index.example.org", 443, 5, refusal=refusal) as connection:
            assert connection.getpeername() == public[1]
        with pytest.raises(OSError, match=r"index\.example\.org is private"):
            connector(private).connect("index.example.org", 443, 5, refusal=refusal)


# Whole requests


def broken_ipv6(index: FakeIndex, hole: Endpoint) -> Resolve:
    """Return a resolver by which any host is `index`, whose IPv6 address is `hole`."""
    address = ("127.0.0.1", int(index.url.rpartition(":")[2]))
    return lambda _host, _port: [hole, (socket.AF_INET, address)]


def test_broken_ipv6_costs_a_fraction_of_a_second_once(index: FakeIndex):
    index.answers["/file"] = reply(b"data", None)
    with (
        black_hole() as hole,
        following("http://index.example.org", resolve=broken_ipv6(index, hole)) as upstream,
    ):
        started = time.monotonic()
        for _ in range(20):
            # The rest of the response is not read, so that each request has a new connection.
            upstream.files.open("http://index.example.org/file").close()
        assert time.monotonic() - started < 4  # 20 delays are 5 seconds
    assert index.count("/file") == 20


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_broken_ipv6_of_a_proxy_costs_a_fraction_of_a_second(index: FakeIndex, scheme: str):
    index.answers["/file"] = reply(b"data", None)
    environ = {f"{scheme}_proxy": "http://proxy.example.org:3128", "HOME": "/x"}
    with (
        black_hole() as hole,
        following(
            f"{scheme}://index.example.org", environ=environ, resolve=broken_ipv6(index, hole)
        ) as upstream,
    ):
        started = time.monotonic()
        with contextlib.suppress(UpstreamError):
            # The index as a proxy refuses tunnels.
            upstream.files.open(f"{scheme}://index.example.org/file")
        assert time.monotonic() - started < 4
    assert len(index.seen) == 1


def test_a_server_without_ipv6_is_reached_by_a_name_with_ipv6(index: FakeIndex):
    index.answers["/file"] = reply(b"data", None)
    url = index.url.replace("127.0.0.1", "localhost")
    with following(url) as upstream:
        assert upstream.files.open(f"{url}/file").read() == b"data"


def test_an_address_is_its_own_resolution():
    assert resolve("127.0.0.1", 80) == [(socket.AF_INET, ("127.0.0.1", 80))]
    assert resolve("::1", 80) == [(socket.AF_INET6, ("::1", 80, 0, 0))]
