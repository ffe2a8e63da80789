"""Kernel submaps in which a thread sleeps until there is room: exec_map and its like.

Source: sys/vm/vm_kern.c of releng/13.0 and release/10.4 (where the second call is kmap_free_wakeup as well; both were
kmem_alloc_wait and kmem_free_wakeup until 9.3).

The flag needs_wakeup is set with the map locked, and the lock is given up and the sleep begun as one. Who frees looks
at the flag with the map locked, too; it clears the flag first and then wakes *all* who sleep on the map: the channel is
shared by every waiter for addresses and by those who wait for an entry in transition. Each that still finds nothing
sets the flag again. vm_map_remove and vm_map_fixed free addresses and wake nobody.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm.vm.freebsd import flags as F  # noqa: N812 - the constants, as the kernel writes them
from stressvm.vm.freebsd.addresses import must_fit
from stressvm.vm.freebsd.versions import VERSIONS
from stressvm.vm.freebsd.vm_map_core import MapKind
from stressvm.vm.freebsd.vm_map_find import Request
from stressvm.vm.freebsd.vm_object import ucred

if TYPE_CHECKING:
    from stressvm.vm.freebsd.vm_map import VmMap


async def kmap_alloc_wait(vm_map: VmMap, size: int) -> int:
    """Allocate pageable address space in a kernel submap, sleeping until there is some.

    Locks: none on entry and exit; the map's write lock from the search to the insertion. Sleeps: for the lock, and for
    addresses, without a limit.

    Args:
        vm_map: a kernel submap.
        size: bytes; rounded up to pages.

    Returns:
        The address, or 0 if the map is too small for it ever, or there is no swap.

    Source: sys/vm/vm_kern.c, kmap_alloc_wait.
    """
    must_fit("kmap_alloc_wait", size=size)
    size = F.round_page(size)
    cred = ucred(vm_map.k)
    vm_map.objects_field.write()
    if not cred.swap_reserve(size):
        return 0
    while (addr := await vm_map.try_alloc(size)) is None:
        continue  # it has slept, and looks again
    if not addr:
        vm_map.objects_field.write()
        cred.swap_release(size)
        return 0
    vm_map.insert(None, 0, addr, addr + size, vm_map.KMAP_PROT, vm_map.KMAP_PROT, F.MAP_ACC_CHARGED)
    await vm_map.lock.unlock()
    vm_map.k.progress()
    return addr


async def kmap_free_wakeup(vm_map: VmMap, addr: int, size: int) -> None:
    """Free what kmap_alloc_wait returned, and wake those who sleep on the map if somebody wants addresses.

    Locks: none on entry and exit. Sleeps: for the lock.

    Args:
        vm_map: the map it came from.
        addr: rounded down to a page.
        size: bytes; the end is rounded up to a page.

    Source: sys/vm/vm_kern.c, kmap_free_wakeup.
    """
    must_fit("kmap_free_wakeup", addr=addr, size=size)
    await vm_map.lock.lock()
    await vm_map.delete(F.trunc_page(addr), F.round_page(addr + size))
    await vm_map.wake_for_space()
    await vm_map.lock.unlock()
    vm_map.k.progress()


async def kmem_suballoc(
    parent: VmMap, size: int, *, superpage_align: bool = False, name: str = "submap", cls: type[VmMap] | None = None
) -> VmMap:
    """Take a range from a kernel map, and make a map that looks after it.

    Locks: none on entry and exit. Sleeps: for the parent's lock. Panics if there is no room.

    Args:
        parent: the kernel's map.
        size: bytes; rounded up to pages.
        superpage_align: shall it begin at a superpage?
        name: as reports show it.
        cls: the submap's class, in place of the version of its parent.

    Returns:
        The submap. Its lock is one that is slept for, and its version that of its parent.

    Source: sys/vm/vm_kern.c, kmem_suballoc; in 13 it is kmem_subinit, for which the caller has the memory.
    """
    must_fit("kmem_suballoc", size=size)
    k = parent.k
    size = F.round_page(size)
    space = F.VMFS_SUPER_SPACE if superpage_align else F.VMFS_ANY_SPACE
    request = Request(None, 0, parent.min_offset, size, 0, space, F.VM_PROT_ALL, F.VM_PROT_ALL, F.MAP_ACC_NO_CHARGE)
    result, start = await parent.find(request)
    if result:
        raise k.panic(f"kmem_suballoc: bad status return of {result}")
    made = (cls or VERSIONS[parent.version])(
        k, start, start + size, kind=MapKind.SUBMAP, name=name, memory=parent.memory
    )
    if await parent.submap(start, start + size, made):
        raise k.panic("kmem_suballoc: unable to change range to submap")
    k.progress()
    return made
