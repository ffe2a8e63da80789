"""Partial order reduction against depth-first search: every class of executions, each once, with the same outcomes.

Random programs over all kernel objects in all timer modes; the 246 small programs whose numbers of classes are known; and
for each rule of the dependency relation a search that lacks it, which has to be noticed.
"""

from __future__ import annotations

import functools
import hashlib
import random
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stressvm import Kernel, Timers
from stressvm.conform.programs import STEPS_MAX
from stressvm.conform.records import read
from stressvm.conform.small_figures import CountedDFS
from stressvm.conform.small_program import parse
from stressvm.conform.small_world import World as SmallWorld
from stressvm.conform.small_world import in_words
from stressvm.explore.bpor import BoundedPOR
from stressvm.explore.dependency import set_footprint
from stressvm.explore.dfs import DFS
from stressvm.explore.dpor import DPOR
from stressvm.explore.execution import Subject, execute
from stressvm.explore.scenario import scenario
from stressvm.kernel.errors import ReplayDiverged, UsageError
from stressvm.kernel.stepped import stepped
from tests.model.happens_before import Classes
from tests.model.programs import OPERATIONS, World
from tests.model.small_maps import LONG
from tests.partial_orders import Explored, explored
from tests.support import in_trio

if TYPE_CHECKING:
    from collections.abc import Callable

    from stressvm.conform.small_program import Program
    from stressvm.explore.dependency import Step
    from stressvm.explore.partial_order import PartialOrderSearch
    from stressvm.explore.wakeup_tree import Branch
    from tests.model.programs import Operation

#: Programs with more executions are left out.
EXECUTIONS: Final = 250

Threads = tuple[tuple["Operation", ...], ...]


class FixedWorld(World):
    """Its threads mean by a thread one of the world's, whoever has been spawned meanwhile."""

    fixed: list[object]

    async def _join(self, n: int) -> None:
        threads = self.k.threads[: len(self.fixed)]
        self.k.record(did=await self.k.join(threads[n % len(threads)]))

    async def _psignal(self, n: int) -> None:
        threads = self.k.threads[: len(self.fixed)]
        await self.k.yield_()
        self.k.psignal(threads[n % len(threads)])


def building(program: Threads) -> Callable[[Kernel], None]:
    def build(k: Kernel) -> None:
        world = FixedWorld(k)
        for number, operations in enumerate(program):
            k.spawn(world.run, operations, priority=number % 2, daemon=number == 3)
        world.fixed = list(k.threads)

    return build


def compare(program: Threads, timers: Timers) -> int:
    """The number of classes; 0 if there are too many executions to try them all."""
    build = building(program)
    every = explored(build, CountedDFS(), timers=timers, limit=EXECUTIONS)
    if not every.exhausted:
        return 0
    search = DPOR()
    found = explored(build, search, timers=timers)
    assert found.exhausted
    assert all(len(outcomes) == 1 for outcomes in every.outcomes.values()), "one class, and it came to different things"
    assert found.outcomes == every.outcomes
    if not search.accesses.vary:
        assert set(found.classes.values()) == {1}
    assert search.blocked == 0
    for bound in (0, 1):
        within = {name for name, least in every.least.items() if least <= bound}
        bounded = explored(build, BoundedPOR(bound), timers=timers)
        assert bounded.exhausted
        assert bounded.outcomes == {name: every.outcomes[name] for name in within}
    return len(every.classes)


#: What programs of a kind are made of.
MIXES: Final = {
    "everything": OPERATIONS,
    "sleepers": ("wait", "timedwait", "signal", "broadcast", "section", "choose"),
    "signals": ("sleep", "psignal", "wakeup", "wakeup_one", "section", "spawn", "join"),
    "locks": ("section", "nested", "trylock", "read", "write", "upgrade", "downgrade", "share", "exclude"),
    "cells": ("load", "store", "cas", "fetchadd", "sema_wait", "sema_trywait", "sema_post", "choose", "section"),
    "timers": ("timedwait", "delay", "sleep", "signal", "progress", "yield", "fail", "section"),
}


@pytest.mark.parametrize("mix", MIXES)
def test_random_programs(mix: str) -> None:
    draw = random.Random(f"dpor {mix}")
    compared = several = 0
    while compared < 52:
        threads = draw.choice((2, 2, 3))
        program = tuple(
            tuple((draw.choice(MIXES[mix]), draw.randrange(8)) for _ in range(draw.choice((1, 1, 2))))
            for _ in range(threads)
        )
        found = compare(program, draw.choice(list(Timers)))
        compared += found > 0
        several += found > 1
    assert several >= 10


@settings(max_examples=40)
@given(
    st.lists(
        st.lists(st.tuples(st.sampled_from(OPERATIONS), st.integers(0, 7)), min_size=1, max_size=2),
        min_size=1,
        max_size=4,
    ),
    st.sampled_from(Timers),
)
def test_any_program(program: list[list[Operation]], timers: Timers) -> None:
    compare(tuple(map(tuple, program)), timers)


def test_a_thread_that_is_spawned_before_the_first_decision_hides_nothing() -> None:
    """Its start is no step that anybody sees: another thread's panic comes before it or after it, and it is the same."""
    program: Threads = ((("section", 6), ("join", 6)), (("wakeup", 3), ("wakeup", 1)), (("spawn", 6),))
    assert compare(program, Timers.ANYTIME) == 12


# ---------------------------------------------------------------- programs with known numbers of classes

PROGRAMS: Final = [parse(record) for record in read(Path(__file__).parents[1] / "data" / "programs.jsonl.gz")]
TRACES: Final = 1_000_000 if LONG else 60
SHARDS: Final = 4


def known(program: Program, search: PartialOrderSearch) -> tuple[int, int, str]:
    """Executions, classes, and the digest of the final states, as the search finds them."""
    worlds: list[SmallWorld] = []

    def build(k: Kernel) -> None:
        worlds[:] = [SmallWorld(k, program)]

    what = Subject(scenario(timers=Timers.ANYTIME, max_steps=STEPS_MAX)(build), {})
    name = Classes(len(program.threads))
    classes = set()
    states = set()

    async def main() -> int:
        async with stepped(what.kernel(every_step=True)) as driver:
            executions = 0
            while not search.exhausted:
                await execute(what, driver, search, executions)
                executions += 1
                classes.add(name(driver.k))
                states.add(in_words(program, worlds[0].state()))
                driver.unwind()
            return executions

    executions: int = in_trio(main)
    digest = hashlib.sha256("\n".join(sorted(states, key=str.encode)).encode()).hexdigest()
    return executions, len(classes), digest


@pytest.mark.parametrize("shard", range(SHARDS))
def test_one_execution_of_each_known_class(shard: int) -> None:
    few = [program for program in PROGRAMS if program.traces <= TRACES]
    assert len(few) >= 120
    for program in few[shard::SHARDS]:
        search = DPOR()
        wanted = (program.traces, program.traces, program.figures["final_states.sha256"])
        assert known(program, search) == wanted, program.name
        assert search.blocked == 0, program.name


def test_the_fewest_preemptions_of_a_failure_are_found() -> None:
    """Within one preemption less there is none, whatever the order in which it is searched."""
    checked = 0
    for program in PROGRAMS:
        fewest = program.figures.get("timeout_not_counted.min_preemptions.deadlock")
        if fewest is None:
            fewest = program.figures["min_preemptions.deadlock"]
        if fewest is None or program.executions > 1_000 or program.timed:
            continue
        build = _small(program)
        assert _stuck(build, fewest), program.name
        assert fewest == 0 or not _stuck(build, fewest - 1), program.name
        checked += 1
    assert checked >= 20


def _small(program: Program) -> Callable[[Kernel], None]:
    def build(k: Kernel) -> None:
        SmallWorld(k, program)

    return build


def _stuck(build: Callable[[Kernel], None], bound: int) -> bool:
    """Is there an execution in which somebody is stuck?"""
    found = explored(build, BoundedPOR(bound), timers=Timers.ANYTIME, max_steps=STEPS_MAX, repeat=False)
    assert found.exhausted
    return found.stuck


# ---------------------------------------------------------------- every rule is needed


class NobodyStuck(DPOR):
    """Without: who is stuck at the end races with whoever got what it waits for."""

    def pending(self, k: Kernel) -> None:
        pass


class NothingLost(DPOR):
    """Without: a sleeper that is woken could have timed out."""

    def prevented(self) -> None:
        self.lost.clear()
        super().prevented()


class NothingStops(DPOR):
    """Without: a step that ends the execution depends on all others."""

    def _final(self, k: Kernel) -> int:  # noqa: ARG002 - see PartialOrderSearch
        return 0


class OneOutcome(DPOR):
    """Without: data choices have alternatives."""

    def alternatives(self, index: int) -> None:
        pass


class OneTimer(DPOR):
    """Without: several timers that are due are a choice."""

    def follow(self, k: Kernel, last: Step, step: Step) -> None:
        super().follow(k, last, step)
        if not step.enabled:
            step.tree.clear()


class ReleasesOnly(DPOR):
    """Without: two acquisitions race, though the release lies between them."""

    def possible(self, other: int, index: int, step: Step) -> bool:
        return super().possible(other, index, step) or bool(step.op.needs)


class NobodyWoken(DPOR):
    """Without: what a step made possible comes after it."""

    def _effects(self, index: int, step: Step, new: int, pend: object) -> None:
        pass


class SoundSleepers(DPOR):
    """Without: who sleeps is woken by what depends on its step."""

    def still_asleep(self, last: Step) -> list[Branch]:
        return [z for z in last.sleep if z.thread != last.thread]


class Forgetful(DPOR):
    """A search for which some steps access less than they do."""

    KINDS: ClassVar[frozenset[str]] = frozenset()

    def account(self, step: Step, k: Kernel) -> None:
        super().account(step, k)
        done = {op.kind for _, op, _ in k.trace[step.start :]}
        if done & self.KINDS:
            set_footprint(step, ())


def forgetting(*kinds: str) -> type[Forgetful]:
    """A search that does not know what those operations access."""
    return type(f"Forgets{'_'.join(kinds)}", (Forgetful,), {"KINDS": frozenset(kinds)})


class Untouched(DPOR):
    """Without: `Kernel.touch` says what is accessed beyond the operations."""

    def account(self, step: Step, k: Kernel) -> None:
        del k.touched[step.mark :]
        super().account(step, k)


#: Worlds on which a search that lacks a rule goes wrong: small programs, and those about what these do not have.
FEW: Final = [program for program in PROGRAMS if program.traces <= 30 and program.executions <= 150]
OTHERS: Final[list[tuple[Threads, Timers]]] = [
    (((("delay", 3), ("section", 0)), (("delay", 3), ("section", 0))), Timers.IDLE),
    (((("sleep", 1), ("store", 1)), (("psignal", 0),), (("wakeup", 0),)), Timers.IDLE),
    (((("sleep", 1),), (("psignal", 0),)), Timers.ANYTIME),
    (((("yield", 0), ("spawn", 0)), (("yield", 0), ("spawn", 1))), Timers.NEVER),
    (((("store", 1),), (("join", 0), ("load", 1))), Timers.NEVER),
    (((("section", 0),), (("load", 0),)), Timers.NEVER),
    (((("fail", 7),), (("store", 1), ("yield", 0))), Timers.NEVER),
    (((("nested", 0),), (("nested", 2),), (("nested", 1),)), Timers.NEVER),
    (((("choose", 2),), (("section", 0),), (("section", 0),)), Timers.NEVER),
    (((("downgrade", 0),), (("upgrade", 0),)), Timers.NEVER),
    (((("read", 1), ("read", 1)), (("write", 1),)), Timers.NEVER),
    (((("sema_trywait", 0),), (("sema_trywait", 0), ("sema_post", 0))), Timers.NEVER),
    (((("timedwait", 1),), (("broadcast", 0), ("signal", 0))), Timers.ANYTIME),
    (((("sleep", 2),), (("wakeup_one", 0),), (("sleep", 2),)), Timers.ANYTIME),
]


@functools.lru_cache(maxsize=1)
def worlds() -> list[tuple[Callable[[Kernel], None], Timers, Explored]]:
    """The worlds, and what depth-first search finds there."""
    builds = [(_small(program), Timers.ANYTIME) for program in FEW]
    builds += [(building(program), timers) for program, timers in OTHERS]
    return [(build, timers, explored(build, DFS(), timers=timers)) for build, timers in builds]


def goes_wrong(make: Callable[[], DPOR]) -> int:
    """The number of a world on which a search does not find every class, once where steps do not vary; -1 for none."""
    for number, (build, timers, every) in enumerate(worlds()):
        search = make()
        try:
            found = explored(build, search, timers=timers, limit=3 * len(every.classes) + 10, repeat=False)
        except (UsageError, ReplayDiverged):
            return number
        each = found.classes if not search.accesses.vary else dict.fromkeys(found.classes, 1)
        if each != dict.fromkeys(every.classes, 1) or search.blocked:
            return number
    return -1


def test_with_all_rules_nothing_goes_wrong() -> None:
    assert len(worlds()) >= 60
    assert goes_wrong(DPOR) == -1


@pytest.mark.parametrize(
    "lacking",
    [
        NobodyStuck,
        NothingLost,
        NothingStops,
        OneOutcome,
        OneTimer,
        ReleasesOnly,
        NobodyWoken,
        SoundSleepers,
        Untouched,
        forgetting("lock"),
        forgetting("unlock"),
        forgetting("trylock"),
        forgetting("trylock-failed"),
        forgetting("load"),
        forgetting("store"),
        forgetting("cas"),
        forgetting("cas-failed"),
        forgetting("fetchadd"),
        forgetting("sleep"),
        forgetting("timeout"),
        forgetting("signal"),
        forgetting("broadcast"),
        forgetting("wakeup_one"),
        forgetting("sema_wait"),
        forgetting("sema_post"),
        forgetting("sema_trywait"),
        forgetting("read-lock"),
        forgetting("write-lock"),
        forgetting("downgrade"),
        forgetting("try-upgrade-failed"),
        forgetting("block"),
        forgetting("spawn"),
    ],
)
def test_every_rule_is_needed(lacking: type[DPOR]) -> None:
    assert goes_wrong(lacking) >= 0
