"""What steps access, which sequences a wakeup tree takes, and what names a class."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stressvm import (
    Atomic,
    Cell,
    CondVar,
    Field,
    Kernel,
    Mutex,
    NetBSDRwLock,
    Rw,
    RwLock,
    Semaphore,
    SleepQueue,
    SpinMutex,
    Sx,
    Timers,
)
from stressvm.check.clocks import clocks
from stressvm.check.happens_before import fingerprint
from stressvm.explore.dpor import DPOR
from stressvm.explore.execution import execute
from stressvm.explore.random_walk import RandomWalk
from stressvm.explore.wakeup_tree import ABSENT, NO, Branch, Item, insert, stripped, weak_initial
from stressvm.kernel.every_step import EveryStepKernel
from stressvm.kernel.grant import Fifo
from stressvm.kernel.op import (
    CLOCK,
    EVERYTHING,
    GOES_ON,
    OBJECTS,
    READ,
    THREADS,
    WRITE,
    bits,
    end_of,
    fires_of,
    signals_of,
    whose_end,
)
from tests.support import in_trio, opened, subject

if TYPE_CHECKING:
    from collections.abc import Callable

    from stressvm.kernel.op import Event

    Access = tuple[str, bool]


def done(
    build: Callable[[Kernel], None], *, timers: Timers = Timers.IDLE
) -> tuple[list[Event], set[tuple[int, int, bool]]]:
    """The trace of one execution, and what was touched beside: (thread, number, READ or WRITE)."""
    what = subject(build, timers=timers)

    async def main() -> tuple[list[Event], set[tuple[int, int, bool]]]:
        async with opened(what.kernel(every_step=True), "stepped") as driver:
            await execute(what, driver, DPOR(), 0)
            k = driver.k
            trace, touched = list(k.trace), {(t, number, write) for _, t, number, write in k.touched}
            driver.unwind()
            return trace, touched

    found: tuple[list[Event], set[tuple[int, int, bool]]] = in_trio(main)
    return found


def footprints(
    build: Callable[[Kernel], None], *, timers: Timers = Timers.IDLE
) -> dict[str, tuple[tuple[int, bool], ...]]:
    """By kind of operation what it accesses, as an execution has it."""
    trace, _ = done(build, timers=timers)
    return {op.kind: op.footprint for _, op, _ in trace}


# ---------------------------------------------------------------- operations


def test_locks_are_written_and_failed_tries_read_them() -> None:
    def build(k: Kernel) -> None:
        m, n = Mutex(k, "m"), SpinMutex(k, "n")

        async def thread() -> None:
            await m.lock()
            assert not await m.trylock()
            await m.unlock()
            assert await n.trylock()
            await n.unlock()

        k.spawn(thread)

    assert footprints(build) == {
        "lock": ((0, WRITE),),
        "trylock-failed": ((0, READ),),
        "trylock": ((1, WRITE),),
        "unlock": ((1, WRITE),),
    }


@pytest.mark.parametrize("make", [RwLock, NetBSDRwLock])
def test_readers_write_their_lock_as_writers_do(make: type[RwLock]) -> None:
    def build(k: Kernel) -> None:
        rw = make(k, "rw")

        async def thread() -> None:
            await rw.enter(Rw.READER)
            assert not await rw.tryenter(Rw.WRITER)
            assert await rw.tryupgrade()
            await rw.downgrade()
            await rw.exit()
            await rw.enter(Rw.WRITER)

        k.spawn(thread)

    found = footprints(build)
    assert found.pop("try-lock-failed") == ((0, READ),)
    assert found.keys() == {"read-lock", "try-upgrade", "downgrade", "unlock", "write-lock"}
    assert set(found.values()) == {((0, WRITE),)}


def test_loads_and_failed_swaps_read_a_cell() -> None:
    def build(k: Kernel) -> None:
        a = Atomic(k, 0, "a")

        async def thread() -> None:
            await a.load()
            await a.cas(5, 1)
            await a.cas(0, 1)
            await a.fetchadd(1)
            await a.swap(1)
            await a.store(1)
            a.write(2)

        k.spawn(thread)

    found = footprints(build)
    reading = {kind for kind, footprint in found.items() if footprint == ((0, READ),)}
    assert reading == {"load", "cas-failed"}
    assert {footprint for kind, footprint in found.items() if kind not in reading} == {((0, WRITE),)}
    assert found.keys() - reading == {"cas", "fetchadd", "swap", "store", "write"}


def test_a_sleep_writes_queue_and_interlock_and_going_on_nothing() -> None:
    def build(k: Kernel) -> None:
        m, channel = Mutex(k, "m"), SleepQueue(k, "channel")

        async def sleep() -> None:
            await m.lock()
            await channel.sleep(m, "w", pdrop=True)

        async def wake() -> None:
            await channel.wakeup()

        k.spawn(sleep)
        k.spawn(wake)

    assert footprints(build) == {
        "lock": ((0, WRITE),),
        "sleep": ((1, WRITE), (0, WRITE)),
        "wakeup": ((1, WRITE),),
        "resume": (),
    }


def test_wakeups_write_the_queue_also_if_nobody_sleeps() -> None:
    def build(k: Kernel) -> None:
        cv, channel = CondVar(k, "cv"), SleepQueue(k, "channel")

        async def wake() -> None:
            await cv.signal()
            await cv.broadcast()
            await channel.wakeup_one()

        k.spawn(wake)

    assert footprints(build) == {"signal": ((0, WRITE),), "broadcast": ((0, WRITE),), "wakeup_one": ((1, WRITE),)}


@pytest.mark.parametrize("timers", [Timers.IDLE, Timers.ANYTIME])
def test_timers_are_ordered_by_the_clock_unless_they_fire_at_any_time(timers: Timers) -> None:
    def build(k: Kernel) -> None:
        m, cv = Mutex(k, "m"), CondVar(k, "cv", timeout_signals=False)

        async def sleep() -> None:
            await m.lock()
            await cv.timedwait(m, 3)
            await k.delay(2)

        k.spawn(sleep)

    found = footprints(build, timers=timers)
    clock = ((CLOCK, WRITE),) if timers is Timers.IDLE else ()
    assert found["timeout"] == ((1, WRITE), *clock)
    assert found["delay"] == clock


def test_spawn_writes_the_table_of_threads_and_join_reads_an_end() -> None:
    def build(k: Kernel) -> None:
        async def child() -> None:
            pass

        async def parent() -> None:
            await k.yield_()
            await k.join(k.spawn(child))

        k.spawn(parent)

    found = footprints(build)
    assert found["spawn"] == ((THREADS, WRITE),)
    assert found["join"] == ((end_of(1), READ),)
    assert found["yield"] == ()
    assert whose_end(end_of(7)) == 7


def test_a_queued_request_writes_its_lock_each_time() -> None:
    def build(k: Kernel) -> None:
        m = Mutex(k, "m", Fifo())
        sx = Sx(k, "sx")
        units = Semaphore(k, 1, "units")

        async def thread() -> None:
            await m.lock()
            await k.yield_()
            await m.unlock()
            await sx.xlock()
            await sx.unlock()
            await units.wait()
            await units.trywait()
            await units.post()

        k.spawn(thread)
        k.spawn(thread)

    found = footprints(build)
    assert found["lock"] == ((0, WRITE),)
    assert found["write-lock"] == ((1, WRITE),)
    assert found["sema_wait"] == found["sema_post"] == ((2, WRITE),)
    assert found["sema_trywait-failed"] == ((2, READ),)


# ---------------------------------------------------------------- what is touched beside


def test_peeks_and_pokes_are_noted() -> None:
    def build(k: Kernel) -> None:
        m, cell, other = Mutex(k, "m"), Cell(k, 0, "cell"), Cell(k, 0, "other")

        async def thread() -> None:
            await m.lock()
            cell.poke(other.peek())

        k.spawn(thread)

    trace, touched = done(build)
    assert [op.kind for _, op, _ in trace] == ["lock"]
    assert touched == {(0, 1, WRITE), (0, 2, READ)}


def test_a_signal_concerns_its_thread_and_the_queue_that_it_takes_it_off() -> None:
    def build(k: Kernel) -> None:
        m, channel = Mutex(k, "m"), SleepQueue(k, "channel")

        async def sleep() -> None:
            await m.lock()
            await channel.sleep(m, "w", pcatch=True)

        async def post() -> None:
            await k.yield_()
            k.psignal(k.threads[0])

        k.spawn(sleep)
        k.spawn(post)

    _, touched = done(build)
    assert touched == {(0, signals_of(0), WRITE), (1, signals_of(0), WRITE), (1, 1, WRITE)}


def test_objects_made_by_threads_are_numbered_in_order() -> None:
    def build(k: Kernel) -> None:
        async def thread() -> None:
            await k.yield_()
            Cell(k, 0)

        k.spawn(thread)

    assert done(build)[1] == {(0, OBJECTS, WRITE)}


def test_progress_concerns_daemons_whose_timers_fire_at_any_time() -> None:
    def build(k: Kernel) -> None:
        async def daemon() -> None:
            await k.delay(1)

        async def work() -> None:
            await k.yield_()
            k.progress()

        k.spawn(work)
        k.spawn(daemon, daemon=True)

    assert done(build, timers=Timers.ANYTIME)[1] == {(0, fires_of(1), READ), (1, fires_of(1), WRITE)}
    assert done(build)[1] == set()


@pytest.mark.parametrize("every_step", [False, True])
def test_every_kernel_notes_what_steps_touch_and_when(*, every_step: bool) -> None:
    def build(k: Kernel) -> None:
        cell, field = Cell(k, 0, "cell"), Field(k, "field")
        cell.poke(1)
        field.write()

        async def thread() -> None:
            cell.peek()
            await k.yield_()
            field.read()
            k.touch(7, write=True)

        k.spawn(thread)

    what = subject(build)

    async def main() -> list[tuple[int, int, int, bool]]:
        async with opened(what.kernel(every_step=every_step), "stepped") as driver:
            await execute(what, driver, RandomWalk(1), 0)
            driver.k.touch(8, write=True)
            return driver.k.touched

    assert in_trio(main) == [(0, 0, 0, READ), (1, 0, 1, READ), (1, 0, 7, WRITE)], (
        "not while the world is built, nor at rest"
    )


def test_what_predicates_look_at_is_told_apart() -> None:
    def build(k: Kernel) -> None:
        m, cv, cell = Mutex(k, "m"), CondVar(k, "cv"), Cell(k, 0, "cell")

        async def thread() -> None:
            await m.lock()
            cell.peek()
            await cv.timedwait(m, 1, until=lambda: bool(cell.peek()))
            await m.unlock()

        k.spawn(thread)

    what = subject(build)

    async def main() -> tuple[list[int], list[tuple[int, int]]]:
        async with opened(what.kernel(), "stepped") as driver:
            await execute(what, driver, RandomWalk(1), 0)
            return [number for _, _, number, _ in driver.k.touched], driver.k.asides

    touched, asides = in_trio(main)
    assert touched == [2, 2, 2]
    assert asides == [(1, 2), (2, 3)]


def test_looking_at_a_queue_reads_it() -> None:
    def build(k: Kernel) -> None:
        cv, channel = CondVar(k, "cv"), SleepQueue(k, "channel")

        async def thread() -> None:
            await k.yield_()
            assert not cv.has_waiters()
            assert not channel.statistics().waiters

        k.spawn(thread)

    assert done(build)[1] == {(0, 0, READ), (0, 1, READ)}


@pytest.mark.parametrize("make", [Mutex, RwLock, Sx, Semaphore])
def test_looking_for_who_waits_depends_on_every_step(make: Callable[[Kernel], Mutex]) -> None:
    def build(k: Kernel) -> None:
        obj = make(k)

        async def thread() -> None:
            await k.yield_()
            obj.statistics()

        k.spawn(thread)

    assert done(build)[1] == {(0, EVERYTHING, WRITE)}


# ---------------------------------------------------------------- masks


def test_everything_accessed_has_a_bit_of_its_own() -> None:
    numbers = [*range(20), GOES_ON, THREADS, OBJECTS, CLOCK]
    numbers += [of(t) for t in range(9) for of in (end_of, signals_of, fires_of)]
    assert len({bits(number) for number in numbers}) == len(numbers)
    assert all(bits(number).bit_count() == 1 and bits(number) & bits(EVERYTHING) for number in numbers)
    assert bits(-1) == 0


def test_what_objects_offer() -> None:
    k = EveryStepKernel()
    assert Mutex(k).offers() == 1
    assert RwLock(k).offers() == 3
    assert Semaphore(k, 0).offers() == 0
    assert Semaphore(k, 1).offers() == 1
    taken = Mutex(k)
    taken.owner = 0
    queued = Mutex(k, grant=Fifo())
    queued.owner = 0
    read = RwLock(k)
    read.readers = 1
    assert (taken.offers(), queued.offers(), read.offers(), CondVar(k).offers()) == (0, 1, 2, 0)


# ---------------------------------------------------------------- wakeup trees


def item(at: int, thread: int, writes: int, after: int = 0, label: tuple[int, ...] = ()) -> Item:
    return Item(1 << at, thread, label, writes, writes, after, 0)


def branch(thread: int, writes: int, label: tuple[int, ...] = ()) -> Branch:
    return Branch(thread, label, writes, writes, [])


def shape(tree: list[Branch]) -> list[object]:
    return [(one.thread, *shape(one.tree)) for one in tree]


def planted(tree: list[Branch], items: list[Item]) -> bool:
    return insert(tree, items, sum(one.bit for one in items))


def test_weak_initials() -> None:
    items = [item(0, 0, 1), item(1, 1, 2), item(2, 2, 1, after=1)]
    assert weak_initial(branch(0, 1), items, 7) == 0
    assert weak_initial(branch(1, 2), items, 7) == 1
    assert weak_initial(branch(2, 1), items, 7) == NO
    assert weak_initial(branch(3, 4), items, 7) == ABSENT
    assert weak_initial(branch(3, 2), items, 7) == NO
    assert weak_initial(branch(2, 1), items, 6) == 2, "what it came after is gone"


def test_what_was_foreseen_gives_way_to_what_has_been_explored() -> None:
    items = [item(0, 0, 1), item(1, 1, 1, after=1)]
    assert weak_initial(branch(1, 2), items, 3) == NO
    assert weak_initial(Branch(1, (), 2, 2, [], done=True), items, 3) == 1


def test_another_outcome_is_another_step() -> None:
    items = [item(0, 0, 1, label=(1,))]
    assert weak_initial(branch(0, 1, (1,)), items, 1) == 0
    assert weak_initial(branch(0, 1, (2,)), items, 1) == NO
    assert stripped([0, 2, 0, 0]) == (0, 2)
    assert stripped([0, 0]) == ()


def test_a_tree_takes_only_what_it_does_not_lead_to() -> None:
    tree: list[Branch] = []
    assert planted(tree, [item(0, 0, 1), item(1, 1, 1, after=1)])
    assert shape(tree) == [(0, (1,))]
    assert not planted(tree, [item(0, 0, 1), item(1, 1, 1, after=1), item(2, 2, 1, after=3)]), "explored below the leaf"
    assert not planted(tree, [item(0, 0, 1)])
    assert planted(tree, [item(0, 1, 1), item(1, 0, 1, after=1)])
    assert shape(tree) == [(0, (1,)), (1, (0,))]
    assert planted(tree, [item(0, 2, 4), item(1, 0, 1), item(2, 2, 1, after=3), item(3, 1, 1, after=7)])
    assert shape(tree) == [(0, (1,), (2, (2, (1,)))), (1, (0,))]


def test_a_step_that_touches_nothing_of_a_sequence_can_go_first_in_it() -> None:
    tree = [branch(5, 8)]
    assert not planted(tree, [item(0, 0, 1)])
    tree[0].tree = [branch(1, 1)]
    assert planted(tree, [item(0, 0, 1)])
    assert shape(tree) == [(5, (1,), (0,))]


# ---------------------------------------------------------------- classes and clocks


def sharing(k: Kernel) -> None:
    cell, other = Cell(k, 0, "cell"), Cell(k, 0, "other")

    async def load() -> None:
        await cell.load()
        await other.store(1)

    async def store() -> None:
        await cell.store(1)

    k.spawn(load)
    k.spawn(load)
    k.spawn(store)


def _class(order: str) -> int:
    """Of the threads in that order, one step each time."""
    what = subject(sharing)

    left = [int(digit) for digit in order]

    class Fixed(RandomWalk):
        def pick(self, k: Kernel, mask: int) -> int:  # noqa: ARG002 - see Strategy
            t = left.pop(0)
            assert mask >> t & 1
            return t

    async def main() -> int:
        async with opened(what.kernel(every_step=True), "stepped") as driver:
            await execute(what, driver, Fixed(1), 0)
            return fingerprint(driver.k.trace)

    found: int = in_trio(main)
    return found


def test_reads_in_any_order_are_one_class() -> None:
    assert _class("01201") == _class("10201") == _class("01012"[:2] + "201")
    assert _class("01201") != _class("01210"), "two stores changed places"
    assert _class("01201") != _class("02101"), "a load changed places with a store"


def test_the_name_of_a_class_is_the_same_whatever_the_hash_seed() -> None:
    code = "from tests.unit.test_dependency import _class; print(_class('01201'))"
    root = Path(__file__).resolve().parents[2]
    said = {
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=root,
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert said == {f"{_class('01201')}\n".encode()}


def test_outcomes_of_choices_are_part_of_a_class() -> None:
    def build(k: Kernel) -> None:
        async def thread() -> None:
            k.choose(3)
            await k.yield_()

        k.spawn(thread)

    search = DPOR()
    what = subject(build)

    async def main() -> set[int]:
        found = set()
        async with opened(what.kernel(every_step=True), "stepped") as driver:
            for number in range(3):
                await execute(what, driver, search, number)
                found.add(fingerprint(driver.k.trace))
        return found

    assert len(in_trio(main)) == 3


def test_touches_are_part_of_a_class_if_given() -> None:
    trace, _ = done(sharing)
    plain = fingerprint(trace)
    one, other = [(1, 0, 7, True), (3, 1, 7, True)], [(1, 1, 7, True), (3, 0, 7, True)]
    assert len({plain, fingerprint(trace, one), fingerprint(trace, other)}) == 3
    assert fingerprint(trace, [(1, 0, 7, False), (3, 1, 7, False)]) == fingerprint(
        trace, [(1, 1, 7, False), (3, 0, 7, False)]
    )


def test_clocks() -> None:
    def build(k: Kernel) -> None:
        m, cell = Mutex(k, "m"), Cell(k, 0, "cell")

        async def child() -> None:
            await cell.store(1)
            await m.lock()
            await m.unlock()

        async def parent() -> None:
            await k.yield_()
            th = k.spawn(child)
            await m.lock()
            await m.unlock()
            await cell.load()
            await k.join(th)
            await cell.load()

        k.spawn(parent)

    trace, _ = done(build)
    steps = [(t, op.kind) for t, op, _ in trace]
    found = clocks(trace)
    store = steps.index((1, "store"))
    assert found[store][0] == 2, "after the spawn"
    loads = [at for at, step in enumerate(steps) if step == (0, "load")]
    assert found[loads[1]][1] == 3, "after the child's end"
    assert found[loads[0]][1] < found[store][1] or steps.index((1, "unlock")) < steps.index((0, "lock"))


def test_clocks_know_wakeups() -> None:
    def build(k: Kernel) -> None:
        m, cv = Mutex(k, "m"), CondVar(k, "cv")

        async def sleep() -> None:
            await m.lock()
            await cv.wait(m)
            await m.unlock()

        async def wake() -> None:
            await k.yield_()
            await cv.signal()

        k.spawn(sleep)
        k.spawn(wake)

    trace, _ = done(build)
    found = dict(zip([(t, op.kind) for t, op, _ in trace], clocks(trace), strict=True))
    assert found[1, "yield"] == [0, 1]
    assert found[1, "signal"] == [0, 2], "that somebody sleeps orders nothing"
    assert found[0, "lock"] == [3, 2], "the one after the wakeup"


def test_a_failed_try_makes_no_order() -> None:
    def build(k: Kernel) -> None:
        m = Mutex(k, "m")

        async def hold() -> None:
            await m.lock()

        async def attempt() -> None:
            assert not await m.trylock()

        k.spawn(hold)
        k.spawn(attempt)

    trace, _ = done(build)
    assert [op.kind for _, op, _ in trace] == ["lock", "trylock-failed"]
    assert clocks(trace) == [[1, 0], [0, 1]]
