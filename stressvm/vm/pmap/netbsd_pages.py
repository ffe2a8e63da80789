"""NetBSD's calls on a page, through all its mappings in all pmaps, as pmap(9) has them.

A page keeps what mappings that are gone have said of it (md_modified, md_referenced); these calls ask and clear both that
and the mappings that are there. Each pmap on the page's list is locked in turn, and a mapping that has gone by then is
passed over. Where processors must be told, they have been on return.

Source: pmap(9); sys/arch/x86/x86/pmap.c of NetBSD 6, pmap_page_remove, pmap_test_attrs, pmap_clear_attrs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm.vm.pmap import flags as F  # noqa: N812 - the constants, as the kernel writes them
from stressvm.vm.pmap.machine import PvLock

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from stressvm.vm.pmap.machine import Machine
    from stressvm.vm.pmap.netbsd import NetBSDPmap
    from stressvm.vm.pmap.page import PhysPage

    #: What is done with a mapping whose pmap is locked, by pmap and address.
    Visit = Callable[[NetBSDPmap, int], Awaitable[None]]


async def pmap_page_protect(machine: Machine, page: PhysPage, prot: int) -> None:
    """pmap_page_protect: take rights away from all mappings of a page; never gives any.

    VM_PROT_NONE removes them; with write it does nothing. Modified and accessed bits of what is removed go to the page.

    Locks: the page's owner; none of pmaps and lists. Sleeps: for locks.

    Args:
        machine: the machine.
        page: a managed page; of another there is nothing to find.
        prot: VM_PROT_*: what may stay.
    """
    if prot & F.VM_PROT_WRITE:
        return
    keep = prot & (F.VM_PROT_READ | F.VM_PROT_EXECUTE)

    async def visit(pmap: NetBSDPmap, va: int) -> None:
        table = pmap.tables.table(va)
        assert table is not None, "it is mapped"
        if keep:
            await pmap.tables.store(va)
            pmap.protect_pte(table, va, prot)
        else:
            free: list[PhysPage] = []
            lockp = PvLock(machine)
            await pmap.remove_ptes(table, [va], lockp, free)
            await lockp.release()
            if free:
                await pmap.free_tables(free)

    # A mapping that is made meanwhile is no business of this call, unless all are to go.
    while await _each(machine, page, visit) and not keep and page.pv_list:
        pass


async def pmap_is_modified(machine: Machine, page: PhysPage) -> bool:
    """pmap_is_modified: was the page written, by its own word or by that of a mapping? Locks, sleeps: as above."""
    return page.md_modified or await _test(machine, page, F.PG_M)


async def pmap_is_referenced(machine: Machine, page: PhysPage) -> bool:
    """pmap_is_referenced: was the page used, by its own word or by that of a mapping? Locks, sleeps: as above."""
    return page.md_referenced or await _test(machine, page, F.PG_A)


async def pmap_clear_modify(machine: Machine, page: PhysPage) -> bool:
    """pmap_clear_modify: nothing says that the page was written; whether anything did. Locks, sleeps: as above."""
    was = page.md_modified
    page.md_modified = False
    return await _clear(machine, page, F.PG_M) or was


async def pmap_clear_reference(machine: Machine, page: PhysPage) -> bool:
    """pmap_clear_reference: nothing says that the page was used; whether anything did. Locks, sleeps: as above."""
    was = page.md_referenced
    page.md_referenced = False
    return await _clear(machine, page, F.PG_A) or was


async def _test(machine: Machine, page: PhysPage, bit: int) -> bool:
    """pmap_test_attrs of the mappings that there are."""
    found = False

    async def visit(pmap: NetBSDPmap, va: int) -> None:
        nonlocal found
        if not found:
            await pmap.tables.load(va)
            found = bool(pmap.tables.entry(va) & bit)

    await _each(machine, page, visit)
    return found


async def _clear(machine: Machine, page: PhysPage, bit: int) -> bool:
    """pmap_clear_attrs of the mappings that there are."""
    found = False

    async def visit(pmap: NetBSDPmap, va: int) -> None:
        nonlocal found
        await pmap.tables.store(va)
        found |= pmap.clear_bit(va, bit)

    await _each(machine, page, visit)
    return found


async def _each(machine: Machine, page: PhysPage, visit: Visit) -> bool:
    """Visit every mapping of the page, then tell the processors; were there any? Locks: each pmap's in turn."""
    machine.add_page(page)
    keys = list(page.pv_list)
    for key in keys:
        pmap, va = key
        await pmap.acquire()
        if key in page.pv_list:
            await visit(pmap, va)
        await pmap.release()
    for pmap in dict.fromkeys(pmap for pmap, _ in keys):
        await pmap.update()
    return bool(keys)
