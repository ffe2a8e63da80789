"""What a page fault does to a map without memory: nothing, a failure, or a lookup of the real kind.

With pages and a pmap under the map it does what it does in the kernel: see `vm_fault_hold`.

Source: sys/vm/vm_fault.c, vm_fault, as far as the map can see it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from stressvm.kernel.op import NOTHING
from stressvm.vm.freebsd import flags as F  # noqa: N812 - the constants, as the kernel writes them

if TYPE_CHECKING:
    from collections.abc import Collection

    from stressvm.kernel.kernel import Kernel
    from stressvm.vm.freebsd.vm_map_lookup import Lookup


class Fault:
    """A page fault that touches nothing.

    Args:
        bad: addresses of pages at which it fails.
    """

    #: Does it copy what has to be copied before it is written? If not, nobody can ask that it was.
    copies: ClassVar[bool] = False

    def __init__(self, bad: Collection[int] = ()) -> None:
        self.bad = frozenset(bad)

    async def fault(self, vm_map: Lookup, vaddr: int, fault_type: int, *, wire: bool = False) -> int:
        """vm_fault: have the page at `vaddr` in memory. It is one visible operation, and what `resolve` does.

        Locks: none on entry and exit. Sleeps: as `resolve`. Returns: KERN_*.

        Args:
            vm_map: where.
            vaddr: the address.
            fault_type: the access, VM_PROT_*.
            wire: VM_FAULT_WIRE: the page is to be wired; nothing to this one.
        """
        del wire
        await self.trap(vm_map.k, vaddr)
        return await self.resolve(vm_map, vaddr, fault_type)

    async def trap(self, k: Kernel, vaddr: int) -> None:
        """The moment of the fault."""
        op = k.once("vm_fault", lambda: k.op("fault", NOTHING, write=False))
        if k.away(op):
            await k.baton
        k.trace.append((k.cur, op, vaddr))

    async def resolve(self, vm_map: Lookup, vaddr: int, fault_type: int) -> int:
        """What the fault does to the map. Returns: KERN_OUT_OF_BOUNDS for a bad page, else KERN_SUCCESS."""
        del vm_map, fault_type
        return F.KERN_OUT_OF_BOUNDS if vaddr in self.bad else F.KERN_SUCCESS


class LookupFault(Fault):
    """A page fault that looks the address up in the map, as every fault does first; it may make the entry's object."""

    copies: ClassVar[bool] = True

    async def resolve(self, vm_map: Lookup, vaddr: int, fault_type: int) -> int:
        """vm_map_lookup and vm_map_lookup_done, then the page. Sleeps: for the map's lock."""
        result, found = await vm_map.vm_map_lookup(vaddr, fault_type, grow=True)
        if found is None:
            return result
        await found.vm_map.lookup_done()
        return await super().resolve(vm_map, vaddr, fault_type)
