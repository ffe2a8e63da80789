"""Starvation: who was overtaken and how often, in locks of every promise, on channels and in declared lines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from stressvm import (
    Atomic,
    CondVar,
    Fifo,
    Kernel,
    Line,
    Mutex,
    NetBSDRwLock,
    Rw,
    RwLock,
    UsageError,
    bounds,
)
from stressvm.check.bounds import Bounds
from stressvm.check.fairness import fair_until, unrun
from stressvm.check.starvation import Starvation, overtaken
from stressvm.explore.fair import Fair
from stressvm.explore.tape import Lenient
from tests.support import in_trio, opened, run, subject
from tests.verdicts import looked, told

if TYPE_CHECKING:
    from collections.abc import Callable

    from stressvm.kernel.strategy import Strategy

PROMISED = Starvation(Bounds(overtakes=0))


def _sections(make: Callable[[Kernel], Any], visits: int) -> Callable[[Kernel], None]:
    """One thread wants a mutex once, and two come again and again."""

    def build(k: Kernel) -> None:
        mutex = make(k)

        async def comes(times: int) -> None:
            for _ in range(times):
                await mutex.lock()
                await mutex.unlock()

        k.spawn(comes, visits, name="a")
        k.spawn(comes, visits, name="b")
        k.spawn(comes, 1, name="once")

    return build


def test_a_mutex_that_promises_nothing_lets_a_waiter_be_overtaken() -> None:
    texts = told(looked(_sections(lambda k: Mutex(k, "m"), 2), PROMISED))
    assert any("once waited for m" in text for text in texts)
    # Each of the others has two turns, and for its first it was there as early.
    assert any("overtaken 2 times by threads that came later" in text for text in texts)
    assert not any("overtaken 3 times" in text for text in texts)


def test_a_mutex_that_is_handed_over_in_order_of_arrival_lets_nobody_be_overtaken() -> None:
    assert not told(looked(_sections(lambda k: Mutex(k, "m", Fifo()), 2), PROMISED))


def test_only_what_is_beyond_the_bound_is_told() -> None:
    build = _sections(lambda k: Mutex(k, "m"), 2)
    assert told(looked(build, Starvation(Bounds(overtakes=1))))
    assert not told(looked(build, Starvation(Bounds(overtakes=2))))
    assert not told(looked(build, Starvation()))


def test_the_world_gives_the_bound() -> None:
    def build(k: Kernel) -> None:
        bounds(k, overtakes=1)
        _sections(lambda k: Mutex(k, "m"), 2)(k)

    verdicts = looked(build, Starvation(Bounds(overtakes=3)))
    assert {verdict.kind for verdict in verdicts} == {"starvation"}
    assert all("the bound is 1" in verdict.text for verdict in verdicts)
    assert len({verdict.fingerprint for verdict in verdicts}) == 1


def test_a_bound_below_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="overtakes=-1"):
        Bounds(overtakes=-1)
    with pytest.raises(UsageError, match="counts from 0"):
        run(lambda k: Line(k, "line", overtakes=-1))  # type: ignore[arg-type]


def _readers(make: Callable[[Kernel], RwLock]) -> Callable[[Kernel], None]:
    """A writer comes while two readers relay the lock to each other."""

    def build(k: Kernel) -> None:
        lock = make(k)

        async def reads() -> None:
            for _ in range(2):
                await lock.enter(Rw.READER)
                await lock.exit()

        async def writes() -> None:
            await lock.enter(Rw.WRITER)
            await lock.exit()

        k.spawn(reads, name="r1")
        k.spawn(reads, name="r2")
        k.spawn(writes, name="writer")

    return build


def test_readers_pass_a_writer_unless_the_lock_keeps_them_out() -> None:
    weak = told(looked(_readers(lambda k: RwLock(k, "rw")), PROMISED))
    assert any("writer waited for rw" in text and "overtaken 2 times" in text for text in weak)
    # Readers do not keep each other out.
    assert not any(
        "overtaken" in text and " waited" in text and "r1 waited for rw" in text and "r2" in text.split("(")[1]
        for text in weak
    )
    assert not told(looked(_readers(lambda k: NetBSDRwLock(k, "rw")), PROMISED))


def test_who_sleeps_later_and_is_served_earlier_has_overtaken() -> None:
    def build(k: Kernel) -> None:
        mutex, cv = Mutex(k, "m"), CondVar(k, "cv")
        room = Atomic(k, 0, "room")

        async def takes(at: int) -> None:
            await k.delay(at)
            await mutex.lock()
            while not room.peek():
                await cv.wait(mutex, until=lambda: room.value > 0)
            room.poke(room.peek() - 1)
            await mutex.unlock()

        async def gives() -> None:
            await k.delay(9)
            for _ in range(2):
                await mutex.lock()
                room.poke(room.peek() + 1)
                await cv.broadcast()
                await mutex.unlock()
                await k.delay(9)

        k.spawn(takes, 1, name="first")
        k.spawn(takes, 2, name="second")
        k.spawn(gives)

    texts = [text for text in told(looked(build, PROMISED)) if " cv " in text]
    assert texts
    assert all("first waited for cv" in text and "(second)" in text for text in texts)


# ---------------------------------------------------------------- declared lines


class _Taken:
    """A lock that is a word and a line; whoever spins has no right to be next."""

    def __init__(self, k: Kernel, overtakes: int | None) -> None:
        self.k = k
        self.word = Atomic(k, 0, "word")
        self.line = Line(k, "the word", overtakes)

    async def lock(self) -> None:
        while not await self.word.cas(0, 1):
            self.line.wait()
            await self.k.yield_()
        self.line.got()

    async def unlock(self) -> None:
        await self.word.store(0)


@pytest.mark.parametrize(("overtakes", "found"), [(0, True), (1, True), (2, False), (None, False)])
def test_a_line_counts_and_ends_the_execution_beyond_its_bound(overtakes: int | None, found: bool) -> None:  # noqa: FBT001
    def build(k: Kernel) -> None:
        lock = _Taken(k, overtakes)

        async def comes(times: int) -> None:
            for _ in range(times):
                await lock.lock()
                await lock.unlock()

        k.spawn(comes, 3, name="busy")
        k.spawn(comes, 1, name="once")

    verdicts = looked(build, None, max_steps=40, seeds=400)
    starved = [verdict for verdict in verdicts if verdict.kind == "starvation"]
    assert bool(starved) is found
    for verdict in starved:
        assert f"once waits for the word, and has been overtaken {(overtakes or 0) + 1} times" in verdict.text
    assert len({verdict.fingerprint for verdict in starved}) == found


def test_who_leaves_a_line_waits_no_longer() -> None:
    seen: list[dict[int, int]] = []

    def build(k: Kernel) -> None:
        line = Line(k, "line")

        async def gives_up() -> None:
            line.wait()
            await k.yield_()
            seen.append(dict(line.overtaken))
            line.leave()
            await k.yield_()
            seen.append(dict(line.overtaken))

        async def gets() -> None:
            line.got(times=3)
            await k.yield_()
            line.got()

        k.spawn(gives_up)
        k.spawn(gets)

    run(build, (0, 0, 0, 0))
    assert seen[0] == {0: 3}
    assert seen[1] == {}


# ---------------------------------------------------------------- able, and not run


def _ends(build: Callable[[Kernel], None], strategy: Strategy, see: Callable[[Kernel], Any], **settings: Any) -> Any:
    what = subject(build, **settings)

    async def main() -> Any:
        async with opened(what.kernel(), "stepped") as driver:
            strategy.begin(0)
            driver.k.reset(strategy)
            what.scenario.build(driver.k)
            driver.k.start()
            await driver.run()
            found = see(driver.k)
            driver.unwind()
        return found

    return in_trio(main)


def _yielders(k: Kernel) -> None:
    """One goes round by yielding; the other needs a single turn."""

    async def yields() -> None:
        for _ in range(10):
            await k.yield_()

    async def waits() -> None:
        await k.yield_()

    k.spawn(yields)
    k.spawn(waits)


def test_a_schedule_that_lets_a_yielding_thread_go_on_is_unfair() -> None:
    unfair = Lenient([0] * 40)
    assert _ends(_yielders, unfair, fair_until) < 4
    assert _ends(_yielders, Fair(Lenient([0] * 40)), lambda k: fair_until(k) - len(k.trace)) == 0


def test_steps_are_counted_as_far_as_the_schedule_is_fair() -> None:
    most = _ends(_yielders, Lenient([0] * 40), lambda k: max(one.steps for one in unrun(k) if one.thread == 1))
    assert most <= 3

    def selfish(k: Kernel) -> None:
        cell = Atomic(k, 0, "cell")

        async def goes_on() -> None:
            for _ in range(30):
                await cell.load()

        k.spawn(goes_on)
        k.spawn(cell.load)

    def worst(k: Kernel) -> int:
        return max(one.steps for one in unrun(k) if one.thread == 1)

    assert _ends(selfish, Lenient([0] * 40), worst) == 30
    texts = told(looked(selfish, Starvation(Bounds(unrun=29))))
    assert any("load1 could run in 30 steps" in text and "about to load cell" in text for text in texts)
    assert not told(looked(selfish, Starvation(Bounds(unrun=30))))


def test_the_same_execution_gives_the_same_answer_twice() -> None:
    build = _sections(lambda k: Mutex(k, "m"), 2)
    numbers = [1, 0, 2, 1, 1, 0, 2, 1, 0, 1, 2, 0, 1, 1]
    answers = [_ends(build, Lenient(numbers), overtaken) for _ in range(2)]
    assert answers[0] == answers[1] != []
