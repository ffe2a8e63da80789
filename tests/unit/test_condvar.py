"""Condition variables: who is woken, what a waiter is told, and what NetBSD's timed wait passes on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from stressvm import CondVar, Kernel, Mutex, Timers, Wake
from tests.support import every, kinds, outcomes, run, words

if TYPE_CHECKING:
    from collections.abc import Callable

    from stressvm import Thread


class World:
    """A mutex, a condition variable, and sleepers that queue at given ticks."""

    def __init__(self, k: Kernel, *, timeout_signals: bool = True) -> None:
        self.k = k
        self.mutex = Mutex(k, "m")
        self.cv = CondVar(k, "cv", timeout_signals=timeout_signals)

    def waiter(self, name: str, *, at: int, ticks: int | None = None, sig: bool = False, priority: int = 0) -> Thread:
        async def waits() -> None:
            k = self.k
            await k.delay(at)
            await self.mutex.lock()
            if sig:
                woken = await self.cv.wait_sig(self.mutex)
            elif ticks is not None:
                woken = await self.cv.timedwait(self.mutex, ticks)
            else:
                await self.cv.wait(self.mutex)
                woken = Wake.WOKEN
            assert self.mutex.owned()
            k.record(did=woken.name)
            await self.mutex.unlock()

        return self.k.spawn(waits, name=name, priority=priority)

    def at(self, tick: int, act: Callable[[], object]) -> None:
        """At that tick, do something that may be awaited."""

        async def acts() -> None:
            await self.k.delay(tick)
            doing = act()
            if doing is not None:
                await doing  # type: ignore[misc]  # a kernel operation

        self.k.spawn(acts, name=f"at{tick}")


def test_signal_wakes_the_longest_waiter_and_nobody_else() -> None:
    def build(k: Kernel) -> None:
        world = World(k)
        world.waiter("late", at=2)
        world.waiter("early", at=1)
        world.at(5, world.cv.signal)
        world.at(6, lambda: k.record(did=world.cv.statistics().waiters))
        world.at(7, world.cv.signal)

    endings = every(build)
    assert outcomes(endings) == {("early WOKEN", "at6 ('late',)", "late WOKEN")}
    assert kinds(endings) == {None}


def test_signal_prefers_the_more_urgent() -> None:
    def build(k: Kernel) -> None:
        world = World(k)
        world.waiter("early", at=1)
        world.waiter("urgent", at=2, priority=1)
        world.waiter("also urgent", at=3, priority=1)
        for tick in (5, 6, 7):
            world.at(tick, world.cv.signal)

    assert outcomes(every(build)) == {("urgent WOKEN", "also urgent WOKEN", "early WOKEN")}


def test_broadcast_wakes_all_and_they_compete_for_the_mutex() -> None:
    def build(k: Kernel) -> None:
        world = World(k)
        world.waiter("a", at=1)
        world.waiter("b", at=2)
        world.at(5, world.cv.broadcast)

    endings = every(build)
    assert outcomes(endings) == {("a WOKEN", "b WOKEN"), ("b WOKEN", "a WOKEN")}
    assert kinds(endings) == {None}


@pytest.mark.parametrize("act", ["signal", "broadcast"])
def test_a_wakeup_without_waiters_is_not_remembered(act: str) -> None:
    def build(k: Kernel) -> None:
        world = World(k)
        world.at(1, getattr(world.cv, act))
        world.waiter("w", at=2)

    assert kinds(every(build)) == {"stranded"}


def test_nothing_is_lost_between_the_release_of_the_mutex_and_the_sleep() -> None:
    def build(k: Kernel) -> None:
        world = World(k)
        ready: list[int] = []

        async def waits() -> None:
            await world.mutex.lock()
            while not ready:
                await world.cv.wait(world.mutex, until=lambda: bool(ready))
            await world.mutex.unlock()

        async def gives() -> None:
            await world.mutex.lock()
            ready.append(1)
            await world.mutex.unlock()
            await world.cv.signal()

        k.spawn(waits)
        k.spawn(gives)

    assert kinds(every(build)) == {None}


def test_a_woken_waiter_may_find_that_a_newcomer_was_faster() -> None:
    def build(k: Kernel) -> None:
        world = World(k)
        items: list[int] = []

        async def waits() -> None:
            await world.mutex.lock()
            await world.cv.wait(world.mutex)
            k.record(did="took" if items else "too late")
            items.clear()
            await world.mutex.unlock()

        async def gives() -> None:
            await k.delay(5)
            await world.mutex.lock()
            k.spawn(newcomer, name="n")
            items.append(1)
            await world.cv.signal()
            await world.mutex.unlock()

        async def newcomer() -> None:
            await world.mutex.lock()
            k.record(did="took" if items else "too late")
            items.clear()
            await world.mutex.unlock()

        k.spawn(waits, name="w")
        k.spawn(gives)

    assert outcomes(every(build)) == {("w took", "n too late"), ("n took", "w too late")}


def test_a_timed_wait_ends_with_timeout_at_its_deadline_with_the_mutex_held() -> None:
    def build(k: Kernel) -> None:
        world = World(k)
        world.waiter("w", at=3, ticks=4)
        world.at(6, lambda: k.record(did=k.now))
        world.at(8, lambda: k.record(did=k.now))

    assert outcomes(every(build)) == {("at6 6", "w TIMEOUT", "at8 8")}


def test_a_timed_wait_that_is_signalled_in_time_is_woken() -> None:
    def build(k: Kernel) -> None:
        world = World(k)
        world.waiter("w", at=1, ticks=10)
        world.at(5, world.cv.signal)

    assert outcomes(every(build)) == {("w WOKEN",)}


def test_a_timed_wait_of_zero_ticks_has_no_limit() -> None:
    def build(k: Kernel) -> None:
        world = World(k)
        world.waiter("w", at=1, ticks=0)

    assert kinds(every(build)) == {"stranded"}


def test_netbsd_a_timed_out_waiter_passes_one_signal_on() -> None:
    def build(k: Kernel) -> None:
        world = World(k)
        world.waiter("timed", at=1, ticks=3)
        world.waiter("patient", at=2)
        world.waiter("more patient", at=3)
        world.at(9, lambda: k.record(did=world.cv.statistics().waiters))
        world.at(10, world.cv.signal)

    endings = every(build)
    # Woken for nothing, and one of them only; in either order, as both want the mutex.
    assert outcomes(endings) == {("timed TIMEOUT", "patient WOKEN", "at9 ('more patient',)", "more patient WOKEN")}
    assert kinds(endings) == {None}


def test_freebsd_a_timed_out_waiter_keeps_it_to_itself() -> None:
    def build(k: Kernel) -> None:
        world = World(k, timeout_signals=False)
        world.waiter("timed", at=1, ticks=3)
        world.waiter("patient", at=2)

    endings = every(build)
    assert outcomes(endings) == {("timed TIMEOUT",)}
    assert kinds(endings) == {"stranded"}


def test_with_timers_at_any_time_a_wait_may_time_out_although_it_is_signalled() -> None:
    def build(k: Kernel) -> None:
        world = World(k, timeout_signals=False)
        world.waiter("w", at=0, ticks=5)
        k.spawn(world.cv.signal)

    assert outcomes(every(build, timers=Timers.ANYTIME)) == {("w WOKEN",), ("w TIMEOUT",)}


def test_a_posted_signal_ends_an_interruptible_wait_and_no_other() -> None:
    def build(k: Kernel) -> None:
        world = World(k)
        catching = world.waiter("catching", at=1, sig=True)
        deaf = world.waiter("deaf", at=1)
        world.at(5, lambda: k.psignal(catching))
        world.at(5, lambda: k.psignal(deaf))

    endings = every(build)
    assert outcomes(endings) == {("catching SIGNAL",)}
    assert kinds(endings) == {"stranded"}


def test_a_signal_posted_before_the_wait_ends_it_at_once_with_the_mutex_held_throughout() -> None:
    def build(k: Kernel) -> None:
        world = World(k)

        async def waits() -> None:
            await world.mutex.lock()
            k.psignal(me)
            k.record(did=(await world.cv.wait_sig(world.mutex)).name)
            assert world.mutex.owned()
            await world.mutex.unlock()

        me = k.spawn(waits, name="w")

    recording = run(build)
    assert words(recording) == ("w SIGNAL",)
    assert [step.kind for step in recording.records if step.obj == "m"] == ["lock", "unlock"]


def test_a_pending_signal_is_used_up_by_the_wait_that_it_ends() -> None:
    def build(k: Kernel) -> None:
        world = World(k)

        async def waits() -> None:
            await world.mutex.lock()
            k.psignal(me)
            k.record(did=(await world.cv.wait_sig(world.mutex)).name)
            k.record(did=(await world.cv.wait_sig(world.mutex)).name)
            await world.mutex.unlock()

        me = k.spawn(waits, name="w")
        world.at(5, world.cv.signal)

    assert outcomes(every(build)) == {("w SIGNAL", "w WOKEN")}


@pytest.mark.parametrize("urgent_first", [False, True])
def test_waiting_with_another_mutex_than_the_other_waiters_panics_in_every_interleaving(urgent_first: bool) -> None:  # noqa: FBT001 - a table's column
    def build(k: Kernel) -> None:
        world = World(k)
        other = Mutex(k, "other")
        mutexes = [world.mutex, other]

        async def waits(mutex: Mutex) -> None:
            await mutex.lock()
            await world.cv.wait(mutex)
            await mutex.unlock()

        for mutex in reversed(mutexes) if urgent_first else mutexes:
            k.spawn(waits, mutex)

    endings = every(build)
    assert kinds(endings) == {"panic"}
    assert {"m" in ending.text and "other" in ending.text and "cv" in ending.text for ending in endings} == {True}


def test_one_after_the_other_may_use_different_mutexes() -> None:
    def build(k: Kernel) -> None:
        world = World(k)
        other = Mutex(k, "other")

        async def waits(mutex: Mutex, at: int) -> None:
            await k.delay(at)
            await mutex.lock()
            await world.cv.wait(mutex)
            await mutex.unlock()

        k.spawn(waits, world.mutex, 1)
        world.at(2, world.cv.signal)
        k.spawn(waits, other, 3)
        world.at(4, world.cv.signal)

    assert kinds(every(build)) == {None}


def test_has_waiters_says_whether_anybody_sleeps() -> None:
    def build(k: Kernel) -> None:
        world = World(k)
        world.waiter("w", at=2)
        world.at(1, lambda: k.record(did=world.cv.has_waiters()))
        world.at(3, lambda: k.record(did=world.cv.has_waiters()))
        world.at(4, world.cv.broadcast)
        world.at(5, lambda: k.record(did=world.cv.has_waiters()))

    assert outcomes(every(build)) == {("at1 False", "at3 True", "w WOKEN", "at5 False")}


def test_a_timer_without_progress_fires_twice_and_no_more() -> None:
    def build(k: Kernel) -> None:
        world = World(k)

        async def waits() -> None:
            await world.mutex.lock()
            while True:
                await world.cv.timedwait(world.mutex, 100, until=lambda: False)

        k.spawn(waits, name="w")

    recording = run(build)
    assert [step.tick for step in recording.records if step.kind == "timeout"] == [100, 200]
    assert recording.verdict is not None
    assert recording.verdict.kind == "exhausted"


def test_progress_lets_timers_fire_anew() -> None:
    def build(k: Kernel) -> None:
        world = World(k)

        async def waits() -> None:
            await world.mutex.lock()
            for _ in range(5):
                await world.cv.timedwait(world.mutex, 100)
                k.progress()
            await world.mutex.unlock()

        k.spawn(waits, name="w")

    recording = run(build)
    assert recording.verdict is None
    assert [step.tick for step in recording.records if step.kind == "timeout"] == [100, 200, 300, 400, 500]
