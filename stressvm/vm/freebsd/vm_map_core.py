"""The state of FreeBSD's struct vm_map, and what every operation is made of: look up, clip, merge, wait, let go.

The entries are changed under the write lock alone. What is unmapped from a user map is let go of after the lock is:
dropping the last reference to an object may sleep.

A module an operation stands on this one (`vm_map_insert`, `vm_map_delete`, ...), and `vm_map` puts them together.
Planted defects override one of the small methods in a subclass of a version's map.

Source: sys/vm/vm_map.c of release/10.4 ("2013") and releng/13.0 ("13"): vm_map_lookup_entry, vm_map_entry_link,
vm_map_clip_start, vm_map_clip_end, vm_map_try_merge_entries, vm_map_process_deferred.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, ClassVar

from stressvm.kernel.aside import Aside
from stressvm.kernel.errors import UsageError
from stressvm.kernel.field import Field
from stressvm.vm.entry import OverlapError
from stressvm.vm.freebsd import flags as F  # noqa: N812 - the constants, as the kernel writes them
from stressvm.vm.freebsd.invariants import INVARIANTS
from stressvm.vm.freebsd.map_lock import SystemMapLock, UserMapLock
from stressvm.vm.freebsd.references import deferred, vm_maps, vm_objects
from stressvm.vm.freebsd.splay import FirstFit, SplayTree
from stressvm.vm.freebsd.vm_fault_stub import Fault
from stressvm.vm.freebsd.vm_object import VmObject
from stressvm.vm.freebsd.vm_user_wire import user_wire_count
from stressvm.vm.skiplist import EntryList
from stressvm.vm.stale import bury

if TYPE_CHECKING:
    from collections.abc import Callable

    from stressvm.kernel.kernel import Kernel
    from stressvm.vm.freebsd.vm_map_entry import VmMapEntry
    from stressvm.vm.freebsd.vm_memory import Memory, PhysicalMap


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


class MapCore:
    """A map; make one with `setup` of this package, which chooses the class of a version.

    Args:
        k: the kernel.
        min_offset, max_offset: its range, half open, in bytes.
        kind: its lock and pmap.
        name: as reports show it.
        search: how it finds space.
        flags: MAP_WXORX or 0.
        fault: what page faults do, those of wiring above all. If not given: nothing, or with memory all that they do.
        options: what its kernel is built with.
        memory: what is under the map: pages and a pmap. Without it addresses are all there is.

    Attributes:
        pmap: its pmap, or None for a map without memory. Kernel maps share the kernel's.
        size: the sum of the lengths of all entries but guards, in bytes.
        anon_loc: where the last anonymous mapping ended, near which the next is put (see `vm_map_find`); or 0.
        needs_wakeup: somebody sleeps in kmap_alloc_wait.
        forked: it was copied from another map by a fork.
        seams: where alike neighbours may touch unmerged, since they were clipped there (the model's own bookkeeping).
    """

    version: ClassVar[str]
    #: An entry with one of these is merged with no other.
    NOMERGE_MASK: ClassVar[int]
    #: What kmap_alloc_wait maps with.
    KMAP_PROT: ClassVar[int]
    #: Are the kernel's page tables made as this map is inserted into, not at boot?
    GROWS_KERNEL: ClassVar[bool] = False

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
        options: F.Options = F.Options.INVARIANTS,
        memory: Memory | None = None,
    ) -> None:
        if not 0 <= min_offset < max_offset <= F.VM_OFFSET_MASK:
            raise UsageError(f"a map from {min_offset:#x} to {max_offset:#x}: the second must be larger, in 64 bits")
        self.k = k
        self.name = name
        self.kind = kind
        self.flags = flags
        self.options = options
        self.memory = memory
        self.pmap: PhysicalMap | None = None
        if memory is not None:
            self.pmap = memory.pmap_of(
                kind, name, min_offset, max_offset, version=self.version, grows=self.GROWS_KERNEL
            )
        self.fault = fault or (Fault() if memory is None else memory.fault)
        #: The list of entries and what is in them: what the map's lock protects.
        self.entries_field = Field(k, f"{name}.entries")
        self.objects_field = vm_objects(k)
        self._entries: EntryList[VmMapEntry] = EntryList(min_offset, max_offset)
        self.tree = (SplayTree if search is Search.SPLAY else FirstFit)(self._entries)
        self.bounds = (min_offset, max_offset)
        self.lock: SystemMapLock | UserMapLock = self.make_lock()
        self.size = 0
        self.anon_loc = 0
        self.needs_wakeup = False
        self.forked = False
        self.seams: set[int] = set()
        #: What deletions have taken from objects, and nobody has freed yet: pages by object and range of indices.
        self.dropped: list[tuple[VmObject, int, int]] = []
        if memory is not None:
            self.lock.settle = memory.drain
        vm_maps(k).append(self)

    def make_lock(self) -> SystemMapLock | UserMapLock:
        """The map's lock."""
        if self.kind is MapKind.SYSTEM:
            return SystemMapLock(self.k, self.name, self.check)
        return UserMapLock(self.k, self.name, self.check, self.process_deferred)

    @property
    def entries(self) -> EntryList[VmMapEntry]:
        """The entries, to be read: the current step is said to do that."""
        self.entries_field.read()
        return self._entries

    @property
    def changing(self) -> EntryList[VmMapEntry]:
        """The entries, to be changed, and with them what refers to objects."""
        self.changed()
        return self._entries

    def changed(self) -> None:
        """The current step changes what is in entries, or who is charged for it, and with that who refers to what."""
        self.entries_field.write()
        self.objects_field.write()

    @property
    def min_offset(self) -> int:
        """The lowest address."""
        return self._entries.min

    @property
    def max_offset(self) -> int:
        """One past the highest address."""
        return self._entries.max

    def range_check(self, start: int, end: int) -> tuple[int, int]:
        """VM_MAP_RANGE_CHECK: cut a range to the map's."""
        start = max(start, self.min_offset)
        end = min(end, self.max_offset)
        return min(start, end), end

    def kassert_failed(self, text: str) -> None:
        """A KASSERT that does not hold: panics, if the kernel is built with INVARIANTS; else it goes on."""
        if self.options & F.Options.INVARIANTS:
            raise self.k.panic(text)

    # ------------------------------------------------------------ lookup

    def must_be_locked(self, call: str) -> None:
        """G10: the caller holds the write lock, or is building the world."""
        if self.k.cur >= 0 and not self.lock.locked():
            raise self.k.panic(f"{call}: KASSERT: {self.name} is not locked for writing")

    def lookup(self, addr: int) -> tuple[bool, VmMapEntry | None]:
        """vm_map_lookup_entry under the write lock: is `addr` mapped, and the entry, or else the one before it."""
        self.tree.splay(addr)
        return self.entries.lookup(addr)

    def after(self, entry: VmMapEntry | None) -> VmMapEntry | None:
        """The entry after this one, None standing for the map's header."""
        return self.entries.next_of(entry) if entry is not None else self.entries.first

    # ------------------------------------------------------------ entries

    def link(self, entry: VmMapEntry) -> None:
        """vm_map_entry_link, and the map's size. An entry that overlaps another is a violation."""
        opened = self.tree.open(entry.start)
        try:
            self.changing.insert(entry)
        except OverlapError as exc:
            raise self.k.panic(f"{self.name}: G1-G4 structure: {exc}", "invariant") from None
        self.tree.linked(opened, entry)
        if not entry.guard:
            self.size += entry.size

    def resize(self, entry: VmMapEntry, end: int) -> None:
        """vm_map_entry_resize: another end."""
        self.must_be_locked("vm_map_entry_resize")
        opened = self.tree.open(entry.start, after=True)
        self.changing.resize(entry, end=end)
        self.tree.resized(opened)

    def entry_create(self) -> None:
        """vm_map_entry_create: memory for one more entry. There always is; for the kernel's map see `vm_kernel_map`."""

    def entry_dispose(self) -> None:
        """vm_map_entry_dispose: the memory of an entry is free again."""

    def clip_start(self, entry: VmMapEntry, addr: int) -> int:
        """vm_map_clip_start: `entry` begins at `addr` or above; what was below is an entry of its own now.

        Returns:
            KERN_SUCCESS; KERN_INVALID_ARGUMENT, with nothing changed, within a large page of the mapping.
        """
        if addr <= entry.start:
            return F.KERN_SUCCESS
        if not entry.start < addr < entry.end:
            raise self.k.panic(f"vm_map_clip: KASSERT: invalid clip of {entry!r} at {addr:#x}")
        if not self.may_clip(entry, addr):
            return F.KERN_INVALID_ARGUMENT
        self.changed()
        self.back(entry)
        self.entry_create()
        opened = self.tree.open(entry.start, before=True)
        front = self.changing.clip_start(entry, addr)
        entry.offset += front.size
        self.tree.linked(opened, front)
        self.clipped(front, addr)
        return F.KERN_SUCCESS

    def clip_end(self, entry: VmMapEntry, addr: int) -> int:
        """vm_map_clip_end: `entry` ends at `addr` or below; what was above is an entry of its own now.

        Returns:
            As clip_start.
        """
        if addr >= entry.end:
            return F.KERN_SUCCESS
        if not entry.start < addr < entry.end:
            raise self.k.panic(f"vm_map_clip: KASSERT: invalid clip of {entry!r} at {addr:#x}")
        if not self.may_clip(entry, addr):
            return F.KERN_INVALID_ARGUMENT
        self.changed()
        self.back(entry)
        self.entry_create()
        opened = self.tree.open(addr, after=True)
        rest = self.changing.clip_end(entry, addr)
        rest.offset += entry.size
        self.tree.linked(opened, rest)
        self.clipped(rest, addr)
        return F.KERN_SUCCESS

    def may_clip(self, entry: VmMapEntry, addr: int) -> bool:
        """Is `addr` a boundary between the pages that the mapping is made of?"""
        index = (entry.eflags & F.MAP_ENTRY_SPLIT_BOUNDARY_MASK) >> F.MAP_ENTRY_SPLIT_BOUNDARY_SHIFT
        return not index or not addr & (F.PAGESIZES[index] - 1)

    def back(self, entry: VmMapEntry) -> None:
        """Before a clip: in a user map both parts shall share one object, so there must be one; it takes the charge."""
        if entry.eflags & (F.MAP_ENTRY_IS_SUB_MAP | F.MAP_ENTRY_GUARD):
            return
        obj = entry.object
        if obj is None:
            if self.kind is not MapKind.SYSTEM:
                self.entry_back(entry)
        elif entry.cred is not None and not entry.eflags & F.MAP_ENTRY_NEEDS_COPY:
            if obj.cred is not None:
                self.kassert_failed(f"vm_map_entry_clone: KASSERT: both {entry!r} and its object are charged")
            obj.cred, obj.charge, entry.cred = entry.cred, entry.size, None

    def entry_back(self, entry: VmMapEntry) -> None:
        """vm_map_entry_back: an object for an entry that has none; it takes the charge."""
        entry.object = VmObject.anonymous(F.off_to_idx(entry.size), entry.cred, entry.size)
        entry.offset = 0
        entry.cred = None

    def clipped(self, new: VmMapEntry, addr: int) -> None:
        """After a clip: one more reference to the object."""
        self.must_be_locked("vm_map_clip")
        if new.object is not None:
            new.object.reference()
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
        self.must_be_locked("vm_map_try_merge_entries")
        opened = self.tree.open(prev.start, before=True, after=True)
        self.changing.merge_into_right(prev, entry)
        self.tree.unlinked(opened)
        entry.offset = prev.offset
        self.dispose(prev)
        return True

    def merge_changed(self, prev: VmMapEntry | None, entry: VmMapEntry) -> None:
        """An entry of a range has been changed, and `prev` is before it: merge what is alike now."""
        raise NotImplementedError

    def merge_rest(self, prev: VmMapEntry | None, entry: VmMapEntry | None) -> None:
        """The last entry of a range has been changed, and `entry` is behind the range: merge what is alike now."""
        raise NotImplementedError

    def unwire_entry(self, entry: VmMapEntry) -> None:
        """vm_map_entry_unwire: its last wiring is gone, and with it its part of what users have wired."""
        self.changed()
        entry.wired_count = 0
        if entry.eflags & F.MAP_ENTRY_USER_WIRED:
            self.discount_user(entry.size)

    def discount_user(self, size: int) -> None:
        """What a user had wired is wired no more."""
        user_wire_count(self.k).sub(size)

    def dispose(self, neighbour: VmMapEntry) -> None:
        """vm_map_merged_neighbor_dispose: the reference of an entry that was merged away."""
        if neighbour.object is not None:
            self.objects_field.write()
            neighbour.object.deallocate()
        self.entry_dispose()
        bury(self.k, self.name, neighbour)

    # ------------------------------------------------------------ sleeping on the map

    async def wake_sleepers(self) -> None:
        """vm_map_wakeup: all who sleep on the map, whatever they wait for."""
        await self.lock.wakeup()

    async def wait_for_entry(self, entry: VmMapEntry, until: Callable[[], bool]) -> bool:
        """Sleep until whoever is at work on `entry` is done; can it still be used without another lookup?

        Locks: the write lock on entry and exit, released meanwhile. If nobody else had it since, nothing has changed.

        Args:
            entry: in transition, or wired by the system.
            until: pure; true when what is waited for is there.
        """
        self.entries_field.write()
        entry.eflags |= F.MAP_ENTRY_NEEDS_WAKEUP
        timestamp = self.lock.timestamp.peek()
        await self.lock.unlock_and_wait(until=until)
        await self.lock.lock()
        return not self.relocked(timestamp)

    def relocked(self, timestamp: int) -> bool:
        """The map was locked for writing again: has anybody else done so since it had that timestamp?"""
        return self.lock.timestamp.peek() != (timestamp + 1) & 0xFFFFFFFF

    # ------------------------------------------------------------ letting go

    def dispose_of(self, entry: VmMapEntry) -> None:
        """What was unmapped: freed at once in a system map, else kept until this thread has let go of the lock."""
        if self.kind is MapKind.SYSTEM or self.k.cur < 0:
            self.deallocate(entry)
        else:
            self.objects_field.write()
            deferred(self.k).setdefault(self.k.cur, []).append(entry)

    def process_deferred(self) -> None:
        """vm_map_process_deferred: let go of what this thread unmapped. Locks: this map's must not be held (G14)."""
        if self.k.cur >= 0 and self.lock.locked():
            raise self.k.panic(f"{self.name}: G14 deferred: entries are let go of under the map lock", "invariant")
        # What this thread has put off nobody else changes.
        for entry in deferred(self.k).pop(self.k.cur, ()):
            self.objects_field.write()
            self.deallocate(entry)

    def deallocate(self, entry: VmMapEntry) -> None:
        """vm_map_entry_deallocate: the reference to its object, and its memory."""
        if entry.object is not None:
            self.objects_field.write()
            entry.object.deallocate()
        self.entry_dispose()
        bury(self.k, self.name, entry)

    def check(self) -> None:
        """The invariants of a map that nobody is changing; a violation is a panic of kind `invariant`."""
        with Aside(self.k):
            for name, invariant in INVARIANTS.items():
                if wrong := invariant(self):
                    raise self.k.violation(self.name, name, wrong)

    def __repr__(self) -> str:
        """Name, version and range."""
        return f"<VmMap {self.name} FreeBSD {self.version} [{self.min_offset:#x}, {self.max_offset:#x})>"
