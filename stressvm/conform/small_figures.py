"""What a search finds of a small program, in the form in which its figures are recorded."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from operator import ne
from typing import TYPE_CHECKING, Any, Final

from stressvm.conform.programs import STEPS_MAX, breathe, interleaving
from stressvm.conform.small_program import BOUNDS, FAILURES
from stressvm.conform.small_world import World, in_words
from stressvm.conform.tally import Differs
from stressvm.explore.dfs import DFS
from stressvm.explore.execution import Subject, execute
from stressvm.explore.running import run_trio
from stressvm.explore.scenario import scenario
from stressvm.kernel.kernel import Timers
from stressvm.kernel.stepped import stepped

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator

    from stressvm.check.verdict import Verdict
    from stressvm.conform.small_program import Program
    from stressvm.conform.small_world import State
    from stressvm.explore.search import Search
    from stressvm.kernel.kernel import Kernel

#: What may be said of an execution: somebody waits for ever, or a lock was never given back. The rest are faults.
VERDICTS: Final = frozenset({"deadlock", "stranded", "lock-held-at-exit"})

#: More final states than this are recorded by their digest alone.
STATES_MAX: Final = 50

#: The failures as bits.
DEADLOCK, ASSERTION, STUCK_WAITER = (1 << at for at in range(len(FAILURES)))


class CountedDFS(DFS):
    """Depth-first search that counts preemptions: the baton taken from a thread that could have gone on.

    Attributes:
        preemptions: of the last execution.
        untimed: the same if a sleeper that may time out counts as unable to go on.
    """

    __slots__ = ("holders", "preemptions", "untimed", "untimed_holders")

    def _restart(self) -> None:
        super()._restart()
        #: At each decision, who has the baton and could go on; -1 for nobody.
        self.holders: list[int] = []
        self.untimed_holders: list[int] = []
        self.preemptions = 0
        self.untimed = 0

    def _first(self, k: Kernel, shape: int, rest: Iterator[int]) -> int:
        holder = k.cur if k.cur >= 0 and shape > 0 and shape >> k.cur & 1 else -1
        self.holders.append(holder)
        self.untimed_holders.append(-1 if holder in k.timers else holder)
        return super()._first(k, shape, rest)

    def end(self, k: Kernel) -> None:
        """See Strategy."""
        self.preemptions = _others(self.path, self.holders)
        self.untimed = _others(self.path, self.untimed_holders)
        super().end(k)
        del self.holders[self.kept :]
        del self.untimed_holders[self.kept :]


def _others(path: list[int], holders: list[int]) -> int:
    """How often somebody else was taken than the one who could go on; nobody is number -1, which never is."""
    taken: int = sum(map(ne, path, holders))
    return taken - holders.count(-1)


@dataclass(slots=True)
class Measured:
    """What a search has found of a program so far.

    Attributes:
        program: what was searched.
        executions: done.
        exhausted: there are no more.
        states: the final states.
        lengths: numbers of steps that executions had.
        endings: executions by (preemptions, the same untimed, failures as bits).
        classes: the classes of executions, each with its failures as bits; empty if nobody asked for them.
    """

    program: Program
    executions: int = 0
    exhausted: bool = False
    states: set[State] = field(default_factory=set)
    lengths: set[int] = field(default_factory=set)
    endings: Counter[tuple[int, int, int]] = field(default_factory=Counter)
    classes: dict[Hashable, int] = field(default_factory=dict)

    def outcomes(self) -> dict[str, Any]:
        """The figures that do not depend on which of several equivalent executions were done."""
        found = {name: any(bits & bit for _, _, bits in self.endings) for bit, name in _bits()}
        words = sorted((in_words(self.program, state) for state in self.states), key=str.encode)
        states: dict[str, Any] = {
            "final_states.count": len(words),
            "final_states.sha256": hashlib.sha256("\n".join(words).encode()).hexdigest(),
        }
        if len(words) <= STATES_MAX:
            states["final_states.states"] = words
        return {**states, **found}

    def counts(self) -> dict[str, Any]:
        """The figures that count every execution, equivalent or not."""
        figures: dict[str, Any] = {
            "executions": self.executions,
            "length": [min(self.lengths), max(self.lengths)],
            **self.failing("failing_executions"),
        }
        for column, prefix in enumerate(("", "timeout_not_counted.") if self.program.timed else ("",)):
            figures[f"{prefix}bounded_executions"] = [
                sum(count for key, count in self.endings.items() if key[column] <= bound) for bound in BOUNDS
            ]
            for bit, name in _bits():
                preemptions = [key[column] for key in self.endings if key[2] & bit]
                figures[f"{prefix}min_preemptions.{name}"] = min(preemptions, default=None)
        return figures

    def failing(self, name: str) -> dict[str, int]:
        """How many executions show each failure, as a figure of that name."""
        return {
            f"{name}.{failure}": sum(count for (_, _, bits), count in self.endings.items() if bits & bit)
            for bit, failure in _bits()
        }

    def failing_traces(self) -> dict[str, int]:
        """How many classes show each failure."""
        return {
            f"failing_traces.{name}": sum(1 for bits in self.classes.values() if bits & bit) for bit, name in _bits()
        }


def _bits() -> Iterator[tuple[int, str]]:
    return zip((DEADLOCK, ASSERTION, STUCK_WAITER), FAILURES, strict=True)


def measure(
    program: Program, search: Search, executions: int, classify: Callable[[Kernel], Hashable] | None = None
) -> Measured:
    """Search a program.

    Args:
        program: which.
        search: begun with execution 0.
        executions: how many at most.
        classify: names the class of an execution that has ended; None: classes are not wanted.

    Raises:
        Differs: an execution shows what none can.
    """
    return run_trio(_measure, program, search, executions, classify)


async def _measure(
    program: Program, search: Search, executions: int, classify: Callable[[Kernel], Hashable] | None
) -> Measured:
    worlds: list[World] = []

    def build(k: Kernel) -> None:
        worlds[:] = [World(k, program)]

    subject = Subject(scenario(timers=Timers.ANYTIME, max_steps=STEPS_MAX)(build), {})
    found = Measured(program)
    async with stepped(subject.kernel(every_step=getattr(search, "EVERY_STEP", False))) as driver:
        k = driver.k
        while found.executions < executions and not found.exhausted:
            verdict = await execute(subject, driver, search, found.executions)
            _note(found, k, verdict, worlds[0], search, classify)
            if k.alive:
                driver.unwind()
            found.exhausted = search.exhausted
            await breathe(found.executions)
    return found


def _note(
    found: Measured,
    k: Kernel,
    verdict: Verdict | None,
    world: World,
    search: Search,
    classify: Callable[[Kernel], Hashable] | None,
) -> None:
    """Take up an execution that has ended."""
    if (verdict is None and k.alive) or (verdict is not None and verdict.kind not in VERDICTS):
        expected, actual = ("a verdict", "none") if verdict is None else (f"no {verdict.kind}", verdict.text)
        raise Differs(f"execution {found.executions}", expected, actual, interleaving(k))
    found.executions += 1
    found.states.add(world.state())
    found.lengths.add(len(k.trace) - world.choices)
    bits = (DEADLOCK if k.alive else 0) | (ASSERTION if world.failed else 0)
    if k.alive and world.asleep():
        bits |= STUCK_WAITER
    preemptions = (search.preemptions, search.untimed) if isinstance(search, CountedDFS) else (0, 0)
    found.endings[(*preemptions, bits)] += 1
    if classify is not None:
        found.classes[classify(k)] = bits
