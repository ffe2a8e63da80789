"""Names and numbers of the machine (amd64) and of pmap(9), with the kernels' own spellings."""

from __future__ import annotations

from typing import Final

PAGE_SHIFT: Final = 12
PAGE_SIZE: Final = 1 << PAGE_SHIFT
PAGE_MASK: Final = PAGE_SIZE - 1
#: Entries of a table, at every level.
NPTEPG: Final = 512
PDRSHIFT: Final = 21
#: What one entry of the page directory maps: the size of a superpage.
NBPDR: Final = 1 << PDRSHIFT
PDRMASK: Final = NBPDR - 1
PDPSHIFT: Final = 30
PML4SHIFT: Final = 39
#: One past the highest address that four levels can tell apart, for user addresses.
VM_MAXUSER_ADDRESS: Final = 1 << 47

VM_PROT_NONE: Final = 0x0
VM_PROT_READ: Final = 0x1
VM_PROT_WRITE: Final = 0x2
VM_PROT_EXECUTE: Final = 0x4
VM_PROT_RW: Final = VM_PROT_READ | VM_PROT_WRITE
VM_PROT_ALL: Final = VM_PROT_RW | VM_PROT_EXECUTE

#: FreeBSD's pmap_enter; the low byte of its flags is the access that caused the call, as VM_PROT_*.
PMAP_ENTER_NOSLEEP: Final = 0x100
PMAP_ENTER_WIRED: Final = 0x200
#: What it returns.
KERN_SUCCESS: Final = 0
KERN_FAILURE: Final = 5
KERN_RESOURCE_SHORTAGE: Final = 6

#: NetBSD's pmap_enter; the low bits of its flags are the access that caused the call, as VM_PROT_*.
PMAP_WIRED: Final = 0x10
PMAP_CANFAIL: Final = 0x20
ENOMEM: Final = 12

#: Bits of an entry of the page tables: what the processor knows,
PG_V: Final = 1 << 0
PG_RW: Final = 1 << 1
PG_U: Final = 1 << 2
PG_A: Final = 1 << 5
PG_M: Final = 1 << 6
PG_PS: Final = 1 << 7
PG_G: Final = 1 << 8
PG_NX: Final = 1 << 63
#: what it leaves to the kernel (managed: recorded in its page's pv list; wired; promoted, so that entries for small
#: pages may linger in the TLBs),
PG_MANAGED: Final = 1 << 10
PG_W: Final = 1 << 11
PG_PROMOTED: Final = 1 << 54
#: and the model's own: entered by a call that does no bookkeeping, pmap_kenter and its kin.
PG_RAW: Final = 1 << 53

PG_FRAME: Final = ((1 << 52) - 1) & ~PAGE_MASK
PG_PS_FRAME: Final = ((1 << 52) - 1) & ~PDRMASK
#: In these the 512 entries of a table must agree, or they cannot be one superpage.
PG_PTE_PROMOTE: Final = PG_NX | PG_MANAGED | PG_W | PG_G | PG_M | PG_A | PG_U | PG_RW | PG_V | PG_RAW
#: Both: the page is dirty.
PG_DIRTY: Final = PG_M | PG_RW


def trunc_page(addr: int) -> int:
    """Down to a whole number of pages."""
    return addr & ~PAGE_MASK


def trunc_2mpage(addr: int) -> int:
    """Down to a whole number of superpages."""
    return addr & ~PDRMASK


def words(pte: int) -> str:
    """An entry of the page tables as messages show it: the frame and the names of its bits."""
    if not pte & PG_V:
        return "none"
    names = [name for name, bit in _BITS if pte & bit]
    return f"{pte & (PG_PS_FRAME if pte & PG_PS else PG_FRAME):#x} {'+'.join(names) or 'R'}"


_BITS: Final = (
    ("RW", PG_RW),
    ("NX", PG_NX),
    ("A", PG_A),
    ("M", PG_M),
    ("W", PG_W),
    ("PS", PG_PS),
    ("managed", PG_MANAGED),
    ("raw", PG_RAW),
)
