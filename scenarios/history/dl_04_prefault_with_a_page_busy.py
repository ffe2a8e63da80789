"""DragonFly's vm_prefault, 2011: neighbouring pages are mapped while the page that was asked for is still busy.

When a page fault has found its page, it maps the neighbours as well, if they are in memory. For that it makes each of them
busy for a moment, and waits for those that are busy. It did so before it let go of its own page. Two threads that fault on
neighbours then wait for each other's.

Source: DragonFly, sys/vm/vm_fault.c, commit ce2ac2495c of October 2011. Here it is FreeBSD 13's fault, with a prefault of the
page before and the one after that waits as DragonFly's did.
"""

from __future__ import annotations

from stressvm import Kernel, scenario
from stressvm.vm import freebsd, pages

SOURCE = "DragonFly, sys/vm/vm_fault.c, vm_prefault; repaired by ce2ac2495c, October 2011"
PAGE = freebsd.PAGE_SIZE
LOW = 0x1_0000_0000


class Prefaulting(freebsd.VmFault):
    """A fault that maps the neighbours, too."""

    async def map_page(self, fs: freebsd.FaultState) -> None:
        """First the page, which is let go of; then the neighbours."""
        await super().map_page(fs)
        await self.prefault(fs)

    async def prefault(self, fs: freebsd.FaultState) -> None:
        """Map the neighbours that are in memory. Locks: the map's read lock. Sleeps: for busy pages."""
        store, phys = fs.first, fs.phys
        for pindex in (fs.first_pindex - 1, fs.first_pindex + 1):
            await store.lock.lock()
            while (page := store.pages.lookup(pindex)) is not None:
                if await phys.vm_page_sleep_if_busy(page, "prefault"):
                    continue
                if store.is_valid(page) and await phys.vm_page_tryxbusy(page):
                    await fs.pmap.enter(fs.vaddr + (pindex - fs.first_pindex) * PAGE, page, freebsd.VM_PROT_READ, 0)
                    await phys.vm_page_xunbusy(page)
                break
            await store.lock.unlock()


class HoldsItsPage(Prefaulting):
    """A fault that maps the neighbours with its own page still busy."""

    async def map_page(self, fs: freebsd.FaultState) -> None:
        """The wrong way round."""
        await self.prefault(fs)
        await freebsd.VmFault.map_page(self, fs)


def two_neighbours(k: Kernel, fault: freebsd.VmFault) -> None:
    """Two threads of a process read two pages of a file, one each."""
    memory = freebsd.Memory(pages.VmPages13(k, 8), fault=fault)
    vm = freebsd.vmspace_alloc(k, LOW, LOW + 4 * PAGE, version="13", memory=memory)
    file = freebsd.VmObject(2, pager=freebsd.Pager("file"))
    vm.map.insert(file, 0, LOW, LOW + 2 * PAGE, freebsd.VM_PROT_READ)

    async def reads(number: int) -> None:
        await freebsd.vmspace_access(vm.map, LOW + number * PAGE, freebsd.VM_PROT_READ)

    for number in range(2):
        k.spawn(reads, number, name=f"reads{number}")


@scenario(expect="deadlock", source=SOURCE)
def dl_04_prefault_with_a_page_busy(k: Kernel) -> None:
    """Each has its page and waits for the other's."""
    two_neighbours(k, HoldsItsPage())


@scenario(source=SOURCE, executions=200)
def dl_04_prefault_with_a_page_busy_ok(k: Kernel) -> None:
    """Whoever waits for a neighbour has no page."""
    two_neighbours(k, Prefaulting())
