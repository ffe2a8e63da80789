"""A pmap simulator: processors with TLBs over four-level page tables, as the pmaps of FreeBSD and NetBSD keep them.

    machine = pmap.Machine(k, ncpu=2)
    kernel_pmap = pmap.FreeBSDPmap(machine, "kernel", kernel=True, min_address=BASE, max_address=END, kernel_vm_end=END)
    ...in a thread...
    await kernel_pmap.kenter(va, page.phys_addr)
    got = await kernel_pmap.access(va, pmap.VM_PROT_READ)

`access` is what a program does with its memory: it uses what the processor remembers, right or wrong. What a kernel
promises of the TLBs is checked where it is promised, and every pmap proves its counts and lists whenever its lock is
released.

Calls on a pmap are methods, named as pmap(9) names them without the prefix. Calls on a page are functions, named in full:
FreeBSD's here, NetBSD's in `netbsd_pages`.
"""

from stressvm.vm.pmap import netbsd_pages
from stressvm.vm.pmap.core import PmapCore
from stressvm.vm.pmap.delayed import DelayedInvl
from stressvm.vm.pmap.entries import Entries, PmapSettings
from stressvm.vm.pmap.flags import (
    ENOMEM,
    KERN_FAILURE,
    KERN_RESOURCE_SHORTAGE,
    KERN_SUCCESS,
    NBPDR,
    NPTEPG,
    PAGE_SHIFT,
    PAGE_SIZE,
    PG_A,
    PG_FRAME,
    PG_M,
    PG_MANAGED,
    PG_NX,
    PG_PS,
    PG_RAW,
    PG_RW,
    PG_V,
    PG_W,
    PMAP_CANFAIL,
    PMAP_ENTER_NOSLEEP,
    PMAP_ENTER_WIRED,
    PMAP_WIRED,
    VM_MAXUSER_ADDRESS,
    VM_PROT_ALL,
    VM_PROT_EXECUTE,
    VM_PROT_NONE,
    VM_PROT_READ,
    VM_PROT_RW,
    VM_PROT_WRITE,
    trunc_2mpage,
    trunc_page,
    words,
)
from stressvm.vm.pmap.freebsd_2013 import FreeBSD2013Pmap
from stressvm.vm.pmap.freebsd_pages import (
    FreeBSDPmap,
    pmap_clear_modify,
    pmap_is_modified,
    pmap_is_referenced,
    pmap_page_is_mapped,
    pmap_page_wired_mappings,
    pmap_remove_all,
    pmap_remove_write,
    pmap_ts_referenced,
)
from stressvm.vm.pmap.invariants import INVARIANTS, RECOUNT_MAX
from stressvm.vm.pmap.machine import Machine, MachineStatistics, PvLock, machine
from stressvm.vm.pmap.netbsd import NetBSDPmap
from stressvm.vm.pmap.page import Frame, PhysPage
from stressvm.vm.pmap.tables import Directory, PageTable, PageTables
from stressvm.vm.pmap.tlb import Shootdown, Tlb
from stressvm.vm.pmap.values import PageFault, PmapStatistics, Translation

__all__ = [
    "ENOMEM",
    "INVARIANTS",
    "KERN_FAILURE",
    "KERN_RESOURCE_SHORTAGE",
    "KERN_SUCCESS",
    "NBPDR",
    "NPTEPG",
    "PAGE_SHIFT",
    "PAGE_SIZE",
    "PG_A",
    "PG_FRAME",
    "PG_M",
    "PG_MANAGED",
    "PG_NX",
    "PG_PS",
    "PG_RAW",
    "PG_RW",
    "PG_V",
    "PG_W",
    "PMAP_CANFAIL",
    "PMAP_ENTER_NOSLEEP",
    "PMAP_ENTER_WIRED",
    "PMAP_WIRED",
    "RECOUNT_MAX",
    "VM_MAXUSER_ADDRESS",
    "VM_PROT_ALL",
    "VM_PROT_EXECUTE",
    "VM_PROT_NONE",
    "VM_PROT_READ",
    "VM_PROT_RW",
    "VM_PROT_WRITE",
    "DelayedInvl",
    "Directory",
    "Entries",
    "Frame",
    "FreeBSD2013Pmap",
    "FreeBSDPmap",
    "Machine",
    "MachineStatistics",
    "NetBSDPmap",
    "PageFault",
    "PageTable",
    "PageTables",
    "PhysPage",
    "PmapCore",
    "PmapSettings",
    "PmapStatistics",
    "PvLock",
    "Shootdown",
    "Tlb",
    "Translation",
    "machine",
    "netbsd_pages",
    "pmap_clear_modify",
    "pmap_is_modified",
    "pmap_is_referenced",
    "pmap_page_is_mapped",
    "pmap_page_wired_mappings",
    "pmap_remove_all",
    "pmap_remove_write",
    "pmap_ts_referenced",
    "trunc_2mpage",
    "trunc_page",
    "words",
]
