"""FreeBSD's vm_map_lookup: what a page fault asks of the map, and the upgrade that it may need to answer.

A reader that has to change the entry upgrades its lock. If it is not the only reader, it lets go of the lock and waits
for the write lock; should anybody else have had that first, nothing is held any more and every entry it knows may be
gone: it starts from scratch.

Source: sys/vm/vm_map.c, vm_map_lookup, vm_map_lookup_locked, vm_map_lookup_done, vm_map_lookup_entry.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from stressvm.vm.freebsd import flags as F  # noqa: N812 - the constants, as the kernel writes them
from stressvm.vm.freebsd.map_lock import UserMapLock
from stressvm.vm.freebsd.vm_map_core import MapCore, MapKind
from stressvm.vm.freebsd.vm_map_pmap import Mapped
from stressvm.vm.freebsd.vm_object import VmObject, ucred

if TYPE_CHECKING:
    from stressvm.vm.freebsd.vm_map_entry import VmMapEntry


class Found(NamedTuple):
    """What vm_map_lookup found: the map is locked for reading as long as it is used.

    Attributes:
        vm_map: the map that the address is in, a submap perhaps.
        entry: its entry.
        object, pindex: what is mapped there: the object (None in a system map without one), and the page of it.
        prot: what may be done, VM_PROT_*; no writing as long as the entry needs to be copied for it.
        wired: is the entry wired?
    """

    vm_map: Lookup
    entry: VmMapEntry
    object: VmObject | None
    pindex: int
    prot: int
    wired: bool


class Lookup(Mapped):
    """A map that faults look into."""

    async def lookup_entry(self, addr: int) -> tuple[bool, VmMapEntry | None]:
        """vm_map_lookup_entry under any hold of the lock: is `addr` mapped, and the entry, or else the one before it.

        Locks: the lock, held for writing or reading. Sleeps: no. A reader tries to be the writer for a moment, to
        rearrange the tree, and the timestamp does not move; if it may not, the tree stays as it is.
        """
        lock = self.lock
        if lock.locked():
            return self.lookup(addr)
        if not isinstance(lock, UserMapLock):
            raise self.k.panic(f"vm_map_lookup_entry: {self.name} is not locked")
        if not self.tree.at_root(addr) and await lock.sx.try_upgrade():
            found = self.lookup(addr)
            await lock.sx.downgrade()
            return found
        return self.entries.lookup(addr)

    async def vm_map_lookup(
        self, vaddr: int, fault_typea: int, *, copy: bool = False, grow: bool = False
    ) -> tuple[int, Found | None]:
        """What a fault at `vaddr` needs to know.

        Locks: none on entry; the read lock of `Found.vm_map` on success, to be given back by its `lookup_done`.
        Sleeps: for the lock.

        Args:
            vaddr: the address.
            fault_typea: the access, VM_PROT_*.
            copy: VM_PROT_COPY: for writing by a debugger, what is mapped shall be copied whatever its protection.
            grow: VM_PROT_FAULT_LOOKUP: a stack may be grown into its gap.

        Returns:
            (KERN_SUCCESS, what was found), or (KERN_INVALID_ADDRESS, KERN_PROTECTION_FAILURE or
            KERN_RESOURCE_SHORTAGE, None).
        """
        await self.lock.lock_read()
        while True:
            found, entry = await self.lookup_entry(vaddr)
            if not found or entry is None:
                await self.lock.unlock_read()
                return F.KERN_INVALID_ADDRESS, None
            if entry.sub_map is not None:
                return await self.into_submap(entry.sub_map, vaddr, fault_typea, copy=copy, grow=grow)
            if grow and self.in_gap(entry):
                grow = False
                if not await self.growstack(vaddr, entry):
                    continue
            if error := self.refused(entry, fault_typea, copy=copy):
                await self.lock.unlock_read()
                return error, None
            fault_type = entry.protection if entry.wired_count else fault_typea
            if self.must_copy(entry, fault_type, copy=copy):
                changed = await self.copy_on_write(entry)
            elif entry.object is None and self.kind is not MapKind.SYSTEM:
                changed = await self.make_object(entry)
            else:
                changed = F.KERN_SUCCESS
            if changed is not None:
                return changed, None if changed else self.answer(entry, vaddr)
            await self.lock.lock_read()

    async def into_submap(
        self, sub_map: MapCore, vaddr: int, fault_typea: int, *, copy: bool, grow: bool
    ) -> tuple[int, Found | None]:
        """The range belongs to a submap: look there. Locks: the read lock on entry, as vm_map_lookup on exit."""
        await self.lock.unlock_read()
        assert isinstance(sub_map, Lookup), "a submap is a map"
        return await sub_map.vm_map_lookup(vaddr, fault_typea, copy=copy, grow=grow)

    def refused(self, entry: VmMapEntry, fault_type: int, *, copy: bool) -> int:
        """KERN_PROTECTION_FAILURE, or 0 if such an access is allowed there."""
        prot = entry.protection
        if fault_type & ~prot or not prot:
            return F.KERN_PROTECTION_FAILURE
        if copy and not entry.max_protection & F.VM_PROT_WRITE and not entry.eflags & F.MAP_ENTRY_COW:
            return F.KERN_PROTECTION_FAILURE
        return 0

    def must_copy(self, entry: VmMapEntry, fault_type: int, *, copy: bool) -> bool:
        """Will it be written to, and has it to be copied first?"""
        return bool(entry.eflags & F.MAP_ENTRY_NEEDS_COPY) and (bool(fault_type & F.VM_PROT_WRITE) or copy)

    def in_gap(self, entry: VmMapEntry) -> bool:
        """Is it the gap that a stack grows into?"""
        return bool(entry.eflags & (F.MAP_ENTRY_STACK_GAP_DN | F.MAP_ENTRY_STACK_GAP_UP)) and entry.guard

    async def growstack(self, addr: int, gap_entry: VmMapEntry) -> int:
        """vm_map_growstack. Locks: the read lock on entry and exit."""
        raise NotImplementedError

    async def copy_on_write(self, entry: VmMapEntry) -> int | None:
        """Put an object in front of the entry's, for what will be written.

        Locks: the read lock on entry; on exit the read lock after 0, nothing after an error or None.

        Returns:
            0; KERN_RESOURCE_SHORTAGE for no swap; None if the entry may be gone, so that it has to be looked up anew.
        """
        if not await self.lock.lock_upgrade():
            return None
        self.changed()
        size = entry.size
        if entry.cred is None:
            cred = ucred(self.k)
            if not cred.swap_reserve(size):
                await self.lock.unlock()
                return F.KERN_RESOURCE_SHORTAGE
            entry.cred = cred
        behind = entry.object
        if behind is None:
            entry.object = VmObject(F.off_to_idx(size), anon=True)
        else:
            entry.object = behind.shadow(entry.offset, size, entry.cred)
        if entry.object is behind:
            entry.cred.swap_release(size)
        else:
            entry.offset = 0
            entry.object.cred, entry.object.charge = entry.cred, size
        entry.cred = None
        entry.eflags &= ~F.MAP_ENTRY_NEEDS_COPY
        await self.lock.lock_downgrade()
        return 0

    async def make_object(self, entry: VmMapEntry) -> int | None:
        """Give anonymous memory that is touched for the first time its object, which takes over the charge.

        Locks: the read lock on entry; on exit the read lock after 0, nothing after None: look it up anew.
        """
        if not await self.lock.lock_upgrade():
            return None
        self.changed()
        entry.object = VmObject(F.off_to_idx(entry.size), anon=True)
        entry.offset = 0
        if entry.cred is not None:
            entry.object.cred, entry.object.charge, entry.cred = entry.cred, entry.size, None
        await self.lock.lock_downgrade()
        return 0

    def answer(self, entry: VmMapEntry, vaddr: int) -> Found:
        """What was found. An entry that is in the map no more, or has moved, is a violation: it was kept too long."""
        if entry.owner is not self.entries or not entry.start <= vaddr < entry.end:
            raise self.k.panic(f"vm_map_lookup: {entry!r} is not what {self.name} has at {vaddr:#x}", "invariant")
        prot = entry.protection
        if entry.eflags & F.MAP_ENTRY_NEEDS_COPY:
            prot &= ~F.VM_PROT_WRITE
        pindex = F.off_to_idx(vaddr - entry.start + entry.offset)
        return Found(self, entry, entry.object, pindex, prot, entry.wired_count != 0)

    async def lookup_locked(self, vaddr: int, fault_type: int) -> tuple[int, Found | None]:
        """vm_map_lookup_locked: the same for a caller that has the lock already and must not sleep.

        Locks: the read lock throughout, whatever comes of it. Sleeps: no.

        Returns:
            As vm_map_lookup, but no access at all is allowed everywhere; KERN_FAILURE where the map would have to be
            changed, or where a submap is.
        """
        found, entry = await self.lookup_entry(vaddr)
        if not found or entry is None:
            return F.KERN_INVALID_ADDRESS, None
        if entry.sub_map is not None:
            return F.KERN_FAILURE, None
        if fault_type & ~entry.protection:
            return F.KERN_PROTECTION_FAILURE, None
        if self.must_copy(entry, entry.protection if entry.wired_count else fault_type, copy=False):
            return F.KERN_FAILURE, None
        if entry.object is None and self.kind is not MapKind.SYSTEM:
            return F.KERN_FAILURE, None
        return F.KERN_SUCCESS, self.answer(entry, vaddr)

    async def lookup_done(self) -> None:
        """vm_map_lookup_done: give the read lock back."""
        await self.lock.unlock_read()
