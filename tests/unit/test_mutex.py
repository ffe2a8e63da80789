"""Mutexes: exclusion, tries, grant policies, spin mutexes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from stressvm import Fifo, Kernel, Mutex, Priority, SpinMutex
from tests.support import every, kinds, outcomes, run, words

if TYPE_CHECKING:
    from collections.abc import Callable

    from stressvm import Grant


@pytest.mark.parametrize("make", [Mutex, SpinMutex])
@pytest.mark.parametrize("grant", [None, Fifo(), Priority()])
def test_at_most_one_thread_is_inside_in_any_interleaving(make: type[Mutex], grant: Grant | None) -> None:
    def build(k: Kernel) -> None:
        m = make(k, "m", grant)
        inside: list[int] = []

        async def enter(me: int) -> None:
            await m.lock()
            assert m.owned()
            inside.append(me)
            await k.yield_()
            assert inside == [me]
            inside.remove(me)
            await m.unlock()
            assert not m.owned()

        for me in range(3):
            k.spawn(enter, me)

    assert kinds(every(build)) == {None}


def test_without_a_policy_every_order_of_three_contenders_is_seen() -> None:
    endings = every(_contenders(None))
    assert outcomes(endings) == {
        ("holder x", f"{a} x", f"{b} x", f"{c} x")
        for a, b, c in (
            ("a", "b", "c"),
            ("a", "c", "b"),
            ("b", "a", "c"),
            ("b", "c", "a"),
            ("c", "a", "b"),
            ("c", "b", "a"),
        )
    }


def test_fifo_hands_over_in_order_of_arrival_only() -> None:
    assert outcomes(every(_contenders(Fifo()))) == {("holder x", "a x", "b x", "c x")}


def test_priority_hands_over_to_the_most_urgent_and_the_longest_waiting_of_equals() -> None:
    assert outcomes(every(_contenders(Priority(), c=5))) == {("holder x", "c x", "a x", "b x")}


def _contenders(grant: Grant | None, **priorities: int) -> Callable[[Kernel], None]:
    """A holder, and a, b, c that come for the lock in this order while it is held."""

    def build(k: Kernel) -> None:
        m = Mutex(k, "m", grant)

        async def section(arrives: int, stays: int) -> None:
            await k.delay(arrives)
            await m.lock()
            k.record(did="x")
            await k.delay(stays)
            await m.unlock()

        k.spawn(section, 0, 10, name="holder")
        for at, name in enumerate(("a", "b", "c"), start=1):
            k.spawn(section, at, 0, name=name, priority=priorities.get(name, 0))

    return build


def test_under_a_policy_a_latecomer_cannot_barge_past_the_heir() -> None:
    def build(k: Kernel) -> None:
        m = Mutex(k, "m", Fifo())

        async def hold() -> None:
            await m.lock()
            await k.delay(5)
            await m.unlock()
            await m.lock()
            k.record(did="again")
            await m.unlock()

        async def wait() -> None:
            await k.delay(1)
            await m.lock()
            k.record(did="got it")
            await m.unlock()

        k.spawn(hold, name="holder")
        k.spawn(wait, name="waiter")

    assert outcomes(every(build)) == {("waiter got it", "holder again")}


def test_trylock_takes_a_free_lock_and_is_refused_a_held_one_even_by_its_owner() -> None:
    def build(k: Kernel) -> None:
        m = Mutex(k, "m")

        async def owner() -> None:
            k.record(did=await m.trylock())
            k.record(did=await m.trylock())
            await k.delay(2)
            await m.unlock()

        async def other() -> None:
            await k.delay(1)
            k.record(did=await m.trylock())
            await k.delay(2)
            k.record(did=await m.trylock())
            await m.unlock()

        k.spawn(owner, name="owner")
        k.spawn(other, name="other")

    assert outcomes(every(build)) == {("owner True", "owner False", "other False", "other True")}


def test_trylock_of_a_spin_mutex_forbids_sleep_only_when_it_got_the_lock() -> None:
    def build(k: Kernel) -> None:
        m = SpinMutex(k, "m")

        async def owner() -> None:
            await m.lock()
            await k.yield_()
            await m.unlock()

        async def other() -> None:
            if not await m.trylock():
                await k.delay(1)
                k.record(did="slept")
            else:
                await m.unlock()

        k.spawn(owner)
        k.spawn(other, name="other")

    endings = every(build)
    assert kinds(endings) == {None}
    assert outcomes(endings) == {(), ("other slept",)}


def test_after_the_last_spin_mutex_is_released_its_holder_may_sleep_again() -> None:
    def build(k: Kernel) -> None:
        first, second = SpinMutex(k, "first"), SpinMutex(k, "second")

        async def thread() -> None:
            await first.lock()
            await second.lock()
            await first.unlock()
            await second.unlock()
            await k.delay(1)
            k.record(did="slept")

        k.spawn(thread, name="t")

    assert words(run(build)) == ("t slept",)


def test_an_interrupt_handler_may_take_a_spin_mutex_and_still_not_sleep_after_it() -> None:
    def build(k: Kernel) -> None:
        m = SpinMutex(k, "m")

        async def handler() -> None:
            await m.lock()
            await m.unlock()
            await k.delay(1)

        k.spawn(handler, name="intr", interrupt=True)

    verdict = run(build).verdict
    assert verdict is not None
    assert (verdict.kind, "intr" in verdict.text) == ("sleep-rule", True)


@pytest.mark.parametrize("grant", [None, Fifo()])
def test_statistics_name_owner_and_waiters_and_count_acquisitions(grant: Grant | None) -> None:
    def build(k: Kernel) -> None:
        m = Mutex(k, "m", grant)

        async def hold() -> None:
            await m.lock()
            await k.delay(5)
            stats = m.statistics()
            k.record(did=(stats.owner, *stats.waiters, stats.acquired))
            await m.unlock()
            await k.delay(5)
            stats = m.statistics()
            k.record(did=(stats.owner, *stats.waiters, stats.acquired))

        async def wait(at: int) -> None:
            await k.delay(at)
            await m.lock()
            await m.unlock()

        k.spawn(hold, name="hold")
        k.spawn(wait, 2, name="late")
        k.spawn(wait, 1, name="early")

    # In order of thread where any may win, in order of arrival where a queue decides.
    waiters = "'late', 'early'" if grant is None else "'early', 'late'"
    assert outcomes(every(build)) == {(f"hold ('hold', {waiters}, 1)", "hold (None, 3)")}
