"""Samplers: execution i depends on (seed, i, pilot) alone, and each draws as it says it does."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from stressvm import Atomic, Cell, CondVar, Kernel, Mutex, Timers
from stressvm.explore.auto import Auto
from stressvm.explore.pos import POS
from stressvm.explore.sampler import conflict, is_step
from stressvm.explore.surw import SURW, RoleSURW
from stressvm.explore.urw import URW
from stressvm.kernel.op import READ, WRITE, ObjectId, Op
from tests.support import ending, in_trio, opened, subject

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from stressvm.kernel.strategy import Strategy
    from tests.support import Build, Ending

SAMPLERS: list[Callable[[int], Any]] = [POS, URW, SURW, RoleSURW, Auto]
ALL = pytest.mark.parametrize("make", SAMPLERS)


def _run(
    build: Build, strategy: Strategy, numbers: Iterable[int], *, driver: str = "stepped", **settings: Any
) -> list[Ending]:
    """Those executions, in that order."""
    what = subject(build, **settings)

    async def main() -> list[Ending]:
        async with opened(what.kernel(), driver) as made:
            return [await ending(what, made, strategy, number) for number in numbers]

    endings: list[Ending] = in_trio(main)
    return endings


def _busy(k: Kernel) -> None:
    """Locks, cells, a condition variable, timeouts, data choices, yields, and threads that threads spawn."""
    m, cv = Mutex(k, "m"), CondVar(k, "cv")
    n = Atomic(k, 0, "n")

    async def child(rounds: int) -> None:
        for _ in range(rounds):
            await n.fetchadd(1)
        await k.yield_()

    async def parent() -> None:
        for _ in range(2):
            th = k.spawn(child, 1 + k.choose(3))
            await m.lock()
            if await n.load() < 3:
                await cv.timedwait(m, 5)
            await m.unlock()
            await k.join(th)

    async def waker() -> None:
        for _ in range(3):
            await m.lock()
            await cv.signal()
            await m.unlock()

    k.spawn(parent)
    k.spawn(parent)
    k.spawn(waker)


@ALL
@pytest.mark.parametrize("timers", [Timers.IDLE, Timers.ANYTIME])
def test_execution_i_is_the_same_whatever_ran_before(make: Callable[[int], Any], timers: Timers) -> None:
    in_order = _run(_busy, make(1), range(40), timers=timers)
    jumping = [0, 39, 17, 17, 3, 38, 20]
    for number, found in zip(jumping, _run(_busy, make(1), jumping, timers=timers), strict=True):
        assert found == in_order[number], number
    assert len({found.picks for found in in_order}) > 30


@ALL
def test_both_drivers_do_the_same(make: Callable[[int], Any]) -> None:
    assert _run(_busy, make(3), range(20)) == _run(_busy, make(3), range(20), driver="trio")


@ALL
def test_another_seed_makes_other_choices(make: Callable[[int], Any]) -> None:
    one, other = (_run(_busy, make(seed), range(10)) for seed in (1, 2))
    assert [e.picks for e in one] != [e.picks for e in other]


def test_samplers_with_one_seed_differ() -> None:
    picks = [tuple(e.picks for e in _run(_busy, make(1), range(1, 6))) for make in SAMPLERS[:4]]
    assert len(set(picks)) == 4


@ALL
def test_a_data_choice_reaches_every_alternative_about_equally_often(make: Callable[[int], Any]) -> None:
    def build(k: Kernel) -> None:
        async def thread() -> None:
            k.record(did=k.choose(5))

        k.spawn(thread)

    counts = Counter(found.said for found in _run(build, make(1), range(1_000)))
    assert len(counts) == 5
    assert all(140 < count < 260 for count in counts.values())


@ALL
def test_threads_that_wait_by_yielding_are_no_livelock(make: Callable[[int], Any]) -> None:
    """Whoever waits for another one gives way, and sooner or later the other one runs."""

    def build(k: Kernel) -> None:
        ready = False

        async def waiter() -> None:
            while not ready:
                await k.yield_()

        async def helper() -> None:
            nonlocal ready
            for _ in range(10):
                await k.yield_()
            ready = True

        k.spawn(waiter)
        k.spawn(waiter)
        k.spawn(helper)

    endings = _run(build, make(1), range(100), max_steps=1_000)
    assert {found.kind for found in endings} == {None}


@ALL
def test_threads_that_spin_without_yielding_are_no_livelock(make: Callable[[int], Any]) -> None:
    def build(k: Kernel) -> None:
        ready, other = Cell(k, 0, "ready"), Cell(k, 0, "other")

        async def waiter() -> None:
            while not await ready.load():
                pass
            await other.store(1)

        async def helper() -> None:
            await other.store(2)
            await ready.store(1)

        k.spawn(waiter)
        k.spawn(helper)

    endings = _run(build, make(1), range(100), max_steps=1_000)
    assert {found.kind for found in endings} == {None}


# ---------------------------------------------------------------- what races


def test_operations_race_if_they_share_an_object_and_one_writes() -> None:
    def op(*accesses: tuple[int, bool]) -> Op:
        return Op("x", ObjectId(accesses[0][0] if accesses else -1, "", ""), accesses, 2)

    assert conflict(op((1, WRITE)), op((1, READ)))
    assert conflict(op((1, READ)), op((1, WRITE)))
    assert not conflict(op((1, READ)), op((1, READ)))
    assert not conflict(op((1, WRITE)), op((2, WRITE)))
    assert conflict(op((1, WRITE), (2, WRITE)), op((3, READ), (2, READ)))
    assert not conflict(op(), op())
    assert not conflict(op((-1, WRITE)), op((-1, WRITE)))


def test_notes_in_a_trace_are_no_steps() -> None:
    k = Kernel()
    notes = (k.choose_op, k.record_op, k.spawn_op, k.signal_op)
    assert not any(is_step(op) for op in notes)
    assert is_step(k.yield_op)
    assert is_step(k.delay_op)
    assert is_step(Op("signal", ObjectId(3, "condvar", "cv"), ((3, WRITE),), 2))
    assert not is_step(Op("write", ObjectId(3, "cell", "c"), ((3, WRITE),), 2))


# ---------------------------------------------------------------- POS


class _Watched(POS):
    """POS that notes, at every pick, the priorities before and after it."""

    __slots__ = ("looks",)

    def begin(self, number: int) -> None:
        super().begin(number)
        self.looks: list[tuple[list[Op | None], list[int], int, list[int]]] = []

    def pick(self, k: Kernel, mask: int) -> int:
        before = list(self.priorities)
        chosen = super().pick(k, mask)
        self.looks.append((list(k.pend), before, chosen, list(self.priorities)))
        return chosen


def test_pos_draws_anew_what_races_with_the_chosen_event_and_keeps_the_rest() -> None:
    def build(k: Kernel) -> None:
        x, y = Cell(k, 0, "x"), Cell(k, 0, "y")

        async def store(cell: Cell[int]) -> None:
            for _ in range(3):
                await cell.store(1)

        async def load(cell: Cell[int]) -> None:
            for _ in range(3):
                await cell.load()

        k.spawn(store, x)
        k.spawn(load, x)
        k.spawn(load, x)
        k.spawn(store, y)

    racing = kept = 0
    for number in range(50):
        strategy = _Watched(number)
        _run(build, strategy, [1])
        for (_, _, first, after), (pend, before, _, _) in pairwise(strategy.looks):
            assert before == after, "between picks nothing changes here: no step was forced"
            assert after[first] == -1
            done = strategy.looks[0][0][first]
            assert done is not None
            for t, op in enumerate(pend):
                assert op is not None
                if t == first or op.kind == "start":
                    continue
                same_object = op.obj.name == done.obj.name
                if after[t] == -1:
                    racing += 1
                    assert same_object
                    assert "store" in (op.kind, done.kind)
                elif not (same_object and "store" in (op.kind, done.kind)):
                    kept += 1
    assert racing > 100
    assert kept > 100


def test_pos_takes_the_highest_priority_of_the_candidates() -> None:
    def build(k: Kernel) -> None:
        for name in "abc":
            k.spawn(Cell(k, 0, name).load)

    firsts: Counter[int] = Counter()
    for number in range(300):
        strategy = _Watched(number)
        (found,) = _run(build, strategy, [0])
        _, _, chosen, after = strategy.looks[0]
        drawn = [strategy.draws.table[t] for t in range(3)]
        assert drawn[chosen] == max(drawn)
        assert all(after[t] == drawn[t] for t in range(3) if t != chosen)
        # Independent events keep their priorities: the rest follows in order of them.
        assert [t for t, *_ in found.steps] == sorted(range(3), key=lambda t: -drawn[t])
        firsts[chosen] += 1
    assert all(70 < count < 130 for count in firsts.values())


def test_pos_starts_spawned_threads_before_anything_that_could_race() -> None:
    def build(k: Kernel) -> None:
        x = Cell(k, 0, "x")

        async def child() -> None:
            k.record(did="started")
            await x.store(1)

        async def parent() -> None:
            await x.load()
            k.spawn(child)
            k.spawn(child)
            await x.store(2)

        async def other() -> None:
            for _ in range(5):
                await x.store(3)

        k.spawn(parent)
        k.spawn(other)

    for found in _run(build, POS(1), range(100)):
        kinds = [(kind, obj) for _, kind, obj, _ in found.steps]
        last_spawn = max(i for i, (kind, _) in enumerate(kinds) if kind == "spawn")
        assert [kind for kind, _ in kinds[last_spawn + 1 : last_spawn + 3]] == ["record", "record"]
