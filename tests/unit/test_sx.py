"""The shared/exclusive lock: the weakest promise, and FreeBSD's refusal."""

from __future__ import annotations

import pytest

from stressvm import FreeBSDSx, Kernel, SleepQueue, Sx, Wake
from tests.support import every, explore, kinds, outcomes

BOTH = pytest.mark.parametrize("make", [Sx, FreeBSDSx])


@BOTH
def test_an_exclusive_holder_is_alone_and_sharers_are_together(make: type[Sx]) -> None:
    together: set[int] = set()

    def build(k: Kernel) -> None:
        sx = make(k, "sx")
        inside: list[str] = []

        async def share() -> None:
            await sx.slock()
            assert "x" not in inside
            inside.append("s")
            together.add(len(inside))
            await k.yield_()
            inside.remove("s")
            await sx.unlock()

        async def exclude() -> None:
            await sx.xlock()
            assert sx.xlocked()
            assert not inside
            inside.append("x")
            await k.yield_()
            inside.remove("x")
            await sx.unlock()

        k.spawn(share)
        k.spawn(share)
        k.spawn(exclude)

    assert kinds(explore(build, 1500)) == {None}
    assert together == {1, 2}


@BOTH
def test_tries_never_wait(make: type[Sx]) -> None:
    def build(k: Kernel) -> None:
        sx = make(k, "sx")

        async def owner() -> None:
            assert await sx.try_xlock()
            await k.delay(2)
            await sx.unlock()
            assert await sx.try_slock()
            await k.delay(2)
            await sx.unlock()

        async def other() -> None:
            await k.delay(1)
            k.record(did=(await sx.try_slock(), await sx.try_xlock()))
            await k.delay(2)
            k.record(did=await sx.try_xlock())
            k.record(did=await sx.try_slock())
            await sx.unlock()

        k.spawn(owner)
        k.spawn(other, name="o")

    assert outcomes(every(build)) == {("o (False, False)", "o False", "o True")}


@BOTH
def test_an_upgrade_is_for_the_sole_sharer_whoever_waits(make: type[Sx]) -> None:
    def build(k: Kernel) -> None:
        sx = make(k, "sx")

        async def upgrades() -> None:
            await sx.slock()
            await k.delay(2)
            k.record(did=await sx.try_upgrade())
            assert not sx.xlocked()
            await k.delay(5)
            k.record(did=await sx.try_upgrade())
            assert sx.xlocked()
            await sx.unlock()

        async def shares() -> None:
            await sx.slock()
            await k.delay(4)
            await sx.unlock()

        async def waits() -> None:
            await k.delay(1)
            await sx.xlock()
            k.record(did="got it")
            await sx.unlock()

        k.spawn(upgrades, name="up")
        k.spawn(shares)
        k.spawn(waits, name="x")

    endings = every(build)
    assert kinds(endings) == {None}
    assert outcomes(endings) == {("up False", "up True", "x got it")}


@BOTH
def test_a_downgrade_wakes_waiting_sharers(make: type[Sx]) -> None:
    def build(k: Kernel) -> None:
        sx = make(k, "sx")

        async def downgrades() -> None:
            await sx.xlock()
            await k.delay(2)
            await sx.downgrade()
            await k.delay(5)
            k.record(did="leaves")
            await sx.unlock()

        async def shares() -> None:
            await k.delay(1)
            await sx.slock()
            k.record(did="in")
            await sx.unlock()

        k.spawn(downgrades, name="d")
        k.spawn(shares, name="s1")
        k.spawn(shares, name="s2")

    assert outcomes(every(build)) == {("s1 in", "s2 in", "d leaves"), ("s2 in", "s1 in", "d leaves")}


@pytest.mark.parametrize(("make", "order"), [(Sx, ("new in", "x in")), (FreeBSDSx, ("x in", "new in"))])
def test_only_freebsd_refuses_a_new_sharer_while_somebody_waits_for_it_exclusively(
    make: type[Sx], order: tuple[str, ...]
) -> None:
    def build(k: Kernel) -> None:
        sx = make(k, "sx")

        async def holds() -> None:
            await sx.slock()
            await k.delay(5)
            await sx.unlock()

        async def excludes() -> None:
            await k.delay(1)
            await sx.xlock()
            k.record(did="in")
            await sx.unlock()

        async def shares() -> None:
            await k.delay(2)
            await sx.slock()
            k.record(did="in")
            await sx.unlock()

        k.spawn(holds)
        k.spawn(excludes, name="x")
        k.spawn(shares, name="new")

    assert outcomes(every(build)) == {order}


@pytest.mark.parametrize(("make", "got"), [(Sx, True), (FreeBSDSx, False)])
def test_only_freebsd_refuses_a_new_try_too(make: type[Sx], got: bool) -> None:  # noqa: FBT001 - a table's column
    def build(k: Kernel) -> None:
        sx = make(k, "sx")

        async def holds() -> None:
            await sx.slock()
            await k.delay(5)
            await sx.unlock()

        async def excludes() -> None:
            await k.delay(1)
            await sx.xlock()
            await sx.unlock()

        async def tries() -> None:
            await k.delay(2)
            shared = await sx.try_slock()
            k.record(did=shared)
            if shared:
                await sx.unlock()

        k.spawn(holds)
        k.spawn(excludes)
        k.spawn(tries, name="t")

    assert outcomes(every(build)) == {(f"t {got}",)}


@BOTH
def test_a_thread_that_already_shares_an_sx_lock_is_let_in_again_past_a_waiter(make: type[Sx]) -> None:
    def build(k: Kernel) -> None:
        sx, other = make(k, "sx"), make(k, "other")

        async def holds() -> None:
            await sx.slock()
            await k.delay(5)
            await sx.slock()
            k.record(did="again")
            await sx.unlock()
            await sx.unlock()

        async def shares_another() -> None:
            await other.slock()
            await k.delay(3)
            await sx.slock()
            k.record(did="in")
            await sx.unlock()
            await other.unlock()

        async def excludes() -> None:
            await k.delay(1)
            await sx.xlock()
            k.record(did="in")
            await sx.unlock()

        k.spawn(holds, name="h")
        k.spawn(shares_another, name="s")
        k.spawn(excludes, name="x")

    endings = every(build)
    assert kinds(endings) == {None}
    assert outcomes(endings) == {("s in", "h again", "x in")}


@BOTH
def test_it_serves_as_the_interlock_of_a_sleep(make: type[Sx]) -> None:
    def build(k: Kernel) -> None:
        sx = make(k, "sx")
        channel = SleepQueue(k, "channel")
        ready: list[int] = []

        async def sleeps() -> None:
            await sx.xlock()
            while not ready:
                assert await channel.sleep(sx, "wait", until=lambda: bool(ready)) is Wake.WOKEN
                assert sx.xlocked()
            k.record(did="saw it")
            await sx.unlock()

        async def wakes() -> None:
            await sx.xlock()
            ready.append(1)
            await channel.wakeup()
            await sx.unlock()

        k.spawn(sleeps, name="s")
        k.spawn(wakes)

    endings = every(build)
    assert kinds(endings) == {None}
    assert outcomes(endings) == {("s saw it",)}


def test_a_sharer_that_wants_it_exclusively_waits_for_itself() -> None:
    def build(k: Kernel) -> None:
        sx = Sx(k, "sx")

        async def greedy() -> None:
            await sx.slock()
            await sx.xlock()

        k.spawn(greedy, name="g")

    assert kinds(every(build)) == {"deadlock"}
