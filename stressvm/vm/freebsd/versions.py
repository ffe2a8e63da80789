"""What FreeBSD 10.4 ("2013") and 13.0 ("13") do differently with a map.

How they find a place is in `vm_map_find`, how their stacks are made and grow in `vm_map_stack`.

Merging. 13 merges the pairs that can have become alike; 2013 looks at both sides of an entry.

Source: sys/vm/vm_map.c of release/10.4 and of releng/13.0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from stressvm.kernel.errors import UsageError
from stressvm.vm.freebsd import flags as F  # noqa: N812 - the constants, as the kernel writes them
from stressvm.vm.freebsd.vm_map import VmMap
from stressvm.vm.freebsd.vm_map_core import MapKind, Search
from stressvm.vm.freebsd.vm_map_find import Find13, Find2013
from stressvm.vm.freebsd.vm_map_protect import Protection13, Protection2013
from stressvm.vm.freebsd.vm_map_stack import Stacks13, Stacks2013
from stressvm.vm.freebsd.vm_map_submap import Submaps13, Submaps2013
from stressvm.vm.freebsd.vm_map_wire import Wiring13, Wiring2013

if TYPE_CHECKING:
    from stressvm.kernel.kernel import Kernel
    from stressvm.vm.freebsd.vm_fault_stub import Fault
    from stressvm.vm.freebsd.vm_map_entry import VmMapEntry
    from stressvm.vm.freebsd.vm_memory import Memory

_STACK = F.MAP_STACK_GROWS_DOWN | F.MAP_STACK_GROWS_UP
_FLAGS_13 = F.MAP_ASLR | F.MAP_ASLR_IGNSTART | F.MAP_WXORX
_NOMERGE = F.MAP_ENTRY_GROWS_DOWN | F.MAP_ENTRY_GROWS_UP | F.MAP_ENTRY_IN_TRANSITION | F.MAP_ENTRY_IS_SUB_MAP


class VmMap2013(Find2013, Stacks2013, Submaps2013, Protection2013, Wiring2013, VmMap):
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
        memory: Memory | None = None,
        options: F.Options = F.Options.INVARIANTS,
    ) -> None:
        if search is not Search.FIRST_FIT:
            raise UsageError("search=SPLAY: only version 13 misses the gap after the last entry; 2013 always finds it")
        if flags & _FLAGS_13:
            raise UsageError(f"flags={flags:#x}: MAP_WXORX and MAP_ASLR came with version 13")
        super().__init__(
            k,
            min_offset,
            max_offset,
            kind=kind,
            name=name,
            search=search,
            flags=flags,
            fault=fault,
            memory=memory,
            options=options,
        )

    def may_be_mapped(self, entry: VmMapEntry) -> bool:  # noqa: ARG002 - nobody asks
        """There may always be some."""
        return True

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
            self.changing.merge(entry, after)
            self.dispose(after)


class VmMap13(Find13, Stacks13, Submaps13, Protection13, Wiring13, VmMap):
    """A map of FreeBSD 13.0."""

    version: ClassVar[str] = "13"
    NOMERGE_MASK: ClassVar[int] = _NOMERGE | F.MAP_ENTRY_VN_EXEC
    KMAP_PROT: ClassVar[int] = F.VM_PROT_RW

    def may_be_mapped(self, entry: VmMapEntry) -> bool:
        """Not without an object; and what belongs to a submap is its affair, but may be."""
        return entry.object is not None or entry.sub_map is not None

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


#: The versions of FreeBSD whose behaviour is modelled.
VERSIONS: dict[str, type[VmMap]] = {"2013": VmMap2013, "13": VmMap13}
