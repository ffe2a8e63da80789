"""FreeBSD's struct vm_map: entries, size, lock, and what all versions do alike, one small step a method.

Source: sys/vm/vm_map.c of release/10.4 ("2013") and releng/13.0 ("13"). Where the two differ, the step is left to
`VmMap2013` and `VmMap13`; the code is followed where the manual pages say otherwise.

The map is changed under the write lock alone, and everything but `delete` is done without letting go of it. `delete`
may have to wait for an entry in transition, that is, one being wired or unwired by a thread that has dropped the lock.

Planted defects override one of the small methods in a subclass of a version's map.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, ClassVar

from stressvm.kernel.errors import UsageError
from stressvm.vm.freebsd import flags as F  # noqa: N812 - the constants, as the kernel writes them
from stressvm.vm.freebsd.invariants import INVARIANTS
from stressvm.vm.freebsd.map_lock import SystemMapLock, UserMapLock
from stressvm.vm.freebsd.splay import FirstFit, SplayTree
from stressvm.vm.freebsd.vm_map_entry import VmMapEntry
from stressvm.vm.freebsd.vm_object import Ucred, VmObject, ucred
from stressvm.vm.skiplist import EntryList

if TYPE_CHECKING:
    from stressvm.kernel.kernel import Kernel


class MapKind(Enum):
    """Which lock a map has, and which pmap is under it."""

    #: A mutex; the kernel's pmap.
    SYSTEM = "system"
    #: A kernel submap such as exec_map: a lock that is slept for; the kernel's pmap.
    SUBMAP = "submap"
    #: A process's map.
    USER = "user"


class Search(Enum):
    """How a map of version 13 finds space."""

    #: As documented.
    FIRST_FIT = "first-fit"
    #: As it does: a splay tree decides, and the gap after the last entry may be missed.
    SPLAY = "splay"


#: Flags of a mapping whose effect is not modelled yet.
_STACK = F.MAP_STACK_GROWS_DOWN | F.MAP_STACK_GROWS_UP
#: What a mapping's flags make of the entry's.
_EFLAGS = {
    F.MAP_COPY_ON_WRITE: F.MAP_ENTRY_COW | F.MAP_ENTRY_NEEDS_COPY,
    F.MAP_NOFAULT: F.MAP_ENTRY_NOFAULT,
    F.MAP_DISABLE_SYNCER: F.MAP_ENTRY_NOSYNC,
    F.MAP_DISABLE_COREDUMP: F.MAP_ENTRY_NOCOREDUMP,
    F.MAP_WRITECOUNT: F.MAP_ENTRY_WRITECNT,
    F.MAP_VN_EXEC: F.MAP_ENTRY_VN_EXEC,
    F.MAP_CREATE_GUARD: F.MAP_ENTRY_GUARD,
}


class VmMap:
    """A map; make one with `setup` of this package, which chooses the class of a version.

    Args:
        k: the kernel.
        min_offset, max_offset: its range, half open, in bytes.
        kind: its lock and pmap.
        name: as reports show it.
        search: how it finds space.
        flags: MAP_WXORX or 0.

    Attributes:
        size: the sum of the lengths of all entries but guards, in bytes.
        needs_wakeup: somebody sleeps in kmap_alloc_wait.
        seams: where alike neighbours may touch unmerged, since they were clipped there (the model's own bookkeeping).
    """

    version: ClassVar[str]
    #: An entry with one of these is merged with no other.
    NOMERGE_MASK: ClassVar[int]
    #: What kmap_alloc_wait maps with.
    KMAP_PROT: ClassVar[int]

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
    ) -> None:
        if not 0 <= min_offset < max_offset <= F.VM_OFFSET_MASK:
            raise UsageError(f"a map from {min_offset:#x} to {max_offset:#x}: the second must be larger, in 64 bits")
        self.k = k
        self.name = name
        self.kind = kind
        self.flags = flags
        self.entries: EntryList[VmMapEntry] = EntryList(min_offset, max_offset)
        self.tree = (SplayTree if search is Search.SPLAY else FirstFit)(self.entries)
        self.bounds = (min_offset, max_offset)
        self.lock: SystemMapLock | UserMapLock = self.make_lock()
        self.size = 0
        self.needs_wakeup = False
        self.seams: set[int] = set()

    def make_lock(self) -> SystemMapLock | UserMapLock:
        """The map's lock."""
        return (SystemMapLock if self.kind is MapKind.SYSTEM else UserMapLock)(self.k, self.name, self.check)

    @property
    def min_offset(self) -> int:
        """The lowest address."""
        return self.entries.min

    @property
    def max_offset(self) -> int:
        """One past the highest address."""
        return self.entries.max

    def range_check(self, start: int, end: int) -> tuple[int, int]:
        """VM_MAP_RANGE_CHECK: cut a range to the map's."""
        start = max(start, self.min_offset)
        end = min(end, self.max_offset)
        return min(start, end), end

    # ------------------------------------------------------------ what the versions do differently

    def findspace(self, start: int, length: int) -> int | None:
        """Where there is room, at `start` or above; None for nowhere."""
        raise NotImplementedError

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
        """The whole of vm_map_find."""
        raise NotImplementedError

    def may_extend(self, prev: VmMapEntry, eflags: int, cow: int) -> bool:
        """Is the entry before a new mapping without object of a kind that can be extended over it?"""
        raise NotImplementedError

    def merge_extended(self, entry: VmMapEntry) -> None:
        """After `entry` was extended: merge what is alike now."""
        raise NotImplementedError

    def merge_inserted(self, entry: VmMapEntry) -> None:
        """After `entry` was put in: merge what is alike now."""
        raise NotImplementedError

    # ------------------------------------------------------------ lookup

    def must_be_locked(self, call: str) -> None:
        """The caller holds the write lock, or is building the world."""
        if self.k.cur >= 0 and not self.lock.locked():
            raise self.k.panic(f"{call}: KASSERT: {self.name} is not locked for writing")

    def lookup(self, addr: int) -> tuple[bool, VmMapEntry | None]:
        """vm_map_lookup_entry under the write lock: is `addr` mapped, and the entry, or else the one before it."""
        self.tree.splay(addr)
        return self.entries.lookup(addr)

    def after(self, entry: VmMapEntry | None) -> VmMapEntry | None:
        """The entry after this one, None standing for the map's header."""
        return self.entries.next_of(entry) if entry is not None else self.entries.first

    # ------------------------------------------------------------ vm_map_insert, step by step

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
        """vm_map_insert: map [start, end), if nothing is there.

        Locks: the write lock throughout. Sleeps: no. Panics on `prot` beyond `max_prot`, and on NOFAULT with an object.

        Returns:
            KERN_SUCCESS, and the caller's reference to the object is the entry's; or with nothing changed
            KERN_INVALID_ADDRESS for an empty range or one outside the map, KERN_PROTECTION_FAILURE for a mapping
            writable and executable where that is forbidden, KERN_NO_SPACE, KERN_INVALID_ARGUMENT for a guard
            with an object or rights, KERN_RESOURCE_SHORTAGE for no swap.
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
        eflags = sum(eflag for flag, eflag in _EFLAGS.items() if cow & flag)
        error, cred = self.charge(obj, end - start, prot, eflags, cow)
        if error:
            return error
        inheritance = F.VM_INHERIT_SHARE if cow & F.MAP_INHERIT_SHARE else F.VM_INHERIT_DEFAULT
        if obj is not None:
            if obj.anon and (obj.ref_count > 1 or obj.shadowed):
                obj.one_mapping = False
        elif prev is not None and self.coalesces(prev, start, end, eflags, cow, cred):
            if self.alike(prev, inheritance, prot, max_prot):
                self.extend(prev, end)
                return F.KERN_SUCCESS
            obj, offset = prev.object, prev.offset + prev.size
            if obj is not None:
                obj.ref_count += 1
                if obj.cred is not None and not prev.eflags & F.MAP_ENTRY_NEEDS_COPY:
                    cred = None
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
            raise self.k.panic(f"vm_map_insert: KASSERT: prot {prot} is not subset of max_prot {max_prot}")
        if obj is not None and cow & F.MAP_NOFAULT:
            raise self.k.panic("vm_map_insert: KASSERT: paradoxical MAP_NOFAULT request: with an object")
        if cow & _STACK:
            raise UsageError(f"vm_map_insert(cow={cow:#x}): stacks are not modelled yet")

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

    # ------------------------------------------------------------ entries

    def link(self, entry: VmMapEntry) -> None:
        """vm_map_entry_link, for an entry that overlaps no other, and the map's size."""
        opened = self.tree.open(entry.start)
        self.entries.insert(entry)
        self.tree.linked(opened, entry)
        if not entry.guard:
            self.size += entry.size

    def resize(self, entry: VmMapEntry, end: int) -> None:
        """vm_map_entry_resize: another end."""
        opened = self.tree.open(entry.start, after=True)
        self.entries.resize(entry, end=end)
        self.tree.resized(opened)

    def clip_start(self, entry: VmMapEntry, addr: int) -> None:
        """vm_map_clip_start: `entry` begins at `addr` or above; what was below is an entry of its own now."""
        if addr <= entry.start:
            return
        self.back(entry)
        opened = self.tree.open(entry.start, before=True)
        front = self.entries.clip_start(entry, addr)
        entry.offset += front.size
        self.tree.linked(opened, front)
        self.clipped(front, addr)

    def clip_end(self, entry: VmMapEntry, addr: int) -> None:
        """vm_map_clip_end: `entry` ends at `addr` or below; what was above is an entry of its own now."""
        if addr >= entry.end:
            return
        self.back(entry)
        opened = self.tree.open(addr, after=True)
        rest = self.entries.clip_end(entry, addr)
        rest.offset += entry.size
        self.tree.linked(opened, rest)
        self.clipped(rest, addr)

    def back(self, entry: VmMapEntry) -> None:
        """Before a clip: in a user map both parts shall share one object, so there must be one; it takes the charge."""
        if entry.eflags & (F.MAP_ENTRY_IS_SUB_MAP | F.MAP_ENTRY_GUARD):
            return
        if entry.object is None and self.kind is not MapKind.SYSTEM:
            entry.object = VmObject(F.off_to_idx(entry.size), anon=True)
            entry.offset = 0
        obj = entry.object
        if obj is not None and entry.cred is not None and not entry.eflags & F.MAP_ENTRY_NEEDS_COPY:
            if obj.cred is not None:
                raise self.k.panic(f"vm_map_entry_clone: KASSERT: both {entry!r} and its object are charged")
            obj.cred, obj.charge, entry.cred = entry.cred, entry.size, None

    def clipped(self, new: VmMapEntry, addr: int) -> None:
        """After a clip: one more reference to the object."""
        if new.object is not None:
            new.object.ref_count += 1
        self.seams.add(addr)

    def may_merge(self, prev: VmMapEntry, entry: VmMapEntry) -> bool:
        """Are the two alike and of a kind that is merged?"""
        return not entry.eflags & self.NOMERGE_MASK and prev.mergeable(entry)

    def try_merge(self, prev: VmMapEntry | None, entry: VmMapEntry | None) -> bool:
        """vm_map_try_merge_entries: `entry`, the higher one, takes over the range of `prev` if it may."""
        if prev is None or entry is None:
            return False
        self.seams.discard(entry.start)
        if not self.may_merge(prev, entry):
            return False
        opened = self.tree.open(prev.start, before=True, after=True)
        self.entries.merge_into_right(prev, entry)
        self.tree.unlinked(opened)
        entry.offset = prev.offset
        self.dispose(prev)
        return True

    def dispose(self, neighbour: VmMapEntry) -> None:
        """vm_map_merged_neighbor_dispose: the reference of an entry that was merged away."""
        if neighbour.object is not None:
            neighbour.object.deallocate()

    # ------------------------------------------------------------ vm_map_delete, step by step

    async def delete(self, start: int, end: int) -> int:
        """vm_map_delete: unmap [start, end), which must be within the map; holes are no error.

        Locks: the write lock on entry and exit; released while waiting. Sleeps: for entries in transition, and on a
        user map for system wirings to go. What was unmapped before a sleep stays so.

        Returns:
            KERN_SUCCESS.
        """
        self.must_be_locked("vm_map_delete")
        if start == end:
            return F.KERN_SUCCESS
        entry = self.first_to_delete(start)
        while entry is not None and entry.start < end:
            if self.must_wait(entry):
                entry = await self.wait_for_entry(entry)
                continue
            self.clip_end(entry, end)
            after = self.entries.next_of(entry)
            self.delete_entry(entry)
            entry = after
        return F.KERN_SUCCESS

    def first_to_delete(self, start: int) -> VmMapEntry | None:
        """The first entry at or after `start`, which is clipped out of what it lies in."""
        found, entry = self.lookup(start)
        if not found:
            return self.after(entry)
        assert entry is not None, "what was found"
        self.clip_start(entry, start)
        return entry

    def must_wait(self, entry: VmMapEntry) -> bool:
        """Is it being wired or unwired, or, in a user map, wired by the system?"""
        return bool(entry.eflags & F.MAP_ENTRY_IN_TRANSITION) or (
            self.kind is MapKind.USER and entry.system_wired_count != 0
        )

    async def wait_for_entry(self, entry: VmMapEntry) -> VmMapEntry | None:
        """Sleep until somebody is done with an entry; where to go on.

        Locks: the write lock on entry and exit, released meanwhile. If nobody else had it, the entry still is what it
        was; else it is looked up anew.
        """
        saved_start = entry.start
        entry.eflags |= F.MAP_ENTRY_NEEDS_WAKEUP
        timestamp = self.lock.timestamp.peek()
        await self.lock.unlock_and_wait(until=lambda: not self.must_wait(entry))
        await self.lock.lock()
        if self.lock.timestamp.peek() == (timestamp + 1) & 0xFFFFFFFF:
            return entry
        return self.first_to_delete(saved_start)

    def delete_entry(self, entry: VmMapEntry) -> None:
        """Unwire it, take it out, give its charge back, and leave its object to the end of this hold of the lock."""
        entry.wired_count = 0
        opened = self.tree.open(entry.start, before=True, after=True)
        self.entries.delete(entry)
        self.tree.unlinked(opened)
        self.seams.discard(entry.start)
        self.seams.discard(entry.end)
        if not entry.guard:
            self.size -= entry.size
        if entry.cred is not None:
            entry.cred.swap_release(entry.size)
        if self.kind is MapKind.SYSTEM or self.k.cur < 0:
            self.deallocate(entry)
        else:
            self.deferred().setdefault(self.k.cur, []).append(entry)

    def deferred(self) -> dict[int, list[VmMapEntry]]:
        """td_map_def_user: for each thread, what it has unmapped and not let go of yet."""
        return self.k.once("td_map_def_user", dict)

    def process_deferred(self) -> None:
        """vm_map_process_deferred: let go of what this thread unmapped. Locks: no map may be held."""
        for entry in self.deferred().pop(self.k.cur, ()):
            self.deallocate(entry)

    def deallocate(self, entry: VmMapEntry) -> None:
        """vm_map_entry_deallocate: the reference to its object."""
        if entry.object is not None:
            entry.object.deallocate()

    async def unlock(self) -> None:
        """vm_map_unlock, and then what was unmapped from a user map is let go of. Locks: the write lock on entry."""
        await self.lock.unlock()
        if self.kind is not MapKind.SYSTEM:
            self.process_deferred()

    # ------------------------------------------------------------ waiting for addresses (see `vm_kern`)

    async def wait_for_space(self, size: int) -> None:
        """Say that somebody waits, and sleep until some addresses are free. Locks: the write lock on entry, none on exit.

        What is waited for is there when `size` bytes fit anywhere, whether or not the map's search would see it.
        """
        self.needs_wakeup = True
        await self.lock.unlock_and_wait(until=lambda: self.fits(size))

    def fits(self, size: int) -> bool:
        """Is there room for `size` bytes? Pure; it looks at the entries, not at the tree."""
        return self.entries.largest_gap >= size

    async def wake_for_space(self) -> None:
        """If somebody waits for addresses: clear the flag, then wake all. Locks: the write lock throughout."""
        if self.needs_wakeup:
            self.needs_wakeup = False
            await self.wake_sleepers()

    async def wake_sleepers(self) -> None:
        """vm_map_wakeup: all who sleep on the map, whatever they wait for."""
        await self.lock.wakeup()

    # ------------------------------------------------------------ the world's builder, and the invariants

    def fill(self, pages: int | None = None, *, offset: int = 0) -> int:
        """While the world is built: map pages at a page offset (the whole map by default); the address."""
        start = self.min_offset + offset * F.PAGE_SIZE
        end = self.max_offset if pages is None else start + pages * F.PAGE_SIZE
        if self.k.cur >= 0:
            raise UsageError("VmMap.fill() is for building the world; a running thread calls vm_map_find")
        if error := self.insert(None, 0, start, end, self.KMAP_PROT, self.KMAP_PROT):
            raise UsageError(f"VmMap.fill({pages}, offset={offset}): {start:#x}-{end:#x} is not free (error {error})")
        return start

    def check(self) -> None:
        """The invariants of a map that nobody is changing; a violation is a panic of kind `invariant`."""
        for name, invariant in INVARIANTS.items():
            if wrong := invariant(self):
                raise self.k.panic(f"{self.name}: {name}: {wrong}", "invariant")

    def __repr__(self) -> str:
        """Name, version and range."""
        return f"<VmMap {self.name} FreeBSD {self.version} [{self.min_offset:#x}, {self.max_offset:#x})>"
