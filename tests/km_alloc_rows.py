"""The 384 rows of uvm_km_alloc's truth table, and worlds in which each is run.

`tests/data/netbsd_km_alloc.jsonl.gz` has a row for each combination of flags, type and shortages, with what NetBSD's code
does there: an address, 0, a panic, or a sleep, and for what.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stressvm import Kernel
from stressvm.conform.records import read
from stressvm.explore.execution import execute
from stressvm.explore.tape import Lenient
from stressvm.kernel.stepped import stepped
from stressvm.vm import netbsd
from stressvm.vm.pages import PageObject, PageQueue, Swap, UvmPages
from tests.support import in_trio, subject

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stressvm import Thread
    from stressvm.vm.netbsd import VmMap

PAGE = netbsd.PAGE_SIZE
SIZE = 2 * PAGE
VAONLY = netbsd.UVM_KMF_VAONLY
FLAGS = {
    "nowait": netbsd.UVM_KMF_NOWAIT,
    "canfail": netbsd.UVM_KMF_CANFAIL,
    "waitva": netbsd.UVM_KMF_WAITVA,
    "trylock": netbsd.UVM_KMF_TRYLOCK,
}
TYPES = {"WIRED": netbsd.UVM_KMF_WIRED, "PAGEABLE": netbsd.UVM_KMF_PAGEABLE, "VAONLY": VAONLY}
#: Pages that only the daemon, and only kernel threads and NOWAIT, may take.
DAEMONS, KERNELS = 1, 3
#: How the table says what a thread sleeps for.
SLEEPS = {
    "map-lock": "map-lock(turnstile; map->cv if busy by another lwp)",
    "va": "map->cv",
    "pages": "uvmexp.free(uvm_wait)",
    "unwind": "map-lock during unwind (if contended)",
}
HOLDERS = ("reader", "writer", "busy")

ROWS = [record.fields for record in read(Path(__file__).parent / "data" / "netbsd_km_alloc.jsonl.gz")]
_INPUTS = (*FLAGS, "type", "va_available", "pages_available", "map_lock")
BY_INPUT = {tuple(row[name] for name in _INPUTS): row for row in ROWS}


def other(row: dict[str, Any], **changed: Any) -> dict[str, Any]:
    """The row with something else available."""
    return BY_INPUT[tuple((row | changed)[name] for name in _INPUTS)]


@dataclass(frozen=True)
class Case:
    """A row, and what it leaves open.

    Attributes:
        row: what the table says.
        version: of NetBSD.
        diagnostic: the kernel is built with DIAGNOSTIC.
        holder: how somebody else has the map's lock, if the row says that it is held.
        reclaimable: could the page daemon free some pages?
        intruder: how somebody else gets the map's lock before addresses are given back, if at all.
        zero: UVM_KMF_ZERO is given, too, which the table does not distinguish.
    """

    row: dict[str, Any]
    version: str
    diagnostic: bool
    holder: str = ""
    reclaimable: bool = True
    intruder: str = ""
    zero: bool = False

    @property
    def flags(self) -> int:
        zero = netbsd.UVM_KMF_ZERO if self.zero else 0
        return TYPES[self.row["type"]] | zero | sum(bit for name, bit in FLAGS.items() if self.row[name])

    def expected(self) -> list[str]:
        """What the call sleeps for, in turn, and what it comes to."""
        if self.diagnostic and self.row["diagnostic"]:
            return ["panic"]
        came = []
        row = self.row
        if self.holder and not row["trylock"]:
            came.append("map-lock")
        outcome = row["outcome"]
        if outcome == "sleeps-until-va":
            came.append("va")
            row = other(row, va_available=True, map_lock="free")
            outcome = row["outcome"]
        if outcome == "0-if-not-reclaimable-else-sleeps":
            outcome = "sleeps-until-pages" if self.reclaimable else "0"
        if outcome == "sleeps-until-pages":
            came.append("pages")
            outcome = other(row, pages_available=True, map_lock="free")["outcome"]
        elif self.intruder:
            came.append("unwind")
        return [*came, outcome]

    def unwinds(self) -> bool:
        """Does it get addresses, too few pages, and give both back?"""
        row = self.row
        if row["type"] != "WIRED" or row["pages_available"] or (self.holder and row["trylock"]):
            return False
        return (row["va_available"] or row["waitva"]) and self.expected()[-1] == "0"


class Watched(netbsd.Memory):
    """Somebody else takes the map's lock before pages and addresses are given back, if a case wants that."""

    intruded = False
    go = False

    async def unwind(self, vm_map: VmMap, va: int, size: int, kind: int) -> None:
        if self.intruded:
            self.go = True
            await self.k.delay(2)
        await super().unwind(vm_map, va, size, kind)


class World:
    """One case as a world, and what was seen in it."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.came: list[str] = []

    def build(self, k: Kernel) -> None:
        self.k = k
        self.came = []
        row = self.case.row
        self.uvm = uvm = UvmPages(k, 24, reserve_pagedaemon=DAEMONS, reserve_kernel=KERNELS)
        self.memory = Watched(uvm)
        self.memory.intruded = bool(self.case.intruder)
        self.kmap = netbsd.setup(
            k,
            2,
            flags=netbsd.VM_MAP_PAGEABLE,
            version=self.case.version,
            options=netbsd.Options.DIAGNOSTIC if self.case.diagnostic else netbsd.Options.NONE,
            memory=self.memory,
        )
        uvm.fill(PageObject(k, "old", Swap(k, 4 if self.case.reclaimable else 0)), 16, queue=PageQueue.ACTIVE)
        self.taken = []
        if not row["pages_available"]:
            # There is one page for the call, and it wants two.
            left = (DAEMONS if row["nowait"] else KERNELS) + 1
            self.taken = uvm.fill(None, uvm.free.peek() - left)
        if not row["va_available"]:
            self.kmap.fill()
        self.before = (uvm.free.peek(), self.kmap.size)
        if self.case.holder:
            k.spawn(self.hold, self.case.holder, name="holder")
        self.caller = k.spawn(self.call, name="caller")
        if self.case.intruder:
            k.spawn(self.intrude, name="intruder")
        k.spawn(self.watch, name="watch")

    async def call(self) -> int:
        return await netbsd.uvm_km_alloc(self.kmap, SIZE, 0, self.case.flags)

    async def acquire(self, how: str) -> None:
        if how == "reader":
            await self.kmap.lock.lock_read()
            return
        await self.kmap.lock.lock()
        if how == "busy":
            await self.kmap.lock.busy()
            await self.kmap.lock.unlock()

    async def release(self, how: str) -> None:
        if how == "reader":
            await self.kmap.lock.unlock_read()
        elif how == "writer":
            await self.kmap.lock.unlock()
        else:
            await self.kmap.lock.unbusy()

    async def hold(self, how: str) -> None:
        await self.acquire(how)
        await self.k.delay(1)
        self.look(how)
        await self.release(how)

    async def intrude(self) -> None:
        while not self.memory.go and not self.caller.done:
            await self.k.delay(1)
        if self.caller.done:
            return
        await self.acquire(self.case.intruder)
        await self.k.delay(5)
        if self.where(self.caller, self.case.intruder) == "map-lock":
            self.came.append("unwind")
        await self.release(self.case.intruder)

    def look(self, holder: str = "") -> None:
        where = self.where(self.caller, holder)
        if where != "done":
            self.came.append(where)

    def where(self, th: Thread, holder: str = "") -> str:
        """What a thread waits for."""
        if th.done:
            return "done"
        if th.sleep is None:
            lock = self.kmap.lock
            assert isinstance(lock, netbsd.VmMapLock)
            return "map-lock" if lock.rw.want_write >> th.number & 1 else "runs"
        if th.sleep.queue is self.kmap.lock.cv:
            busy = th.sleep.wmesg == "busy map"
            assert busy == (holder == "busy")
            return "map-lock" if busy else "va"
        return "pages" if th.sleep.queue is self.uvm.free_channel else th.sleep.wmesg

    async def watch(self) -> None:
        """Let things settle, see what the caller sleeps for, give it that; then the other thing."""
        k = self.k
        await k.delay(20)
        self.look()
        if self.where(self.caller) == "va":
            await k.delay(330)
            assert self.where(self.caller) == "va", "it sleeps on, second by second"
            await netbsd.uvm_km_free(self.kmap, self.kmap.min_offset, SIZE, VAONLY)
            self.before = (self.before[0], 0)
            await k.delay(20)
            self.look()
        if self.where(self.caller) == "pages":
            await k.delay(330)
            assert self.where(self.caller) == "pages"
            assert not any(self.kmap.lock.rw.holders()), "no map is locked by who waits for pages"  # type: ignore[attr-defined]
            for page in self.taken:
                await self.uvm.uvm_pagefree(page)
            self.before = (self.before[0] + len(self.taken), self.before[1])
            await self.uvm.uvm_fpageqlock.lock()
            await self.uvm.wake_waiters()
            await self.uvm.release_fpageq()
            await k.delay(20)
        assert self.caller.done, self.where(self.caller)
        va = self.caller.result
        self.came.append("addr" if va else "0")
        pages = 2 if va and self.case.row["type"] == "WIRED" else 0
        size = SIZE if va else 0
        assert (self.uvm.free.peek() + pages, self.kmap.size - size) == self.before
        mapped = [found.va for found in self.memory.pmap.translations(self.kmap.min_offset, self.kmap.max_offset)]
        assert mapped == [va + n * PAGE for n in range(pages)]


def cases(row: dict[str, Any], version: str, *, diagnostic: bool, zero: bool = False) -> Iterator[Case]:
    """All worlds for a row."""
    for holder in HOLDERS if row["map_lock"] == "held" else ("",):
        short = row["type"] == "WIRED" and not row["pages_available"]
        for reclaimable in (True, False) if short else (True,):
            case = Case(row, version, diagnostic, holder, reclaimable, zero=zero)
            yield case
            if case.unwinds():
                for intruder in HOLDERS:
                    yield replace(case, intruder=intruder)


def run_all(cases: list[Case]) -> list[tuple[Case, World, Any]]:
    """Each once, without a switch that need not be."""

    async def main() -> list[tuple[Case, World, Any]]:
        done = []
        async with stepped(Kernel(max_steps=2_000)) as driver:
            for case in cases:
                world = World(case)
                verdict = await execute(subject(world.build), driver, Lenient(()))
                driver.unwind()
                done.append((case, world, verdict))
        return done

    made: list[tuple[Case, World, Any]] = in_trio(main)
    return made


@cache
def run_of(version: str, *, diagnostic: bool, zero: bool = False) -> list[tuple[Case, World, Any]]:
    """Every row in every world, once for all who ask."""
    return run_all([case for row in ROWS for case in cases(row, version, diagnostic=diagnostic, zero=zero)])
