"""The warmer revalidates, waits for upstream and runs fetches concurrently, within bounds."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import gevent
import gevent.event
import pytest

from pytail.cache.cache import Cache
from pytail.config.settings import Settings
from pytail.warm.requirements import parse_requirement
from pytail.warm.targets import Target
from pytail.warm.warmer import Warmer
from tests.support.fakeindex import FakeIndex, Gated, reply, wheel
from tests.support.running import Clock
from tests.support.watching import until

HERE = [Target.of()]


@pytest.fixture
def cache(tmp_path: Path, index: FakeIndex, clock: Clock) -> Iterator[Cache]:
    settings = Settings(cache_dir=tmp_path / "cache", upstream_base_url=index.url)
    with contextlib.closing(Cache.of(settings, clock, wait=0.1)) as cache:
        yield cache


@pytest.fixture
def warmer(cache: Cache) -> Warmer:
    return new_warmer(cache, jobs=2)


def new_warmer(cache: Cache, jobs: int) -> Warmer:
    return Warmer(cache.index, cache.files, cache.store, cache.quota, jobs)


def selected(warmer: Warmer, text: str) -> list[str]:
    selection = warmer.select("demo", [parse_requirement(text)], HERE)
    return [file.filename for file in selection.files.values()]


def test_a_fresh_page_that_lacks_the_version_is_revalidated(
    warmer: Warmer, index: FakeIndex, clock: Clock
):
    index.add(old := wheel("demo", "1.0"))
    assert selected(warmer, "demo") == [old.filename]
    index.add(new := wheel("demo", "2.0"))
    clock.now += 60
    assert selected(warmer, "demo") == [old.filename]
    assert index.page_count("demo") == 1
    assert selected(warmer, "demo>=2") == [new.filename]
    assert index.page_count("demo") == 2


def test_a_missing_version_is_not_asked_for_again_at_once(warmer: Warmer, index: FakeIndex):
    index.add(wheel("demo"))
    assert selected(warmer, "demo>=2") == []
    assert selected(warmer, "demo>=2") == []
    assert index.page_count("demo") == 1


def test_an_upstream_that_does_not_answer_makes_the_project_missing(
    warmer: Warmer, index: FakeIndex
):
    gated = index.answers["/simple/demo/"] = Gated(b"")
    selection = warmer.select("demo", [parse_requirement("demo")], HERE)
    ((project, reason),) = selection.missing
    assert (project, "no response within 0.1 seconds" in reason) == ("demo", True)
    gated.open()


class Busy:
    """An upstream that answers the first `times` requests with status 503."""

    def __init__(self, index: FakeIndex, times: int, **headers: str) -> None:
        self._index, self._refusals = index, times
        self._refusal = reply(b"", "text/plain", "503 Service Unavailable", **headers)

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        self._refusals -= 1
        answer = self._refusal if self._refusals >= 0 else self._index._answer
        return answer(environ, start_response)


@pytest.fixture
def answered(warmer: Warmer, index: FakeIndex) -> None:
    """Upstream has answered a request."""
    index.add(wheel("demo"), *(wheel(f"p{number}") for number in range(6)))
    assert selected(warmer, "demo")


def outcomes(warmer: Warmer) -> list[bool]:
    """Select six projects; return for each whether nothing was missing."""
    projects = [f"p{number}" for number in range(6)]
    found = warmer.each(projects, lambda name: warmer.select(name, [parse_requirement(name)], HERE))
    return [not selection.missing for _, selection in found]


@pytest.mark.usefixtures("answered")
def test_an_open_circuit_breaker_is_waited_for(cache: Cache, index: FakeIndex):
    one, client = new_warmer(cache, jobs=1), cache.upstream.client
    assert one.select("demo", [parse_requirement("demo")], HERE).missing == []
    index.stop()

    def heal() -> None:
        until(lambda: client.is_circuit_open(index.url))
        index.start()

    healing = gevent.spawn(heal)
    assert outcomes(one) == [False, False, False, True, True, True]
    healing.get()
    assert not client.is_circuit_open(index.url)


@pytest.mark.usefixtures("answered")
def test_a_refusal_with_retry_after_is_tried_again(warmer: Warmer, index: FakeIndex):
    index.answers["/simple/p2/"] = Busy(index, 2, Retry_After="1")
    assert all(outcomes(warmer))


@pytest.mark.usefixtures("answered")
def test_a_project_that_upstream_refuses_three_times_is_missing(warmer: Warmer, index: FakeIndex):
    index.answers["/simple/p2/"] = Busy(index, 99, Retry_After="0")
    assert sorted(outcomes(warmer)) == [False, True, True, True, True, True]
    assert index.page_count("p2") == 3


def test_an_upstream_that_never_answered_is_not_waited_for(warmer: Warmer, index: FakeIndex):
    index.answers |= {f"/simple/p{n}/": Busy(index, 99, Retry_After="60") for n in range(6)}
    assert outcomes(warmer) == [False] * 6


def test_at_most_so_many_calls_run_at_once(warmer: Warmer):
    running, most = 0, 0
    gate = gevent.event.Event()

    def work(item: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        gate.wait()
        running -= 1
        return item * item

    results = gevent.spawn(lambda: dict(warmer.each(range(5), work)))
    until(lambda: running == 2)
    gate.set()
    assert results.get() == {0: 0, 1: 1, 2: 4, 3: 9, 4: 16}
    assert most == 2


def test_closing_the_iterator_ends_running_calls(warmer: Warmer):
    ended = []

    def work(item: int) -> None:
        try:
            if item:
                gevent.event.Event().wait()
        except gevent.GreenletExit:
            ended.append(item)
            raise

    for _ in warmer.each(range(5), work):
        gevent.sleep(0)
        break
    until(lambda: len(ended) == 2)
