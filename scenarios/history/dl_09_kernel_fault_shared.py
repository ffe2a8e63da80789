"""DragonFly's faults in kernel memory, 2011: two of them share the object's token, and each wants it for itself.

A page fault only looks, as a rule, so it took the token of the kernel's object shared. But when the page is to be mapped and
there is no page table for it, the pmap allocates one, out of the same object, and for that it takes the token exclusively.
A token may be had exclusively by who shares it already, once no other thread shares it; two that share it both wait for
that. It was repaired by taking it exclusively from the start, in the kernel's map.

Source: DragonFly, sys/vm/vm_fault.c, commit 1ad27649b8 of November 2011. Tokens and the fault are built here of a mutex and a
sleep queue.
"""

from __future__ import annotations

from stressvm import Kernel, SleepQueue, SpinMutex, scenario

SOURCE = "DragonFly, sys/vm/vm_fault.c, vm_fault; repaired by 1ad27649b8, November 2011"
#: Pages that one page table maps.
NPTEPG = 512


class Token:
    """An LWKT token: held shared by many threads, or by one exclusively, which may share it as well.

    Args:
        k: the kernel.
        name: as reports show it.
    """

    def __init__(self, k: Kernel, name: str) -> None:
        self.k = k
        self.lock = SpinMutex(k, f"{name}.lock")
        self.queue = SleepQueue(k, name)
        self.owner = -1
        self.sharers: list[int] = []

    async def get_shared(self) -> None:
        """lwkt_gettoken_shared. Sleeps: while another thread has it exclusively."""
        await self.lock.lock()
        while self.owner not in (-1, self.k.cur):
            await self.queue.sleep(self.lock, "shared", holder=lambda: self.owner)
        self.sharers.append(self.k.cur)
        await self.lock.unlock()

    async def get(self) -> None:
        """lwkt_gettoken. Sleeps: while another thread has it in any way."""
        me = self.k.cur
        await self.lock.lock()
        while self.other(me) >= 0:
            await self.queue.sleep(self.lock, "exclusive", holder=lambda: self.other(me))
        self.owner = me
        await self.lock.unlock()

    def other(self, me: int) -> int:
        """A thread besides this one that has it, or -1. Locks: `lock`."""
        if self.owner not in (-1, me):
            return self.owner
        return next((t for t in self.sharers if t != me), -1)

    async def put(self, *, shared: bool) -> None:
        """lwkt_reltoken. Wakes: all who wait. Sleeps: no."""
        await self.lock.lock()
        if shared:
            self.sharers.remove(self.k.cur)
        else:
            self.owner = -1
        await self.queue.wakeup()
        await self.lock.unlock()


class KernelFault:
    """Page faults in the kernel's map.

    Args:
        k: the kernel.
    """

    #: Is the token shared at first?
    SHARED = False

    def __init__(self, k: Kernel) -> None:
        self.token = Token(k, "kernel_object")
        #: The page tables that there are, and the pages that are mapped, by number.
        self.tables: set[int] = set()
        self.mapped: set[int] = set()

    async def fault(self, page: int) -> None:
        """vm_fault: map a page. Locks: takes the object's token. Sleeps: for it."""
        if self.SHARED:
            await self.token.get_shared()
        else:
            await self.token.get()
        if page // NPTEPG not in self.tables:
            await self.pmap_allocpte(page // NPTEPG)
        self.mapped.add(page)
        await self.token.put(shared=self.SHARED)

    async def pmap_allocpte(self, table: int) -> None:
        """A page of the object becomes a page table. Locks: the token in some way on entry and exit; takes it exclusively."""
        if self.SHARED:
            await self.token.get()
        self.tables.add(table)
        if self.SHARED:
            await self.token.put(shared=False)


class SharedFault(KernelFault):
    """A fault that begins with the token shared, as in any other map."""

    SHARED = True


def two_faults(k: Kernel, cls: type[KernelFault]) -> None:
    """Two threads fault on pages of which neither has a page table."""
    kernel = cls(k)

    for number in range(2):
        k.spawn(kernel.fault, number * NPTEPG, name=f"fault{number}")


@scenario(expect="deadlock", source=SOURCE)
def dl_09_kernel_fault_shared(k: Kernel) -> None:
    """Each waits until the other no longer shares the token."""
    two_faults(k, SharedFault)


@scenario(source=SOURCE, executions=200)
def dl_09_kernel_fault_shared_ok(k: Kernel) -> None:
    """One at a time."""
    two_faults(k, KernelFault)
