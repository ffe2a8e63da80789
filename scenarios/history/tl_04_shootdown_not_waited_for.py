"""DragonFly's smp_invltlb, 2010: the other processors are told to forget a translation, and nobody waits until they have.

Whoever unmaps a page interrupts the processors that may remember where it was, and goes on at once. For about a microsecond
they use it still, while the page is being freed.

Source: DragonFly, smp_invltlb, commit 7d4d6fdb87 of October 2010, which waits. Here it is FreeBSD's pmap_remove, with
interrupts that take a while.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm import Kernel, scenario
from stressvm.vm import pmap

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scenarios.history._interrupts import Interrupting
    from stressvm import Thread
else:
    from _interrupts import Interrupting

SOURCE = "DragonFly, smp_invltlb; repaired by 7d4d6fdb87, October 2010"
VA = 0x40_0000


class GoesOn(Interrupting):
    """Sends the interrupts, and goes on."""

    async def wait_for_all(self, sent: Sequence[Thread]) -> None:
        """Not at all."""


def unmap_and_use(k: Kernel, cls: type[Interrupting]) -> None:
    """A process unmaps a page on one processor, and uses it twice on another."""
    space = cls(pmap.machine(k, 2), "space")
    space.prefill(VA, [pmap.Frame(pmap.PAGE_SIZE)], pmap.VM_PROT_RW)

    async def removes() -> None:
        await space.remove(VA, VA + pmap.PAGE_SIZE)

    async def uses() -> None:
        for _ in range(2):
            await space.access(VA, pmap.VM_PROT_READ)

    k.spawn(removes, name="removes")
    k.spawn(uses, name="uses")


@scenario(expect="invariant", source=SOURCE)
def tl_04_shootdown_not_waited_for(k: Kernel) -> None:
    """The other processor uses a translation after the call that was to end it has returned."""
    unmap_and_use(k, GoesOn)


@scenario(source=SOURCE, executions=200)
def tl_04_shootdown_not_waited_for_ok(k: Kernel) -> None:
    """Whoever unmaps waits until the other processor has forgotten."""
    unmap_and_use(k, Interrupting)
