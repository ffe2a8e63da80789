"""The data of NetBSD's struct vm_map, and the smallest steps on it: look-up, clip, link, unlink, hints.

Source: sys/uvm/uvm_map.c 1.324 ("6", NetBSD 6.99.16) and 1.263.4.5 ("5.2").
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm.kernel.aside import Aside
from stressvm.kernel.cell import Cell
from stressvm.kernel.errors import UsageError
from stressvm.kernel.field import Field
from stressvm.vm.netbsd import debug
from stressvm.vm.netbsd import flags as F  # noqa: N812 - the constants, as the kernel writes them
from stressvm.vm.netbsd.ghost import UNALIGNED, Ghost
from stressvm.vm.netbsd.invariants import INVARIANTS, ON_ACQUIRE, nothing_wrong
from stressvm.vm.netbsd.map_lock import IntrsafeMapLock, MapLock, VmMapLock
from stressvm.vm.netbsd.uvm_fault import UvmFault
from stressvm.vm.skiplist import EntryList

if TYPE_CHECKING:
    from collections.abc import Callable

    from stressvm.kernel.kernel import Kernel
    from stressvm.vm.netbsd.kmapent import Kmapents
    from stressvm.vm.netbsd.memory import Memory
    from stressvm.vm.netbsd.vm_map import VmMap as WholeMap
    from stressvm.vm.netbsd.vm_map_entry import MapEntry

#: The versions of NetBSD whose behaviour is modelled.
VERSIONS = ("5.2", "6")
_PLAIN_MACHINE = F.Machine()
_DIAGNOSTIC = F.Options.DIAGNOSTIC.value
_DEBUG = (F.Options.DEBUG | F.Options.DEBUG_CHECK_MAP | F.Options.DEBUG_CHECK_RBTREE).value

#: Why `flags` may be read without the lock under which it is changed.
_FLAGS_BENIGN = (
    "uvm_map_prepare sets WANTVA under the map's lock and reads it under misc_lock: a sleeper that misses a change looks again "
    "after a second at most; the other flags are set before others know of the map"
)


class VmMap:
    """See VmMap, which is the whole of it."""

    #: 5.2, with memory: vmk_merged_entries: how many entries merging QUANTUM ranges has saved, for later splits.
    merged_entries = 0

    def __init__(
        self,
        k: Kernel,
        min_offset: int,
        max_offset: int,
        flags: int = 0,
        *,
        version: str = "6",
        name: str = "kmap",
        options: F.Options = F.Options.NONE,
        kind: F.MapKind = F.MapKind.SUBMAP,
        machine: F.Machine = _PLAIN_MACHINE,
        fault: UvmFault | None = None,
        kmapent: bool = False,
        memory: Memory | None = None,
    ) -> None:
        _check_arguments(min_offset, max_offset, flags, version, kind)
        self.k = k
        self.name = name
        self.version = version
        self.options = options
        self.kind = kind
        self.machine = machine
        #: Physical pages and the kernel's pmap, or None for a map that is about addresses alone.
        self.memory = memory
        self.fault = fault if fault is not None else memory.fault if memory is not None else UvmFault()
        #: The list of entries, what is in them, the hint, `first_free` and the size: what the map's lock protects.
        self.entries_field = Field(k, f"{name}.entries")
        self.entries = EntryList(min_offset, max_offset)
        self.flags = Cell(k, flags, f"{name}.flags", _FLAGS_BENIGN)
        self.intrsafe = bool(flags & F.VM_MAP_INTRSAFE)
        self.topdown = bool(flags & F.VM_MAP_TOPDOWN)
        self.ghost = Ghost()
        self.lock: MapLock = self.make_lock()
        self.lock.on_acquire = self.acquired
        #: Sum of the lengths of the entries, in bytes.
        self.size = 0
        self.ref_count = 1
        #: No gap lies before this entry, and every one before it touches the next; None stands for the header.
        self.first_free: MapEntry | None = None
        #: Where the last look-up ended; only to be quick, but it must be in the map. None stands for the header.
        self.hint: MapEntry | None = None
        #: The map that this one is a submap of, and those that it has. Known to the model alone.
        self.parent: VmMap | None = None
        self.submaps: list[VmMap] = []
        #: kernel_map's minimum, from which offsets of kernel objects count: the map itself, or what it is carved out of.
        self.kernel_base = min_offset
        #: 5.2: entries that lie in the map itself, or None for entries that are never short.
        self.kmapents: Kmapents | None = self.make_kmapents() if kmapent else None
        #: A kernel submap on a plain machine, whose entries come from elsewhere: most maps are that.
        self.ordinary = kind is F.MapKind.SUBMAP and machine.prefer <= F.PAGE_SIZE and not kmapent
        #: LOCKDEBUG: what lock lies at an address of this map.
        self.live_locks: dict[int, str] = {}

    def make_lock(self) -> MapLock:
        """The map's lock."""
        if self.intrsafe:
            return IntrsafeMapLock(self.k, self.name, self.check)
        return VmMapLock(self.k, self.name, self.check)

    def make_kmapents(self) -> Kmapents:
        """5.2: where entries come from that lie in the map itself."""
        raise NotImplementedError

    @property
    def entries(self) -> EntryList[MapEntry]:
        """The entries, to be read: the current step is said to do that."""
        self.entries_field.read()
        return self._entries

    @entries.setter
    def entries(self, entries: EntryList[MapEntry]) -> None:
        self._entries = entries

    @property
    def changing(self) -> EntryList[MapEntry]:
        """The entries, to be changed."""
        self.entries_field.write()
        return self._entries

    @property
    def min_offset(self) -> int:
        """The lowest address."""
        return self._entries.min

    @property
    def max_offset(self) -> int:
        """One past the highest address."""
        return self._entries.max

    @property
    def options(self) -> F.Options:
        """What its kernel is built with."""
        return self._options

    @options.setter
    def options(self, options: F.Options) -> None:
        self._options = options
        # Asking an enum costs more than most of what is asked about.
        value = options.value
        self.diagnostic = bool(value & _DIAGNOSTIC)
        self.debug = bool(value & _DEBUG)

    def whole(self) -> WholeMap:
        """Itself, for those of its bases that hand it on."""
        raise NotImplementedError

    @property
    def is_kernel(self) -> bool:
        """VM_MAP_IS_KERNEL: does it use the kernel's pmap?"""
        return self.kind is not F.MapKind.USER

    def must_be_locked(self, call: str, *, write: bool = False) -> None:
        """What a call of the kernel's relies on and does not assert: its caller has locked the map.

        Without that it reads or changes entries that another thread may be changing. A panic of kind `invariant`.
        """
        if not (self.lock.write_held() if write else self.lock.held()):
            me = self.k.threads[self.k.cur].name if self.k.cur >= 0 else "who builds the world"
            text = f"{call}: {me} has not {'write-' if write else ''}locked {self.name}"
            raise self.k.panic(text, "invariant")

    # ------------------------------------------------------------ look-up and clipping

    def lookup(self, addr: int) -> tuple[bool, MapEntry | None]:
        """uvm_map_lookup_entry: is `addr` mapped, and the entry, or else the last one before it (None: the header).

        Locks: the map's, for reading at least. Sleeps: no.
        """
        found, entry = self.entries.lookup(addr)
        if found and entry is self.hint:
            return True, entry
        if self.debug:
            self.map_check("uvm_map_lookup_entry")
            if found and entry is not None:
                self.mapent_check(entry)
        self.hint = entry
        return found, entry

    def after(self, entry: MapEntry | None) -> MapEntry | None:
        """The entry after one (None: the header), None at the end.

        Panics, where the kernel would read freed memory, if the entry is no longer in the map.
        """
        if entry is None:
            return self.entries.first
        self.entries_field.read()
        if entry.owner is not self._entries:
            raise self.k.panic(f"{self.name}: {entry!r} is used, and has left the map", "invariant")
        return self._entries.next_of(entry)

    def range_check(self, start: int, end: int) -> tuple[int, int]:
        """VM_MAP_RANGE_CHECK: the part of [start, end) that lies in the map."""
        start = max(start, self.min_offset)
        end = min(end, self.max_offset)
        return min(start, end), end

    def clipped_from(self, start: int) -> MapEntry | None:
        """The first entry that ends above `start`, clipped to begin there if it begins below. Locks: the write lock."""
        found, entry = self.lookup(start)
        if not found:
            return self.after(entry)
        assert entry is not None
        self.clip_start(entry, start)
        return entry

    def clip_start(self, entry: MapEntry, addr: int) -> None:
        """UVM_MAP_CLIP_START: if `addr` is inside the entry, the part before it becomes an entry of its own.

        `entry` keeps its identity and the back part. Locks: the write lock. Sleeps: no. The size stays.
        """
        if not entry.start < addr < entry.end:
            return
        if self.debug:
            self.clip_begins(entry, "clip_start")
        front = self.changing.clip_start(entry, addr)
        if self.kmapents is not None:
            front.home = self.kmapents.for_split(entry)
        elif self.memory is not None:
            self.split_merged(entry)
        if entry.etype or entry.amap is not None:
            front.split(entry)
        if self.debug:
            self.clip_ends(front, "clip_start")

    def clip_end(self, entry: MapEntry, addr: int) -> None:
        """UVM_MAP_CLIP_END: if `addr` is inside the entry, the part behind it becomes an entry of its own.

        `entry` keeps its identity and the front part. Locks: the write lock. Sleeps: no. The size stays.
        """
        if not entry.start < addr < entry.end:
            return
        if self.debug:
            self.clip_begins(entry, "clip_end")
        back = self.changing.clip_end(entry, addr)
        if self.kmapents is not None:
            back.home = self.kmapents.for_split(entry)
        elif self.memory is not None:
            self.split_merged(entry)
        if entry.etype or entry.amap is not None:
            entry.split(back)
        if self.debug:
            self.clip_ends(back, "clip_end")

    def split_merged(self, entry: MapEntry) -> None:
        """5.2: an entry for what a clip of a QUANTUM range splits off is one that a merge has saved, or there is none.

        So what was mapped as one cannot be split: uvm_mapent_alloc_split panics. A map without memory is not so strict.
        Locks: the write lock.
        """
        if not entry.flags & F.UVM_MAP_QUANTUM:
            return
        if not self.merged_entries:
            raise self.k.panic(f"uvm_mapent_alloc_split: KASSERT(me): {entry!r} is QUANTUM, and was mapped as one")
        self.merged_entries -= 1

    def clip_begins(self, entry: MapEntry, where: str) -> None:
        """DEBUG: what is checked before a clip."""
        self.map_check(f"{where} entry")
        self.mapent_check(entry)

    def clip_ends(self, entry: MapEntry, where: str) -> None:
        """DEBUG: what is checked once the new part is linked in."""
        self.mapent_check(entry)
        self.map_check(f"{where} leave")

    # ------------------------------------------------------------ linking and unlinking

    def unlink(self, entry: MapEntry) -> None:
        """uvm_map_entry_unlink: take an entry out. Locks: the write lock. The size is the caller's business."""
        if self.diagnostic or self.debug:
            self.may_leave(entry)
        self.changing.delete(entry)

    def may_leave(self, entry: MapEntry) -> None:
        """DIAGNOSTIC: an entry that is unlinked is neither hint nor first_free. DEBUG: it is as it should be."""
        if self.diagnostic and (entry is self.first_free or entry is self.hint):
            what = "first_free" if entry is self.first_free else "hint"
            raise self.k.panic(f"uvm_map_entry_unlink: KASSERT(entry != map->{what}): {entry!r}")
        if self.debug:
            self.mapent_check(entry)

    def forget_hint(self, entry: MapEntry) -> None:
        """SAVE_HINT(map, entry, entry->prev): the entry is about to leave, so the hint must not point to it."""
        if self.hint is entry:
            self.hint = self._entries.prev_of(entry)

    def clear_hints(self, entry: MapEntry) -> None:
        """clear_hints: the same for first_free, too."""
        self.forget_hint(entry)
        if self.first_free is entry:
            self.first_free = self._entries.prev_of(entry)

    def use_kmapent(self) -> bool:
        """VM_MAP_USE_KMAPENT: 5.2: are its entries taken out of the map itself?"""
        return self.version == "5.2" and (self.intrsafe or self.kind is F.MapKind.KERNEL)

    # ------------------------------------------------------------ checks

    def mapent_check(self, entry: MapEntry) -> None:
        """DEBUG: uvm_mapent_check."""
        if self._options & F.Options.DEBUG and not debug.mapent_fits(entry):
            raise self.k.panic(f"_uvm_mapent_check: bad entry {entry!r}")

    def map_check(self, where: str) -> None:
        """DEBUG: uvm_map_check, as far as uvm_debug_check_map and uvm_debug_check_rbtree are set."""
        wrong = None
        if self._options & F.Options.DEBUG_CHECK_MAP:
            wrong = debug.map_sanity(self)
        if wrong is None and self._options & F.Options.DEBUG_CHECK_RBTREE:
            wrong = debug.tree_sanity(self)
        if wrong is not None:
            raise self.k.panic(f'uvm_map_check failed: "{where}" map={self.name}: {wrong}')

    def lockdebug_alloc(self, addr: int, what: str) -> None:
        """LOCKDEBUG: a lock now lies at that address, which is in memory that this map covers."""
        self.live_locks[addr] = what

    def lockdebug_free(self, addr: int) -> None:
        """LOCKDEBUG: the lock there is destroyed."""
        del self.live_locks[addr]

    def lockdebug_mem_check(self, start: int, end: int) -> None:
        """LOCKDEBUG_MEM_CHECK: panics on a live lock in a range of kernel_map that is about to be unmapped."""
        if self.kind is not F.MapKind.KERNEL or not self._options & F.Options.LOCKDEBUG:
            return
        for addr, what in self.live_locks.items():
            if start <= addr < end:
                raise self.k.panic(f"lockdebug: {self.name}: {start:#x}-{end:#x} is freed with the lock {what} in it")

    def acquired(self) -> None:
        """The write lock has just been acquired. A violated invariant is a panic of kind `invariant`."""
        ghost = self.ghost
        ghost.acquired += 1
        ghost.placed = None
        ghost.asked = UNALIGNED
        lock = self.lock
        if (
            lock.busy_now >= 0
            or lock.misc_lock.owner == self.k.cur
            or self.submaps
            or (self.parent is not None and self.parent.lock.write_held())
        ):
            self._hold(ON_ACQUIRE)

    def check(self) -> None:
        """The invariants of a map that nobody is changing; a violation is a panic of kind `invariant`."""
        with Aside(self.k):
            if not self.intrsafe:
                # Who sleeps there is looked at, too, and others may be going to sleep.
                self.k.touch(self.lock.cv.ident.number, write=False)
            if not nothing_wrong(self):
                self._hold(INVARIANTS)

    def _hold(self, invariants: dict[str, Callable[[VmMap], str | None]]) -> None:
        for name, holds in invariants.items():
            wrong = holds(self)
            if wrong is not None:
                raise self.k.violation(self.name, name, wrong)

    def __repr__(self) -> str:
        """Name, version and range."""
        return f"<VmMap {self.name} NetBSD {self.version} [{self.min_offset:#x}, {self.max_offset:#x})>"


def _check_arguments(min_offset: int, max_offset: int, flags: int, version: str, kind: F.MapKind) -> None:
    if version not in VERSIONS:
        raise UsageError(f"version={version!r}: NetBSD {' and '.join(VERSIONS)} are modelled")
    if not 0 <= min_offset < max_offset or (min_offset | max_offset) & (F.PAGE_SIZE - 1):
        raise UsageError(f"a map from {min_offset:#x} to {max_offset:#x}: both must be page aligned, the second larger")
    if flags & F.VM_MAP_INTRSAFE and version != "5.2":
        raise UsageError(
            f"version={version!r} has no VM_MAP_INTRSAFE maps: they left NetBSD with the vmem rework of January 2012, though "
            "the manual page of 6.1.4 still names them; ask for version='5.2'"
        )
    if flags & F.VM_MAP_INTRSAFE and kind is not F.MapKind.SUBMAP:
        raise UsageError(f"kind={kind}: only a kernel submap can be VM_MAP_INTRSAFE")
