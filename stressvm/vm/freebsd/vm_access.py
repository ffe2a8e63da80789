"""What a program does with its memory: it uses it, and takes page faults on the way.

Source: sys/amd64/amd64/trap.c, trap and trap_pfault; sys/vm/vm_fault.c, vm_fault_trap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm.kernel.errors import UsageError
from stressvm.vm.freebsd import flags as F  # noqa: N812 - the constants, as the kernel writes them
from stressvm.vm.freebsd.addresses import must_fit
from stressvm.vm.pages import Page
from stressvm.vm.pmap import PageFault

if TYPE_CHECKING:
    from stressvm.vm.freebsd.vm_map import VmMap


async def vm_fault(vm_map: VmMap, vaddr: int, fault_type: int, *, wire: bool = False) -> int:
    """Have a page in memory, and mapped for an access.

    The page may have to be made of zeros, read by a pager, or copied; meanwhile the map may be unlocked. Whoever finds the
    page busy, or no free page, sleeps and starts from scratch. In a map without memory it is what the map's `fault` does.

    Locks: none on entry and exit. Sleeps: for locks, for busy pages, for entries in transition, for free pages, for I/O.

    Args:
        vm_map: where.
        vaddr: the address; the offset within its page does not matter.
        fault_type: the access, VM_PROT_*. In a wired entry it is taken to be all that the entry allows.
        wire: VM_FAULT_WIRE: the page is wired as well; the entry must be.

    Returns:
        KERN_SUCCESS; KERN_INVALID_ADDRESS where nothing is mapped; KERN_PROTECTION_FAILURE for an access that is not
        allowed; KERN_RESOURCE_SHORTAGE for no swap; for a page beyond its object KERN_OUT_OF_BOUNDS (10.4:
        KERN_PROTECTION_FAILURE), and for one that cannot be read KERN_OUT_OF_BOUNDS (10.4: KERN_FAILURE).

    Source: sys/vm/vm_fault.c, vm_fault; in 10.4 vm_fault_hold.
    """
    must_fit("vm_fault", vaddr=vaddr)
    result = await vm_map.fault.fault(vm_map, F.trunc_page(vaddr), fault_type, wire=wire)
    vm_map.k.progress()
    return result


async def vmspace_access(vm_map: VmMap, va: int, access: int, content: str | None = None) -> tuple[int, Page | None]:
    """Use memory as a program does: by what its processor remembers, else by the page tables, else by page faults.

    What is read or written at once after the return belongs to the access: no other thread comes in between.

    Locks: none on entry and exit. Sleeps: as vm_fault, as often as it takes.

    Args:
        vm_map: a map with memory.
        va: the address.
        access: VM_PROT_READ, VM_PROT_WRITE or VM_PROT_EXECUTE.
        content: what is written there.

    Returns:
        (KERN_SUCCESS, the page that was used), or what the page fault has failed with, and None: the program gets a signal.

    Source: sys/amd64/amd64/trap.c, trap_pfault.
    """
    must_fit("vmspace_access", va=va)
    pmap = vm_map.pmap
    if pmap is None:
        raise UsageError(f"{vm_map.name} has no memory: make it with memory=Memory(...) to use it")
    while True:
        got = await pmap.access(va, access)
        if not isinstance(got, PageFault):
            assert isinstance(got, Page), "pages are what this memory is made of"
            if content is not None:
                got.content = content
            vm_map.k.progress()
            return F.KERN_SUCCESS, got
        result = await vm_map.fault.fault(vm_map, F.trunc_page(va), access)
        if result:
            return result, None
