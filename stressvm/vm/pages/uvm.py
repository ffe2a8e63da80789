"""NetBSD's struct uvm and struct uvmexp, as far as physical pages need them: locks, channels, counts, and the reserves.

Source: sys/uvm/uvm.h, uvm_extern.h, uvm_page.c and uvm_pdaemon.c (uvmpd_tune) of NetBSD 6.99.16.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm.kernel.mutex import Mutex, SpinMutex
from stressvm.kernel.sleepq import SleepQueue
from stressvm.vm.pages import flags as F  # noqa: N812 - the constants, as the kernel writes them
from stressvm.vm.pages.phys import PhysMem

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from stressvm.kernel.kernel import Kernel
    from stressvm.vm.pages.page import Page
    from stressvm.vm.pages.shortage import Shortage


class Uvm(PhysMem):
    """The state of NetBSD's physical memory, and its rule of who may take which page. Use `UvmPages`.

    Args:
        k: the kernel.
        npages: page frames.
        reserve_pagedaemon: pages that only the daemon may take.
        reserve_kernel: pages that only kernel threads, the daemon, and callers with UVM_PGA_USERESERVE may take.
        freemin: below so many free or soon free pages an allocation wakes the daemon; default reserve_kernel + 1.
        freetarg: so many the daemon tries to have; default a third more than freemin.
        ncolors, shortage, prove: see `PhysMem`.
        remove_mappings: awaited by whoever takes a page away, with the owner's lock held: pmap_page_protect(page,
            VM_PROT_NONE). None: a page that is mapped cannot be reclaimed, and trying to is a panic.
        cluster: pages written to swap at a time.
        filepages: pages of files and programs, for uvm_reclaimable.

    Attributes:
        uvm_fpageqlock: protects the free list, the free count, `waiters` and `paging`.
        uvm_pageqlock: protects the paging queues.
        pagedaemon, free_channel: the channels &uvm.pagedaemon and &uvmexp.free.
        waiters: uvm_pagedaemon_waiters: threads that wait for pages since the daemon last woke them.
        paging: pages on their way to swap.
        inactarg: how many pages should be inactive.
        daemon_thread, aiodone_thread: the numbers of the daemon's thread and of that which finishes pageouts, or -1.
        aiodone_work: the clusters that are being written, each a list of pages with their slots.
        pagermapout: awaited by the I/O thread before it looks at what is done; the real one locks pager_map there.
        cache_yield: what a round of the daemon may get from caches at most; None: what it asks for.
    """

    # With so many attributes instances without slots are slow: Python gives each a dictionary of its own.
    __slots__ = (
        "aiodone_lock",
        "aiodone_queue",
        "aiodone_thread",
        "aiodone_work",
        "bufcache_lock",
        "cache_yield",
        "cluster",
        "daemon_thread",
        "filepages",
        "free_channel",
        "freemin",
        "freetarg",
        "inactarg",
        "pagedaemon",
        "pagermapout",
        "paging",
        "remove_mappings",
        "reserve_kernel",
        "reserve_pagedaemon",
        "uvm_fpageqlock",
        "uvm_pageqlock",
        "waiters",
    )

    def __init__(
        self,
        k: Kernel,
        npages: int,
        *,
        reserve_pagedaemon: int = 1,
        reserve_kernel: int = 2,
        freemin: int | None = None,
        freetarg: int | None = None,
        ncolors: int = 1,
        shortage: Shortage | None = None,
        prove: bool = True,
        remove_mappings: Callable[[Page], Awaitable[None]] | None = None,
        cluster: int = 16,
        filepages: int = 0,
    ) -> None:
        super().__init__(k, npages, name="uvmexp.free", ncolors=ncolors, shortage=shortage, prove=prove)
        self.reserve_pagedaemon = reserve_pagedaemon
        self.reserve_kernel = reserve_kernel
        self.freemin = reserve_kernel + 1 if freemin is None else freemin
        self.freetarg = max(self.freemin * 4 // 3, self.freemin + 1) if freetarg is None else freetarg
        self.inactarg = self.freetarg + 1
        self.uvm_fpageqlock = SpinMutex(k, "uvm_fpageqlock")
        self.uvm_pageqlock = Mutex(k, "uvm_pageqlock")
        self.pagedaemon = SleepQueue(k, "uvm.pagedaemon")
        self.free_channel = SleepQueue(k, "uvmexp.free")
        self.waiters = 0
        self.paging = 0
        self.daemon_thread = -1
        self.aiodone_thread = -1
        self.aiodone_lock = Mutex(k, "aiodone.lock")
        self.aiodone_queue = SleepQueue(k, "aiodone")
        self.aiodone_work: list[list[tuple[Page, int]]] = []
        self.pagermapout: Callable[[], Awaitable[None]] | None = None
        self.remove_mappings = remove_mappings
        self.cluster = cluster
        self.filepages = filepages
        self.bufcache_lock = Mutex(k, "bufcache_lock")
        self.cache_yield: int | None = None

    # ------------------------------------------------------------ the reserves

    def kind_of(self, flags: int) -> str:
        """Who asks: "daemon", "reserve" for those who may use the kernel's reserve, or "ordinary"."""
        me = self.k.cur
        if me == self.daemon_thread >= 0:
            return "daemon"
        if flags & F.UVM_PGA_USERESERVE or (me >= 0 and self.k.threads[me].priority >= F.PRI_KTHREAD):
            return "reserve"
        return "ordinary"

    def allows(self, kind: str, free: int) -> bool:
        """May a request of that kind succeed at that free count? The daemon takes what there is.

        The daemon's own thread is a kernel thread, so it may use the kernel's reserve as well.
        """
        if kind == "daemon":
            return free > 0
        if kind == "ordinary" and free <= self.reserve_kernel:
            return False
        return free > self.reserve_pagedaemon

    def privileged(self, kind: str) -> int:
        """How many pages are reserved for others."""
        if kind == "daemon":
            return 0
        return self.reserve_pagedaemon if kind == "reserve" else max(self.reserve_kernel, self.reserve_pagedaemon)

    async def release_fpageq(self) -> None:
        """Release uvm_fpageqlock, after checking the invariants."""
        if self.prove:
            self.check()
        await self.uvm_fpageqlock.unlock()

    # ------------------------------------------------------------ for the books

    def waiting(self) -> list[int]:
        """Those asleep on &uvmexp.free."""
        self.k.touch(self.free_channel.ident.number, write=False)
        return self.free_channel.waiters

    def counted_waiters(self) -> int:
        """uvm_pagedaemon_waiters."""
        return self.waiters
