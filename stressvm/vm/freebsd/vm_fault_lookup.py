"""What a page fault asks of the map: once at the beginning, and again if it had to let go of the map's lock.

With a page busy, the lock may only be *tried* for: who has it may be waiting for the page. If the map was locked for
writing since the first lookup, its version number says so, and what is mapped there is looked up again without letting go
of the lock: it must be the same page of the same object.

Source: sys/vm/vm_fault.c, vm_fault_lookup, vm_fault_relookup, unlock_map.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from stressvm.vm.freebsd import flags as F  # noqa: N812 - the constants, as the kernel writes them
from stressvm.vm.freebsd.vm_fault_stub import Fault

if TYPE_CHECKING:
    from stressvm.vm.freebsd.vm_fault_state import FaultState

#: KERN_RESTART: all is to do again.
RESTART: Final = -1


class FaultLookup(Fault):
    """The half of `VmFault` that looks at the map."""

    async def look_up(self, fs: FaultState) -> int:
        """vm_fault_lookup: what is mapped there. Locks: none on entry; the map's read lock after 0, none after all else."""
        vm_map = fs.map
        result, found = await vm_map.vm_map_lookup(fs.vaddr, fs.fault_type, grow=True)
        if found is None:
            return result
        fs.found(found)
        entry = found.entry
        if entry.eflags & F.MAP_ENTRY_NOFAULT or found.object is None:
            raise fs.k.panic(f"vm_fault: fault on nofault entry, addr: {fs.vaddr:#x}")
        if entry.eflags & F.MAP_ENTRY_IN_TRANSITION and entry.wiring_thread != fs.k.cur:
            await self.wait_in_transition(fs)
            return RESTART
        if fs.wired:
            fs.fault_type = fs.prot
        elif fs.wire:
            raise fs.k.panic("vm_fault: KASSERT: !fs->wired && VM_FAULT_WIRE")
        return F.KERN_SUCCESS

    async def wait_in_transition(self, fs: FaultState) -> None:
        """Somebody else wires or unwires the entry: sleep until that is done. Locks: the map's read lock, none on exit."""
        vm_map = fs.map
        await self.unlock_map(fs)
        await vm_map.lock.lock()
        found, entry = vm_map.lookup(fs.vaddr)
        if found and entry is not None and entry.eflags & F.MAP_ENTRY_IN_TRANSITION:
            moving = entry
            vm_map.entries_field.write()
            moving.eflags |= F.MAP_ENTRY_NEEDS_WAKEUP
            await vm_map.lock.unlock_and_wait(until=lambda: not moving.eflags & F.MAP_ENTRY_IN_TRANSITION)
        else:
            await vm_map.lock.unlock()

    async def unlock_map(self, fs: FaultState) -> None:
        """Let go of the map's read lock, if it is held."""
        if fs.lookup_still_valid:
            fs.lookup_still_valid = False
            await fs.map.lookup_done()

    async def relookup(self, fs: FaultState) -> int:
        """vm_fault_relookup: the map was let go of: lock it again, and see that the same page is mapped there.

        Locks: none of maps on entry; the map's read lock on exit if fs says so. The page is busy throughout.
        """
        if not await self.relock_map(fs):
            return RESTART
        fs.lookup_still_valid = True
        if not self.map_changed(fs):
            return F.KERN_SUCCESS
        result, found = await fs.map.lookup_locked(fs.vaddr, fs.fault_type)
        if found is None:
            return RESTART if result == F.KERN_FAILURE else result
        fs.entry, fs.wired = found.entry, found.wired
        if found.object is not fs.first_object or not self.same_place(fs, found.pindex):
            return RESTART
        return self.still_allowed(fs, found.prot)

    async def relock_map(self, fs: FaultState) -> bool:
        """Try for the map's read lock. Who has it for writing may be waiting for the page that is busy here."""
        return await fs.map.lock.trylock_read()

    def map_changed(self, fs: FaultState) -> bool:
        """Has anybody locked the map for writing since the lookup?"""
        return fs.map.lock.timestamp.peek() != fs.map_generation

    def same_place(self, fs: FaultState, pindex: int) -> bool:
        """Is the same page of the object mapped there?"""
        return pindex == fs.first_pindex

    def still_allowed(self, fs: FaultState, prot: int) -> int:
        """The protection may have changed: what was taken away must not be mapped; what was given, the next fault sees."""
        fs.prot &= prot
        fs.fault_type &= prot
        return F.KERN_SUCCESS if fs.prot else RESTART
