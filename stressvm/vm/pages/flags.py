"""Names and numbers of the two kernels' page allocators, with their own spellings.

Source: sys/uvm/uvm_extern.h and sys/sys/param.h of NetBSD 6.99.16; sys/vm/vm_page.h of FreeBSD 10.4 and 13.0, which
agree on all of these.
"""

from __future__ import annotations

from typing import Final

PAGE_SHIFT: Final = 12
PAGE_SIZE: Final = 1 << PAGE_SHIFT

#: NetBSD, uvm_pagealloc: dig into the kernel's reserve; a page of zeros; the colour of the offset, no other first.
UVM_PGA_USERESERVE: Final = 0x0001
UVM_PGA_ZERO: Final = 0x0002
UVM_FLAG_COLORMATCH: Final = 0x4000000

#: NetBSD: threads at least as urgent as this are kernel threads or real time, and may use the kernel's reserve.
PRI_KTHREAD: Final = 96
#: NetBSD: the page daemon's own priority.
PRI_PGDAEMON: Final = 126

#: FreeBSD, vm_page_alloc: the class of a request.
VM_ALLOC_NORMAL: Final = 0
VM_ALLOC_INTERRUPT: Final = 1
VM_ALLOC_SYSTEM: Final = 2
VM_ALLOC_CLASS_MASK: Final = 3
#: FreeBSD: wait for a page and try again; wait, then fail. Version 13 only: 2013's allocator never sleeps.
VM_ALLOC_WAITOK: Final = 0x0008
VM_ALLOC_WAITFAIL: Final = 0x0010
#: FreeBSD: wire the page; a page of zeros is preferred; no object; do not busy the page; never wait (the default).
VM_ALLOC_WIRED: Final = 0x0020
VM_ALLOC_ZERO: Final = 0x0040
VM_ALLOC_NOOBJ: Final = 0x0100
VM_ALLOC_NOBUSY: Final = 0x0200
VM_ALLOC_NOWAIT: Final = 0x8000

#: The contents of a page of zeros, and of one that nobody has written since the machine started.
ZEROS: Final = "zeros"
UNKNOWN: Final = "unknown"
