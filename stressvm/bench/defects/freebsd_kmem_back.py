"""kmem_back of FreeBSD 9.3: it waits for pages with its own entry in transition, and relies on nobody wanting that.

That version's kernel memory is not modelled otherwise; the map, its lock and vm_map_delete are the model's.

Source: sys/vm/vm_kern.c of release/9.3, kmem_back: the assertion "volatile entry".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from stressvm.bench.defects.defect import Defect, Label, Plant
from stressvm.kernel.mutex import Mutex
from stressvm.kernel.sleepq import SleepQueue
from stressvm.vm import freebsd
from stressvm.vm.freebsd import MapKind, VmMap2013

if TYPE_CHECKING:
    from stressvm.bench.defects.defect import Build
    from stressvm.kernel.kernel import Kernel
    from stressvm.vm.freebsd import VmMapEntry

PAGE: Final = freebsd.PAGE_SIZE


class Backing(VmMap2013):
    """kmem_map, with its kmem_back; here it wakes whoever has waited for its entry, as vm_map_wire does."""

    async def kmem_back(self, addr: int, shortage: Shortage) -> None:
        """Map a page, waiting for it with the map unlocked and the entry in transition.

        Locks: none on entry and exit. Sleeps: for the lock, and for the page.
        """
        await self.lock.lock()
        assert self.insert(None, 0, addr, addr + PAGE) == 0
        found, entry = self.lookup(addr)
        assert found
        assert entry is not None
        entry.eflags |= freebsd.MAP_ENTRY_IN_TRANSITION
        entry.wiring_thread = self.k.cur
        await self.lock.unlock()
        await shortage.wait()
        await self.lock.lock()
        wanted = bool(entry.eflags & freebsd.MAP_ENTRY_NEEDS_WAKEUP)
        entry.eflags &= ~(freebsd.MAP_ENTRY_IN_TRANSITION | freebsd.MAP_ENTRY_NEEDS_WAKEUP)
        entry.wiring_thread = -1
        if wanted:
            await self.volatile(entry)
        await self.lock.unlock()

    async def volatile(self, entry: VmMapEntry) -> None:
        """Somebody waits for the entry. Locks: the write lock throughout."""
        del entry
        await self.wake_sleepers()


class Asserts(Backing):
    """As 9.3 does."""

    async def volatile(self, entry: VmMapEntry) -> None:
        raise self.k.panic(f"kmem_back: KASSERT: volatile entry: {entry!r}")


class Ignores(Backing):
    """9.3 without its assertion."""

    async def volatile(self, entry: VmMapEntry) -> None:
        """It is nobody's business."""


class Shortage:
    """Pages are short until somebody frees one."""

    def __init__(self, k: Kernel) -> None:
        self.mutex = Mutex(k, "page queue free")
        self.channel = SleepQueue(k, "cnt.v_free_count")
        self.pages = 0

    async def wait(self) -> None:
        """VM_WAIT."""
        await self.mutex.lock()
        while not self.pages:
            await self.channel.sleep(self.mutex, "vmwait", until=lambda: bool(self.pages))
        await self.mutex.unlock()

    async def free(self) -> None:
        """A page is free."""
        await self.mutex.lock()
        self.pages += 1
        await self.channel.wakeup()
        await self.mutex.unlock()


def back_and_remove(cls: type[Backing] = Backing) -> Build:
    """Kernel memory is unmapped while it is waiting for its page."""

    def build(k: Kernel) -> None:
        kmem_map = cls(k, 1 << 32, (1 << 32) + 4 * PAGE, kind=MapKind.SYSTEM, name="kmem_map")
        shortage = Shortage(k)

        async def back() -> None:
            await kmem_map.kmem_back(kmem_map.min_offset, shortage)

        async def remove() -> None:
            await freebsd.vm_map_remove(kmem_map, kmem_map.min_offset, kmem_map.min_offset + PAGE)

        k.spawn(back, name="back")
        k.spawn(remove, name="remove")
        k.spawn(shortage.free, name="free")

    return build


DEFECTS: Final = (
    Defect(
        "F44",
        "9.3's kmem_back drops the lock with its own entry in transition, and would wake nobody who waits for that; it asserts "
        "that there is no such thread.",
        (
            Plant(
                "as shipped, with somebody who unmaps what is another's",
                back_and_remove,
                (("cls", Asserts),),
                "panic",
                "volatile entry",
                label=Label.SHIPPED,
                note="No caller of the kernel's does that, which is why it may assert. The twin wakes the waiter.",
            ),
            Plant(
                "without the assertion",
                back_and_remove,
                (("cls", Ignores),),
                "lost-wakeup",
                "although what it waits for is there",
            ),
        ),
    ),
)
