"""However an execution ends, its threads unwind, and the next execution knows nothing of it.

Warnings are errors in these tests, those of coroutines never awaited and of resources left open included.
"""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import pytest
import trio

from stressvm import CondVar, Kernel, Mutex, SpinMutex, UsageError
from stressvm.explore.execution import execute
from stressvm.explore.tape import Lenient
from tests.support import DRIVERS, in_trio, opened, run, subject

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

    Body = Callable[[Kernel, Mutex], Coroutine[Any, Any, None]]

BOTH_DRIVERS = pytest.mark.parametrize("driver", DRIVERS)


async def fails(k: Kernel, m: Mutex) -> None:
    await m.lock()
    raise ValueError("no")


async def panics(k: Kernel, m: Mutex) -> None:
    await m.unlock()


async def asserts(k: Kernel, m: Mutex) -> None:
    await m.lock()
    raise AssertionError


async def deadlocks(k: Kernel, m: Mutex) -> None:
    await m.lock()
    await k.join(k.threads[1])


async def spins_for_ever(k: Kernel, m: Mutex) -> None:
    await m.lock()
    while True:
        await k.yield_()


async def ends_with_it_held(k: Kernel, m: Mutex) -> None:
    await m.lock()


ENDS: list[tuple[Body, str]] = [
    (fails, "exception"),
    (panics, "panic"),
    (asserts, "assertion"),
    (deadlocks, "deadlock"),
    (spins_for_ever, "livelock"),
    (ends_with_it_held, "lock-held-at-exit"),
]
ALL_ENDS = pytest.mark.parametrize(("body", "kind"), ENDS, ids=[kind for _, kind in ENDS])


def _world(body: Body, log: list[str], finally_: Callable[[Kernel, Mutex], Coroutine[Any, Any, None]]) -> Any:
    """One thread that ends the execution, one blocked at its lock, one asleep, one not yet started."""

    def build(k: Kernel) -> None:
        m, other = Mutex(k, "m"), Mutex(k, "other")
        cv = CondVar(k, "cv")

        async def culprit() -> None:
            # The others get to where they wait.
            await k.delay(1)
            k.spawn(never_starts, name="late")
            await body(k, m)

        async def blocked() -> None:
            await k.delay(2 if body is panics else 3)
            try:
                await m.lock()
            finally:
                log.append("blocked")
                await finally_(k, m)
                log.append("not reached")

        async def asleep() -> None:
            await other.lock()
            try:
                await cv.wait(other)
            finally:
                log.append("asleep")
                await finally_(k, other)
                log.append("not reached")

        async def never_starts() -> None:
            await k.yield_()

        k.spawn(culprit, name="culprit")
        k.spawn(blocked, name="blocked")
        k.spawn(asleep, name="asleep", daemon=True)

    return build


async def _unlocks(_k: Kernel, m: Mutex) -> None:
    await m.unlock()


async def _delays(k: Kernel, _m: Mutex) -> None:
    await k.delay(1)


async def _spawns(k: Kernel, m: Mutex) -> None:
    k.spawn(_unlocks, k, m)


async def _chooses(k: Kernel, _m: Mutex) -> None:
    k.choose(2)


async def _signals(k: Kernel, _m: Mutex) -> None:
    k.psignal(k.threads[0])


async def _joins(k: Kernel, _m: Mutex) -> None:
    await k.join(k.threads[0])


async def _trio_sleeps(_k: Kernel, _m: Mutex) -> None:
    await trio.sleep(3600)


async def _checkpoints(_k: Kernel, _m: Mutex) -> None:
    await trio.lowlevel.checkpoint()


KERNEL = [_unlocks, _delays, _spawns, _chooses, _signals, _joins]
FOREIGN = [_trio_sleeps, _checkpoints]


@BOTH_DRIVERS
@ALL_ENDS
@pytest.mark.parametrize("finally_", KERNEL)
def test_finally_blocks_run_and_whatever_they_do_with_the_kernel_raises_at_once(
    body: Body, kind: str, finally_: Callable[[Kernel, Mutex], Coroutine[Any, Any, None]], driver: str
) -> None:
    log: list[str] = []
    recording = run(_world(body, log, finally_), driver=driver, max_steps=200)
    assert recording.verdict is not None
    assert recording.verdict.kind == kind
    assert "asleep" in log
    assert "not reached" not in log
    gc.collect()


@BOTH_DRIVERS
@ALL_ENDS
@pytest.mark.parametrize("finally_", FOREIGN)
def test_a_finally_block_that_awaits_something_foreign_holds_nothing_up(
    body: Body, kind: str, finally_: Callable[[Kernel, Mutex], Coroutine[Any, Any, None]], driver: str
) -> None:
    log: list[str] = []
    recording = run(_world(body, log, finally_), driver=driver, max_steps=200)
    assert recording.verdict is not None
    assert recording.verdict.kind == kind
    assert "asleep" in log
    gc.collect()


@BOTH_DRIVERS
@ALL_ENDS
def test_the_next_execution_of_the_same_kernel_is_not_affected(body: Body, kind: str, driver: str) -> None:
    bad = subject(_world(body, [], _unlocks), max_steps=200)

    def good_build(k: Kernel) -> None:
        m, spin = Mutex(k, "m"), SpinMutex(k, "spin")

        async def thread() -> None:
            await spin.lock()
            await spin.unlock()
            await m.lock()
            await k.delay(1)
            await m.unlock()

        for _ in range(4):
            k.spawn(thread)

    good = subject(good_build, max_steps=200)

    async def main() -> list[object]:
        seen: list[object] = []
        async with opened(bad.kernel(), driver) as made:
            for what in (good, bad, good, bad, bad, good):
                verdict = await execute(what, made, Lenient(()))
                seen.append((verdict.kind if verdict else None, len(made.k.trace)))
                made.unwind()
        return seen

    seen = in_trio(main)
    assert seen[0] == seen[2] == seen[5]
    assert seen[0][0] is None
    assert seen[1] == seen[3] == seen[4]
    assert seen[1][0] == kind


@BOTH_DRIVERS
def test_an_execution_that_is_abandoned_before_any_thread_started_leaves_nothing_behind(driver: str) -> None:
    def build(k: Kernel) -> None:
        async def thread() -> None:
            await k.yield_()

        k.spawn(thread)
        raise LookupError("half built")

    with pytest.raises(UsageError, match="raised while building its world: LookupError: half built"):
        run(build, driver=driver)
    gc.collect()


@BOTH_DRIVERS
def test_threads_that_swallow_the_end_end_all_the_same(driver: str) -> None:
    def build(k: Kernel) -> None:
        m = Mutex(k, "m")

        async def holds() -> None:
            await m.lock()
            await k.join(k.threads[1])

        async def stubborn() -> None:
            for _ in range(20):
                try:
                    await m.lock()
                except BaseException:  # noqa: BLE001 - what it must not do
                    continue

        k.spawn(holds)
        k.spawn(stubborn)

    recording = run(build, driver=driver)
    assert recording.verdict is not None
    assert recording.verdict.kind == "deadlock"


@BOTH_DRIVERS
def test_a_thread_that_swallows_the_end_in_a_foreign_await_ends_all_the_same(driver: str) -> None:
    def build(k: Kernel) -> None:
        async def stubborn() -> None:
            for _ in range(20):
                try:
                    await trio.sleep(3600)
                except BaseException:  # noqa: BLE001 - what it must not do
                    continue

        k.spawn(stubborn, name="stubborn")

    with pytest.raises(UsageError, match="thread stubborn awaited something that is not a kernel operation"):
        run(build, driver=driver)


@BOTH_DRIVERS
def test_a_thread_that_returns_when_it_is_unwound_is_no_different(driver: str) -> None:
    def build(k: Kernel) -> None:
        m = Mutex(k, "m")

        async def leaves_quietly() -> None:
            await m.lock()
            try:
                await m.lock()
            finally:
                return  # noqa: B012 - swallows whatever comes

        k.spawn(leaves_quietly)

    recording = run(build, driver=driver)
    assert recording.verdict is not None
    assert recording.verdict.kind == "panic"


@BOTH_DRIVERS
def test_an_exception_raised_while_unwinding_does_not_replace_the_finding(driver: str) -> None:
    def build(k: Kernel) -> None:
        m = Mutex(k, "m")

        async def waits() -> None:
            await k.delay(1)
            try:
                await m.lock()
            finally:
                raise KeyError("from finally")

        async def ends() -> None:
            await m.lock()
            await k.join(k.threads[0])

        k.spawn(waits)
        k.spawn(ends)

    recording = run(build, driver=driver)
    assert recording.verdict is not None
    assert recording.verdict.kind == "deadlock"


@BOTH_DRIVERS
def test_an_interrupt_of_the_program_passes_through(driver: str) -> None:
    def build(k: Kernel) -> None:
        async def thread() -> None:
            await k.yield_()
            raise KeyboardInterrupt

        k.spawn(thread)

    with pytest.raises(KeyboardInterrupt):
        run(build, driver=driver)


@BOTH_DRIVERS
def test_a_mistake_of_the_caller_inside_a_thread_is_no_finding(driver: str) -> None:
    def build(k: Kernel) -> None:
        m = Mutex(k, "m")

        async def thread() -> None:
            await m.lock()
            await k.delay(-5)

        k.spawn(thread)
        k.spawn(m.lock)

    with pytest.raises(UsageError, match="ticks count up from 0"):
        run(build, driver=driver)


def test_a_kernel_operation_outside_an_execution_says_so() -> None:
    from stressvm.kernel.errors import InternalError

    k = Kernel()
    k.reset(Lenient(()))
    k.cur = 0

    async def main() -> None:
        await k.baton

    with pytest.raises(InternalError, match="outside an execution"):
        trio.run(main)
