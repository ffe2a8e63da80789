"""Interrupts that one processor sends to another to make it forget translations, and a pmap that does it that way.

The pmap of the model tells each processor in a single step, as if the interrupt were taken at once. Here it is sent, the
other processor takes it when it gets to it, unless it has its interrupts off, and whoever sent it may wait for that, or not.
Each interrupt is a thread of its own, on the processor that takes it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm import Mutex
from stressvm.vm import pmap

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Unpack

    from stressvm import Kernel, Thread


class Interrupts:
    """The interrupts of a machine's processors.

    Args:
        k: the kernel.
        machine: its processors.
    """

    def __init__(self, k: Kernel, machine: pmap.Machine) -> None:
        self.k = k
        self.machine = machine
        self._off = [Mutex(k, f"cpu{cpu}.interrupts off") for cpu in range(machine.ncpu)]

    def send(self, cpu: int, what: Callable[[], None]) -> Thread:
        """Have a processor do that, soon; the interrupt, which can be joined. Locks: any. No switch."""
        interrupt = self.k.spawn(self._take, cpu, what, name=f"cpu{cpu}.interrupt")
        self.machine.pin(interrupt.number, cpu)
        return interrupt

    async def disable(self) -> None:
        """The current processor takes none until `enable`. Locks: any. Sleeps: while it is taking one."""
        await self._off[self.machine.cpu()].lock()

    async def enable(self) -> None:
        """The current processor takes them again."""
        await self._off[self.machine.cpu()].unlock()

    async def _take(self, cpu: int, what: Callable[[], None]) -> None:
        await self._off[cpu].lock()
        what()
        await self._off[cpu].unlock()


class Unproven(pmap.FreeBSDPmap):
    """A pmap that takes its own word for it that no processor remembers what is gone.

    The model looks at every TLB when the pmap's lock is released. Here it does not, so that what is left in one is found when
    a processor uses it, and not before.
    """

    def check(self) -> None:
        """The other invariants. What was to be invalidated is, or so it says."""
        duty, self.duty = self.duty, pmap.Shootdown()
        super().check()
        if duty.doomed:
            for tlb in self.tlbs:
                self.k.touch(tlb.ident.number, write=True)
            duty.closed = True


class Interrupting(Unproven):
    """A pmap that makes other processors forget by interrupt.

    Args:
        machine: its processors and memory.
        name: as reports show it.
        settings: see `PmapSettings`.
    """

    def __init__(self, machine: pmap.Machine, name: str, **settings: Unpack[pmap.PmapSettings]) -> None:
        super().__init__(machine, name, **settings)
        self.interrupts = Interrupts(machine.k, machine)

    async def tell(self, va: int, forget: Callable[[pmap.Tlb], None]) -> None:
        """Interrupt every other processor that it is active on, then wait for them. Locks: the pmap's. Sleeps: for that."""
        sent: list[Thread] = []
        self.k.touch(self.tables.ident.number, write=False)
        for tlb in self.ipi_targets():
            if tlb.cpu == self.machine.cpu():
                await self.tables.load(va)
                self.forget(tlb, forget)
            else:
                sent.append(self.interrupts.send(tlb.cpu, self._forgets(tlb, forget)))
        await self.wait_for_all(sent)

    def _forgets(self, tlb: pmap.Tlb, forget: Callable[[pmap.Tlb], None]) -> Callable[[], None]:
        return lambda: self.forget(tlb, forget)

    def forget(self, tlb: pmap.Tlb, forget: Callable[[pmap.Tlb], None]) -> None:
        """A processor forgets. No switch."""
        self.k.touch(tlb.ident.number, write=True)
        forget(tlb)

    async def wait_for_all(self, sent: Sequence[Thread]) -> None:
        """Wait until these interrupts have been taken. Sleeps: for that."""
        for interrupt in sent:
            await self.machine.k.join(interrupt)
