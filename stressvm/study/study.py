"""The description of a study: a question, factors with their levels, and how one replication of a point is simulated."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from stressvm.study.sample import Sample  # noqa: TC001 - a field's type

#: Factor -> level.
Point = Mapping[str, str | int | float]


@dataclass(frozen=True, slots=True)
class Study:
    """What is varied, what is compared, and how often it is repeated.

    Attributes:
        name: as files and command lines have it.
        question: what it answers.
        factors: the levels of each.
        simulate: one replication of a point, by the seed.
        baseline: the level of a factor that others are compared with.
        compare: pairs (factor, measure) that are compared under common random numbers.
        replications: of each point.
        quick: what a quick run has in place of that: "factors", "replications".
        axis: the factor on the x axis.
        text: for the report.
    """

    name: str
    question: str
    factors: dict[str, tuple[str | int | float, ...]]
    simulate: Callable[[Point, int], Sample]
    baseline: dict[str, str | int | float] = field(default_factory=dict)
    compare: tuple[tuple[str, str], ...] = ()
    replications: int = 20
    quick: dict[str, Any] = field(default_factory=dict)
    axis: str = ""
    text: str = ""
