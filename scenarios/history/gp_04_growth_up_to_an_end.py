"""DragonFly's pmap_growkernel, 2010: whoever wants addresses far above the limit has everything made that lies below them.

The kernel's page tables reached up to one limit, and whoever wanted more gave the end that he wanted. Modules are loaded far
above everything else. So the first of them had page tables made for all that lies between: 256 MiB of memory, or a panic. It
was repaired by passing a range; what is not next to the limit gets page tables of its own, and the limit stays.

Source: DragonFly, pmap_growkernel, commit a8cf287804 of September 2010. Here it is FreeBSD's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm import Kernel, scenario
from stressvm.vm import pmap

if TYPE_CHECKING:
    from stressvm.vm.pmap import PageTable, PhysPage

SOURCE = "DragonFly, pmap_growkernel; repaired by a8cf287804, September 2010"
BASE = 0xFFFF_FFFF_8000_0000
#: Where modules are: so many page tables above the rest.
FAR = 128
#: So many pages there are for page tables.
PAGES = 3


class KernelPmap(pmap.FreeBSDPmap):
    """The kernel's pmap, on a machine with few pages."""

    def __init__(self, machine: pmap.Machine) -> None:
        super().__init__(
            machine,
            "kernel_pmap",
            kernel=True,
            min_address=BASE,
            max_address=BASE + (FAR + 1) * pmap.NBPDR,
            kernel_vm_end=BASE + pmap.NBPDR,
            alloc_ptp=self.take_page,
        )
        self.left = PAGES

    async def take_page(self, may_sleep: bool) -> PhysPage | None:  # noqa: ARG002, FBT001 - the shape of AllocPtp
        """A page for a page table, if there is one left."""
        if not self.left:
            return None
        self.left -= 1
        return pmap.Frame((1 + self.left) * pmap.PAGE_SIZE, managed=False)

    async def grow_range(self, start: int, end: int) -> None:
        """Have page tables for [start, end). Locks: the kernel map's. Sleeps: no. Panics without a page for one."""
        if start <= self.kernel_vm_end:
            await self.growkernel(end)
            return
        for va in range(pmap.trunc_2mpage(start), end, pmap.NBPDR):
            if not await self.alloc_table(va, []):
                raise self.k.panic("pmap_growkernel: no memory to grow kernel")
            await self.tables.store(va)

    def kernel_table(self, va: int) -> PageTable | None:
        """Also beyond the limit there may be one."""
        return super().kernel_table(va) or self.tables.table(va)


class UpToAnEnd(KernelPmap):
    """Only the end matters."""

    async def grow_range(self, start: int, end: int) -> None:  # noqa: ARG002 - that is the bug
        """Have page tables up to there."""
        await self.growkernel(end)


def load_module(k: Kernel, cls: type[KernelPmap]) -> None:
    """A module is loaded, of one page."""
    machine = pmap.machine(k, 1)
    kernel = cls(machine)
    page = pmap.Frame(0, managed=False)
    machine.add_page(page)
    va = BASE + FAR * pmap.NBPDR

    async def loads() -> None:
        await kernel.grow_range(va, va + pmap.PAGE_SIZE)
        await kernel.kenter(va, page.phys_addr)
        assert await kernel.access(va, pmap.VM_PROT_READ) is page, "the module is not there"

    k.spawn(loads)


@scenario(expect="panic", source=SOURCE)
def gp_04_growth_up_to_an_end(k: Kernel) -> None:
    """There is no memory for so many page tables."""
    load_module(k, UpToAnEnd)


@scenario(source=SOURCE, executions=200)
def gp_04_growth_up_to_an_end_ok(k: Kernel) -> None:
    """One is enough."""
    load_module(k, KernelPmap)
