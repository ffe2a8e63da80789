"""Reader-writer locks: the weakest promise, and NetBSD's rules one by one.

Arrivals are put in order by delays: time passes only when nobody can run, so it is the same order in every schedule.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from stressvm import Kernel, NetBSDRwLock, Rw, RwLock
from tests.support import Ending, every, explore, kinds, outcomes, run

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

BOTH = pytest.mark.parametrize("make", [RwLock, NetBSDRwLock])


class World:
    """Threads that come for one lock at given ticks, hold it for a while, and say when they got it."""

    def __init__(self, k: Kernel, make: type[RwLock]) -> None:
        self.k = k
        self.lock = make(k, "rw")

    def add(self, name: str, how: Rw, *, at: int, stay: int = 0) -> None:
        """A thread that holds the lock from its grant on for `stay` ticks."""

        async def holds() -> None:
            k = self.k
            await k.delay(at)
            await self.lock.enter(how)
            k.record(did="in")
            await k.delay(stay)
            await self.lock.exit()

        self.k.spawn(holds, name=name)

    def tries(self, name: str, how: Rw, *, at: int) -> None:
        """A thread that tries once."""

        async def tries() -> None:
            k = self.k
            await k.delay(at)
            got = await self.lock.tryenter(how)
            k.record(did="in" if got else "refused")
            if got:
                await self.lock.exit()

        self.k.spawn(tries, name=name)


def _world(make: type[RwLock], *who: tuple[str, Rw, int, int]) -> Callable[[Kernel], None]:
    def build(k: Kernel) -> None:
        world = World(k, make)
        for name, how, at, stay in who:
            world.add(name, how, at=at, stay=stay)

    return build


def _single(body: Callable[[Kernel, RwLock], Coroutine[Any, Any, None]], make: type[RwLock]) -> list[Ending]:
    def build(k: Kernel) -> None:
        lock = make(k, "rw")
        k.spawn(body, k, lock, name="t")

    return every(build)


@BOTH
def test_a_writer_excludes_everybody_and_readers_exclude_writers_only(make: type[RwLock]) -> None:
    shared: list[int] = []

    def build(k: Kernel) -> None:
        lock = make(k, "rw")
        inside: list[Rw] = []

        async def enter(how: Rw) -> None:
            await lock.enter(how)
            assert Rw.WRITER not in inside
            assert how is Rw.READER or not inside
            assert lock.write_held() == (how is Rw.WRITER)
            assert lock.read_held() == (how is Rw.READER)
            inside.append(how)
            shared.append(len(inside))
            await k.yield_()
            inside.remove(how)
            await lock.exit()

        for how in (Rw.WRITER, Rw.READER, Rw.READER):
            k.spawn(enter, how)

    assert kinds(explore(build, 1500)) == {None}
    assert max(shared) == 2


def test_with_the_weakest_promise_a_reader_may_pass_a_waiting_writer_or_not() -> None:
    build = _world(RwLock, ("r1", Rw.READER, 0, 5), ("w", Rw.WRITER, 1, 0), ("r2", Rw.READER, 2, 0))
    assert outcomes(every(build)) == {("r1 in", "r2 in", "w in")}
    late = _world(RwLock, ("r1", Rw.WRITER, 0, 5), ("w", Rw.WRITER, 1, 0), ("r2", Rw.READER, 2, 0))
    assert outcomes(every(late)) == {("r1 in", "r2 in", "w in"), ("r1 in", "w in", "r2 in")}


def test_netbsd_a_reader_waits_behind_a_waiting_writer() -> None:
    build = _world(NetBSDRwLock, ("r1", Rw.READER, 0, 5), ("w", Rw.WRITER, 1, 0), ("r2", Rw.READER, 2, 0))
    assert outcomes(every(build)) == {("r1 in", "w in", "r2 in")}


def test_netbsd_a_writer_hands_over_to_all_sleeping_readers_at_once() -> None:
    build = _world(
        NetBSDRwLock,
        ("w1", Rw.WRITER, 0, 9),
        ("w2", Rw.WRITER, 1, 0),
        ("r1", Rw.READER, 2, 5),
        ("r2", Rw.READER, 3, 5),
    )
    endings = every(build)
    # Both readers hold it, together, before the writer that came first.
    assert outcomes(endings) == {("w1 in", "r1 in", "r2 in", "w2 in"), ("w1 in", "r2 in", "r1 in", "w2 in")}
    for ending in endings:
        steps = [(t, kind) for t, kind, obj, _ in ending.steps if obj == "rw"]
        released = steps.index((0, "unlock"))
        assert {t for t, kind in steps[released + 1 : released + 3] if kind == "read-lock"} == {2, 3}


def test_netbsd_readers_that_were_handed_the_lock_hold_it_before_they_run() -> None:
    def build(k: Kernel) -> None:
        world = World(k, NetBSDRwLock)
        world.add("r1", Rw.READER, at=2, stay=5)

        async def writer() -> None:
            await world.lock.enter(Rw.WRITER)
            await k.delay(9)
            await world.lock.exit()
            k.record(did=world.lock.statistics().readers)

        k.spawn(writer, name="w")

    assert outcomes(every(build)) == {("w ('r1',)", "r1 in")}


def test_netbsd_the_last_reader_hands_over_to_the_longest_waiting_writer_when_readers_wait_too() -> None:
    build = _world(
        NetBSDRwLock,
        ("r1", Rw.READER, 0, 9),
        ("w1", Rw.WRITER, 1, 0),
        ("w2", Rw.WRITER, 2, 0),
        ("r2", Rw.READER, 3, 0),
    )
    endings = every(build)
    # w1 by hand-off; its own release finds readers asleep, and hands over to them.
    assert outcomes(endings) == {("r1 in", "w1 in", "r2 in", "w2 in")}


def test_netbsd_all_writers_compete_when_only_writers_wait() -> None:
    build = _world(NetBSDRwLock, ("r1", Rw.READER, 0, 9), ("w1", Rw.WRITER, 1, 0), ("w2", Rw.WRITER, 2, 0))
    assert outcomes(every(build)) == {("r1 in", "w1 in", "w2 in"), ("r1 in", "w2 in", "w1 in")}


def test_netbsd_new_readers_stay_out_while_woken_writers_compete() -> None:
    def build(k: Kernel) -> None:
        world = World(k, NetBSDRwLock)
        world.add("w1", Rw.WRITER, at=1)
        world.add("w2", Rw.WRITER, at=2)

        async def reader() -> None:
            await world.lock.enter(Rw.READER)
            await k.delay(9)
            await world.lock.exit()
            # Nobody holds it unless a writer has got it: a try for reading meets the wanted bit at least once.
            k.record(did=await world.lock.tryenter(Rw.READER))

        k.spawn(reader, name="r")

    firsts = {ending.said[0] for ending in every(build)}
    assert "r False" in firsts
    assert "r True" not in firsts


def test_netbsd_a_writer_that_comes_late_may_barge_past_sleeping_writers() -> None:
    def build(k: Kernel) -> None:
        world = World(k, NetBSDRwLock)
        world.add("w1", Rw.WRITER, at=1)

        async def reader() -> None:
            await world.lock.enter(Rw.READER)
            await k.delay(9)
            await world.lock.exit()
            await world.lock.enter(Rw.WRITER)
            k.record(did="barged")
            await world.lock.exit()

        k.spawn(reader, name="r")

    assert outcomes(every(build)) == {("r barged", "w1 in"), ("w1 in", "r barged")}


def test_netbsd_a_try_for_writing_heeds_holders_only() -> None:
    def build(k: Kernel) -> None:
        world = World(k, NetBSDRwLock)
        world.add("w1", Rw.WRITER, at=1)

        async def reader() -> None:
            await world.lock.enter(Rw.READER)
            await k.delay(9)
            assert not await world.lock.tryenter(Rw.WRITER), "it is held for reading"
            await world.lock.exit()
            # The writer has been woken, and wants it; the try does not care.
            if await world.lock.tryenter(Rw.WRITER):
                k.record(did="got it by trying")
                await world.lock.exit()

        k.spawn(reader, name="r")

    assert ("r got it by trying", "w1 in") in outcomes(every(build))


def test_a_try_for_reading_heeds_waiting_writers_under_netbsd_and_not_with_the_weakest_promise() -> None:
    def build(make: type[RwLock]) -> Callable[[Kernel], None]:
        def world(k: Kernel) -> None:
            world = World(k, make)
            world.add("r1", Rw.READER, at=0, stay=9)
            world.add("w", Rw.WRITER, at=1)
            world.tries("r2", Rw.READER, at=2)

        return world

    assert outcomes(every(build(NetBSDRwLock))) == {("r1 in", "r2 refused", "w in")}
    assert outcomes(every(build(RwLock))) == {("r1 in", "r2 in", "w in")}


@BOTH
def test_a_read_hold_may_recurse_and_is_released_as_often(make: type[RwLock]) -> None:
    def build(k: Kernel) -> None:
        world = World(k, make)

        async def twice() -> None:
            await world.lock.enter(Rw.READER)
            await world.lock.enter(Rw.READER)
            k.record(did="twice")
            await world.lock.exit()
            await k.delay(5)
            k.record(did="once more")
            await world.lock.exit()

        k.spawn(twice, name="r")
        world.add("w", Rw.WRITER, at=1)

    assert outcomes(every(build)) == {("r twice", "r once more", "w in")}


def test_netbsd_a_recursive_read_deadlocks_with_a_writer_in_between() -> None:
    def build(make: type[RwLock]) -> Callable[[Kernel], None]:
        def world(k: Kernel) -> None:
            world = World(k, make)
            world.add("w", Rw.WRITER, at=1)

            async def twice() -> None:
                await world.lock.enter(Rw.READER)
                await k.delay(5)
                await world.lock.enter(Rw.READER)
                await world.lock.exit()
                await world.lock.exit()

            k.spawn(twice, name="r")

        return world

    assert kinds(every(build(NetBSDRwLock))) == {"deadlock"}
    assert kinds(every(build(RwLock))) == {None}


@BOTH
def test_an_upgrade_is_for_the_only_reader_and_leaves_others_readers(make: type[RwLock]) -> None:
    def build(k: Kernel) -> None:
        lock = make(k, "rw")

        async def upgrades() -> None:
            await lock.enter(Rw.READER)
            await k.delay(2)
            k.record(did=await lock.tryupgrade())
            assert lock.read_held()
            await k.delay(5)
            k.record(did=await lock.tryupgrade())
            assert lock.write_held()
            await lock.exit()

        async def reads() -> None:
            await lock.enter(Rw.READER)
            await k.delay(4)
            await lock.exit()

        k.spawn(upgrades, name="up")
        k.spawn(reads)

    assert outcomes(every(build)) == {("up False", "up True")}


@BOTH
def test_a_recursive_reader_cannot_upgrade(make: type[RwLock]) -> None:
    async def body(k: Kernel, lock: RwLock) -> None:
        await lock.enter(Rw.READER)
        await lock.enter(Rw.READER)
        k.record(did=await lock.tryupgrade())
        await lock.exit()
        k.record(did=await lock.tryupgrade())
        await lock.exit()

    assert outcomes(_single(body, make)) == {("t False", "t True")}


@BOTH
def test_an_upgrade_passes_a_waiting_writer(make: type[RwLock]) -> None:
    def build(k: Kernel) -> None:
        world = World(k, make)
        world.add("w", Rw.WRITER, at=1)

        async def upgrades() -> None:
            await world.lock.enter(Rw.READER)
            await k.delay(5)
            k.record(did=await world.lock.tryupgrade())
            await world.lock.exit()

        k.spawn(upgrades, name="up")

    endings = every(build)
    assert kinds(endings) == {None}
    assert outcomes(endings) == {("up True", "w in")}


@BOTH
def test_a_downgrade_lets_sleeping_readers_in_and_keeps_writers_out(make: type[RwLock]) -> None:
    def build(k: Kernel) -> None:
        world = World(k, make)
        world.add("r", Rw.READER, at=1, stay=1)
        world.add("w", Rw.WRITER, at=2)

        async def downgrades() -> None:
            await world.lock.enter(Rw.WRITER)
            await k.delay(5)
            await world.lock.downgrade()
            assert world.lock.read_held()
            await k.delay(5)
            k.record(did="leaves")
            await world.lock.exit()

        k.spawn(downgrades, name="d")

    endings = every(build)
    assert kinds(endings) == {None}
    assert outcomes(endings) == {("r in", "d leaves", "w in")}


def test_netbsd_a_downgrade_does_not_let_new_readers_pass_a_waiting_writer() -> None:
    def build(k: Kernel) -> None:
        world = World(k, NetBSDRwLock)
        world.add("w", Rw.WRITER, at=1)
        world.add("r", Rw.READER, at=7)

        async def downgrades() -> None:
            await world.lock.enter(Rw.WRITER)
            await k.delay(5)
            await world.lock.downgrade()
            await k.delay(5)
            await world.lock.exit()

        k.spawn(downgrades, name="d")

    assert outcomes(every(build)) == {("w in", "r in")}


@BOTH
def test_statistics_tell_holders_and_waiters_apart(make: type[RwLock]) -> None:
    def build(k: Kernel) -> None:
        world = World(k, make)

        async def first() -> None:
            await world.lock.enter(Rw.WRITER)
            await k.delay(5)
            stats = world.lock.statistics()
            k.record(did=(stats.writer, stats.readers, stats.waiting_readers, stats.waiting_writers))
            await world.lock.exit()

        k.spawn(first, name="first")
        world.add("w", Rw.WRITER, at=1)
        world.add("r", Rw.READER, at=2)

    assert {ending.said[0] for ending in every(build)} == {"first ('first', (), ('r',), ('w',))"}


def test_an_uncontended_lock_takes_one_step_and_a_contended_one_two_under_netbsd_rules() -> None:
    build = _world(NetBSDRwLock, ("w", Rw.WRITER, 0, 5), ("r", Rw.READER, 1, 0))
    steps = [(step.thread, step.kind) for step in run(build).records if step.obj == "rw"]
    assert steps == [(0, "write-lock"), (1, "block-read"), (0, "unlock"), (1, "read-lock"), (1, "unlock")]
