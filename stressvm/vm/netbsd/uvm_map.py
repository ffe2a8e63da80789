"""uvm_map and uvm_unmap, as uvm_map(9)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm.kernel.errors import UsageError
from stressvm.vm.netbsd import flags as F  # noqa: N812 - the constants, as the kernel writes them
from stressvm.vm.netbsd.vm_map import MapEntry

if TYPE_CHECKING:
    from stressvm.vm.netbsd.vm_map import VmMap


async def uvm_map(
    vm_map: VmMap,
    addr: int,
    size: int,
    *,
    align: int = 0,
    flags: int = 0,
    prot: int = F.VM_PROT_ALL,
    maxprot: int = F.VM_PROT_ALL,
    inherit: int = F.MAP_INHERIT_NONE,
    advice: int = F.UVM_ADV_NORMAL,
) -> tuple[int, int]:
    """Establish a mapping without an object.

    Locks: none on entry and exit. Sleeps: for the map's lock unless UVM_FLAG_TRYLOCK, for addresses with
    UVM_FLAG_WAITVA. Panics on a size that is no whole number of pages, on an alignment that is no power of two, and
    on NOWAIT with WAITVA.

    Args:
        vm_map: where.
        addr: a hint, or with UVM_FLAG_FIXED the place; bytes.
        size: bytes, whole pages.
        align: a power of two in bytes, or 0 for none.
        flags: UVM_FLAG_*.
        prot: the protection, within `maxprot`.
        maxprot: the most that it may become.
        inherit: MAP_INHERIT_*.
        advice: UVM_ADV_*.

    Returns:
        (0, address), or an error and 0: EACCES for `prot` beyond `maxprot`, EAGAIN for a lock that TRYLOCK did not get,
        ENOMEM for no room.

    Source: sys/uvm/uvm_map.c, uvm_map.
    """
    k = vm_map.k
    if size & (F.PAGE_SIZE - 1):
        raise k.panic(f"uvm_map: KASSERT: size {size:#x} is no whole number of pages")
    if flags & F.UVM_FLAG_COLORMATCH:
        raise UsageError(f"uvm_map(flags={flags:#x}): UVM_FLAG_COLORMATCH is not modelled yet")
    vm_map.check_request(size, flags)
    if prot & ~maxprot:
        return F.EACCES, 0
    error, va = await vm_map.prepare(addr, size, align, flags)
    if error:
        return error, 0
    entry = MapEntry(va, va + size)
    entry.protection = prot
    entry.max_protection = maxprot
    entry.inheritance = inherit
    entry.advice = advice
    if flags & F.UVM_FLAG_NOMERGE:
        entry.flags |= F.UVM_MAP_NOMERGE
    await vm_map.enter(va, entry)
    return 0, va


async def uvm_unmap(vm_map: VmMap, start: int, end: int) -> None:
    """Remove [start, end) from a map; holes in it are no error. Wakes those who wait for addresses.

    Locks: none on entry and exit. Sleeps: for the map's lock.

    Source: sys/uvm/uvm_map.c, uvm_unmap1.
    """
    await vm_map.lock.lock()
    dead = await vm_map.remove(start, end)
    await vm_map.lock.unlock()
    uvm_unmap_detach(vm_map, dead)


def uvm_unmap_detach(vm_map: VmMap, dead: list[MapEntry]) -> None:
    """Drop what removed entries referred to. Locks: none may be held on this map. Sleeps: no, without objects."""
    k = vm_map.k
    for entry in dead:
        if entry.wired_count:
            raise k.panic(f"uvm_unmap_detach: KASSERT: the entry at {entry.start:#x} is wired")
        if entry.sub_map is not None:
            raise k.panic(f"uvm_unmap_detach: KASSERT: the entry at {entry.start:#x} is a submap")
