"""struct vm_map_entry: a range of a map, and what is mapped there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from stressvm.vm.entry import Entry
from stressvm.vm.netbsd import flags as F  # noqa: N812 - the constants, as the kernel writes them

if TYPE_CHECKING:
    from stressvm.vm.netbsd.kmapent import EntryPage
    from stressvm.vm.netbsd.uvm_object import UvmObject, VmAmap
    from stressvm.vm.netbsd.vm_map import VmMap

#: Two entries are alike only if both have it or neither; with NOMERGE neither may have it.
_NOMERGE = F.UVM_MAP_NOMERGE
_QUANTUM = F.UVM_MAP_QUANTUM


class MapEntry(Entry):
    """struct vm_map_entry.

    Attributes:
        etype: UVM_ET_*.
        object: the object behind it, or None.
        sub_map: the submap that this range belongs to, or None. (In the kernel a union with `object`.)
        offset: of its first byte in the object, in bytes; 0 without an object.
        amap, pageoff: the anonymous memory over it and where that begins, in pages; or None.
        protection, max_protection, inheritance, advice: as given to uvm_map, and changed since.
        wired_count: how often it is wired.
        flags: UVM_MAP_*.
        home: 5.2: the page of the map that this entry itself lies in, or None.
        seen: the model's own: the range when the invariants last looked, of an entry that must not grow.
    """

    __slots__ = (
        "advice",
        "amap",
        "etype",
        "flags",
        "home",
        "inheritance",
        "max_protection",
        "object",
        "offset",
        "pageoff",
        "protection",
        "seen",
        "sub_map",
        "wired_count",
    )

    def __init__(self, start: int, end: int) -> None:
        super().__init__(start, end)
        self.protection = self.max_protection = F.VM_PROT_ALL
        self.inheritance = F.MAP_INHERIT_NONE
        self.advice = F.UVM_ADV_RANDOM
        self.etype = self.offset = self.pageoff = self.wired_count = self.flags = 0
        self.object: UvmObject | None = None
        self.sub_map: VmMap | None = None
        self.amap: VmAmap | None = None
        self.home: EntryPage | None = None
        self.seen: tuple[int, int] | None = None

    def copy(self) -> Self:
        """uvm_mapent_copy, for a clip: both parts have the same attributes."""
        new = super().copy()
        new.protection = self.protection
        new.max_protection = self.max_protection
        new.inheritance = self.inheritance
        new.advice = self.advice
        new.etype = self.etype
        new.object = self.object
        new.sub_map = self.sub_map
        new.offset = self.offset
        new.amap = self.amap
        new.pageoff = self.pageoff
        new.wired_count = self.wired_count
        new.flags = self.flags
        new.home = None
        new.seen = None
        return new

    def compatible(self, other: MapEntry) -> bool:
        """UVM_ET_ISCOMPATIBLE: may the two be one entry, as far as their attributes go?

        Neither may be NOMERGE, wired or a submap; all else must be equal. Offsets and amaps are the caller's business.
        """
        flags, others = self.flags, other.flags
        return (
            not (flags | others) & _NOMERGE
            and not (flags ^ others) & _QUANTUM
            and self.etype == other.etype
            and not self.etype & F.UVM_ET_SUBMAP
            and self.object is other.object
            and not self.wired_count
            and not other.wired_count
            and self.protection == other.protection
            and self.max_protection == other.max_protection
            and self.inheritance == other.inheritance
            and self.advice == other.advice
        )

    def split(self, back: MapEntry) -> None:
        """uvm_mapent_splitadj: this entry has been clipped, and `back` is what follows it: references and offsets."""
        length = back.start - self.start
        if self.amap is not None:
            self.amap.ref()
            back.pageoff += length >> F.PAGE_SHIFT
        if self.sub_map is not None:
            self.sub_map.ref_count += 1
        elif self.object is not None:
            back.offset += length
            self.object.reference()
