"""Each detector that there is: a program that breaks its subject is found by it in a hunt, and the program's twin is not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from stressvm import (
    Atomic,
    Cell,
    CondVar,
    History,
    Kernel,
    Mutex,
    Specification,
    bounds,
    nothing_left,
    scenario,
)
from stressvm.check.detectors import DETECTORS
from stressvm.explore.hunt import hunt_subject
from stressvm.explore.settings import Settings
from stressvm.explore.subject import Subject
from stressvm.kernel.balance import Left
from tests.support import in_trio

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from stressvm import Call
    from stressvm.explore.result import Result


class Register(Specification):
    """A number that is counted up: each call answers what it was."""

    def initial(self, calls: Sequence[Call]) -> int:
        del calls
        return 0

    def step(self, state: int, call: Call) -> tuple[bool, int]:
        return call.pending or call.result == state, state + 1


def linearizable(k: Kernel, *, broken: bool) -> None:
    """A counter whose load and store are two steps, or one."""
    count = Atomic(k, 0, "count")
    history = History(k, Register(), "counter")

    async def add() -> int:
        if not broken:
            return await count.fetchadd(1)
        was = await count.load()
        await count.store(was + 1)
        return was

    for _ in range(2):
        k.spawn(history.do, add)


def raced(k: Kernel, *, broken: bool) -> None:
    """Two threads write a cell, with its lock or without."""
    lock, cell = Mutex(k, "lock"), Cell(k, 0, "cell")

    async def writes() -> None:
        if not broken:
            await lock.lock()
        await cell.store(1)
        if not broken:
            await lock.unlock()

    for _ in range(2):
        k.spawn(writes)


def two_orders(k: Kernel, *, broken: bool) -> None:
    """Two locks in two orders, and a flag that no lock shows, which keeps the threads apart."""
    locks = [Mutex(k, "a"), Mutex(k, "b")]
    done = Cell(k, 0, "done")

    async def one(order: Sequence[Mutex], *, second: bool) -> None:
        if second and not await done.load():
            return
        for lock in order:
            await lock.lock()
        for lock in reversed(order):
            await lock.unlock()
        if not second:
            await done.store(1)

    k.spawn(lambda: one(locks, second=False))
    k.spawn(lambda: one(locks[::-1] if broken else locks, second=True))


def duplicates(k: Kernel, *, broken: bool) -> None:
    """Two locks of one class are held at once, or one after the other."""
    locks = [Mutex(k, "entry1"), Mutex(k, "entry2")]

    async def holds() -> None:
        await locks[0].lock()
        if not broken:
            await locks[0].unlock()
        await locks[1].lock()
        await locks[1].unlock()
        if broken:
            await locks[0].unlock()

    for _ in range(2):
        k.spawn(holds)


def leaves(k: Kernel, *, broken: bool) -> None:
    """Two threads take a reference; one of them forgets to give it back if it is the last to look."""
    held = Atomic(k, 0, "references")
    nothing_left(k, "references", lambda: [Left("a reference", "references")] * held.peek())

    async def user() -> None:
        await held.fetchadd(1)
        alone = await held.load() == 1
        if alone or not broken:
            await held.fetchadd(-1)

    for _ in range(2):
        k.spawn(user)


def overtaken(k: Kernel, *, broken: bool) -> None:
    """A mutex that anybody may take, and whose waiter two others overtake; or they come only once."""
    bounds(k, overtakes=1)
    mutex = Mutex(k, "mutex")

    async def comes(times: int) -> None:
        for _ in range(times):
            await mutex.lock()
            await mutex.unlock()

    k.spawn(comes, 4 if broken else 1)
    k.spawn(comes, 1)


def inverted(k: Kernel, *, broken: bool) -> None:
    """The holder of a lock is kept from running by one in between; with propagation it is not."""
    bounds(k, inversion=1, lending=() if broken else ("mutex",))
    bus, cell = Mutex(k, "bus"), Atomic(k, 0, "cell")

    async def urgent() -> None:
        await bus.lock()
        await bus.unlock()

    async def low() -> None:
        await bus.lock()
        k.spawn(urgent, priority=2)
        await k.yield_()
        await cell.load()
        await bus.unlock()

    async def between() -> None:
        for _ in range(4):
            await cell.load()

    k.spawn(low, priority=0)
    k.spawn(between, priority=1)


def herds(k: Kernel, *, broken: bool) -> None:
    """Three wait for units that come one by one; each wakes all, or one."""
    bounds(k, herd=0)
    mutex, cv = Mutex(k, "mutex"), CondVar(k, "cv")
    units = Cell(k, 0, "units")

    async def takes() -> None:
        await mutex.lock()
        while not units.peek():
            await cv.wait(mutex)
        units.poke(units.peek() - 1)
        await mutex.unlock()

    async def gives() -> None:
        await k.delay(5)
        for _ in range(3):
            await mutex.lock()
            units.poke(units.peek() + 1)
            await (cv.broadcast() if broken else cv.signal())
            await mutex.unlock()
            await k.delay(5)

    for _ in range(3):
        k.spawn(takes)
    k.spawn(gives)


PROGRAMS: Final[dict[str, Callable[..., None]]] = {
    "not-linearizable": linearizable,
    "data-race": raced,
    "predicted-deadlock": two_orders,
    "lock-order": two_orders,
    "leak": leaves,
    "starvation": overtaken,
    "priority-inversion": inverted,
    "herd": herds,
    "witness": duplicates,
}


def hunted(name: str, *checks: str, broken: bool) -> Result:
    def build(k: Kernel) -> None:
        PROGRAMS[name](k, broken=broken)

    settings = Settings(executions=300, strategy="random", keep_going=True, checks=checks)
    result: Result = in_trio(lambda: hunt_subject(Subject(scenario()(build), {}), settings))
    assert result.error == ""
    return result


def test_there_is_a_program_for_each() -> None:
    assert list(PROGRAMS) == list(DETECTORS)


@pytest.mark.parametrize("name", PROGRAMS)
def test_it_finds_what_it_is_there_for_and_nobody_else_does(name: str) -> None:
    found = {finding.kind for finding in hunted(name, name, broken=True).findings}
    assert found == {DETECTORS[name].kind}
    assert not hunted(name, "none", broken=True).findings


@pytest.mark.parametrize("name", PROGRAMS)
def test_it_has_nothing_to_say_of_the_twin(name: str) -> None:
    result = hunted(name, name, broken=False)
    assert (result.findings, result.executions) == ([], 300)
