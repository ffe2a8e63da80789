"""Wakeups that achieve nothing: who went back to sleep without having done anything."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from stressvm import Atomic, Cell, CondVar, Kernel, Mutex, SleepQueue, bounds
from stressvm.check.bounds import Bounds
from stressvm.check.wakeups import Herds, channels
from tests.support import run
from tests.verdicts import looked, told

if TYPE_CHECKING:
    from collections.abc import Callable


def _takers(wake_all: bool, takers: int = 3) -> Callable[[Kernel], None]:  # noqa: FBT001 - what the tests are about
    """Several wait for units that come one by one."""

    def build(k: Kernel) -> None:
        mutex, cv = Mutex(k, "m"), CondVar(k, "cv")
        units = Cell(k, 0, "units")

        async def takes() -> None:
            await mutex.lock()
            while not units.peek():
                await cv.wait(mutex)
            units.poke(units.peek() - 1)
            await mutex.unlock()

        async def gives() -> None:
            await k.delay(5)
            for _ in range(takers):
                await mutex.lock()
                units.poke(units.peek() + 1)
                await (cv.broadcast() if wake_all else cv.signal())
                await mutex.unlock()
                await k.delay(5)

        for number in range(takers):
            k.spawn(takes, name=f"taker{number}")
        k.spawn(gives, name="gives")

    return build


def test_all_are_woken_for_one_unit() -> None:
    verdicts = looked(_takers(wake_all=True), Herds(Bounds(herd=1)), limit=300)
    assert any("gives woke 2 threads on cv for nothing" in text and "the bound is 1" in text for text in told(verdicts))
    assert len({verdict.fingerprint for verdict in verdicts}) == 1


@pytest.mark.parametrize(("wake_all", "bound"), [(False, 0), (True, 2), (True, None)])
def test_one_at_a_time_or_a_bound_that_is_kept_is_no_herd(wake_all: bool, bound: int | None) -> None:  # noqa: FBT001
    assert not looked(_takers(wake_all), Herds(Bounds(herd=bound)), limit=300)


def test_the_world_gives_the_bound_and_the_hunt_finds_it() -> None:
    def build(k: Kernel) -> None:
        bounds(k, herd=1)
        _takers(wake_all=True)(k)

    assert looked(build, Herds(), limit=30)


def test_what_came_of_each_channel_is_in_the_recording() -> None:
    post = run(_takers(wake_all=True)).post_mortem
    assert post is not None
    (cv,) = post.channels
    # Three fall asleep; the first wakeup sends two back, the second one.
    assert (cv.name, cv.sleeps, cv.wakeups, cv.nobody, cv.woken, cv.idle, cv.herd) == ("cv", 6, 3, 0, 6, 3, 2)


@pytest.mark.parametrize("does", ["cell", "atomic", "record", "wakes", "nothing"])
def test_whoever_does_something_between_two_sleeps_was_not_woken_for_nothing(does: str) -> None:
    idle: list[int] = []

    def build(k: Kernel) -> None:
        mutex, queue, other = Mutex(k, "m"), SleepQueue(k, "queue"), SleepQueue(k, "other")
        cell, atomic = Cell(k, 0, "cell"), Atomic(k, 0, "atomic")

        async def works() -> None:
            await mutex.lock()
            for _ in range(2):
                await queue.sleep(mutex, "work")
                if does == "cell":
                    cell.poke(1)
                elif does == "atomic":
                    await atomic.fetchadd(1)
                elif does == "record":
                    k.record(done=1)
                elif does == "wakes":
                    await other.wakeup()
            await mutex.unlock()

        async def asks() -> None:
            for _ in range(2):
                await k.delay(3)
                await mutex.lock()
                await queue.wakeup()
                await mutex.unlock()
            await k.delay(3)
            idle.extend(channel.idle for channel in channels(k) if channel.name == "queue")

        k.spawn(works)
        k.spawn(asks)

    run(build)
    assert idle == [1 if does == "nothing" else 0]
