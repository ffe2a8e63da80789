"""FreeBSD's vm_map_find: the kernel's page tables are made for the address that was found, and then that address is aligned.

vm_map_findspace had page tables made for where it had found room. Aligned, the mapping begins and ends further up, and its
last pages may be beyond them; not if its length is a multiple of a superpage's. It was repaired by making them when a mapping
is inserted, and is where it will be.

Source: FreeBSD, sys/vm/vm_map.c, vm_map_findspace and vm_map_insert; when is not known. Here it is the kernel's map of 10.4,
which aligns after it has searched.
"""

from __future__ import annotations

from stressvm import Kernel, scenario
from stressvm.vm import freebsd

SOURCE = "FreeBSD, sys/vm/vm_map.c, vm_map_findspace, before the page tables were made by vm_map_insert"
PAGE = freebsd.PAGE_SIZE
SUPER = freebsd.NBPDR


class GrowsForTheCandidate(freebsd.KernelMap2013):
    """The search has page tables made, the insertion does not."""

    def findspace(self, start: int, length: int) -> int | None:
        """For what it has found."""
        found = super().findspace(start, length)
        if found is not None:
            super().grow_kernel(found + length)
        return found

    def grow_kernel(self, end: int) -> None:
        """The search has done that."""


def find_aligned(k: Kernel, cls: type[freebsd.KernelMap]) -> None:
    """Somebody has the kernel's first page, and another wants a superpage and a little more, aligned."""
    kernel_map = freebsd.kernel_map(k, 4 * (SUPER // PAGE), version="2013", cls=cls)
    kernel_map.insert(None, 0, kernel_map.min_offset, kernel_map.min_offset + PAGE)
    kernel_map.kernel_vm_end = kernel_map.min_offset + SUPER

    async def finds() -> None:
        await freebsd.vm_map_find(
            kernel_map, None, 0, kernel_map.min_offset, SUPER + PAGE, 0, freebsd.VMFS_ALIGNED_SPACE(21)
        )

    k.spawn(finds)


@scenario(expect="invariant", source=SOURCE)
def gp_02_grown_before_it_is_aligned(k: Kernel) -> None:
    """The last page has no page table."""
    find_aligned(k, GrowsForTheCandidate)


@scenario(source=SOURCE, executions=200)
def gp_02_grown_before_it_is_aligned_ok(k: Kernel) -> None:
    """The page tables are made for where the mapping is."""
    find_aligned(k, freebsd.KernelMap2013)
