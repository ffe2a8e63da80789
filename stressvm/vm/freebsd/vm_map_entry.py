"""FreeBSD's struct vm_map_entry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from stressvm.vm.entry import Entry
from stressvm.vm.freebsd import flags as F  # noqa: N812 - the constants, as the kernel writes them

if TYPE_CHECKING:
    from stressvm.vm.freebsd.vm_map_core import MapCore
    from stressvm.vm.freebsd.vm_object import Ucred, VmObject


class VmMapEntry(Entry):
    """struct vm_map_entry.

    Attributes:
        object, offset: what is mapped, and from which byte of it on; None for anonymous memory nobody has touched.
        sub_map: in place of an object, the submap that this range belongs to.
        eflags: MAP_ENTRY_*.
        protection, max_protection, inheritance: VM_PROT_*, VM_INHERIT_*.
        wired_count: how often it is wired; the user's wiring counts once. -1 marks a wiring that failed here.
        cred: who is charged for its swap, unless the object is.
        next_read: in the gap of a stack, how many bytes of it are left as a guard. (In other entries, where read-ahead
            would go on.)
        wiring_thread: the number of the thread that has it in transition, or -1.
        left, right, max_free: its place in the splay tree, if the map keeps one.
    """

    __slots__ = (
        "cred",
        "eflags",
        "inheritance",
        "left",
        "max_free",
        "max_protection",
        "next_read",
        "object",
        "offset",
        "protection",
        "right",
        "sub_map",
        "wired_count",
        "wiring_thread",
    )

    left: VmMapEntry | None
    right: VmMapEntry | None
    max_free: int

    def __init__(self, start: int, end: int, obj: VmObject | None = None, offset: int = 0) -> None:
        super().__init__(start, end)
        self.object = obj
        self.offset = offset
        self.sub_map: MapCore | None = None
        self.eflags = 0
        self.protection = F.VM_PROT_RW
        self.max_protection = F.VM_PROT_ALL
        self.inheritance = F.VM_INHERIT_DEFAULT
        self.wired_count = 0
        self.cred: Ucred | None = None
        self.wiring_thread = -1
        self.next_read = start
        self.left = self.right = None
        self.max_free = 0

    def copy(self) -> Self:
        """For a clip: both parts have the same attributes. References are the map's business."""
        new = super().copy()
        new.object = self.object
        new.offset = self.offset
        new.sub_map = self.sub_map
        new.eflags = self.eflags
        new.protection = self.protection
        new.max_protection = self.max_protection
        new.inheritance = self.inheritance
        new.wired_count = self.wired_count
        new.cred = self.cred
        new.wiring_thread = self.wiring_thread
        new.next_read = self.next_read
        new.left = new.right = None
        new.max_free = 0
        return new

    @property
    def size(self) -> int:
        """Its length in bytes."""
        return self.end - self.start

    @property
    def guard(self) -> bool:
        """Is it a guard: addresses that are taken, and no memory?"""
        return bool(self.eflags & F.MAP_ENTRY_GUARD)

    @property
    def charged(self) -> bool:
        """ENTRY_CHARGED: has swap been reserved for what is written here?"""
        if self.cred is not None:
            return True
        obj = self.object
        return obj is not None and obj.cred is not None and not self.eflags & F.MAP_ENTRY_NEEDS_COPY

    @property
    def system_wired_count(self) -> int:
        """How often it is wired, the user's wiring not counted."""
        return self.wired_count - (1 if self.eflags & F.MAP_ENTRY_USER_WIRED else 0)

    def mergeable(self, after: VmMapEntry) -> bool:
        """vm_map_mergeable_neighbors: is `after` the continuation of this entry, and alike in all else?"""
        return (
            self.end == after.start
            and self.object is after.object
            and self.sub_map is after.sub_map
            and (self.object is None or self.offset + self.size == after.offset)
            and self.eflags == after.eflags
            and self.protection == after.protection
            and self.max_protection == after.max_protection
            and self.inheritance == after.inheritance
            and self.wired_count == after.wired_count
            and self.cred is after.cred
        )
