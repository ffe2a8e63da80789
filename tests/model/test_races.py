"""Data races: the detector against a plain graph, on programs that Hypothesis makes; and that a class has the same ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st

from stressvm import Atomic, Field, Rw, Timers
from stressvm.check.happens_before import class_of
from stressvm.check.races import Races
from stressvm.explore.execution import execute
from stressvm.explore.random_walk import RandomWalk
from tests.model import races as plain
from tests.model.programs import OPERATIONS, Operation, World
from tests.support import in_trio, opened, subject

if TYPE_CHECKING:
    from collections.abc import Callable

    from stressvm import Kernel

Program = tuple[tuple[Operation, ...], ...]


class Data(World):
    """A world with more data, and more ways to guard it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.fields = [Field(self.k, "f0"), Field(self.k, "f1"), Field(self.k, "f2", benign="for this test")]
        self.flag = Atomic(self.k, 0, "flag")

    async def _use(self, n: int) -> None:
        await self.k.yield_()
        if n & 4:
            self.fields[n % 3].write()
        else:
            self.fields[n % 3].read()

    async def _read_shared(self, n: int) -> None:
        rw = self.rwlocks[n % 2]
        await rw.enter(Rw.READER)
        self.fields[n % 2].read()
        await rw.exit()

    async def _write_alone(self, n: int) -> None:
        rw = self.rwlocks[n % 2]
        await rw.enter(Rw.WRITER)
        self.fields[n % 2].write()
        if n & 4:
            await rw.downgrade()
        await rw.exit()

    async def _guarded(self, n: int) -> None:
        m = self.mutexes[n % 3]
        await m.lock()
        await self.cells[n % 2].store(n)
        await m.unlock()

    async def _publish(self, n: int) -> None:
        self.fields[n % 2].write()
        await self.flag.store(1)

    async def _look(self, n: int) -> None:
        if await self.flag.load():
            self.fields[n % 2].read()

    async def _poked_flag(self, _n: int) -> None:
        await self.k.yield_()
        self.flag.poke(self.flag.peek() + 1)

    async def _unit(self, n: int) -> None:
        await self.sema.wait()
        self.cells[n % 2].poke(n)
        await self.sema.post()


MORE = ("use", "read_shared", "write_alone", "guarded", "publish", "look", "poked_flag", "unit")
operations = st.tuples(st.sampled_from((*OPERATIONS, *MORE, *MORE)), st.integers(0, 7))
programs = st.lists(st.lists(operations, min_size=1, max_size=5).map(tuple), min_size=2, max_size=4).map(tuple)


def building(program: Program) -> Callable[[Kernel], None]:
    """The world of a program."""

    def build(k: Kernel) -> None:
        world = Data(k)
        world.cells[0].write(0)
        world.fields[0].write()
        for number, own in enumerate(program):
            k.spawn(world.run, own, priority=number % 2, daemon=number == 3)

    return build


@settings(max_examples=120, deadline=None)
@given(programs, st.sampled_from(Timers), st.integers(0, 3))
def test_the_detector_finds_what_the_graph_shows(program: Program, timers: Timers, seed: int) -> None:
    what = subject(building(program), timers=timers, max_steps=300)

    async def main() -> None:
        detector = Races()
        strategy = RandomWalk(seed)
        async with opened(what.kernel(), "stepped") as driver:
            for number in range(4):
                await execute(what, driver, strategy, number)
                _compare(driver.k, detector)
                driver.unwind()

    in_trio(main)


def _compare(k: Kernel, detector: Races) -> None:
    truth = plain.races_of(k)
    found = detector.races(k)
    assert {race.first.op.obj.number for race in found} == {number for number, _, _ in truth}
    steps = plain.steps_of(k)
    pairs = {(number, steps[i].thread, steps[j].thread, steps[i].kind, steps[j].kind) for number, i, j in truth}
    for first, second in found:
        kinds = [
            {"read": "peek", "write": "poke"}.get(use.op.kind, use.op.kind) if use.touch >= 0 else use.op.kind
            for use in (first, second)
        ]
        assert (first.op.obj.number, first.thread, second.thread, *kinds) in pairs
        # What is touched stands before the step of that number.
        assert (first.step, first.touch < 0, first.touch) < (second.step, second.touch < 0, second.touch)


@settings(max_examples=40, deadline=None)
@given(programs, st.sampled_from(Timers))
def test_executions_of_one_class_have_the_same_races(program: Program, timers: Timers) -> None:
    what = subject(building(program), timers=timers, max_steps=300)

    async def main() -> None:
        detector = Races()
        strategy = RandomWalk(1)
        known: dict[int, list[tuple[str, tuple[int, ...]]]] = {}
        async with opened(what.kernel(), "stepped") as driver:
            for number in range(25):
                await execute(what, driver, strategy, number)
                said = [(verdict.fingerprint, verdict.threads) for verdict in detector.look(driver.k)]
                assert known.setdefault(class_of(driver.k), said) == said
                driver.unwind()

    in_trio(main)
