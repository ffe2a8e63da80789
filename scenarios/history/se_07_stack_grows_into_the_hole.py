"""Linux's munmap, 2020: page tables are freed, with the lock held for reading only, that a stack has just grown into.

munmap takes mappings out of the address space with mmap_lock held for writing. To free their pages and page tables takes longer,
and for that the lock is downgraded: nobody can have any use for addresses that are not mapped, and page faults elsewhere may go
on. But a page fault just below a stack makes that larger, and for this the lock was held for reading, too. A page table that
belongs to the hole alone when the lock is downgraded need not do so any more when it is freed.

Source: Linux, mm/mmap.c, __do_munmap of 5.8, July 2020: no downgrade if the mapping behind the hole is a stack. From memory.
Here an address space is built of a lock, a list of mappings, and page tables.
"""

from __future__ import annotations

from stressvm import Field, Kernel, SpinMutex, Sx, scenario

SOURCE = "Linux, mm/mmap.c, __do_munmap, July 2020 (5.8)"
#: So many pages has a page table; so far a stack keeps away from what is below it.
PTRS_PER_PTE, STACK_GUARD_GAP = 8, 1


class Vma:
    """struct vm_area_struct: the pages from `start` on, below `end`; does it grow downwards?"""

    def __init__(self, start: int, end: int, *, grows: bool = False) -> None:
        self.start = start
        self.end = end
        self.grows = grows


class Mm:
    """struct mm_struct. Addresses are numbers of pages.

    Args:
        k: the kernel.
        vmas: what is mapped, in order.
    """

    def __init__(self, k: Kernel, *vmas: Vma) -> None:
        self.k = k
        self.vmas = list(vmas)
        self.mapped = Field(k, "mm.vmas")
        self.mmap_lock = Sx(k, "mmap_lock")
        self.page_table_lock = SpinMutex(k, "page_table_lock")
        #: Page tables by number: what the pages hold, by address.
        self.tables: dict[int, dict[int, str]] = {}

    # ------------------------------------------------------------ a program

    async def access(self, addr: int, content: str | None = None) -> str:
        """Read or write a page, as a program does: by the page tables, and by page faults if need be. What it holds."""
        while True:
            await self.page_table_lock.lock()
            table = self.tables.get(addr // PTRS_PER_PTE, {})
            if addr in table:
                found = table[addr] = table[addr] if content is None else content
                await self.page_table_lock.unlock()
                return found
            await self.page_table_lock.unlock()
            assert await self.fault(addr), "SIGSEGV"

    async def fault(self, addr: int) -> bool:
        """handle_mm_fault: map a page of zeros; False: nothing may be there. Locks: takes mmap_lock for reading."""
        await self.mmap_lock.slock()
        self.mapped.read()
        vma = next((vma for vma in self.vmas if addr < vma.end), None)
        good = vma is not None and (vma.start <= addr or await self.expand_stack(vma, addr))
        if good:
            table = await self.pte_alloc(addr // PTRS_PER_PTE)
            await self.page_table_lock.lock()
            table.setdefault(addr, "zeros")
            await self.page_table_lock.unlock()
        await self.mmap_lock.unlock()
        return good

    async def expand_stack(self, vma: Vma, addr: int) -> bool:
        """Let a mapping begin at a lower address, if it is a stack and nothing is near. Locks: mmap_lock, for reading."""
        await self.page_table_lock.lock()
        self.mapped.read()
        at = self.vmas.index(vma)
        near = at > 0 and self.vmas[at - 1].end + STACK_GUARD_GAP > addr
        good = vma.grows and not near
        if good:
            self.mapped.write()
            vma.start = min(vma.start, addr)
        await self.page_table_lock.unlock()
        return good

    async def pte_alloc(self, number: int) -> dict[int, str]:
        """The page table of that number; it is made if there is none. Locks: mmap_lock, in any way."""
        await self.page_table_lock.lock()
        table = self.tables.setdefault(number, {})
        await self.page_table_lock.unlock()
        return table

    # ------------------------------------------------------------ munmap

    async def munmap(self, vma: Vma) -> None:
        """Unmap a mapping. Locks: takes mmap_lock, for writing and then perhaps for reading."""
        await self.mmap_lock.xlock()
        self.mapped.write()
        at = self.vmas.index(vma)
        floor = self.vmas[at - 1].end if at else 0
        above = self.vmas[at + 1] if at + 1 < len(self.vmas) else None
        del self.vmas[at]
        ceiling = above.start if above is not None else vma.end + PTRS_PER_PTE
        if self.may_downgrade(above):
            await self.mmap_lock.downgrade()
        await self.unmap_vmas(vma)
        await self.free_pgtables(floor, ceiling)
        await self.mmap_lock.unlock()

    def may_downgrade(self, above: Vma | None) -> bool:
        """May others have page faults meanwhile? `above`: what is mapped behind the hole."""
        return above is None or not above.grows

    async def unmap_vmas(self, vma: Vma) -> None:
        """Free the pages. Locks: mmap_lock, in any way."""
        await self.page_table_lock.lock()
        for addr in range(vma.start, vma.end):
            self.tables.get(addr // PTRS_PER_PTE, {}).pop(addr, None)
        await self.page_table_lock.unlock()

    async def free_pgtables(self, floor: int, ceiling: int) -> None:
        """Free the page tables of which no page is mapped: those from `floor` to `ceiling`. Locks: mmap_lock, in any way."""
        await self.page_table_lock.lock()
        for number in list(self.tables):
            if floor <= number * PTRS_PER_PTE and (number + 1) * PTRS_PER_PTE <= ceiling:
                del self.tables[number]
        await self.page_table_lock.unlock()


class Downgrades(Mm):
    """An address space that others may have page faults in, whatever is behind the hole."""

    def may_downgrade(self, above: Vma | None) -> bool:
        """Always."""
        del above
        return True


def unmap_and_grow(k: Kernel, cls: type[Mm]) -> None:
    """A stack begins where a page table does; one thread uses the page below it, another unmaps what is further down."""
    file = Vma(0, 2)
    mm = cls(k, file, Vma(PTRS_PER_PTE, PTRS_PER_PTE + 2, grows=True))

    async def unmaps() -> None:
        await mm.munmap(file)

    async def calls() -> None:
        await mm.access(PTRS_PER_PTE - 1, "a local variable")
        await k.join(other)
        assert await mm.access(PTRS_PER_PTE - 1) == "a local variable", "what was written to the stack is gone"

    other = k.spawn(unmaps, name="unmaps")
    k.spawn(calls, name="calls")


@scenario(expect="assertion", source=SOURCE)
def se_07_stack_grows_into_the_hole(k: Kernel) -> None:
    """The new page of the stack goes with the page table that leads to it."""
    unmap_and_grow(k, Downgrades)


@scenario(source=SOURCE, executions=200)
def se_07_stack_grows_into_the_hole_ok(k: Kernel) -> None:
    """The stack grows before or after."""
    unmap_and_grow(k, Mm)
