"""Threads: spawn, join, yield, delay and the clock, daemons, interrupt context, data choices, progress."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from stressvm import Cell, CondVar, Kernel, Mutex, Semaphore, SleepQueue, SpinMutex, Timers, UsageError
from tests.support import DRIVERS, every, explore, kinds, outcomes, run, words

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_thread_may_spawn_threads_that_run_and_may_be_joined(driver: str) -> None:
    def build(k: Kernel) -> None:
        async def child(n: int) -> int:
            await k.yield_()
            k.record(did=n)
            return n * n

        async def parent() -> None:
            children = [k.spawn(child, n, name=f"c{n}") for n in (2, 3)]
            k.record(did=[await k.join(thread) for thread in children])

        k.spawn(parent, name="p")

    assert outcomes(every(build, driver=driver)) == {("c2 2", "c3 3", "p [4, 9]"), ("c3 3", "c2 2", "p [4, 9]")}


@pytest.mark.parametrize("driver", DRIVERS)
def test_several_threads_spawned_in_one_step_may_start_in_any_order(driver: str) -> None:
    def build(k: Kernel) -> None:
        async def child() -> None:
            k.record(did="ran")

        async def parent() -> None:
            for name in "abc":
                k.spawn(child, name=name)

        k.spawn(parent)

    assert len(outcomes(every(build, driver=driver))) == 6


@pytest.mark.parametrize("driver", DRIVERS)
def test_more_threads_than_at_first_expected_are_fine(driver: str) -> None:
    def build(k: Kernel) -> None:
        m = Mutex(k, "m")

        async def child() -> None:
            await m.lock()
            k.record(did="in")
            await m.unlock()

        async def parent() -> None:
            for _ in range(20):
                k.spawn(child)

        k.spawn(parent, name="p")

    for ending in explore(build, 20, driver=driver):
        assert ending.kind is None
        assert sorted(ending.said) == sorted(f"child{n} in" for n in range(1, 21))


def test_joining_a_thread_that_has_ended_does_not_wait() -> None:
    def build(k: Kernel) -> None:
        async def brief() -> str:
            return "result"

        async def joins() -> None:
            await k.delay(5)
            assert thread.done
            k.record(did=await k.join(thread))

        thread = k.spawn(brief)
        k.spawn(joins, name="j")

    assert words(run(build)) == ("j result",)


def test_several_threads_may_join_the_same_one() -> None:
    def build(k: Kernel) -> None:
        async def slow() -> int:
            await k.delay(5)
            return 7

        async def joins() -> None:
            k.record(did=await k.join(thread))

        thread = k.spawn(slow)
        for name in ("a", "b"):
            k.spawn(joins, name=name)

    endings = every(build)
    assert kinds(endings) == {None}
    assert {frozenset(ending.said) for ending in endings} == {frozenset({"a 7", "b 7"})}


def test_names_are_as_given_or_function_and_number() -> None:
    def build(k: Kernel) -> None:
        async def worker() -> None:
            pass

        k.spawn(worker)
        k.spawn(worker, name="special")

    assert run(build).names() == ("worker0", "special")


def test_spawn_refuses_what_is_no_async_function() -> None:
    def build(k: Kernel) -> None:
        def plain() -> None:
            pass

        k.spawn(plain)  # type: ignore[arg-type]  # the mistake under test

    with pytest.raises(UsageError, match=r"k.spawn\(plain\): a kernel thread must be an async function"):
        run(build)


def test_a_scenario_without_threads_is_refused() -> None:
    with pytest.raises(UsageError, match="spawned no thread"):
        run(lambda _: None)


def test_yield_lets_others_go_first_if_the_schedule_says_so() -> None:
    def build(k: Kernel) -> None:
        async def thread() -> None:
            k.record(did=1)
            await k.yield_()
            k.record(did=2)

        k.spawn(thread, name="a")
        k.spawn(thread, name="b")

    endings = every(build)
    # What comes before a thread's first operation is done at the start, in order of number.
    assert outcomes(endings) == {("a 1", "b 1", "a 2", "b 2"), ("a 1", "b 1", "b 2", "a 2")}


def test_delays_end_in_order_of_deadline_and_the_clock_jumps_to_each() -> None:
    def build(k: Kernel) -> None:
        async def thread(ticks: int) -> None:
            await k.delay(ticks)
            k.record(did=k.now)

        for name, ticks in (("slow", 300), ("fast", 7), ("instant", 0)):
            k.spawn(thread, ticks, name=name)

    assert outcomes(every(build)) == {("instant 0", "fast 7", "slow 300")}


def test_two_delays_with_the_same_deadline_end_in_either_order() -> None:
    def build(k: Kernel) -> None:
        async def thread() -> None:
            await k.delay(5)
            k.record(did=k.now)

        k.spawn(thread, name="a")
        k.spawn(thread, name="b")

    assert outcomes(every(build)) == {("a 5", "b 5"), ("b 5", "a 5")}


def test_the_number_of_ticks_in_a_second_is_the_scenarios() -> None:
    def build(k: Kernel) -> None:
        async def thread() -> None:
            await k.delay(2 * k.hz)
            k.record(did=k.now)

        k.spawn(thread, name="t")

    assert words(run(build)) == ("t 200",)
    assert words(run(build, hz=1000)) == ("t 2000",)


def test_time_stands_still_while_anybody_can_run() -> None:
    def build(k: Kernel) -> None:
        async def busy() -> None:
            for _ in range(4):
                await k.yield_()
            k.record(did=k.now)

        async def sleepy() -> None:
            await k.delay(1)
            k.record(did=k.now)

        k.spawn(busy, name="busy")
        k.spawn(sleepy, name="sleepy")

    assert outcomes(every(build)) == {("busy 0", "sleepy 1")}


def test_a_negative_delay_is_the_callers_mistake() -> None:
    def build(k: Kernel) -> None:
        async def thread() -> None:
            await k.delay(-1)

        k.spawn(thread)

    with pytest.raises(UsageError, match=r"k.delay\(-1\)"):
        run(build)


@pytest.mark.parametrize("timers", list(Timers))
def test_a_delay_always_ends_whatever_the_timers(timers: Timers) -> None:
    def build(k: Kernel) -> None:
        async def thread() -> None:
            for _ in range(5):
                await k.delay(10)
            k.record(did=k.now)

        k.spawn(thread, name="t")

    assert words(run(build, timers=timers)) == ("t 50",)


@pytest.mark.parametrize(
    ("timers", "expected"),
    [
        (Timers.IDLE, {("waker done", "sleeper WOKEN")}),
        (Timers.NEVER, {("waker done", "sleeper WOKEN")}),
        (
            Timers.ANYTIME,
            {
                ("waker done", "sleeper WOKEN"),
                ("sleeper TIMEOUT", "waker done"),
                ("waker done", "sleeper TIMEOUT"),
            },
        ),
    ],
)
def test_when_a_timed_sleep_times_out_is_the_timer_modes_business(
    timers: Timers, expected: set[tuple[str, ...]]
) -> None:
    def build(k: Kernel) -> None:
        mutex = Mutex(k, "m")
        channel = SleepQueue(k, "channel")

        async def sleeper() -> None:
            await mutex.lock()
            k.spawn(waker, name="waker")
            k.record(did=(await channel.sleep(mutex, "wait", timo=100)).name)
            await mutex.unlock()

        async def waker() -> None:
            await mutex.lock()
            await channel.wakeup()
            await mutex.unlock()
            k.record(did="done")

        k.spawn(sleeper, name="sleeper")

    endings = every(build, timers=timers)
    assert outcomes(endings) == expected
    assert kinds(endings) == {None}


def test_under_idle_the_timeout_of_a_sleep_that_nobody_ends_fires_and_under_never_it_does_not() -> None:
    def build(k: Kernel) -> None:
        mutex = Mutex(k, "m")
        cv = CondVar(k, "cv")

        async def sleeper() -> None:
            await mutex.lock()
            k.record(did=(await cv.timedwait(mutex, 100)).name)
            await mutex.unlock()

        k.spawn(sleeper, name="s")

    assert words(run(build)) == ("s TIMEOUT",)
    verdict = run(build, timers=Timers.NEVER).verdict
    assert verdict is not None
    assert verdict.kind == "stranded"


def test_a_daemon_may_be_asleep_at_the_end() -> None:
    def build(k: Kernel) -> None:
        mutex = Mutex(k, "m")
        cv = CondVar(k, "cv")

        async def serves() -> None:
            await mutex.lock()
            while True:
                await cv.wait(mutex)

        k.spawn(serves, daemon=True)

    assert kinds(every(build)) == {None}


def test_a_daemon_that_is_blocked_at_a_lock_at_the_end_is_a_finding_all_the_same() -> None:
    def build(k: Kernel) -> None:
        sema = Semaphore(k, 0, "sema")
        k.spawn(sema.wait, name="d", daemon=True)

    assert kinds(every(build)) == {"deadlock"}


@pytest.mark.parametrize("timers", [Timers.IDLE, Timers.NEVER])
def test_the_timers_of_a_daemon_keep_no_execution_going(timers: Timers) -> None:
    def build(k: Kernel) -> None:
        mutex = Mutex(k, "m")
        cv = CondVar(k, "cv")

        async def ticks() -> None:
            await mutex.lock()
            while True:
                await cv.timedwait(mutex, 10)

        async def works() -> None:
            await k.delay(100)

        k.spawn(ticks, daemon=True)
        k.spawn(works)

    recording = run(build, timers=timers)
    assert recording.verdict is None
    assert len(recording.records) < 30


def test_a_daemon_that_delays_for_ever_ends_with_the_others() -> None:
    def build(k: Kernel) -> None:
        async def ticks() -> None:
            while True:
                await k.delay(10)

        async def works() -> None:
            await k.delay(25)
            k.record(did=k.now)

        k.spawn(ticks, name="d", daemon=True)
        k.spawn(works, name="w")

    recording = run(build)
    assert words(recording) == ("w 25",)
    assert len(recording.records) < 10


def test_every_alternative_of_a_data_choice_is_tried() -> None:
    def build(k: Kernel) -> None:
        async def thread() -> None:
            k.record(did=(k.choose(3), k.choose(2), k.choose(1)))

        k.spawn(thread, name="t")

    assert outcomes(every(build)) == {(f"t ({a}, {b}, 0)",) for a in range(3) for b in range(2)}


def test_data_may_be_chosen_while_the_world_is_built() -> None:
    def build(k: Kernel) -> None:
        size = k.choose(4)

        async def thread() -> None:
            k.record(did=size)

        k.spawn(thread, name="t")

    assert outcomes(every(build)) == {(f"t {n}",) for n in range(4)}


def test_a_choice_among_very_many_alternatives_is_a_number_below_it() -> None:
    def build(k: Kernel) -> None:
        async def thread() -> None:
            value = k.choose(1 << 30)
            assert 0 <= value < 1 << 30
            k.record(did=value)

        k.spawn(thread, name="t")

    endings = explore(build, 50)
    assert kinds(endings) == {None}
    assert len(outcomes(endings)) == 50


def test_a_choice_among_none_is_the_callers_mistake() -> None:
    def build(k: Kernel) -> None:
        async def thread() -> None:
            k.choose(0)

        k.spawn(thread)

    with pytest.raises(UsageError, match=r"k.choose\(0\): there must be at least one alternative"):
        run(build)


def test_facts_are_recorded_with_their_thread_and_step() -> None:
    def build(k: Kernel) -> None:
        k.record(built=True)

        async def thread() -> None:
            await k.yield_()
            k.record(va=0x1000, pages=(1, 2))

        k.spawn(thread)

    records = [(step.step, step.thread, step.kind, step.arg) for step in run(build).records]
    assert records == [
        (0, -1, "record", {"built": True}),
        (1, 0, "yield", None),
        (2, 0, "record", {"va": 0x1000, "pages": [1, 2]}),
    ]


def test_without_progress_a_long_execution_is_a_livelock_and_with_it_only_too_long() -> None:
    def build(*, progress: bool) -> Callable[[Kernel], None]:
        def world(k: Kernel) -> None:
            async def spins() -> None:
                while True:
                    await k.yield_()
                    if progress:
                        k.progress()

            k.spawn(spins, name="spinner")

        return world

    for progress, kind in ((False, "livelock"), (True, "too-long")):
        verdict = run(build(progress=progress), max_steps=200).verdict
        assert verdict is not None
        assert verdict.kind == kind


def test_the_step_budget_does_not_touch_an_execution_that_ends_within_it() -> None:
    def build(k: Kernel) -> None:
        async def yields() -> None:
            for _ in range(100):
                await k.yield_()

        k.spawn(yields)

    assert run(build, max_steps=100).verdict is None
    verdict = run(build, max_steps=98).verdict
    assert verdict is not None
    assert verdict.kind in ("livelock", "too-long")


def test_an_interrupt_handler_may_do_all_that_does_not_sleep() -> None:
    def build(k: Kernel) -> None:
        spin = SpinMutex(k, "spin")
        mutex = Mutex(k, "m")
        cv = CondVar(k, "cv")
        channel = SleepQueue(k, "channel")
        sema = Semaphore(k, 0, "sema")
        cell = Cell(k, 0, "cell")

        async def handler() -> None:
            await spin.lock()
            await cell.store(await cell.load() + 1)
            await spin.unlock()
            assert await mutex.trylock()
            await mutex.unlock()
            await cv.signal()
            await cv.broadcast()
            await channel.wakeup()
            await channel.wakeup_one()
            await sema.post()
            await k.yield_()

        k.spawn(handler, interrupt=True)

    assert run(build).verdict is None


def test_a_world_without_any_visible_operation_is_clean() -> None:
    def build(k: Kernel) -> None:
        async def nothing() -> None:
            pass

        k.spawn(nothing)
        k.spawn(nothing)

    recording = run(build)
    assert (recording.verdict, recording.records) == (None, ())
