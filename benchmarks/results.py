"""Samples, bounds and verdicts: plain values and pure functions.

A ratio is between two samples of one round, and the median of the ratios decides. Other work of the
machine then slows both sides of a ratio.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

#: The name of pytail's own samples.
OURS = "pytail"

Samples = dict[str, list[float]]


@dataclass(frozen=True)
class Bound:
    """What `who` must reach: a multiple of the best of `against`; without any, in the row's unit."""

    factor: float
    #: Whether a larger value is better.
    at_least: bool
    #: Names of samples; none means that the bound is absolute.
    against: tuple[str, ...] = ()
    who: str = OURS

    def __str__(self) -> str:
        relation = "at least" if self.at_least else "at most"
        if not self.against:
            return f"{relation} {figure(self.factor)}"
        rival = " or ".join(self.against)
        return (
            f"{relation} {self.factor:g} x {f'the best of {rival}' if self.against[1:] else rival}"
        )


@dataclass
class Row:
    """One kind of work, and the sample of each contestant in each round."""

    key: str
    work: str
    unit: str
    samples: Samples = field(default_factory=dict)
    bounds: list[Bound] = field(default_factory=list)
    #: Microseconds of processor time a request; other work of the machine changes them least.
    costs: Samples = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Verdict:
    """A bound and the measured value, with the lowest and the highest round."""

    bound: Bound
    measured: float
    lowest: float
    highest: float

    @property
    def holds(self) -> bool:
        """Whether the measured value is within the bound."""
        right = self.measured >= self.bound.factor
        return right if self.bound.at_least else self.measured <= self.bound.factor


def interleaved(rounds: int, contestants: Mapping[str, Callable[[], float]]) -> Samples:
    """Measure each contestant once in each round, in turn: A B A B."""
    samples: Samples = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, measure in contestants.items():
            samples[name].append(measure())
    return samples


def ratios(ours: Iterable[float], theirs: Iterable[float]) -> list[float]:
    """Return `ours` divided by `theirs`, for each round."""
    return [mine / other for mine, other in zip(ours, theirs, strict=True)]


def judged(bound: Bound, samples: Samples) -> Verdict:
    """Return the verdict on `bound`. Raises KeyError where samples of a contestant are missing."""
    values = samples[bound.who]
    if bound.against:
        best = max if bound.at_least else min
        rival = best(bound.against, key=lambda name: statistics.median(samples[name]))
        values = ratios(values, samples[rival])
    return Verdict(bound, statistics.median(values), min(values), max(values))


def percentile(values: Iterable[float], share: float) -> float:
    """Return the value that a `share` (0 to 1) of `values` do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def log_spaced(first: int, last: int, count: int) -> list[int]:
    """Return `count` whole numbers from `first` to `last`, at equal ratios."""
    step = (last / first) ** (1 / (count - 1))
    return [round(first * step**place) for place in range(count)]


def figure(value: float) -> str:
    """Return a number with three significant digits."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"
