"""FreeBSD's kernel memory: addresses from arenas, pages from the kernel object, wired into the kernel's pmap.

kva_alloc gets addresses, kmem_malloc addresses and pages. Addresses come from an arena that imports them from the kernel's
map, two mebibytes at a time. 13 has one arena more, of its domain, between kmem_malloc and that; it imports from the
kernel's arena and never gives back. 10.4 has an arena of fixed size, kmem_arena, which calls the page daemon when it is
full; its kernel arena caches small sizes, and gives spans that are free back to the map.

A caller that may not wait gets nothing if there are no addresses, or not enough pages; then the pages that it had, and the
addresses, go back. In 10.4, a caller that may wait sleeps in the arena for addresses, and for pages one by one. In 13 it
never does: domains are asked one after the other without waiting, and if none has it, it sleeps until the system is not
short of pages, and asks again. So for addresses it does not sleep at all, it spins.

Source: sys/vm/vm_kern.c of release/10.4 and releng/13.0; sys/vm/vm_domainset.c (vm_domainset_iter_policy) of 13.0;
sys/vm/vm_init.c (kva_import, kva_release, vm_mem_init) of 10.4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from stressvm.kernel.errors import UsageError
from stressvm.vm.freebsd import flags as F  # noqa: N812 - the constants, as the kernel writes them
from stressvm.vm.freebsd.addresses import must_fit
from stressvm.vm.freebsd.vm_map_find import Request
from stressvm.vm.freebsd.vm_object_pages import ObjectPages
from stressvm.vm.freebsd.vmem import vmem_alloc, vmem_free, vmem_xalloc
from stressvm.vm.freebsd.vmem_arena import (
    M_BESTFIT,
    M_EXEC,
    M_NOWAIT,
    M_USE_RESERVE,
    M_WAITOK,
    M_ZERO,
    Vmem,
)
from stressvm.vm.pages import (
    VM_ALLOC_INTERRUPT,
    VM_ALLOC_NOBUSY,
    VM_ALLOC_SYSTEM,
    VM_ALLOC_WAITFAIL,
    VM_ALLOC_WIRED,
    VM_ALLOC_ZERO,
    PageQueue,
)
from stressvm.vm.pmap import PMAP_ENTER_WIRED

if TYPE_CHECKING:
    from collections.abc import Callable

    from stressvm.vm.freebsd.vm_kernel_map import KernelMap
    from stressvm.vm.pages import Page

#: 10.4's kernel arena caches sizes up to so many pages.
QCACHE_PAGES: Final = 16


class Kmem:
    """The kernel's memory; planted defects override one of the small methods. See `kmem_init`.

    Args:
        kernel_map: the kernel's map, with memory.
        import_quantum: so many bytes the arenas import at a time, or multiples.
        qcache_max: of the kernel's arena, bytes.

    Attributes:
        kernel_object: has the pages; page n of it is that at the n-th page of the kernel's map.
        kernel_arena: addresses, imported from the kernel's map.
        arena: where kmem_malloc gets its addresses: 13 the domain's arena, 10.4 kmem_arena.
    """

    def __init__(self, kernel_map: KernelMap, import_quantum: int, qcache_max: int) -> None:
        if kernel_map.memory is None or kernel_map.pmap is None:
            raise UsageError(f"{kernel_map.name} has no memory: make it with memory=Memory(...)")
        self.k = kernel_map.k
        self.map = kernel_map
        self.memory = kernel_map.memory
        self.phys = self.memory.pages
        self.pmap = kernel_map.pmap
        self.kernel_object = ObjectPages(self.memory, "kernel_object", swap=False, managed=False)
        self.kernel_arena = Vmem(self.k, "kernel_arena", import_quantum=import_quantum, qcache_max=qcache_max)
        self.kernel_arena.importfn = self.kva_import
        self.kernel_arena.importable = self.map.fits
        self.arena = self.kernel_arena

    # ------------------------------------------------------------ addresses

    async def kva_import(self, size: int, flags: int, wanted: Callable[[], bool]) -> int | None:
        """kva_import: a span of the kernel's map, at superpages if it is that large. Locks: takes the map's."""
        del flags, wanted
        low, prot = self.map.min_offset, F.VM_PROT_ALL
        request = Request(None, 0, low, size, 0, F.VMFS_SUPER_SPACE, prot, prot, F.MAP_NOFAULT)
        result, addr = await self.map.find(request)
        return None if result else addr

    def pindex(self, addr: int) -> int:
        """Which page of the kernel object is at an address."""
        return F.off_to_idx(addr - self.map.min_offset)

    async def malloc(self, size: int, flags: int, arena: Vmem | None) -> int:
        """kmem_malloc. See the call."""
        raise NotImplementedError

    async def malloc_once(self, size: int, flags: int, arena: Vmem) -> int:
        """Addresses, and pages for them; 0 if either cannot be had."""
        error, addr = await vmem_alloc(arena, size, flags & (M_NOWAIT | M_WAITOK) | M_BESTFIT)
        if error:
            return 0
        if await self.back(addr, size, flags):
            await self.malloc_failed(arena, addr, size)
            return 0
        return addr

    # ------------------------------------------------------------ pages

    def malloc2vm_flags(self, flags: int) -> int:
        """malloc2vm_flags: how M_* ask for pages. Only who may not wait may have the last ones."""
        if flags & M_USE_RESERVE and not flags & M_NOWAIT:
            raise self.k.panic("malloc2vm_flags: KASSERT: M_USE_RESERVE requires M_NOWAIT")
        req = VM_ALLOC_INTERRUPT if flags & M_USE_RESERVE else VM_ALLOC_SYSTEM
        return req | (VM_ALLOC_ZERO if flags & M_ZERO else 0) | VM_ALLOC_WIRED

    async def back(self, addr: int, size: int, flags: int) -> int:
        """kmem_back. See the call."""
        prot = self.prot(flags)
        done = 0
        await self.kernel_object.lock.lock()
        while done < size:
            page = await self.alloc_page(addr + done, flags)
            if page is not None:
                await self.enter_page(addr + done, page, prot, flags)
                done += F.PAGE_SIZE
            elif flags & M_NOWAIT:
                await self.kernel_object.lock.unlock()
                await self.back_failed(addr, done)
                return F.KERN_NO_SPACE
            else:
                await self.wait_for_page()
        await self.kernel_object.lock.unlock()
        return F.KERN_SUCCESS

    def prot(self, flags: int) -> int:
        """What the mappings allow."""
        raise NotImplementedError

    async def alloc_page(self, addr: int, flags: int) -> Page | None:
        """A page for an address, in the kernel object. Locks: its lock on entry and exit."""
        raise NotImplementedError

    async def wait_for_page(self) -> None:
        """There was none, and the caller may wait. Locks: the kernel object's on entry and exit."""
        raise NotImplementedError

    async def enter_page(self, addr: int, page: Page, prot: int, flags: int) -> None:
        """Map a page. Locks: the kernel object's throughout."""
        self.memory.fresh(page)
        if flags & M_ZERO and not page.zeroed:
            page.zero()
        self.kernel_object.validate(page)
        await self.pmap.enter(addr, page, prot, prot | PMAP_ENTER_WIRED)

    async def back_failed(self, addr: int, size: int) -> None:
        """There are no more pages, and the caller may not wait: what it got goes back."""
        await self.unback(addr, size)

    async def malloc_failed(self, arena: Vmem, addr: int, size: int) -> None:
        """There are not enough pages: the addresses go back."""
        await vmem_free(arena, addr, size)

    async def unback(self, addr: int, size: int) -> None:
        """kmem_unback: unmap pages, then free them. Locks: takes the kernel object's. Sleeps: for locks."""
        if not size:
            return
        await self.pmap.remove(addr, addr + size)
        await self.free_pages(addr, size)

    async def free_pages(self, addr: int, size: int) -> None:
        """The pages of a range that is not mapped any more are freed. Locks: takes the kernel object's."""
        await self.kernel_object.lock.lock()
        for va in range(addr, addr + size, F.PAGE_SIZE):
            page = self.kernel_object.pages.lookup(self.pindex(va))
            if page is None:
                raise self.k.panic(f"kmem_unback: page fault: there is no page at {va:#x}")
            self.claim(page)
            await self.phys.vm_page_unwire(page, PageQueue.NONE)
            await self.kernel_object.free(page)
        await self.kernel_object.lock.unlock()

    def claim(self, page: Page) -> None:
        """vm_page_xbusy_claim: 13's pages stay busy by whoever allocated them; now by who frees them."""
        if page.busy:
            page.busy_thread = self.k.cur

    async def free(self, arena: Vmem, addr: int, size: int) -> None:
        """kmem_free: first the pages, then the addresses."""
        await self.unback(addr, size)
        await self.free_addresses(arena, addr, size)

    async def free_addresses(self, arena: Vmem, addr: int, size: int) -> None:
        """The addresses are free again. G14: nothing is mapped there, no processor remembers anything."""
        self.pmap.assert_vacated(addr, addr + size)
        await vmem_free(arena, addr, size)


class Kmem13(Kmem):
    """Kernel memory of 13.0."""

    def __init__(self, kernel_map: KernelMap, import_quantum: int, qcache_max: int) -> None:
        super().__init__(kernel_map, import_quantum, qcache_max)
        self.arena = Vmem(self.k, "vmd_kernel_arena", import_quantum=import_quantum)
        self.arena.importfn = self.kva_import_domain

    async def malloc(self, size: int, flags: int, arena: Vmem | None) -> int:
        """kmem_malloc_domainset: without waiting; for who may wait, again when the system is not short of pages."""
        if arena is not None:
            raise UsageError("kmem_malloc(arena=...): 13 has one arena for it")
        while True:
            addr = await self.malloc_once(size, flags & ~M_WAITOK | M_NOWAIT, self.arena)
            if addr or not flags & M_WAITOK:
                return addr
            await self.iter_policy()

    async def iter_policy(self) -> None:
        """vm_domainset_iter_policy: no domain has it: wait for pages, if they are short. Locks: none."""
        await self.phys.vm_wait()

    async def kva_import_domain(self, size: int, flags: int, wanted: Callable[[], bool]) -> int | None:
        """kva_import_domain: a span of the kernel's arena, aligned."""
        error, addr = await vmem_xalloc(self.kernel_arena, size, flags, self.arena.import_quantum, wanted)
        return None if error else addr

    def prot(self, flags: int) -> int:
        """No executing, unless that is asked for."""
        return F.VM_PROT_ALL if flags & M_EXEC else F.VM_PROT_RW

    async def alloc_page(self, addr: int, flags: int) -> Page | None:
        """A page that stays busy. With M_WAITOK the allocator itself waits, and then says that there is none."""
        req = self.malloc2vm_flags(flags) | (VM_ALLOC_WAITFAIL if flags & M_WAITOK else 0)
        return await self.phys.vm_page_alloc(self.kernel_object, self.pindex(addr), req)

    async def wait_for_page(self) -> None:
        """It has waited."""


class Kmem2013(Kmem):
    """Kernel memory of 10.4; its kmem_arena is `size` bytes, and can be full."""

    def __init__(self, kernel_map: KernelMap, import_quantum: int, qcache_max: int, size: int) -> None:
        super().__init__(kernel_map, import_quantum, qcache_max)
        self.kernel_arena.releasefn = self.kva_release
        start = kernel_map.findspace(kernel_map.min_offset, size)
        if start is None or kernel_map.insert(
            None, 0, start, start + size, F.VM_PROT_ALL, F.VM_PROT_ALL, F.MAP_NOFAULT
        ):
            raise UsageError(f"kmem_init(kmem_size={size:#x}): {kernel_map.name} has no room for so much")
        self.arena = Vmem(self.k, "kmem_arena", start, size)
        self.arena.reclaimfn = self.kmem_reclaim

    async def malloc(self, size: int, flags: int, arena: Vmem | None) -> int:
        """kmem_malloc: the arena, and the allocation of pages, wait if they may."""
        return await self.malloc_once(size, flags, arena or self.arena)

    async def kva_release(self, addr: int, size: int) -> None:
        """kva_release: a span that is free goes back to the kernel's map. Locks: takes the map's."""
        await self.map.lock.lock()
        await self.map.delete(addr, addr + size)
        await self.map.lock.unlock()

    async def kmem_reclaim(self, flags: int) -> None:
        """kmem_reclaim: call the page daemon, which drains caches."""
        del flags
        await self.phys.pagedaemon_wakeup()

    def prot(self, flags: int) -> int:  # noqa: ARG002 - nobody cares
        """Everything."""
        return F.VM_PROT_ALL

    async def alloc_page(self, addr: int, flags: int) -> Page | None:
        """A page that is not busy. The allocator never waits."""
        req = self.malloc2vm_flags(flags) | VM_ALLOC_NOBUSY
        return await self.phys.vm_page_alloc(self.kernel_object, self.pindex(addr), req)

    async def wait_for_page(self) -> None:
        """With the object unlocked."""
        await self.kernel_object.lock.unlock()
        await self.phys.vm_wait()
        await self.kernel_object.lock.lock()


def kmem_init(
    kernel_map: KernelMap,
    *,
    import_quantum: int = F.NBPDR,
    qcache_max: int | None = None,
    kmem_size: int = 64 * F.PAGE_SIZE,
    cls: type[Kmem13 | Kmem2013] | None = None,
) -> Kmem:
    """While the world is built: the kernel's arenas, and its object.

    Args:
        kernel_map: the kernel's map, with memory; its version is that of the rest.
        import_quantum: so many bytes arenas import at a time; both kernels take 2 MiB.
        qcache_max: up to so many bytes the kernel's arena has quantum caches; by default as the kernel: 13 has none, 10.4
            up to 16 pages.
        kmem_size: 10.4: the size of kmem_arena, bytes.
        cls: the class, in place of the version's; a subclass plants a defect.
    """
    made = cls or (Kmem13 if kernel_map.version == "13" else Kmem2013)
    if issubclass(made, Kmem13):
        return made(kernel_map, import_quantum, qcache_max or 0)
    return made(kernel_map, import_quantum, QCACHE_PAGES * F.PAGE_SIZE if qcache_max is None else qcache_max, kmem_size)


async def kva_alloc(kmem: Kmem, size: int) -> int:
    """Allocate kernel addresses, with nothing behind them. It never waits for room.

    Locks: none on entry and exit; takes the arena's, and the kernel map's to import. Sleeps: for those only.

    Args:
        kmem: the kernel's memory.
        size: bytes; rounded up to pages.

    Returns:
        The address, or 0.

    Source: sys/vm/vm_kern.c, kva_alloc.
    """
    must_fit("kva_alloc", size=size)
    error, addr = await vmem_alloc(kmem.kernel_arena, F.round_page(size), M_BESTFIT | M_NOWAIT)
    return 0 if error else addr


async def kva_free(kmem: Kmem, addr: int, size: int) -> None:
    """Give back what kva_alloc returned; the caller has unmapped what it has mapped there.

    Locks: none on entry and exit; takes the arena's. Sleeps: for it. Wakes: who waits for addresses in that arena.

    Args:
        kmem: the kernel's memory.
        addr: the address.
        size: bytes, as they were allocated.

    Source: sys/vm/vm_kern.c, kva_free.
    """
    must_fit("kva_free", addr=addr, size=size)
    kmem.pmap.assert_vacated(addr, addr + F.round_page(size))
    await vmem_free(kmem.kernel_arena, addr, F.round_page(size))


async def kmem_malloc(kmem: Kmem, size: int, flags: int, arena: Vmem | None = None) -> int:
    """Allocate wired kernel memory.

    Locks: none on entry and exit. Sleeps: for locks; with M_WAITOK for pages, without a limit, and in 10.4 for addresses.
    In 13, who may wait spins while there are pages and no addresses.

    Args:
        kmem: the kernel's memory.
        size: bytes; rounded up to pages.
        flags: M_WAITOK or M_NOWAIT; M_ZERO: filled with zeros; M_USE_RESERVE, with M_NOWAIT: the last pages may be used;
            M_EXEC (13): it may be executed.
        arena: 10.4: where addresses come from, kernel_arena or by default kmem_arena.

    Returns:
        The address; 0, with M_NOWAIT, if there are no addresses or not enough pages, and then nothing is kept.

    Source: sys/vm/vm_kern.c, kmem_malloc.
    """
    must_fit("kmem_malloc", size=size)
    addr = await kmem.malloc(F.round_page(size), flags, arena)
    if addr:
        kmem.k.progress()
    return addr


async def kmem_back(kmem: Kmem, addr: int, size: int, flags: int) -> int:
    """Allocate pages for kernel addresses, and map them, wired.

    Locks: none on entry and exit; takes the kernel object's, given up while it waits for a page. Sleeps: for locks; with
    M_WAITOK for pages.

    Args:
        kmem: the kernel's memory.
        addr: where; the caller's own.
        size: bytes, whole pages.
        flags: as for kmem_malloc.

    Returns:
        KERN_SUCCESS; KERN_NO_SPACE, with M_NOWAIT, for too few pages: none is kept.

    Source: sys/vm/vm_kern.c, kmem_back; in 13 kmem_back_domain.
    """
    must_fit("kmem_back", addr=addr, size=size)
    result = await kmem.back(addr, size, flags)
    kmem.k.progress()
    return result


async def kmem_unback(kmem: Kmem, addr: int, size: int) -> None:
    """Unmap and free the pages of kernel addresses; the addresses stay allocated. There must be a page for each.

    Locks: none on entry and exit; takes the kernel object's. Sleeps: for locks. Wakes: who waits for pages.

    Args:
        kmem: the kernel's memory.
        addr: where.
        size: bytes, whole pages.

    Source: sys/vm/vm_kern.c, kmem_unback.
    """
    must_fit("kmem_unback", addr=addr, size=size)
    await kmem.unback(addr, size)
    kmem.k.progress()


async def kmem_free(kmem: Kmem, addr: int, size: int, arena: Vmem | None = None) -> None:
    """Give back what kmem_malloc returned.

    Locks: none on entry and exit. Sleeps: for locks. Wakes: who waits for pages, and who waits for addresses in the arena.

    Args:
        kmem: the kernel's memory.
        addr: the address.
        size: bytes, as they were allocated.
        arena: as for kmem_malloc.

    Source: sys/vm/vm_kern.c, kmem_free.
    """
    must_fit("kmem_free", addr=addr, size=size)
    await kmem.free(arena or kmem.arena, addr, F.round_page(size))
    kmem.k.progress()
