"""NetBSD's struct vm_map, whole: `VmMap` is what there is to make, and to subclass.

Each of its bases adds the steps of one kind of call, and knows those before it: the data, look-up and clipping
(map_base); searching and waiting for addresses (map_va); entering and removing (map_change); wiring (map_wiring);
protection and the like (map_attributes); extraction (map_extract). The calls themselves, by their kernel names, are in
uvm_map, uvm_map_attributes, uvm_map_extract and uvm_km. All bases are called VmMap as well: a report names a function by
its class, and should not have to be read anew when a step moves to another file.

Planted defects override one small method in a subclass.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm.kernel.errors import UsageError
from stressvm.vm.netbsd import flags as F  # noqa: N812 - the constants, as the kernel writes them
from stressvm.vm.netbsd.kmapent import Kmapents
from stressvm.vm.netbsd.map_base import VERSIONS
from stressvm.vm.netbsd.map_extract import VmMap as MapExtract
from stressvm.vm.netbsd.vm_map_entry import MapEntry

if TYPE_CHECKING:
    from stressvm.vm.netbsd.vacache import KmVacache

__all__ = ["VERSIONS", "MapEntry", "VmMap"]


class VmMap(MapExtract):
    """A map. Make one with `setup` or `submap` of this package, or by uvm_km_suballoc.

    Args:
        k: the kernel.
        min_offset, max_offset: its range, page aligned, half open, in bytes.
        flags: VM_MAP_*.
        version: "6" or "5.2".
        name: as reports show it.
        options: what its kernel is built with.
        kind: which map of the kernel it is.
        machine: page colours and caches.
        fault: what a page fault does, when ranges are wired; every one succeeds by default.
        kmapent: 5.2, for INTRSAFE maps and kernel_map: entries are taken out of the map itself, as there. Without it
            entries take no addresses and are never short.
        memory: physical pages and the kernel's pmap, for kernel maps; without it there are addresses only.
    """

    #: 5.2: uvm_km_vacache_init's pool of addresses, or None.
    vacache: KmVacache | None = None

    def whole(self) -> VmMap:
        """Itself, for those of its bases that hand it on."""
        return self

    def make_kmapents(self) -> Kmapents:
        """5.2: where entries come from that lie in the map itself."""
        if self.version != "5.2":
            raise UsageError(f"version={self.version!r}: only 5.2 takes map entries out of the map; leave kmapent off")
        if not self.use_kmapent():
            raise UsageError("kmapent=True is for VM_MAP_INTRSAFE maps and kernel_map: others take entries from a pool")
        return Kmapents(self)

    # ------------------------------------------------------------ the world's builder, and the invariants

    def fill(self, pages: int | None = None, *, offset: int = 0, static: bool = False) -> int:
        """While the world is built: allocate pages at a page offset (the whole map by default); the address.

        They are as uvm_km_alloc allocates them, page by page; or, with `static`, one STATIC entry that is never unmapped,
        as kernel_map's first one is.
        """
        start = self.min_offset + offset * F.PAGE_SIZE
        end = self.max_offset if pages is None else start + pages * F.PAGE_SIZE
        if self.k.cur >= 0:
            raise UsageError("VmMap.fill() is for building the world; a running thread calls uvm_km_alloc")
        if static:
            self.ghost.static.append((start, end))
            self.fill_range(start, end, F.UVM_MAP_STATIC | F.UVM_MAP_NOMERGE)
        elif self.kmapents is None:
            self.fill_range(start, end, F.UVM_MAP_QUANTUM if self.version == "5.2" else 0)
            self.merged_entries += (end - start) // F.PAGE_SIZE - 1
        else:
            for at in range(start, end, F.PAGE_SIZE):
                self.fill_range(at, at + F.PAGE_SIZE, F.UVM_MAP_QUANTUM)
        return start

    def stock_entries(self) -> None:
        """While the world is built, with `kmapent`: carve out a page of entries now, at the lowest free address."""
        if self.kmapents is None:
            raise UsageError(f"{self!r} takes no entries out of itself: make it with kmapent=True")
        self.kmapents.stock()

    def fill_range(self, start: int, end: int, flags: int) -> None:
        """One range of `fill`, with those flags of an entry."""
        entry = MapEntry(start, end)
        entry.flags = flags
        if self.kmapents is not None and not flags & F.UVM_MAP_STATIC:
            entry.home = self.kmapents.stocked()
        _, dead = self.link(entry, *self.neighbours(start))
        self.size += end - start
        for spare in (entry, dead):
            if self.kmapents is not None and spare is not None and spare.owner is None and spare.home is not None:
                self.kmapents.merged.append(spare.home)
