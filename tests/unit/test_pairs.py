"""Pairs: which locks were held when others were acquired, and who stood before a lock that somebody else held."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm import CondVar, Kernel, Mutex, Rw, RwLock
from stressvm.check.pairs import ALL_OF_FIRST, LATER_EVERY, Pair, Pairs, is_looked_at
from stressvm.explore.coverage import Coverage, Covered, covered_of, joined
from stressvm.explore.execution import execute
from stressvm.explore.hunt import Settings, hunt_subject
from stressvm.explore.random_walk import RandomWalk
from tests.support import in_trio, opened, subject

if TYPE_CHECKING:
    from stressvm.explore.result import Result
    from tests.support import Build


def _met(build: Build, executions: int = 60) -> set[tuple[str, str, str]]:
    """All pairs of so many random walks; of functions only the last part of the name."""
    what = subject(build)

    async def main() -> set[Pair]:
        pairs = Pairs()
        found: set[Pair] = set()
        async with opened(what.kernel(), "stepped") as driver:
            walk = RandomWalk(1)
            for number in range(executions):
                await execute(what, driver, walk, number)
                found |= pairs.look(driver.k)
                driver.unwind()
        return found

    found: set[Pair] = in_trio(main)
    return {(lock, one.rpartition(".")[2], other.rpartition(".")[2]) for lock, one, other in found}


def _abba(k: Kernel) -> None:
    a, b = Mutex(k, "a"), Mutex(k, "b")

    async def up() -> None:
        await a.lock()
        await b.lock()
        await b.unlock()
        await a.unlock()

    async def down() -> None:
        await b.lock()
        await a.lock()
        await a.unlock()
        await b.unlock()

    k.spawn(up)
    k.spawn(down)


def test_locks_in_two_orders_and_the_deadlock_that_comes_of_it() -> None:
    met = _met(_abba)
    assert {pair for pair in met if not pair[0]} == {("", "a", "b"), ("", "b", "a")}
    # In the deadlock each stands before the other's lock.
    assert {("b", "up", "down"), ("a", "down", "up")} <= met


def test_who_only_reads_waits_for_no_reader() -> None:
    def build(k: Kernel) -> None:
        lock = RwLock(k, "lock")

        async def reads() -> None:
            for _ in range(2):
                await lock.enter(Rw.READER)
                await lock.exit()

        async def writes() -> None:
            for _ in range(2):
                await lock.enter(Rw.WRITER)
                await lock.exit()

        k.spawn(reads)
        k.spawn(reads)
        k.spawn(writes)

    assert _met(build) == {("lock", "reads", "writes"), ("lock", "writes", "reads")}


def test_threads_that_never_stand_there_together_do_not_meet() -> None:
    def build(k: Kernel) -> None:
        lock = Mutex(k, "lock")
        done = CondVar(k, "done")
        over: list[bool] = []

        async def first() -> None:
            await lock.lock()
            over.append(True)
            await done.signal()
            await lock.unlock()

        async def second() -> None:
            await lock.lock()
            while not over:
                await done.wait(lock)
            await lock.unlock()
            await lock.lock()
            await lock.unlock()

        k.spawn(first)
        k.spawn(second)

    # Woken by one that still holds the lock, the second waits for it; the first has come and gone by then.
    assert _met(build) == {("lock", "second", "first")}


def test_which_executions_are_looked_at_depends_on_their_numbers() -> None:
    assert all(is_looked_at(number) for number in range(ALL_OF_FIRST))
    later = [number for number in range(ALL_OF_FIRST, 10 * ALL_OF_FIRST) if is_looked_at(number)]
    assert later == list(range(ALL_OF_FIRST, 10 * ALL_OF_FIRST, LATER_EVERY))


def _hunt(build: Build, settings: Settings) -> Result:
    what = subject(build)
    result: Result = in_trio(lambda: hunt_subject(what, settings))
    return result


def test_a_hunt_tells_pairs_size_and_what_pct_guarantees() -> None:
    result = _hunt(_abba, Settings(executions=400, strategy="pct", depth=2, keep_going=True, checks=()))
    coverage = result.coverage
    assert (coverage.lock_pairs, coverage.meetings) == (2, 2)
    facts = coverage.facts()
    assert [one["executions"] for one in facts["pct"]] == [0, 399, 0]
    assert facts["pct"][1]["probability"] > 0.99
    assert facts["log10_size"] is None
    portfolio = _hunt(_abba, Settings(executions=3, strategy="auto", keep_going=True, checks=())).coverage
    assert portfolio.size.probes == 1
    assert any(word.startswith("space about") for word in portfolio.words())


def test_what_batches_have_covered_is_stored_and_joined() -> None:
    one = Covered((Pair("", "a", "b"),), (3.0, 4.5), ((2, 7),), 3, 20)
    other = Covered((Pair("", "a", "b"), Pair("m", "f", "g")), (), ((1, 1), (2, 1)))
    assert covered_of(one.plain()) == one
    both = joined((one, other))
    assert both == Covered((Pair("", "a", "b"), Pair("m", "f", "g")), (3.0, 4.5), ((1, 1), (2, 8)), 3, 20)
    apart, together = Coverage(), Coverage()
    apart.add(one)
    apart.add(other)
    together.add(both)
    assert apart.facts() == together.facts()
    assert (apart.lock_pairs, apart.meetings, apart.size.probes) == (1, 1, 2)
