"""FreeBSD's struct vmmeter and struct vm_domain, as far as physical pages need them: thresholds, locks, counts.

Source: sys/sys/vmmeter.h, sys/vm/vm_page.c and vm_pageout.c of release/10.4 and releng/13.0, with one physical domain.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from stressvm.kernel.errors import UsageError
from stressvm.kernel.mutex import Mutex
from stressvm.vm.pages import flags as F  # noqa: N812 - the constants, as the kernel writes them
from stressvm.vm.pages.phys import PhysMem

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from stressvm.kernel.kernel import Kernel
    from stressvm.vm.pages.page import Page
    from stressvm.vm.pages.shortage import Shortage

_KINDS = {F.VM_ALLOC_NORMAL: "normal", F.VM_ALLOC_SYSTEM: "system", F.VM_ALLOC_INTERRUPT: "interrupt"}


class VmMeter(PhysMem):
    """The state of FreeBSD's physical memory, and its rule of who may take which page. Use `VmPages2013`, `VmPages13`.

    The thresholds are counts of free pages, in ascending order; the defaults suit worlds of some ten pages.

    Args:
        k: the kernel.
        npages: page frames.
        v_interrupt_free_min: so many are left alone by all requests but VM_ALLOC_INTERRUPT.
        v_free_reserved: so many are left alone by VM_ALLOC_NORMAL, too.
        v_free_min: with fewer the system is short of pages: those who wait sleep on until there are so many.
        v_free_target: so many the daemon tries to have.
        v_pageout_free_min: the daemon itself, if it has to wait for a page, sleeps until there are so many.
        wakeup_thresh: below so many an allocation wakes the daemon; by default v_free_min.
        ncolors, shortage, prove: see `PhysMem`.
        remove_mappings: awaited before a page is freed by the daemon, its object locked: pmap_remove_all. None: a page
            that is mapped cannot be reclaimed, and trying to is a panic.

    Attributes:
        free_mtx: the lock of the free list: vm_page_queue_free_mtx, or the domain's.
        pagequeue: the lock of the paging queues.
        page_lock: 2013: the page lock; 13: the lock of the chain of sleep queues. One for all pages.
        vm_pageout_deficit: allocations that failed since the daemon last looked.
        daemon_thread: the number of the daemon's thread, or -1.
        cache_yield: what a scan may get from caches at most; None: what it asks for.
        vmd_pass: 2013: how often the daemon has scanned since it last had nothing to do.
    """

    version: ClassVar[str]
    FREE_LOCK: ClassVar[str]
    PAGE_LOCK: ClassVar[str]

    def __init__(
        self,
        k: Kernel,
        npages: int,
        *,
        v_interrupt_free_min: int = 1,
        v_free_reserved: int = 2,
        v_free_min: int = 3,
        v_free_target: int = 4,
        v_pageout_free_min: int = 2,
        wakeup_thresh: int | None = None,
        ncolors: int = 1,
        shortage: Shortage | None = None,
        prove: bool = True,
        remove_mappings: Callable[[Page], Awaitable[None]] | None = None,
    ) -> None:
        super().__init__(k, npages, name="v_free_count", ncolors=ncolors, shortage=shortage, prove=prove)
        if not 0 <= v_interrupt_free_min <= v_free_reserved <= v_free_min <= v_free_target:
            given = f"{v_interrupt_free_min}, {v_free_reserved}, {v_free_min}, {v_free_target}"
            raise UsageError(
                f"v_interrupt_free_min, v_free_reserved, v_free_min, v_free_target = {given}: they must ascend from 0"
            )
        self.v_interrupt_free_min = v_interrupt_free_min
        self.v_free_reserved = v_free_reserved
        self.v_free_min = v_free_min
        self.v_free_target = v_free_target
        self.v_pageout_free_min = v_pageout_free_min
        self.wakeup_thresh = v_free_min if wakeup_thresh is None else wakeup_thresh
        self.remove_mappings = remove_mappings
        self.free_mtx = Mutex(k, self.FREE_LOCK)
        self.pagequeue = Mutex(k, "vm pagequeue")
        self.page_lock = Mutex(k, self.PAGE_LOCK)
        self.vm_pageout_deficit = 0
        self.daemon_thread = -1
        self.cache_yield: int | None = None
        self.vmd_pass = 0
        self.make_waiting()

    def make_waiting(self) -> None:
        """The flags, locks and channels with which a version waits for pages."""
        raise NotImplementedError

    def kind_of(self, req: int) -> str:
        """Who asks: "normal", "system" or "interrupt". The daemon may dig as deep as the system."""
        request = req & F.VM_ALLOC_CLASS_MASK
        if request != F.VM_ALLOC_INTERRUPT and self.k.cur == self.daemon_thread >= 0:
            request = F.VM_ALLOC_SYSTEM
        if request not in _KINDS:
            raise self.panic(f"vm_page_alloc: request {req:#x} has no class")
        return _KINDS[request]

    def limit(self, kind: str) -> int:
        """So many free pages a request of that kind must leave."""
        if kind == "interrupt":
            return 0
        return self.v_interrupt_free_min if kind == "system" else self.v_free_reserved

    def privileged(self, kind: str) -> int:
        """How many pages are reserved for others."""
        reserved = {"interrupt": 0, "system": self.v_interrupt_free_min, "normal": self.v_free_reserved}
        return reserved[kind]

    def vm_page_count_min(self) -> bool:
        """Is the system short of pages? Reads the free count within the caller's step."""
        return self.free.peek() < self.v_free_min

    def vm_paging_needed(self) -> bool:
        """Should the daemon run? Reads the free count within the caller's step."""
        return self.free.peek() < self.wakeup_thresh

    async def release_free(self) -> None:
        """Release the free list's lock, after checking the invariants."""
        if self.prove:
            self.check()
        await self.free_mtx.unlock()

    async def vm_wait(self, wmesg: str = "vmwait") -> None:
        """See the versions."""
        raise NotImplementedError
