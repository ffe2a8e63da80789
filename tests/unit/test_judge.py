"""What an ended execution is called, in which words, and what comes first when several things are wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from stressvm import (
    KINDS,
    CondVar,
    Kernel,
    Mutex,
    NetBSDRwLock,
    Rw,
    RwLock,
    Semaphore,
    SleepQueue,
    SpinMutex,
    UsageError,
)
from stressvm.check.verdict import UNUSABLE, Verdict
from stressvm.explore.execution import Subject, execute
from stressvm.explore.scenario import scenario
from stressvm.explore.tape import Lenient
from tests.support import DRIVERS, every, in_trio, kinds, opened, run

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any


def _verdict(build: Callable[[Kernel], None], choices: Sequence[int] = (), **settings: Any) -> Verdict:
    verdicts = [run(build, choices, driver=driver, **settings).verdict for driver in DRIVERS]
    assert verdicts[0] == verdicts[1]
    assert verdicts[0] is not None
    assert verdicts[0].kind in KINDS
    return verdicts[0]


def _ring(n: int) -> Callable[[Kernel], None]:
    """Each takes its mutex, then that of the next."""

    def build(k: Kernel) -> None:
        mutexes = [Mutex(k, f"m{i}") for i in range(n)]

        async def takes(i: int) -> None:
            await mutexes[i].lock()
            await k.delay(1)
            await mutexes[(i + 1) % n].lock()

        for i in range(n):
            k.spawn(takes, i, name=f"t{i}")

    return build


@pytest.mark.parametrize("n", [2, 3, 5])
def test_a_cycle_of_threads_is_a_deadlock_and_told_in_order(n: int) -> None:
    verdict = _verdict(_ring(n))
    assert verdict.kind == "deadlock"
    assert verdict.cycle == tuple(range(n))
    assert verdict.threads == verdict.cycle
    assert verdict.text == "; ".join(f"t{i} waits for lock m{(i + 1) % n}, held by t{(i + 1) % n}" for i in range(n))


def test_who_waits_behind_a_cycle_is_not_part_of_it() -> None:
    def build(k: Kernel) -> None:
        async def bystander() -> None:
            await k.join(k.threads[1])

        k.spawn(bystander, name="b")
        _ring_from(k, 1)

    verdict = _verdict(build)
    assert verdict.cycle == (1, 2)
    assert "b waits" not in verdict.text


def _ring_from(k: Kernel, first: int) -> None:
    mutexes = [Mutex(k, f"m{first + i}") for i in range(2)]

    async def takes(i: int) -> None:
        await mutexes[i].lock()
        await k.delay(1)
        await mutexes[1 - i].lock()

    for i in range(2):
        k.spawn(takes, i, name=f"t{first + i}")


@pytest.mark.parametrize("make", [RwLock, NetBSDRwLock])
def test_a_cycle_may_go_through_any_of_several_readers(make: type[RwLock]) -> None:
    def build(k: Kernel) -> None:
        rw, m, sema = make(k, "rw"), Mutex(k, "m"), Semaphore(k, 0, "sema")

        async def harmless() -> None:
            await rw.enter(Rw.READER)
            await sema.wait()
            await rw.exit()

        async def reader() -> None:
            await rw.enter(Rw.READER)
            await k.delay(2)
            await m.lock()
            await m.unlock()
            await rw.exit()

        async def writer() -> None:
            await k.delay(1)
            await m.lock()
            await rw.enter(Rw.WRITER)
            await rw.exit()
            await m.unlock()

        k.spawn(harmless, name="harmless")
        k.spawn(reader, name="reader")
        k.spawn(writer, name="writer")

    verdict = _verdict(build)
    assert verdict.kind == "deadlock"
    assert verdict.cycle == (1, 2)
    assert "reader waits for lock m, held by writer; writer waits for" in verdict.text
    assert verdict.text.endswith("rw, held by reader")


def test_a_join_may_close_a_cycle() -> None:
    def build(k: Kernel) -> None:
        m = Mutex(k, "m")

        async def holds() -> None:
            await m.lock()
            await k.join(k.threads[1])

        k.spawn(holds, name="h")
        k.spawn(m.lock, name="w")

    verdict = _verdict(build)
    assert verdict.text == "h waits for w to end, held by w; w waits for lock m, held by h"


def test_a_sleeper_that_knows_who_could_wake_it_may_close_a_cycle() -> None:
    def build(k: Kernel) -> None:
        m, busy = Mutex(k, "m"), Mutex(k, "busy")
        channel = SleepQueue(k, "channel")

        async def sleeps() -> None:
            await m.lock()
            await busy.lock()
            await channel.sleep(m, "unbusy", holder=lambda: 1)

        async def marks() -> None:
            await k.delay(1)
            await busy.lock()

        k.spawn(sleeps, name="s")
        k.spawn(marks, name="b")

    verdict = _verdict(build)
    assert verdict.kind == "deadlock"
    assert verdict.text == "s sleeps on channel (unbusy), held by b; b waits for lock busy, held by s"


def test_waiting_for_units_that_nobody_gives_is_a_deadlock_without_a_cycle() -> None:
    def build(k: Kernel) -> None:
        sema = Semaphore(k, 0, "sema")
        k.spawn(sema.wait, name="a")

    verdict = _verdict(build)
    assert (verdict.kind, verdict.cycle, verdict.threads) == ("deadlock", (), (0,))
    assert verdict.text == "a waits for sema_wait sema: nobody is left to let them go on"


def _sleeper(k: Kernel, name: str, until: Callable[[], bool] | None) -> None:
    m = Mutex(k, f"{name}.m")
    channel = SleepQueue(k, f"{name}.channel")

    async def sleeps() -> None:
        await m.lock()
        await channel.sleep(m, "wmesg", until=until)

    k.spawn(sleeps, name=name)


@pytest.mark.parametrize(
    ("until", "kind", "words"),
    [
        (lambda: True, "lost-wakeup", "although what it waits for is there"),
        (lambda: False, "exhausted", "for something that never came"),
        (None, "stranded", "and nobody is left to wake it"),
    ],
)
def test_a_sleeper_for_ever_is_called_by_its_predicate(until: Callable[[], bool] | None, kind: str, words: str) -> None:
    verdict = _verdict(lambda k: _sleeper(k, "s", until))
    assert (verdict.kind, verdict.threads) == (kind, (0,))
    assert verdict.text.startswith(f"s sleeps on s.channel (wmesg) {words}")


def test_of_several_sleepers_the_gravest_counts_and_the_others_are_mentioned() -> None:
    def build(k: Kernel) -> None:
        _sleeper(k, "stranded", None)
        _sleeper(k, "exhausted", lambda: False)
        _sleeper(k, "lost", lambda: True)

    verdict = _verdict(build)
    assert (verdict.kind, verdict.threads) == ("lost-wakeup", (2,))
    assert verdict.text.endswith("(stuck as well: stranded, exhausted)")

    def without_lost(k: Kernel) -> None:
        _sleeper(k, "exhausted", lambda: False)
        _sleeper(k, "stranded", None)

    assert _verdict(without_lost).kind == "stranded"


def test_who_waits_for_a_sleeper_is_stuck_as_well() -> None:
    def build(k: Kernel) -> None:
        _sleeper(k, "s", None)
        k.spawn(k.join, k.threads[0], name="j")

    verdict = _verdict(build)
    assert (verdict.kind, verdict.threads) == ("stranded", (0,))
    assert verdict.text.endswith("(stuck as well: j)")


def _rescued(k: Kernel, until: Callable[[], bool]) -> None:
    m = Mutex(k, "m")
    cv = CondVar(k, "cv")

    async def sleeps() -> None:
        await m.lock()
        await cv.timedwait(m, 100, until=until)
        await m.unlock()

    k.spawn(sleeps, name="s")


def test_a_sleep_that_only_its_timeout_ended_although_its_wait_was_over_is_a_rescued_sleep() -> None:
    verdict = _verdict(lambda k: _rescued(k, lambda: True))
    assert verdict.kind == "rescued-sleep"
    assert verdict.text.startswith("s slept on cv while what it waited for was there; only its timeout ended that")
    assert run(lambda k: _rescued(k, lambda: False)).verdict is None


def test_a_lock_left_behind_is_found_with_who_and_which() -> None:
    def build(k: Kernel) -> None:
        rw = RwLock(k, "rw")

        async def leaves() -> None:
            await rw.enter(Rw.READER)

        async def fine() -> None:
            await rw.enter(Rw.READER)
            await rw.exit()

        k.spawn(fine)
        k.spawn(leaves, name="l")

    verdict = _verdict(build)
    assert (verdict.kind, verdict.text, verdict.threads) == ("lock-held-at-exit", "l ended with rw held", (1,))


def test_a_sleep_where_none_is_allowed_is_called_so() -> None:
    def build(k: Kernel) -> None:
        spin = SpinMutex(k, "spin")

        async def sleeps() -> None:
            await spin.lock()
            await k.delay(1)

        k.spawn(sleeps, name="s")

    assert _verdict(build).kind == "sleep-rule"


def _raising(exc: Exception) -> Callable[[Kernel], None]:
    def build(k: Kernel) -> None:
        async def fails() -> None:
            raise exc

        k.spawn(fails)

    return build


@pytest.mark.parametrize(
    ("exc", "kind", "text"),
    [
        (ValueError("bad"), "exception", "ValueError: bad"),
        (KeyError(), "exception", "KeyError"),
        (AssertionError("2 > 1"), "assertion", "AssertionError: 2 > 1"),
        (AssertionError(), "assertion", "AssertionError"),
    ],
)
def test_exceptions_and_assertions_are_told_apart_and_named(exc: Exception, kind: str, text: str) -> None:
    verdict = _verdict(_raising(exc))
    assert verdict.kind == kind
    assert verdict.text.startswith(f"{text} (in ")


def test_livelock_is_without_progress_and_too_long_is_with() -> None:
    def build(k: Kernel, *, progress: bool) -> None:
        async def spins() -> None:
            while True:
                await k.yield_()
                if progress:
                    k.progress()

        k.spawn(spins)

    verdict = _verdict(lambda k: build(k, progress=False), max_steps=100)
    assert verdict.kind == "livelock"
    assert verdict.text.startswith("100 steps, and no progress in the last 10")
    verdict = _verdict(lambda k: build(k, progress=True), max_steps=100)
    assert verdict.kind == "too-long"
    assert "raise max_steps" in verdict.text


def test_what_stopped_the_execution_comes_before_all_else() -> None:
    def build(k: Kernel) -> None:
        m = Mutex(k, "m")
        _sleeper(k, "lost", lambda: True)

        async def leaves() -> None:
            await m.lock()

        async def fails() -> None:
            await k.delay(1)
            raise ValueError

        k.spawn(leaves)
        k.spawn(fails)

    assert kinds(every(build)) == {"exception"}


def test_a_lock_left_behind_explains_those_that_wait_for_it() -> None:
    def build(k: Kernel) -> None:
        m = Mutex(k, "m")
        _sleeper(k, "lost", lambda: True)
        k.spawn(m.lock, name="leaves")
        k.spawn(m.lock, name="waits")

    assert kinds(every(build)) == {"lock-held-at-exit"}


def test_a_cycle_comes_before_sleepers() -> None:
    def build(k: Kernel) -> None:
        _sleeper(k, "lost", lambda: True)
        _ring_from(k, 1)

    assert _verdict(build).kind == "deadlock"


def test_a_stuck_thread_comes_before_a_rescued_sleep() -> None:
    def build(k: Kernel) -> None:
        _rescued(k, lambda: True)
        _sleeper(k, "exhausted", lambda: False)

    assert _verdict(build).kind == "exhausted"


def test_what_a_scenario_tolerates_is_no_verdict_and_all_else_is() -> None:
    def verdict(tolerate: tuple[str, ...]) -> Verdict | None:
        what = Subject(scenario(tolerate=tolerate)(lambda k: _sleeper(k, "s", None)), {})

        async def main() -> Verdict | None:
            async with opened(what.kernel(), "stepped") as driver:
                found = await execute(what, driver, Lenient(()))
                driver.unwind()
                return found

        found: Verdict | None = in_trio(main)
        return found

    assert verdict(("stranded",)) is None
    assert verdict(("exhausted",)) is not None


def test_a_predicate_that_raises_is_the_scenarios_mistake() -> None:
    def until() -> bool:
        raise LookupError("pure?")

    with pytest.raises(UsageError, match=r"a predicate \(until\) of a sleep on s.channel raised LookupError: pure\?"):
        _hot(lambda k: _sleeper(k, "s", until))


def _hot(build: Callable[[Kernel], None]) -> None:
    every(build)


def test_every_kind_has_a_meaning_and_those_that_are_no_findings_are_kinds() -> None:
    assert all(KINDS.values())
    assert set(KINDS) > UNUSABLE
