"""FreeBSD's vm_map_protect and vm_map_inherit.

13 keeps out of the way of wiring: it waits until the map is not busy, and until no entry of the range is in transition,
and begins anew after each such wait. 10.4 does neither.

Source: sys/vm/vm_map.c, vm_map_protect, vm_map_inherit; sys/vm/vm_fault.c, vm_fault_copy_entry.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from stressvm.vm.freebsd import flags as F  # noqa: N812 - the constants, as the kernel writes them
from stressvm.vm.freebsd.vm_map_wire import Wiring
from stressvm.vm.freebsd.vm_object import VmObject, ucred

if TYPE_CHECKING:
    from collections.abc import Callable

    from stressvm.vm.freebsd.vm_map_entry import VmMapEntry


class Rights(NamedTuple):
    """What vm_map_protect is to set: either may be None, that is left as it is."""

    prot: int | None
    max_prot: int | None

    def of(self, entry: VmMapEntry) -> tuple[int, int]:
        """The protection that an entry would have, and the most it would be allowed."""
        max_prot = entry.max_protection if self.max_prot is None else self.max_prot
        if self.prot is not None:
            return self.prot, max_prot
        return entry.protection & max_prot, max_prot


class Protection(Wiring):
    """A map whose entries' rights and inheritance can be changed."""

    async def protect(self, start: int, end: int, new_prot: int, new_maxprot: int, flags: int) -> int:
        """vm_map_protect. Locks: none on entry and exit. Sleeps: for the lock, a busy map, entries in transition."""
        if start == end:
            return F.KERN_SUCCESS
        rights = Rights(
            new_prot if flags & F.VM_MAP_PROTECT_SET_PROT else None,
            new_maxprot if flags & F.VM_MAP_PROTECT_SET_MAXPROT else None,
        )
        if rights.prot is not None and rights.max_prot is not None and rights.prot & ~rights.max_prot:
            return F.KERN_OUT_OF_BOUNDS
        while True:
            await self.lock.lock()
            result, waited = await self.protect_locked(start, end, rights)
            if not waited:
                await self.lock.unlock()
                return result

    async def protect_locked(self, start: int, end: int, rights: Rights) -> tuple[int, bool]:
        """One try under the lock.

        Returns:
            (KERN_*, False) with the lock held, or (0, True) with nothing held: it slept, and all is to do again.
        """
        if self.forbidden(rights):
            return F.KERN_PROTECTION_FAILURE, False
        await self.keep_out()
        start, end = self.range_check(start, end)
        first = self.first_to_protect(start)
        if error := self.refuses(first, end, rights):
            return error, False
        if (entry := self.moving(first, end)) is not None:
            self.entries_field.write()
            entry.eflags |= F.MAP_ENTRY_NEEDS_WAKEUP
            await self.lock.unlock_and_wait(until=lambda: not entry.eflags & F.MAP_ENTRY_IN_TRANSITION)
            return F.KERN_SUCCESS, True
        if first is None:
            return F.KERN_SUCCESS, False
        if error := self.clip_start(first, start):
            return error, False
        return await self.set_rights(first, end, rights), False

    def forbidden(self, rights: Rights) -> bool:
        """May nothing be both writable and executable here, and is that asked for?"""
        both = F.VM_PROT_WRITE | F.VM_PROT_EXECUTE
        return bool(self.flags & F.MAP_WXORX) and rights.prot is not None and rights.prot & both == both

    async def keep_out(self) -> None:
        """Wait until nobody wires in this map. Locks: the write lock on entry and exit, released meanwhile."""
        await self.lock.wait_busy()

    def first_to_protect(self, start: int) -> VmMapEntry | None:
        """The first entry of the range."""
        found, entry = self.lookup(start)
        return entry if found else self.after(entry)

    def refuses(self, first: VmMapEntry | None, end: int, rights: Rights) -> int:
        """Is there a submap in the range, or an entry that may not have such rights? Nothing is changed yet."""
        entry = first
        while entry is not None and entry.start < end:
            if not entry.guard:
                if entry.eflags & F.MAP_ENTRY_IS_SUB_MAP:
                    return F.KERN_INVALID_ARGUMENT
                if ((rights.prot or 0) | (rights.max_prot or 0)) & ~entry.max_protection:
                    return F.KERN_PROTECTION_FAILURE
            entry = self.entries.next_of(entry)
        return F.KERN_SUCCESS

    def moving(self, first: VmMapEntry | None, end: int) -> VmMapEntry | None:
        """The last entry of the range that is in transition and has to be waited for."""
        last = None
        entry = first
        while entry is not None and entry.start < end:
            if entry.eflags & F.MAP_ENTRY_IN_TRANSITION and not entry.guard:
                last = entry
            entry = self.entries.next_of(entry)
        return last

    async def set_rights(self, first: VmMapEntry, end: int, rights: Rights) -> int:
        """Charge for what becomes writable, then change the entries; if the charge fails, only merge.

        Returns:
            KERN_SUCCESS; with no right changed KERN_RESOURCE_SHORTAGE, or what a clip failed with. Entries that were
            charged before stay charged.
        """
        entry: VmMapEntry | None = first
        while entry is not None and entry.start < end:
            if error := self.clip_end(entry, end):
                return error
            if not self.charge_for_writing(entry, rights):
                self.short_of_swap(first, entry.end)
                return F.KERN_RESOURCE_SHORTAGE
            entry = self.entries.next_of(entry)
        lost = await self.prepare_pages(first, end, rights.of)
        self.change(first, end, lambda entry: self.set_entry(entry, rights))
        await self.take_rights(lost)
        return F.KERN_SUCCESS

    def short_of_swap(self, first: VmMapEntry, end: int) -> None:
        """There is no swap for what shall become writable: entries below `end` have been clipped for nothing."""
        raise NotImplementedError

    def change(self, first: VmMapEntry, end: int, how: Callable[[VmMapEntry], None]) -> None:
        """Change the entries from `first` to `end`, and merge what is alike now."""
        prev = self.entries.prev_of(first)
        entry: VmMapEntry | None = first
        while entry is not None and entry.start < end:
            self.changed()
            how(entry)
            self.merge_changed(prev, entry)
            prev = entry
            entry = self.entries.next_of(entry)
        self.merge_rest(prev, entry)

    def charge_for_writing(self, entry: VmMapEntry, rights: Rights) -> bool:
        """Reserve swap for private memory that becomes writable, unless it is charged already; False: there is none."""
        prot, _ = rights.of(entry)
        obj = entry.object
        charged = entry.cred is not None or (
            obj is not None and obj.cred is not None and not entry.eflags & F.MAP_ENTRY_NEEDS_COPY
        )
        if not prot & ~entry.protection & F.VM_PROT_WRITE or charged or entry.guard:
            return True
        cred = ucred(self.k)
        if obj is None or entry.eflags & F.MAP_ENTRY_NEEDS_COPY:
            self.changed()
            if not cred.swap_reserve(entry.size):
                return False
            entry.cred = cred
        elif obj.anon:
            # The whole object, as nobody could tell later which of its mappings were charged for.
            size = obj.size << F.PAGE_SHIFT
            self.changed()
            if not cred.swap_reserve(size):
                return False
            obj.cred, obj.charge = cred, size
        return True

    def set_entry(self, entry: VmMapEntry, rights: Rights) -> None:
        """Give an entry its rights. Wired memory of the user's that becomes writable is copied at once."""
        if entry.guard:
            return
        old = entry.protection
        entry.protection, entry.max_protection = rights.of(entry)
        if entry.eflags & F.MAP_ENTRY_USER_WIRED and entry.protection & ~old & F.VM_PROT_WRITE:
            self.copy_entry(entry)

    def copy_entry(self, entry: VmMapEntry) -> None:
        """vm_fault_copy_entry: what still has to be copied on write gets its own object now, with copies of all pages."""
        needed = entry.eflags & F.MAP_ENTRY_NEEDS_COPY
        entry.eflags &= ~(F.MAP_ENTRY_COW | F.MAP_ENTRY_NEEDS_COPY)
        if not needed:
            return
        entry.eflags &= ~F.MAP_ENTRY_VN_EXEC
        behind = entry.object
        entry.object = VmObject.anonymous(F.off_to_idx(entry.size), entry.cred, entry.size)
        entry.object.pg_color = F.off_to_idx(entry.start)
        entry.offset = 0
        entry.cred = None
        if behind is not None:
            behind.deallocate()

    async def inherit(self, start: int, end: int, new_inheritance: int) -> int:
        """vm_map_inherit. Locks: none on entry and exit. Sleeps: for the lock."""
        known = {F.VM_INHERIT_NONE, F.VM_INHERIT_COPY, F.VM_INHERIT_SHARE, F.VM_INHERIT_ZERO}
        if new_inheritance not in known:
            return F.KERN_INVALID_ARGUMENT
        if start == end:
            return F.KERN_SUCCESS
        await self.lock.lock()
        start, end = self.range_check(start, end)
        first = self.first_to_protect(start)
        result = F.KERN_SUCCESS
        if first is not None:
            result = self.clip_start(first, start) or self.clip_last(first, end)
            result = result or self.refuses_to_inherit(first, end, new_inheritance)
            if not result:
                self.change(first, end, lambda entry: self.set_inheritance(entry, new_inheritance))
        await self.lock.unlock()
        return result

    def clip_last(self, first: VmMapEntry, end: int) -> int:
        """Cut the last entry of a range to it."""
        entry: VmMapEntry | None = first
        while entry is not None and entry.end < end:
            entry = self.entries.next_of(entry)
        return self.clip_end(entry, end) if entry is not None and entry.start < end else F.KERN_SUCCESS

    def refuses_to_inherit(self, first: VmMapEntry, end: int, inheritance: int) -> int:
        """KERN_INVALID_ARGUMENT for an entry of the range that cannot be inherited so."""
        del first, end, inheritance
        return F.KERN_SUCCESS

    def set_inheritance(self, entry: VmMapEntry, inheritance: int) -> None:
        """Change an entry. A guard has no memory that could be zeroed."""
        if not entry.guard or inheritance != F.VM_INHERIT_ZERO:
            entry.inheritance = inheritance


class Protection2013(Protection):
    """Protection as 10.4 does it."""

    async def keep_out(self) -> None:
        """Nobody cares whether somebody wires in this map."""

    def moving(self, first: VmMapEntry | None, end: int) -> VmMapEntry | None:  # noqa: ARG002 - nor in this range
        """Nor whether an entry is in transition."""
        return None

    def first_to_protect(self, start: int) -> VmMapEntry | None:
        """The first entry of the range, clipped to it at once, whatever comes of the call."""
        first = super().first_to_protect(start)
        if first is not None:
            self.clip_start(first, start)
        return first

    def short_of_swap(self, first: VmMapEntry, end: int) -> None:
        """They stay so."""


class Protection13(Protection):
    """Protection as 13.0 does it."""

    def short_of_swap(self, first: VmMapEntry, end: int) -> None:
        """They are merged again."""
        self.change(first, end, lambda _: None)

    def refuses_to_inherit(self, first: VmMapEntry, end: int, inheritance: int) -> int:
        """Large pages are not copied."""
        entry: VmMapEntry | None = first
        while inheritance == F.VM_INHERIT_COPY and entry is not None and entry.start < end:
            if entry.eflags & F.MAP_ENTRY_SPLIT_BOUNDARY_MASK:
                return F.KERN_INVALID_ARGUMENT
            entry = self.entries.next_of(entry)
        return F.KERN_SUCCESS
