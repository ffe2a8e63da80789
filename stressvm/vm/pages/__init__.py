"""Physical pages: frames, objects that own them, the page daemon as a kernel thread, waiting for pages.

Two kernels' protocols over one set of books (`PhysMem`): NetBSD's `UvmPages`; FreeBSD's `VmPages2013` (10.4) and
`VmPages13` (13.0). Each is made of small methods; a planted defect overrides one of them.

    uvm = UvmPages(k, npages=6, reserve_kernel=1)
    obj = PageObject(k, "obj", Swap(k, slots=4))
    uvm.fill(obj, 4, queue=PageQueue.INACTIVE)
    uvm.start_daemons()
"""

from stressvm.vm.pages.flags import (
    PAGE_SHIFT,
    PAGE_SIZE,
    PRI_KTHREAD,
    PRI_PGDAEMON,
    UNKNOWN,
    UVM_FLAG_COLORMATCH,
    UVM_PGA_USERESERVE,
    UVM_PGA_ZERO,
    VM_ALLOC_CLASS_MASK,
    VM_ALLOC_INTERRUPT,
    VM_ALLOC_NOBUSY,
    VM_ALLOC_NOOBJ,
    VM_ALLOC_NORMAL,
    VM_ALLOC_NOWAIT,
    VM_ALLOC_SYSTEM,
    VM_ALLOC_WAITFAIL,
    VM_ALLOC_WAITOK,
    VM_ALLOC_WIRED,
    VM_ALLOC_ZERO,
    ZEROS,
)
from stressvm.vm.pages.invariants import INVARIANTS
from stressvm.vm.pages.object import PageObject
from stressvm.vm.pages.page import Page, PageChannel, PageOwner, PageQueue
from stressvm.vm.pages.phys import PHYS_BASE, PhysMem, PhysStatistics
from stressvm.vm.pages.shortage import Shortage, any_pair, every_allocation, no_shortage, nth_allocation
from stressvm.vm.pages.swap import Swap, SwapPager, SwapStatistics
from stressvm.vm.pages.table import PagesOf
from stressvm.vm.pages.uvm_pdaemon import UvmPages
from stressvm.vm.pages.vm_pageout import VmPages13, VmPages2013

__all__ = [
    "INVARIANTS",
    "PAGE_SHIFT",
    "PAGE_SIZE",
    "PHYS_BASE",
    "PRI_KTHREAD",
    "PRI_PGDAEMON",
    "UNKNOWN",
    "UVM_FLAG_COLORMATCH",
    "UVM_PGA_USERESERVE",
    "UVM_PGA_ZERO",
    "VM_ALLOC_CLASS_MASK",
    "VM_ALLOC_INTERRUPT",
    "VM_ALLOC_NOBUSY",
    "VM_ALLOC_NOOBJ",
    "VM_ALLOC_NORMAL",
    "VM_ALLOC_NOWAIT",
    "VM_ALLOC_SYSTEM",
    "VM_ALLOC_WAITFAIL",
    "VM_ALLOC_WAITOK",
    "VM_ALLOC_WIRED",
    "VM_ALLOC_ZERO",
    "ZEROS",
    "Page",
    "PageChannel",
    "PageObject",
    "PageOwner",
    "PageQueue",
    "PagesOf",
    "PhysMem",
    "PhysStatistics",
    "Shortage",
    "Swap",
    "SwapPager",
    "SwapStatistics",
    "UvmPages",
    "VmPages13",
    "VmPages2013",
    "any_pair",
    "every_allocation",
    "no_shortage",
    "nth_allocation",
]
