"""uvm_map_replace and uvm_map_extract, by their names in the kernel.

Source: sys/uvm/uvm_map.c 1.324 ("6") and 1.263.4.5 ("5.2").
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm.kernel.errors import UsageError
from stressvm.vm.netbsd import flags as F  # noqa: N812 - the constants, as the kernel writes them
from stressvm.vm.netbsd.uvm_map import uvm_map_reserve, uvm_unmap

if TYPE_CHECKING:
    from stressvm.vm.netbsd.vm_map import VmMap
    from stressvm.vm.netbsd.vm_map_entry import MapEntry

_PAGE_MASK = F.PAGE_SIZE - 1


def uvm_map_replace(vm_map: VmMap, start: int, end: int, chain: list[MapEntry]) -> bool:
    """Put mappings in the place of a range that uvm_map_reserve has kept for them.

    With no mappings the range becomes free, and nobody who waits for addresses is told. A map in which the blank entry
    was first_free gets the last of the chain for it, even if there are holes before that.

    Locks: the write lock throughout, which the kernel does not assert and the model does. Sleeps: no. Panics, with
    DIAGNOSTIC, on a chain that is out of order or reaches beyond the range.

    Args:
        vm_map: the map.
        start: the first address.
        end: one past the last.
        chain: entries in no list, ascending, within the range.

    Returns:
        True; False unless [start, end) is one blank entry, which may have been longer at its end.

    Source: sys/uvm/uvm_map.c, uvm_map_replace.
    """
    vm_map.must_be_locked("uvm_map_replace", write=True)
    return vm_map.replace(start, end, chain)


async def uvm_map_extract(
    src: VmMap, start: int, length: int, dst: VmMap, *, dstaddr: int = 0, flags: int = 0
) -> tuple[int, int]:
    """Copy the mappings of a range into another map (or elsewhere in the same one), or move them there.

    The place in the destination is reserved first. With the source locked the destination is only tried; if somebody has
    it, the mappings go in once the source is unlocked.

    Locks: none on entry and exit. Sleeps: for the lock of the destination, for that of the source, and once more for that
    of the destination if the try failed; what the last reference to an object does may. Panics on addresses that are not
    page aligned, and on REMOVE with CONTIG or QREF.

    Args:
        src: from where.
        start: the first address, page aligned.
        length: bytes, whole pages.
        dst: to where.
        dstaddr: with RESERVED the address there, which the caller has kept with uvm_map_reserve.
        flags: UVM_EXTRACT_REMOVE: unmap it in the source (which wakes nobody, and leaves the source's size as it was).
            CONTIG: fail if there is a hole. QREF: do not clip the source's entries; what is made of them never merges.
            FIXPROT: with the highest protection that they may have. RESERVED: see `dstaddr`.

    Returns:
        (0, address); or an error and 0, with nothing mapped in the destination: ENOMEM for no room there, or no memory;
        EINVAL for a hole, with CONTIG; EIO if the reserved place is not as it was, and then with REMOVE the source may be
        unmapped already. (With RESERVED that place stays reserved. The kernel leaves the address in *dstaddrp even then.)

    Raises:
        UsageError: a map with memory: what extraction does to pages is not modelled.

    Source: sys/uvm/uvm_map.c, uvm_map_extract.
    """
    k = src.k
    if src.memory is not None or dst.memory is not None:
        raise UsageError(f"uvm_map_extract: {src!r} or {dst!r} has memory, and what becomes of pages is not modelled")
    if (start | length) & _PAGE_MASK:
        raise k.panic(f"uvm_map_extract: KASSERT: {start:#x} and {length:#x} are not whole pages")
    if flags & F.UVM_EXTRACT_REMOVE and flags & (F.UVM_EXTRACT_CONTIG | F.UVM_EXTRACT_QREF):
        raise k.panic("uvm_map_extract: KASSERT: REMOVE with CONTIG or QREF")
    if not flags & F.UVM_EXTRACT_RESERVED:
        found = await uvm_map_reserve(dst, length, dst.min_offset, offset=start)
        if found is None:
            k.progress()
            return F.ENOMEM, 0
        dstaddr = found
    error, chain = await _transfer(src, start, length, dst, dstaddr, flags)
    if error:
        for entry in chain:
            await dst.detach(entry)
        if not flags & F.UVM_EXTRACT_RESERVED:
            await uvm_unmap(dst, dstaddr, dstaddr + length)
    k.progress()
    return error, 0 if error else dstaddr


async def _transfer(
    src: VmMap, start: int, length: int, dst: VmMap, dstaddr: int, flags: int
) -> tuple[int, list[MapEntry]]:
    """Steps 2 to 7: an error, and the copies that have not found their place."""
    end = start + length
    await src.lock.lock()
    error, first, chain = src.extract_chain(start, length, dstaddr, flags)
    if error:
        await src.lock.unlock()
        return error, chain
    replaced = src is dst or await src.try_destination(dst)
    if replaced and not dst.replace(dstaddr, dstaddr + length, chain):
        if src is not dst:
            await dst.lock.unlock()
        await src.lock.unlock()
        return F.EIO, chain
    dead = src.remove_extracted(first, start, end) if flags & F.UVM_EXTRACT_REMOVE else []
    if replaced and src is not dst:
        await dst.lock.unlock()
    await src.finish_unmap(dead)
    if not replaced:
        await dst.lock.lock()
        replaced = dst.replace(dstaddr, dstaddr + length, chain)
        await dst.lock.unlock()
        if not replaced:
            return F.EIO, chain
    return 0, []
