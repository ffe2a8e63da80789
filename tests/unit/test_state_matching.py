"""Matching states: circles end, states are what matters and no more, and what cannot be seen is refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import trio

from stressvm import Atomic, Cell, CondVar, Kernel, Mutex, Timers, UsageError, Wake
from stressvm.explore.execution import execute
from stressvm.explore.state_key import StateKey
from stressvm.explore.state_matching import StateMatching
from stressvm.kernel.stepped import stepped
from tests.support import alone, every, kinds, opened, said, subject

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from stressvm.kernel.object import KernelObject

    Build = Callable[[Kernel], None]


class Nothing:
    """A world that has nothing of its own."""

    def state(self) -> Any:
        return ()

    def name(self, value: object) -> Any:
        del value
        return None

    def local(self, name: str, value: Any) -> Any:
        del name
        return value

    def matters(self, obj: KernelObject) -> bool:
        del obj
        return True


@dataclass
class Found:
    """What a search came to.

    Attributes:
        said: by executions that went to their end.
        kinds: of their verdicts.
        executions: all of them.
        pruned: those that were cut off.
    """

    said: set[tuple[str, ...]]
    kinds: set[str | None]
    executions: int
    pruned: int
    search: StateMatching


def search(
    build: Build,
    world: Nothing | None = None,
    *,
    key: Callable[[Kernel], Hashable] | None = None,
    driver: str = "stepped",
    **settings: Any,
) -> Found:
    """All states of a world."""
    if key is None:
        key = StateKey()
        key.world = world or Nothing()
    matching = StateMatching(key)
    found = Found(set(), set(), 0, 0, matching)
    what = subject(build, **settings)

    async def main() -> None:
        async with opened(what.kernel(), driver) as made:
            while not matching.exhausted:
                assert found.executions < 5_000
                verdict = await execute(what, made, matching, found.executions)
                found.executions += 1
                found.pruned += matching.pruned
                if not matching.pruned:
                    found.said.add(said(made.k))
                    found.kinds.add(verdict.kind if verdict is not None else None)
                made.unwind()

    try:
        trio.run(main)
    except BaseExceptionGroup as group:
        raise alone(group) from None
    return found


def storing(threads: int, times: int) -> Build:
    """Threads that count each in a variable of its own."""

    def build(k: Kernel) -> None:
        cells = [Atomic(k, 0, f"n{number}") for number in range(threads)]

        async def counting(cell: Atomic) -> None:
            at = 0
            while at < times:
                await cell.fetchadd(1)
                at += 1

        for cell in cells:
            k.spawn(counting, cell)

    return build


@pytest.mark.parametrize(("threads", "times"), [(2, 3), (2, 6), (3, 2), (3, 4)])
def test_independent_threads_have_a_grid_of_states(threads: int, times: int) -> None:
    found = search(storing(threads, times))
    # How far each has come; where but one is not at its end there is nothing to decide.
    lone = threads * times + 1
    assert found.search.states == (times + 1) ** threads - lone
    assert found.search.circles == 0


def spinning(k: Kernel) -> None:
    flag, other = Atomic(k, 0, "flag"), Atomic(k, 0, "other")

    async def spin() -> None:
        while not await flag.load():
            await other.load()
        k.record(did="seen")

    async def lift() -> None:
        await flag.store(1)
        k.record(did="lifted")

    k.spawn(spin)
    k.spawn(lift)


def test_a_program_with_endless_schedules_is_searched_to_its_end() -> None:
    found = search(spinning)
    assert found.said == {("lift1 lifted", "spin0 seen")}
    assert found.kinds == {None}
    assert found.search.circles == 1
    assert found.search.bounds == ""
    # Looking at the flag, the first time and again (compilers may make that two places), and at the other.
    assert found.search.states <= 3


def test_both_drivers_find_the_same_states() -> None:
    for build in (spinning, storing(2, 3), dining):
        assert search(build).search.seen == search(build, driver="trio").search.seen


def dining(k: Kernel) -> None:
    forks = [Mutex(k, f"fork{number}") for number in range(3)]

    async def philosopher(number: int) -> None:
        left, right = forks[number], forks[(number + 1) % 3]
        await left.lock()
        await right.lock()
        await right.unlock()
        await left.unlock()

    for number in range(3):
        k.spawn(philosopher, number)


def test_a_deadlock_is_a_state_without_a_future() -> None:
    found = search(dining)
    assert found.kinds == {None, "deadlock"}
    endings = every(dining)
    assert kinds(endings) == found.kinds
    assert found.executions * 2 < len(endings)


def test_a_state_is_the_same_whoever_has_the_baton() -> None:
    """A thread that is just announcing is where it is when it has handed over the baton."""

    def build(k: Kernel) -> None:
        one, other = Atomic(k, 0, "one"), Atomic(k, 0, "other")

        async def thread(cell: Atomic) -> None:
            await twice(cell)

        async def twice(cell: Atomic) -> None:
            await cell.store(1)
            await cell.store(1)

        k.spawn(thread, one)
        k.spawn(thread, other)

    # Before, between and after for each thread; the fifth state with a decision would be another if it mattered.
    assert search(build).search.states == 3 * 3 - 5


def test_what_a_thread_knows_tells_states_apart() -> None:
    def build(k: Kernel) -> None:
        cell, turn = Atomic(k, 0, "n"), Atomic(k, 0, "turn")

        async def reader() -> None:
            seen = await cell.load()
            await turn.store(1)
            k.record(did=seen)

        async def writer() -> None:
            await cell.store(1)
            await cell.store(2)

        k.spawn(reader)
        k.spawn(writer)

    assert {words[-1] for words in search(build).said} == {"reader0 0", "reader0 1", "reader0 2"}

    class Forgetful(Nothing):
        def local(self, name: str, value: Any) -> Any:
            return None if name == "seen" else value

    assert len(search(build, Forgetful()).said) < len(search(build).said)


def test_of_a_kernel_object_the_world_may_say_what_matters() -> None:
    def build(k: Kernel) -> None:
        count, gate = Atomic(k, 0, "count"), Atomic(k, 0, "gate")

        async def ask() -> None:
            while not await gate.load():
                await count.fetchadd(1)

        async def lift() -> None:
            await gate.store(1)

        k.spawn(ask)
        k.spawn(lift)

    class Uncounted(Nothing):
        def matters(self, obj: KernelObject) -> bool:
            return obj.ident.name != "count"

    found = search(build, Uncounted())
    assert (found.search.circles, found.search.bounds) == (1, "")
    # If it does matter, there is no end to the states but that of the steps.
    found = search(build, max_steps=40)
    assert (found.search.circles, found.search.bounds) == (0, "at most 40 steps")


def test_data_choices_are_all_made() -> None:
    def build(k: Kernel) -> None:
        cell = Cell(k, 0, "n")

        async def thread() -> None:
            value = k.choose(3)
            await cell.store(value)
            k.record(did=await cell.load())

        k.spawn(thread)
        k.spawn(thread)

    assert len({tuple(sorted(words)) for words in search(build).said}) == 9


@pytest.mark.parametrize(
    ("timers", "verdicts"), [(Timers.NEVER, {"stranded"}), (Timers.IDLE, {None}), (Timers.ANYTIME, {None})]
)
def test_sleeps_and_timers(timers: Timers, verdicts: set[str | None]) -> None:
    def build(k: Kernel) -> None:
        mutex, cv = Mutex(k, "m"), CondVar(k, "cv", timeout_signals=False)

        async def sleeper() -> None:
            await mutex.lock()
            woken = await cv.timedwait(mutex, 1)
            await mutex.unlock()
            k.record(did="timeout" if woken is Wake.TIMEOUT else "woken")

        async def waker() -> None:
            await cv.signal()

        k.spawn(sleeper)
        k.spawn(sleeper)
        k.spawn(waker)

    found = search(build, timers=timers)
    assert found.kinds == verdicts
    if timers is not Timers.NEVER:
        words = {tuple(sorted(words.split()[1] for words in ending)) for ending in found.said}
        assert words == {("timeout", "timeout"), ("timeout", "woken")}


def test_threads_that_threads_spawn() -> None:
    def build(k: Kernel) -> None:
        cell = Atomic(k, 0, "n")

        async def child() -> None:
            await cell.fetchadd(1)

        async def parent() -> None:
            one = k.spawn(child)
            other = k.spawn(child)
            await k.join(one)
            await k.join(other)
            k.record(did=await cell.load())

        k.spawn(parent)

    assert search(build).said == {("parent0 2",)}


# ---------------------------------------------------------------- what is refused


class Odd:
    """An object of which nobody says anything."""


def looping(k: Kernel) -> None:
    cell = Atomic(k, 0, "n")

    async def thread() -> None:
        for value in (1, 1, 2):
            await cell.store(value)

    k.spawn(thread)
    k.spawn(thread)


def adding(k: Kernel) -> None:
    cell = Atomic(k, 0, "n")

    async def thread() -> None:
        k.record(did=await cell.load() + await cell.load())

    k.spawn(thread)
    k.spawn(thread)


def holding(k: Kernel) -> None:
    cell = Atomic(k, 0, "n")

    async def thread() -> None:
        odd = Odd()
        await cell.load()
        del odd

    k.spawn(thread)
    k.spawn(thread)


@pytest.mark.parametrize(
    ("build", "fault"),
    [
        (looping, "thread keeps a tuple_iterator in the middle of an expression or of a loop"),
        (adding, "thread keeps a int in the middle of an expression or of a loop"),
        (holding, "refers to a Odd, and nobody says what stands for that"),
    ],
)
def test_what_cannot_be_told_is_refused(build: Build, fault: str) -> None:
    with pytest.raises(UsageError, match="states cannot be matched: ") as refused:
        search(build)
    assert fault in str(refused.value)


def test_the_world_may_give_its_objects_names() -> None:
    class Named(Nothing):
        def name(self, value: object) -> Any:
            return "odd" if isinstance(value, Odd) else None

    assert search(holding, Named()).kinds == {None}


def test_equal_states_have_equal_names_and_others_do_not() -> None:
    """One schedule after the other: what differs is seen, and what does not is not."""
    what = subject(storing(2, 2))
    key = StateKey()
    key.world = Nothing()
    names: list[list[Hashable]] = []

    class Watching(StateMatching):
        def _first(self, k: Kernel, shape: int, rest: Any) -> int:
            names[-1].append(self.key(k))
            return super()._first(k, shape, rest)

    async def main() -> None:
        async with stepped(what.kernel()) as driver:
            for _ in range(2):
                names.append([])
                await execute(what, driver, Watching(key), 0)
                driver.unwind()

    trio.run(main)
    assert names[0] == names[1]
    assert len(set(names[0])) == len(names[0]) > 1
