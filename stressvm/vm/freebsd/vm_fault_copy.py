"""vm_fault_copy_entry: pages that must not be copied later are copied now.

Wired memory may not be copied on write: a fault would give it another page, and the one that was wired would go. So when
a wired entry is forked, the child gets copies of all pages; and when what a user has wired becomes writable, it gets
copies of those that are not its own yet.

Source: sys/vm/vm_fault.c, vm_fault_copy_entry.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm.vm.freebsd import flags as F  # noqa: N812 - the constants, as the kernel writes them
from stressvm.vm.freebsd.references import vm_objects
from stressvm.vm.freebsd.vm_object import VmObject
from stressvm.vm.pages import VM_ALLOC_NORMAL, PageQueue
from stressvm.vm.pmap import PMAP_ENTER_WIRED

if TYPE_CHECKING:
    from stressvm.vm.freebsd.vm_map_entry import VmMapEntry
    from stressvm.vm.freebsd.vm_memory import Memory
    from stressvm.vm.freebsd.vm_object_pages import ObjectPages
    from stressvm.vm.pages import Page
    from stressvm.vm.pmap import FreeBSDPmap


async def vm_fault_copy_entry(memory: Memory, pmap: FreeBSDPmap, dst: VmMapEntry, src: VmMapEntry, prot: int) -> None:
    """Give an entry copies of the pages of a wired one, or, if both are the same one, pages of its own.

    Locks: the write locks of both maps throughout; takes objects', the destination's before those of the source.
    Sleeps: for those, for busy pages, and for free pages, with the maps locked.

    Args:
        memory: where pages come from.
        pmap: the destination's.
        dst: gets them; for a fork it has its object already, which is new and empty.
        src: is wired, so its pages are there; a missing one is a panic.
        prot: what mappings of the destination are to allow, VM_PROT_*.

    Source: sys/vm/vm_fault.c, vm_fault_copy_entry.
    """
    upgrade = dst is src
    behind = src.object
    if behind is None:
        return
    vm_objects(memory.k).write()
    offset = src.offset
    if upgrade and not src.eflags & F.MAP_ENTRY_NEEDS_COPY:
        behind.reference()
    elif upgrade:
        dst.object = VmObject.anonymous(F.off_to_idx(dst.size), dst.cred, dst.size)
        dst.object.pg_color = F.off_to_idx(dst.start)
        dst.offset = 0
        dst.cred = None
        dst.eflags &= ~F.MAP_ENTRY_VN_EXEC
    assert dst.object is not None, "what was made"
    for page in range(F.off_to_idx(dst.size)):
        while not await _copy_page(memory, pmap, dst, behind, F.off_to_idx(offset) + page, page, prot, upgrade=upgrade):
            pass
    if upgrade:
        dst.eflags &= ~(F.MAP_ENTRY_COW | F.MAP_ENTRY_NEEDS_COPY)
        vm_objects(memory.k).write()
        behind.deallocate()


async def _copy_page(
    memory: Memory,
    pmap: FreeBSDPmap,
    dst: VmMapEntry,
    behind: VmObject,
    src_pindex: int,
    number: int,
    prot: int,
    *,
    upgrade: bool,
) -> bool:
    """One page of it; False: it had to wait, and the page is to be done again."""
    phys = memory.pages
    assert dst.object is not None, "what was made"
    own = memory.store(dst.object)
    await own.lock.lock()
    held, found = await _find(memory, behind, src_pindex, own)
    if found is None:
        raise memory.k.panic(f"vm_fault_copy_entry: KASSERT: page {src_pindex} of {behind!r} is missing")
    dst_pindex = F.off_to_idx(dst.offset) + number
    page: Page | None = found
    if found.owner is not own:
        page = await phys.vm_page_alloc(own, dst_pindex, VM_ALLOC_NORMAL)
        if page is None:
            await _unlock(held, own)
            await phys.vm_wait()
            return False
        memory.fresh(page)
        page.write(found.content)
        own.validate(page)
    elif not await phys.vm_page_tryxbusy(found):
        await phys.vm_page_sleep_if_busy(found, "vmfce")
        await _unlock(held, own)
        return False
    await _unlock(held, own)
    assert page is not None, "found, or allocated"
    access = prot if upgrade else prot & ~F.VM_PROT_WRITE
    await pmap.enter(dst.start + (number << F.PAGE_SHIFT), page, prot, access | (PMAP_ENTER_WIRED if upgrade else 0))
    await own.lock.lock()
    if not upgrade:
        await phys.vm_page_activate(page)
    elif page is not found:
        await phys.vm_page_unwire(found, PageQueue.INACTIVE)
        await phys.vm_page_wire(page)
    await phys.vm_page_xunbusy(page)
    await own.lock.unlock()
    return True


async def _find(
    memory: Memory, behind: VmObject, pindex: int, own: ObjectPages
) -> tuple[list[ObjectPages], Page | None]:
    """The page at an index, in an object or what it shadows; and the locks that this took, besides `own`."""
    held: list[ObjectPages] = []
    at: VmObject | None = behind
    while at is not None:
        store = at.store
        if store is not None:
            if store is not own:
                await store.lock.lock()
                held.append(store)
            page = store.pages.lookup(pindex)
            if page is not None and store.is_valid(page):
                return held, page
        pindex += memory.index(at.backing_object_offset)
        at = at.backing_object
    return held, None


async def _unlock(held: list[ObjectPages], own: ObjectPages) -> None:
    for store in reversed(held):
        await store.lock.unlock()
    await own.lock.unlock()
