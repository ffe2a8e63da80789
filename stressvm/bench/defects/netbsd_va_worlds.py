"""Worlds in which threads of NetBSD's kernel wait for addresses of a map: clean with what the kernel does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from stressvm.kernel.mutex import Mutex
from stressvm.vm import netbsd

if TYPE_CHECKING:
    from stressvm.bench.defects.defect import Build
    from stressvm.kernel.kernel import Kernel
    from stressvm.vm.netbsd import VmMap

PAGE: Final = netbsd.PAGE_SIZE
VAONLY: Final = netbsd.UVM_KMF_VAONLY
WAIT: Final = VAONLY | netbsd.UVM_KMF_WAITVA
NOWAIT: Final = VAONLY | netbsd.UVM_KMF_NOWAIT
LOW: Final = 0xC000_0000


def one_waiter(cls: type[VmMap] = netbsd.VmMap, *, version: str = "6") -> Build:
    """A full map of one page, a waiter for it, and somebody who frees it. On 5.2 the map is INTRSAFE."""

    def build(k: Kernel) -> None:
        kmap = netbsd.submap(k, pages=1, version=version, intrsafe=version == "5.2", cls=cls)
        full = kmap.fill()

        async def take() -> None:
            assert await netbsd.uvm_km_alloc(kmap, PAGE, 0, WAIT) == full

        async def give() -> None:
            await netbsd.uvm_km_free(kmap, full, PAGE, VAONLY)

        k.spawn(take, name="take")
        k.spawn(give, name="give")

    return build


def two_waiters(cls: type[VmMap] = netbsd.VmMap, *, version: str = "6") -> Build:
    """A full map of two pages, a waiter for both, a waiter for one, and one page freed: the big one is never served."""

    def build(k: Kernel) -> None:
        kmap = netbsd.submap(k, pages=2, version=version, intrsafe=version == "5.2", cls=cls)
        full = kmap.fill()

        async def take(pages: int) -> None:
            await netbsd.uvm_km_alloc(kmap, pages * PAGE, 0, WAIT)

        async def give() -> None:
            await netbsd.uvm_km_free(kmap, full, PAGE, VAONLY)

        k.spawn(take, 2, name="big")
        k.spawn(take, 1, name="small")
        k.spawn(give, name="give")

    return build


def one_after_the_other(cls: type[VmMap] = netbsd.VmMap) -> Build:
    """A full map of two pages, a waiter for both and one for one; a page is freed, and the other when that one is done."""

    def build(k: Kernel) -> None:
        kmap = netbsd.submap(k, pages=2, cls=cls)
        full = kmap.fill()

        async def big() -> None:
            assert await netbsd.uvm_km_alloc(kmap, 2 * PAGE, 0, WAIT) == full

        async def small() -> None:
            va = await netbsd.uvm_km_alloc(kmap, PAGE, 0, WAIT)
            await netbsd.uvm_km_free(kmap, va, PAGE, VAONLY)

        async def give() -> None:
            await netbsd.uvm_km_free(kmap, full, PAGE, VAONLY)
            await k.join(first)
            await netbsd.uvm_km_free(kmap, full + PAGE, PAGE, VAONLY)

        k.spawn(big, name="big")
        first = k.spawn(small, name="small")
        k.spawn(give, name="give")

    return build


def silent(cls: type[VmMap] = netbsd.VmMap) -> Build:
    """A map is full; one waits for a page, another moves one elsewhere, which tells nobody, and never comes back."""

    def build(k: Kernel) -> None:
        kmap = netbsd.setup(k, 1, cls=cls)
        other = netbsd.setup(k, 1, name="other", min_offset=0xD000_0000)
        kmap.fill(1)

        async def waits() -> None:
            assert await netbsd.uvm_km_alloc(kmap, PAGE, 0, WAIT) == kmap.min_offset

        async def moves() -> None:
            await netbsd.uvm_map_extract(kmap, kmap.min_offset, PAGE, other, flags=netbsd.UVM_EXTRACT_REMOVE)

        k.spawn(waits, name="waits")
        k.spawn(moves, name="moves")

    return build


def future(cls: type[VmMap] = netbsd.VmMap) -> Build:
    """One thread wants a page of a full map, one frees a page, one says that what is mapped from now on is wired."""

    def build(k: Kernel) -> None:
        kmap = netbsd.setup(k, 1, flags=netbsd.VM_MAP_PAGEABLE, cls=cls)
        full = kmap.fill()

        async def take() -> None:
            await netbsd.uvm_km_alloc(kmap, PAGE, 0, NOWAIT)

        async def give() -> None:
            await netbsd.uvm_km_free(kmap, full, PAGE, VAONLY)

        async def mlockall() -> None:
            assert not await netbsd.uvm_map_pageable_all(kmap, netbsd.MCL_FUTURE)

        async def last() -> None:
            for thread in threads:
                await k.join(thread)
            assert kmap.flags.peek() & netbsd.VM_MAP_WIREFUTURE, "WIREFUTURE was set, and is lost"

        threads = [k.spawn(body, name=body.__name__) for body in (take, give, mlockall)]
        k.spawn(last, name="last")

    return build


def users(cls: type[VmMap] = netbsd.VmMap) -> Build:
    """A map of two pages, and three threads that wait for a page, use it and free it."""

    def build(k: Kernel) -> None:
        kmap = netbsd.submap(k, pages=2, cls=cls)
        kmap.fill(1)
        used: dict[int, int] = {}

        async def uses() -> None:
            va = await netbsd.uvm_km_alloc(kmap, PAGE, 0, WAIT)
            assert va not in used, f"{va:#x} is in use"
            used[va] = k.cur
            await k.yield_()
            del used[va]
            await netbsd.uvm_km_free(kmap, va, PAGE, VAONLY)

        for number in range(3):
            k.spawn(uses, name=f"uses{number}")

    return build


def drained(cls: type[VmMap] = netbsd.VmMap) -> Build:
    """5.2: a map is full of what can be given back at once, and somebody who does not wait asks for that; others lock it."""

    def build(k: Kernel) -> None:
        kmap = netbsd.setup(k, 2, version="5.2", cls=cls)
        full = kmap.fill()
        held = [full, full + PAGE]

        async def gives_back(_: object) -> int:
            if held:
                await netbsd.uvm_km_free(kmap, held.pop(), PAGE, VAONLY)
            return netbsd.CALLBACK_CHAIN_CONTINUE

        kmap.vmk_reclaim_callback.add(gives_back)

        async def hurries() -> None:
            va = await netbsd.uvm_km_alloc(kmap, PAGE, 0, NOWAIT)
            assert va, "it fails, although a page was freed for it"

        async def locks() -> None:
            await kmap.lock.lock()
            await kmap.lock.unlock()

        k.spawn(hurries, name="hurries")
        k.spawn(locks, name="locks")

    return build


def impatient(cls: type[VmMap] = netbsd.VmMap) -> Build:
    """A full map; two ask for a page and say neither that they wait nor that they do not: they get nothing, and go on."""

    def build(k: Kernel) -> None:
        kmap = netbsd.submap(k, pages=1, cls=cls)
        kmap.fill()

        async def asks() -> None:
            assert not await netbsd.uvm_km_alloc(kmap, PAGE, 0, VAONLY)

        for number in range(2):
            k.spawn(asks, name=f"asks{number}")

    return build


def holding(cls: type[VmMap] = netbsd.VmMap) -> Build:
    """One wants addresses with a mutex held, and so must not wait for the map's lock; another takes the two the other way."""

    def build(k: Kernel) -> None:
        kmap = netbsd.submap(k, pages=1, cls=cls)
        kmap.fill()
        mutex = Mutex(k, "softc")

        async def tries() -> None:
            await mutex.lock()
            await netbsd.uvm_km_alloc(kmap, PAGE, 0, NOWAIT | netbsd.UVM_KMF_TRYLOCK)
            await mutex.unlock()

        async def other() -> None:
            await kmap.lock.lock()
            await mutex.lock()
            await mutex.unlock()
            await kmap.lock.unlock()

        k.spawn(tries, name="tries")
        k.spawn(other, name="other")

    return build


def emptied(cls: type[VmMap] = netbsd.VmMap) -> Build:
    """A page is moved out of a full map, which tells nobody; then somebody unmaps a range in which nothing is left."""

    def build(k: Kernel) -> None:
        kmap = netbsd.setup(k, 1, cls=cls)
        other = netbsd.setup(k, 1, name="other", min_offset=0xD000_0000)
        kmap.fill(1)

        async def waits() -> None:
            assert await netbsd.uvm_km_alloc(kmap, PAGE, 0, WAIT) == kmap.min_offset

        async def moves() -> None:
            await netbsd.uvm_map_extract(kmap, kmap.min_offset, PAGE, other, flags=netbsd.UVM_EXTRACT_REMOVE)
            await kmap.lock.lock()
            # As uvm_unmap of what is there no more; the waiter may have it already, and keeps it.
            gone = kmap.entries.first is None
            dead = await kmap.remove(kmap.min_offset, kmap.max_offset, netbsd.UVM_FLAG_VAONLY) if gone else []
            await kmap.finish_unmap(dead)

        k.spawn(waits, name="waits")
        k.spawn(moves, name="moves")

    return build
