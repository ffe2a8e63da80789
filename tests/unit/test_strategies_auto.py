"""The portfolio: shares, the search's stretches, and what each execution depends on."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from stressvm import Atomic, Cell, Kernel, Mutex
from stressvm.explore.auto import (
    DOUBT,
    EARLY,
    FEW_RACES,
    FIRST_SAMPLES,
    LATE,
    LATE_AFTER,
    MIX,
    SMALL,
    STRETCH_MIN,
    Auto,
    share,
)
from stressvm.explore.execution import execute
from stressvm.explore.hunt import Settings, hunt_subject
from stressvm.explore.pos import POS
from stressvm.explore.surw import SURW, RoleSURW
from stressvm.explore.urw import URW
from tests.support import in_trio, opened, subject

if TYPE_CHECKING:
    from collections.abc import Iterable

    from stressvm.explore.result import Result
    from tests.support import Build

Picks = tuple[int, ...]


def _stores(threads: int, steps: int) -> Build:
    def build(k: Kernel) -> None:
        x = Atomic(k, 0, "x")
        m = Mutex(k, "m")

        async def work() -> None:
            await m.lock()
            await m.unlock()
            for _ in range(steps):
                await x.store(1)

        for _ in range(threads):
            k.spawn(work)

    return build


def _picks(build: Build, strategy: Any, numbers: Iterable[int]) -> list[Picks]:
    """What those executions chose."""
    what = subject(build)

    async def main() -> list[Picks]:
        found = []
        async with opened(what.kernel(), "stepped") as driver:
            for number in numbers:
                await execute(what, driver, strategy, number)
                found.append(tuple(driver.k.picks))
                driver.unwind()
        return found

    found: list[Picks] = in_trio(main)
    return found


def test_each_sampler_runs_as_often_as_its_share() -> None:
    auto = Auto(1)
    _picks(_stores(3, 3), auto, [0])
    names = []
    for number in range(1, 1 + 10 * len(MIX)):
        auto.begin(number)
        names.append(auto.name)
    assert Counter(names) == {name: 10 * MIX.count(name) for name in MIX}
    assert set(names) == set(auto.samplers)


def test_what_it_does_is_what_the_sampler_alone_would_do_with_the_same_pilot() -> None:
    alone: dict[str, Any] = {"pos": POS(1), "urw": URW(1), "surw": SURW(1), "roles": RoleSURW(1)}
    auto = Auto(1)
    build = _stores(3, 3)
    _picks(build, auto, [0])
    taught = auto.samplers["urw"]
    assert isinstance(taught, URW)
    assert taught.profile is not None
    for name, sampler in alone.items():
        if name != "pos":
            sampler.learn(taught.profile)
        shares = {number: own for number in range(1, 60) for by, own in [share(number)] if by == name}
        assert _picks(build, sampler, shares.values()) == _picks(build, auto, shares)
        assert list(shares.values()) == list(range(min(shares.values()), max(shares.values()) + 1))


def _hunt(build: Build, strategy: str, executions: int = 10_000) -> Result:
    what = subject(build)
    result: Result = in_trio(lambda: hunt_subject(what, Settings(executions=executions, strategy=strategy)))
    return result


def test_a_small_space_is_searched_to_its_end() -> None:
    build = _stores(2, 1)
    space = _hunt(build, "dpor")
    assert space.exhausted
    met = _hunt(build, "auto")
    assert met.exhausted
    assert met.bounds == ""
    assert met.status == "exhausted"
    # The pilot is the search's first execution, which need not be done again.
    assert met.executions == met.seen.distinct == space.executions


def test_a_space_with_more_races_is_sampled_first_and_then_searched_to_its_end() -> None:
    build = _stores(2, 3)
    space = _hunt(build, "dpor")
    auto = Auto(1)
    _picks(build, auto, [0])
    auto.plan(FEW_RACES + 1)
    assert (auto.early, auto.first) == (0, 1 + FIRST_SAMPLES)
    met = _hunt(build, "auto")
    assert met.exhausted
    assert FIRST_SAMPLES < met.executions < FIRST_SAMPLES + space.executions + EARLY


def test_where_a_search_cannot_be_relied_on_the_samplers_go_on() -> None:
    def build(k: Kernel) -> None:
        one, other = Cell(k, 0, "one"), Cell(k, 0, "other")
        shared = [0]

        async def work(mine: Cell[int]) -> None:
            await mine.store(1)
            shared[0] += 1
            await mine.store(shared[0])

        k.spawn(work, one)
        k.spawn(work, other)

    searched = _hunt(build, "dpor")
    assert searched.status == "error"
    assert "no kernel object" in searched.error
    sampled = _hunt(build, "auto", 100)
    assert (sampled.status, sampled.executions, sampled.exhausted) == ("clean", 100, False)


def test_a_loop_that_a_search_goes_round_for_ever_is_no_livelock() -> None:
    def build(k: Kernel) -> None:
        flag = Atomic(k, 0, "flag")

        async def waits() -> None:
            while not await flag.load():
                await k.yield_()

        async def sets() -> None:
            await flag.store(1)

        k.spawn(waits)
        k.spawn(sets)

    searched = _hunt(build, "dpor", 50)
    assert searched.status == "clean"
    assert not searched.exhausted
    sampled = _hunt(build, "auto", 100)
    assert (sampled.status, sampled.executions) == ("clean", 100)


def test_a_space_that_looks_large_is_sampled_but_for_one_stretch() -> None:
    auto = Auto(1)
    _picks(_stores(6, 6), auto, [0])
    assert auto.size > SMALL
    auto.plan(FEW_RACES + 1)
    turns = {number: turn for number in range(10_000) if (turn := auto.turn(number)) >= 0}
    assert list(turns.values()) == list(range(LATE))
    assert list(turns) == list(range(1 + LATE_AFTER, 1 + LATE_AFTER + LATE))


def test_few_classes_are_all_seen_however_large_the_tree_looks() -> None:
    def build(k: Kernel) -> None:
        m = Mutex(k, "m")
        own = [Cell(k, 0, f"own{t}") for t in range(4)]

        async def work(mine: Cell[int]) -> None:
            for _ in range(6):
                await mine.store(1)
            await m.lock()
            await m.unlock()

        for cell in own:
            k.spawn(work, cell)

    auto = Auto(1)
    _picks(build, auto, [0])
    assert auto.size > 1_000_000
    met = _hunt(build, "auto", 1_000)
    assert met.exhausted
    assert met.seen.distinct == 24


def test_with_few_races_the_first_numbers_are_the_searchs_and_its_stretches_go_on_from_there() -> None:
    auto = Auto(1)
    _picks(_stores(2, 4), auto, [0])
    auto.plan(FEW_RACES)
    assert auto.turn(0) == -1
    assert [auto.turn(number) for number in range(1, 1 + EARLY)] == list(range(EARLY))
    assert {auto.turn(number) for number in range(1 + EARLY, auto.first)} == {-1}
    assert auto.first == 1 + EARLY + FIRST_SAMPLES
    assert auto.turn(auto.first) == EARLY
    later = [turn for number in range(auto.first, auto.first + 14 * auto.stretch) if (turn := auto.turn(number)) >= 0]
    assert later == list(range(EARLY, EARLY + 7 * auto.stretch))


def test_the_search_has_its_stretches_in_order_and_samples_as_many_numbers() -> None:
    auto = Auto(1)
    _picks(_stores(2, 4), auto, [0])
    assert FIRST_SAMPLES < auto.size <= SMALL
    assert auto.first == 1 + FIRST_SAMPLES
    assert auto.stretch == max(STRETCH_MIN, DOUBT * -(-auto.size // 1))
    turns = [auto.turn(number) for number in range(auto.first, auto.first + 14 * auto.stretch)]
    length = auto.stretch
    # As long as a stretch, then as many samples; then both twice as long; and so on.
    expected: list[int] = []
    for doubling in (1, 2, 4):
        start = length * (doubling - 1)
        expected += range(start, start + doubling * length)
        expected += [-1] * (doubling * length)
    assert turns == expected
