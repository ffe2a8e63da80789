"""FreeBSD's calls on a page, through all its mappings in all pmaps: is it modified, make it read-only, unmap it.

A page's lists are walked with their lock held, and each pmap on them is locked in turn, against the order of locks: so it is
only tried for. If it is busy, the list's lock is released, the pmap's is waited for, and if the list has changed meanwhile
(its generation says so) the walk starts anew.

Source: sys/amd64/amd64/pmap.c of releng/13.0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from stressvm.kernel.rwlock import Rw
from stressvm.vm.pmap import flags as F  # noqa: N812 - the constants, as the kernel writes them
from stressvm.vm.pmap.freebsd_kernel import KernelMappings
from stressvm.vm.pmap.machine import Machine, PvLock

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from stressvm.vm.pmap.page import PhysPage
    from stressvm.vm.pmap.tables import Directory, PageTable

if TYPE_CHECKING:
    #: What is done with a mapping, by pmap and address; False ends the walk.
    Visit = Callable[["FreeBSDPmap", int], Awaitable[bool]]

#: pmap_ts_referenced looks at no more bits than this.
PMAP_TS_REFERENCED_MAX: Final = 5
_INDEX = F.NPTEPG - 1


class FreeBSDPmap(KernelMappings):
    """FreeBSD's pmap (amd64, 13.0), with all its calls; those on pages are functions of this package.

    Args:
        machine: its processors and memory.
        name: as reports show it.
        pg_ps_enabled: superpages are made of full page tables.
        settings: see `PmapSettings`.
    """

    def directory_of(self, va: int) -> Directory:
        """The page directory of an address that is mapped."""
        directory = self.tables.directory(va)
        if directory is None:
            raise self.kassert("pmap_pde", f"{va:#x} is on a pv list and has no page directory")
        return directory

    def pde_index(self, va: int) -> int:
        """pmap_pde_index."""
        return va >> F.PDRSHIFT & _INDEX

    def table_of(self, va: int) -> PageTable:
        """The page table of an address that is mapped by a small page."""
        table = self.tables.table(va)
        if table is None or self.index_of(va) not in table.entries:
            raise self.kassert("pmap_pde_to_pte", f"{va:#x} is on a page's pv list and not mapped by a small page")
        return table

    async def write_protect(self, table: PageTable, va: int, page: PhysPage) -> None:
        """One small mapping of a page becomes read-only; processors are told before the lock is released."""
        if table.entries[self.index_of(va)] & F.PG_RW:
            await self.tables.store(va)
            old = table.entries[self.index_of(va)]
            if old & F.PG_M:
                self.vm_page_dirty(self.machine.md(page.phys_addr))
            self.store_pte(table, va, old & ~F.PG_DIRTY)
            await self.invalidate_page(va)

    async def clean(self, table: PageTable, va: int) -> None:
        """The modified bit of one small mapping is cleared; processors are told before the lock is released."""
        if table.entries[self.index_of(va)] & F.PG_DIRTY == F.PG_DIRTY:
            await self.tables.store(va)
            self.store_pte(table, va, table.entries[self.index_of(va)] & ~F.PG_M, keep=False)
            await self.invalidate_page(va)

    async def age(self, table: PageTable, va: int, page: PhysPage) -> int:
        """pmap_ts_referenced of one small mapping: clear the accessed bit; was it set?"""
        await self.tables.store(va)
        old = table.entries[self.index_of(va)]
        if old & F.PG_DIRTY == F.PG_DIRTY:
            self.vm_page_dirty(self.machine.md(page.phys_addr))
        if not old & F.PG_A:
            return 0
        self.store_pte(table, va, old & ~F.PG_A)
        await self.invalidate_page(va)
        return 1

    async def age_super(self, directory: Directory, va: int, page: PhysPage) -> int:
        """The same of a superpage: its one bit stands for 512 pages, so it is cleared for one of them only."""
        index = va >> F.PDRSHIFT & _INDEX
        await self.tables.store(va)
        pde = directory.supers[index]
        if pde & F.PG_DIRTY == F.PG_DIRTY:
            self.vm_page_dirty(self.machine.md(page.phys_addr))
        if not pde & F.PG_A:
            return 0
        turn = (page.phys_addr >> F.PAGE_SHIFT) ^ (va >> F.PDRSHIFT) ^ self.number
        if not turn & _INDEX and not pde & F.PG_W:
            self.store_super(directory, va, pde & ~F.PG_A)
            await self.invalidate_page(va)
        return 1

    async def remove_listed(self, table: PageTable, va: int, page: PhysPage) -> None:
        """pmap_remove_all of one small mapping: unmap it, tell the processors, take it off the list."""
        md = self.machine.md(page.phys_addr)
        free: list[PhysPage] = []
        await self.tables.store(va)
        old = self.store_pte(table, va, 0)
        self.uncount(old)
        self.hand_over(md, old)
        self.unuse_table(va, free)
        await self.invalidate_page(va)
        self.unlist_page(va, md)
        self.free_pv_entry()
        if free:
            await self.free_tables(free)


class _Walk:
    """A walk through the mappings of a page."""

    def __init__(self, machine: Machine, page: PhysPage, mode: Rw, call: str) -> None:
        self.machine = machine
        self.page = page
        self.mode = mode
        self.md = machine.add_page(page)
        self.header = machine.pvh(page.phys_addr)
        self.lock = machine.pv_lock(page.phys_addr)
        #: The same lock, as demotion wants it.
        self.lockp = PvLock(machine)
        if not page.managed:
            raise machine.k.panic(f"{call}: KASSERT: page {page.phys_addr:#x} is not managed")

    async def enter(self) -> None:
        """Lock the lists."""
        await self.lock.enter(self.mode)
        self.lockp.held = self.lock

    async def exit(self) -> None:
        """Unlock the lists."""
        self.lockp.held = None
        await self.lock.exit()

    async def regain(self) -> None:
        """A demotion may have let go of the lock."""
        await self.lockp.change_to(self.page.phys_addr)

    async def lock_pmap(self, pmap: FreeBSDPmap) -> bool:
        """Lock a pmap of the list; False: the list has changed meanwhile, and the pmap is not locked. Locks: the lists'."""
        if await pmap.try_acquire():
            return True
        seen = self.generation()
        await self.exit()
        await pmap.acquire()
        await self.enter()
        if self.changed_since(seen):
            await pmap.release()
            return False
        return True

    def generation(self) -> tuple[int, int]:
        """Counts the changes of both lists."""
        return self.header.pv_gen, self.md.pv_gen

    def changed_since(self, seen: tuple[int, int]) -> bool:
        """Has either list changed?"""
        return self.generation() != seen

    async def each(self, *, large: bool, visit: Visit) -> bool:
        """Visit the mappings by small pages, or by superpages, with their pmap locked, until a visit returns False.

        Locks: the lists'. Returns: False if a list changed while its lock was let go of: the caller starts anew.
        """
        source = self.header.pv_list if large else self.page.pv_list
        for key in list(source):
            if key not in source:
                continue
            pmap, va = key
            if not await self.lock_pmap(pmap):
                return False
            go_on = await visit(pmap, va)
            await pmap.release()
            if not go_on:
                break
        return True


async def pmap_is_modified(machine: Machine, page: PhysPage) -> bool:
    """pmap_is_modified: does any mapping of the page say that it was modified?

    Not at all if the page has no writable mapping. Without the page busy the answer may be old at once.
    Locks: none of pmaps and lists. Sleeps: for locks.
    """
    walk = _Walk(machine, page, Rw.READER, "pmap_is_modified")
    return (page.busy or walk.md.writeable) and await _test_mappings(walk, F.PG_DIRTY)


async def pmap_is_referenced(machine: Machine, page: PhysPage) -> bool:
    """pmap_is_referenced: does any mapping of the page say that it was accessed? Locks: none. Sleeps: for locks."""
    return await _test_mappings(_Walk(machine, page, Rw.READER, "pmap_is_referenced"), F.PG_A | F.PG_V)


async def _test_mappings(walk: _Walk, mask: int) -> bool:
    """pmap_page_test_mappings: has any entry all of these bits?"""
    found = False

    async def test(pmap: FreeBSDPmap, va: int) -> bool:
        nonlocal found
        if not found:
            await pmap.tables.load(va)
            found = pmap.tables.entry(va) & mask == mask
        return not found

    await walk.enter()
    while not (await walk.each(large=False, visit=test) and (found or await walk.each(large=True, visit=test))):
        pass
    await walk.exit()
    return found


async def pmap_page_wired_mappings(machine: Machine, page: PhysPage) -> int:
    """pmap_page_wired_mappings: how many managed mappings of the page are wired. Locks: none. Sleeps: for locks."""
    if not page.managed:
        return 0
    walk = _Walk(machine, page, Rw.READER, "pmap_page_wired_mappings")
    count = 0

    async def look(pmap: FreeBSDPmap, va: int) -> bool:
        nonlocal count
        count += bool(pmap.tables.entry(va) & F.PG_W)
        return True

    await walk.enter()
    while not (await walk.each(large=False, visit=look) and await walk.each(large=True, visit=look)):
        count = 0
    await walk.exit()
    return count


async def pmap_page_is_mapped(machine: Machine, page: PhysPage) -> bool:
    """pmap_page_is_mapped: has the page any managed mapping? Locks: none. Sleeps: for that of its lists."""
    if not page.managed:
        return False
    walk = _Walk(machine, page, Rw.READER, "pmap_page_is_mapped")
    await walk.enter()
    mapped = machine.is_mapped(page)
    await walk.exit()
    return mapped


async def pmap_remove_write(machine: Machine, page: PhysPage) -> None:
    """pmap_remove_write: all mappings of the page become read-only; if one was modified, the page is.

    Writable superpages are demoted. On return no processor can write to it through a mapping that was there before.
    Locks: none of pmaps and lists; the page's object or the page busy. Sleeps: for locks, and for delayed invalidations.
    """
    walk = _Walk(machine, page, Rw.WRITER, "pmap_remove_write")
    if not (page.busy or walk.md.writeable):
        return

    async def demote(pmap: FreeBSDPmap, va: int) -> bool:
        directory = pmap.directory_of(va)
        if directory.supers[pmap.pde_index(va)] & F.PG_RW:
            await pmap.demote_pde(directory, va, walk.lockp)
            await walk.regain()
        return True

    async def protect(pmap: FreeBSDPmap, va: int) -> bool:
        await pmap.write_protect(pmap.table_of(va), va, page)
        return True

    await walk.enter()
    while not (await walk.each(large=True, visit=demote) and await walk.each(large=False, visit=protect)):
        pass
    await walk.exit()
    walk.md.writeable = False
    await machine.invl.wait(walk.md)


async def pmap_clear_modify(machine: Machine, page: PhysPage) -> None:
    """pmap_clear_modify: no mapping says that the page was modified; the next write says so anew.

    Writable superpages are demoted, and the page's part of one that is not wired becomes read-only, so that a write may
    make it a superpage again. Locks: none of pmaps and lists; the page is not busy, its object is locked. Sleeps: for locks.
    """
    walk = _Walk(machine, page, Rw.WRITER, "pmap_clear_modify")
    if page.busy:
        raise machine.k.panic(f"pmap_clear_modify: KASSERT: page {page.phys_addr:#x} is exclusive busied")
    if not walk.md.writeable:
        return

    async def demote(pmap: FreeBSDPmap, va: int) -> bool:
        directory = pmap.directory_of(va)
        old = directory.supers[pmap.pde_index(va)]
        if old & F.PG_RW:
            demoted = await pmap.demote_pde(directory, va, walk.lockp)
            await walk.regain()
            if demoted and not old & F.PG_W:
                at = va + (page.phys_addr & F.PDRMASK)
                await pmap.write_protect(pmap.table_of(at), at, page)
        return True

    async def clean(pmap: FreeBSDPmap, va: int) -> bool:
        await pmap.clean(pmap.table_of(va), va)
        return True

    await walk.enter()
    while not (await walk.each(large=True, visit=demote) and await walk.each(large=False, visit=clean)):
        pass
    await walk.exit()


async def pmap_ts_referenced(machine: Machine, page: PhysPage) -> int:
    """pmap_ts_referenced: how many mappings say that the page was accessed, at most 5, clearing what they say.

    Of a superpage's one bit, only one of its 512 pages clears it, and never if it is wired. A page found modified is told
    so. The lists are rotated, so that next time other mappings come first. Locks: none. Sleeps: for locks.
    """
    walk = _Walk(machine, page, Rw.WRITER, "pmap_ts_referenced")
    await walk.enter()
    count = 0
    for large in (True, False):
        source = walk.header.pv_list if large else page.pv_list
        todo = list(source)
        while todo and count < PMAP_TS_REFERENCED_MAX:
            pmap, va = key = todo.pop(0)
            if not await walk.lock_pmap(pmap):
                # What has been cleared stays so; what is left is looked at as it is now.
                todo = list(source)
                continue
            if large:
                count += await pmap.age_super(pmap.directory_of(va), va, page)
            else:
                count += await pmap.age(pmap.table_of(va), va, page)
            await pmap.release()
            if len(source) > 1:
                source[key] = source.pop(key)
                (walk.header if large else walk.md).pv_gen += 1
    await walk.exit()
    return count


async def pmap_remove_all(machine: Machine, page: PhysPage) -> None:
    """pmap_remove_all: unmap the page everywhere; what the mappings say goes to the page. Superpages are demoted first.

    On return no processor can reach it through a managed mapping. Locks: none of pmaps and lists. Sleeps: for locks, and
    for delayed invalidations.
    """
    walk = _Walk(machine, page, Rw.WRITER, "pmap_remove_all")

    async def demote(pmap: FreeBSDPmap, va: int) -> bool:
        await pmap.demote_pde(pmap.directory_of(va), va, walk.lockp)
        await walk.regain()
        return True

    async def remove(pmap: FreeBSDPmap, va: int) -> bool:
        await pmap.remove_listed(pmap.table_of(va), va, page)
        return True

    await walk.enter()
    while machine.is_mapped(page):
        if await walk.each(large=True, visit=demote):
            await walk.each(large=False, visit=remove)
    walk.md.writeable = False
    await walk.exit()
    await machine.invl.wait(walk.md)
