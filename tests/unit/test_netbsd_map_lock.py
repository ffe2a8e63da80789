"""NetBSD's map lock, row by row: write, try, read, busy, the timestamp; and the mutex of INTRSAFE maps.

Arrivals are put in order by delays: time passes only when nobody can run.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias

import pytest

from stressvm import Kernel, NetBSDRwLock, Rw, RwLock
from stressvm.vm.netbsd import IntrsafeMapLock, VmMapLock
from tests.support import Ending, every, explore, kinds, outcomes

Body: TypeAlias = Callable[..., Coroutine[Any, Any, None]]

BOTH_POLICIES = pytest.mark.parametrize("rwlock", [RwLock, NetBSDRwLock])


def nothing() -> None:
    """Invariants that always hold."""


def world(*bodies: Body, rwlock: type[RwLock] = RwLock) -> Callable[[Kernel], None]:
    """One lock, and a thread for each body, named after it; every thread gets kernel and lock."""

    def build(k: Kernel) -> None:
        lock = VmMapLock(k, "m", nothing, rwlock)
        for body in bodies:
            k.spawn(body, k, lock, name=body.__name__)

    return build


def intrsafe(*bodies: Body, interrupt: bool = False) -> Callable[[Kernel], None]:
    """The same with the lock of an INTRSAFE map."""

    def build(k: Kernel) -> None:
        lock = IntrsafeMapLock(k, "m", nothing)
        for body in bodies:
            k.spawn(body, k, lock, name=body.__name__, interrupt=interrupt)

    return build


def only(endings: list[Ending]) -> Ending:
    """What all of them agree on."""
    assert len({(ending.said, ending.kind, ending.text) for ending in endings}) == 1
    return endings[0]


async def busies(k: Kernel, lock: VmMapLock) -> None:
    """Marks the map at once, lets go of the lock, and removes the mark at tick 10."""
    await lock.lock()
    await lock.busy()
    await lock.unlock()
    await k.delay(10)
    k.record(did="unbusy")
    await lock.unbusy()


# ---------------------------------------------------------------- the write lock and its timestamp


def test_the_timestamp_moves_with_each_write_acquisition_and_with_nothing_else() -> None:
    async def t(k: Kernel, lock: VmMapLock) -> None:
        stamps = [lock.timestamp.peek()]
        await lock.lock()
        assert lock.write_held()
        stamps.append(lock.timestamp.peek())
        await lock.busy()
        await lock.unlock()
        stamps.append(lock.timestamp.peek())
        assert not await lock.lock_try()
        stamps.append(lock.timestamp.peek())
        await lock.lock()
        stamps.append(lock.timestamp.peek())
        await lock.unbusy()
        await lock.unlock()
        await lock.lock_read()
        await lock.unlock_read()
        stamps.append(lock.timestamp.peek())
        assert await lock.lock_try()
        await lock.unlock()
        stamps.append(lock.timestamp.peek())
        k.record(did=tuple(stamps))

    assert only(every(world(t))).said == ("t (0, 1, 1, 1, 2, 2, 3)",)


def test_the_timestamp_has_32_bits() -> None:
    async def t(k: Kernel, lock: VmMapLock) -> None:
        lock.timestamp.poke(0xFFFFFFFF)
        await lock.lock()
        await lock.unlock()
        k.record(did=lock.timestamp.peek())

    assert only(every(world(t))).said == ("t 0",)


@BOTH_POLICIES
def test_writers_exclude_each_other(rwlock: type[RwLock]) -> None:
    def build(k: Kernel) -> None:
        lock = VmMapLock(k, "m", nothing, rwlock)
        inside: list[int] = []

        async def writes() -> None:
            await lock.lock()
            inside.append(k.cur)
            await k.yield_()
            assert inside == [k.cur]
            inside.clear()
            await lock.unlock()

        async def checks() -> None:
            for thread in threads:
                await k.join(thread)
            assert lock.timestamp.peek() == 3
            assert not lock.write_held()

        threads = [k.spawn(writes) for _ in range(3)]
        k.spawn(checks)

    assert kinds(explore(build, 500)) == {None}


def test_locking_twice_panics() -> None:
    async def t(_k: Kernel, lock: VmMapLock) -> None:
        await lock.lock()
        await lock.lock()

    ending = only(every(world(t)))
    assert ending.kind == "panic"
    assert "locking against myself" in ending.text


@pytest.mark.parametrize("make", [world, intrsafe])
def test_unlocking_what_one_does_not_hold_panics(make: Callable[[Body], Callable[[Kernel], None]]) -> None:
    async def t(_k: Kernel, lock: VmMapLock) -> None:
        await lock.unlock()

    ending = only(every(make(t)))
    assert ending.kind == "panic"
    assert "vm_map_unlock" in ending.text


def test_a_read_hold_is_no_write_hold() -> None:
    async def t(_k: Kernel, lock: VmMapLock) -> None:
        await lock.lock_read()
        await lock.unlock()

    ending = only(every(world(t)))
    assert ending.kind == "panic"
    assert "not write-locked by t" in ending.text


def test_unlocking_a_map_that_another_marked_busy_panics() -> None:
    async def t(_k: Kernel, lock: VmMapLock) -> None:
        await lock.lock()
        lock.busy_thread = 1
        await lock.unlock()

    async def other(_k: Kernel, _lock: VmMapLock) -> None:
        """Only there to be named."""

    ending = only(every(world(t, other)))
    assert ending.kind == "panic"
    assert "busy by other" in ending.text


# ---------------------------------------------------------------- trying


@BOTH_POLICIES
@pytest.mark.parametrize("how", ["write", "read"])
def test_a_try_fails_while_anybody_holds_the_lock(rwlock: type[RwLock], how: str) -> None:
    async def holds(k: Kernel, lock: VmMapLock) -> None:
        await (lock.lock() if how == "write" else lock.lock_read())
        await k.delay(5)
        await (lock.unlock() if how == "write" else lock.unlock_read())

    async def tries(k: Kernel, lock: VmMapLock) -> None:
        await k.delay(1)
        before = lock.timestamp.peek()
        assert not await lock.lock_try()
        assert lock.timestamp.peek() == before
        await k.delay(9)
        assert await lock.lock_try()
        assert lock.write_held()
        assert lock.timestamp.peek() == before + 1
        await lock.unlock()

    assert kinds(every(world(holds, tries, rwlock=rwlock))) == {None}


@BOTH_POLICIES
def test_a_try_fails_for_a_busy_map_even_for_the_one_who_marked_it(rwlock: type[RwLock]) -> None:
    async def t(k: Kernel, lock: VmMapLock) -> None:
        await lock.lock()
        await lock.busy()
        await lock.unlock()
        k.record(did=await lock.lock_try())
        assert not lock.write_held()
        assert lock.rw.statistics().writer is None
        await lock.unbusy()
        k.record(did=await lock.lock_try())
        await lock.unlock()

    async def other(k: Kernel, lock: VmMapLock) -> None:
        await k.delay(1)
        k.record(did=await lock.lock_try())

    assert only(every(world(t, rwlock=rwlock))).said == ("t False", "t True")
    assert only(every(world(busies, other, rwlock=rwlock))).said == ("other False", "busies unbusy")


def test_a_try_that_fails_for_the_busy_mark_is_seen_by_others() -> None:
    """It takes the lock before it looks at the mark; a reader that tries meanwhile is refused."""

    async def marks(k: Kernel, lock: VmMapLock) -> None:
        await lock.lock()
        await lock.busy()
        await lock.unlock()
        for thread in (k.spawn(other, lock, name="other"), k.spawn(reads, k, lock, name="reads")):
            await k.join(thread)
        await lock.unbusy()

    async def other(lock: VmMapLock) -> None:
        assert not await lock.lock_try()

    async def reads(k: Kernel, lock: VmMapLock) -> None:
        got = await lock.rw.tryenter(Rw.READER)
        k.record(did=got)
        if got:
            await lock.unlock_read()

    endings = every(world(marks))
    assert kinds(endings) == {None}
    assert outcomes(endings) == {("reads True",), ("reads False",)}


# ---------------------------------------------------------------- reading


@BOTH_POLICIES
def test_readers_ignore_the_busy_mark_and_share(rwlock: type[RwLock]) -> None:
    async def reads(k: Kernel, lock: VmMapLock) -> None:
        await k.delay(1)
        await lock.lock_read()
        assert not lock.write_held()
        k.record(did="in")
        await k.delay(3)
        k.record(did=len(lock.rw.statistics().readers))
        await lock.unlock_read()

    assert outcomes(every(world(busies, reads, reads, rwlock=rwlock))) == {
        ("reads in", "reads in", "reads 2", "reads 1", "busies unbusy")
    }


def test_readers_and_writers_exclude_each_other() -> None:
    def build(k: Kernel) -> None:
        lock = VmMapLock(k, "m", nothing)
        inside: list[str] = []

        async def writes() -> None:
            await lock.lock()
            assert not inside
            inside.append("w")
            await k.yield_()
            inside.remove("w")
            await lock.unlock()

        async def reads() -> None:
            await lock.lock_read()
            assert "w" not in inside
            inside.append("r")
            await k.yield_()
            inside.remove("r")
            await lock.unlock_read()

        for body in (writes, reads, reads):
            k.spawn(body)

    assert kinds(explore(build, 800)) == {None}


# ---------------------------------------------------------------- the busy mark


@pytest.mark.parametrize("how", ["nothing", "read", "twice"])
def test_marking_a_map_that_is_not_write_locked_or_marked_already_panics(how: str) -> None:
    async def t(_k: Kernel, lock: VmMapLock) -> None:
        if how == "read":
            await lock.lock_read()
        if how == "twice":
            await lock.lock()
            await lock.busy()
        await lock.busy()

    ending = only(every(world(t)))
    assert ending.kind == "panic"
    assert "vm_map_busy" in ending.text


def test_only_the_one_who_marked_it_may_remove_the_mark() -> None:
    async def foreign(k: Kernel, lock: VmMapLock) -> None:
        await k.delay(1)
        await lock.unbusy()

    async def nobody(_k: Kernel, lock: VmMapLock) -> None:
        await lock.unbusy()

    for build in (world(busies, foreign), world(nobody)):
        ending = only(every(build))
        assert ending.kind == "panic"
        assert "vm_map_unbusy: m.lock is not busy by" in ending.text


@pytest.mark.parametrize("how", ["nothing", "read", "write"])
def test_the_mark_is_removed_with_any_lock_held_or_none(how: str) -> None:
    async def t(_k: Kernel, lock: VmMapLock) -> None:
        await lock.lock()
        await lock.busy()
        if how != "write":
            await lock.unlock()
        if how == "read":
            await lock.lock_read()
        await lock.unbusy()
        assert lock.busy_thread == -1
        assert lock.write_held() == (how == "write")
        if how == "read":
            await lock.unlock_read()
        if how == "write":
            await lock.unlock()

    assert kinds(every(world(t))) == {None}


@BOTH_POLICIES
def test_the_one_who_marked_it_locks_again_and_others_wait_until_the_mark_is_gone(rwlock: type[RwLock]) -> None:
    async def marks(k: Kernel, lock: VmMapLock) -> None:
        await lock.lock()
        await lock.busy()
        stamp = lock.timestamp.peek()
        await lock.unlock()
        await k.delay(5)
        await lock.lock()
        assert lock.timestamp.peek() == stamp + 1, "somebody else locked a busy map for writing"
        await lock.unlock()
        k.record(did="unbusy")
        await lock.unbusy()

    async def waits(k: Kernel, lock: VmMapLock) -> None:
        await k.delay(1)
        await lock.lock()
        assert lock.busy_thread == -1
        k.record(did="in")
        await lock.unlock()

    endings = every(world(marks, waits, rwlock=rwlock))
    assert kinds(endings) == {None}
    assert outcomes(endings) == {("marks unbusy", "waits in")}
    assert any(step[1:3] == ("sleep", "m.cv") for step in endings[0].steps)


@BOTH_POLICIES
def test_the_waiters_for_the_mark_are_all_woken(rwlock: type[RwLock]) -> None:
    def build(k: Kernel) -> None:
        lock = VmMapLock(k, "m", nothing, rwlock)

        async def marks() -> None:
            await lock.lock()
            await lock.busy()
            await lock.unlock()
            await k.yield_()
            await lock.unbusy()

        async def waits() -> None:
            await lock.lock()
            assert lock.busy_thread == -1
            await lock.unlock()

        k.spawn(marks)
        for _ in range(3):
            k.spawn(waits)

    endings = explore(build, 1500)
    assert kinds(endings) == {None}
    assert max(sum(step[1:3] == ("sleep", "m.cv") for step in ending.steps) for ending in endings) >= 3


class OneOnly(VmMapLock):
    """Removing the mark wakes one waiter, who may be the wrong one."""

    async def wake_busy_waiters(self) -> None:
        """Not all."""
        await self.cv.signal()


class NoSecondLook(VmMapLock):
    """The waiter does not look at the mark again once it has misc_lock."""

    async def wait_while_busy(self) -> None:
        """Give up the lock first, then sleep."""
        await self.rw.exit()
        await self.misc_lock.lock()
        await self.cv.wait(self.misc_lock, until=lambda: self.busy_thread < 0)
        await self.misc_lock.unlock()


@pytest.mark.parametrize("cls", [OneOnly, NoSecondLook])
def test_each_part_of_the_wait_is_needed(cls: type[VmMapLock]) -> None:
    def build(k: Kernel) -> None:
        lock = cls(k, "m", nothing)

        async def waits() -> None:
            await lock.lock()
            await lock.unlock()

        async def marks() -> None:
            await lock.lock()
            await lock.busy()
            await lock.unlock()
            await lock.unbusy()

        k.spawn(marks)
        k.spawn(waits)
        k.spawn(waits)

    assert kinds(explore(build, 1500)) == {None, "lost-wakeup"}


def test_a_waiter_for_the_mark_is_no_cause_of_a_deadlock_with_its_owner() -> None:
    """It gave up the lock: the owner can lock the map as often as it likes."""

    async def again(k: Kernel, lock: VmMapLock) -> None:
        await lock.lock()
        await lock.busy()
        await lock.unlock()
        for _ in range(2):
            await lock.lock()
            await k.yield_()
            await lock.unlock()
        await lock.unbusy()

    async def waits(_k: Kernel, lock: VmMapLock) -> None:
        await lock.lock()
        await lock.unlock()

    assert kinds(explore(world(again, waits, waits), 1000)) == {None}


def test_a_mark_that_is_never_removed_is_a_wait_for_something_that_never_comes() -> None:
    async def forgets(_k: Kernel, lock: VmMapLock) -> None:
        await lock.lock()
        await lock.busy()
        await lock.unlock()

    async def waits(k: Kernel, lock: VmMapLock) -> None:
        await k.delay(1)
        await lock.lock()

    ending = only(every(world(forgets, waits)))
    assert ending.kind == "exhausted"


# ---------------------------------------------------------------- the invariants


def test_the_invariants_are_called_at_each_release_of_a_write_hold_with_the_lock_still_held() -> None:
    def build(k: Kernel) -> None:
        calls: list[bool] = []
        lock = VmMapLock(k, "m", lambda: calls.append(lock.write_held()))

        async def t() -> None:
            await lock.lock_read()
            await lock.unlock_read()
            assert not calls
            await lock.lock()
            assert not calls
            await lock.unlock()
            assert await lock.lock_try()
            await lock.unlock()
            assert calls == [True, True]

        k.spawn(t)

    assert kinds(every(build)) == {None}


def test_an_invariant_that_does_not_hold_stops_the_execution() -> None:
    def build(k: Kernel) -> None:
        def broken() -> None:
            raise k.panic("the list is torn", "invariant")

        lock = VmMapLock(k, "m", broken)

        async def t() -> None:
            await lock.lock()
            await lock.unlock()

        k.spawn(t)

    ending = only(every(build))
    assert ending.kind == "invariant"
    assert "the list is torn" in ending.text


# ---------------------------------------------------------------- INTRSAFE maps


def test_the_timestamp_of_an_intrsafe_map_never_moves() -> None:
    async def t(_k: Kernel, lock: IntrsafeMapLock) -> None:
        await lock.lock()
        assert lock.write_held()
        await lock.unlock()
        assert await lock.lock_try()
        assert lock.write_held()
        await lock.unlock()
        assert not lock.write_held()
        assert lock.timestamp.peek() == 0

    assert kinds(every(intrsafe(t))) == {None}


@pytest.mark.parametrize("call", ["lock_read", "unlock_read", "busy", "unbusy"])
def test_an_intrsafe_map_has_no_readers_and_no_busy_mark(call: str) -> None:
    async def t(_k: Kernel, lock: IntrsafeMapLock) -> None:
        await lock.lock()
        await getattr(lock, call)()

    ending = only(every(intrsafe(t)))
    assert ending.kind == "panic"
    assert f"vm_map_{call}" in ending.text
    assert "INTRSAFE" in ending.text


def test_the_mutex_of_an_intrsafe_map_excludes_and_a_try_can_fail() -> None:
    async def holds(k: Kernel, lock: IntrsafeMapLock) -> None:
        await lock.lock()
        k.record(did="in")
        await k.yield_()
        k.record(did="out")
        await lock.unlock()

    async def tries(k: Kernel, lock: IntrsafeMapLock) -> None:
        got = await lock.lock_try()
        k.record(did=got)
        if got:
            await lock.unlock()

    async def waits(k: Kernel, lock: IntrsafeMapLock) -> None:
        await lock.lock()
        k.record(did="in")
        k.record(did="out")
        await lock.unlock()

    first = outcomes(every(intrsafe(holds, tries)))
    assert first == {
        ("tries True", "holds in", "holds out"),
        ("holds in", "tries False", "holds out"),
        ("holds in", "holds out", "tries True"),
        ("holds in", "holds out", "tries False"),
    }
    for said in outcomes(every(intrsafe(holds, waits))):
        assert [word.split()[1] for word in said] == ["in", "out", "in", "out"]


def test_interrupt_handlers_may_take_an_intrsafe_map_and_not_an_ordinary_one() -> None:
    async def handler(_k: Kernel, lock: IntrsafeMapLock) -> None:
        await lock.lock()
        await lock.unlock()

    assert kinds(every(intrsafe(handler, handler, interrupt=True))) == {None}

    def build(k: Kernel) -> None:
        k.spawn(handler, k, VmMapLock(k, "m", nothing), interrupt=True)

    assert kinds(every(build)) == {"sleep-rule"}


def test_sleeping_or_recursing_with_an_intrsafe_map_locked_is_refused() -> None:
    async def sleeps(k: Kernel, lock: IntrsafeMapLock) -> None:
        await lock.lock()
        await k.delay(1)

    async def recurses(_k: Kernel, lock: IntrsafeMapLock) -> None:
        await lock.lock()
        await lock.lock()

    assert only(every(intrsafe(sleeps))).kind == "sleep-rule"
    ending = only(every(intrsafe(recurses)))
    assert ending.kind == "panic"
    assert "locking against myself" in ending.text


def test_the_invariants_of_an_intrsafe_map_are_called_at_each_release() -> None:
    def build(k: Kernel) -> None:
        calls: list[bool] = []
        lock = IntrsafeMapLock(k, "m", lambda: calls.append(lock.write_held()))

        async def t() -> None:
            await lock.lock()
            await lock.unlock()
            assert await lock.lock_try()
            await lock.unlock()
            assert calls == [True, True]

        k.spawn(t)

    assert kinds(every(build)) == {None}
