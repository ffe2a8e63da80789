"""Counting semaphores."""

from __future__ import annotations

import pytest

from stressvm import Kernel, Semaphore, UsageError
from tests.support import every, kinds, outcomes, run, words


def test_no_more_threads_are_inside_than_there_are_units() -> None:
    most: set[int] = set()

    def build(k: Kernel) -> None:
        sema = Semaphore(k, 2, "sema")
        inside: list[int] = []

        async def enter(me: int) -> None:
            await sema.wait()
            inside.append(me)
            most.add(len(inside))
            await k.yield_()
            inside.remove(me)
            await sema.post()

        for me in range(3):
            k.spawn(enter, me)

    assert kinds(every(build)) == {None}
    assert most == {1, 2}


def test_a_unit_goes_to_any_waiter() -> None:
    def build(k: Kernel) -> None:
        sema = Semaphore(k, 0, "sema")

        async def waits(at: int) -> None:
            await k.delay(at)
            await sema.wait()
            k.record(did="got it")
            await sema.post()

        k.spawn(waits, 1, name="a")
        k.spawn(waits, 2, name="b")

        async def posts() -> None:
            await k.delay(3)
            await sema.post()

        k.spawn(posts)

    assert outcomes(every(build)) == {("a got it", "b got it"), ("b got it", "a got it")}


def test_one_unit_lets_one_waiter_go_on_and_the_other_is_stuck() -> None:
    def build(k: Kernel) -> None:
        sema = Semaphore(k, 0, "sema")
        for name in ("a", "b"):
            k.spawn(sema.wait, name=name)
        k.spawn(sema.post)

    endings = every(build)
    assert kinds(endings) == {"deadlock"}
    assert {ending.text for ending in endings} == {
        f"{name} waits for sema_wait sema: nobody is left to let them go on" for name in ("a", "b")
    }


def test_a_unit_posted_before_anybody_waits_is_kept() -> None:
    def build(k: Kernel) -> None:
        sema = Semaphore(k, 0, "sema")

        async def thread() -> None:
            await sema.post()
            await sema.post()
            await sema.wait()
            k.record(did=sema.statistics().value)
            await sema.wait()
            k.record(did=sema.statistics().value)

        k.spawn(thread, name="t")

    assert words(run(build)) == ("t 1", "t 0")


def test_trywait_takes_what_is_there_and_never_waits() -> None:
    def build(k: Kernel) -> None:
        sema = Semaphore(k, 1, "sema")

        async def thread() -> None:
            k.record(did=await sema.trywait())
            k.record(did=await sema.trywait())

        k.spawn(thread, name="t", interrupt=True)

    recording = run(build)
    assert words(recording) == ("t True", "t False")
    assert [step.kind for step in recording.records if step.obj] == ["sema_trywait", "sema_trywait-failed"]


def test_statistics_name_the_waiters() -> None:
    def build(k: Kernel) -> None:
        sema = Semaphore(k, 0, "sema")
        k.spawn(sema.wait, name="w1")
        k.spawn(sema.wait, name="w2")

        async def looks() -> None:
            await k.delay(1)
            k.record(did=sema.statistics().waiters)
            await sema.post()
            await sema.post()

        k.spawn(looks, name="l")

    endings = every(build)
    assert outcomes(endings) == {("l ('w1', 'w2')",)}
    assert kinds(endings) == {None}


def test_a_negative_start_is_the_callers_mistake() -> None:
    def build(k: Kernel) -> None:
        Semaphore(k, -1)

    with pytest.raises(UsageError, match=r"Semaphore\(-1\)"):
        run(build)
