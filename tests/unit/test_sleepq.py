"""Sleep queues: channels, order of waking, timeouts, signals, interlocks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from stressvm import Kernel, Mutex, SleepQueue, SpinMutex, Timers, UsageError, Wake
from tests.support import every, kinds, outcomes, run, words

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from stressvm import Thread


class World:
    """A mutex, a channel, and sleepers that come at given ticks."""

    def __init__(self, k: Kernel, mutex: Mutex | None = None) -> None:
        self.k = k
        self.mutex = mutex if mutex is not None else Mutex(k, "m")
        self.channel = SleepQueue(k, "channel")

    def sleeper(self, name: str, *, at: int = 0, priority: int = 0, **how: Any) -> Thread:
        async def sleeps() -> None:
            k = self.k
            await k.delay(at)
            await self.mutex.lock()
            woken = await self.channel.sleep(self.mutex, "wmesg", **how)
            k.record(did=woken.name)
            assert self.mutex.owned() == (not how.get("pdrop", False))
            if self.mutex.owned():
                await self.mutex.unlock()

        return self.k.spawn(sleeps, name=name, priority=priority)

    def at(self, tick: int, act: Callable[[], object]) -> None:
        """At that tick, do something that may be awaited."""

        async def acts() -> None:
            await self.k.delay(tick)
            doing = act()
            if doing is not None:
                await doing  # type: ignore[misc]  # a kernel operation

        self.k.spawn(acts, name=f"at{tick}")


def test_wakeup_one_goes_by_priority_then_by_arrival() -> None:
    def build(k: Kernel) -> None:
        world = World(k)
        for at, (name, priority) in enumerate((("a", 0), ("b", 1), ("c", 0), ("d", 2), ("e", 1)), start=1):
            world.sleeper(name, at=at, priority=priority)
        world.at(9, lambda: k.record(did=world.channel.statistics().waiters))
        for tick in range(10, 15):
            world.at(tick, world.channel.wakeup_one)

    assert words(run(build)) == (
        "at9 ('d', 'b', 'e', 'a', 'c')",
        "d WOKEN",
        "b WOKEN",
        "e WOKEN",
        "a WOKEN",
        "c WOKEN",
    )


def test_wakeup_wakes_all_sleepers_of_the_channel_and_of_no_other() -> None:
    def build(k: Kernel) -> None:
        world = World(k)
        other = SleepQueue(k, "other")
        world.sleeper("a", at=1)
        world.sleeper("b", at=1)

        async def elsewhere() -> None:
            await world.mutex.lock()
            await other.sleep(world.mutex, "elsewhere")

        k.spawn(elsewhere, name="e")
        world.at(5, world.channel.wakeup)

    endings = every(build)
    assert outcomes(endings) == {("a WOKEN", "b WOKEN"), ("b WOKEN", "a WOKEN")}
    assert kinds(endings) == {"stranded"}
    assert {"e sleeps on other (elsewhere)" in ending.text for ending in endings} == {True}


@pytest.mark.parametrize("call", ["wakeup", "wakeup_one"])
def test_a_wakeup_without_sleepers_is_not_remembered(call: str) -> None:
    def build(k: Kernel) -> None:
        world = World(k)
        world.at(1, getattr(world.channel, call))
        world.sleeper("s", at=2)

    assert kinds(every(build)) == {"stranded"}


def test_a_wakeup_after_the_condition_changed_under_the_interlock_is_never_missed() -> None:
    def build(k: Kernel) -> None:
        world = World(k)
        ready: list[int] = []

        async def sleeps() -> None:
            await world.mutex.lock()
            while not ready:
                await world.channel.sleep(world.mutex, "ready", until=lambda: bool(ready))
            await world.mutex.unlock()

        async def gives() -> None:
            await world.mutex.lock()
            ready.append(1)
            await world.mutex.unlock()
            await world.channel.wakeup()

        k.spawn(sleeps)
        k.spawn(gives)

    assert kinds(every(build)) == {None}


def test_a_wakeup_before_the_condition_changes_can_be_lost_and_is_called_so() -> None:
    def build(k: Kernel) -> None:
        world = World(k)
        ready: list[int] = []

        async def sleeps() -> None:
            await world.mutex.lock()
            while not ready:
                await world.channel.sleep(world.mutex, "ready", until=lambda: bool(ready))
            await world.mutex.unlock()

        async def gives() -> None:
            await world.channel.wakeup()
            await world.mutex.lock()
            ready.append(1)
            await world.mutex.unlock()

        k.spawn(sleeps)
        k.spawn(gives)

    assert kinds(every(build)) == {None, "lost-wakeup"}


def test_a_sleep_times_out_at_its_deadline_and_not_before() -> None:
    def build(k: Kernel) -> None:
        world = World(k)
        world.sleeper("s", at=2, timo=5)
        world.at(6, lambda: k.record(did=k.now))
        world.at(8, lambda: k.record(did=k.now))

    assert outcomes(every(build)) == {("at6 6", "s TIMEOUT", "at8 8")}


def test_a_wakeup_in_time_wins_and_takes_the_timer_with_it() -> None:
    def build(k: Kernel) -> None:
        world = World(k)
        world.sleeper("s", timo=5)
        world.at(4, world.channel.wakeup_one)
        world.at(9, lambda: k.record(did="later"))

    endings = every(build)
    assert outcomes(endings) == {("s WOKEN", "at9 later")}
    assert not [step for ending in endings for step in ending.steps if step[1] == "timeout"]


def test_when_wakeup_and_timeout_fall_on_the_same_tick_either_may_win() -> None:
    def build(k: Kernel) -> None:
        world = World(k)
        world.sleeper("s", timo=5)
        world.at(5, world.channel.wakeup)

    assert outcomes(every(build)) == {("s WOKEN",), ("s TIMEOUT",)}


def test_with_timers_never_a_timed_sleep_does_not_end() -> None:
    def build(k: Kernel) -> None:
        world = World(k)
        world.sleeper("s", timo=5)

    assert kinds(every(build, timers=Timers.NEVER)) == {"stranded"}


def test_a_signal_ends_a_sleep_with_pcatch_only() -> None:
    def build(k: Kernel) -> None:
        world = World(k)
        catching = world.sleeper("catching", pcatch=True)
        deaf = world.sleeper("deaf")
        world.at(3, lambda: k.psignal(catching))
        world.at(4, lambda: k.psignal(deaf))
        world.at(5, lambda: k.record(did=world.channel.statistics().waiters))
        world.at(6, world.channel.wakeup)

    assert outcomes(every(build)) == {("catching SIGNAL", "at5 ('deaf',)", "deaf WOKEN")}


def test_a_signal_posted_before_a_sleep_with_pcatch_prevents_it() -> None:
    def build(k: Kernel) -> None:
        world = World(k)
        sleeper = world.sleeper("s", at=5, pcatch=True)
        world.at(1, lambda: k.psignal(sleeper))

    endings = every(build)
    assert outcomes(endings) == {("s SIGNAL",)}
    assert kinds(endings) == {None}


def test_a_signal_reaches_the_sleeper_wherever_it_stands_on_its_way_to_sleep() -> None:
    def build(k: Kernel) -> None:
        world = World(k)
        sleeper = world.sleeper("s", pcatch=True)

        async def posts() -> None:
            await k.yield_()
            k.psignal(sleeper)

        k.spawn(posts)

    endings = every(build)
    assert outcomes(endings) == {("s SIGNAL",)}
    assert kinds(endings) == {None}


def test_pdrop_leaves_the_interlock_alone_however_the_sleep_ends() -> None:
    def build(k: Kernel) -> None:
        world = World(k)
        world.sleeper("woken", pdrop=True)
        world.at(3, world.channel.wakeup)
        world.sleeper("timed", at=4, pdrop=True, timo=2)
        caught = world.sleeper("caught", at=10, pdrop=True, pcatch=True)
        world.at(11, lambda: k.psignal(caught))
        early = world.sleeper("early", at=20, pdrop=True, pcatch=True)
        world.at(15, lambda: k.psignal(early))

    endings = every(build)
    assert outcomes(endings) == {("woken WOKEN", "timed TIMEOUT", "caught SIGNAL", "early SIGNAL")}
    assert kinds(endings) == {None}


def test_a_sleep_without_interlock_works_with_a_timeout_and_panics_without() -> None:
    def build(timo: int) -> Callable[[Kernel], None]:
        def world(k: Kernel) -> None:
            channel = SleepQueue(k, "channel")

            async def sleeps() -> None:
                k.record(did=(await channel.sleep(None, "pause", timo=timo)).name)

            k.spawn(sleeps, name="s")

        return world

    assert words(run(build(3))) == ("s TIMEOUT",)
    verdict = run(build(0)).verdict
    assert verdict is not None
    assert verdict.kind == "panic"


def test_a_spin_mutex_may_be_the_interlock_and_is_held_as_one_again() -> None:
    def build(k: Kernel) -> None:
        world = World(k, SpinMutex(k, "spin"))
        world.sleeper("s")
        world.at(2, world.channel.wakeup)

        async def after() -> None:
            await k.delay(3)
            await world.mutex.lock()
            await k.delay(1)

        k.spawn(after, name="after")

    endings = every(build)
    assert outcomes(endings) == {("s WOKEN",)}
    # The sleeper gave the spin mutex up; the other thread did not.
    assert kinds(endings) == {"sleep-rule"}


def test_until_is_asked_when_it_times_out_and_the_answer_is_in_the_trace() -> None:
    def build(k: Kernel) -> None:
        world = World(k)
        world.sleeper("s", timo=2, until=lambda: k.now >= 2)
        world.sleeper("t", timo=3, until=lambda: False)
        world.sleeper("u", timo=4)

    asked = [step.arg for step in run(build, timers=Timers.ANYTIME).records if step.kind == "timeout"]
    assert sorted(asked, key=repr) == [False, None, True]


def test_a_sleep_of_negative_length_is_the_callers_mistake() -> None:
    def build(k: Kernel) -> None:
        world = World(k)
        world.sleeper("s", timo=-1)

    with pytest.raises(UsageError, match="channel: a sleep of -1 ticks; use 0 to wait for ever"):
        run(build)


def test_wake_tells_the_errno_of_the_kernels() -> None:
    assert (Wake.TIMEOUT.value, Wake.SIGNAL.value) == ("EWOULDBLOCK", "EINTR")
