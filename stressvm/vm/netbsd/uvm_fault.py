"""Page faults, as far as wiring needs them: what stands in for uvm_fault.c in maps that have no memory.

A map has one of these. Wiring a range faults in each of its pages, with the map marked busy and unlocked; the class says
what a fault does. `UvmFault` lets others run and succeeds; `FailingFault` fails at given pages; `LockingFault` does the
part of a real fault that concerns the map: a look-up under its read lock. The real thing, for maps with memory, is
`stressvm.vm.netbsd.km_fault`.

Source: sys/uvm/uvm_fault.c, uvm_fault_wire, uvm_fault_unwire_locked and the first step of uvm_fault.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from stressvm.vm.netbsd import flags as F  # noqa: N812 - the constants, as the kernel writes them

if TYPE_CHECKING:
    from collections.abc import Iterable

    from stressvm.vm.netbsd.vm_map import VmMap

#: No limit on wired pages.
UNLIMITED: Final = 1 << 62


class UvmFault:
    """Every fault succeeds, after one visible operation.

    Args:
        wiredmax: uvmexp.wiredmax: how many pages may be wired, as far as uvm_map_pageable_all asks.

    Attributes:
        wired: the addresses of the pages that are wired.
    """

    def __init__(self, *, wiredmax: int = UNLIMITED) -> None:
        self.wiredmax = wiredmax
        self.wired: set[int] = set()

    async def fault(self, vm_map: VmMap, va: int, access: int) -> int:  # noqa: ARG002 - for those that look at them
        """Fault in the page at `va`, to be wired.

        Locks: none of the map. Sleeps: it may; others run meanwhile.

        Args:
            vm_map: the map, marked busy by the caller.
            va: the address of the page.
            access: VM_PROT_*, the most that the entry may be accessed with.

        Returns:
            0, or an error number.
        """
        await vm_map.k.yield_()
        return 0

    async def wire(self, vm_map: VmMap, start: int, end: int, access: int) -> int:
        """uvm_fault_wire: fault in all pages of [start, end); at the first error unwire those before it again.

        Locks: none of the map. Sleeps: as `fault`. Returns: 0 or the error.
        """
        for va in range(start, end, F.PAGE_SIZE):
            error = await self.fault_wired(vm_map, va, access)
            if error:
                if va != start:
                    await self.undo(vm_map, start, va)
                return error
            self.wired.add(va)
        return 0

    async def fault_wired(self, vm_map: VmMap, va: int, access: int) -> int:
        """uvm_fault_internal with UVM_FAULT_WIRE, for one page. Locks, sleeps, returns: as `fault`."""
        return await self.fault(vm_map, va, access)

    async def undo(self, vm_map: VmMap, start: int, end: int) -> None:
        """uvm_fault_unwire: these have been wired, and the next could not be. Locks: none of the map."""
        await self.unwire(vm_map, start, end)

    async def unwire(self, vm_map: VmMap, start: int, end: int) -> None:  # noqa: ARG002 - for those that look at it
        """uvm_fault_unwire_locked: the pages of [start, end) are wired no more.

        Locks: the map's, any. Sleeps: no; over pages, for the kernel object's lock, the paging queues' and the pmap's.

        Args:
            vm_map: the map.
            start: the first address, page aligned.
            end: one past the last.
        """
        self.wired.difference_update(range(start, end, F.PAGE_SIZE))

    def uvmexp_wired(self) -> int:
        """uvmexp.wired: how many pages are wired."""
        return len(self.wired)

    def pmap_wired_count(self) -> int:
        """pmap_wired_count: how many mappings are, as far as `limit` asks."""
        return len(self.wired)


class FailingFault(UvmFault):
    """Some pages cannot be had.

    Args:
        pages: their addresses.
        error: what those faults return.
        wiredmax: as for all.
    """

    def __init__(self, pages: Iterable[int], error: int = F.ENOMEM, *, wiredmax: int = UNLIMITED) -> None:
        super().__init__(wiredmax=wiredmax)
        self.pages = frozenset(pages)
        self.error = error

    async def fault(self, vm_map: VmMap, va: int, access: int) -> int:
        """See UvmFault: an error for the pages given."""
        if va in self.pages:
            await vm_map.k.yield_()
            return self.error
        return await super().fault(vm_map, va, access)


class LockingFault(UvmFault):
    """A fault looks the page up under the map's read lock, as the real one does before it does anything else."""

    async def fault(self, vm_map: VmMap, va: int, access: int) -> int:  # noqa: ARG002 - a wiring fault does not ask
        """See UvmFault: EFAULT where nothing is mapped, EACCES where nothing may be accessed.

        A fault for wiring wants what the entry allows, not what it might allow: with VM_PROT_NONE that is nothing.
        """
        await vm_map.lock.lock_read()
        found, entry = vm_map.lookup(va)
        error = F.EFAULT if not found or entry is None else 0 if entry.protection else F.EACCES
        await vm_map.lock.unlock_read()
        return error
