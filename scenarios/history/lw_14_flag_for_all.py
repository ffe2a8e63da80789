"""NetBSD's uvm_map_prepare: several sleepers share one flag, and only a timestamp and a poll keep that from mattering.

Whoever finds no addresses sets WANTVA; whoever frees some clears it and wakes all. The first that is woken may fail again
and set the flag again, before the second has looked. What saves the second is that it looks at the map's timestamp as well,
which the first has moved; and if nothing else, that it looks once a second ("fragile locking here", says the source, "so we
awaken every second"). Take both away, and it sleeps beside the addresses that it could have.

Source: NetBSD, sys/uvm/uvm_map.c of February 2015, uvm_map_prepare. No defect: what its precautions are there for.
"""

from __future__ import annotations

from stressvm import Kernel, scenario
from stressvm.vm import netbsd

SOURCE = "NetBSD, sys/uvm/uvm_map.c of February 2015, uvm_map_prepare"
VAONLY = netbsd.UVM_KMF_VAONLY
WAIT = VAONLY | netbsd.UVM_KMF_WAITVA
PAGE = netbsd.PAGE_SIZE


class FlagForAll(netbsd.VmMap):
    """A wait that looks at the flag, and sleeps until it is woken."""

    async def unchanged_since(self, timestamp: int) -> bool:  # noqa: ARG002 - that is the defect
        """Only the flag."""
        return bool(await self.flags.load() & netbsd.VM_MAP_WANTVA)

    async def sleep_for_va(self, hint: int, size: int, align: int, flags: int) -> None:
        """cv_wait in place of cv_timedwait."""
        await self.lock.cv.wait(self.lock.misc_lock, until=lambda: self.room_for(hint, size, align, flags))


def three_sizes(k: Kernel, cls: type[netbsd.VmMap]) -> None:
    """A full map of three pages, a waiter for two of them, a waiter for one, and one page freed."""
    kmap = netbsd.submap(k, pages=3, cls=cls)
    full = kmap.fill()

    async def take(pages: int) -> None:
        k.record(va=await netbsd.uvm_km_alloc(kmap, pages * PAGE, 0, WAIT))

    async def give() -> None:
        await netbsd.uvm_km_free(kmap, full, PAGE, VAONLY)

    k.spawn(take, 2, name="big")
    k.spawn(take, 1, name="small")
    k.spawn(give, name="give")


@scenario(expect="lost-wakeup", source=SOURCE)
def lw_14_flag_for_all(k: Kernel) -> None:
    """The big one fails again, and sets the flag under the nose of the small one."""
    three_sizes(k, FlagForAll)


@scenario(source=SOURCE, tolerate=("exhausted",), executions=200)
def lw_14_flag_for_all_ok(k: Kernel) -> None:
    """The small one sees that somebody has locked the map, and tries again. The big one waits for ever, as it must."""
    three_sizes(k, netbsd.VmMap)
