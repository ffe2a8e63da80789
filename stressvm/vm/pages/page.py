"""A physical page, and the channel on which threads wait for a busy one."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any, Protocol

from stressvm.kernel.sleepq import SleepQueue
from stressvm.kernel.waitq import QueueOps
from stressvm.vm.pages import flags as F  # noqa: N812 - the constants, as the kernels write them

if TYPE_CHECKING:
    from stressvm.kernel.field import Field
    from stressvm.kernel.kernel import Kernel
    from stressvm.kernel.mutex import Mutex
    from stressvm.kernel.op import ObjectId
    from stressvm.vm.pages.swap import SwapPager
    from stressvm.vm.pages.table import PagesOf


class PageQueue(enum.Enum):
    """Which list a page is on; a page is on one at most."""

    NONE = "none"
    FREE = "free"
    ACTIVE = "active"
    INACTIVE = "inactive"


#: The same by themselves: to ask an enum for a member takes ten times as long.
NONE, FREE, ACTIVE, INACTIVE = PageQueue.NONE, PageQueue.FREE, PageQueue.ACTIVE, PageQueue.INACTIVE


class PageOwner(Protocol):
    """What an object must have so that pages can belong to it; `PageObject` has it, a kernel's own object may.

    Attributes:
        name: as reports show it.
        lock: protects `pages`, and the busy and wanted marks of each of them.
        pages: what belongs to it.
        pager: where its pages can be written to, or None: then the daemon cannot take dirty ones.
    """

    @property
    def name(self) -> str:
        """As reports show it."""

    @property
    def lock(self) -> Mutex:
        """Its lock."""

    @property
    def pages(self) -> PagesOf:
        """Its pages."""

    @property
    def pager(self) -> SwapPager | None:
        """Its pager."""


class _PageOps(QueueOps):
    __slots__ = ("busied", "tryxbusy", "tryxbusy_failed", "unbusy", "want")

    def __init__(self, k: Kernel, ident: ObjectId) -> None:
        super().__init__(k, ident, "wakeup_one", "wakeup")
        self.busied = k.op("busied", ident, write=False)
        self.tryxbusy = k.op("tryxbusy", ident, write=True)
        self.tryxbusy_failed = k.op("tryxbusy-failed", ident, write=False)
        self.unbusy = k.op("unbusy", ident, write=True)
        self.want = k.op("want", ident, write=True)


class PageChannel(SleepQueue):
    """The sleepers of a page. FreeBSD changes the busy word without a lock: the atomic operations on it are here.

    Args:
        k: the kernel.
        name: of the page, as reports show it.
    """

    __slots__ = ()

    ops: _PageOps

    def __init__(self, k: Kernel, name: str) -> None:
        self.k = k
        self.ident, self.ops = k.adopt(self, "page", name, _PageOps)
        self.waiters = []

    async def busied(self, page: Page) -> bool:
        """In one step: is the page busy? Sleeps: no."""
        k = self.k
        if k.away(self.ops.busied):
            await k.baton
        k.trace.append((k.cur, self.ops.busied, page.busy))
        return page.busy

    async def tryxbusy(self, page: Page) -> bool:
        """In one step: make the page busy if it is not. Sleeps: no."""
        k = self.k
        if k.away(self.ops.tryxbusy):
            await k.baton
        if page.busy:
            k.trace.append(self.ops.tryxbusy_failed.events[k.cur])
            return False
        page.set_busy(k.cur)
        k.trace.append(self.ops.tryxbusy.events[k.cur])
        return True

    async def want(self, page: Page) -> bool:
        """In one step: if the page is busy, note that it is wanted. Was it? Sleeps: no."""
        k = self.k
        if k.away(self.ops.want):
            await k.baton
        page.wanted = page.busy
        k.trace.append((k.cur, self.ops.want, page.busy))
        return page.busy

    async def unbusy(self, page: Page, *, if_wanted: bool) -> bool:
        """In one step: unless it is wanted and `if_wanted` is false, the page is busy no more. Was it wanted?

        Sleeps: no. Wakes: nobody; that is the caller's next step.
        """
        k = self.k
        if k.away(self.ops.unbusy):
            await k.baton
        wanted = page.wanted
        if if_wanted or not wanted:
            page.set_unbusy()
        k.trace.append((k.cur, self.ops.unbusy, wanted))
        return wanted


class Page:
    """struct vm_page: one page frame.

    Args:
        phys_addr: its physical address, bytes, page aligned.
        channel: where threads wait for it while it is busy; None for a page that nobody waits for.

    Attributes:
        books: declares that the books of physical memory, if it is a part of that, are changed.
        phys_addr: as given.
        number: the page frame's number.
        owner, pindex: the object that it belongs to, if any, and where in that, in pages.
        queue: the list it is on.
        wire_count: how often it is wired; a wired page is on no paging queue.
        busy, wanted: PG_BUSY and PG_WANTED; VPB_SINGLE_EXCLUSIVER and VPB_BIT_WAITERS.
        busy_thread: the number of the thread that made it busy; -1 if it is not, or if I/O did.
        clean: what it holds is in backing store as well, or nowhere needed (PG_CLEAN). FreeBSD's `dirty`, inverted.
        pageout: the daemon is writing it out and will free it (PG_PAGEOUT).
        released: whoever makes it unbusy must free it (PG_RELEASED).
        zeroed: it is known to hold zeros (PG_ZERO); meaningful while it is free.
        content: what it holds, as a tag: `ZEROS`, `UNKNOWN`, or whatever was written there.
        managed: mappings of it are recorded in `pv_list`.
        pv_list: the managed mappings of it, filled by the pmap.
        md_modified, md_referenced: it was written, or used, through one of them; kept by the pmap.
    """

    __slots__ = (
        "_clean",
        "_content",
        "books",
        "busy",
        "busy_thread",
        "channel",
        "managed",
        "md_modified",
        "md_referenced",
        "number",
        "owner",
        "pageout",
        "phys_addr",
        "pindex",
        "pv_list",
        "queue",
        "released",
        "wanted",
        "wire_count",
        "zeroed",
    )

    def __init__(self, phys_addr: int, channel: PageChannel | None = None) -> None:
        assert not phys_addr & (F.PAGE_SIZE - 1), f"physical address {phys_addr:#x} is not page aligned"
        self.phys_addr = phys_addr
        self.number = phys_addr >> F.PAGE_SHIFT
        self.channel = channel
        self.books: Field | None = None
        self.owner: PageOwner | None = None
        self.pindex = 0
        self.queue = NONE
        self.wire_count = 0
        self.busy = False
        self.wanted = False
        self.busy_thread = -1
        self._clean = True
        self.pageout = False
        self.released = False
        self.zeroed = False
        self._content = F.UNKNOWN
        self.managed = True
        self.pv_list: dict[Any, Any] = {}
        self.md_modified = False
        self.md_referenced = False

    @property
    def offset(self) -> int:
        """Where in its owner, bytes."""
        return self.pindex << F.PAGE_SHIFT

    @property
    def clean(self) -> bool:
        """See the class. It, and what the page holds, is used without any lock: by processors, and by who has it busy."""
        self.used(write=False)
        return self._clean

    @clean.setter
    def clean(self, clean: bool) -> None:
        self.used(write=True)
        self._clean = clean

    @property
    def content(self) -> str:
        """See the class."""
        self.used(write=False)
        return self._content

    @content.setter
    def content(self, content: str) -> None:
        self.used(write=True)
        self._content = content

    def used(self, *, write: bool) -> None:
        """The current step reads, or changes, what is on its own: the busy word, the dirty bits, what the page holds."""
        channel = self.channel
        if channel is not None:
            k = channel.k
            use = (len(k.trace), k.cur, channel.ident.number, write)
            if k.cur >= 0 and (not k.touched or k.touched[-1] != use):
                k.touched.append(use)
            if write and self.queue is FREE and self.books is not None:
                # Nobody should: that is what the books would show.
                self.books.write()

    def set_busy(self, thread: int) -> None:
        """It is that thread's alone until it is made unbusy. Locks: the owner's, or none for a page just allocated."""
        assert not self.busy, f"{self!r} is busy already"
        self.used(write=True)
        self.busy = True
        self.busy_thread = thread

    def set_unbusy(self) -> None:
        """It is busy no more, and not wanted. Wakes nobody: that is a step of the caller's."""
        self.used(write=True)
        self.busy = self.wanted = False
        self.busy_thread = -1

    def write(self, content: str) -> None:
        """The kernel writes to it: new contents, which are nowhere else. For a page that is busy, or wired, or loose."""
        self.content = content
        self.zeroed = False
        self.clean = False

    def zero(self) -> None:
        """pmap_zero_page: fill it with zeros. Does not say whether it is clean: the two kernels differ."""
        self.content = F.ZEROS

    def __repr__(self) -> str:
        """Frame number, owner and marks."""
        marks = [word for word in ("busy", "wanted", "pageout", "released") if getattr(self, word)]
        if self.wire_count:
            marks.append(f"wired {self.wire_count}")
        if self.owner is not None:
            marks.append(f"at {self.pindex} of {self.owner.name}")
        return f"<Page {self.number:#x} {' '.join((self.queue.value, *marks))}>"
