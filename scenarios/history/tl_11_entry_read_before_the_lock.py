"""DragonFly's pmap_remove, 2011: the entry of a page is read, and then locked: it may be gone, and goes a second time.

A process unmaps a page, and the page daemon takes the same page away from everybody who has it. Either finds the entry and
then waits for the lock. Whoever gets it second acts on what he saw before.

Source: DragonFly, sys/platform/pc64/x86_64/pmap.c, pmap_remove, commit a505393fd1 of November 2011. Here it is FreeBSD's,
which looks when it has the lock.
"""

from __future__ import annotations

from stressvm import Kernel, scenario
from stressvm.vm import pmap

SOURCE = "DragonFly, sys/platform/pc64/x86_64/pmap.c, pmap_remove; repaired by a505393fd1, November 2011"
VA = 0x40_0000


class ReadsFirst(pmap.FreeBSDPmap):
    """The entries are looked up before the pmap is locked."""

    async def remove(self, sva: int, eva: int) -> None:
        """pmap_remove within one page table."""
        await self.tables.load(sva)
        table = self.tables.table(sva)
        vas = table.within(sva, eva) if table is not None else []
        lockp = pmap.PvLock(self.machine)
        free: list[pmap.PhysPage] = []
        await self.machine.invl.start()
        await self.acquire()
        if table is not None:
            await self.remove_ptes(table, vas, lockp, free)
        await lockp.release()
        await self.finish_removal(anyvalid=bool(vas), page=None)
        await self.machine.invl.finish()
        if free:
            await self.free_tables(free)


def unmap_and_reclaim(k: Kernel, cls: type[pmap.FreeBSDPmap]) -> None:
    """A process with two pages unmaps one of them, and the page daemon wants that, too."""
    machine = pmap.machine(k, 2)
    space = cls(machine, "space")
    frames = [pmap.Frame(number * pmap.PAGE_SIZE) for number in (1, 2)]
    space.prefill(VA, frames, pmap.VM_PROT_RW)

    async def removes() -> None:
        await space.remove(VA, VA + pmap.PAGE_SIZE)

    async def reclaims() -> None:
        await pmap.pmap_remove_all(machine, frames[0])

    k.spawn(removes, name="removes")
    k.spawn(reclaims, name="reclaims")


@scenario(expect="invariant", source=SOURCE)
def tl_11_entry_read_before_the_lock(k: Kernel) -> None:
    """The page is counted out twice."""
    unmap_and_reclaim(k, ReadsFirst)


@scenario(source=SOURCE, executions=200)
def tl_11_entry_read_before_the_lock_ok(k: Kernel) -> None:
    """Whoever gets the lock second finds nothing to do."""
    unmap_and_reclaim(k, pmap.FreeBSDPmap)
