"""DragonFly's mmap, 2009: a length so large that the end of the mapping wraps around to below its beginning.

With MAP_FIXED and MAP_STACK the sum of address and length was compared with the end of the map, and with nothing else. If it
wraps it is small, and allowed.

Source: DragonFly, sys/vm/vm_mmap.c and vm_map.c, commit 85d25bcf56 of April 2009. Here it is FreeBSD 13's map, whose insertion
looks whether the end is above the beginning.
"""

from __future__ import annotations

from stressvm import Kernel, scenario
from stressvm.vm import freebsd

SOURCE = "DragonFly, sys/vm/vm_map.c, mmap with MAP_FIXED or MAP_STACK; repaired by 85d25bcf56, April 2009"
PAGE = freebsd.PAGE_SIZE
TOP = 1 << 64


class Wraps(freebsd.VmMap13):
    """The end is compared with the end of the map."""

    def insert(
        self,
        obj: freebsd.VmObject | None,
        offset: int,
        start: int,
        end: int,
        prot: int = freebsd.VM_PROT_RW,
        max_prot: int = freebsd.VM_PROT_ALL,
        cow: int = 0,
    ) -> int:
        """It is small enough, if it has wrapped."""
        if start < end or start < self.min_offset or end > self.max_offset:
            return super().insert(obj, offset, start, end, prot, max_prot, cow)
        found, prev = self.lookup(start)
        if found or self.next_overlaps(prev, end):
            return freebsd.KERN_NO_SPACE
        entry = freebsd.VmMapEntry(start, end, obj, offset)
        entry.protection, entry.max_protection = prot, max_prot
        try:
            self.link(entry)
        except freebsd.RangeError as refused:
            # The kernel's list takes what it gets; the model's knows what cannot be.
            raise self.k.violation(self.name, "G1 entries", str(refused)) from None
        return freebsd.KERN_SUCCESS


def map_at_the_top(k: Kernel, cls: type[freebsd.VmMap]) -> None:
    """Somebody wants almost everything, at the top of the address space."""
    vm_map = freebsd.setup(k, pages=8, min_offset=TOP - 9 * PAGE, cls=cls)

    async def maps() -> None:
        start = vm_map.max_offset - PAGE
        error, _ = await freebsd.vm_map_find(vm_map, None, 0, start, TOP - 4 * PAGE, 0, freebsd.VMFS_NO_SPACE)
        assert error, "it was mapped"

    k.spawn(maps)


@scenario(expect="invariant", source=SOURCE)
def gp_05_end_wraps_around(k: Kernel) -> None:
    """The map has an entry that ends before it begins."""
    map_at_the_top(k, Wraps)


@scenario(source=SOURCE, executions=200)
def gp_05_end_wraps_around_ok(k: Kernel) -> None:
    """It is refused."""
    map_at_the_top(k, freebsd.VmMap13)
