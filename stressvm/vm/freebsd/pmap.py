"""What the map asks of the machine: where a superpage would fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm.vm.freebsd import flags as F  # noqa: N812 - the constants, as the kernel writes them

if TYPE_CHECKING:
    from stressvm.vm.freebsd.vm_object import VmObject


def pmap_align_superpage(obj: VmObject | None, offset: int, addr: int, size: int) -> int:
    """The address at or above `addr` at which superpages of the object can be mapped as such.

    It need not be a multiple of 2 MiB, but is as far from one as the object's offset, colour included. If the mapping
    cannot hold a whole superpage of the object, `addr` is returned as it is. Addresses wrap. Locks: none. Sleeps: no.
    Returns: that address.

    Source: sys/amd64/amd64/pmap.c, pmap_align_superpage.
    """
    if size < F.NBPDR:
        return addr
    if obj is not None and obj.pg_color is not None:
        offset += obj.pg_color << F.PAGE_SHIFT
    inner = F.NBPDR - 1
    superpage_offset = offset & inner
    if size - ((F.NBPDR - superpage_offset) & inner) < F.NBPDR or addr & inner == superpage_offset:
        return addr
    base = addr if addr & inner < superpage_offset else addr + inner
    return ((base & ~inner) + superpage_offset) & F.VM_OFFSET_MASK
