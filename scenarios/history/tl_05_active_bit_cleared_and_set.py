"""OpenBSD's pmap, about 2022: a switch between two threads of one process takes the processor off the pmap's list, and puts it back.

The list says which processors to interrupt when a translation goes. On a switch between threads the processor's bit was
cleared and set again, even if both threads were of one process; but then the page tables are not loaded anew, and the TLB
keeps what it has. Whoever changes a translation in between does not interrupt this processor. It was repaired by leaving the
bit alone if the pmap stays the same.

Source: OpenBSD, sys/arch/amd64/amd64/pmap.c, commit 9f1181d59de3. Here it is FreeBSD's pmap, with pm_cpus beside it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm import Atomic, Kernel, scenario
from stressvm.vm import pmap

if TYPE_CHECKING:
    from scenarios.history._interrupts import Unproven
else:
    from _interrupts import Unproven

SOURCE = "OpenBSD, sys/arch/amd64/amd64/pmap.c, pmap_activate and pmap_deactivate; repaired by 9f1181d59de3"
VA = 0x40_0000


class OpenBSDPmap(Unproven):
    """A pmap that knows by an atomic word which processors to interrupt.

    Attributes:
        pm_cpus: a bit for each.
    """

    def __init__(self, machine: pmap.Machine, name: str) -> None:
        self.pm_cpus = Atomic(machine.k, 0, f"{name}.pm_cpus")
        super().__init__(machine, name)

    def activated(self, cpu: int) -> None:
        """The processor has it now, and is on the list from the same moment."""
        super().activated(cpu)
        self.pm_cpus.poke(self.pm_cpus.peek() | 1 << cpu)

    def ipi_targets(self) -> list[pmap.Tlb]:
        """Those that are on the list."""
        return [tlb for tlb in super().ipi_targets() if self.pm_cpus.peek() >> tlb.cpu & 1]

    async def switch_threads(self) -> None:
        """cpu_switchto, from one thread of the process to another on this processor. Locks: any. Sleeps: no."""


class ClearsAndSets(OpenBSDPmap):
    """The old thread's pmap is deactivated, and the new thread's activated."""

    async def switch_threads(self) -> None:
        """They are the same; so the page tables stay, and the TLB."""
        bit = 1 << self.machine.cpu()
        await self.pm_cpus.fetchadd(-bit)
        await self.pm_cpus.fetchadd(bit)


def switch_and_unmap(k: Kernel, cls: type[OpenBSDPmap]) -> None:
    """A processor goes over from one thread of a process to another; both use a page that a third one unmaps."""
    space = cls(pmap.machine(k, 2), "space")
    space.prefill(VA, [pmap.Frame(pmap.PAGE_SIZE)], pmap.VM_PROT_RW)

    async def removes() -> None:
        await space.remove(VA, VA + pmap.PAGE_SIZE)

    async def uses() -> None:
        await space.access(VA, pmap.VM_PROT_READ)
        await space.switch_threads()
        await space.access(VA, pmap.VM_PROT_READ)

    k.spawn(removes, name="removes")
    k.spawn(uses, name="uses")


@scenario(expect="invariant", source=SOURCE)
def tl_05_active_bit_cleared_and_set(k: Kernel) -> None:
    """The processor that is just switching is passed over, and its second thread uses what is gone."""
    switch_and_unmap(k, ClearsAndSets)


@scenario(source=SOURCE, executions=200)
def tl_05_active_bit_cleared_and_set_ok(k: Kernel) -> None:
    """The bit stays as long as the pmap does."""
    switch_and_unmap(k, OpenBSDPmap)
