"""NetBSD's struct vm_map: replacing a blank entry and extracting mappings, one small step a method.

Source: sys/uvm/uvm_map.c, uvm_map_replace and uvm_map_extract.

What uvm_map_extract takes out of one map it puts into another, where it has reserved the place beforehand. It has the
source locked when it needs the destination, and somebody else may extract the other way round; so it only tries. If that
fails it finishes with the source, and puts the mappings in once the source is unlocked.

Addresses that become free on the way are given back without a word: neither the range that an empty chain replaces, nor
what is removed from the source, makes anybody look at WANTVA. And the size of the source is not reduced. (Nor, on 5.2, is
that of a map in which a chain replaces more than it covers.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm.vm.netbsd import flags as F  # noqa: N812 - the constants, as the kernel writes them
from stressvm.vm.netbsd.map_attributes import VmMap as MapAttributes

if TYPE_CHECKING:
    from stressvm.vm.netbsd.vm_map import VmMap as WholeMap
    from stressvm.vm.netbsd.vm_map_entry import MapEntry


class VmMap(MapAttributes):
    """See VmMap, which is the whole of it."""

    # ------------------------------------------------------------ uvm_map_replace

    def replace(self, start: int, end: int, chain: list[MapEntry]) -> bool:
        """uvm_map_replace: put a chain of entries in the place of the blank entry that covers exactly [start, end).

        A longer blank entry is clipped at `end` first. Locks: the write lock throughout. Sleeps: no.

        Args:
            start: the first address.
            end: one past the last.
            chain: entries in no list, in order, within the range; none at all frees it, and nobody is told.

        Returns:
            True; False if there is no such blank entry. Panics, under DIAGNOSTIC, on a chain that does not fit.
        """
        if self.debug:
            self.map_check("map_replace entry")
        found, blank = self.lookup(start)
        if not found or blank is None:
            return False
        if not self.use_kmapent():
            self.clip_end(blank, end)
        in_use = blank.object is not None or blank.sub_map is not None or blank.amap is not None
        if (blank.start, blank.end) != (start, end) or in_use:
            return False
        self.check_chain(start, end, chain)
        if chain:
            self.put_chain(blank, chain)
        else:
            self.clear_hints(blank)
            self.unlink(blank)
        self.chain_replaced(end - start - sum(entry.end - entry.start for entry in chain))
        if self.debug:
            self.map_check("map_replace leave")
        return True

    def check_chain(self, start: int, end: int, chain: list[MapEntry]) -> None:
        """DIAGNOSTIC: a chain is in order and within the range."""
        if not self.diagnostic:
            return
        at = start
        for entry in chain:
            if entry.start < at:
                raise self.k.panic(f"uvm_map_replace1: {entry!r} begins below {at:#x}")
            if entry.start > entry.end - (self.version != "5.2") or entry.end > end:
                raise self.k.panic(f"uvm_map_replace2: {entry!r} is empty or ends above {end:#x}")
            at = entry.end

    def put_chain(self, blank: MapEntry, chain: list[MapEntry]) -> None:
        """Unlink the blank entry and link the chain.

        The last of the chain becomes first_free if the blank entry was that, whether or not the chain has holes.
        """
        self.ghost.plain = False
        self.hint = chain[0]
        if self.first_free is blank:
            self.first_free = chain[-1]
        self.changing.delete(blank)
        for entry in chain:
            self.changing.insert(entry)

    def chain_replaced(self, freed: int) -> None:
        """The map's size, when a chain covers so many bytes less than what it has replaced. 5.2 does not think of it."""
        if self.version == "5.2":
            self.ghost.forgotten += freed
        else:
            self.size -= freed

    # ------------------------------------------------------------ uvm_map_extract, the source's part

    def copied(self, entry: MapEntry, start: int, fudge: int, dstaddr: int, newend: int, flags: int) -> MapEntry:
        """The entry of the destination for one of the source's; it has references of its own, and is in no list.

        Args:
            entry: the source's.
            start: where in the source the extraction begins.
            fudge: so many bytes of the entry lie before that: only with QREF, which does not clip.
            dstaddr: where in the destination it begins.
            newend: where in the destination it ends.
            flags: UVM_EXTRACT_*.
        """
        new = entry.copy()
        new.start = dstaddr + entry.start + fudge - start
        new.end = min(new.start + entry.end - entry.start - fudge, newend)
        new.wired_count = 0
        new.flags = F.UVM_MAP_NOMERGE if flags & F.UVM_EXTRACT_QREF else 0
        if flags & F.UVM_EXTRACT_FIXPROT:
            new.protection = entry.max_protection
        if new.object is not None:
            new.object.reference()
            new.offset += fudge
        else:
            new.offset = 0
        if new.amap is not None:
            new.amap.ref(shared=True)
            new.pageoff += fudge >> F.PAGE_SHIFT
        return new

    def extract_chain(
        self, start: int, length: int, dstaddr: int, flags: int
    ) -> tuple[int, MapEntry | None, list[MapEntry]]:
        """Steps 2 and 3: clip and copy what lies in [start, start + length). Locks: the source's write lock.

        Returns:
            (error, the first entry of the source, the chain so far): EINVAL for a hole with CONTIG, ENOMEM if an entry
            could not be copied.
        """
        end = start + length
        chain: list[MapEntry] = []
        found, entry = self.lookup(start)
        fudge = 0
        if found and entry is not None:
            if flags & F.UVM_EXTRACT_QREF:
                fudge = start - entry.start
            else:
                self.clip_start(entry, start)
                self.hint = self._entries.prev_of(entry)
        elif flags & F.UVM_EXTRACT_CONTIG:
            return F.EINVAL, None, chain
        else:
            entry = self.after(entry)
        first = entry
        for entry in self.from_entry(first, end):
            if entry.sub_map is not None:
                raise self.k.panic(f"uvm_map_extract: {entry!r} is a submap, and is taken for an object")
            if not flags & F.UVM_EXTRACT_QREF:
                self.clip_end(entry, end)
            if entry.etype & F.UVM_ET_NEEDSCOPY and not self.amap_copy(entry):
                return F.ENOMEM, first, chain
            chain.append(self.copied(entry, start, fudge, dstaddr, dstaddr + length, flags))
            if flags & F.UVM_EXTRACT_CONTIG and self.hole_after(entry, end):
                return F.EINVAL, first, chain
            fudge = 0
        return 0, first, chain

    async def try_destination(self, dst: WholeMap) -> bool:
        """Step 5: the destination's lock, if it can be had at once. Locks: the source's write lock. Sleeps: no."""
        return await dst.lock.lock_try()

    def remove_extracted(self, first: MapEntry | None, start: int, end: int) -> list[MapEntry]:
        """Step 6, with REMOVE: unlink what has been copied; nobody who waits for addresses is told, and the size stays.

        Locks: the source's write lock. Returns: the entries, for uvm_unmap_detach.
        """
        if first is not None and first.owner is not self._entries:
            raise self.k.panic(f"{self.name}: {first!r} is used, and has left the map", "invariant")
        before = self.entries.prev_of(first) if first is not None else self.entries.last
        self.hint = before
        if self.first_free is not None and self.first_free.start >= start:
            self.first_free = before
        dead = []
        for entry in list(self.from_entry(first, end)):
            self.unlink(entry)
            self.ghost.forgotten += entry.end - entry.start
            self.ghost.live.discard(entry.start, entry.end)
            dead.append(entry)
        return dead
