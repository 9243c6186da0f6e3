"""A warm cache serves each file at least as well as an empty one, after any change of upstream."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytail.upstream import resume
from tests.support.fakeindex import FakeIndex, reply, sdist, wheel
from tests.support.moving import Moving
from tests.support.running import Client, Clock, free_port, serving

STATUSES = (
    "302 Found", "400 Bad Request", "401 Unauthorized", "403 Forbidden", "404 Not Found", "410 Gone",
    "500 Internal Server Error", "503 Service Unavailable",
)  # fmt: skip
LATER = 11
DISTS = (wheel("demo"), sdist("demo", "2.0"), wheel("demo", "3.0"))
PATHS = [*(dist.served for dist in DISTS), f"{DISTS[0].served}.metadata"]


@dataclasses.dataclass
class World:
    """An upstream with the files of `DISTS`, and the time."""

    index: FakeIndex
    moving: Moving
    clock: Clock


Change = Callable[[World], None]


def moves(world: World) -> None:
    world.moving.move()


def moves_to_a_host_that_is_gone(world: World) -> None:
    world.moving.move(f"http://127.0.0.1:{free_port()}")


def refuses_otherwise(world: World) -> None:
    world.moving.refusal = reply(b"", None, STATUSES[world.moving.number % len(STATUSES)])


def loses_a_file(world: World) -> None:
    world.moving.gone(DISTS[0])


def lists_a_file_no_longer(world: World) -> None:
    world.index.dists[:] = DISTS[1:]


def lists_all_files(world: World) -> None:
    world.index.dists[:] = DISTS


def page_fails(world: World) -> None:
    world.index.answers["/simple/demo/"] = reply(b"", None, "502 Bad Gateway")


def page_works(world: World) -> None:
    world.index.answers.pop("/simple/demo/", None)


def a_minute_passes(world: World) -> None:
    world.clock.now += 60


CHANGES: list[Change] = [
    moves,
    moves_to_a_host_that_is_gone,
    refuses_otherwise,
    loses_a_file,
    lists_a_file_no_longer,
    lists_all_files,
    page_fails,
    page_works,
    a_minute_passes,
]


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resume, "PAUSES", (0.001,))


def got(client: Client, path: str) -> tuple[int, bytes]:
    try:
        answer = client.get(path)
    except HTTPException:
        return 0, b""
    return answer.status, answer.data


def is_worse(warm: tuple[int, bytes], empty: tuple[int, bytes]) -> bool:
    """Return whether `warm` is no file where `empty` is, or a lasting error where that is not."""
    if warm[0] == 200:
        return False
    return empty[0] == 200 or (warm[0] == 404 and empty[0] != 404)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(st.tuples(st.sampled_from(CHANGES), st.sampled_from(PATHS)), min_size=1, max_size=5),
    st.sampled_from([False, True]),
)
def test_a_warm_cache_is_never_worse_than_an_empty_one(
    changes: list[tuple[Change, str]], is_signed: bool
):
    for dist in DISTS:
        dist.extra.clear()
    with tempfile.TemporaryDirectory() as directory, FakeIndex() as index:
        clock = Clock()
        world = World(index, Moving(index, *DISTS, is_signed=is_signed), clock)
        with serving(Path(directory, "warm"), index.url, clock) as warm:
            assert len(warm.json("demo")["files"]) == len(DISTS)
            for number, (change, path) in enumerate(changes):
                change(world)
                # Upstream is asked for links every ten seconds at most.
                clock.now += LATER
                with serving(Path(directory, f"empty-{number}"), index.url, clock) as empty:
                    expected = got(empty, path)
                assert not is_worse(got(warm, path), expected)
