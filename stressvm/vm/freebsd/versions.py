"""What FreeBSD 10.4 ("2013") and 13.0 ("13") do differently with a map.

Searching. Both promise the lowest fit. 13 may miss the gap after the last entry (see `splay`), if the map is to.

Finding and mapping. 13 finds the address, aligned, with bound, and inserts: one hold of the lock, one insertion. 2013
finds an address, aligns it, and inserts on the chance that it is free; if not, it searches on from there. Three things
follow in 2013 that vm_map_find(9) does not say: an aligned address beyond the map's end is KERN_INVALID_ADDRESS and not
KERN_NO_SPACE, and then OPTIMAL does not fall back to ANY; the bound is compared before the address is aligned, so a
mapping may end above it; and when OPTIMAL falls back, the lock is dropped in between.

Merging. 13 merges the pairs that can have become alike; 2013 looks at both sides of an entry.

Source: sys/vm/vm_map.c of release/10.4 and of releng/13.0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from stressvm.kernel.errors import UsageError
from stressvm.vm.freebsd import flags as F  # noqa: N812 - the constants, as the kernel writes them
from stressvm.vm.freebsd.pmap import pmap_align_superpage
from stressvm.vm.freebsd.vm_map import VmMap
from stressvm.vm.freebsd.vm_map_core import MapKind, Search

if TYPE_CHECKING:
    from stressvm.kernel.kernel import Kernel
    from stressvm.vm.freebsd.vm_fault import Fault
    from stressvm.vm.freebsd.vm_map_entry import VmMapEntry
    from stressvm.vm.freebsd.vm_object import VmObject

_STACK = F.MAP_STACK_GROWS_DOWN | F.MAP_STACK_GROWS_UP
_NOMERGE = F.MAP_ENTRY_GROWS_DOWN | F.MAP_ENTRY_GROWS_UP | F.MAP_ENTRY_IN_TRANSITION | F.MAP_ENTRY_IS_SUB_MAP


def _strategy(obj: VmObject | None, find_space: int) -> tuple[int, int]:
    """The strategy that is followed, and its alignment in bytes: OPTIMAL needs an object that has a colour."""
    if find_space == F.VMFS_OPTIMAL_SPACE and (obj is None or obj.pg_color is None):
        return F.VMFS_ANY_SPACE, 1
    if not find_space >> 8:
        if find_space > F.VMFS_SUPER_SPACE:
            raise UsageError(f"find_space={find_space}: a VMFS_ constant, or VMFS_ALIGNED_SPACE(n)")
        return find_space, 1
    if find_space & 0xFF:
        raise UsageError(f"find_space={find_space:#x}: bad VMFS flags; VMFS_ALIGNED_SPACE(n) has a low byte of 0")
    return find_space, 1 << (find_space >> 8)


def _align(obj: VmObject | None, offset: int, addr: int, length: int, find_space: int, alignment: int) -> int:
    """The next address that the strategy wants; sums wrap."""
    if find_space in {F.VMFS_SUPER_SPACE, F.VMFS_OPTIMAL_SPACE}:
        return pmap_align_superpage(obj, offset, addr, length)
    return (addr + alignment - 1) & -alignment & F.VM_OFFSET_MASK


class VmMap2013(VmMap):
    """A map of FreeBSD 10.4."""

    version: ClassVar[str] = "2013"
    NOMERGE_MASK: ClassVar[int] = _NOMERGE
    KMAP_PROT: ClassVar[int] = F.VM_PROT_ALL

    def __init__(
        self,
        k: Kernel,
        min_offset: int,
        max_offset: int,
        *,
        kind: MapKind = MapKind.USER,
        name: str = "map",
        search: Search = Search.FIRST_FIT,
        flags: int = 0,
        fault: Fault | None = None,
    ) -> None:
        if search is not Search.FIRST_FIT:
            raise UsageError("search=SPLAY: only version 13 misses the gap after the last entry; 2013 always finds it")
        if flags:
            raise UsageError(f"flags={flags:#x}: MAP_WXORX came with version 13")
        super().__init__(k, min_offset, max_offset, kind=kind, name=name, search=search, fault=fault)

    def findspace(self, start: int, length: int) -> int | None:
        """vm_map_findspace: the lowest address at or above `start` with `length` bytes free.

        For no bytes at all, an address in the middle of an entry is moved to its end, but not that of its start.
        Locks: the write lock (the code does not ask for it). Sleeps: no.
        """
        start = max(start, self.min_offset)
        if start + length > self.max_offset:
            return None
        if not length:
            found, entry = self.entries.lookup(start)
            return entry.end if found and entry is not None and entry.start < start else start
        return self.tree.findspace(start, length)

    async def find(
        self,
        obj: VmObject | None,
        offset: int,
        addr: int,
        length: int,
        max_addr: int,
        find_space: int,
        prot: int,
        max_prot: int,
        cow: int,
    ) -> tuple[int, int]:
        """vm_map_find. Locks: none on entry and exit; for OPTIMAL it may be taken twice. Sleeps: for the lock."""
        find_space, alignment = _strategy(obj, find_space)
        while True:
            await self.lock.lock()
            result, start = self.find_locked(
                obj, offset, addr, length, max_addr, find_space, alignment, prot, max_prot, cow
            )
            await self.lock.unlock()
            if start is not None or find_space != F.VMFS_OPTIMAL_SPACE:
                return result, 0 if result or start is None else start
            find_space = F.VMFS_ANY_SPACE

    def find_locked(
        self,
        obj: VmObject | None,
        offset: int,
        start: int,
        length: int,
        max_addr: int,
        find_space: int,
        alignment: int,
        prot: int,
        max_prot: int,
        cow: int,
    ) -> tuple[int, int | None]:
        """Find, align, insert, until it is in or there is nothing: what came of it, and the last address found."""
        while True:
            if find_space != F.VMFS_NO_SPACE:
                found = self.findspace(start, length)
                if found is None or self.above(found, length, max_addr):
                    return F.KERN_NO_SPACE, None
                start = _align(obj, offset, found, length, find_space, alignment)
            end = (start + length) & F.VM_OFFSET_MASK
            result = self.insert(obj, offset, start, end, prot, max_prot, cow)
            if result != F.KERN_NO_SPACE or find_space in {F.VMFS_NO_SPACE, F.VMFS_ANY_SPACE}:
                return result, start

    def above(self, addr: int, length: int, max_addr: int) -> bool:
        """Would the mapping end above the bound? Asked before the address is aligned."""
        return bool(max_addr) and addr + length > max_addr

    def may_extend(self, prev: VmMapEntry, eflags: int, cow: int) -> bool:
        """Equal flags, no stack, not wired."""
        return prev.eflags == eflags and not cow & _STACK and not prev.wired_count

    def merge_extended(self, entry: VmMapEntry) -> None:
        """vm_map_simplify_entry."""
        self.simplify(entry)

    def merge_inserted(self, entry: VmMapEntry) -> None:
        """vm_map_simplify_entry."""
        self.simplify(entry)

    def merge_changed(self, prev: VmMapEntry | None, entry: VmMapEntry) -> None:  # noqa: ARG002 - both sides
        """vm_map_simplify_entry."""
        self.simplify(entry)

    def merge_rest(self, prev: VmMapEntry | None, entry: VmMapEntry | None) -> None:
        """That is done already."""

    async def wire(self, start: int, end: int, flags: int) -> int:
        """vm_map_wire: for no range at all the map is not even locked."""
        return F.KERN_SUCCESS if start == end else await super().wire(start, end, flags)

    async def unlock_after_wire(self, *, wanted: bool) -> None:
        """First the lock, then the sleepers."""
        await self.lock.unlock()
        if wanted:
            await self.wake_sleepers()

    async def keep_out(self) -> None:
        """vm_map_protect does not care whether somebody wires in this map."""

    def moving(self, first: VmMapEntry | None, end: int) -> VmMapEntry | None:  # noqa: ARG002 - nor in this range
        """Nor whether an entry is in transition."""
        return None

    def simplify(self, entry: VmMapEntry) -> None:
        """vm_map_simplify_entry: merge `entry`, which survives, with the one before it and the one after it."""
        if entry.eflags & self.NOMERGE_MASK:
            return
        self.try_merge(self.entries.prev_of(entry), entry)
        after = self.entries.next_of(entry)
        if after is None:
            return
        self.seams.discard(after.start)
        if entry.mergeable(after):
            self.entries.merge(entry, after)
            self.dispose(after)


class VmMap13(VmMap):
    """A map of FreeBSD 13.0."""

    version: ClassVar[str] = "13"
    NOMERGE_MASK: ClassVar[int] = _NOMERGE | F.MAP_ENTRY_VN_EXEC
    KMAP_PROT: ClassVar[int] = F.VM_PROT_RW

    def findspace(self, start: int, length: int) -> int | None:
        """vm_map_findspace: the lowest address at or above `start` with `length` bytes free, or so it is documented.

        The kernel returns an address that is too high where this returns None. Locks: the write lock. Sleeps: no.
        """
        start = max(start, self.min_offset)
        if start >= self.max_offset or length > self.max_offset - start:
            return None
        return self.tree.findspace(start, length)

    async def find(
        self,
        obj: VmObject | None,
        offset: int,
        addr: int,
        length: int,
        max_addr: int,
        find_space: int,
        prot: int,
        max_prot: int,
        cow: int,
    ) -> tuple[int, int]:
        """vm_map_find. Locks: none on entry and exit; taken once for search and insertion. Sleeps: for the lock."""
        find_space, alignment = _strategy(obj, find_space)
        await self.lock.lock()
        result, start = await self.place(obj, offset, addr, length, max_addr, find_space, alignment, cow)
        if not result:
            end = (start + length) & F.VM_OFFSET_MASK
            result = self.insert(obj, offset, start, end, prot, max_prot, cow)
        await self.lock.unlock()
        return result, 0 if result else start

    async def place(
        self,
        obj: VmObject | None,
        offset: int,
        addr: int,
        length: int,
        max_addr: int,
        find_space: int,
        alignment: int,
        cow: int,
    ) -> tuple[int, int]:
        """Where to insert. For OPTIMAL without an aligned place, any. With MAP_REMAP what is there is unmapped."""
        if find_space == F.VMFS_NO_SPACE:
            return await self.remap(addr, length, cow), addr
        found = self.bounded(addr, length, max_addr)
        if found is None:
            return F.KERN_NO_SPACE, 0
        if find_space == F.VMFS_ANY_SPACE:
            return 0, found
        aligned = self.alignspace(obj, offset, found, length, max_addr, find_space, alignment)
        if aligned is None and find_space == F.VMFS_OPTIMAL_SPACE:
            return await self.place(obj, offset, addr, length, max_addr, F.VMFS_ANY_SPACE, 1, cow)
        return (F.KERN_NO_SPACE, 0) if aligned is None else (0, aligned)

    async def remap(self, addr: int, length: int, cow: int) -> int:
        """With MAP_REMAP: unmap what is there. Sleeps: as `delete`."""
        if not cow & F.MAP_REMAP:
            return 0
        end = (addr + length) & F.VM_OFFSET_MASK
        if end < addr or addr < self.min_offset or end > self.max_offset:
            return F.KERN_INVALID_ADDRESS
        return await self.delete(addr, end)

    def bounded(self, start: int, length: int, max_addr: int) -> int | None:
        """`findspace`, below the bound."""
        found = self.findspace(start, length)
        return found if found is not None and (not max_addr or found + length <= max_addr) else None

    def alignspace(
        self,
        obj: VmObject | None,
        offset: int,
        addr: int,
        length: int,
        max_addr: int,
        find_space: int,
        alignment: int,
    ) -> int | None:
        """vm_map_alignspace: from a free address on, the next one that is aligned and free; None for none.

        It goes upwards only: align, and if that is not where the free address is, look for room from there on.
        """
        while True:
            aligned = _align(obj, offset, addr, length, find_space, alignment)
            if aligned == addr:
                return addr
            if aligned < addr:
                return None
            found = self.bounded(aligned, length, max_addr)
            if found is None or found == aligned:
                return found
            addr = found

    def may_extend(self, prev: VmMapEntry, eflags: int, cow: int) -> bool:
        """Equal flags, the user's wiring apart; no stack, no text of a program."""
        return prev.eflags & ~F.MAP_ENTRY_USER_WIRED == eflags and not cow & (_STACK | F.MAP_VN_EXEC)

    def merge_extended(self, entry: VmMapEntry) -> None:
        """With the entry after it."""
        self.try_merge(entry, self.entries.next_of(entry))

    def merge_inserted(self, entry: VmMapEntry) -> None:
        """With the entry before it, then with the one after it."""
        self.try_merge(self.entries.prev_of(entry), entry)
        self.try_merge(entry, self.entries.next_of(entry))

    def merge_changed(self, prev: VmMapEntry | None, entry: VmMapEntry) -> None:
        """With the entry before it."""
        self.try_merge(prev, entry)

    def merge_rest(self, prev: VmMapEntry | None, entry: VmMapEntry | None) -> None:
        """The last one with the one behind the range."""
        self.try_merge(prev, entry)

    async def unlock_after_wire(self, *, wanted: bool) -> None:
        """First the sleepers, then the lock."""
        if wanted:
            await self.wake_sleepers()
        await self.lock.unlock()


#: The versions of FreeBSD whose behaviour is modelled.
VERSIONS: dict[str, type[VmMap]] = {"2013": VmMap2013, "13": VmMap13}
