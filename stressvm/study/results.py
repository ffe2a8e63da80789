"""What a study came to: each point with its intervals, each comparison with its verdict."""

from __future__ import annotations

from dataclasses import dataclass
from math import fsum
from typing import TYPE_CHECKING, Any

from stressvm.study.sample import MEASURES, OWN
from stressvm.study.statistics import compared, interval

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stressvm.study.runner import Plan
    from stressvm.study.sample import Sample
    from stressvm.study.statistics import Difference, Interval


@dataclass(frozen=True, slots=True)
class Comparison:
    """One level of a factor against its baseline in one measure, over all settings of the other factors.

    Attributes:
        factor, level, baseline, measure: what is compared.
        difference: of the level from the baseline.
        level_mean, baseline_mean: over all settings and replications.
    """

    factor: str
    level: str | int | float
    baseline: str | int | float
    measure: str
    difference: Difference
    level_mean: float
    baseline_mean: float

    @property
    def outcome(self) -> str:
        """What the level does to the baseline: "beats", "loses to", or "differs from" where neither is better; "" if unsure."""
        better = MEASURES.get(self.measure, OWN).better
        if not self.difference.sign:
            return ""
        if not better:
            return "differs from"
        return "beats" if (self.difference.sign < 0) == (better == "less") else "loses to"

    @property
    def size(self) -> str:
        """`3.10x (2.80 to 3.40)`, never below 1 for what can be told; a difference has a sign, and is in the measure's unit."""
        between = self.difference.interval
        if not self.difference.ratio:
            return f"by {between.value:+.3g} ({between.low:+.3g} to {between.high:+.3g})"
        value, low, high = between.value, between.low, between.high
        if self.difference.sign < 0:
            value, low, high = 1 / value, 1 / high, 1 / low
        return f"{value:.2f}x ({low:.2f} to {high:.2f})"

    def verdict(self) -> str:
        """A sentence: who beats whom, by how much, and how sure that is."""
        both = f"{self.factor} {self.level} {{}} {self.baseline} on {self.measure}: {self.size}, 95 % CI"
        return both.format(self.outcome or "shows no certain difference from")


@dataclass(frozen=True, slots=True)
class Results:
    """See the module.

    Attributes:
        plan: what was run.
        samples: of each point, by replication.
        comparisons: as the study wants them.
    """

    plan: Plan
    samples: list[list[Sample]]
    comparisons: list[Comparison]

    @classmethod
    def of(cls, plan: Plan, samples: list[list[Sample]]) -> Results:
        """Compare what was run."""
        points = plan.study.points()
        found = []
        for factor, measure in plan.study.compare:
            baseline = plan.study.baseline[factor]
            theirs = _values(points, samples, factor, baseline, measure)
            for level in plan.study.factors[factor]:
                if level != baseline and theirs:
                    ours = _values(points, samples, factor, level, measure)
                    difference = compared(ours, theirs)
                    found.append(Comparison(factor, level, baseline, measure, difference, _mean(ours), _mean(theirs)))
        return cls(plan, samples, found)

    def estimate(self, number: int, measure: str) -> Interval:
        """A measure at the point of that number."""
        return interval([sample.measures[measure] for sample in self.samples[number]])

    def facts(self) -> dict[str, Any]:
        """As JSON has it; what an interval is without end is null there."""
        rows = [
            {
                "point": point,
                "measures": {name: _triple(self.estimate(number, name)) for name in self.samples[number][0].measures},
            }
            for number, point in enumerate(self.plan.study.points())
        ]
        comparisons = [
            {
                "factor": one.factor,
                "level": one.level,
                "baseline": one.baseline,
                "measure": one.measure,
                "as": "ratio" if one.difference.ratio else "difference",
                "estimate": _triple(one.difference.interval),
                "verdict": one.verdict(),
            }
            for one in self.comparisons
        ]
        return {**self.plan.facts(), "question": self.plan.study.question, "points": rows, "comparisons": comparisons}


def _triple(between: Interval) -> list[float]:
    return [between.value, between.low, between.high]


def _values(
    points: Sequence[dict[str, Any]], samples: Sequence[Sequence[Sample]], factor: str, level: Any, measure: str
) -> list[list[float]]:
    """For each setting of the other factors, the values by replication."""
    return [
        [sample.measures[measure] for sample in samples[number]]
        for number, point in enumerate(points)
        if point[factor] == level
    ]


def _mean(values: Sequence[Sequence[float]]) -> float:
    flat = [value for row in values for value in row]
    return fsum(flat) / len(flat)
