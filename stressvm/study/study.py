"""The description of a study: a question, factors with their levels, and how one replication of a point is simulated."""

from __future__ import annotations

import hashlib
import importlib
import itertools
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from stressvm.explore.loading import imported
from stressvm.kernel.errors import UsageError
from stressvm.study import studies
from stressvm.study.sample import Sample

#: Factor -> level.
Point = Mapping[str, str | int | float]


@dataclass(frozen=True, slots=True)
class Study:
    """What is varied, what is compared, and how often it is repeated.

    Attributes:
        name: as files and command lines have it.
        question: what it answers.
        factors: the levels of each.
        simulate: one replication of a point, by the seed; it must depend on nothing else. The same seed is given to all
            points, so that they can be compared under common random numbers.
        baseline: the level of a factor that others are compared with.
        compare: pairs (factor, measure) that are compared under common random numbers.
        replications: of each point.
        quick: what a quick run has in place of that: "factors", "replications".
        axis: the factor on the x axis.
        text: for the report.
    """

    name: str
    question: str
    factors: Mapping[str, Sequence[str | int | float]]
    simulate: Callable[[Point, int], Sample]
    baseline: dict[str, str | int | float] = field(default_factory=dict)
    compare: tuple[tuple[str, str], ...] = ()
    replications: int = 20
    quick: dict[str, Any] = field(default_factory=dict)
    axis: str = ""
    text: str = ""

    def __post_init__(self) -> None:
        """Raises UsageError for a study that cannot be run."""
        for name, levels in self.factors.items():
            if not isinstance(levels, tuple | list) or not levels:
                raise UsageError(f"{self._what}: factor {name!r} has levels {levels!r}; give a tuple of at least one")
        if not self.factors:
            raise UsageError(f"{self._what}: no factors; give at least one, with its levels")
        for name, level in self.baseline.items():
            if level not in self.factors.get(name, ()):
                raise UsageError(f"{self._what}: baseline {name}={level!r} is no level of a factor")
        for name, _measure in self.compare:
            if name not in self.baseline:
                raise UsageError(
                    f"{self._what}: compare names factor {name!r}, which has no baseline; add it to `baseline`"
                )
        for what, value in (
            ("replications", self.replications),
            ("quick replications", self.quick.get("replications", 1)),
        ):
            if not isinstance(value, int) or value < 1:
                raise UsageError(f"{self._what}: {what} {value!r}: a whole number from 1")
        for name, levels in self.quick.get("factors", {}).items():
            if name not in self.factors or not levels:
                raise UsageError(
                    f"{self._what}: quick has levels {levels!r} for factor {name!r}; factors are {', '.join(self.factors)}"
                )
        if self.axis and self.axis not in self.factors:
            raise UsageError(f"{self._what}: axis {self.axis!r} is no factor; factors are {', '.join(self.factors)}")

    @property
    def _what(self) -> str:
        return f"Study({self.name!r})"

    def quickly(self) -> Study:
        """The quick run."""
        return replace(
            self,
            factors={**self.factors, **self.quick.get("factors", {})},
            replications=self.quick.get("replications", self.replications),
            quick={},
        )

    def points(self) -> list[dict[str, str | int | float]]:
        """All combinations of levels, the last factor's levels changing first."""
        return [dict(zip(self.factors, levels, strict=True)) for levels in itertools.product(*self.factors.values())]

    def sample(self, point: Point, seed: int) -> Sample:
        """One replication.

        Raises:
            UsageError: `simulate` answered something else.
        """
        sample = self.simulate(point, seed)
        if not isinstance(sample, Sample):
            raise UsageError(
                f"{self._what}: simulate({written(point)}) answered {type(sample).__name__}; it must be a Sample"
            )
        return sample


def seed_of(seed: int, replication: int) -> int:
    """What all points of a replication draw from."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{replication}".encode(), digest_size=6).digest(), "little")


def written(point: Point) -> str:
    """A point as one word: `wake=all,waiters=4`."""
    return ",".join(f"{name}={level}" for name, level in point.items())


def shipped() -> dict[str, Study]:
    """The studies that come with the project, by name."""
    modules = [
        importlib.import_module(f"{studies.__name__}.{info.name}") for info in pkgutil.iter_modules(studies.__path__)
    ]
    return {module.STUDY.name: module.STUDY for module in modules}


def load(word: str) -> Study:
    """The shipped study of that name, or the one that a file makes.

    Raises:
        UsageError: there is none, or the file has an error; names the file and the line.
    """
    if word.endswith(".py"):
        file = Path(word).resolve()
        if not file.is_file():
            raise UsageError(f"{word}: no such file")
        found = list({id(value): value for value in vars(imported(file)).values() if isinstance(value, Study)}.values())
        if len(found) != 1:
            raise UsageError(f"{word}: {len(found)} studies in it; a file makes one stressvm.study.study.Study")
        return found[0]
    known = shipped()
    if word not in known:
        raise UsageError(f"{word}: no such study; there are {', '.join(known)}, and your own as FILE.py")
    return known[word]
