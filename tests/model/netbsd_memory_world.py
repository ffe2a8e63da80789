"""The world of `netbsd_memory_machine`: a kernel map over pages, perhaps short of them, and what has been allocated.

What cannot be paged out is pledged beforehand, and no more is pledged than there is, less a page for each thread: so who
waits for pages waits for the page daemon, never for another thread of the program, and must be served. Who waits for
addresses is served by the last thread, which gives back one thing after the other when nobody else can go on.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from scenarios.netbsd6_kmem import LooksAgain
from stressvm.vm import netbsd
from stressvm.vm.pages import ZEROS, PageObject, PageQueue, Swap, UvmPages

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stressvm import Kernel, Thread
    from stressvm.vm.pages import Page, PageOwner, Shortage

PAGE: Final = netbsd.PAGE_SIZE
LOW: Final = 0xC000_0000
#: Pages of kmem_arena, at the bottom of the map.
KMEM: Final = 3
THREADS: Final = 4
RESERVE_DAEMON, RESERVE_KERNEL = 1, 2
KINDS: Final = {
    "wired": netbsd.UVM_KMF_WIRED,
    "pageable": netbsd.UVM_KMF_PAGEABLE,
    "vaonly": netbsd.UVM_KMF_VAONLY,
}

#: What happened to the map, under its write lock: where in the trace, in which thread, what, and its numbers.
Event = tuple[int, int, str, int, int]


@dataclass(frozen=True, slots=True)
class Made:
    """What a world is made of; a planted defect is another one of these."""

    map: type[netbsd.VmMap] = netbsd.VmMap
    memory: type[netbsd.Memory] = netbsd.Memory
    fault: type[netbsd.KmFault] = netbsd.KmFault
    uvm: type[UvmPages] = UvmPages
    vmem: type[netbsd.Vmem] = LooksAgain


@dataclass(slots=True, eq=False)
class Block:
    """What has been allocated.

    Attributes:
        page, pages: where, in pages from the map's minimum, and how many.
        kind: "wired", "pageable", "vaonly", or "pool".
        pledged: pages.
        users: the operations that are at work with it.
        gone: it has been freed, or is about to be.
    """

    page: int
    pages: int
    kind: str
    pledged: int = 0
    users: int = 0
    gone: bool = False


@dataclass(slots=True, eq=False)
class World:
    """The map, what is under it, and what the program has.

    Attributes:
        room: pages that may be pledged.
        contents: what has been written last, by page of the map; of pages that have not been written but hold something.
        log: what happened to the map, in order.
        paged_in: pages that were read from swap.
        wired: when all programs were done: the length of the log, and the pages of the map that were wired.
        done: the last thread has found that nothing is left.
    """

    k: Kernel
    uvm: UvmPages
    memory: netbsd.Memory
    kmap: netbsd.VmMap
    kmem: netbsd.Vmem | None
    old: PageObject
    room: int
    log: list[Event]
    pledged: int = 0
    paged_in: int = 0
    blocks: list[Block] = field(default_factory=list)
    contents: dict[int, str] = field(default_factory=dict)
    begun: bool = False
    wired: tuple[int, set[int]] = (-1, set())
    done: bool = False

    def begin(self) -> None:
        """At the first operation of all: the page daemon, and the thread that comes last."""
        if not self.begun:
            self.begun = True
            programs = list(self.k.threads)
            self.uvm.start_daemons()
            self.k.spawn(last, self, programs, name="last")

    @staticmethod
    def va(page: int) -> int:
        """The address of a page of the map."""
        return LOW + page * PAGE

    @contextmanager
    def using(self, which: int | None) -> Iterator[Block | None]:
        """Be at work with a block; None if there is none."""
        self.begin()
        block = self.blocks[which] if which is not None else None
        if block is None or block.gone:
            yield None
            return
        block.users += 1
        yield block
        block.users -= 1

    def pledge(self, pages: int) -> bool:
        """May so many pages more be kept from being paged out?"""
        self.begin()
        if self.pledged + pages > self.room:
            return False
        self.pledged += pages
        return True

    def needs(self, kind: str, pages: int) -> int:
        """How many pages an allocation may keep from being paged out as soon as it is there."""
        pageable = kind == "pageable" and self.memory.kernel_object.pager is not None
        return 0 if kind == "vaonly" or pageable else pages

    def allocated(self, va: int, pages: int, kind: str) -> int:
        """That has been got, and nobody else has any of it; its number."""
        page = (va - LOW) // PAGE
        assert not va % PAGE, f"{va:#x} is not a page's address"
        for block in self.blocks:
            apart = page + pages <= block.page or block.page + block.pages <= page
            assert block.gone or apart, f"pages {page} to {page + pages}: some of that is {block}"
        self.blocks.append(Block(page, pages, kind, self.needs(kind, pages)))
        if kind == "pageable":
            self.contents |= dict.fromkeys(range(page, page + pages), ZEROS)
        return len(self.blocks) - 1

    def given_back(self, which: int | None) -> Block | None:
        """That is about to be freed, if nobody is at work with it."""
        self.begin()
        block = self.blocks[which] if which is not None else None
        if block is None or block.gone or block.users:
            return None
        self.forget(block)
        return block

    def forget(self, block: Block) -> None:
        """It is about to be freed."""
        block.gone = True
        for page in range(block.page, block.page + block.pages):
            self.contents.pop(page, None)

    async def free(self, block: Block) -> None:
        """Free it, as what it is."""
        va, size = self.va(block.page), block.pages * PAGE
        if block.kind != "pool":
            await netbsd.uvm_km_free(self.kmap, va, size, KINDS[block.kind])
        elif self.kmem is not None:
            await netbsd.uvm_km_kmem_free(self.kmem, va, size)
        else:
            await netbsd.uvm_km_free_poolpage(self.kmap, va)
        self.pledged -= block.pledged

    async def read(self, page: int) -> None:
        """Read a page of the map: it must hold what was written last, at the moment at which the processor gets there."""
        found = await netbsd.kernel_access(self.kmap, self.va(page), netbsd.VM_PROT_READ)
        assert found.content == self.contents[page], (
            f"page {page}: {found!r} holds {found.content!r}, not {self.contents[page]!r}"
        )

    async def write(self, page: int, text: str) -> None:
        """Write to a page of the map."""
        found = await netbsd.kernel_access(self.kmap, self.va(page), netbsd.VM_PROT_WRITE)
        found.write(text)
        self.contents[page] = text


def logged(cls: type[netbsd.VmMap], log: list[Event]) -> type[netbsd.VmMap]:
    """A map that says, under its write lock, what is done to it."""

    class Logged(cls):  # type: ignore[misc, valid-type]  # whichever it is
        def note(self, what: str, first: int, second: int) -> None:
            log.append((len(self.k.trace), self.k.cur, what, (first - LOW) // PAGE, (second - LOW) // PAGE))

        def findspace(self, hint: int, size: int, align: int = 0, flags: int = 0) -> int | None:
            va: int | None = super().findspace(hint, size, align, flags)
            self.note("nowhere" if va is None else "found", va or LOW, (va or LOW) + size)
            return va

        async def unlink_range(self, start: int, end: int) -> Any:
            self.note("unmap", start, end)
            return await super().unlink_range(start, end)

        def count_range(self, first: netbsd.MapEntry, start: int, end: int) -> Any:
            self.note("wire", start, end)
            return super().count_range(first, start, end)

        def may_unwire(self, first: netbsd.MapEntry, end: int) -> Any:
            self.note("unwire", first.start, end)
            return super().may_unwire(first, end)

    return Logged


def counting(cls: type[UvmPages], world: list[World]) -> type[UvmPages]:
    """Physical memory that counts what is read from swap."""

    class Counting(cls):  # type: ignore[misc, valid-type]  # whichever it is
        async def uao_fill(self, obj: PageOwner, page: Page) -> None:
            world[0].paged_in += obj.pager is not None and bool(obj.pager.find(page.pindex))
            await super().uao_fill(obj, page)

    return Counting


def make_world(
    k: Kernel, made: Made, *, version: str, pages: int, npages: int, old: int, swap: bool, shortage: Shortage
) -> World:
    """Build it.

    Args:
        k: the kernel.
        made: what it is made of.
        version: "6" or "5.2".
        pages: of the map, above kmem_arena.
        npages: page frames.
        old: pages of somebody else's object; with swap the daemon can have them.
        swap: is there any?
        shortage: which allocations of a page fail though there is one.
    """
    worlds: list[World] = []
    uvm = counting(made.uvm, worlds)(
        k, npages, reserve_pagedaemon=RESERVE_DAEMON, reserve_kernel=RESERVE_KERNEL, shortage=shortage
    )
    slots = Swap(k, pages + npages) if swap else None
    theirs = PageObject(k, "old", slots)
    old = max(0, min(old, npages - RESERVE_KERNEL - (0 if swap else THREADS + 4)))
    uvm.fill(theirs, old, queue=PageQueue.ACTIVE)
    memory = made.memory(uvm, swap=slots)
    memory.fault = made.fault(memory, wiredmax=npages)
    log: list[Event] = []
    kmap = netbsd.setup(
        k,
        KMEM + pages,
        version=version,
        flags=netbsd.VM_MAP_PAGEABLE,
        memory=memory,
        options=netbsd.Options.DIAGNOSTIC,
        min_offset=LOW,
        cls=logged(made.map, log),
    )
    kmem = netbsd.kmem_arena(kmap, KMEM, cls=made.vmem) if version == "6" else None
    room = npages - RESERVE_KERNEL - (THREADS if swap else old)
    worlds.append(World(k, uvm, memory, kmap, kmem, theirs, room, log))
    return worlds[0]


# ---------------------------------------------------------------- the end


async def last(world: World, programs: list[Thread]) -> None:
    """The last thread: whenever nobody else can go on, it frees something; and when all are done, nothing may be left.

    If there is nothing to free it ends, and what the others sleep for is for the verdict to say.
    """
    await rest(world)
    while not all(thread.done for thread in programs):
        if not await give_something(world):
            return
        await rest(world)
    world.wired = (len(world.log), set(wired_pages(world)))
    for page in sorted(world.contents):
        await world.read(page)
    while await give_something(world):
        pass
    await rest(world)
    for text in left(world):
        raise AssertionError(f"left: {text}")
    world.done = True


async def rest(world: World) -> None:
    """Until nobody else can do anything: virtual time goes on only then."""
    await world.k.delay(3)
    await world.k.delay(3)


async def give_something(world: World) -> bool:
    """Free what nobody is at work with, the oldest first; was there any?"""
    for block in world.blocks:
        if not block.gone and not block.users:
            world.forget(block)
            await world.free(block)
            return True
    return False


def wired_pages(world: World) -> Iterator[int]:
    """Pages of the map that are wired once, and mapped so."""
    base = (LOW - world.kmap.kernel_base) // PAGE
    mapped = {found.va for found in world.memory.pmap.translations(LOW, world.kmap.max_offset) if found.wired}
    for page in world.memory.kernel_object.pages:
        if page.wire_count:
            assert page.wire_count == 1, f"{page!r} is wired more than once"
            yield page.pindex - base
        assert bool(page.wire_count) == (world.va(page.pindex - base) in mapped), f"{page!r} is not mapped so"


def left(world: World) -> Iterator[str]:
    """What is left, in words."""
    uvm, memory, kmap = world.uvm, world.memory, world.kmap
    stats = uvm.statistics()
    if stats.owned != world.old.pages.resident or stats.free + stats.owned != stats.total or stats.wired or stats.loose:
        yield f"pages: {stats}"
    if list(memory.pmap.translations(LOW, kmap.max_offset)) or memory.pmap.wired_count:
        yield f"mappings: {memory.pmap.statistics()}"
    pager = memory.kernel_object.pager
    if pager is not None and pager.slots:
        yield f"slots in swap: {pager.slots}"
    if pager is not None and len(pager.swap.contents) != (world.old.pager.count if world.old.pager else 0):
        yield f"swap: {pager.swap.statistics()}"
    if kmap.size != (KMEM * PAGE if world.kmem is not None else 0):
        yield f"addresses: {list(kmap.entries)}"
    if world.kmem is not None and world.kmem.inuse:
        yield f"addresses: {world.kmem!r}"
    if memory.ledger.granted or memory.ledger.wired:
        yield f"{memory.ledger.granted} {memory.ledger.wired}"
    if world.pledged:
        yield f"{world.pledged} pages pledged: the machine's own mistake"
    if uvm.unmapped_later.total():
        yield f"pages to be unmapped later: {uvm.unmapped_later}"
