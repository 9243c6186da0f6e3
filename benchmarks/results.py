"""What was measured and what it must reach, as plain values; pure functions only.

A ratio is taken within a round, between neighbours in time, and the median of those ratios decides:
what else the machine does then weighs on both sides.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

#: The name under which our own samples stand.
OURS = "pytail"

Samples = dict[str, list[float]]


@dataclass(frozen=True)
class Bound:
    """What `who` must reach: as a multiple of the best of `against`, or, without any, in the row's unit."""

    factor: float
    #: Whether more is better.
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
    """One line of work: what each contestant did in each round."""

    key: str
    work: str
    unit: str
    samples: Samples = field(default_factory=dict)
    bounds: list[Bound] = field(default_factory=list)
    #: Microseconds of processor time a request, which what else the machine does alters least.
    costs: Samples = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Verdict:
    """Whether a bound holds: `measured` is in the bound's own terms."""

    bound: Bound
    measured: float
    lowest: float
    highest: float

    @property
    def holds(self) -> bool:
        """Whether the median is on the right side."""
        right = self.measured >= self.bound.factor
        return right if self.bound.at_least else self.measured <= self.bound.factor


def interleaved(rounds: int, contestants: Mapping[str, Callable[[], float]]) -> Samples:
    """Measure A B A B ...: each contestant once in each round."""
    samples: Samples = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, measure in contestants.items():
            samples[name].append(measure())
    return samples


def ratios(ours: Iterable[float], theirs: Iterable[float]) -> list[float]:
    """`ours` divided by `theirs`, round by round."""
    return [mine / other for mine, other in zip(ours, theirs, strict=True)]


def judged(bound: Bound, samples: Samples) -> Verdict:
    """The verdict on `bound`. Raises KeyError where a sample that it needs is missing."""
    values = samples[bound.who]
    if bound.against:
        best = max if bound.at_least else min
        rival = best(bound.against, key=lambda name: statistics.median(samples[name]))
        values = ratios(values, samples[rival])
    return Verdict(bound, statistics.median(values), min(values), max(values))


def percentile(values: Iterable[float], share: float) -> float:
    """The value that `share` (0 to 1) of `values` do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def log_spaced(first: int, last: int, count: int) -> list[int]:
    """`count` whole numbers from `first` to `last`, each the same multiple of the one before."""
    step = (last / first) ** (1 / (count - 1))
    return [round(first * step**place) for place in range(count)]


def figure(value: float) -> str:
    """A number with three digits that matter, and no more."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"
