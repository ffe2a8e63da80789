"""Bounding: every execution with so many preemptions or delays, each once, in order; held to an enumeration of all."""

from __future__ import annotations

from collections import Counter
from math import comb
from typing import TYPE_CHECKING, Any

import pytest

from stressvm import Cell, CondVar, Kernel, Mutex, Semaphore, Timers
from stressvm.explore.bounded import Bounding, DelayBounding, PreemptionBounding
from stressvm.explore.execution import execute
from stressvm.explore.fair import Fair
from stressvm.explore.tape import Lenient
from stressvm.kernel.errors import ReplayDiverged, UsageError
from tests.support import branches, in_trio, opened, subject

if TYPE_CHECKING:
    from collections.abc import Callable

    from stressvm.kernel.strategy import Strategy
    from tests.support import Build

Picks = tuple[int, ...]


class _Priced(Lenient):
    """A tape that adds up what its decisions cost, for one kind of bound."""

    __slots__ = ("delays", "total")

    def __init__(self, numbers: tuple[int, ...], *, delays: bool) -> None:
        super().__init__(numbers)
        self.delays = delays

    def begin(self, number: int) -> None:
        super().begin(number)
        self.total = 0

    def pick(self, k: Kernel, mask: int) -> int:
        chosen = super().pick(k, mask)
        ready = [t for t in range(len(k.threads)) if mask >> t & 1 and t not in k.timers]
        if not self.delays:
            self.total += self.preempting[-1]
        elif ready:
            # Round and round from the current thread on; those that would time out come after all others.
            start = max(k.cur, 0)
            turn = [t % len(k.threads) for t in range(start, start + len(k.threads)) if t % len(k.threads) in ready]
            late = sorted((t for t in k.timers if mask >> t & 1), key=lambda t: (k.timers[t], t))
            self.total += [*turn, *late].index(chosen)
        return chosen


def _prices(build: Build, *, delays: bool, **settings: Any) -> dict[Picks, int]:
    """All executions there are, and what each costs."""
    what = subject(build, **settings)

    async def main() -> dict[Picks, int]:
        found: dict[Picks, int] = {}
        to_try: list[Picks] = [()]
        async with opened(what.kernel(), "stepped") as driver:
            while to_try:
                prefix = to_try.pop()
                tape = _Priced(prefix, delays=delays)
                await execute(what, driver, tape)
                picks = tuple(driver.k.picks)
                driver.unwind()
                assert picks not in found
                found[picks] = tape.total
                assert len(found) < 20_000
                to_try.extend(branches(prefix, tape))
        return found

    found: dict[Picks, int] = in_trio(main)
    return found


def _searched(build: Build, search: Any, *, limit: int = 50_000, **settings: Any) -> list[Picks]:
    """What a search does until it is exhausted."""
    what = subject(build, **settings)

    async def main() -> list[Picks]:
        found = []
        async with opened(what.kernel(), "stepped") as driver:
            for number in range(limit):
                await execute(what, driver, search, number)
                found.append(tuple(driver.k.picks))
                driver.unwind()
                if search.exhausted:
                    return found
        raise AssertionError(f"not exhausted after {limit} executions")

    found: list[Picks] = in_trio(main)
    return found


def _sections(threads: int, sections: int) -> Build:
    def build(k: Kernel) -> None:
        m = Mutex(k, "m")

        async def work() -> None:
            for _ in range(sections):
                await m.lock()
                await m.unlock()

        for _ in range(threads):
            k.spawn(work)

    return build


def _steps(*counts: int) -> Build:
    def build(k: Kernel) -> None:
        x = Cell(k, 0, "x")

        async def work(count: int) -> None:
            for _ in range(count):
                await x.store(1)

        for count in counts:
            k.spawn(work, count)

    return build


def _mixed(k: Kernel) -> None:
    """Waiting, timeouts, data, threads that spawn."""
    m, cv, s = Mutex(k, "m"), CondVar(k, "cv"), Semaphore(k, 0, "s")

    async def waiter() -> None:
        await m.lock()
        await cv.timedwait(m, 1 + k.choose(2))
        await m.unlock()
        await s.post()

    async def child() -> None:
        await s.wait()

    async def other() -> None:
        th = k.spawn(child)
        await cv.signal()
        await k.join(th)

    k.spawn(waiter)
    k.spawn(other)


def _late(k: Kernel) -> None:
    """Several timers due at one time, and delays."""

    async def sleeper(ticks: int) -> None:
        await k.delay(ticks)
        k.record(did=k.choose(2))
        await k.yield_()

    for ticks in (1, 1, 2):
        k.spawn(sleeper, ticks)


PROGRAMS: dict[str, tuple[Build, dict[str, Any]]] = {
    "sections 2x2": (_sections(2, 2), {}),
    "sections 3x2": (_sections(3, 2), {}),
    "steps 3 3": (_steps(3, 3), {}),
    "steps 2 2 2": (_steps(2, 2, 2), {}),
    "steps 1 2 3": (_steps(1, 2, 3), {}),
    "mixed": (_mixed, {}),
    "mixed, anytime": (_mixed, {"timers": Timers.ANYTIME}),
    "late": (_late, {}),
}


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize(("make", "delays"), [(PreemptionBounding, False), (DelayBounding, True)])
def test_each_execution_is_met_once_in_order_of_its_cost(
    name: str,
    make: Callable[[int | None], Bounding],
    delays: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    build, settings = PROGRAMS[name]
    prices = _prices(build, delays=delays, **settings)
    search = make(None)
    met = _searched(build, search, **settings)
    assert len(met) == len(set(met))
    assert set(met) == set(prices)
    assert [prices[picks] for picks in met] == sorted(prices.values())
    assert search.bounds == ""
    for limit in range(max(prices.values()) + 1):
        search = make(limit)
        within = _searched(build, search, **settings)
        assert within == met[: len(within)]
        assert len(within) == sum(1 for price in prices.values() if price <= limit)
        unit = ("delay" if delays else "preemption") + "s" * (limit != 1)
        assert search.bounds == ("" if limit == max(prices.values()) else f"at most {limit} {unit}")


@pytest.mark.parametrize(("threads", "steps"), [(2, 1), (2, 3), (2, 6), (3, 1), (3, 2), (4, 1)])
def test_without_preemptions_threads_run_one_after_another(threads: int, steps: int) -> None:
    """n threads that never block: n! executions without a preemption."""
    orders = {1: 1, 2: 2, 3: 6, 4: 24}
    assert len(_searched(_steps(*[steps] * threads), PreemptionBounding(0))) == orders[threads]
    assert len(_searched(_steps(*[steps] * threads), DelayBounding(0))) == 1


@pytest.mark.parametrize(("first", "second"), [(1, 1), (2, 3), (4, 4), (6, 2)])
def test_two_threads_have_as_many_executions_with_c_preemptions_as_there_are_ways_to_cut_them(
    first: int, second: int
) -> None:
    """Pieces take turns: the preemptions are the switches before the last piece of the thread that ends first."""

    def ways(preemptions: int) -> int:
        found = 0
        for mine, others in ((first, second), (second, first)):
            # `mine` begins. With p pieces each or one more, all switches but the one at an end are preemptions.
            for pieces in range(1, preemptions + 3):
                for other_pieces in (pieces - 1, pieces):
                    if not other_pieces:
                        continue
                    switches = pieces + other_pieces - 1
                    if switches - 1 == preemptions:
                        found += comb(mine - 1, pieces - 1) * comb(others - 1, other_pieces - 1)
        return found

    total = 0
    for limit in range(first + second):
        total += ways(limit)
        assert len(_searched(_steps(first, second), PreemptionBounding(limit))) == total
    assert total == comb(first + second, first)


def test_a_bug_is_met_first_with_the_fewest_preemptions() -> None:
    """A torn pair of writes needs one: the reader comes between them."""

    def build(k: Kernel) -> None:
        a, b = Cell(k, 0, "a"), Cell(k, 0, "b")

        async def writer() -> None:
            await a.store(1)
            await b.store(1)

        async def reader() -> None:
            if await a.load() != await b.load():
                k.record(did="torn")

        k.spawn(writer)
        k.spawn(reader)

    what = subject(build)
    search = PreemptionBounding()

    async def main() -> list[tuple[int, bool]]:
        found: list[tuple[int, bool]] = []
        async with opened(what.kernel(), "stepped") as driver:
            while not search.exhausted:
                level = search.level
                await execute(what, driver, search, len(found))
                found.append((level, any(op is driver.k.record_op for _, op, _ in driver.k.trace)))
                driver.unwind()
        return found

    found = in_trio(main)
    levels = [level for level, _ in found]
    assert levels == sorted(levels)
    assert Counter(levels) == {0: 2, 1: 2, 2: 2}
    assert {level for level, torn in found if torn} == {1}


def test_a_search_goes_on_by_ones_and_can_be_started_anew() -> None:
    search = PreemptionBounding(1)
    met = _searched(_steps(2, 2), search)
    with pytest.raises(UsageError, match="asked for execution 4 after 3, the last"):
        search.begin(len(met))
    assert _searched(_steps(2, 2), search) == met
    search.begin(0)
    with pytest.raises(UsageError, match="asked for execution 2 after 0"):
        search.begin(2)


@pytest.mark.parametrize("make", [PreemptionBounding, DelayBounding])
def test_a_negative_bound_is_refused(make: Callable[[int], Bounding]) -> None:
    with pytest.raises(UsageError, match="it is 0 or more"):
        make(-1)


def test_a_program_that_is_not_deterministic_is_found_out() -> None:
    count = 0

    def build(k: Kernel) -> None:
        nonlocal count
        count += 1
        for _ in range(2 + count % 2):
            k.spawn(Cell(k, 0).load)

    with pytest.raises(ReplayDiverged, match="not deterministic"):
        _searched(build, PreemptionBounding())


def test_a_program_that_ends_early_the_second_time_is_found_out() -> None:
    count = 0

    def build(k: Kernel) -> None:
        nonlocal count
        count += 1
        for _ in range(2 if count < 2 else 1):
            k.spawn(Cell(k, 0).load)

    with pytest.raises(ReplayDiverged, match="not deterministic"):
        _searched(build, PreemptionBounding())


def test_large_data_choices_are_enumerated_without_being_listed() -> None:
    def build(k: Kernel) -> None:
        async def thread() -> None:
            k.choose(1 << 32)
            k.choose(300)

        k.spawn(thread)

    what = subject(build)
    search = PreemptionBounding()

    async def main() -> list[Picks]:
        found: list[Picks] = []
        async with opened(what.kernel(), "stepped") as driver:
            for number in range(601):
                await execute(what, driver, search, number)
                found.append(tuple(driver.k.picks))
                driver.unwind()
        return found

    met = in_trio(main)
    assert met == [(i // 300, i % 300) for i in range(601)]
    assert not search.exhausted


# ---------------------------------------------------------------- fairness


def _spinners(k: Kernel) -> None:
    """One waits for another by yielding, and both race for a cell."""
    ready, x = Cell(k, 0, "ready"), Cell(k, 0, "x")

    async def waiter() -> None:
        while not ready.peek():
            await k.yield_()
        await x.store(1)

    async def helper() -> None:
        await x.store(2)
        await ready.store(1)

    k.spawn(waiter)
    k.spawn(helper)


def _endings(build: Build, strategy: Any, count: int, **settings: Any) -> Counter[str | None]:
    what = subject(build, **settings)

    async def main() -> Counter[str | None]:
        kinds: Counter[str | None] = Counter()
        async with opened(what.kernel(), "stepped") as driver:
            for number in range(count):
                verdict = await execute(what, driver, strategy, number)
                kinds[verdict.kind if verdict is not None else None] += 1
                driver.unwind()
                if getattr(strategy, "exhausted", False):
                    break
        return kinds

    found: Counter[str | None] = in_trio(main)
    return found


@pytest.mark.parametrize("make", [PreemptionBounding, DelayBounding])
def test_a_fair_search_of_a_loop_that_yields_ends_and_calls_it_no_livelock(
    make: Callable[[int | None], Bounding],
) -> None:
    unfair = make(None)
    assert "livelock" in _endings(_spinners, unfair, 3, max_steps=60)
    search = Fair(make(None))
    kinds = _endings(_spinners, search, 2_000, max_steps=60)
    assert kinds.keys() == {None}
    assert search.exhausted
    assert search.bounds == "fair schedules"
    assert kinds.total() > 5


class _First:
    """Always the candidate with the lowest number: as unfair as can be."""

    def begin(self, number: int) -> None:
        pass

    def pick(self, _k: Kernel, mask: int) -> int:
        return (mask & -mask).bit_length() - 1

    def choose(self, _k: Kernel, _n: int) -> int:
        return 0

    def end(self, k: Kernel) -> None:
        pass


def _waiting_for_nobody(k: Kernel) -> None:
    async def waiter() -> None:
        while True:
            await k.yield_()

    async def other() -> None:
        for _ in range(3):
            await k.yield_()

    k.spawn(waiter)
    k.spawn(waiter)
    k.spawn(other)


@pytest.mark.parametrize(
    ("build", "unfair", "fair"), [(_spinners, "livelock", None), (_waiting_for_nobody, "livelock", "livelock")]
)
def test_a_livelock_under_a_fair_schedule_is_the_programs(build: Build, unfair: str, fair: str | None) -> None:
    first: Strategy = _First()
    assert _endings(build, first, 1, max_steps=300) == {unfair: 1}
    assert _endings(build, Fair(first), 1, max_steps=300) == {fair: 1}


def test_fairness_bounds_how_often_a_loop_goes_round_before_others_run() -> None:
    what = subject(_spinners, max_steps=300)

    async def main() -> list[int]:
        async with opened(what.kernel(), "stepped") as driver:
            await execute(what, driver, Fair(_First()), 0)
            order = [t for t, _, _ in driver.k.trace]
            driver.unwind()
        return order

    # Two rounds; then the helper has to run, and the loop is free again for one round each time.
    assert in_trio(main)[:3] == [0, 0, 1]


def test_a_loop_that_never_gives_way_is_made_to_after_its_patience() -> None:
    def build(k: Kernel) -> None:
        ready = Cell(k, 0, "ready")

        async def waiter() -> None:
            while not await ready.load():
                pass

        k.spawn(waiter)
        k.spawn(ready.store, 1)

    assert _endings(build, _First(), 1, max_steps=1_000) == {"livelock": 1}
    assert _endings(build, Fair(_First(), patience=5), 1, max_steps=30) == {None: 1}
    assert _endings(build, Fair(_First()), 1, max_steps=1_000) == {None: 1}


@pytest.mark.parametrize("name", [name for name in PROGRAMS if name.startswith(("sections", "steps"))])
def test_where_nobody_gives_way_fairness_leaves_every_choice(name: str) -> None:
    build, settings = PROGRAMS[name]
    assert set(_searched(build, Fair(PreemptionBounding()), **settings)) == set(
        _prices(build, delays=False, **settings)
    )


def test_patience_is_one_step_at_least() -> None:
    with pytest.raises(UsageError, match="patience of 0 steps"):
        Fair(_First(), patience=0)


def test_a_search_that_reorders_steps_cannot_be_fair() -> None:
    class Reordering(_First):
        EVERY_STEP = True

    with pytest.raises(UsageError, match="reorders steps"):
        Fair(Reordering())
