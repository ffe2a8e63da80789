"""FreeBSD's map lock, row by row, for system maps and user maps: acquire, try, upgrade, downgrade, busy, sleep, wake.

Arrivals are put in order by delays: time passes only when nobody can run.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias

import pytest

from stressvm import FreeBSDSx, Kernel, Sx, Wake
from stressvm.vm.freebsd import SystemMapLock, UserMapLock
from tests.support import Ending, every, explore, kinds, outcomes

AnyMapLock: TypeAlias = SystemMapLock | UserMapLock
Make: TypeAlias = type[SystemMapLock] | type[UserMapLock]
Body: TypeAlias = Callable[..., Coroutine[Any, Any, None]]

BOTH = pytest.mark.parametrize("make", [SystemMapLock, UserMapLock])
BOTH_POLICIES = pytest.mark.parametrize("sx", [Sx, FreeBSDSx])


def nothing() -> None:
    """Invariants that always hold."""


def world(make: Make, *bodies: Body) -> Callable[[Kernel], None]:
    """One lock, and a thread for each body, named after it; every thread gets kernel and lock."""

    def build(k: Kernel) -> None:
        lock = make(k, "m", nothing)
        for body in bodies:
            k.spawn(body, k, lock, name=body.__name__)

    return build


def only(endings: list[Ending]) -> Ending:
    """What all of them agree on."""
    assert len({(ending.said, ending.kind, ending.text) for ending in endings}) == 1
    return endings[0]


# ---------------------------------------------------------------- acquisitions and the timestamp


@BOTH
def test_which_calls_move_the_timestamp(make: Make) -> None:
    async def t(k: Kernel, lock: AnyMapLock) -> None:
        stamps: list[int] = []

        def note() -> None:
            stamps.append(lock.timestamp.peek())

        await lock.lock()
        assert lock.locked()
        note()
        await lock.busy()
        await lock.unbusy()
        await lock.unlock()
        note()
        assert await lock.trylock()
        note()
        await lock.wait_busy()
        note()
        await lock.unlock()
        await lock.lock_read()
        note()
        await lock.unlock_read()
        assert await lock.trylock_read()
        note()
        assert await lock.lock_upgrade()
        assert lock.locked()
        note()
        await lock.lock_downgrade()
        note()
        await lock.unlock_read()
        assert not lock.locked()
        k.record(did=tuple(stamps))

    assert only(every(world(make, t))).said == ("t (1, 1, 2, 3, 3, 3, 4, 4)",)


@BOTH
def test_the_timestamp_has_32_bits(make: Make) -> None:
    async def t(k: Kernel, lock: AnyMapLock) -> None:
        lock.timestamp.poke(0xFFFFFFFF)
        await lock.lock()
        await lock.unlock()
        k.record(did=lock.timestamp.peek())

    assert only(every(world(make, t))).said == ("t 0",)


@BOTH
def test_writers_exclude_each_other(make: Make) -> None:
    def build(k: Kernel) -> None:
        lock = make(k, "m", nothing)
        inside: list[int] = []

        async def writes() -> None:
            await lock.lock()
            inside.append(k.cur)
            await k.yield_()
            assert inside == [k.cur]
            inside.clear()
            await lock.unlock()

        for _ in range(3):
            k.spawn(writes)

    assert kinds(explore(build, 500)) == {None}


@BOTH
def test_a_try_fails_while_somebody_writes_and_leaves_the_timestamp(make: Make) -> None:
    async def holds(k: Kernel, lock: AnyMapLock) -> None:
        await lock.lock()
        await k.delay(5)
        await lock.unlock()

    async def tries(k: Kernel, lock: AnyMapLock) -> None:
        await k.delay(1)
        assert not await lock.trylock()
        assert not await lock.trylock_read()
        assert not lock.locked()
        assert lock.timestamp.peek() == 1
        await k.delay(9)
        assert await lock.trylock()
        assert lock.timestamp.peek() == 2
        await lock.unlock()

    assert kinds(every(world(make, holds, tries))) == {None}


@pytest.mark.parametrize(("make", "shared"), [(SystemMapLock, 1), (UserMapLock, 2)])
def test_readers_share_a_user_map_and_not_a_system_map(make: Make, shared: int) -> None:
    most: list[int] = []

    def build(k: Kernel) -> None:
        lock = make(k, "m", nothing)
        inside: list[int] = []

        async def reads() -> None:
            await lock.lock_read()
            inside.append(k.cur)
            most.append(len(inside))
            await k.yield_()
            inside.remove(k.cur)
            await lock.unlock_read()

        k.spawn(reads)
        k.spawn(reads)

    assert kinds(every(build)) == {None}
    assert max(most) == shared


def test_readers_keep_a_writer_that_tries_out_of_a_user_map() -> None:
    async def reads(k: Kernel, lock: UserMapLock) -> None:
        await lock.lock_read()
        await k.delay(5)
        await lock.unlock_read()

    async def tries(k: Kernel, lock: UserMapLock) -> None:
        await k.delay(1)
        k.record(did=(await lock.trylock(), await lock.trylock_read()))
        await lock.unlock_read()

    assert only(every(world(UserMapLock, reads, tries))).said == ("tries (False, True)",)


# ---------------------------------------------------------------- misuse

_MISUSES: dict[str, Callable[[AnyMapLock], Coroutine[Any, Any, Any]]] = {
    "vm_map_unlock": lambda lock: lock.unlock(),
    "vm_map_busy": lambda lock: lock.busy(),
    "vm_map_unbusy": lambda lock: lock.unbusy(),
    "vm_map_wait_busy": lambda lock: lock.wait_busy(),
    "vm_map_unlock_and_wait": lambda lock: lock.unlock_and_wait(),
    "vm_map_lock_downgrade": lambda lock: lock.lock_downgrade(),
}


@BOTH
@pytest.mark.parametrize("call", _MISUSES)
def test_what_needs_the_write_lock_panics_without_it(make: Make, call: str) -> None:
    async def t(_k: Kernel, lock: AnyMapLock) -> None:
        await _MISUSES[call](lock)

    ending = only(every(world(make, t)))
    assert ending.kind == "panic"
    assert f"{call}: m is not locked for writing by t" in ending.text


@pytest.mark.parametrize("call", _MISUSES)
def test_a_read_hold_on_a_user_map_is_no_write_hold(call: str) -> None:
    async def t(_k: Kernel, lock: UserMapLock) -> None:
        await lock.lock_read()
        await _MISUSES[call](lock)

    ending = only(every(world(UserMapLock, t)))
    assert ending.kind == "panic"
    assert "not locked for writing" in ending.text


@BOTH
def test_upgrading_what_one_does_not_hold_panics(make: Make) -> None:
    async def t(_k: Kernel, lock: AnyMapLock) -> None:
        await lock.lock_upgrade()

    assert only(every(world(make, t))).kind == "panic"


@BOTH
def test_locking_twice_panics(make: Make) -> None:
    async def t(_k: Kernel, lock: AnyMapLock) -> None:
        await lock.lock()
        await lock.lock()

    assert only(every(world(make, t))).kind == "panic"


@BOTH
def test_releasing_a_read_hold_that_is_none_panics(make: Make) -> None:
    async def t(_k: Kernel, lock: AnyMapLock) -> None:
        await lock.unlock_read()

    assert only(every(world(make, t))).kind == "panic"


def test_a_write_hold_on_a_user_map_is_not_released_as_a_read_hold() -> None:
    async def t(_k: Kernel, lock: UserMapLock) -> None:
        await lock.lock()
        await lock.unlock_read()

    ending = only(every(world(UserMapLock, t)))
    assert ending.kind == "panic"
    assert "vm_map_unlock_read" in ending.text


@BOTH
def test_a_busy_count_below_zero_panics(make: Make) -> None:
    async def t(_k: Kernel, lock: AnyMapLock) -> None:
        await lock.lock()
        await lock.unbusy()

    ending = only(every(world(make, t)))
    assert ending.kind == "panic"
    assert "is not busy" in ending.text


# ---------------------------------------------------------------- upgrades


@BOTH_POLICIES
def test_an_upgrade_waits_for_other_readers_and_succeeds_in_spite_of_them(sx: type[Sx]) -> None:
    def build(k: Kernel) -> None:
        lock = UserMapLock(k, "m", nothing, sx=sx)

        async def upgrades() -> None:
            await lock.lock_read()
            stamp = lock.timestamp.peek()
            await k.yield_()
            assert await lock.lock_upgrade()
            assert lock.locked()
            assert lock.timestamp.peek() == stamp + 1
            await lock.unlock()

        async def reads() -> None:
            await lock.lock_read()
            await k.yield_()
            await lock.unlock_read()

        k.spawn(upgrades)
        k.spawn(reads)
        k.spawn(reads)

    endings = explore(build, 1000)
    assert kinds(endings) == {None}
    ways = {step[1] for ending in endings for step in ending.steps}
    assert {"try-upgrade", "try-upgrade-failed"} <= ways


@BOTH_POLICIES
def test_an_upgrade_that_loses_to_a_writer_holds_nothing(sx: type[Sx]) -> None:
    def build(k: Kernel) -> None:
        lock = UserMapLock(k, "m", nothing, sx=sx)

        async def upgrades() -> None:
            await lock.lock_read()
            await k.delay(5)
            stamp = lock.timestamp.peek()
            got = await lock.lock_upgrade()
            k.record(did=got)
            assert lock.locked() == got
            assert not lock.sx.read_held()
            if got:
                await lock.unlock()
            else:
                assert lock.timestamp.peek() == stamp + 1, "only the writer has moved it"

        async def reads() -> None:
            await lock.lock_read()
            await k.delay(6)
            await lock.unlock_read()

        async def writes() -> None:
            await k.delay(1)
            await lock.lock()
            await lock.unlock()

        k.spawn(upgrades, name="u")
        k.spawn(reads)
        k.spawn(writes)

    endings = every(build)
    assert kinds(endings) == {None}
    assert outcomes(endings) == {("u True",), ("u False",)}


def test_of_two_that_upgrade_at_once_exactly_one_succeeds() -> None:
    def build(k: Kernel) -> None:
        lock = UserMapLock(k, "m", nothing)

        async def upgrades() -> None:
            await lock.lock_read()
            await k.delay(5)
            got = await lock.lock_upgrade()
            k.record(did=got)
            if got:
                await lock.unlock()

        k.spawn(upgrades, name="a")
        k.spawn(upgrades, name="b")

    endings = every(build)
    assert kinds(endings) == {None}
    assert {tuple(sorted(word.split()[1] for word in ending.said)) for ending in endings} == {("False", "True")}


def test_an_upgrade_is_not_undone_by_a_writer_that_only_waits() -> None:
    """The sole reader upgrades at once, past a writer that sleeps on the lock."""

    async def upgrades(k: Kernel, lock: UserMapLock) -> None:
        await lock.lock_read()
        await k.delay(5)
        assert await lock.lock_upgrade()
        k.record(did="in")
        await lock.unlock()

    async def writes(k: Kernel, lock: UserMapLock) -> None:
        await k.delay(1)
        await lock.lock()
        k.record(did="in")
        await lock.unlock()

    assert outcomes(every(world(UserMapLock, upgrades, writes))) == {("upgrades in", "writes in")}


def test_an_upgrade_of_a_system_map_always_succeeds() -> None:
    def build(k: Kernel) -> None:
        lock = SystemMapLock(k, "m", nothing)

        async def upgrades() -> None:
            await lock.lock_read()
            stamp = lock.timestamp.peek()
            assert await lock.lock_upgrade()
            assert lock.timestamp.peek() == stamp + 1
            await lock.lock_downgrade()
            assert lock.timestamp.peek() == stamp + 1
            await lock.unlock_read()

        for _ in range(3):
            k.spawn(upgrades)

    assert kinds(explore(build, 500)) == {None}


def test_a_downgrade_lets_readers_in_and_keeps_writers_out() -> None:
    async def downgrades(k: Kernel, lock: UserMapLock) -> None:
        await lock.lock()
        await k.delay(5)
        k.record(did="down")
        await lock.lock_downgrade()
        assert not lock.locked()
        assert not await lock.trylock()
        await k.delay(5)
        k.record(did="out")
        await lock.unlock_read()

    async def reads(k: Kernel, lock: UserMapLock) -> None:
        await k.delay(1)
        await lock.lock_read()
        k.record(did="in")
        await lock.unlock_read()

    async def writes(k: Kernel, lock: UserMapLock) -> None:
        await k.delay(1)
        await lock.lock()
        k.record(did="in")
        await lock.unlock()

    endings = every(world(UserMapLock, downgrades, reads))
    assert outcomes(endings) == {("downgrades down", "reads in", "downgrades out")}
    endings = every(world(UserMapLock, downgrades, writes))
    assert outcomes(endings) == {("downgrades down", "downgrades out", "writes in")}


# ---------------------------------------------------------------- busy


@BOTH
def test_wait_busy_sleeps_until_the_last_is_done_and_moves_the_timestamp_once(make: Make) -> None:
    def build(k: Kernel) -> None:
        lock = make(k, "m", nothing)

        async def busies() -> None:
            await lock.lock()
            await lock.busy()
            await lock.busy()
            await lock.unlock()
            for _ in range(2):
                await k.delay(5)
                await lock.lock()
                k.record(did="unbusy")
                await lock.unbusy()
                await lock.unlock()

        async def waits() -> None:
            await k.delay(1)
            await lock.lock()
            await lock.wait_busy()
            assert lock.locked()
            assert not lock.busy_count
            assert not lock.busy_wakeup
            k.record(did=lock.timestamp.peek())
            await lock.unlock()

        k.spawn(busies, name="b")
        k.spawn(waits, name="w")

    # busies locks three times, waits once and once more at the end of its wait.
    endings = every(build)
    assert kinds(endings) == {None}
    assert outcomes(endings) == {("b unbusy", "b unbusy", "w 5")}


@BOTH
def test_a_busy_map_may_be_locked_by_anybody(make: Make) -> None:
    async def busies(k: Kernel, lock: AnyMapLock) -> None:
        await lock.lock()
        await lock.busy()
        await lock.unlock()
        await k.delay(5)
        await lock.lock()
        await lock.unbusy()
        await lock.unlock()

    async def other(k: Kernel, lock: AnyMapLock) -> None:
        await k.delay(1)
        assert await lock.trylock()
        assert lock.busy_count == 1
        await lock.unlock()

    assert kinds(every(world(make, busies, other))) == {None}


@BOTH
def test_no_waiter_for_busy_is_forgotten(make: Make) -> None:
    def build(k: Kernel) -> None:
        lock = make(k, "m", nothing)

        async def busies() -> None:
            await lock.lock()
            await lock.busy()
            await lock.unlock()
            await lock.lock()
            await lock.unbusy()
            await lock.unlock()

        async def waits() -> None:
            await lock.lock()
            await lock.wait_busy()
            assert not lock.busy_count
            await lock.unlock()

        for body in (busies, busies, waits, waits):
            k.spawn(body)

    endings = explore(build, 1500)
    assert kinds(endings) == {None}
    assert any(step[1:3] == ("sleep", "m.busy") for ending in endings for step in ending.steps)


# ---------------------------------------------------------------- sleeping on the map


class _Room:
    """Waits for an item under the map's lock as kmap_alloc_wait does for addresses."""

    def __init__(self, k: Kernel, make: Make) -> None:
        self.k = k
        self.lock = make(k, "m", nothing)
        self.items = 0
        self.needs_wakeup = False

    async def take(self) -> None:
        lock = self.lock
        while True:
            await lock.lock()
            if self.items:
                break
            self.needs_wakeup = True
            woken = await lock.unlock_and_wait(until=lambda: self.items > 0)
            assert woken is Wake.WOKEN
            assert not lock.locked()
            assert not lock.map_sleep_mtx.owned()
        self.items -= 1
        await lock.unlock()

    async def give(self) -> None:
        lock = self.lock
        await lock.lock()
        self.items += 1
        wanted = self.needs_wakeup
        self.needs_wakeup = False
        await lock.unlock()
        if wanted:
            await lock.wakeup()


@BOTH
def test_unlock_and_wait_with_wakeup_loses_nothing(make: Make) -> None:
    def build(k: Kernel) -> None:
        room = _Room(k, make)
        for _ in range(2):
            k.spawn(room.take)
        for _ in range(2):
            k.spawn(room.give)

    endings = explore(build, 3000)
    assert kinds(endings) == {None}
    assert max(sum(step[1:3] == ("sleep", "m.root") for step in ending.steps) for ending in endings) >= 3


@BOTH
def test_one_taker_and_one_giver_in_every_schedule(make: Make) -> None:
    def build(k: Kernel) -> None:
        room = _Room(k, make)
        k.spawn(room.take)
        k.spawn(room.give)

    assert kinds(every(build)) == {None}


def test_a_waker_that_does_not_pass_through_the_sleepers_mutex_loses_a_wakeup() -> None:
    class Hasty(UserMapLock):
        async def wakeup(self) -> None:
            await self.root.wakeup()

    def build(k: Kernel) -> None:
        room = _Room(k, Hasty)
        k.spawn(room.take)
        k.spawn(room.give)

    assert kinds(every(build)) == {None, "lost-wakeup"}


@BOTH
def test_a_sleep_on_the_map_may_be_limited_in_time(make: Make) -> None:
    async def t(k: Kernel, lock: AnyMapLock) -> None:
        await lock.lock()
        k.record(did=(await lock.unlock_and_wait(7)).name)
        assert not lock.locked()
        k.record(did=k.now)

    assert only(every(world(make, t))).said == ("t TIMEOUT", "t 7")


@BOTH
def test_wakeup_needs_no_lock_and_is_not_remembered(make: Make) -> None:
    async def t(_k: Kernel, lock: AnyMapLock) -> None:
        await lock.wakeup()
        await lock.lock()
        await lock.wakeup()
        await lock.unlock_and_wait()

    assert only(every(world(make, t))).kind == "stranded"


@BOTH
def test_wakeup_wakes_all(make: Make) -> None:
    async def sleeps(_k: Kernel, lock: AnyMapLock) -> None:
        await lock.lock()
        await lock.unlock_and_wait()

    async def wakes(k: Kernel, lock: AnyMapLock) -> None:
        await k.delay(1)
        await lock.wakeup()

    assert kinds(explore(world(make, sleeps, sleeps, sleeps, wakes), 500)) == {None}


def test_one_mutex_serves_all_maps() -> None:
    def build(k: Kernel) -> None:
        first = UserMapLock(k, "a", nothing)
        second = SystemMapLock(k, "b", nothing)
        assert first.map_sleep_mtx is second.map_sleep_mtx

        async def sleeps() -> None:
            await first.lock()
            await first.unlock_and_wait()
            k.record(did="woken")

        async def wakes() -> None:
            await k.delay(1)
            await second.wakeup()
            k.record(did="other map")
            await k.delay(1)
            await first.wakeup()

        k.spawn(sleeps, name="s")
        k.spawn(wakes, name="w")

    endings = every(build)
    assert kinds(endings) == {None}
    assert outcomes(endings) == {("w other map", "s woken")}


# ---------------------------------------------------------------- the invariants


@BOTH
def test_the_invariants_are_called_at_each_release_of_a_write_hold(make: Make) -> None:
    def build(k: Kernel) -> None:
        calls: list[bool] = []
        lock = make(k, "m", lambda: calls.append(lock.locked()))

        async def t() -> None:
            await lock.lock()
            await lock.unlock()
            assert len(calls) == 1
            await lock.lock_read()
            await lock.unlock_read()
            assert len(calls) == 1
            await lock.lock()
            await lock.lock_downgrade()
            assert len(calls) == 2
            await lock.unlock_read()
            assert len(calls) == 2
            await lock.lock()
            await lock.unlock_and_wait(1)
            assert len(calls) == 3
            await lock.lock()
            await lock.busy()
            helper = k.spawn(unbusies)
            await lock.wait_busy()
            assert len(calls) == 5, "one for the sleep, one for the helper"
            await lock.unlock()
            assert calls == [True] * 6
            await k.join(helper)

        async def unbusies() -> None:
            await lock.lock()
            await lock.unbusy()
            await lock.unlock()

        k.spawn(t)

    assert kinds(every(build)) == {None}
