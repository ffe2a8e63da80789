"""DragonFly's vm_meter, 2013: a scan for statistics keeps the lock for its full length, and everybody else out.

Nothing is wrong with what it does, but how long it takes: as long as there are objects in the system, and meanwhile no page
fault gets anywhere. It was repaired with a mark in the list: when somebody else wants the lock, the scan lets go of it, and
goes on from its mark.

Source: DragonFly, sys/vm/vm_meter.c, commit ace53c28c5 of February 2013. There it was the list of all objects; here it is
the entries of a map.
"""

from __future__ import annotations

from stressvm import Kernel, Line, NetBSDRwLock, scenario
from stressvm.vm import netbsd

SOURCE = "DragonFly, sys/vm/vm_meter.c, do_vmtotal; repaired by ace53c28c5, February 2013"
PAGE = netbsd.PAGE_SIZE
#: So many entries may be looked at while somebody waits.
PATIENCE = 1


class VmMap(netbsd.VmMap):
    """A map whose lock keeps new readers out while a writer waits, as the kernel's own does."""

    def make_lock(self) -> netbsd.MapLock:
        """With NetBSD's grants."""
        return netbsd.VmMapLock(self.k, self.name, self.check, NetBSDRwLock)


class Scan:
    """Counts the bytes that are mapped.

    Attributes:
        line: those that wait for the map, which each entry overtakes.
    """

    def __init__(self, kmap: netbsd.VmMap) -> None:
        self.map = kmap
        assert isinstance(kmap.lock, netbsd.VmMapLock)
        self.lock = kmap.lock
        self.line = Line(kmap.k, kmap.name, overtakes=PATIENCE)

    async def total(self) -> int:
        """The bytes. Locks: takes the map's, for reading. Sleeps: for that."""
        found = 0
        mark = self.map.min_offset
        await self.lock.lock_read()
        while (entry := self.next_entry(mark)) is not None:
            await self.map.k.yield_()
            if self.wanted():
                self.line.got()
            found += entry.end - entry.start
            mark = entry.end
            if self.wanted():
                await self.give_way()
        await self.lock.unlock_read()
        return found

    def next_entry(self, mark: int) -> netbsd.MapEntry | None:
        """The first entry at or above the mark. Locks: the map's."""
        found, entry = self.map.lookup(mark)
        return entry if found else self.map.after(entry)

    def wanted(self) -> bool:
        """Does somebody wait for the map?"""
        return bool(self.lock.rw.statistics().waiting_writers)

    async def give_way(self) -> None:
        """Let go of the map for a moment. Locks: the map's, for reading."""
        await self.lock.unlock_read()
        await self.lock.lock_read()


class Hogs(Scan):
    """A scan in one go."""

    async def give_way(self) -> None:
        """Nothing."""


def scan_and_alloc(k: Kernel, cls: type[Scan], entries: int) -> None:
    """One thread scans a map, another wants some addresses of it."""
    kmap = netbsd.submap(k, pages=2 * entries + 1, cls=VmMap)
    for number in range(entries):
        kmap.fill(1, offset=2 * number)
    scan = cls(kmap)

    async def scans() -> None:
        assert await scan.total() >= entries * PAGE, "the scan has missed an entry"

    async def allocates() -> None:
        scan.line.wait()
        await netbsd.uvm_km_alloc(kmap, PAGE, 0, netbsd.UVM_KMF_VAONLY | netbsd.UVM_KMF_NOWAIT)
        scan.line.leave()

    k.spawn(scans, name="scans")
    k.spawn(allocates, name="allocates")


@scenario(expect="starvation", source=SOURCE)
def st_06_scan_hogs_the_lock(k: Kernel, entries: int = 8) -> None:
    """Whoever comes during the scan waits for the rest of it."""
    scan_and_alloc(k, Hogs, entries)


@scenario(source=SOURCE, executions=200)
def st_06_scan_hogs_the_lock_ok(k: Kernel, entries: int = 8) -> None:
    """Whoever comes during the scan is let in after the entry that is being looked at."""
    scan_and_alloc(k, Scan, entries)
