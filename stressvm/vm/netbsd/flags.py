"""Names and numbers of NetBSD's kernel memory interface, uvm_km(9) and uvm_map(9), with the kernel's own spellings."""

from __future__ import annotations

import enum
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

#: The same bits as uvm_map knows them, and its own.
UVM_FLAG_FIXED: Final = 0x10000
UVM_FLAG_NOMERGE: Final = 0x80000
UVM_FLAG_TRYLOCK: Final = UVM_KMF_TRYLOCK
UVM_FLAG_NOWAIT: Final = UVM_KMF_NOWAIT
UVM_FLAG_WAITVA: Final = UVM_KMF_WAITVA
UVM_FLAG_COLORMATCH: Final = UVM_KMF_COLORMATCH

#: Flags of a map.
VM_MAP_PAGEABLE: Final = 0x01
VM_MAP_INTRSAFE: Final = 0x02
VM_MAP_WIREFUTURE: Final = 0x04
VM_MAP_DYING: Final = 0x20
VM_MAP_TOPDOWN: Final = 0x40
VM_MAP_WANTVA: Final = 0x100

#: Flags of an entry.
UVM_MAP_KERNEL: Final = 0x1
UVM_MAP_STATIC: Final = 0x4
UVM_MAP_NOMERGE: Final = 0x8

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

#: Error numbers that the calls return.
ENOMEM: Final = 12
EACCES: Final = 13
EINVAL: Final = 22
EAGAIN: Final = 35


class Options(enum.Flag):
    """What a kernel is built with, as far as it changes what its maps do. Each map has its own.

    DIAGNOSTIC: the assertions on what a search found panic. Without it the kernel goes on with what it has.
    (Arguments that the kernel's assertions forbid panic always: without the assertion they would mean nothing.)
    DEBUG, LOCKDEBUG: nothing asks for them yet.
    """

    NONE = 0
    DIAGNOSTIC = enum.auto()
    DEBUG = enum.auto()
    LOCKDEBUG = enum.auto()


def round_page(size: int) -> int:
    """Up to a whole number of pages."""
    return (size + PAGE_SIZE - 1) & ~(PAGE_SIZE - 1)


def trunc_page(size: int) -> int:
    """Down to a whole number of pages."""
    return size & ~(PAGE_SIZE - 1)
