"""Small concurrent programs of any system: many executions of one, and what they came to.

A program's world can say, when an execution is over and nobody is unwound yet, what has come of it: its outcome, as one
line of text. The recording holds the complete set of outcomes, so whatever is not in it is a difference, and then it is
told how that came about.

`match` goes through all states of a program, if they are not too many; then what it comes to is the complete set of the
model's outcomes, endless schedules or not. `explore` runs so many executions as a strategy has them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

import orjson
import trio

from stressvm.conform.tally import Differs
from stressvm.explore.execution import Subject, execute
from stressvm.explore.running import run_trio
from stressvm.explore.scenario import scenario
from stressvm.explore.state_key import StateKey
from stressvm.explore.state_matching import StateMatching
from stressvm.kernel.kernel import Timers
from stressvm.kernel.stepped import stepped

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from stressvm.check.verdict import Verdict
    from stressvm.explore import state_key
    from stressvm.kernel.driver import Driver
    from stressvm.kernel.kernel import Kernel
    from stressvm.kernel.strategy import Strategy

#: Visible operations after which an execution counts as endless.
STEPS_MAX = 2_000

#: After so many executions an interrupt is heard.
BREATH: Final = 64

#: How executions are chosen that meet every state, in words.
MATCHED: Final = "all states"

#: Why something is left out.
TOO_MANY: Final = "programs with states for more than {} executions: none comes to anything else, to all was not asked"


class World(Protocol):
    """One execution of a program."""

    def outcome(self) -> str:
        """What has come of it, by `text`."""


W = TypeVar("W", bound=World)


def text(outcome: Mapping[str, Any]) -> str:
    """An outcome as one canonical line."""
    return orjson.dumps(outcome, option=orjson.OPT_SORT_KEYS).decode()


@dataclass(slots=True)
class Reached:
    """What executions of a program came to.

    Attributes:
        executions: how many there were.
        endless: how many of them were stopped and have no outcome.
        outcomes: each outcome with the number of the first execution that had it.
        verdicts: each kind of finding with the first verdict of that kind.
        ways: for an outcome, and for a kind of finding, that is not known: how it came about first.
        complete: there are no other outcomes.
        circles: executions that came back to a state that they had been in: there are endless schedules.
    """

    executions: int = 0
    endless: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    ways: dict[str, str] = field(default_factory=dict)
    complete: bool = False
    circles: int = 0


async def breathe(executions: int) -> None:
    """Every so many executions: be interrupted, if somebody wants that."""
    if executions % BREATH == 0:
        await trio.lowlevel.checkpoint()


def _nothing_more(_: Reached) -> bool:
    return True


def explore(
    build: Callable[[Kernel], World],
    strategy: Strategy,
    executions: int,
    *,
    timers: Timers = Timers.NEVER,
    known: Collection[str] = (),
    enough: Callable[[Reached], bool] = _nothing_more,
    at_most: int = 0,
) -> Reached:
    """Run executions 0, 1, 2, ... of a program.

    Args:
        build: makes its world, with the threads ready to go.
        strategy: makes the choices; a search may come to its end before.
        executions: how many.
        timers: when a sleep times out.
        known: outcomes and kinds of findings of which nobody will ask how they came about.
        enough: having done those, go on until this is true,
        at_most: but no further than this many in all.
    """
    return run_trio(_explore, build, strategy, executions, timers, known, enough, at_most)


async def _explore(
    build: Callable[[Kernel], World],
    strategy: Strategy,
    executions: int,
    timers: Timers,
    known: Collection[str],
    enough: Callable[[Reached], bool],
    at_most: int,
) -> Reached:
    worlds: list[World] = []

    def prepare(k: Kernel) -> None:
        worlds[:] = [build(k)]

    subject = Subject(scenario(timers=timers, max_steps=STEPS_MAX)(prepare), {})
    reached = Reached()
    async with stepped(subject.kernel()) as driver:
        while reached.executions < executions or (reached.executions < at_most and not enough(reached)):
            verdict = await execute(subject, driver, strategy, reached.executions)
            _note(driver, verdict, worlds[0], known, reached)
            driver.unwind()
            reached.executions += 1
            await breathe(reached.executions)
            if getattr(strategy, "exhausted", False):
                reached.complete = not getattr(strategy, "bounds", "")
                break
    return reached


def match(
    build: Callable[[Kernel], W],
    states: Callable[[W], state_key.World],
    executions: int,
    *,
    timers: Timers = Timers.NEVER,
    known: Collection[str] = (),
) -> Reached:
    """Go through all states of a program.

    Args:
        build: makes its world, with the threads ready to go.
        states: says of a world what makes its state.
        executions: how many at most; then it is not `complete`.
        timers: when a sleep times out.
        known: outcomes and kinds of findings of which nobody will ask how they came about.
    """
    return run_trio(_match, build, states, executions, timers, known)


async def _match(
    build: Callable[[Kernel], W],
    states: Callable[[W], state_key.World],
    executions: int,
    timers: Timers,
    known: Collection[str],
) -> Reached:
    worlds: list[W] = []
    key = StateKey()
    search = StateMatching(key)

    def prepare(k: Kernel) -> None:
        worlds[:] = [build(k)]
        key.world = states(worlds[0])

    subject = Subject(scenario(timers=timers, max_steps=STEPS_MAX)(prepare), {})
    reached = Reached()
    async with stepped(subject.kernel()) as driver:
        while reached.executions < executions and not search.exhausted:
            verdict = await execute(subject, driver, search, reached.executions)
            if not search.pruned:
                _note(driver, verdict, worlds[0], known, reached)
            driver.unwind()
            reached.executions += 1
            await breathe(reached.executions)
    reached.complete = search.exhausted and not search.bounds
    reached.circles = search.circles
    return reached


def _note(driver: Driver, verdict: Verdict | None, world: World, known: Collection[str], reached: Reached) -> None:
    k = driver.k
    if verdict is not None and verdict.kind not in reached.verdicts:
        reached.verdicts[verdict.kind] = verdict
        if verdict.kind not in known:
            reached.ways[verdict.kind] = interleaving(k)
    if k.trouble is not None:
        reached.endless += 1
        return
    outcome = world.outcome()
    if outcome not in reached.outcomes:
        reached.outcomes[outcome] = reached.executions
        if outcome not in known:
            reached.ways[outcome] = interleaving(k)


def interleaving(k: Kernel) -> str:
    """All steps of the execution, a line for each time that a thread had the baton."""
    return "\n".join(
        f"{k.threads[t].name if t >= 0 else 'before'}: {'; '.join(repr(op) for _, op, _ in steps)}"
        for t, steps in groupby(k.trace, key=lambda event: event[0])
    )


def compare(reached: Reached, outcomes: Iterable[str], verdicts: Collection[str], how: str) -> None:
    """Hold what executions came to against what they may, and, if that is complete, against what they must.

    Args:
        reached: what they came to.
        outcomes: the recorded ones.
        verdicts: kinds of findings that are none here.
        how: they were chosen, for people.

    Raises:
        Differs: they came to something else.
    """
    recorded = sorted(outcomes)
    for outcome, number in reached.outcomes.items():
        if outcome not in recorded:
            around = "recorded are\n{}\nit came about so\n{}".format("\n".join(recorded), reached.ways[outcome])
            known = f"one of the {len(recorded)} recorded outcomes"
            raise Differs(f"execution {number} ({how})", known, orjson.loads(outcome), around)
    for kind, verdict in reached.verdicts.items():
        if kind not in verdicts:
            raise Differs(f"an execution ({how})", f"no {kind}", verdict.text, reached.ways[kind])
    if reached.complete and (never := sorted(set(recorded) - reached.outcomes.keys())):
        raise Differs(f"all {reached.executions} executions ({how})", orjson.loads(never[0]), "never")
