"""What NetBSD's manual pages promise of allocations in a kernel map, and the code does not keep."""

from stressvm import Kernel, scenario
from stressvm.vm import netbsd

SOURCE = "NetBSD 6.99.16, sys/uvm/uvm_km.c 1.138, uvm_km_alloc; share/man/man9/uvm_km.9"
VAONLY = netbsd.UVM_KMF_VAONLY
PAGE = netbsd.PAGE_SIZE


@scenario(expect="assertion", source=SOURCE)
def netbsd6_nowait_sleeps(k: Kernel) -> None:
    """A caller that does not want to wait does so all the same: for the map's lock, whose holder sleeps.

    uvm_km(9) says that UVM_KMF_NOWAIT never sleeps. What does not sleep for it is the wait for addresses and for pages. The
    lock is taken as by anybody, and whoever holds it may sleep with it: to have pages read in, for one.
    """
    kmap = netbsd.submap(k, pages=2)

    async def reads_in() -> None:
        await kmap.lock.lock()
        await k.delay(k.hz)
        await kmap.lock.unlock()

    async def hurry() -> None:
        began = k.now
        va = await netbsd.uvm_km_alloc(kmap, PAGE, 0, VAONLY | netbsd.UVM_KMF_NOWAIT)
        assert k.now == began, "a call that must not sleep came back a second later"
        await netbsd.uvm_km_free(kmap, va, PAGE, VAONLY)

    k.spawn(reads_in, name="reads_in")
    k.spawn(hurry, name="hurry")


@scenario(source=SOURCE)
def netbsd6_trylock_does_not_sleep(k: Kernel) -> None:
    """The same with UVM_KMF_TRYLOCK: it fails instead."""
    kmap = netbsd.submap(k, pages=2)

    async def reads_in() -> None:
        await kmap.lock.lock()
        await k.delay(k.hz)
        await kmap.lock.unlock()

    async def hurry() -> None:
        began = k.now
        flags = VAONLY | netbsd.UVM_KMF_NOWAIT | netbsd.UVM_KMF_TRYLOCK
        va = await netbsd.uvm_km_alloc(kmap, PAGE, 0, flags)
        assert k.now == began, "a call that must not sleep came back later"
        if va:
            await k.delay(2 * k.hz)
            await netbsd.uvm_km_free(kmap, va, PAGE, VAONLY)

    k.spawn(reads_in, name="reads_in")
    k.spawn(hurry, name="hurry")


@scenario(expect="exhausted", source=SOURCE)
def netbsd6_canfail_waits(k: Kernel) -> None:
    """A caller that can stand a failure never gets one: nobody will free what it waits for.

    uvm_km(9) says that with UVM_KMF_CANFAIL the call can fail even if UVM_KMF_WAITVA is given. The wait for addresses does
    not look at the flag; it is heeded only where pages run out.
    """
    kmap = netbsd.submap(k, pages=2)
    kmap.fill()

    async def take() -> None:
        flags = VAONLY | netbsd.UVM_KMF_WAITVA | netbsd.UVM_KMF_CANFAIL
        k.record(va=await netbsd.uvm_km_alloc(kmap, PAGE, 0, flags))

    k.spawn(take, name="take")


@scenario(expect="panic", source="NetBSD 6.99.16, sys/uvm/uvm_map.c 1.324, uvm_map_findspace")
def netbsd6_topdown_above_the_hint(k: Kernel) -> None:
    """A map that is searched from above, and an allocation that says nothing of where: an assertion fails.

    uvm_km_alloc gives the map's minimum as the hint. A search from above should find something below the hint, and finds the
    highest room there is. With DIAGNOSTIC that is a panic; without, it is just what was wanted.
    """
    kmap = netbsd.VmMap(k, PAGE, 5 * PAGE, flags=netbsd.VM_MAP_TOPDOWN, options=netbsd.Options.DIAGNOSTIC, name="kmap")

    async def take() -> None:
        k.record(va=await netbsd.uvm_km_alloc(kmap, PAGE, 0, VAONLY | netbsd.UVM_KMF_WAITVA))

    k.spawn(take, name="take")
