"""Small random programs for kernel threads: plain values that Hypothesis draws, and what runs them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

from stressvm import Atomic, Cell, CondVar, Kernel, Mutex, NetBSDRwLock, Rw, RwLock, Semaphore, SleepQueue, Sx
from stressvm.kernel.grant import Fifo, Priority

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

#: One operation: its name and a small number that it makes something of.
Operation = tuple[str, int]

OPERATIONS = (
    "section",
    "nested",
    "trylock",
    "load",
    "store",
    "fetchadd",
    "cas",
    "wait",
    "timedwait",
    "signal",
    "broadcast",
    "sleep",
    "wakeup",
    "wakeup_one",
    "sema_wait",
    "sema_trywait",
    "sema_post",
    "read",
    "write",
    "upgrade",
    "downgrade",
    "share",
    "exclude",
    "choose",
    "yield",
    "delay",
    "spawn",
    "join",
    "psignal",
    "progress",
    "fail",
)

operations = st.tuples(st.sampled_from(OPERATIONS), st.integers(0, 7))
threads = st.lists(operations, min_size=1, max_size=5).map(tuple)
programs = st.lists(threads, min_size=1, max_size=4).map(tuple)


@dataclass
class World:
    """The objects that a program works on, and one method for each operation."""

    k: Kernel

    def __post_init__(self) -> None:
        k = self.k
        self.mutexes = [Mutex(k, "m0"), Mutex(k, "m1", Fifo()), Mutex(k, "m2", Priority())]
        self.cells = [Cell(k, 0, "c0"), Cell(k, 0, "c1")]
        self.atomic = Atomic(k, 0, "a")
        self.cv = CondVar(k, "cv")
        self.channel = SleepQueue(k, "channel")
        self.sema = Semaphore(k, 1, "sema")
        self.rwlocks = [RwLock(k, "rw"), NetBSDRwLock(k, "nrw")]
        self.sx = Sx(k, "sx")

    async def run(self, program: tuple[Operation, ...]) -> int:
        """A thread's body."""
        for name, n in program:
            step: Callable[[int], Coroutine[Any, Any, None]] = getattr(self, f"_{name}")
            await step(n)
        return len(program)

    async def _spawn(self, n: int) -> None:
        self.k.spawn(self._child, n)

    async def _child(self, n: int) -> None:
        await self._section(n)
        await self._store(n)

    async def _section(self, n: int) -> None:
        m = self.mutexes[n % 3]
        await m.lock()
        self.cells[0].poke(self.cells[0].peek() + 1)
        await m.unlock()

    async def _nested(self, n: int) -> None:
        first, second = self.mutexes[n % 3], self.mutexes[(n + 1) % 3]
        await first.lock()
        await second.lock()
        await second.unlock()
        await first.unlock()

    async def _trylock(self, n: int) -> None:
        m = self.mutexes[n % 3]
        if await m.trylock():
            await self.k.yield_()
            await m.unlock()

    async def _load(self, n: int) -> None:
        self.k.record(did=await self.cells[n % 2].load())

    async def _store(self, n: int) -> None:
        await self.cells[n % 2].store(n)

    async def _fetchadd(self, n: int) -> None:
        await self.atomic.fetchadd(n)

    async def _cas(self, n: int) -> None:
        await self.atomic.cas(n, n + 1)

    async def _wait(self, n: int) -> None:
        m = self.mutexes[0]
        await m.lock()
        await self.cv.wait(m, until=(lambda: self.cells[0].peek() > n) if n % 2 else None)
        await m.unlock()

    async def _timedwait(self, n: int) -> None:
        m = self.mutexes[0]
        await m.lock()
        woken = await self.cv.timedwait(m, 1 + n)
        self.k.record(did=woken.name)
        await m.unlock()

    async def _signal(self, _n: int) -> None:
        await self.cv.signal()

    async def _broadcast(self, _n: int) -> None:
        await self.cv.broadcast()

    async def _sleep(self, n: int) -> None:
        m = self.mutexes[1]
        await m.lock()
        woken = await self.channel.sleep(m, "wmesg", timo=n, pcatch=bool(n & 1), pdrop=bool(n & 2))
        self.k.record(did=woken.name)
        if not n & 2:
            await m.unlock()

    async def _wakeup(self, _n: int) -> None:
        await self.channel.wakeup()

    async def _wakeup_one(self, _n: int) -> None:
        await self.channel.wakeup_one()

    async def _sema_wait(self, _n: int) -> None:
        await self.sema.wait()

    async def _sema_trywait(self, _n: int) -> None:
        self.k.record(did=await self.sema.trywait())

    async def _sema_post(self, _n: int) -> None:
        await self.sema.post()

    async def _read(self, n: int) -> None:
        rw = self.rwlocks[n % 2]
        await rw.enter(Rw.READER)
        await self.k.yield_()
        await rw.exit()

    async def _write(self, n: int) -> None:
        rw = self.rwlocks[n % 2]
        await rw.enter(Rw.WRITER)
        await rw.exit()

    async def _upgrade(self, n: int) -> None:
        rw = self.rwlocks[n % 2]
        await rw.enter(Rw.READER)
        self.k.record(did=await rw.tryupgrade())
        await rw.exit()

    async def _downgrade(self, n: int) -> None:
        rw = self.rwlocks[n % 2]
        await rw.enter(Rw.WRITER)
        await rw.downgrade()
        await rw.exit()

    async def _share(self, _n: int) -> None:
        await self.sx.slock()
        await self.sx.unlock()

    async def _exclude(self, _n: int) -> None:
        await self.sx.xlock()
        await self.sx.unlock()

    async def _choose(self, n: int) -> None:
        if self.k.choose(n + 1):
            await self.k.yield_()

    async def _yield(self, _n: int) -> None:
        await self.k.yield_()

    async def _delay(self, n: int) -> None:
        await self.k.delay(n)

    async def _join(self, n: int) -> None:
        threads = self.k.threads
        self.k.record(did=await self.k.join(threads[n % len(threads)]))

    async def _psignal(self, n: int) -> None:
        threads = self.k.threads
        await self.k.yield_()
        self.k.psignal(threads[n % len(threads)])

    async def _progress(self, _n: int) -> None:
        self.k.progress()

    async def _fail(self, n: int) -> None:
        await self.k.yield_()
        if n == 7:
            raise ValueError(n)


def building(program: tuple[tuple[Operation, ...], ...]) -> Callable[[Kernel], None]:
    """The world of a program; every second thread is more urgent, the last one of four a daemon."""

    def build(k: Kernel) -> None:
        world = World(k)
        for number, operations_ in enumerate(program):
            k.spawn(world.run, operations_, priority=number % 2, daemon=number == 3)

    return build
