"""What executions have covered besides their classes: pairs, how large the space seems to be, what PCT guarantees so far.

All of it depends on which executions were run, by their numbers, and on nothing else, so it is the same however a hunt was
cut into batches and whoever ran them. Not every execution is looked at for pairs (check/pairs.py), so there may be more.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from stressvm.check.pairs import Pair
from stressvm.explore.estimate import TreeSize, pct_confidence

if TYPE_CHECKING:
    from collections.abc import Iterable

#: Random walks with higher numbers say nothing of the size of the space: the first ones are enough.
WALKS_BELOW: Final = 4_096

#: The depths that PCT's guarantee is told for.
DEPTHS: Final = (1, 2, 3)


class Covered(NamedTuple):
    """What one batch has covered.

    Attributes:
        pairs: in order of their names.
        walks: for each random walk the decimal logarithm of the number of executions that it makes likely.
        depths: (a depth of PCT, how many executions had it).
        threads: of the pilot; 0 in a batch without it.
        choices: the choices that PCT took from the pilot; 0 without it.
    """

    pairs: tuple[Pair, ...] = ()
    walks: tuple[float, ...] = ()
    depths: tuple[tuple[int, int], ...] = ()
    threads: int = 0
    choices: int = 0

    def plain(self) -> list[Any]:
        """As it is stored."""
        return [list(map(list, self.pairs)), list(self.walks), list(map(list, self.depths)), self.threads, self.choices]


def covered_of(stored: Any) -> Covered:
    """From `Covered.plain`.

    Raises:
        TypeError, ValueError: it is nothing of the kind.
    """
    pairs, walks, depths, threads, choices = stored
    return Covered(
        tuple(Pair(str(lock), str(one), str(other)) for lock, one, other in pairs),
        tuple(map(float, walks)),
        tuple((int(depth), int(count)) for depth, count in depths),
        int(threads),
        int(choices),
    )


def joined(parts: Iterable[Covered]) -> Covered:
    """What several batches have covered together."""
    pairs: set[Pair] = set()
    walks: list[float] = []
    depths: Counter[int] = Counter()
    threads = choices = 0
    for part in parts:
        pairs.update(part.pairs)
        walks += part.walks
        depths.update(dict(part.depths))
        threads = threads or part.threads
        choices = choices or part.choices
    return Covered(tuple(sorted(pairs)), tuple(walks), tuple(sorted(depths.items())), threads, choices)


class Coverage:
    """What a hunt has covered so far.

    Attributes:
        lock_pairs: how many pairs of locks, one held when the other was acquired.
        meetings: how many ways in which one function waited for a lock that another one held.
        size: of the space.
    """

    __slots__ = ("choices", "depths", "lock_pairs", "meetings", "pairs", "size", "threads")

    def __init__(self) -> None:
        self.pairs: set[Pair] = set()
        self.lock_pairs = self.meetings = 0
        self.size = TreeSize()
        self.depths: Counter[int] = Counter()
        self.threads = self.choices = 0

    def add(self, covered: Covered) -> None:
        """One more batch, the next in order."""
        new = [pair for pair in covered.pairs if pair not in self.pairs]
        self.pairs.update(new)
        meetings = sum(1 for pair in new if pair.lock)
        self.meetings += meetings
        self.lock_pairs += len(new) - meetings
        for log10 in covered.walks:
            self.size.add_log10(log10)
        self.depths.update(dict(covered.depths))
        self.threads = self.threads or covered.threads
        self.choices = self.choices or covered.choices

    def guarantees(self) -> list[tuple[int, int, float]]:
        """For each depth told: executions of PCT with it, and with which probability they would have shown such a bug.

        Empty without PCT. A bug of that depth at least: if executions do not become longer than the pilot.
        """
        if not self.depths or not self.threads or not self.choices:
            return []
        found = []
        for depth in DEPTHS:
            count = self.depths[depth]
            found.append((depth, count, pct_confidence(self.threads, self.choices, depth, count)))
        return found

    def facts(self) -> dict[str, Any]:
        """For the JSON output."""
        return {
            "lock_pairs": self.lock_pairs,
            "meetings": self.meetings,
            "log10_size": round(self.size.log10, 1) if self.size.probes else None,
            "size_walks": self.size.probes,
            "pct": [
                {"depth": depth, "executions": count, "probability": float(f"{confidence:.3g}")}
                for depth, count, confidence in self.guarantees()
            ],
        }

    def words(self) -> list[str]:
        """For people: what there is to say, shortest first."""
        said = []
        if self.pairs:
            said.append(f"{self.lock_pairs} lock pairs, {self.meetings} meetings")
        if self.size.probes:
            said.append(f"space about {_power(self.size.log10)}")
        told = [f"depth {depth} {confidence:.1%}" for depth, count, confidence in self.guarantees() if count]
        if told:
            said.append(f"PCT {', '.join(told)}")
        return said


def _power(log10: float) -> str:
    return f"{10**log10:.0f}" if log10 < 4 else f"10^{log10:.0f}"
