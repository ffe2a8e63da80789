"""The field's small benchmark programs (SCTBench's "CS" suite), for tests of samplers.

Memory is cells, so that every load and store is a visible operation, as in the tools that the published figures are of:
a C expression that mentions a variable twice loads it twice. Threads exist from the start.

Source: mc-imperial/sctbench, benchmarks/concurrent-software-benchmarks; Thomson, Donaldson and Betts, TOPC 2016.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm import Cell, Kernel, Mutex
from stressvm.explore.execution import execute
from tests.support import in_trio, opened, subject

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from stressvm.kernel.strategy import Strategy

    Build = Callable[[Kernel], None]


def reorder(threads: int) -> Build:
    """reorder_N: N-1 setters and one checker."""

    def build(k: Kernel) -> None:
        a = Cell(k, 0, "a")
        b = Cell(k, 0, "b")

        async def set_thread() -> None:
            await a.store(1)
            await b.store(-1)

        async def check_thread() -> None:
            if await a.load() == 0 and await b.load() == 0:
                return
            right = await a.load() == 1 and await b.load() == -1
            assert right, "bug found"

        for _ in range(threads - 1):
            k.spawn(set_thread)
        k.spawn(check_thread)

    return build


def twostage(threads: int) -> Build:
    """twostage_N: N-1 that write in two stages, one that reads in two."""

    def build(k: Kernel) -> None:
        first, second = Mutex(k, "data1Lock"), Mutex(k, "data2Lock")
        data1, data2 = Cell(k, 0, "data1Value"), Cell(k, 0, "data2Value")

        async def write() -> None:
            await first.lock()
            await data1.store(1)
            await first.unlock()
            await second.lock()
            await data2.store(await data1.load() + 1)
            await second.unlock()

        async def read() -> None:
            await first.lock()
            if await data1.load() == 0:
                await first.unlock()
                return
            t1 = await data1.load()
            await first.unlock()
            await second.lock()
            t2 = await data2.load()
            await second.unlock()
            assert t2 == t1 + 1, "bug found"

        for _ in range(threads - 1):
            k.spawn(write)
        k.spawn(read)

    return build


def wronglock(others: int) -> Build:
    """One thread counts under one lock, the others under another: wronglock has 7 others, wronglock_3 three."""

    def build(k: Kernel) -> None:
        data_lock, this_lock = Mutex(k, "dataLock"), Mutex(k, "thisLock")
        data = Cell(k, 0, "dataValue")

        async def one() -> None:
            await data_lock.lock()
            x = await data.load()
            await data.store(await data.load() + 1)
            assert await data.load() == x + 1, "bug found"
            await data_lock.unlock()

        async def other() -> None:
            await this_lock.lock()
            await data.store(await data.load() + 1)
            await this_lock.unlock()

        k.spawn(one)
        for _ in range(others):
            k.spawn(other)

    return build


def account(k: Kernel) -> None:
    """The checker's formula is wrong, which shows if it runs last."""
    m = Mutex(k, "m")
    x, y, z = 1, 2, 4
    balance = Cell(k, x, "balance")
    deposit_done, withdraw_done = Cell(k, 0, "deposit_done"), Cell(k, 0, "withdraw_done")

    async def deposit() -> None:
        await m.lock()
        await balance.store(await balance.load() + y)
        await deposit_done.store(1)
        await m.unlock()

    async def withdraw() -> None:
        await m.lock()
        await balance.store(await balance.load() - z)
        await withdraw_done.store(1)
        await m.unlock()

    async def check_result() -> None:
        await m.lock()
        if await deposit_done.load() and await withdraw_done.load():
            assert await balance.load() == (x - y) - z
        await m.unlock()

    k.spawn(check_result)
    k.spawn(deposit)
    k.spawn(withdraw)


def deadlock01(k: Kernel) -> None:
    """Two locks, taken in opposite order."""
    a, b = Mutex(k, "a"), Mutex(k, "b")
    counter = Cell(k, 1, "counter")

    async def thread(outer: Mutex, inner: Mutex, delta: int) -> None:
        await outer.lock()
        await inner.lock()
        await counter.store(await counter.load() + delta)
        await inner.unlock()
        await outer.unlock()

    k.spawn(thread, a, b, 1)
    k.spawn(thread, b, a, -1)


def lazy01(k: Kernel) -> None:
    """The third thread must not come last."""
    mutex = Mutex(k, "mutex")
    data = Cell(k, 0, "data")

    async def add(amount: int) -> None:
        await mutex.lock()
        await data.store(await data.load() + amount)
        await mutex.unlock()

    async def check() -> None:
        await mutex.lock()
        assert await data.load() < 3, "bug found"
        await mutex.unlock()

    k.spawn(add, 1)
    k.spawn(add, 2)
    k.spawn(check)


PROGRAMS: dict[str, Build] = {
    "account": account,
    "deadlock01": deadlock01,
    "lazy01": lazy01,
    "reorder_3": reorder(3),
    "reorder_4": reorder(4),
    "reorder_5": reorder(5),
    "reorder_10": reorder(10),
    "reorder_20": reorder(20),
    "reorder_50": reorder(50),
    "reorder_100": reorder(100),
    "twostage": twostage(2),
    "twostage_20": twostage(20),
    "twostage_50": twostage(50),
    "twostage_100": twostage(100),
    "wronglock": wronglock(7),
    "wronglock_3": wronglock(3),
}


def executions_to_find(name: str, make: Callable[[int], Strategy], seeds: Iterable[int], limit: int) -> list[int]:
    """For each seed, in which execution (from 1) the bug shows; 0 if not within the limit."""
    what = subject(PROGRAMS[name])

    async def main() -> list[int]:
        found = []
        async with opened(what.kernel(), "stepped") as driver:
            for seed in seeds:
                strategy = make(seed)
                first = 0
                for number in range(limit):
                    verdict = await execute(what, driver, strategy, number)
                    driver.unwind()
                    if verdict is not None:
                        first = number + 1
                        break
                found.append(first)
        return found

    found: list[int] = in_trio(main)
    return found
