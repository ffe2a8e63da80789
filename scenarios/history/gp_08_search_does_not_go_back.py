"""A search for aligned addresses that does not go on when the gap it has found is too short, aligned. As Linux's once did.

A tree that is annotated with the sizes of gaps leads to one that is long enough. Alignment may make it too short; then the
search has to go on to the next. If it gives up instead, an allocation fails although there is room, if the gaps are so.

Source: Linux, mm/vmalloc.c, find_vmap_lowest_match, repaired in 2021. That story is from memory, and was not looked up. Here
it is NetBSD's map, whose annotated skip list leads to gaps.
"""

from __future__ import annotations

from stressvm import Kernel, scenario
from stressvm.vm import netbsd
from stressvm.vm.netbsd import findspace

SOURCE = "Linux, mm/vmalloc.c, find_vmap_lowest_match, 2021 (from memory)"
PAGE = netbsd.PAGE_SIZE
SIZE = 2 * PAGE


class GivesUp(netbsd.VmMap):
    """The first gap that is long enough is the only one that is looked at."""

    def look_for(self, hint: int, size: int, align: int, flags: int) -> findspace.Found:
        """If it is too short, aligned, there is no room."""
        found = super().look_for(hint, size, align, flags)
        first = super().look_for(hint, size, 1, flags).address
        if found.address is None or first is None or self.lookup(found.address)[1] is self.lookup(first)[1]:
            return found
        return findspace.NOWHERE


def free_and_alloc(k: Kernel, cls: type[netbsd.VmMap]) -> None:
    """One thread wants two pages, aligned, and waits for them; another frees two that are not, and then two that are."""
    kmap = netbsd.submap(k, pages=8, cls=cls)
    low = kmap.min_offset
    odd = 1 if not low % SIZE else 0
    for number in range(8):
        kmap.fill(1, offset=number)

    async def frees() -> None:
        await netbsd.uvm_km_free(kmap, low + odd * PAGE, SIZE, netbsd.UVM_KMF_VAONLY)
        await netbsd.uvm_km_free(kmap, low + (odd + 3) * PAGE, SIZE, netbsd.UVM_KMF_VAONLY)

    async def allocates() -> None:
        await netbsd.uvm_km_alloc(kmap, SIZE, SIZE, netbsd.UVM_KMF_VAONLY | netbsd.UVM_KMF_WAITVA)

    k.spawn(allocates, name="allocates")
    k.spawn(frees, name="frees")


@scenario(expect="exhausted", source=SOURCE)
def gp_08_search_does_not_go_back(k: Kernel) -> None:
    """It waits for ever, and looks every second, where there is room."""
    free_and_alloc(k, GivesUp)


@scenario(source=SOURCE, executions=200)
def gp_08_search_does_not_go_back_ok(k: Kernel) -> None:
    """It gets the second two."""
    free_and_alloc(k, netbsd.VmMap)
