"""An object that owns pages: a lock, a table, references, perhaps a pager. Enough for both kernels' tests and tools.

Source: struct uvm_object of NetBSD 6.99.16, struct vm_object of FreeBSD. FreeBSD's lock is a reader-writer lock; all
that changes pages holds it for writing, so it is a mutex here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm.kernel.field import Field
from stressvm.kernel.mutex import Mutex
from stressvm.vm.pages.swap import SwapPager
from stressvm.vm.pages.table import PagesOf

if TYPE_CHECKING:
    from stressvm.kernel.kernel import Kernel
    from stressvm.vm.pages.swap import Swap


class PageObject:
    """An object that owns pages. Without swap it is pager-less: the daemon gives its dirty pages back their place.

    Args:
        k: the kernel.
        name: as reports show it.
        swap: where its pages can be written to.
        managed: mappings of its pages are to be recorded.

    Attributes:
        lock: vmobjlock, or the object lock.
        pages: its pages, by index.
        pager: its slots in swap, or None.
        ref_count: who refers to it; under the lock.
    """

    def __init__(self, k: Kernel, name: str, swap: Swap | None = None, *, managed: bool = True) -> None:
        self.k = k
        self.name = name
        self.lock = Mutex(k, f"{name}.lock")
        self.pages = PagesOf(managed=managed, field=Field(k, f"{name}.pages"))
        self.pager = SwapPager(swap) if swap is not None else None
        self.ref_count = 1

    async def reference(self) -> None:
        """uao_reference, vm_object_reference: one more. Locks: takes its own. Sleeps: for that."""
        await self.lock.lock()
        self.ref_count += 1
        await self.lock.unlock()

    def __repr__(self) -> str:
        """Name, pages and references."""
        return f"<{type(self).__name__} {self.name} of {self.pages.resident} pages, {self.ref_count} references>"
