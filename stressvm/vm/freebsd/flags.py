"""Names and numbers of FreeBSD's vm_map(9), with the kernel's own spellings (10.4 and 13.0 agree on all of these)."""

from __future__ import annotations

import enum
from typing import Final

PAGE_SHIFT: Final = 12
PAGE_SIZE: Final = 1 << PAGE_SHIFT
#: The size of a superpage, a 2 MiB page of amd64.
NBPDR: Final = 1 << 21
#: The sizes of page that there are.
PAGESIZES: Final = (PAGE_SIZE, NBPDR, 1 << 30)
#: Addresses and lengths are 64 bits wide; sums wrap.
VM_OFFSET_MASK: Final = (1 << 64) - 1

#: What the calls return.
KERN_SUCCESS: Final = 0
KERN_INVALID_ADDRESS: Final = 1
KERN_PROTECTION_FAILURE: Final = 2
KERN_NO_SPACE: Final = 3
KERN_INVALID_ARGUMENT: Final = 4
KERN_FAILURE: Final = 5
KERN_RESOURCE_SHORTAGE: Final = 6
KERN_OUT_OF_BOUNDS: Final = 9

#: Protections, inheritance.
VM_PROT_NONE: Final = 0x0
VM_PROT_READ: Final = 0x1
VM_PROT_WRITE: Final = 0x2
VM_PROT_EXECUTE: Final = 0x4
VM_PROT_RW: Final = VM_PROT_READ | VM_PROT_WRITE
VM_PROT_ALL: Final = VM_PROT_RW | VM_PROT_EXECUTE
VM_INHERIT_SHARE: Final = 0
VM_INHERIT_COPY: Final = 1
VM_INHERIT_NONE: Final = 2
VM_INHERIT_ZERO: Final = 3
VM_INHERIT_DEFAULT: Final = VM_INHERIT_COPY

#: The find_space strategies of vm_map_find, as 10.4 and later number them.
VMFS_NO_SPACE: Final = 0
VMFS_ANY_SPACE: Final = 1
VMFS_OPTIMAL_SPACE: Final = 2
VMFS_SUPER_SPACE: Final = 3

#: Flags of a mapping, the `cow` argument.
MAP_INHERIT_SHARE: Final = 0x0001
MAP_COPY_ON_WRITE: Final = 0x0002
MAP_NOFAULT: Final = 0x0004
MAP_PREFAULT: Final = 0x0008
MAP_PREFAULT_PARTIAL: Final = 0x0010
MAP_PREFAULT_MADVISE: Final = 0x0200
MAP_DISABLE_SYNCER: Final = 0x0020
MAP_CHECK_EXCL: Final = 0x0040
MAP_CREATE_GUARD: Final = 0x0080
MAP_DISABLE_COREDUMP: Final = 0x0100
MAP_WRITECOUNT: Final = 0x0400
MAP_REMAP: Final = 0x0800
MAP_STACK_GROWS_DOWN: Final = 0x1000
MAP_STACK_GROWS_UP: Final = 0x2000
MAP_ACC_CHARGED: Final = 0x4000
MAP_ACC_NO_CHARGE: Final = 0x8000
MAP_CREATE_STACK_GAP_UP: Final = 0x10000
MAP_CREATE_STACK_GAP_DN: Final = 0x20000
MAP_VN_EXEC: Final = 0x40000
#: Which of the sizes of page the mapping is made of and may be clipped at (version 13).
MAP_SPLIT_BOUNDARY_SHIFT: Final = 19
MAP_SPLIT_BOUNDARY_MASK: Final = 0x3 << MAP_SPLIT_BOUNDARY_SHIFT

#: Flags of an entry.
MAP_ENTRY_NOSYNC: Final = 0x0001
MAP_ENTRY_IS_SUB_MAP: Final = 0x0002
MAP_ENTRY_COW: Final = 0x0004
MAP_ENTRY_NEEDS_COPY: Final = 0x0008
MAP_ENTRY_NOFAULT: Final = 0x0010
MAP_ENTRY_USER_WIRED: Final = 0x0020
MAP_ENTRY_IN_TRANSITION: Final = 0x0100
MAP_ENTRY_NEEDS_WAKEUP: Final = 0x0200
MAP_ENTRY_NOCOREDUMP: Final = 0x0400
MAP_ENTRY_VN_EXEC: Final = 0x0800
MAP_ENTRY_GROWS_DOWN: Final = 0x1000
MAP_ENTRY_GROWS_UP: Final = 0x2000
MAP_ENTRY_WIRE_SKIPPED: Final = 0x4000
MAP_ENTRY_WRITECNT: Final = 0x8000
MAP_ENTRY_GUARD: Final = 0x10000

MAP_ENTRY_STACK_GAP_DN: Final = 0x20000
MAP_ENTRY_STACK_GAP_UP: Final = 0x40000
MAP_ENTRY_SPLIT_BOUNDARY_SHIFT: Final = 20
MAP_ENTRY_SPLIT_BOUNDARY_MASK: Final = 0x3 << MAP_ENTRY_SPLIT_BOUNDARY_SHIFT

#: Flags of vm_map_wire and vm_map_unwire, and of vm_map_protect.
VM_MAP_WIRE_SYSTEM: Final = 0
VM_MAP_WIRE_USER: Final = 1
VM_MAP_WIRE_NOHOLES: Final = 0
VM_MAP_WIRE_HOLESOK: Final = 2
VM_MAP_WIRE_WRITE: Final = 4
VM_MAP_PROTECT_SET_PROT: Final = 1
VM_MAP_PROTECT_SET_MAXPROT: Final = 2

#: Flags of a map. (MAP_BUSY_WAKEUP is kept by the map's lock.)
MAP_WIREFUTURE: Final = 0x01
MAP_IS_SUB_MAP: Final = 0x04
MAP_ASLR: Final = 0x08
MAP_ASLR_IGNSTART: Final = 0x10
MAP_REPLENISH: Final = 0x20
MAP_WXORX: Final = 0x40


def VMFS_ALIGNED_SPACE(n: int) -> int:  # noqa: N802 - the kernel's macro
    """The strategy of vm_map_find that aligns to 2^n bytes."""
    return n << 8


def round_page(size: int) -> int:
    """Up to a whole number of pages."""
    return (size + PAGE_SIZE - 1) & ~(PAGE_SIZE - 1) & VM_OFFSET_MASK


def trunc_page(size: int) -> int:
    """Down to a whole number of pages."""
    return size & ~(PAGE_SIZE - 1)


def off_to_idx(offset: int) -> int:
    """The number of the page at an offset."""
    return offset >> PAGE_SHIFT


class Options(enum.Flag):
    """What a kernel is built with, as far as it changes what its maps do. Each map has its own.

    INVARIANTS: KASSERT panics. Without it the kernel goes on with what it has. (Where it could not go on in any way that
    means something, with a lookup that has failed, say, or without the lock, it panics always.)
    """

    NONE = 0
    INVARIANTS = enum.auto()
