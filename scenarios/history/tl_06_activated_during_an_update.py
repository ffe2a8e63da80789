"""DragonFly's pmap_inval, 2010: a processor takes up a pmap while another one is changing it, and learns the old translation.

Which processors have the pmap is looked up before a page table is changed, so that they can be halted meanwhile. One that
takes the pmap up after that look is not halted; it reads the entry as it was, and is never told. It was repaired with a bit
in pm_active that says that a change is under way: a processor that takes the pmap up sets its own bit first, and then waits
for this one to go.

Source: DragonFly, sys/platform/pc64/x86_64/pmap_inval.c, commit c2fb025d4c of February 2010. Here it is FreeBSD's
pmap_remove, told beforehand whom to interrupt.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm import Kernel, Mutex, scenario
from stressvm.vm import pmap

if TYPE_CHECKING:
    from scenarios.history._interrupts import Unproven
else:
    from _interrupts import Unproven

SOURCE = "DragonFly, pmap_inval_interlock and pmap_interlock_wait; c2fb025d4c, February 2010"
VA = 0x40_0000


class Interlocked(Unproven):
    """A pmap that looks up whom to interrupt before it changes anything.

    Attributes:
        interlock: held while a change is under way.
        oactive: the processors that had the pmap when it began, as bits.
    """

    def __init__(self, machine: pmap.Machine, name: str) -> None:
        super().__init__(machine, name)
        self.interlock = Mutex(machine.k, f"{name}.pm_active interlock")
        self.oactive = 0

    async def clear_ptes(self, table: pmap.PageTable, vas: list[int]) -> list[int]:
        """pmap_inval_interlock first."""
        await self.interlock.lock()
        self.k.touch(self.tables.ident.number, write=False)
        self.oactive = self.active
        return await super().clear_ptes(table, vas)

    def ipi_targets(self) -> list[pmap.Tlb]:
        """Those that had it then."""
        return [tlb for tlb in self.tlbs if self.oactive >> tlb.cpu & 1]

    async def finish_removal(self, *, anyvalid: bool, page: int | None) -> None:
        """pmap_inval_deinterlock last."""
        await super().finish_removal(anyvalid=anyvalid, page=page)
        await self.interlock.unlock()

    async def activate(self) -> None:
        """The processor says that it has the pmap; it reads nothing of it while it is being changed. Sleeps: for that."""
        await super().activate()
        await self.interlock_wait()

    async def interlock_wait(self) -> None:
        """pmap_interlock_wait: until no change is under way."""
        await self.interlock.lock()
        await self.interlock.unlock()


class TakesItUp(Interlocked):
    """Nobody waits for a change that is under way."""

    async def interlock_wait(self) -> None:
        """Not at all."""


def activate_and_unmap(k: Kernel, cls: type[Interlocked]) -> None:
    """A thread of a process begins to run on a processor, and uses a page, while another one unmaps it elsewhere."""
    space = cls(pmap.machine(k, 2), "space")
    space.prefill(VA, [pmap.Frame(pmap.PAGE_SIZE)], pmap.VM_PROT_RW)

    async def removes() -> None:
        await space.remove(VA, VA + pmap.PAGE_SIZE)

    async def uses() -> None:
        await space.activate()
        for _ in range(2):
            await space.access(VA, pmap.VM_PROT_READ)

    k.spawn(removes, name="removes")
    k.spawn(uses, name="uses")


@scenario(expect="invariant", source=SOURCE)
def tl_06_activated_during_an_update(k: Kernel) -> None:
    """The processor has read the entry before it was cleared, and is not told."""
    activate_and_unmap(k, TakesItUp)


@scenario(source=SOURCE, executions=200)
def tl_06_activated_during_an_update_ok(k: Kernel) -> None:
    """It reads the entry when the change is done."""
    activate_and_unmap(k, Interlocked)
