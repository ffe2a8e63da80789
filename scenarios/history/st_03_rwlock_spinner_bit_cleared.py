"""FreeBSD's rwlock, 2018: the last reader to leave lets new readers in before the writer that spins.

A writer that finds readers sets a bit and spins, and while the bit is set no new reader gets in. But the last reader cleared
the whole word, the bit with it. A reader that is quicker than the writer gets in then, the writer has to set its bit anew,
and so on.

Source: FreeBSD, sys/kern/kern_rwlock.c, r334023 of May 2018. The lock is built here of its word alone; everybody spins, and
nobody sleeps.
"""

from __future__ import annotations

from typing import Final

from stressvm import Atomic, Kernel, Line, scenario

SOURCE = "FreeBSD, sys/kern/kern_rwlock.c, __rw_runlock_try and __rw_wlock_hard; repaired by r334023, May 2018"

RW_LOCK_READ: Final = 1
RW_LOCK_WRITE_SPINNER: Final = 8
RW_ONE_READER: Final = 16
RW_UNLOCKED: Final = RW_LOCK_READ
#: Stands for a writer's address.
RW_WRITER: Final = 0x1000


class Rwlock:
    """A lock. Writers that have said that they spin are in a line: one reader may be on its way in, and no more."""

    def __init__(self, k: Kernel, name: str) -> None:
        self.k = k
        self.word = Atomic(k, RW_UNLOCKED, name)
        self.line = Line(k, f"{name}, for writing", overtakes=1)

    async def rlock(self) -> None:
        """_rw_rlock: spin while a writer has it, or spins for it."""
        while True:
            v = await self.word.load()
            if not v & RW_LOCK_READ or v & RW_LOCK_WRITE_SPINNER:
                await self.k.yield_()
            elif await self.word.cas(v, v + RW_ONE_READER):
                self.line.got()
                return

    async def runlock(self) -> None:
        """_rw_runlock."""
        while True:
            v = await self.word.load()
            last = v < RW_LOCK_READ + 2 * RW_ONE_READER
            if await self.word.cas(v, self.after_last(v) if last else v - RW_ONE_READER):
                return

    def after_last(self, v: int) -> int:
        """The word when the last reader has left: unlocked, and whoever spins is still the next."""
        return v - RW_ONE_READER

    async def wlock(self) -> None:
        """_rw_wlock: say that it spins, and spin until the readers have gone."""
        while True:
            v = await self.word.load()
            if v & ~RW_LOCK_WRITE_SPINNER == RW_UNLOCKED:
                if await self.word.cas(v, RW_WRITER):
                    self.line.leave()
                    return
            elif v & RW_LOCK_READ and not v & RW_LOCK_WRITE_SPINNER:
                if await self.word.cas(v, v | RW_LOCK_WRITE_SPINNER):
                    self.line.wait()
            else:
                await self.k.yield_()

    async def wunlock(self) -> None:
        """_rw_wunlock."""
        await self.word.store(RW_UNLOCKED)


class ClearsTheBit(Rwlock):
    """The last reader leaves the word as if the lock had never been used."""

    def after_last(self, v: int) -> int:  # noqa: ARG002 - that is the defect
        """Unlocked."""
        return RW_UNLOCKED


def busy_readers(k: Kernel, cls: type[Rwlock], visits: int) -> None:
    """Two readers come again and again; a writer comes once."""
    lock = cls(k, "rwlock")

    async def reads() -> None:
        for _ in range(visits):
            await lock.rlock()
            await lock.runlock()

    async def writes() -> None:
        await lock.wlock()
        await lock.wunlock()

    for number in range(2):
        k.spawn(reads, name=f"reader{number}")
    k.spawn(writes, name="writer")


@scenario(expect="starvation", source=SOURCE, max_steps=400)
def st_03_spinner_bit_cleared(k: Kernel, visits: int = 4) -> None:
    """The writer is overtaken by readers that it has kept out already."""
    busy_readers(k, ClearsTheBit, visits)


@scenario(source=SOURCE, max_steps=400, executions=200)
def st_03_spinner_bit_cleared_ok(k: Kernel, visits: int = 4) -> None:
    """The bit stays until the writer has the lock."""
    busy_readers(k, Rwlock, visits)
