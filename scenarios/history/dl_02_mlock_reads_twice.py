"""OpenBSD's mlock, 2021: it keeps the map locked for reading while its faults lock it for reading, too.

To wire a range it locked the map for writing, marked it busy, went down to a read lock, and faulted the pages in. Each fault
locks the map for reading. That is a second read hold of the same thread, which is no harm as long as nobody waits for the
write lock; but if somebody does, new readers queue behind him, this one too, and he waits for the hold that it has already.

Source: OpenBSD, sys/uvm/uvm_map.c, commit b8462368b06c of about 2021. It was repaired by unlocking the map; the busy mark keeps
writers out. Here it is NetBSD's map, which does it so.
"""

from __future__ import annotations

from stressvm import Kernel, NetBSDRwLock, scenario
from stressvm.vm import netbsd

SOURCE = "OpenBSD, sys/uvm/uvm_map.c, uvm_map_pageable_wire; repaired by b8462368b06c, about 2021"
PAGE = netbsd.PAGE_SIZE


class Downgrades(netbsd.VmMapLock):
    """A lock that whoever marks the map busy goes on holding, for reading, until the mark is gone."""

    async def unlock(self) -> None:
        """The owner of the mark keeps a read hold."""
        if self.busy_thread != self.k.cur:
            await super().unlock()
            return
        self.on_release()
        await self.rw.downgrade()

    async def unbusy(self) -> None:
        """Now it lets go."""
        await super().unbusy()
        await self.rw.exit()


class VmMap(netbsd.VmMap):
    """A map whose lock keeps new readers out while a writer waits, as the kernel's own does."""

    LOCK = netbsd.VmMapLock

    def make_lock(self) -> netbsd.MapLock:
        """With NetBSD's grants."""
        return self.LOCK(self.k, self.name, self.check, NetBSDRwLock)


class DowngradingMap(VmMap):
    """The same with the other lock."""

    LOCK = Downgrades


def wire_and_map(k: Kernel, cls: type[VmMap]) -> None:
    """One thread wires a page, another maps one."""
    kmap = netbsd.setup(k, 2, flags=netbsd.VM_MAP_PAGEABLE, fault=netbsd.LockingFault(), cls=cls)
    low = kmap.fill(1)

    async def wires() -> None:
        assert not await netbsd.uvm_map_pageable(kmap, low, low + PAGE, new_pageable=False), "it could not be wired"

    async def maps() -> None:
        await netbsd.uvm_km_alloc(kmap, PAGE, 0, netbsd.UVM_KMF_VAONLY | netbsd.UVM_KMF_NOWAIT)

    k.spawn(wires, name="wires")
    k.spawn(maps, name="maps")


@scenario(expect="deadlock", source=SOURCE)
def dl_02_mlock_reads_twice(k: Kernel) -> None:
    """The wirer waits behind the mapper, who waits for the wirer."""
    wire_and_map(k, DowngradingMap)


@scenario(source=SOURCE, executions=200)
def dl_02_mlock_reads_twice_ok(k: Kernel) -> None:
    """The mark alone keeps the mapper out; faults get in."""
    wire_and_map(k, VmMap)
