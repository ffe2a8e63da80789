"""DragonFly's page daemon, 2013: it locks the map of a process, and unlocks another one, as the process has got a new one by exec.

The daemon went from the process to its address space anew for each use, also after it had slept. Meanwhile an exec may give
the process another one and free the first. It was repaired by holding the address space, and keeping it in a variable.

Source: DragonFly, sys/vm/vm_pageout.c and vm_map.c, commit 381893162d of October 2013. Here it is FreeBSD 13's address spaces,
and a scan that only counts.
"""

from __future__ import annotations

from stressvm import Atomic, Cell, Kernel, Mutex, scenario
from stressvm.vm import freebsd

SOURCE = "DragonFly, sys/vm/vm_pageout.c; repaired by 381893162d, October 2013"
PAGE = freebsd.PAGE_SIZE
LOW = 0x1_0000_0000


def new_space(k: Kernel, name: str) -> freebsd.Vmspace:
    """An address space of one page."""
    return freebsd.vmspace_alloc(k, LOW, LOW + 2 * PAGE, version="13", name=name)


class Process:
    """A process.

    Args:
        k: the kernel.

    Attributes:
        lock: the process's lock.
        vmspace: its address space; changed with the lock held.
        references: what the counts of references are, for who asks what a step uses: they are changed atomically.
    """

    def __init__(self, k: Kernel) -> None:
        self.k = k
        self.lock = Mutex(k, "process")
        first = new_space(k, "first")
        first.map.insert(None, 0, LOW, LOW + PAGE, freebsd.VM_PROT_RW)
        self.references = Atomic(k, 0, "vm_refcnt").ident.number
        self.vmspace = Cell(k, first, "p_vmspace", benign="whoever holds no lock looks again")

    async def exec_new_vmspace(self) -> None:
        """It gets a new address space. Locks: takes its own. Sleeps: for that, and as vmspace_free."""
        made = new_space(self.k, "second")
        await self.lock.lock()
        old = await self.vmspace.load()
        await self.vmspace.store(made)
        await self.lock.unlock()
        await self.free_vmspace(old)

    async def hold_vmspace(self) -> freebsd.Vmspace:
        """Its address space, with one reference more. Locks: takes its own. Sleeps: for that."""
        await self.lock.lock()
        vm = await self.vmspace.load()
        self.k.touch(self.references, write=True)
        vm.refcnt += 1
        await self.lock.unlock()
        return vm

    async def free_vmspace(self, vm: freebsd.Vmspace) -> None:
        """One reference less to an address space that it has, or had. Locks: none. Sleeps: as vmspace_free."""
        self.k.touch(self.references, write=True)
        await freebsd.vmspace_free(vm)


class Scanner:
    """Looks at the entries of a process's map."""

    async def scan(self, p: Process) -> None:
        """Locks: takes the map's. Sleeps: for that, and for each entry a little."""
        vm = await p.hold_vmspace()
        await vm.map.lock.lock_read()
        for _ in list(vm.map.entries):
            await p.k.yield_()
        await vm.map.lock.unlock_read()
        await p.free_vmspace(vm)


class LooksAgain(Scanner):
    """Goes from the process to its map whenever it needs it."""

    async def scan(self, p: Process) -> None:
        """The map that is unlocked is the one that the process has by then."""
        await (await p.vmspace.load()).map.lock.lock_read()
        for _ in list((await p.vmspace.load()).map.entries):
            await p.k.yield_()
        await (await p.vmspace.load()).map.lock.unlock_read()


def scan_and_exec(k: Kernel, cls: type[Scanner]) -> None:
    """The daemon looks at a process that does an exec."""
    process = Process(k)
    k.spawn(cls().scan, process, name="daemon")
    k.spawn(process.exec_new_vmspace, name="exec")


@scenario(expect="panic", source=SOURCE)
def uf_02_process_gets_another_map(k: Kernel) -> None:
    """A lock is released that nobody holds."""
    scan_and_exec(k, LooksAgain)


@scenario(source=SOURCE, executions=200)
def uf_02_process_gets_another_map_ok(k: Kernel) -> None:
    """The daemon unlocks what it has locked, and the old address space lives as long as that takes."""
    scan_and_exec(k, Scanner)
