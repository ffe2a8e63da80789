"""What a page fault knows of itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stressvm.kernel.kernel import Kernel
    from stressvm.vm.freebsd.vm_map_entry import VmMapEntry
    from stressvm.vm.freebsd.vm_map_lookup import Found, Lookup
    from stressvm.vm.freebsd.vm_memory import Memory, PhysicalMap, PhysicalPages
    from stressvm.vm.freebsd.vm_object import VmObject
    from stressvm.vm.freebsd.vm_object_pages import ObjectPages
    from stressvm.vm.pages import Page


class FaultState:
    """struct faultstate.

    Args:
        vm_map: where; a submap of it, after the lookup.
        vaddr: the address, of a page.
        fault_type: the access, VM_PROT_*.
        wire: VM_FAULT_WIRE.

    Attributes:
        entry: what is mapped there, as long as the map is locked.
        first_object, first_pindex: the object that is mapped, and the page of it.
        object, pindex: the object that the search has come to, and the page of it.
        m: the page that was found or made there; busy.
        first_m: the page that was made in the first object, while the search goes on behind it; busy.
        m_cow: the page that was copied; busy until the copy is mapped.
        prot: what the mapping may allow.
        wired: is the entry wired?
        map_generation: the map's timestamp at the lookup.
        lookup_still_valid: the map is locked for reading since then.
    """

    __slots__ = (
        "entry",
        "fault_type",
        "first_m",
        "first_object",
        "first_pindex",
        "lookup_still_valid",
        "m",
        "m_cow",
        "map",
        "map_generation",
        "object",
        "pindex",
        "prot",
        "vaddr",
        "wire",
        "wired",
    )

    entry: VmMapEntry
    first_object: VmObject
    object: VmObject

    def __init__(self, vm_map: Lookup, vaddr: int, fault_type: int, *, wire: bool) -> None:
        self.map = vm_map
        self.vaddr = vaddr
        self.fault_type = fault_type
        self.wire = wire
        self.first_pindex = self.pindex = 0
        self.m: Page | None = None
        self.first_m: Page | None = None
        self.m_cow: Page | None = None
        self.prot = 0
        self.wired = False
        self.map_generation = 0
        self.lookup_still_valid = False

    def found(self, found: Found) -> None:
        """The map is locked for reading, and this is mapped there."""
        self.map = found.vm_map
        self.entry = found.entry
        if found.object is not None:
            self.first_object = self.object = found.object
        self.first_pindex = self.pindex = found.pindex
        self.prot = found.prot
        self.wired = found.wired
        self.map_generation = found.vm_map.lock.timestamp.peek()
        self.lookup_still_valid = True

    @property
    def k(self) -> Kernel:
        """The kernel."""
        return self.map.k

    @property
    def memory(self) -> Memory:
        """What is under the map."""
        memory = self.map.memory
        assert memory is not None, "a fault of this kind is in a map with memory"
        return memory

    @property
    def pmap(self) -> PhysicalMap:
        """The map's."""
        pmap = self.map.pmap
        assert pmap is not None, "a fault of this kind is in a map with memory"
        return pmap

    @property
    def phys(self) -> PhysicalPages:
        """Physical memory."""
        return self.memory.pages

    @property
    def first(self) -> ObjectPages:
        """The pages of the first object."""
        return self.memory.store(self.first_object)

    @property
    def store(self) -> ObjectPages:
        """The pages of the object that the search has come to."""
        return self.memory.store(self.object)
