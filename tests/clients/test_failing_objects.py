"""uv installs from an upstream where a few pages and files always fail: as it does without pytail."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gevent
import pytest

from tests.clients.conftest import Machine, uv_install
from tests.support.fakeindex import FakeIndex, reply, wheel
from tests.support.running import Client

pytestmark = pytest.mark.clients

#: Projects that are installed, and projects of which a page or file always fails.
GOOD, BAD = [f"good{number}" for number in range(40)], [f"bad{number}" for number in range(6)]


def oops(environ: dict[str, Any], start_response: Any) -> Any:
    return reply(b"", "text/plain", "500 Oops")(environ, start_response)


@pytest.fixture
def failing(world: FakeIndex) -> FakeIndex:
    """An upstream with many good objects and a few bad ones."""
    world.add(wheel("app", requires=GOOD))
    for project in GOOD:
        # uv looks at the newest version only; all else of the older ones fails.
        old, new = wheel(project, "1.0"), wheel(project, "2.0")
        world.add(old, new)
        world.answers[old.path] = world.answers[f"{old.path}.metadata"] = oops
    bad = [wheel(project) for project in BAD]
    world.add(*bad)
    for number, dist in enumerate(bad):
        paths = [f"/simple/{dist.project}/", dist.path, f"{dist.path}.metadata"]
        world.answers[paths[number % 3]] = oops
    return world


def test_uv_succeeds_where_it_succeeds_directly(
    machine: Callable[[], Machine], failing: FakeIndex, start: Any
):
    direct = machine()
    uv_install(direct, f"{failing.url}/simple/", "app")
    with start() as running:
        others = gevent.spawn(ask_for_bad_objects, running.client, failing)
        client = machine()
        uv_install(client, f"{running.client.url}/simple/", "app")
        others.kill()
        log = running.output()
    assert client.installed() == direct.installed() == {"app": "1.0"} | dict.fromkeys(GOOD, "2.0")
    # uv saw no error: those are of the bad objects only.
    lines = [line for line in log.splitlines() if " 502 " in line or " 503 " in line]
    assert lines
    assert [line for line in lines if not any(project in line for project in BAD)] == []


def ask_for_bad_objects(client: Client, index: FakeIndex) -> None:
    bad = [dist for dist in index.dists if dist.project in BAD]
    while True:
        for dist in bad:
            for path in (f"/simple/{dist.project}/", dist.served, f"{dist.served}.metadata"):
                client.get(path)
        gevent.sleep(0.01)


def test_uv_installs_a_wheel_whose_core_metadata_always_fails(
    machine: Callable[[], Machine], failing: FakeIndex, start: Any
):
    dist = next(dist for dist in failing.dists if dist.filename.startswith("good0-2.0"))
    failing.answers[f"{dist.path}.metadata"] = oops
    with start() as running:
        client = machine()
        uv_install(client, f"{running.client.url}/simple/", "app")
    assert client.installed()["good0"] == "2.0"
