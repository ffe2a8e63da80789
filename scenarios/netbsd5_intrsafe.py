"""NetBSD 5.2's interrupt-safe kernel maps really lose wakeups."""

from stressvm import Kernel, scenario
from stressvm.vm import netbsd

SOURCE = "NetBSD 5.2, sys/uvm/uvm_map.c 1.263.4.5, uvm_map_prepare: VM_MAP_INTRSAFE maps never move the timestamp"
WAIT = netbsd.UVM_KMF_VAONLY | netbsd.UVM_KMF_WAITVA
NOWAIT = netbsd.UVM_KMF_VAONLY | netbsd.UVM_KMF_NOWAIT


@scenario(expect="lost-wakeup", source=SOURCE)
def netbsd5_intrsafe_waiters(k: Kernel) -> None:
    """A page is freed that fits one of two sleepers; does that one get it?

    Both threads find the map full, set WANTVA and sleep. One page is freed: the flag is cleared and both are woken.
    If the big one looks first, it fails again and sets the flag again; the small one then finds the flag set and the
    timestamp where it was, and sleeps on, beside the page that is free. Its recheck every second does not help: it
    looks at the same flag.
    """
    kmap = netbsd.submap(k, pages=2, version="5.2", intrsafe=True)
    full = kmap.fill()

    async def take(pages: int) -> None:
        va = await netbsd.uvm_km_alloc(kmap, pages * netbsd.PAGE_SIZE, 0, WAIT)
        k.record(va=va)

    async def give() -> None:
        await netbsd.uvm_km_free(kmap, full, netbsd.PAGE_SIZE, netbsd.UVM_KMF_VAONLY)

    k.spawn(take, 2, name="big")
    k.spawn(take, 1, name="small")
    k.spawn(give, name="give")


@scenario(expect="lost-wakeup", source=SOURCE)
def netbsd5_intrsafe_nowait(k: Kernel) -> None:
    """An interrupt handler that fails at once erases the wakeup of the only sleeper.

    The sleeper has been woken, but before it looks at the flag again a caller that does not wait fails to find two
    pages and sets the flag once more. Nothing else has gone wrong, and the sleeper never wakes.
    """
    kmap = netbsd.submap(k, pages=2, version="5.2", intrsafe=True)
    full = kmap.fill()

    async def take() -> None:
        k.record(va=await netbsd.uvm_km_alloc(kmap, netbsd.PAGE_SIZE, 0, WAIT))

    async def interrupt() -> None:
        k.record(va=await netbsd.uvm_km_alloc(kmap, 2 * netbsd.PAGE_SIZE, 0, NOWAIT))

    async def give() -> None:
        await netbsd.uvm_km_free(kmap, full, netbsd.PAGE_SIZE, netbsd.UVM_KMF_VAONLY)

    k.spawn(take, name="take")
    k.spawn(interrupt, name="interrupt", interrupt=True)
    k.spawn(give, name="give")
