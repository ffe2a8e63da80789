"""FreeBSD's vm_map_insert, step by step.

Source: sys/vm/vm_map.c, vm_map_insert.
"""

from __future__ import annotations

from stressvm.vm.freebsd import flags as F  # noqa: N812 - the constants, as the kernel writes them
from stressvm.vm.freebsd.vm_map_core import MapCore
from stressvm.vm.freebsd.vm_map_entry import VmMapEntry
from stressvm.vm.freebsd.vm_object import Ucred, VmObject, ucred

#: What a mapping's flags make of the entry's.
_EFLAGS = {
    F.MAP_COPY_ON_WRITE: F.MAP_ENTRY_COW | F.MAP_ENTRY_NEEDS_COPY,
    F.MAP_NOFAULT: F.MAP_ENTRY_NOFAULT,
    F.MAP_DISABLE_SYNCER: F.MAP_ENTRY_NOSYNC,
    F.MAP_DISABLE_COREDUMP: F.MAP_ENTRY_NOCOREDUMP,
    F.MAP_WRITECOUNT: F.MAP_ENTRY_WRITECNT,
    F.MAP_VN_EXEC: F.MAP_ENTRY_VN_EXEC,
    F.MAP_CREATE_GUARD: F.MAP_ENTRY_GUARD,
    F.MAP_STACK_GROWS_DOWN: F.MAP_ENTRY_GROWS_DOWN,
    F.MAP_STACK_GROWS_UP: F.MAP_ENTRY_GROWS_UP,
    F.MAP_CREATE_STACK_GAP_DN: F.MAP_ENTRY_STACK_GAP_DN,
    F.MAP_CREATE_STACK_GAP_UP: F.MAP_ENTRY_STACK_GAP_UP,
}


class Insertion(MapCore):
    """A map that can be inserted into."""

    def insert(
        self,
        obj: VmObject | None,
        offset: int,
        start: int,
        end: int,
        prot: int = F.VM_PROT_RW,
        max_prot: int = F.VM_PROT_ALL,
        cow: int = 0,
    ) -> int:
        """vm_map_insert, which see (in `calls`): its steps in the kernel's order.

        Locks: the write lock throughout. Sleeps: no. On the kernel's map, page tables are made for it first.
        """
        self.must_be_locked("vm_map_insert")
        self.insert_asserts(obj, prot, max_prot, cow)
        if start >= end or start < self.min_offset or end > self.max_offset:
            return F.KERN_INVALID_ADDRESS
        if self.flags & F.MAP_WXORX and prot & F.VM_PROT_WRITE and prot & F.VM_PROT_EXECUTE:
            return F.KERN_PROTECTION_FAILURE
        found, prev = self.lookup(start)
        if found or self.next_overlaps(prev, end):
            return F.KERN_NO_SPACE
        if cow & F.MAP_CREATE_GUARD and (obj is not None or max_prot):
            return F.KERN_INVALID_ARGUMENT
        if cow & F.MAP_SPLIT_BOUNDARY_MASK and not self.on_boundaries(start, end, cow):
            return F.KERN_INVALID_ARGUMENT
        eflags = self.eflags_of(cow)
        error, cred = self.charge(obj, end - start, prot, eflags, cow)
        if error:
            return error
        self.grow_kernel(end)
        inheritance = F.VM_INHERIT_SHARE if cow & F.MAP_INHERIT_SHARE else F.VM_INHERIT_DEFAULT
        if obj is not None:
            self.objects_field.write()
            if obj.anon and (obj.ref_count > 1 or obj.shadow_count):
                obj.one_mapping = False
        elif prev is not None and self.coalesces(prev, start, end, eflags, cow, cred):
            if self.alike(prev, inheritance, prot, max_prot):
                self.extend(prev, end)
                return F.KERN_SUCCESS
            obj, offset = prev.object, prev.offset + prev.size
            if obj is not None:
                obj.reference()
                if obj.cred is not None and not prev.eflags & F.MAP_ENTRY_NEEDS_COPY:
                    cred = None
        self.entry_create()
        entry = VmMapEntry(start, end, obj, offset)
        entry.eflags = eflags
        entry.protection, entry.max_protection = prot, max_prot
        entry.inheritance = inheritance
        entry.cred = cred
        self.link(entry)
        self.merge_inserted(entry)
        return F.KERN_SUCCESS

    def insert_asserts(self, obj: VmObject | None, prot: int, max_prot: int, cow: int) -> None:
        """What vm_map_insert asserts before all else."""
        if prot & ~max_prot:
            self.kassert_failed(f"vm_map_insert: KASSERT: prot {prot} is not subset of max_prot {max_prot}")
        if obj is not None and cow & F.MAP_NOFAULT:
            self.kassert_failed("vm_map_insert: KASSERT: paradoxical MAP_NOFAULT request: with an object")

    def on_boundaries(self, start: int, end: int, cow: int) -> bool:
        """Are there pages of the size that the mapping is to be made of, and is the range made of whole ones?"""
        index = (cow & F.MAP_SPLIT_BOUNDARY_MASK) >> F.MAP_SPLIT_BOUNDARY_SHIFT
        return index < len(F.PAGESIZES) and not (start | end) & (F.PAGESIZES[index] - 1)

    def eflags_of(self, cow: int) -> int:
        """The entry's flags that follow from the mapping's."""
        boundary = (cow & F.MAP_SPLIT_BOUNDARY_MASK) >> F.MAP_SPLIT_BOUNDARY_SHIFT
        eflags = boundary << F.MAP_ENTRY_SPLIT_BOUNDARY_SHIFT
        return eflags + sum(eflag for flag, eflag in _EFLAGS.items() if cow & flag)

    def grow_kernel(self, end: int) -> None:
        """Make page tables up to `end`, if this is the kernel's map (see `vm_kernel_map`). Other maps have no need."""

    def next_overlaps(self, prev: VmMapEntry | None, end: int) -> bool:
        """Does the entry after `prev` begin before `end`?"""
        after = self.after(prev)
        return after is not None and after.start < end

    def charge(self, obj: VmObject | None, size: int, prot: int, eflags: int, cow: int) -> tuple[int, Ucred | None]:
        """Reserve swap for memory that may have to be written there; who is charged for it, if anybody."""
        if cow & (F.MAP_ACC_NO_CHARGE | F.MAP_NOFAULT | F.MAP_CREATE_GUARD):
            return 0, None
        private = obj is None or eflags & F.MAP_ENTRY_NEEDS_COPY
        if not cow & F.MAP_ACC_CHARGED and not (prot & F.VM_PROT_WRITE and private):
            return 0, None
        cred = ucred(self.k)
        self.objects_field.write()
        if not cow & F.MAP_ACC_CHARGED and not cred.swap_reserve(size):
            return F.KERN_RESOURCE_SHORTAGE, None
        return 0, cred

    def coalesces(self, prev: VmMapEntry, start: int, end: int, eflags: int, cow: int, cred: Ucred | None) -> bool:
        """Can what `prev` maps be extended to `end`? If so its object has grown already."""
        return (
            prev.end == start
            and self.may_extend(prev, eflags, cow)
            and (prev.cred is cred or (prev.object is not None and prev.object.cred is cred))
            and (
                prev.object is None
                or prev.object.coalesce(
                    prev.offset,
                    prev.size,
                    end - start,
                    reserved=cred is not None and not eflags & F.MAP_ENTRY_NEEDS_COPY,
                )
            )
        )

    def alike(self, prev: VmMapEntry, inheritance: int, prot: int, max_prot: int) -> bool:
        """Can the entry itself be extended, not only its object?"""
        return (
            prev.inheritance == inheritance
            and prev.protection == prot
            and prev.max_protection == max_prot
            and not prev.wired_count
        )

    def extend(self, prev: VmMapEntry, end: int) -> None:
        """Extend an entry over a new mapping."""
        if not prev.guard:
            self.size += end - prev.end
        self.resize(prev, end)
        self.merge_extended(prev)

    def may_extend(self, prev: VmMapEntry, eflags: int, cow: int) -> bool:
        """Is the entry before a new mapping without object of a kind that can be extended over it?"""
        raise NotImplementedError

    def merge_extended(self, entry: VmMapEntry) -> None:
        """After `entry` was extended: merge what is alike now."""
        raise NotImplementedError

    def merge_inserted(self, entry: VmMapEntry) -> None:
        """After `entry` was put in: merge what is alike now."""
        raise NotImplementedError
