"""Names and numbers of NetBSD's kernel memory interface, uvm_km(9) and uvm_map(9), with the kernel's own spellings."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

PAGE_SHIFT: Final = 12
PAGE_SIZE: Final = 1 << PAGE_SHIFT

#: Memory types of uvm_km_alloc: exactly one is given.
UVM_KMF_WIRED: Final = 0x1
UVM_KMF_PAGEABLE: Final = 0x2
UVM_KMF_VAONLY: Final = 0x4
UVM_KMF_TYPEMASK: Final = UVM_KMF_VAONLY | UVM_KMF_PAGEABLE | UVM_KMF_WIRED

#: How uvm_km_alloc behaves when something is missing.
UVM_KMF_CANFAIL: Final = 0x8
UVM_KMF_ZERO: Final = 0x10
UVM_KMF_EXEC: Final = 0x20
UVM_KMF_TRYLOCK: Final = 0x200000
UVM_KMF_NOWAIT: Final = 0x400000
UVM_KMF_WAITVA: Final = 0x800000
UVM_KMF_COLORMATCH: Final = 0x4000000

#: The same bits as uvm_map knows them, and its own. The numbers are those of 6. Where 5.2's differ it does not matter,
#: since flags are named; QUANTUM, which 6 does not have, is the bit that 5.2 uses for WAITVA.
UVM_FLAG_FIXED: Final = 0x10000
UVM_FLAG_OVERLAY: Final = 0x20000
UVM_FLAG_NOMERGE: Final = 0x40000
UVM_FLAG_COPYONW: Final = 0x80000
UVM_FLAG_TRYLOCK: Final = UVM_KMF_TRYLOCK
UVM_FLAG_NOWAIT: Final = UVM_KMF_NOWAIT
UVM_FLAG_WAITVA: Final = UVM_KMF_WAITVA
UVM_FLAG_QUANTUM: Final = 0x1000000
UVM_FLAG_VAONLY: Final = 0x2000000
UVM_FLAG_COLORMATCH: Final = UVM_KMF_COLORMATCH

#: No flag of the kernel's: the alignment given to the search is a place within the period of PMAP_PREFER, in bytes.
PMAP_PREFERRED: Final = 1 << 32

#: An offset that is not known (with an object: to be found from the address), or does not matter (without one).
UVM_UNKNOWN_OFFSET: Final = -1

#: uvm_map_extract.
UVM_EXTRACT_REMOVE: Final = 0x01
UVM_EXTRACT_CONTIG: Final = 0x02
UVM_EXTRACT_QREF: Final = 0x04
UVM_EXTRACT_FIXPROT: Final = 0x08
UVM_EXTRACT_RESERVED: Final = 0x10

#: uvm_map_pageable: the map is locked already; it is to stay locked. uvm_map_pageable_all: what is to be wired.
UVM_LK_ENTER: Final = 0x1
UVM_LK_EXIT: Final = 0x2
MCL_CURRENT: Final = 0x1
MCL_FUTURE: Final = 0x2

#: vmem(9): wait for room, or not; how blocks are searched; what vmem_size is asked about.
VM_SLEEP: Final = 0x1
VM_NOSLEEP: Final = 0x2
VM_INSTANTFIT: Final = 0x1000
VM_BESTFIT: Final = 0x2000
VMEM_ALLOC: Final = 0x1
VMEM_FREE: Final = 0x2

#: Flags of a map.
VM_MAP_PAGEABLE: Final = 0x01
VM_MAP_INTRSAFE: Final = 0x02
VM_MAP_WIREFUTURE: Final = 0x04
VM_MAP_DYING: Final = 0x20
VM_MAP_TOPDOWN: Final = 0x40
VM_MAP_VACACHE: Final = 0x80
VM_MAP_WANTVA: Final = 0x100

#: Flags of an entry: those of 6, and two that only 5.2 has.
UVM_MAP_KERNEL: Final = 0x1
UVM_MAP_KMAPENT: Final = 0x2
UVM_MAP_STATIC: Final = 0x4
UVM_MAP_NOMERGE: Final = 0x8
UVM_MAP_QUANTUM: Final = 0x10

#: What an entry is (etype).
UVM_ET_OBJ: Final = 0x1
UVM_ET_SUBMAP: Final = 0x2
UVM_ET_COPYONWRITE: Final = 0x4
UVM_ET_NEEDSCOPY: Final = 0x8

#: Protections, inheritance, advice.
VM_PROT_NONE: Final = 0x0
VM_PROT_READ: Final = 0x1
VM_PROT_WRITE: Final = 0x2
VM_PROT_EXECUTE: Final = 0x4
VM_PROT_ALL: Final = VM_PROT_READ | VM_PROT_WRITE | VM_PROT_EXECUTE
MAP_INHERIT_SHARE: Final = 0
MAP_INHERIT_COPY: Final = 1
MAP_INHERIT_NONE: Final = 2
UVM_ADV_NORMAL: Final = 0
UVM_ADV_RANDOM: Final = 1
UVM_ADV_SEQUENTIAL: Final = 2

#: What a reclaim callback returns: ask the next one, too; or leave it at that.
CALLBACK_CHAIN_CONTINUE: Final = 0
CALLBACK_CHAIN_ABORT: Final = 1

#: Error numbers that the calls return.
EIO: Final = 5
ENOMEM: Final = 12
EACCES: Final = 13
EFAULT: Final = 14
EINVAL: Final = 22
EAGAIN: Final = 35


class Options(enum.Flag):
    """What a kernel is built with, as far as it changes what its maps do. Each map has its own.

    DIAGNOSTIC: KASSERT and its kin panic: the assertions on what a search found; that an entry which leaves the map is
    neither hint nor first_free; that a chain of entries is fit to replace a blank one; that nobody has locked a map for
    writing while its entries were being wired. Without it the kernel goes on with what it has. (Arguments that the
    kernel's assertions forbid panic always: without the assertion they would mean nothing.)
    DEBUG: uvm_mapent_check: an entry has what its type says, at every link, unlink, clip and look-up.
    DEBUG_CHECK_MAP: as DEBUG with `uvm_debug_check_map` set: hint and first_free, before and after every operation.
    DEBUG_CHECK_RBTREE: as DEBUG with `uvm_debug_check_rbtree` set: gaps, counts and order. The check itself is wrong: on
    6 it looks entries up with a comparison that never says "equal", and on 5.2 it holds gaps against the sum of the
    entries. So either panics on maps that are as they should be: 6 on every map with an entry, 5.2 on every gap after an
    entry that is as long as all entries together.
    LOCKDEBUG: on kernel_map, memory with a live lock in it is not unmapped. (What else LOCKDEBUG finds, kernel objects
    find always: use of a lock by who does not hold it, sleeping with a spin mutex held, and so on.)
    """

    NONE = 0
    DIAGNOSTIC = enum.auto()
    DEBUG = enum.auto()
    LOCKDEBUG = enum.auto()
    DEBUG_CHECK_MAP = enum.auto()
    DEBUG_CHECK_RBTREE = enum.auto()


class MapKind(enum.Enum):
    """Which map of the kernel it is, where that matters.

    KERNEL: kernel_map. LOCKDEBUG looks at it, and 5.2 takes its entries out of it.
    SUBMAP: any other map of the kernel's pmap.
    PAGER: pager_map: its entries are allocated before it is locked, and never merge.
    USER: a process's map: address 0 cannot be mapped (6), uvm_km_alloc refuses it, 5.2 has no reclaim callbacks for it.
    """

    KERNEL = "kernel_map"
    SUBMAP = "submap"
    PAGER = "pager_map"
    USER = "user"


@dataclass(frozen=True, slots=True)
class Machine:
    """What depends on the machine. Submaps are on the same one.

    Attributes:
        colors: uvmexp.ncolors: page colours, a power of two.
        prefer: the period of PMAP_PREFER in bytes, a power of two: an address must agree with the offset of what is
            mapped there, modulo this, as virtually indexed caches need it. 0: the port has no PMAP_PREFER.
    """

    colors: int = 1
    prefer: int = 0


def round_page(size: int) -> int:
    """Up to a whole number of pages."""
    return (size + PAGE_SIZE - 1) & ~(PAGE_SIZE - 1)


def trunc_page(size: int) -> int:
    """Down to a whole number of pages."""
    return size & ~(PAGE_SIZE - 1)
