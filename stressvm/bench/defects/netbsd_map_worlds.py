"""Worlds of one NetBSD map, or two, that are wired, copied and unmapped: clean with what the kernel does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from stressvm.kernel.mutex import Mutex
from stressvm.vm import netbsd

if TYPE_CHECKING:
    from collections.abc import Callable

    from stressvm.bench.defects.defect import Build
    from stressvm.kernel.kernel import Kernel
    from stressvm.vm.netbsd import VmMap

PAGE: Final = netbsd.PAGE_SIZE
VAONLY: Final = netbsd.UVM_KMF_VAONLY
WAITVA: Final = netbsd.UVM_KMF_WAITVA
PAGEABLE: Final = netbsd.VM_MAP_PAGEABLE
REMOVE: Final = netbsd.UVM_EXTRACT_REMOVE
READ: Final = netbsd.VM_PROT_READ
LOW: Final = 0xC000_0000
DIAGNOSTIC: Final = netbsd.Options.DIAGNOSTIC


def wiring(
    writer: Callable[[VmMap], Any], *, fault: type[netbsd.UvmFault] | None = None, cls: type[VmMap] = netbsd.VmMap
) -> Build:
    """One thread wires two pages, the second of which fails if `fault` is None; another does what `writer` says."""

    def build(k: Kernel) -> None:
        faults = fault() if fault is not None else netbsd.FailingFault([LOW + PAGE])
        kmap = netbsd.setup(k, 4, flags=PAGEABLE, options=DIAGNOSTIC, fault=faults, min_offset=LOW, cls=cls)
        kmap.fill(2)

        async def wires() -> None:
            error = await netbsd.uvm_map_pageable(kmap, LOW, LOW + 2 * PAGE, new_pageable=False)
            k.record(did=error)

        async def writes() -> None:
            k.record(did=await writer(kmap))

        k.spawn(wires, name="wires")
        k.spawn(writes, name="writes")

    return build


async def protects(kmap: VmMap) -> str:
    """A writer that changes the protection."""
    assert await netbsd.uvm_map_protect(kmap, LOW, LOW + PAGE, READ) == 0
    return "protected"


async def tries(kmap: VmMap) -> str:
    """A writer that only tries for the lock."""
    got = await kmap.lock.lock_try()
    if got:
        await kmap.lock.unlock()
    return "got" if got else "refused"


def opposite(cls: type[VmMap] = netbsd.VmMap, flags: int = 0) -> Build:
    """Two threads extract a page each, in opposite directions."""

    def build(k: Kernel) -> None:
        left = netbsd.setup(k, 4, name="left", cls=cls, options=DIAGNOSTIC)
        right = netbsd.setup(k, 4, name="right", cls=cls, options=DIAGNOSTIC, min_offset=0xD000_0000)
        left.fill(1)
        right.fill(1)

        async def moves(src: VmMap, dst: VmMap) -> None:
            error, va = await netbsd.uvm_map_extract(src, src.min_offset, PAGE, dst, flags=flags)
            k.record(did=(error, (va - dst.min_offset) // PAGE))

        k.spawn(moves, left, right, name="to_right")
        k.spawn(moves, right, left, name="to_left")

    return build


def wires_against(writer: Callable[[VmMap], Any]) -> Callable[..., Build]:
    """Worlds of `wiring` with that writer, by the map's class."""

    def world(cls: type[VmMap] = netbsd.VmMap) -> Build:
        return wiring(writer, cls=cls)

    return world


def two_wire(cls: type[VmMap] = netbsd.VmMap) -> Build:
    """Two threads wire a page each, and a third locks the map."""

    def build(k: Kernel) -> None:
        kmap = netbsd.setup(k, 4, flags=PAGEABLE, options=DIAGNOSTIC, cls=cls)
        start = kmap.fill(2)

        async def wires(page: int) -> None:
            va = start + page * PAGE
            assert await netbsd.uvm_map_pageable(kmap, va, va + PAGE, new_pageable=False) == 0

        async def writes() -> None:
            await kmap.lock.lock()
            await kmap.lock.unlock()

        for page in (0, 1):
            k.spawn(wires, page, name=f"wires{page}")
        k.spawn(writes, name="writes")

    return build


def wires_beside_a_waiter(cls: type[VmMap] = netbsd.VmMap) -> Build:
    """A full map: one waits for addresses, one wires, one changes the protection; the addresses never come."""

    def build(k: Kernel) -> None:
        kmap = netbsd.setup(k, 1, flags=PAGEABLE, cls=cls)
        start = kmap.fill()

        async def waits_for_addresses() -> None:
            await netbsd.uvm_km_alloc(kmap, PAGE, 0, VAONLY | WAITVA)

        async def wires() -> None:
            assert await netbsd.uvm_map_pageable(kmap, start, start + PAGE, new_pageable=False) == 0

        async def writes() -> None:
            assert await netbsd.uvm_map_protect(kmap, start, start + PAGE, READ) == 0

        k.spawn(waits_for_addresses, name="waits")
        k.spawn(wires, name="wires")
        k.spawn(writes, name="writes")

    return build


def last_reference(cls: type[VmMap] = netbsd.VmMap) -> Build:
    """The last reference to an object wants a lock whose holder wants the map."""

    def build(k: Kernel) -> None:
        kmap = netbsd.setup(k, 2, cls=cls)
        vnode = Mutex(k, "vnode")

        async def inactive() -> None:
            await vnode.lock()
            await vnode.unlock()

        uobj = netbsd.UvmObject("vnode", last=inactive)

        async def unmaps() -> None:
            await netbsd.uvm_map(kmap, kmap.min_offset, PAGE, uobj=uobj, uoffset=0)
            k.spawn(reads, name="reads")
            await netbsd.uvm_unmap(kmap, kmap.min_offset, kmap.min_offset + PAGE)

        async def reads() -> None:
            await vnode.lock()
            await netbsd.uvm_map(kmap, kmap.min_offset, PAGE)
            await vnode.unlock()

        k.spawn(unmaps, name="unmaps")

    return build


def frees(cls: type[VmMap] = netbsd.VmMap) -> Build:
    """A full map of two pages is emptied, and somebody wants a page of it."""

    def build(k: Kernel) -> None:
        kmap = netbsd.setup(k, 2, cls=cls)
        start = kmap.fill()

        async def gives() -> None:
            await netbsd.uvm_km_free(kmap, start, 2 * PAGE, VAONLY)

        async def takes() -> None:
            assert await netbsd.uvm_km_alloc(kmap, PAGE, 0, VAONLY | WAITVA) == start

        k.spawn(gives, name="gives")
        k.spawn(takes, name="takes")

    return build


def fills_holes(cls: type[VmMap] = netbsd.VmMap) -> Build:
    """Every second page of a map is free, and two threads fill and empty holes, so that three entries become one."""

    def build(k: Kernel) -> None:
        kmap = netbsd.setup(k, 5, cls=cls)

        async def begins() -> None:
            for page in (0, 2, 4):
                va = kmap.min_offset + page * PAGE
                flags = netbsd.UVM_FLAG_FIXED
                await netbsd.uvm_map(
                    kmap, va, PAGE, flags=flags, inherit=netbsd.MAP_INHERIT_NONE, advice=netbsd.UVM_ADV_RANDOM
                )
            for number in range(2):
                k.spawn(fills, name=f"fills{number}")

        async def fills() -> None:
            va = await netbsd.uvm_km_alloc(kmap, PAGE, 0, VAONLY | WAITVA)
            await netbsd.uvm_km_free(kmap, va, PAGE, VAONLY)

        k.spawn(begins, name="begins")

    return build


def many_holes(cls: type[VmMap] = netbsd.VmMap) -> Build:
    """Two threads map pages here and there and unmap some, in a map with enough entries for several levels of lanes.

    Above all these pages there is room for what each maps at last.
    """

    def build(k: Kernel) -> None:
        pages = 48
        kmap = netbsd.setup(k, pages + 8, cls=cls)

        async def works(first: int) -> None:
            for page in range(first, pages, 4):
                va = kmap.min_offset + page * PAGE
                error, _ = await netbsd.uvm_map(kmap, va, PAGE, flags=netbsd.UVM_FLAG_FIXED)
                assert not error, f"{va:#x} is free, and cannot be mapped"
            for page in range(first, pages, 8):
                va = kmap.min_offset + page * PAGE
                await netbsd.uvm_unmap(kmap, va, va + PAGE)
            error, va = await netbsd.uvm_map(kmap, kmap.min_offset + pages * PAGE, 3 * PAGE)
            assert not error, "there is room, and uvm_map finds none"
            await netbsd.uvm_unmap(kmap, va, va + 3 * PAGE)

        for first in (0, 2):
            k.spawn(works, first, name=f"works{first}")

    return build
