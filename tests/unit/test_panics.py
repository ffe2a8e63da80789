"""Every assertion of the modelled kernel, provoked: what it is called, whom and what it names, and where it stood."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from stressvm import CondVar, Fifo, Kernel, Mutex, Rw, RwLock, Semaphore, SleepQueue, SpinMutex, Sx
from stressvm.kernel.rwlock import NetBSDRwLock
from tests.support import DRIVERS, run

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

    Body = Callable[["World"], Coroutine[Any, Any, None]]


@dataclass
class World:
    """One of everything."""

    k: Kernel
    mutex: Mutex = field(init=False)
    queued: Mutex = field(init=False)
    spin: SpinMutex = field(init=False)
    spin2: SpinMutex = field(init=False)
    rw: RwLock = field(init=False)
    nrw: NetBSDRwLock = field(init=False)
    sx: Sx = field(init=False)
    cv: CondVar = field(init=False)
    channel: SleepQueue = field(init=False)
    sema: Semaphore = field(init=False)

    def __post_init__(self) -> None:
        k = self.k
        self.mutex = Mutex(k, "mtx")
        self.queued = Mutex(k, "queued", Fifo())
        self.spin = SpinMutex(k, "spin")
        self.spin2 = SpinMutex(k, "spin2")
        self.rw = RwLock(k, "rw")
        self.nrw = NetBSDRwLock(k, "nrw")
        self.sx = Sx(k, "sx")
        self.cv = CondVar(k, "cv")
        self.channel = SleepQueue(k, "channel")
        self.sema = Semaphore(k, 0, "sema")


async def mutex_twice(w: World) -> None:
    await w.mutex.lock()
    await w.mutex.lock()


async def queued_mutex_twice(w: World) -> None:
    await w.queued.lock()
    await w.queued.lock()


async def spin_twice(w: World) -> None:
    await w.spin.lock()
    await w.spin.lock()


async def mutex_unlock_free(w: World) -> None:
    await w.mutex.unlock()


async def spin_unlock_free(w: World) -> None:
    await w.spin.unlock()


async def sleep_without_the_interlock(w: World) -> None:
    await w.cv.wait(w.mutex)


async def sleep_without_the_sx(w: World) -> None:
    await w.channel.sleep(w.sx, "wmesg")


async def sleep_without_interlock_or_timeout(w: World) -> None:
    await w.channel.sleep(None, "wmesg")


async def rw_write_twice(w: World) -> None:
    await w.rw.enter(Rw.WRITER)
    await w.rw.enter(Rw.WRITER)


async def rw_read_while_writing(w: World) -> None:
    await w.rw.enter(Rw.WRITER)
    await w.rw.enter(Rw.READER)


async def nrw_write_twice(w: World) -> None:
    await w.nrw.enter(Rw.WRITER)
    await w.nrw.enter(Rw.WRITER)


async def nrw_read_while_writing(w: World) -> None:
    await w.nrw.enter(Rw.WRITER)
    await w.nrw.enter(Rw.READER)


async def rw_exit_free(w: World) -> None:
    await w.rw.exit()


async def rw_exit_once_too_often(w: World) -> None:
    await w.rw.enter(Rw.READER)
    await w.rw.enter(Rw.READER)
    await w.rw.exit()
    await w.rw.exit()
    await w.rw.exit()


async def nrw_exit_free(w: World) -> None:
    await w.nrw.exit()


async def rw_upgrade_unheld(w: World) -> None:
    await w.rw.tryupgrade()


async def rw_upgrade_as_writer(w: World) -> None:
    await w.rw.enter(Rw.WRITER)
    await w.rw.tryupgrade()


async def rw_downgrade_as_reader(w: World) -> None:
    await w.rw.enter(Rw.READER)
    await w.rw.downgrade()


async def nrw_downgrade_unheld(w: World) -> None:
    await w.nrw.downgrade()


async def sx_twice(w: World) -> None:
    await w.sx.xlock()
    await w.sx.xlock()


async def sx_share_while_exclusive(w: World) -> None:
    await w.sx.xlock()
    await w.sx.slock()


async def sx_unlock_free(w: World) -> None:
    await w.sx.unlock()


async def sx_upgrade_unheld(w: World) -> None:
    await w.sx.try_upgrade()


async def sx_downgrade_as_sharer(w: World) -> None:
    await w.sx.slock()
    await w.sx.downgrade()


async def joins_itself(w: World) -> None:
    await w.k.join(w.k.threads[0])


PANICS: list[tuple[Body, str]] = [
    (mutex_twice, "culprit: mtx: locking against myself"),
    (queued_mutex_twice, "culprit: queued: locking against myself"),
    (spin_twice, "culprit: spin: locking against myself"),
    (mutex_unlock_free, "culprit: mtx: released, but nobody owns it"),
    (spin_unlock_free, "culprit: spin: released, but nobody owns it"),
    (sleep_without_the_interlock, "culprit: mtx: released, but nobody owns it"),
    (sleep_without_the_sx, "culprit: sx: not held by it, but by nobody"),
    (sleep_without_interlock_or_timeout, "culprit: channel: wmesg: a sleep without interlock needs a timeout"),
    (rw_write_twice, "culprit: rw: locking against myself"),
    (rw_read_while_writing, "culprit: rw: locking against myself"),
    (nrw_write_twice, "culprit: nrw: locking against myself"),
    (nrw_read_while_writing, "culprit: nrw: locking against myself"),
    (rw_exit_free, "culprit: rw: not held by it, but by nobody"),
    (rw_exit_once_too_often, "culprit: rw: not held by it, but by nobody"),
    (nrw_exit_free, "culprit: nrw: not held by it, but by nobody"),
    (rw_upgrade_unheld, "culprit: rw: upgrade of a lock that is not read-held"),
    (rw_upgrade_as_writer, "culprit: rw: upgrade of a lock that is not read-held"),
    (rw_downgrade_as_reader, "culprit: rw: not held by it, but by culprit"),
    (nrw_downgrade_unheld, "culprit: nrw: not held by it, but by nobody"),
    (sx_twice, "culprit: sx: locking against myself"),
    (sx_share_while_exclusive, "culprit: sx: locking against myself"),
    (sx_unlock_free, "culprit: sx: not held by it, but by nobody"),
    (sx_upgrade_unheld, "culprit: sx: upgrade of a lock that is not read-held"),
    (sx_downgrade_as_sharer, "culprit: sx: not held by it, but by culprit"),
    (joins_itself, "culprit joins itself"),
]


async def lock(w: World) -> None:
    await w.mutex.lock()


async def lock_queued(w: World) -> None:
    await w.queued.lock()


async def read(w: World) -> None:
    await w.rw.enter(Rw.READER)


async def write(w: World) -> None:
    await w.nrw.enter(Rw.WRITER)


async def share(w: World) -> None:
    await w.sx.slock()


async def exclude(w: World) -> None:
    await w.sx.xlock()


async def take_unit(w: World) -> None:
    await w.sema.wait()


async def delay(w: World) -> None:
    await w.k.delay(1)


async def join(w: World) -> None:
    await w.k.join(w.k.threads[1])


async def tsleep(w: World) -> None:
    await w.channel.sleep(None, "wmesg", timo=1)


async def cv_wait(w: World) -> None:
    await w.spin2.lock()
    await w.cv.wait(w.spin2)


async def cv_timedwait(w: World) -> None:
    await w.spin2.lock()
    await w.cv.timedwait(w.spin2, 5)


#: All that may sleep, and how its text names it.
SLEEPS: list[tuple[Body, str]] = [
    (lock, "lock mtx"),
    (lock_queued, "lock queued"),
    (read, "read lock rw"),
    (write, "write lock nrw"),
    (share, "read lock sx"),
    (exclude, "write lock sx"),
    (take_unit, "sema_wait sema"),
    (delay, "delay"),
    (join, "join bystander"),
    (tsleep, "sleep on channel"),
    (cv_wait, "sleep on cv"),
    (cv_timedwait, "sleep on cv"),
]


def _provoke(body: Body, kind: str, text: str, driver: str, *, interrupt: bool = False, spin: bool = False) -> None:
    def build(k: Kernel) -> None:
        world = World(k)

        async def culprit() -> None:
            if spin:
                await world.spin.lock()
            await body(world)

        async def bystander() -> None:
            await k.delay(1)

        k.spawn(culprit, name="culprit", interrupt=interrupt)
        k.spawn(bystander, name="bystander")

    recording = run(build, driver=driver)
    verdict = recording.verdict
    assert verdict is not None
    assert verdict.kind == kind
    assert verdict.text == f"{text} (in {body.__name__})"
    assert verdict.threads == (0,)
    thread = recording.threads[0]
    assert thread.state == f"stopped: {text}"
    mine = [frame.function for frame in thread.stack if not frame.ours]
    assert mine[-1] == body.__name__
    assert any(frame.text.startswith("await body(world)") for frame in thread.stack)


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize(("body", "text"), PANICS, ids=[body.__name__ for body, _ in PANICS])
def test_misuse_panics(body: Body, text: str, driver: str) -> None:
    _provoke(body, "panic", text, driver)


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize(("body", "what"), SLEEPS, ids=[body.__name__ for body, _ in SLEEPS])
def test_sleeping_in_interrupt_context_breaks_the_sleep_rule(body: Body, what: str, driver: str) -> None:
    text = f"culprit: {what} in interrupt context, where sleeping is not allowed"
    _provoke(body, "sleep-rule", text, driver, interrupt=True)


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize(("body", "what"), SLEEPS, ids=[body.__name__ for body, _ in SLEEPS])
def test_sleeping_with_a_spin_mutex_held_breaks_the_sleep_rule(body: Body, what: str, driver: str) -> None:
    _provoke(body, "sleep-rule", f"culprit: {what} with a spin mutex held", driver, spin=True)


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("make", [Mutex, SpinMutex])
def test_releasing_somebody_elses_mutex_names_the_owner(make: type[Mutex], driver: str) -> None:
    def build(k: Kernel) -> None:
        m = make(k, "m")

        async def owner() -> None:
            await m.lock()
            await k.yield_()
            await m.unlock()

        async def thief() -> None:
            await m.unlock()

        k.spawn(owner, name="owner")
        k.spawn(thief, name="thief")

    verdict = run(build, [0, 1], driver=driver).verdict
    assert verdict is not None
    assert verdict.kind == "panic"
    assert verdict.text.startswith("thief: m: released, but owner owns it")


def test_releasing_somebody_elses_rwlock_names_all_holders() -> None:
    def build(k: Kernel) -> None:
        rw = RwLock(k, "rw")

        async def reader() -> None:
            await rw.enter(Rw.READER)
            await k.delay(9)
            await rw.exit()

        async def thief() -> None:
            await k.delay(1)
            await rw.exit()

        k.spawn(reader, name="r1")
        k.spawn(reader, name="r2")
        k.spawn(thief, name="thief")

    verdict = run(build).verdict
    assert verdict is not None
    assert verdict.text.startswith("thief: rw: not held by it, but by r1, r2")


def test_two_mutexes_for_one_condition_variable_panic_with_both_names() -> None:
    def build(k: Kernel) -> None:
        a, b, cv = Mutex(k, "a"), Mutex(k, "b"), CondVar(k, "cv")

        async def waits(mutex: Mutex, at: int) -> None:
            await k.delay(at)
            await mutex.lock()
            await cv.wait(mutex)

        k.spawn(waits, a, 1, name="first")
        k.spawn(waits, b, 2, name="second")

    recording = run(build)
    assert recording.verdict is not None
    assert recording.verdict.kind == "panic"
    assert recording.verdict.text.startswith("second: cv: waited on with b while others sleep with a as interlock")
    assert [frame.function.rpartition(".")[2] for frame in recording.threads[1].stack if not frame.ours] == ["waits"]


def test_a_panic_cannot_be_swallowed() -> None:
    def build(k: Kernel) -> None:
        m = Mutex(k, "m")

        async def careless() -> None:
            try:
                await m.unlock()
            except Exception:  # noqa: BLE001 - what careless code does
                k.record(did="swallowed")
            await k.yield_()
            k.record(did="went on")

        k.spawn(careless, name="c")

    recording = run(build)
    assert recording.verdict is not None
    assert recording.verdict.kind == "panic"
    assert "went on" not in {step.arg["did"] for step in recording.records if step.kind == "record"}
