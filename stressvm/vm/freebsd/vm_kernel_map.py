"""The kernel's own map: its page tables grow with it, and its entries come out of a reserve.

Page tables of the kernel are made in steps of 2 MiB, up to kernel_vm_end, which the map's mutex protects. Insertion makes
them, after every check and before anything is changed; vm_map_findspace(9) says that the search does, but it does not. If
there is no page for them the kernel panics. With memory under the map they are the pmap's: an insertion notes how far they
have to reach, and they are made before the map is unlocked, which nobody can tell from making them at once.

An entry of the kernel's map is memory of the kernel, which is mapped by the kernel's map. So that this comes to an end,
version 13 keeps some entries in reserve on machines without a direct map: whoever has to take one of these marks the map,
and before it is unlocked a slab of entries is allocated and mapped, for which one entry more may be taken. Where there is
a direct map, as on amd64, none of this exists, and here it is off unless it is asked for. UMA is modelled as a number of
free entries; that there is a page for a slab is taken for granted.

Source: sys/amd64/amd64/pmap.c, pmap_growkernel; sys/vm/vm_map.c of releng/13.0, vm_map_entry_create, _vm_map_unlock,
kmapent_alloc.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

from stressvm.kernel.errors import UsageError
from stressvm.kernel.field import Field
from stressvm.vm.freebsd import flags as F  # noqa: N812 - the constants, as the kernel writes them
from stressvm.vm.freebsd.map_lock import SystemMapLock
from stressvm.vm.freebsd.versions import VmMap13, VmMap2013
from stressvm.vm.freebsd.vm_map import VmMap
from stressvm.vm.freebsd.vm_map_core import MapKind

if TYPE_CHECKING:
    from collections.abc import Callable

    from stressvm.kernel.kernel import Kernel
    from stressvm.vm.freebsd.map_lock import UserMapLock
    from stressvm.vm.freebsd.vm_memory import Memory

#: How many entries are kept for the worst case: one that is taken before the map is unlocked, and one for the slab.
KMAPENT_RESERVE: Final = 2
#: How many bytes one page of a page directory stands for: it has 512 entries of 2 MiB.
_NBPDP: Final = 1 << 30

#: Why free entries are counted without a lock that all who do so hold.
_ZONE_BENIGN: Final = "the zone of map entries has a lock of its own, which the model does not take"


def _always() -> bool:
    """There is a free page."""
    return True


class KernelMapLock(SystemMapLock):
    """The lock of the kernel's map, under which the reserve of entries is filled up."""

    def __init__(self, vm_map: KernelMap) -> None:
        super().__init__(vm_map.k, vm_map.name, vm_map.check)
        self.map = vm_map

    async def unlock(self) -> None:
        """vm_map_unlock: first, the reserve is filled up if it was dipped into."""
        self._must_be_locked("vm_map_unlock")
        self.map.replenish()
        await self.map.grow_now()
        await super().unlock()

    async def unlock_read(self) -> None:
        """vm_map_unlock_read: panics if the reserve was dipped into."""
        self.must_be_full("vm_map_unlock_read")
        await super().unlock_read()

    async def lock_downgrade(self) -> None:
        """vm_map_lock_downgrade: panics if the reserve was dipped into."""
        self.must_be_full("vm_map_lock_downgrade")
        await super().lock_downgrade()

    async def _release(self) -> None:
        self.must_be_full("vm_map_unlock_and_wait")
        await super()._release()

    def must_be_full(self, call: str) -> None:
        """Nothing but vm_map_unlock fills the reserve up."""
        if self.map.flags & F.MAP_REPLENISH:
            raise self.k.panic(f"{call}: KASSERT: MAP_REPLENISH leaked")
        if self.map.grow_to:
            raise self.k.panic(f"{call}: page tables were to be made, which is left to vm_map_unlock")


class KernelMap(VmMap):
    """The kernel's map; make it with `kernel_map`.

    Attributes:
        kernel_vm_end: up to here there are page tables.
        page: is there a free page for a page table? Asked once for each.
        free_entries: how many entries there is memory for, or None where there is a direct map.
        per_slab, slab_size: how many entries a slab has, and how many bytes it is.
        grow_to: with memory: up to here page tables have to be made before the map is unlocked; 0 for none.
    """

    GROWS_KERNEL: ClassVar[bool] = True

    kernel_vm_end: int
    page: Callable[[], bool]
    #: Declares the uses of `free_entries`.
    zone: Field | None = None
    _free_entries: int | None = None
    per_slab: int
    slab_size: int = F.PAGE_SIZE
    grow_to: int = 0

    @property
    def free_entries(self) -> int | None:
        """See the class."""
        if self.zone is not None:
            self.zone.read()
        return self._free_entries

    @free_entries.setter
    def free_entries(self, free_entries: int | None) -> None:
        if self.zone is not None:
            self.zone.write()
        self._free_entries = free_entries

    def make_lock(self) -> SystemMapLock | UserMapLock:
        """The lock of the one map that has a reserve."""
        return KernelMapLock(self)

    # ------------------------------------------------------------ page tables

    def grow_kernel(self, end: int) -> None:
        """Have page tables up to `end`."""
        if end <= self.kernel_vm_end:
            return
        if self.pmap is None:
            self.pmap_growkernel(end)
        elif self.k.cur < 0:
            self.kernel_vm_end = min((end + F.NBPDR - 1) & -F.NBPDR, self.max_offset)
            self.pmap.grown(self.kernel_vm_end)
        else:
            self.grow_to = max(self.grow_to, end)

    async def grow_now(self) -> None:
        """With memory: make the page tables that insertions have asked for. Locks: the map's. Panics without a page."""
        if self.grow_to and self.pmap is not None:
            await self.pmap.growkernel(self.grow_to)
            self.kernel_vm_end = self.pmap.kernel_vm_end
            self.grow_to = 0

    def pmap_growkernel(self, addr: int) -> None:
        """Make page tables until they reach `addr`, rounded up to 2 MiB, or the end of the map.

        Locks: the kernel's map. Sleeps: no. Panics without a page.
        """
        self.must_be_locked("pmap_growkernel")
        addr = min((addr + F.NBPDR - 1) & -F.NBPDR, self.max_offset)
        while self.kernel_vm_end < addr:
            if not self.kernel_vm_end % _NBPDP:
                self.table_page()
            self.table_page()
            self.kernel_vm_end = min((self.kernel_vm_end + F.NBPDR) & -F.NBPDR, self.max_offset)

    def table_page(self) -> None:
        """A page for a page table."""
        if not self.page():
            raise self.k.panic("pmap_growkernel: no memory to grow kernel")

    def check(self) -> None:
        """The invariants, and G15: nothing is mapped beyond the page tables."""
        super().check()
        last = self.entries.last
        if last is not None and last.end > self.kernel_vm_end:
            text = f"{last!r} ends beyond the page tables, which end at {self.kernel_vm_end:#x}"
            raise self.k.panic(f"{self.name}: G15 page tables: {text}", "invariant")

    # ------------------------------------------------------------ entries

    def entry_create(self) -> None:
        """vm_map_entry_create: memory for one more entry, out of the reserve if there is no other."""
        if self.free_entries is None:
            return
        self.must_be_locked("vm_map_entry_create")
        if self.free_entries <= KMAPENT_RESERVE:
            if not self.free_entries:
                raise self.k.panic("vm_map_entry_create: KASSERT: kernel resources exhausted")
            self.flags |= F.MAP_REPLENISH
        self.free_entries -= 1

    def entry_dispose(self) -> None:
        """vm_map_entry_dispose."""
        if self.free_entries is not None:
            self.free_entries += 1

    def replenish(self) -> None:
        """If the reserve was dipped into: allocate a slab of entries, and map it."""
        if not self.flags & F.MAP_REPLENISH:
            return
        self.kmapent_alloc()
        self.flags &= ~F.MAP_REPLENISH

    def kmapent_alloc(self) -> None:
        """Map a slab and add its entries. Locks: the map's. Panics if the map is full."""
        addr = self.findspace(self.min_offset, self.slab_size)
        if addr is None:
            raise self.k.panic("kmapent_alloc: kernel map is exhausted")
        end = addr + self.slab_size
        if error := self.insert(None, 0, addr, end, F.VM_PROT_RW, F.VM_PROT_RW, F.MAP_NOFAULT):
            raise self.k.panic(f"kmapent_alloc: vm_map_insert() failed: {error}")
        self.free_entries = (self.free_entries or 0) + self.per_slab


class KernelMap2013(KernelMap, VmMap2013):
    """The kernel's map of 10.4."""


class KernelMap13(KernelMap, VmMap13):
    """The kernel's map of 13.0."""


_VERSIONS: Final[dict[str, type[KernelMap]]] = {"2013": KernelMap2013, "13": KernelMap13}


def kernel_map(
    k: Kernel,
    pages: int,
    *,
    version: str = "13",
    min_offset: int = 0xFFFF_F800_0000_0000,
    kernel_vm_end: int | None = None,
    page: Callable[[], bool] = _always,
    entries: int | None = None,
    per_slab: int = 30,
    name: str = "kernel_map",
    cls: type[KernelMap] | None = None,
    memory: Memory | None = None,
) -> KernelMap:
    """While the world is built: the kernel's map, empty. There is one.

    Args:
        k: the kernel.
        pages: its size.
        version: "13" or "2013".
        min_offset: its lowest address.
        kernel_vm_end: up to which address there are page tables; none, if not given.
        page: called for each page of a page table that is made: is there one? (Not with memory, which knows.)
        entries: None for a machine with a direct map; else how many entries there is memory for, besides the reserve.
        per_slab: how many more a slab gives.
        name: as reports show it.
        cls: the map's class, in place of a version; a subclass plants a defect.
        memory: pages, and the kernel's pmap, for it.
    """
    if "kernel_map" in k.singletons:
        raise UsageError("kernel_map(): there is a kernel map already, and there can be one only")
    if pages < 1:
        raise UsageError(f"a kernel map of {pages} pages: it needs at least one")
    if cls is None:
        if version not in _VERSIONS:
            raise UsageError(f"version={version!r}: FreeBSD {' and '.join(_VERSIONS)} are modelled")
        cls = _VERSIONS[version]
    if entries is not None and cls.version == "2013":
        raise UsageError(f"entries={entries}: version 2013 has no reserve of entries")
    if entries is not None and (entries < 0 or per_slab < KMAPENT_RESERVE):
        raise UsageError(f"entries={entries}, per_slab={per_slab}: not below 0, and a slab must fill the reserve")
    made = cls(k, min_offset, min_offset + pages * F.PAGE_SIZE, kind=MapKind.SYSTEM, name=name, memory=memory)
    made.kernel_vm_end = min_offset if kernel_vm_end is None else kernel_vm_end
    if made.pmap is not None:
        made.pmap.grown(made.kernel_vm_end)
        made.pmap.kernel_map_owned = made.lock.locked
    made.page = page
    if entries is not None:
        made.zone = Field(k, f"{name}.zone", _ZONE_BENIGN)
        made.free_entries = entries + KMAPENT_RESERVE
    made.per_slab = per_slab
    return k.once("kernel_map", lambda: made)
