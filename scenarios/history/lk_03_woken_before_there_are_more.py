"""DragonFly's reserve of map entries, 2020: who needs entries is let in before there are more of them.

The kernel's map is made of entries that are memory of the kernel, and to get more of that takes entries itself; so some are kept
in reserve. Who has dipped into the reserve maps another slab of entries, for which it takes one more, and unlocks the map. But
only after that it put the new entries where others find them. Threads that had waited for the map came first, and took of the
reserve, too; if there were enough of them, it was not large enough.

Source: DragonFly, sys/vm/vm_zone.c and vm_map.c, commit 67be04b614 of March 2020. Here it is the reserve of FreeBSD 13's kernel
map, made twice as large, which is filled up before the map is unlocked.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from stressvm import Kernel, SpinMutex, scenario
from stressvm.vm import freebsd

SOURCE = "DragonFly, sys/vm/vm_zone.c, zget, and vm_map.c; repaired by 67be04b614, March 2020"
PAGE = freebsd.PAGE_SIZE
RESERVE = 4


class KernelMap(freebsd.KernelMap13):
    """A map with a larger reserve."""

    def entry_create(self) -> None:
        """vm_map_entry_create: the reserve is dipped into."""
        if self.free_entries is not None and self.free_entries <= RESERVE:
            self.flags |= freebsd.MAP_REPLENISH
        super().entry_create()


class UnlocksFirst(KernelMap):
    """A map that is unlocked when a new slab of entries is mapped, and before they are where others find them."""

    def __init__(self, *args: Any, **kw: Any) -> None:
        super().__init__(*args, **kw)
        self.zone_lock = SpinMutex(self.k, "zone.lock")
        #: By thread: entries that it has made, and nobody has yet.
        self.made: Counter[int] = Counter()

    def kmapent_alloc(self) -> None:
        """Map a slab."""
        assert self.free_entries is not None, "entries are counted"
        super().kmapent_alloc()
        self.free_entries -= self.per_slab
        self.made[self.k.cur] += self.per_slab

    async def find(self, request: freebsd.Request) -> tuple[int, int]:
        """After the unlock, add the entries to the zone."""
        found = await super().find(request)
        await self.zone_lock.lock()
        self.free_entries = (self.free_entries or 0) + self.made.pop(self.k.cur, 0)
        await self.zone_lock.unlock()
        return found


def three_threads(k: Kernel, cls: type[freebsd.KernelMap]) -> None:
    """The reserve is all there is. Three threads map a range each; no two have equal rights, or merge."""
    kernel_map = freebsd.kernel_map(k, 16, cls=cls, entries=RESERVE - freebsd.KMAPENT_RESERVE)

    async def maps(prot: int) -> None:
        result, _ = await freebsd.vm_map_find(kernel_map, None, 0, kernel_map.min_offset, PAGE, prot=prot)
        assert not result, "there is room"

    for prot in (freebsd.VM_PROT_READ, freebsd.VM_PROT_ALL, freebsd.VM_PROT_NONE):
        k.spawn(maps, prot, name=f"maps{prot}")


@scenario(expect="panic", source=SOURCE)
def lk_03_woken_before_there_are_more(k: Kernel) -> None:
    """Two threads have taken two entries each, and added none yet, when the third one needs one."""
    three_threads(k, UnlocksFirst)


@scenario(source=SOURCE, executions=200)
def lk_03_woken_before_there_are_more_ok(k: Kernel) -> None:
    """Who maps a slab has added its entries when the next one gets the map."""
    three_threads(k, KernelMap)
