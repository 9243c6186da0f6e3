"""What is wanted is looked for where it may be, and no more often than that."""

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
from pytail.upstream import circuit_breaker
from pytail.warm.requirements import required
from pytail.warm.targets import Target
from pytail.warm.warmer import Warmer
from tests.support.fakeindex import FakeIndex, Gated, reply, wheel
from tests.support.running import Clock
from tests.support.watching import until

HERE = [Target.of()]


@pytest.fixture
def parts(tmp_path: Path, index: FakeIndex, clock: Clock) -> Iterator[Cache]:
    settings = Settings(cache_dir=tmp_path / "cache", upstream_base_url=index.url)
    with contextlib.closing(Cache.of(settings, clock, wait=0.1)) as made:
        yield made


@pytest.fixture
def warming(parts: Cache) -> Warmer:
    return Warmer(parts.index, parts.files, parts.store, parts.quota, jobs=2)


def chosen(warming: Warmer, text: str) -> list[str]:
    choice = warming.choose("demo", [required(text)], HERE)
    return [file.filename for file in choice.files.values()]


def test_what_a_young_copy_does_not_list_is_looked_for_anew(
    warming: Warmer, index: FakeIndex, clock: Clock
):
    index.add(old := wheel("demo", "1.0"))
    assert chosen(warming, "demo") == [old.filename]
    index.add(new := wheel("demo", "2.0"))
    clock.now += 60
    assert chosen(warming, "demo") == [old.filename]
    assert index.page_count("demo") == 1
    assert chosen(warming, "demo>=2") == [new.filename]
    assert index.page_count("demo") == 2


def test_what_upstream_has_not_is_not_looked_for_again_and_again(warming: Warmer, index: FakeIndex):
    index.add(wheel("demo"))
    assert chosen(warming, "demo>=2") == []
    assert chosen(warming, "demo>=2") == []
    assert index.page_count("demo") == 1


def test_an_upstream_that_does_not_answer_is_told(warming: Warmer, index: FakeIndex):
    gated = index.answers["/simple/demo/"] = Gated(b"")
    choice = warming.choose("demo", [required("demo")], HERE)
    ((what, reason),) = choice.missing
    assert (what, "no response within 0.1 seconds" in reason) == ("demo", True)
    gated.open()


class Busy:
    """An upstream that refuses `times` pages before it gives any."""

    def __init__(self, index: FakeIndex, times: int, **headers: str) -> None:
        self._index, self._left = index, times
        self._refusal = reply(b"", "text/plain", "503 Service Unavailable", **headers)

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        self._left -= 1
        answer = self._refusal if self._left >= 0 else self._index._answer
        return answer(environ, start_response)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that fails is left alone for a second only, as it is told in whole ones."""
    monkeypatch.setattr(circuit_breaker, "INTERVAL", 0.1)


@pytest.fixture
def answered(warming: Warmer, index: FakeIndex) -> None:
    """Upstream has answered before."""
    index.add(wheel("demo"), *(wheel(f"p{number}") for number in range(6)))
    assert chosen(warming, "demo")


def outcomes(warming: Warmer) -> list[bool]:
    """Whether each of six projects was had."""
    wanted = [f"p{number}" for number in range(6)]
    found = warming.each(wanted, lambda name: warming.choose(name, [required(name)], HERE))
    return [not choice.missing for _, choice in found]


@pytest.mark.usefixtures("quick", "answered")
def test_an_upstream_that_is_left_alone_for_a_while_is_waited_for(parts: Cache, index: FakeIndex):
    one = Warmer(parts.index, parts.files, parts.store, parts.quota, jobs=1)
    assert one.choose("demo", [required("demo")], HERE).missing == []
    index.answers |= {f"/simple/p{number}/": Busy(index, 1) for number in range(3)}
    assert outcomes(one) == [False, False, False, True, True, True]
    assert parts.upstream.is_circuit_open is False


@pytest.mark.usefixtures("quick", "answered")
def test_an_upstream_that_asks_to_come_back_is_asked_again(warming: Warmer, index: FakeIndex):
    index.answers["/simple/p2/"] = Busy(index, 2, Retry_After="1")
    assert all(outcomes(warming))


@pytest.mark.usefixtures("quick", "answered")
def test_what_is_refused_time_and_again_is_told(warming: Warmer, index: FakeIndex):
    index.answers["/simple/p2/"] = Busy(index, 99, Retry_After="0")
    assert sorted(outcomes(warming)) == [False, True, True, True, True, True]
    assert index.page_count("p2") == 3


def test_an_upstream_that_never_answered_is_not_waited_for(warming: Warmer, index: FakeIndex):
    index.answers |= {f"/simple/p{n}/": Busy(index, 99, Retry_After="60") for n in range(6)}
    assert outcomes(warming) == [False] * 6


def test_so_many_are_under_way_at_a_time(warming: Warmer):
    under_way, most = 0, 0
    gate = gevent.event.Event()

    def work(item: int) -> int:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        gate.wait()
        under_way -= 1
        return item * item

    together = gevent.spawn(lambda: dict(warming.each(range(5), work)))
    until(lambda: under_way == 2)
    gate.set()
    assert together.get() == {0: 0, 1: 1, 2: 4, 3: 9, 4: 16}
    assert most == 2


def test_who_goes_leaves_nothing_under_way(warming: Warmer):
    ended = []

    def work(item: int) -> None:
        try:
            if item:
                gevent.event.Event().wait()
        except gevent.GreenletExit:
            ended.append(item)
            raise

    for _ in warming.each(range(5), work):
        gevent.sleep(0)
        break
    until(lambda: len(ended) == 2)
