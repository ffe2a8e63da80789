"""NetBSD's struct vm_map: entries, flags, lock, and the protocol of waiting for addresses, one small step a method.

Source: sys/uvm/uvm_map.c 1.324 ("6", NetBSD 6.99.16) and 1.263.4.5 ("5.2"). uvm_map(9) describes the interface; where
page and code disagree, this follows the code.

Waiting for addresses (WANTVA). A thread that finds no room remembers the timestamp, sets the flag WANTVA, unlocks,
and then, with misc_lock held, sleeps a second at a time *while the flag is still set and the timestamp has not
moved*. Whoever removes entries clears the flag and broadcasts, if it was set, still with the map locked. The flag
alone would lose a wakeup: woken, the first of two waiters may fail again and set the flag before the second looks;
that the first had to lock the map, and so moved the timestamp, saves the second. INTRSAFE maps of 5.2 never move
theirs, so there the second sleeps on beside the room that is free: stressvm finds that, see scenarios/.

Planted defects override one of the small methods below in a subclass.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from stressvm.kernel.cell import Cell
from stressvm.kernel.errors import UsageError
from stressvm.vm.entry import Entry
from stressvm.vm.netbsd import findspace as places
from stressvm.vm.netbsd import flags as F  # noqa: N812 - the constants, as the kernel writes them
from stressvm.vm.netbsd.map_lock import IntrsafeMapLock, MapLock, VmMapLock
from stressvm.vm.skiplist import EntryList

if TYPE_CHECKING:
    from stressvm.kernel.kernel import Kernel

#: The versions of NetBSD whose behaviour is modelled.
VERSIONS = ("5.2", "6")


class MapEntry(Entry):
    """struct vm_map_entry, as far as address space without memory needs it.

    Attributes:
        protection, max_protection, inheritance, advice: as given to uvm_map.
        wired_count: how often it is wired.
        flags: UVM_MAP_STATIC, UVM_MAP_NOMERGE.
        sub_map: the submap that this range belongs to, or None.
    """

    __slots__ = ("advice", "flags", "inheritance", "max_protection", "protection", "sub_map", "wired_count")

    def __init__(self, start: int, end: int) -> None:
        super().__init__(start, end)
        self.protection = F.VM_PROT_ALL
        self.max_protection = F.VM_PROT_ALL
        self.inheritance = F.MAP_INHERIT_NONE
        self.advice = F.UVM_ADV_RANDOM
        self.wired_count = 0
        self.flags = 0
        self.sub_map: VmMap | None = None

    def copy(self) -> Self:
        """For a clip: both parts have the same attributes."""
        new = super().copy()
        new.protection = self.protection
        new.max_protection = self.max_protection
        new.inheritance = self.inheritance
        new.advice = self.advice
        new.wired_count = self.wired_count
        new.flags = self.flags
        new.sub_map = self.sub_map
        return new

    def compatible(self, other: MapEntry) -> bool:
        """May the two be one entry, if they touch? Neither may be NOMERGE, wired or a submap; all else must be equal."""
        return (
            not (self.flags | other.flags) & F.UVM_MAP_NOMERGE
            and self.sub_map is None
            and other.sub_map is None
            and not self.wired_count
            and not other.wired_count
            and self.protection == other.protection
            and self.max_protection == other.max_protection
            and self.inheritance == other.inheritance
            and self.advice == other.advice
        )


class VmMap:
    """A kernel map. Make one with `setup` or `submap` of this package, or by uvm_km_suballoc.

    Args:
        k: the kernel.
        min_offset, max_offset: its range, page aligned, half open, in bytes.
        flags: VM_MAP_*.
        version: "6" or "5.2".
        name: as reports show it.
        options: what its kernel is built with.
    """

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
    ) -> None:
        _check_arguments(min_offset, max_offset, flags, version)
        self.k = k
        self.name = name
        self.version = version
        self.options = options
        self.entries: EntryList[MapEntry] = EntryList(min_offset, max_offset)
        self.flags = Cell(k, flags, f"{name}.flags")
        self.intrsafe = bool(flags & F.VM_MAP_INTRSAFE)
        self.topdown = bool(flags & F.VM_MAP_TOPDOWN)
        self.lock: MapLock = self.make_lock()
        #: Sum of the lengths of the entries, in bytes.
        self.size = 0
        self.ref_count = 1
        #: No gap lies before this entry, and every one before it touches the next; None stands for the header.
        self.first_free: MapEntry | None = None

    def make_lock(self) -> MapLock:
        """The map's lock."""
        if self.intrsafe:
            return IntrsafeMapLock(self.k, self.name, self.check)
        return VmMapLock(self.k, self.name, self.check)

    @property
    def min_offset(self) -> int:
        """The lowest address."""
        return self.entries.min

    @property
    def max_offset(self) -> int:
        """One past the highest address."""
        return self.entries.max

    # ------------------------------------------------------------ search

    def findspace(self, hint: int, size: int, align: int = 0, flags: int = 0) -> int | None:
        """uvm_map_findspace: where `size` bytes fit, or None.

        The lowest aligned address at or above `hint` (below the map's minimum it counts as that). With
        UVM_FLAG_FIXED `hint` itself or nothing. VM_MAP_TOPDOWN maps look downwards, with the kernel's blind spots: see
        `stressvm.vm.netbsd.findspace`. Locks: the map's, for a lasting answer. Sleeps: no. Panics on an alignment that
        is no power of two, and on one with FIXED; with DIAGNOSTIC on a place on the wrong side of the hint.
        """
        if align & (align - 1):
            raise self.k.panic(f"uvm_map_findspace: KASSERT: alignment {align:#x} is no power of two")
        if flags & F.UVM_FLAG_FIXED and align:
            raise self.k.panic("uvm_map_findspace: KASSERT: FIXED with an alignment")
        found = self.look_for(hint, size, align or 1, flags)
        if found.kassert and self.options & F.Options.DIAGNOSTIC:
            at = f"{found.address:#x}" if found.address is not None else "nowhere"
            raise self.k.panic(f"uvm_map_findspace: KASSERT({found.kassert}): hint {hint:#x}, found {at}")
        return found.address

    def look_for(self, hint: int, size: int, align: int, flags: int) -> places.Found:
        """The search itself, which asserts nothing; `align` is at least 1."""
        if flags & F.UVM_FLAG_FIXED:
            return places.fixed(self.entries, hint, size)
        if self.topdown:
            return places.top_down(self.entries, self.first_free, hint, size, align)
        return places.bottom_up(self.entries, hint, size, align)

    # ------------------------------------------------------------ uvm_map_prepare, step by step

    def check_request(self, size: int, flags: int) -> None:
        """What uvm_map_prepare asserts before all else."""
        if size <= 0:
            raise self.k.panic("uvm_map_prepare: KASSERT(size > 0)")
        if flags & F.UVM_FLAG_NOWAIT and flags & F.UVM_FLAG_WAITVA:
            raise self.k.panic("uvm_map_prepare: KASSERT: NOWAIT and WAITVA exclude each other")

    async def prepare(self, hint: int, size: int, align: int, flags: int) -> tuple[int, int]:
        """uvm_map_prepare: find room, waiting for it as the flags say.

        Locks: none on entry; the write lock on exit if it returns (0, address). Sleeps: for the lock, unless
        TRYLOCK; for addresses, with WAITVA. NOWAIT does not keep it from sleeping for the lock.

        Returns:
            (0, address), (EAGAIN, 0) for TRYLOCK and a held lock, (ENOMEM, 0) for no room without WAITVA.
        """
        while True:
            if not await self.lock_for_prepare(flags):
                return F.EAGAIN, 0
            va = self.findspace(hint, size, align, flags)
            if va is not None:
                return 0, va
            timestamp = await self.no_room()
            if not await self.wait_for_va(timestamp, hint, size, align, flags):
                return F.ENOMEM, 0

    async def lock_for_prepare(self, flags: int) -> bool:
        """Try, then lock; False if TRYLOCK forbids to wait (5.2's INTRSAFE maps ignore it: they spin)."""
        if await self.lock.lock_try():
            return True
        if flags & F.UVM_FLAG_TRYLOCK and not self.ignores_trylock():
            return False
        await self.lock.lock()
        return True

    def ignores_trylock(self) -> bool:
        """INTRSAFE maps spin whatever the flags say."""
        return self.intrsafe

    async def no_room(self) -> int:
        """Remember the timestamp, set WANTVA, unlock; the timestamp. Locks: the write lock on entry, none on exit."""
        timestamp = self.lock.timestamp.peek()
        self.flags.write(self.flags.peek() | F.VM_MAP_WANTVA)
        await self.lock.unlock()
        return timestamp

    async def wait_for_va(self, timestamp: int, hint: int, size: int, align: int, flags: int) -> bool:
        """Sleep until it makes sense to look again; False if the caller does not want to sleep.

        Locks: none on entry and exit. Sleeps: with WAITVA. Without it a caller fails only if nobody has locked the
        map for writing meanwhile; else it, too, looks again.
        """
        misc_lock = self.lock.misc_lock
        await misc_lock.lock()
        while await self.unchanged_since(timestamp):
            if not flags & F.UVM_FLAG_WAITVA:
                await misc_lock.unlock()
                return False
            await self.sleep_for_va(hint, size, align, flags)
        await misc_lock.unlock()
        return True

    async def unchanged_since(self, timestamp: int) -> bool:
        """The condition to sleep on: WANTVA still set, and nobody has locked the map for writing since."""
        return bool(await self.flags.load() & F.VM_MAP_WANTVA) and await self.lock.timestamp.load() == timestamp

    async def sleep_for_va(self, hint: int, size: int, align: int, flags: int) -> None:
        """Sleep once, for a second at most. Locks: misc_lock on entry and exit."""
        await self.lock.cv.timedwait(
            self.lock.misc_lock,
            self.k.hz,
            wmesg="addresses",
            until=lambda: self.look_for(hint, size, align or 1, flags).address is not None,
        )

    # ------------------------------------------------------------ uvm_map_enter

    async def enter(self, start: int, entry: MapEntry) -> None:
        """uvm_map_enter: put a new entry at `start`, merging it with its neighbours where they are alike.

        Locks: the write lock on entry, none on exit. Sleeps: no.
        """
        self.link(entry, *self.neighbours(start))
        self.size += entry.end - entry.start
        await self.lock.unlock()

    def neighbours(self, start: int) -> tuple[MapEntry | None, MapEntry | None]:
        """The entries before and after a free address."""
        _, prev = self.entries.lookup(start)
        return prev, self.entries.next_of(prev) if prev is not None else self.entries.first

    def link(self, entry: MapEntry, prev: MapEntry | None, after: MapEntry | None) -> None:
        """Back merge, forward merge, both, or a new entry."""
        entries = self.entries
        back = prev is not None and prev.end == entry.start and prev.compatible(entry)
        forward = after is not None and after.start == entry.end and after.compatible(entry)
        if back:
            assert prev is not None
            entries.resize(prev, end=entry.end)
            if forward:
                assert after is not None
                entries.merge(prev, after)
        elif forward:
            assert after is not None
            entries.resize(after, start=entry.start)
        else:
            entries.insert(entry)
            if self.first_free is prev and (prev.end if prev is not None else entries.min) == entry.start:
                self.first_free = entry

    # ------------------------------------------------------------ uvm_unmap_remove

    async def remove(self, start: int, end: int) -> list[MapEntry]:
        """uvm_unmap_remove: take [start, end) out of the map and wake those who wait for addresses.

        The range is cut to the map's. Locks: the write lock on entry and exit; takes misc_lock within. Sleeps: no
        (misc_lock may).

        Returns:
            The entries taken out, in order, for uvm_unmap_detach.
        """
        start = max(start, self.min_offset)
        end = min(end, self.max_offset)
        dead = self.unlink_range(start, end)
        await self.wake_va_waiters()
        return dead

    def unlink_range(self, start: int, end: int) -> list[MapEntry]:
        """Clip at both ends and unlink what lies between."""
        entries = self.entries
        found, entry = entries.lookup(start)
        if found:
            assert entry is not None
            if entry.start < start:
                entries.clip_start(entry, start)
        else:
            entry = entries.next_of(entry) if entry is not None else entries.first
        if self.first_free is not None and self.first_free.start >= start:
            self.first_free = entries.prev_of(entry) if entry is not None else entries.last
        dead = []
        while entry is not None and entry.start < end:
            if entry.flags & F.UVM_MAP_STATIC:
                raise self.k.panic(f"uvm_unmap_remove: KASSERT: the entry at {entry.start:#x} is STATIC")
            if entry.end > end:
                entries.clip_end(entry, end)
            after = entries.next_of(entry)
            entries.delete(entry)
            self.size -= entry.end - entry.start
            dead.append(entry)
            entry = after
        return dead

    async def wake_va_waiters(self) -> None:
        """If somebody wants addresses: clear the flag and wake all sleepers. Locks: the write lock throughout."""
        if not self.flags.peek() & F.VM_MAP_WANTVA:
            return
        await self.lock.misc_lock.lock()
        self.flags.write(self.flags.peek() & ~F.VM_MAP_WANTVA)
        await self.lock.cv.broadcast()
        await self.lock.misc_lock.unlock()

    # ------------------------------------------------------------ the world's builder, and the invariants

    def fill(self, pages: int | None = None, *, offset: int = 0) -> int:
        """While the world is built: allocate pages at a page offset (the whole map by default); the address."""
        start = self.min_offset + offset * F.PAGE_SIZE
        end = self.max_offset if pages is None else start + pages * F.PAGE_SIZE
        if self.k.cur >= 0:
            raise UsageError("VmMap.fill() is for building the world; a running thread calls uvm_km_alloc")
        self.link(MapEntry(start, end), *self.neighbours(start))
        self.size += end - start
        return start

    def check(self) -> None:
        """The invariants of a map that nobody is changing; a violation is a panic of kind `invariant`."""
        try:
            self.entries._check()  # noqa: SLF001 - the entries' own proof
        except AssertionError as exc:
            raise self.k.panic(f"{self.name}: {exc}", "invariant") from None
        total = sum(entry.end - entry.start for entry in self.entries)
        if total != self.size:
            raise self.k.panic(
                f"{self.name}: size is {self.size:#x}, but the entries add up to {total:#x}", "invariant"
            )
        if self.first_free is not None:
            self.check_first_free(self.first_free)

    def check_first_free(self, first_free: MapEntry) -> None:
        """It is in the list, and no gap is before it."""
        end = self.min_offset
        for entry in self.entries:
            if entry.start != end:
                break
            if entry is first_free:
                return
            end = entry.end
        raise self.k.panic(f"{self.name}: first_free is {first_free!r}, and there is a gap before it", "invariant")

    def __repr__(self) -> str:
        """Name, version and range."""
        return f"<VmMap {self.name} NetBSD {self.version} [{self.min_offset:#x}, {self.max_offset:#x})>"


def _check_arguments(min_offset: int, max_offset: int, flags: int, version: str) -> None:
    if version not in VERSIONS:
        raise UsageError(f"version={version!r}: NetBSD {' and '.join(VERSIONS)} are modelled")
    if not 0 <= min_offset < max_offset or (min_offset | max_offset) & (F.PAGE_SIZE - 1):
        raise UsageError(f"a map from {min_offset:#x} to {max_offset:#x}: both must be page aligned, the second larger")
    if flags & F.VM_MAP_INTRSAFE and version != "5.2":
        raise UsageError(
            f"version={version!r} has no VM_MAP_INTRSAFE maps: they left NetBSD with the vmem rework of January 2012, though "
            "the manual page of 6.1.4 still names them; ask for version='5.2'"
        )
