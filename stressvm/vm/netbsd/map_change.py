"""NetBSD's struct vm_map: what uvm_map enters and uvm_unmap removes, one small step a method.

Source: sys/uvm/uvm_map.c, uvm_map_enter, uvm_unmap_remove, uvm_unmap_detach.

A new range becomes part of the entry before it, or of the one behind it, or makes one of both, if they touch and are
alike: same attributes, offsets that go on, and not two amaps. Whoever maps an object hands a reference over; a merge
drops it, because one reference is enough for an entry. If all three become one, the entry that goes had one, too: 5.2
drops that, 6 forgets it, and the object keeps a reference for ever.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm.vm.entry import EntryError
from stressvm.vm.netbsd import flags as F  # noqa: N812 - the constants, as the kernel writes them
from stressvm.vm.netbsd.map_va import VmMap as MapVa
from stressvm.vm.netbsd.uvm_object import VmAmap
from stressvm.vm.stale import bury

if TYPE_CHECKING:
    from stressvm.vm.netbsd.kmapent import EntryPage
    from stressvm.vm.netbsd.vm_map_entry import MapEntry


class VmMap(MapVa):
    """See VmMap, which is the whole of it."""

    #: The flags of the uvm_unmap that is going on, under the write lock.
    unmap_flags = 0

    # ------------------------------------------------------------ uvm_map_enter

    async def enter(self, start: int, entry: MapEntry, flags: int = 0) -> int:
        """uvm_map_enter: put a new entry at `start`, merging it with its neighbours where they are alike.

        Locks: the write lock on entry, none on exit. Sleeps: no.

        Args:
            start: where prepare has found room.
            entry: the range, in no list.
            flags: UVM_FLAG_OVERLAY and NOWAIT count here.

        Returns:
            0, or ENOMEM if there is no memory for a map entry and NOWAIT forbids to wait: then nothing has changed.
        """
        if self.memory is not None:
            self.memory.handed_out(self, start, entry.end)
        prev, after = self.neighbours(start)
        self.hint = prev
        end = entry.end
        left = prev.start if prev is not None and prev.end == start else start
        right = after.end if after is not None and after.start == end else end
        try:
            entered, dead = self.link(entry, prev, after, flags)
        except EntryError as exc:
            raise self.k.panic(f"{self.name}: G16 placed: {exc}", "invariant") from None
        if entered:
            align, offset = self.ghost.asked
            self.ghost.placed = (start, end, align, offset, left, right)
            self.size += end - start
            if entry.flags & F.UVM_MAP_QUANTUM:
                self.merged_entries += (entry.owner is None) + (dead is not None)
        if self.kmapents is None:
            await self.lock.unlock()
        else:
            spare = [used.home for used in (entry, dead) if used is not None and used.owner is None]
            await self.unlock_and_free(spare, quantum=bool(entry.flags & F.UVM_MAP_QUANTUM))
        if dead is not None:
            bury(self.k, self.name, dead)
        return 0 if entered else F.ENOMEM

    def neighbours(self, start: int) -> tuple[MapEntry | None, MapEntry | None]:
        """The entries before and after a free address."""
        _, prev = self.entries.lookup(start)
        return prev, self._entries.next_of(prev) if prev is not None else self._entries.first

    def link(
        self, entry: MapEntry, prev: MapEntry | None, after: MapEntry | None, flags: int = 0
    ) -> tuple[bool, MapEntry | None]:
        """Back merge, forward merge, both, or a new entry.

        Returns:
            Whether the range is in the map now (there may be no memory for a new entry), and the entry that has left the
            map because three have become one.
        """
        back = prev is not None and prev.end == entry.start and prev.compatible(entry) and self.goes_on(prev, entry)
        forward = (
            after is not None and after.start == entry.end and after.compatible(entry) and self.goes_on(entry, after)
        )
        if back and prev is not None:
            if prev.amap is None or self.amap_extend(prev, entry.end - entry.start):
                self.merge_back(prev, entry)
                if not forward or after is None or not self.extends_over(prev, after):
                    return True, None
                self.merge_both(prev, after)
                return True, after
        elif forward and after is not None and (after.amap is None or self.amap_extend(after, entry.end - entry.start)):
            self.merge_forward(entry, after)
            return True, None
        if flags & F.UVM_FLAG_NOWAIT and not self.entry_available():
            return False, None
        self.insert(entry, prev, flags)
        return True, None

    def goes_on(self, left: MapEntry, right: MapEntry) -> bool:
        """May two ranges of equal attributes that touch become one entry? Offsets go on; a shared amap cannot grow."""
        if left.object is not None and left.offset + left.end - left.start != right.offset:
            return False
        amap = left.amap if left.amap is not None else right.amap
        return amap is None or amap.refs == 1

    def amap_extend(self, entry: MapEntry, size: int) -> bool:  # noqa: ARG002 - for who plants a shortage
        """amap_extend: can the amap of that entry grow by `size` bytes? Here it always can."""
        return True

    def extends_over(self, prev: MapEntry, after: MapEntry) -> bool:
        """Can the amap of one of the two cover the other one as well? Two amaps cannot be made one."""
        if prev.amap is not None:
            return after.amap is None and self.amap_extend(prev, after.end - after.start)
        return after.amap is None or self.amap_extend(after, prev.end - prev.start)

    def merge_back(self, prev: MapEntry, entry: MapEntry) -> None:
        """The entry before the new range takes it."""
        self.changing.resize(prev, end=entry.end)
        if entry.object is not None:
            entry.object.drop()
        if self.debug:
            self.map_check("map backmerged")

    def merge_both(self, prev: MapEntry, after: MapEntry) -> None:
        """After a back merge: the entry before takes the one behind, too, and that one leaves the map."""
        if after.amap is not None:
            prev.amap = after.amap
            prev.pageoff = max(0, after.pageoff - ((prev.end - prev.start) >> F.PAGE_SHIFT))
            after.amap = None
        self.may_leave(after)
        self.changing.merge(prev, after)
        if after.object is not None and self.drops_twice():
            after.object.drop()
        if self.debug:
            self.map_check("map forwardmerged")

    def drops_twice(self) -> bool:
        """Is the reference of the entry that goes dropped as well? 6 does not."""
        return self.version == "5.2"

    def merge_forward(self, entry: MapEntry, after: MapEntry) -> None:
        """The entry behind the new range takes it."""
        self.changing.resize(after, start=entry.start)
        if after.amap is not None:
            after.pageoff = max(0, after.pageoff - ((entry.end - entry.start) >> F.PAGE_SHIFT))
        if entry.object is not None:
            after.offset = entry.offset
            entry.object.drop()
        if self.debug:
            self.map_check("map forwardmerged")

    def insert(self, entry: MapEntry, prev: MapEntry | None, flags: int) -> None:
        """A new entry."""
        if flags & F.UVM_FLAG_OVERLAY:
            entry.amap = VmAmap()
        if entry.etype or entry.flags & F.UVM_MAP_NOMERGE:
            self.ghost.plain = False
        self.changing.insert(entry)
        if self.first_free is prev and (prev.end if prev is not None else self._entries.min) == entry.start:
            self.first_free = entry
        if self.debug:
            self.mapent_check(entry)

    def entry_available(self) -> bool:
        """uvm_mapent_alloc with NOWAIT: is there memory for one more map entry? Here there always is."""
        return True

    async def unlock_and_free(self, spare: list[EntryPage | None], *, quantum: bool) -> None:
        """5.2: unlock, and free the entries that were not needed; those of QUANTUM ranges stay with the map instead.

        Locks: the write lock on entry, none on exit. Sleeps: for the map's lock, if a page of entries goes.
        """
        assert self.kmapents is not None
        pages = [page for page in spare if page is not None]
        if quantum:
            self.kmapents.merged.extend(pages)
            pages = []
        await self.lock.unlock()
        for page in pages:
            await self.kmapents.give(page)

    # ------------------------------------------------------------ uvm_unmap_remove

    async def remove(self, start: int, end: int, flags: int = 0) -> list[MapEntry]:
        """uvm_unmap_remove: take [start, end) out of the map and wake those who wait for addresses.

        The range is cut to the map's. Locks: the write lock on entry and exit; takes misc_lock within. Sleeps: no
        (misc_lock may).

        Args:
            start: the first address.
            end: one past the last.
            flags: UVM_FLAG_VAONLY: whoever mapped something there has removed it.

        Returns:
            The entries taken out, in order, for uvm_unmap_detach.
        """
        self.ghost.live.discard(start, end)
        if self.debug:
            self.map_check("unmap_remove entry")
        self.unmap_flags = flags
        start, end = max(start, self.min_offset), min(end, self.max_offset)
        dead = await self.unlink_range(start, end)
        if self.memory is not None:
            self.memory.given_back(self, start, end)
            await self.update_before_unlock()
        if self.debug:
            self.map_check("unmap_remove leave")
        await self.wake_va_waiters()
        return dead

    async def unlink_range(self, start: int, end: int) -> list[MapEntry]:
        """Clip at both ends; unwire, unmap and unlink what lies between, entry by entry. Locks: the write lock."""
        found, entry = self.lookup(start) if self.debug else self.entries.lookup(start)
        self.hint = entry
        if found:
            assert entry is not None
            if entry.start < start:
                self.clip_start(entry, start)
        else:
            entry = self.after(entry)
        if self.first_free is not None and self.first_free.start >= start:
            self.repair_first_free(entry)
        dead = []
        while entry is not None and entry.start < end:
            if entry.flags & F.UVM_MAP_STATIC:
                raise self.k.panic(f"uvm_unmap_remove: KASSERT: the entry at {entry.start:#x} is STATIC")
            if entry.end > end:
                self.clip_end(entry, end)
            if entry.wired_count or entry.object is not None or self.memory is not None:
                await self.remove_mappings(entry, self.unmap_flags)
            after = self._entries.next_of(entry)
            if self.hint is entry:
                self.forget_hint(entry)
            self.unlink(entry)
            self.size -= entry.end - entry.start
            dead.append(entry)
            entry = after
        return dead

    async def update_before_unlock(self) -> None:
        """pmap_update, before anybody can find the addresses free; not for a map that nobody uses any more.

        Locks: the write lock throughout. Sleeps: no.
        """
        if self.memory is not None and not self.flags.peek() & F.VM_MAP_DYING:
            await self.memory.update()

    def repair_first_free(self, entry: MapEntry | None) -> None:
        """`entry` is the first to leave (None: nothing is left from there on): first_free is before what leaves."""
        self.first_free = self._entries.prev_of(entry) if entry is not None else self._entries.last

    async def remove_mappings(self, entry: MapEntry, flags: int) -> None:
        """Unwire an entry that leaves the map, unmap it, and let go of the kernel object. Panics on 6 for that.

        Locks: the write lock. Sleeps: over pages, for their locks, and on 5.2 for busy pages.
        """
        if entry.wired_count:
            await self.unwire(entry)
        pageable = self.flags.peek() & F.VM_MAP_PAGEABLE
        if not flags & F.UVM_FLAG_VAONLY and pageable and entry.object is not None and entry.object.kernel:
            if self.version != "5.2":
                raise self.k.panic(f"uvm_unmap_remove: kernel object {self.name} {entry!r}: uvm_km_free is for that")
            if self.memory is not None:
                await self.memory.unmap_object(self, entry.start, entry.end)
            entry.etype &= ~F.UVM_ET_OBJ
            entry.object = None
        elif self.memory is not None and not flags & F.UVM_FLAG_VAONLY:
            await self.memory.unmap(self, entry, by_hand=not pageable)
        if self.memory is not None and self.debug and self.options & F.Options.DEBUG:
            await self.memory.check_unmapped(self, entry)

    async def unwire(self, entry: MapEntry) -> None:
        """uvm_map_entry_unwire: not wired any more, however often it was. Locks: the write lock. Sleeps: as `UvmFault`."""
        self.entries_field.write()
        entry.wired_count = 0
        await self.fault.unwire(self.whole(), entry.start, entry.end)

    async def wake_va_waiters(self) -> None:
        """If somebody wants addresses: clear the flag and wake all sleepers. Locks: the write lock throughout."""
        if not self.flags.peek() & F.VM_MAP_WANTVA:
            return
        await self.lock.misc_lock.lock()
        self.flags.write(self.flags.peek() & ~F.VM_MAP_WANTVA)
        await self.lock.cv.broadcast()
        await self.lock.misc_lock.unlock()

    async def finish_unmap(self, dead: list[MapEntry]) -> None:
        """Unlock, and only then drop what the removed entries referred to: that may take long, or need other locks.

        Locks: the write lock on entry, none on exit. Sleeps: what the last reference to an object does may.
        """
        await self.lock.unlock()
        for entry in dead:
            if entry.wired_count or entry.etype or entry.amap is not None or entry.home is not None:
                await self.detach(entry)
            bury(self.k, self.name, entry)

    async def detach(self, entry: MapEntry) -> None:
        """uvm_unmap_detach of one entry: drop its references. Panics on one that is wired, or a submap's.

        Locks: none may be held. Sleeps: what the last reference to an object does may.
        """
        k = self.k
        if entry.wired_count:
            raise k.panic(f"uvm_unmap_detach: KASSERT: the entry at {entry.start:#x} is wired")
        if entry.amap is not None:
            entry.amap.unref()
        if entry.sub_map is not None:
            raise k.panic(f"uvm_unmap_detach: KASSERT: the entry at {entry.start:#x} is a submap")
        if entry.object is not None:
            await entry.object.detach()
        if entry.home is not None and self.kmapents is not None:
            await self.kmapents.give(entry.home)
