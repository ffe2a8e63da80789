"""What is under FreeBSD's maps, if they are given it: physical pages, processors, pmaps, perhaps swap.

A map without memory is about addresses, and a fault in it is a stub. A map with memory has a pmap: one of its own for a
process, the kernel's for the kernel's maps; faults are those of `vm_fault_hold`, and unmapping, protecting, wiring and
forking change the pmap where the kernel does.

    pages = VmPages13(k, npages=12)
    memory = Memory(pages)
    vm_map = setup(k, pages=16, memory=memory)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from stressvm.kernel.errors import UsageError
from stressvm.vm.freebsd import flags as F  # noqa: N812 - the constants, as the kernel writes them
from stressvm.vm.freebsd.references import tally
from stressvm.vm.freebsd.vm_fault_hold import VmFault, VmFault2013
from stressvm.vm.freebsd.vm_map_core import MapKind
from stressvm.vm.freebsd.vm_object_pages import ObjectPages, Pager
from stressvm.vm.pages import (
    VM_ALLOC_INTERRUPT,
    VM_ALLOC_NOOBJ,
    VM_ALLOC_NORMAL,
    VM_ALLOC_WIRED,
    VM_ALLOC_ZERO,
    PageQueue,
    VmPages13,
    VmPages2013,
)
from stressvm.vm.pmap import FreeBSD2013Pmap, FreeBSDPmap, Machine, machine, pmap_remove_all

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from stressvm.vm.freebsd.vm_object import VmObject
    from stressvm.vm.pages import Page, Swap
    from stressvm.vm.pmap import PhysPage

PhysicalPages: TypeAlias = VmPages13 | VmPages2013
PhysicalMap: TypeAlias = FreeBSDPmap


class Memory:
    """See the module. One for each kernel; maps of it share it.

    Args:
        pages: physical memory, of the version that the maps are to be of.
        processors: the machine; by default that of the kernel (`machine(k)`).
        swap: where the daemon may write the pages of anonymous memory; None: they stay where they are.
        pmap: the class of its pmaps; by default the version's. 10.4's enters another page with one store and tells the
            processors afterwards, which is found out (see `FreeBSD2013Pmap`).
        fault: what faults do; by default what they do in the version.
        page_tables: page tables are made of these pages; if not, nobody counts what they are made of.

    Attributes:
        doomed: for each thread, the pages and objects that it has let go of, and that nobody refers to any more.
    """

    def __init__(
        self,
        pages: PhysicalPages,
        processors: Machine | None = None,
        *,
        swap: Swap | None = None,
        pmap: type[FreeBSDPmap] | None = None,
        fault: VmFault | None = None,
        page_tables: bool = False,
    ) -> None:
        self.k = pages.k
        self.pages = pages
        self.machine = processors or machine(self.k)
        self.swap = swap
        self.pmap_class = pmap or (FreeBSDPmap if isinstance(pages, VmPages13) else FreeBSD2013Pmap)
        self.fault = fault or (VmFault() if isinstance(pages, VmPages13) else VmFault2013())
        self.page_tables = page_tables
        self.doomed: dict[int, list[Page | ObjectPages]] = {}
        self.objects = 0
        #: What objects have pages, or had some, and are referred to.
        self.stores: list[ObjectPages] = []
        #: Where the pages of objects come from that do not say so themselves.
        self.pager = Pager()
        self.machine.page_owned = self.owned
        self.machine.add_pages(pages.pages)
        pages.page_is_mapped = self.machine.is_mapped
        pages.remove_mappings = self.remove_all

    # ------------------------------------------------------------ pmaps

    def pmap_of(self, kind: MapKind, name: str, start: int, end: int, *, version: str, grows: bool) -> FreeBSDPmap:
        """The pmap of a map: one of its own for a user map, else the kernel's, which is made for the first that asks.

        Args:
            kind: of the map.
            name: of the map.
            start: its lowest address.
            end: one past its highest.
            version: of the map; that of the pages.
            grows: the kernel's page tables are made as the map is inserted into; if not, they are all there.
        """
        if version != self.pages.version:
            raise UsageError(f"{name}: a map of version {version} with pages of version {self.pages.version}")
        if kind is MapKind.USER:
            return self.make_pmap(f"{name}.pmap", kernel=False, start=start, end=end)
        kernel = self.machine.kernel_pmap
        if kernel is None:
            kernel = self.make_pmap(
                "kernel_pmap", kernel=True, start=start, end=end, kernel_vm_end=start if grows else end
            )
        if not isinstance(kernel, FreeBSDPmap):
            raise UsageError(f"{name}: the kernel's pmap is of another kernel")
        if start < kernel.min_address or end > kernel.max_address:
            place = f"{kernel.min_address:#x} to {kernel.max_address:#x}"
            raise UsageError(f"{name}: the kernel's pmap is there, from {place}: make the kernel's map first")
        return kernel

    def make_pmap(self, name: str, *, kernel: bool, start: int, end: int, kernel_vm_end: int = 0) -> FreeBSDPmap:
        """A pmap for addresses from `start` to `end`."""
        alloc, free = (self.alloc_ptp(kernel=kernel), self.free_ptp) if self.page_tables else (None, None)
        return self.pmap_class(
            self.machine,
            name,
            kernel=kernel,
            min_address=F.trunc_page(start),
            max_address=F.round_page(end),
            kernel_vm_end=kernel_vm_end,
            alloc_ptp=alloc,
            free_ptp=free,
        )

    def alloc_ptp(self, *, kernel: bool) -> Callable[[bool], Awaitable[PhysPage | None]]:
        """Where the page tables of a pmap come from. The kernel's may take the last pages."""
        req = (VM_ALLOC_INTERRUPT if kernel else VM_ALLOC_NORMAL) | VM_ALLOC_NOOBJ | VM_ALLOC_WIRED | VM_ALLOC_ZERO

        async def alloc(may_sleep: bool) -> PhysPage | None:  # noqa: FBT001 - the shape of AllocPtp
            page = await self.pages.vm_page_alloc(None, 0, req)
            if page is None and may_sleep:
                await self.pages.vm_wait()
            elif page is not None:
                self.fresh(page)
            return page

        return alloc

    async def free_ptp(self, page: PhysPage) -> None:
        """Where they go."""
        mine = self.pages.pages[(page.phys_addr - self.pages.pages[0].phys_addr) >> F.PAGE_SHIFT]
        await self.pages.vm_page_unwire(mine, PageQueue.NONE)
        await self.pages.vm_page_free(mine)

    def owned(self, page: PhysPage) -> bool:
        """Is the object of a page locked by the current thread?"""
        owner = getattr(page, "owner", None)
        return owner is not None and owner.lock.owned()

    async def remove_all(self, page: Page) -> None:
        """pmap_remove_all."""
        if page.managed:
            await pmap_remove_all(self.machine, page)

    # ------------------------------------------------------------ objects

    def store(self, obj: VmObject) -> ObjectPages:
        """The pages of an object, which gets a lock and a table when it is first asked for."""
        if obj.store is None:
            obj.store = ObjectPages(self, f"object{self.objects}", obj, swap=obj.anon)
            self.stores.append(obj.store)
            self.objects += 1
        return obj.store

    def index(self, offset: int) -> int:
        """An offset in bytes as a number of pages."""
        return F.off_to_idx(offset)

    def forget_slot(self, slot: int, *, only: bool) -> None:
        """A slot of swap whose contents nobody wants; were they nowhere else? Within the caller's step."""
        assert self.swap is not None, "it is swap's"
        del self.swap.contents[slot]
        self.swap.only -= only

    def doom(self, what: Page | ObjectPages) -> None:
        """Nobody refers to a page, or to an object, any more: the current thread frees it at its next `drain`."""
        self.doomed.setdefault(self.k.cur, []).append(what)

    async def drain(self) -> None:
        """Free what this thread has let go of: pages, and the pages of objects.

        Locks: none of objects, pages and pmaps on entry and exit. Sleeps: as freeing does.
        """
        mine = self.doomed.get(self.k.cur)
        while mine:
            what = mine.pop()
            if isinstance(what, ObjectPages):
                await what.terminate()
            else:
                await self.pages.vm_page_free(what)

    # ------------------------------------------------------------ the model's own proofs

    def fresh(self, page: Page) -> None:
        """G14: a page that was just allocated can be reached through no mapping that there is, and by no processor."""
        self.machine.assert_page_unused(page)

    def audit(self) -> None:
        """When all is quiet: nothing waits to be freed, no fault is at work, no page busy, every object is referred to.

        Call it from the last thread, or when the world has come to rest. A leak is a panic of kind `invariant`.
        """
        for text in self.leaks():
            raise self.k.panic(f"memory: leak: {text}", "invariant")
        self.pages.check()

    def leaks(self) -> Iterator[str]:
        """What is left behind, in words."""
        for thread, left in self.doomed.items():
            if left:
                yield f"{self.k.threads[thread].name} has not freed {left}"
        held, _ = tally(self.k)
        for store in self.stores:
            if store.pip:
                yield f"a fault is at work on {store!r}, for ever"
            if store.obj is not None and store.obj.ref_count > held.get(store.obj, 0):
                yield f"{store!r} belongs to {store.obj!r}, held {held.get(store.obj, 0)} times"
            for page in store.pages:
                if page.busy:
                    yield f"{page!r} is busy, for ever"
