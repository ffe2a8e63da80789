"""DragonFly's vm_fault, 2011: with a page busy it waits for the map, and whoever has the map waits for the page.

A fault lets go of the map while a page is read, and keeps the page busy. Afterwards it has to look at the map again, so it
locks it. Meanwhile somebody else has locked the map for writing, and wants the page. It was repaired with a time limit: if
the map cannot be had within it, the fault lets go of everything and starts from scratch.

Source: DragonFly, sys/vm/vm_fault.c, commit 625a293762 of August 2011. Here it is FreeBSD 13's fault, which only tries.
"""

from __future__ import annotations

from stressvm import Kernel, scenario
from stressvm.vm import freebsd, pages

SOURCE = "DragonFly, sys/vm/vm_fault.c, vm_fault_object and relock_map; repaired by 625a293762, August 2011"
PAGE = freebsd.PAGE_SIZE
LOW = 0x1_0000_0000


class WaitsForTheMap(freebsd.VmFault):
    """The map is locked again, however long that takes."""

    async def relock_map(self, fs: freebsd.FaultState) -> bool:
        """Wait, not try."""
        await fs.map.lock.lock_read()
        return True


def read_and_grab(k: Kernel, fault: freebsd.VmFault) -> None:
    """One thread reads a page of a file; another locks the memory of the process for writing, and grabs the page."""
    memory = freebsd.Memory(pages.VmPages13(k, 8), fault=fault)
    vm = freebsd.vmspace_alloc(k, LOW, LOW + 4 * PAGE, version="13", memory=memory)
    file = freebsd.VmObject(1, pager=freebsd.Pager("file"))
    vm.map.insert(file, 0, LOW, LOW + PAGE, freebsd.VM_PROT_READ)
    store = memory.store(file)

    async def reads() -> None:
        await freebsd.vmspace_access(vm.map, LOW, freebsd.VM_PROT_READ)

    async def grabs() -> None:
        await vm.map.lock.lock()
        await store.lock.lock()
        while (page := store.pages.lookup(0)) is not None:
            if not await memory.pages.vm_page_sleep_if_busy(page, "grab"):
                break
        await store.lock.unlock()
        await vm.map.lock.unlock()

    k.spawn(reads, name="reads")
    k.spawn(grabs, name="grabs")


@scenario(expect="deadlock", source=SOURCE)
def dl_03_fault_relocks_the_map(k: Kernel) -> None:
    """One has the page and waits for the map, the other has the map and waits for the page."""
    read_and_grab(k, WaitsForTheMap())


@scenario(source=SOURCE, executions=200)
def dl_03_fault_relocks_the_map_ok(k: Kernel) -> None:
    """Whoever has the page only tries for the map, and else lets go of the page."""
    read_and_grab(k, freebsd.VmFault())
