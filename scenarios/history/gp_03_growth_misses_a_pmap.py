"""DragonFly's pmap_growkernel, 2006: a new page table of the kernel is put into the pmaps of all processes, but not into others.

Every pmap has its own copy of the entries for the kernel. pmap_growkernel went through the list of processes for them. A pmap
that is being made for a process that is not on that list yet, or that belongs to a virtual kernel, misses the new page table.
It was repaired with a list of all pmaps.

Source: DragonFly, sys/platform/pc32/i386/pmap.c, pmap_growkernel, commit 54a764e8b7 of October 2006. Here it is FreeBSD's pmap,
of which each has a page directory for user and kernel.
"""

from __future__ import annotations

from stressvm import Kernel, Mutex, scenario
from stressvm.vm import pmap

SOURCE = "DragonFly, sys/platform/pc32/i386/pmap.c, pmap_growkernel; repaired by 54a764e8b7, October 2006"
BASE = 0xC000_0000
END = BASE + 2 * pmap.NBPDR
NEW = BASE + pmap.NBPDR


class UserPmap(pmap.FreeBSDPmap):
    """The pmap of a process, in which the kernel is mapped as well."""

    def share(self, kernel: pmap.FreeBSDPmap) -> None:
        """Take over the kernel's page tables. No switch."""
        for va in range(BASE, kernel.kernel_vm_end, pmap.NBPDR):
            table = kernel.tables.table(va)
            assert table is not None, "it is below kernel_vm_end"
            self.table_at(va)
            directory = self.tables.directory(va)
            assert directory is not None, "just made"
            directory.tables[va // pmap.NBPDR % pmap.NPTEPG] = table

    async def use_kernel(self, va: int) -> None:
        """The kernel reads at an address of its own, while the processor has this pmap. Panics if it is not mapped."""
        await self.activate()
        got = await self.access(va, pmap.VM_PROT_READ)
        if isinstance(got, pmap.PageFault):
            raise self.k.panic(f"page fault while in kernel mode: {va:#x}, in {self.name}")


class KernelPmap(pmap.FreeBSDPmap):
    """The kernel's pmap.

    Attributes:
        pmap_lock: protects the list of pmaps.
        pmap_list: all pmaps.
        allproc: those of processes that are on the list of processes.
    """

    def __init__(self, machine: pmap.Machine) -> None:
        super().__init__(machine, "kernel_pmap", kernel=True, min_address=BASE, max_address=END, kernel_vm_end=NEW)
        self.table_at(BASE)
        self.pmap_lock = Mutex(machine.k, "pmap list")
        self.pmap_list: list[UserPmap] = []
        self.allproc: list[UserPmap] = []

    async def pmap_pinit(self, made: UserPmap) -> None:
        """A new pmap: it is listed, and takes over what the kernel has. Locks: takes the list's. Sleeps: for that."""
        await self.pmap_lock.lock()
        self.pmap_list.append(made)
        made.share(self)
        await self.pmap_lock.unlock()

    async def add_process(self, made: UserPmap) -> None:
        """Its process is on the list of processes from now on. Locks: takes the list's. Sleeps: for that."""
        await self.pmap_lock.lock()
        self.allproc.append(made)
        await self.pmap_lock.unlock()

    async def growkernel(self, addr: int) -> int:
        """pmap_growkernel, and the new page tables go into all pmaps."""
        await self.pmap_lock.lock()
        result = await super().growkernel(addr)
        for user in self.pmaps():
            user.share(self)
        await self.pmap_lock.unlock()
        return result

    def pmaps(self) -> list[UserPmap]:
        """All of them. Locks: the list's."""
        return self.pmap_list


class OfProcesses(KernelPmap):
    """The pmaps are looked up in the list of processes."""

    def pmaps(self) -> list[UserPmap]:
        """Those of processes that are on it."""
        return self.allproc


def fork_and_grow(k: Kernel, cls: type[KernelPmap]) -> None:
    """One thread makes a process while another one has the kernel grow, and maps a page in the new part."""
    machine = pmap.machine(k, 2)
    kernel = cls(machine)
    child = UserPmap(machine, "child")
    page = pmap.Frame(pmap.PAGE_SIZE, managed=False)
    machine.add_page(page)

    async def forks() -> None:
        await kernel.pmap_pinit(child)
        await kernel.add_process(child)
        await k.join(grows)
        await child.use_kernel(NEW)

    async def maps() -> None:
        await kernel.growkernel(END)
        await kernel.kenter(NEW, page.phys_addr)

    k.spawn(forks, name="forks")
    grows = k.spawn(maps, name="grows")


@scenario(expect="panic", source=SOURCE)
def gp_03_growth_misses_a_pmap(k: Kernel) -> None:
    """The kernel takes a page fault in one address space, and in no other."""
    fork_and_grow(k, OfProcesses)


@scenario(source=SOURCE, executions=200)
def gp_03_growth_misses_a_pmap_ok(k: Kernel) -> None:
    """A pmap is on the list as soon as it has a copy of the kernel's entries."""
    fork_and_grow(k, KernelPmap)
