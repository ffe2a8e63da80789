"""Deadlocks predicted from passing executions, and brought about."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from stressvm import Atomic, CondVar, Fifo, FreeBSDSx, Kernel, Mutex, NetBSDRwLock, Rw, RwLock, Semaphore
from stressvm.check.locks import Ways
from stressvm.check.predict import Predictor
from stressvm.check.sync_preserving import Ideals
from stressvm.explore.execution import execute, record
from stressvm.explore.result import schedule_of
from stressvm.explore.steer import Confirmation, confirm, plan_of
from stressvm.explore.tape import Lenient, Strict
from tests.support import DRIVERS, in_trio, opened, subject
from tests.traces import traced

if TYPE_CHECKING:
    from collections.abc import Callable

    from stressvm.check.predict import Prediction

    Build = Callable[[Kernel], None]


async def nested(*locks: Mutex) -> None:
    for lock in locks:
        await lock.lock()
    for lock in reversed(locks):
        await lock.unlock()


def predicted(build: Build) -> tuple[Prediction, ...]:
    one = traced(build)
    assert one.verdict is None
    return Predictor().observe(one.trace, one.threads)


def witness(build: Build) -> tuple[int, ...] | None:
    """Of the one prediction: steps of the execution."""
    one = traced(build)
    (prediction,) = Predictor().observe(one.trace, one.threads)
    return Ideals(one.trace, len(one.threads), Ways()).before([link.step for link in prediction.links])


def tried(build: Build, *, driver: str = "stepped", attempts: int = 30) -> list[Confirmation]:
    """What comes of all predictions of the execution without switches."""
    what = subject(build)

    async def main() -> list[Confirmation]:
        async with opened(what.kernel(), driver) as made:
            k = made.k
            assert await execute(what, made, Lenient(())) is None
            found = [(one, plan_of(one, k)) for one in Predictor().observe(k.trace, k.threads)]
            made.unwind()
            return [await confirm(what, made, one, plan, attempts=attempts) for one, plan in found]

    result: list[Confirmation] = in_trio(main)
    return result


def two_locks(k: Kernel) -> None:
    a, b = Mutex(k, "a"), Mutex(k, "b")
    k.spawn(nested, a, b, name="up")
    k.spawn(nested, b, a, name="down")


def test_a_pattern_says_who_wants_what_and_holds_what() -> None:
    (prediction,) = predicted(two_locks)
    assert prediction.text == (
        "predicted deadlock: up wants b at step 1 and holds a (since step 0); "
        "down wants a at step 5 and holds b (since step 4)"
    )
    # One that is sure to be possible: each takes its first lock.
    assert witness(two_locks) == (0, 4)
    verdict = prediction.verdict(traced(two_locks).threads)
    assert (verdict.kind, verdict.threads) == ("predicted-deadlock", (0, 1))
    assert verdict.sites == ("b after a in nested", "a after b in nested")


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_confirmed_one_replays(driver: str) -> None:
    (result,) = tried(two_locks, driver=driver)
    assert (result.attempts, result.text) == (1, "confirmed in attempt 1")
    assert result.recording is not None
    verdict = result.recording.verdict
    assert verdict is not None
    assert verdict.kind == "deadlock"
    what = subject(two_locks)

    async def again() -> str:
        async with opened(what.kernel(), driver) as made:
            recording = await record(what, made, Strict(schedule_of(result.recording)))  # type: ignore[arg-type]  # is one
            assert recording.verdict is not None
            return recording.verdict.fingerprint

    assert in_trio(again) == verdict.fingerprint


def test_a_cycle_of_four() -> None:
    def build(k: Kernel) -> None:
        forks = [Mutex(k, f"fork{n}") for n in range(4)]
        for n in range(4):
            k.spawn(nested, forks[n], forks[(n + 1) % 4])

    (result,) = tried(build)
    assert len(result.prediction.links) == 4
    assert result.recording is not None


def test_a_guard_forbids_it() -> None:
    def build(k: Kernel) -> None:
        a, b, g = (Mutex(k, name) for name in "abg")
        k.spawn(nested, g, a, b)
        k.spawn(nested, g, b, a)

    assert predicted(build) == ()


def test_a_try_does_not_wait_but_what_it_got_is_held() -> None:
    def build(k: Kernel, *, tries: bool) -> None:
        a, b = Mutex(k, "a"), Mutex(k, "b")

        async def thread() -> None:
            if tries:
                await a.lock()
                assert await b.trylock()
            else:
                assert await a.trylock()
                await b.lock()
            await b.unlock()
            await a.unlock()

        k.spawn(thread)
        k.spawn(nested, b, a)

    assert predicted(lambda k: build(k, tries=True)) == ()
    assert len(predicted(lambda k: build(k, tries=False))) == 1


@pytest.mark.parametrize("shared", [(True, True), (True, False), (False, True), (False, False)])
def test_those_that_share_are_in_nobody_s_way(shared: tuple[bool, bool]) -> None:
    def build(k: Kernel) -> None:
        rw, m = RwLock(k, "rw"), Mutex(k, "m")

        async def first() -> None:
            await rw.enter(Rw.READER if shared[0] else Rw.WRITER)
            await m.lock()
            await m.unlock()
            await rw.exit()

        async def second() -> None:
            await m.lock()
            await rw.enter(Rw.READER if shared[1] else Rw.WRITER)
            await rw.exit()
            await m.unlock()

        k.spawn(first)
        k.spawn(second)

    results = tried(build)
    assert len(results) == (0 if all(shared) else 1)
    assert all(result.recording is not None for result in results)


def test_what_is_shared_guards_nobody() -> None:
    def build(k: Kernel) -> None:
        a, b, rw = Mutex(k, "a"), Mutex(k, "b"), RwLock(k, "rw")

        async def thread(how: Rw, first: Mutex, second: Mutex) -> None:
            await rw.enter(how)
            await nested(first, second)
            await rw.exit()

        k.spawn(thread, Rw.READER, a, b)
        k.spawn(thread, Rw.READER, b, a)
        k.spawn(thread, Rw.WRITER, b, a)

    (result,) = tried(build)
    assert result.prediction.threads == (0, 1)
    assert result.recording is not None


def test_starting_and_joining_order_acquisitions() -> None:
    def build(k: Kernel, *, joins: bool) -> None:
        a, b = Mutex(k, "a"), Mutex(k, "b")

        async def main() -> None:
            await nested(a, b)
            child = k.spawn(nested, b, a)
            if joins:
                await k.join(child)
            await nested(a, b)

        k.spawn(main)

    assert predicted(lambda k: build(k, joins=True)) == ()
    (prediction,) = predicted(lambda k: build(k, joins=False))
    # Not the first time that main nests them, but the second.
    assert prediction.links[0].step > 4


def test_waking_orders_acquisitions() -> None:
    def build(k: Kernel, *, early: bool) -> None:
        a, b, m, cv = Mutex(k, "a"), Mutex(k, "b"), Mutex(k, "m"), CondVar(k, "cv")
        done = False

        async def sleeper() -> None:
            await m.lock()
            while not done:
                await cv.wait(m)
            await m.unlock()
            await nested(a, b)

        async def waker() -> None:
            nonlocal done
            if early:
                await nested(b, a)
            await m.lock()
            done = True
            await cv.signal()
            await m.unlock()
            if not early:
                await nested(b, a)

        k.spawn(sleeper)
        k.spawn(waker)

    assert predicted(lambda k: build(k, early=True)) == ()
    (result,) = tried(lambda k: build(k, early=False))
    assert result.recording is not None


@pytest.mark.parametrize("how", ["semaphore", "flag"])
def test_what_cannot_happen_is_unconfirmed_and_has_no_witness(how: str) -> None:
    def build(k: Kernel) -> None:
        a, b = Mutex(k, "a"), Mutex(k, "b")
        sema, flag = Semaphore(k, 0, "s"), Atomic(k, 0, "flag")

        async def first() -> None:
            await nested(a, b)
            await (sema.post() if how == "semaphore" else flag.store(1))

        async def second() -> None:
            if how == "semaphore":
                await sema.wait()
            elif not await flag.load():
                return
            await nested(b, a)

        k.spawn(first)
        k.spawn(second)

    (result,) = tried(build, attempts=20)
    assert witness(build) is None
    assert result.recording is None
    assert result.text == "unconfirmed: 20 attempts to bring it about have failed"
    assert result.stood == 0


def test_a_store_that_nobody_reads_is_in_nobody_s_way() -> None:
    """The witness leaves out what it does not need, and keeps what is read."""

    def build(k: Kernel, *, reads: bool) -> None:
        a, b, flag = Mutex(k, "a"), Mutex(k, "b"), Atomic(k, 0, "flag")

        async def first() -> None:
            await nested(a, b)
            await flag.store(1)

        async def second() -> None:
            await (flag.load() if reads else flag.store(2))
            await nested(b, a)

        k.spawn(first)
        k.spawn(second)

    assert witness(lambda k: build(k, reads=False)) == (0, 5, 6)
    assert witness(lambda k: build(k, reads=True)) is None


def test_a_witness_goes_through_earlier_sections_and_choices() -> None:
    def build(k: Kernel) -> None:
        a, b, c = (Mutex(k, name) for name in "abc")

        async def first() -> None:
            await nested(c)
            if k.choose(2) == 0:
                await nested(a, b)

        async def second() -> None:
            await nested(c)
            await nested(b, a)

        k.spawn(first)
        k.spawn(second)

    (result,) = tried(build)
    assert witness(build) is not None
    assert result.attempts == 1
    assert result.recording is not None


@pytest.mark.parametrize("kind", ["mutex", "sx", "rwlock"])
def test_locks_with_queues(kind: str) -> None:
    """To queue for a lock is to stand before it."""

    def build(k: Kernel) -> None:
        async def thread(first: int, second: int) -> None:
            for lock in (locks[first], locks[second]):
                if isinstance(lock, Mutex):
                    await lock.lock()
                elif isinstance(lock, FreeBSDSx):
                    await lock.xlock()
                else:
                    await lock.enter(Rw.WRITER)
            for lock in (locks[second], locks[first]):
                await (lock.exit() if isinstance(lock, NetBSDRwLock) else lock.unlock())

        def made(name: str) -> Mutex | FreeBSDSx | NetBSDRwLock:
            if kind == "mutex":
                return Mutex(k, name, Fifo())
            return FreeBSDSx(k, name) if kind == "sx" else NetBSDRwLock(k, name)

        locks = [made("a"), made("b")]
        k.spawn(thread, 0, 1)
        k.spawn(thread, 1, 0)

    (result,) = tried(build)
    assert result.recording is not None


def test_one_that_stands_is_let_go_when_nothing_else_can_run() -> None:
    """The second thread waits for the first, which would be kept standing for ever."""

    def build(k: Kernel) -> None:
        a, b = Mutex(k, "a"), Mutex(k, "b")
        rounds = Semaphore(k, 0, "rounds")

        async def first() -> None:
            for _ in range(3):
                await nested(a, b)
                await rounds.post()
            await nested(a, b)

        async def second() -> None:
            for _ in range(3):
                await rounds.wait()
            await nested(b, a)

        k.spawn(first)
        k.spawn(second)

    results = tried(build)
    assert results
    assert all(result.recording is not None for result in results)


def test_programs_that_nest_nothing_are_not_looked_at_twice() -> None:
    def build(k: Kernel) -> None:
        a, b = Mutex(k, "a"), Mutex(k, "b")
        k.spawn(nested, a, b)
        k.spawn(nested, a, b)

    one = traced(build)
    predictor = Predictor()
    assert predictor.observe(one.trace, one.threads) == ()
    assert predictor.observe(one.trace, one.threads) == ()
