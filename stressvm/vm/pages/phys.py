"""Physical memory: the page frames, the free list by colour, the paging queues, and the books that are kept of them.

What the two kernels share, which is everything but their protocols. The free count is an atomic cell: code that holds
the lock of the free list peeks at it, code that does not loads it, and that is a visible operation.

Every page is in one of four states, and each is counted apart from the pages themselves, so that one can be checked by
the other:

    free    on the free list;
    owned   in the table of an object;
    loose   of nobody: the kernel's own wired memory, and pages on their way from an object to the free list;
    held    of a cache that the daemon can drain (buffers, pools).

Source: sys/uvm/uvm_page.c of NetBSD 6.99.16; sys/vm/vm_page.c and vm_phys.c of FreeBSD, with one physical domain and
neither reservations, nor per-CPU caches, nor 10.4's cached pages.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from stressvm.kernel.aside import Aside
from stressvm.kernel.cell import Atomic
from stressvm.kernel.errors import UsageError
from stressvm.kernel.field import Field
from stressvm.vm.pages import flags as F  # noqa: N812 - the constants, as the kernels write them
from stressvm.vm.pages.invariants import INVARIANTS, census, nothing_wrong
from stressvm.vm.pages.page import ACTIVE, FREE, INACTIVE, NONE, Page, PageChannel

if TYPE_CHECKING:
    from collections.abc import Callable

    from stressvm.kernel.kernel import Kernel
    from stressvm.vm.pages.page import PageOwner, PageQueue
    from stressvm.vm.pages.shortage import Shortage

#: Where physical memory begins: a multiple of 2 MiB, so that frames can be mapped by superpages.
PHYS_BASE: Final = 0x20_0000

#: Why the lengths of queues, and what is wanted of them, may be read without the queues' lock.
_COUNTS_BENIGN: Final = (
    "whoever allocates looks at how long the queues are without their lock, and counts what he did not get by an atomic "
    "addition: a wrong answer wakes the daemon once too often, or a little later"
)

#: Why the books are kept without a lock that all who do so hold.
_BOOKS_BENIGN: Final = "the books are the model's own; wired pages are counted by atomic additions, or nearly right"


class FreeCount(Atomic):
    """The number of free pages."""

    __slots__ = ()

    async def reserve(self, limit: int) -> int:
        """In one step: one less, if at least `limit` are left before. The count from before, or -1. Sleeps: no.

        Source: sys/vm/vm_page.c of FreeBSD 13.0, vm_domain_allocate (its loop around atomic_fcmpset_int).
        """
        k = self.k
        if k.away(self.ops.cas):
            await k.baton
        old = self.value
        if old < limit:
            k.trace.append((k.cur, self.ops.cas_failed, old))
            return -1
        self.value = old - 1
        k.trace.append((k.cur, self.ops.cas, self.value))
        return old


@dataclass(frozen=True, slots=True)
class PhysStatistics:
    """A snapshot, in pages unless said otherwise.

    Attributes:
        total, free, owned, loose, held: all there are, and how many are in each state.
        wired, active, inactive: wired at least once; on each paging queue.
        waiters: names of the threads that sleep for free pages, in the order in which they would be woken one by one.
        allocated, failed, freed: how many calls did that so far; failed by injection included.
        daemon_woken: how often the daemon was woken.
        reclaimed: pages that the daemon freed.
    """

    total: int
    free: int
    owned: int
    loose: int
    held: int
    wired: int
    active: int
    inactive: int
    waiters: tuple[str, ...]
    allocated: int
    failed: int
    freed: int
    daemon_woken: int
    reclaimed: int


class PhysMem:
    """The frames and the books. The kernels' own `UvmPages`, `VmPages2013` and `VmPages13` are what worlds are made of.

    Args:
        k: the kernel.
        npages: how many frames.
        name: of the count of free pages, as reports show it.
        ncolors: page colours, a power of two.
        shortage: which allocations fail though there are pages; None: none.
        prove: whether all invariants are checked at every release of the free list's lock. Costs O(npages) each time.

    Attributes:
        pages: every frame, in order of physical address.
        free: how many are free. FreeBSD 13 takes a page off the list only after it has been counted out.
        claimed: how many more are on the free list than `free` says, because of that.
        loose, held, wired: see the module, and `PhysStatistics`.
        active, inactive: the paging queues, oldest first, by number of the frame.
        cache: the pages that are held.
        page_is_mapped: the pmap's word on whether a page is mapped, if it keeps mappings elsewhere than in `pv_list`, as
            those by superpages are.
        unmapped_later: how often a page, by number, has been freed by who will unmap it only then, as NetBSD 5.2 does.
        owners: every object that has had pages.
        lowest: the least free count at which an allocation has succeeded, for each kind of request.
    """

    # With so many attributes instances without slots are slow: Python gives each a dictionary of its own.
    __slots__ = (
        "active",
        "allocated",
        "books_field",
        "buckets",
        "cache",
        "claimed",
        "colormask",
        "counts_field",
        "daemon_woken",
        "failed",
        "free",
        "free_field",
        "freed",
        "held",
        "inactive",
        "k",
        "loose",
        "lowest",
        "nextcolor",
        "owners",
        "page_is_mapped",
        "pages",
        "prove",
        "queues_field",
        "reclaimed",
        "shortage",
        "unmapped_later",
        "wired",
    )

    def __init__(
        self,
        k: Kernel,
        npages: int,
        *,
        name: str,
        ncolors: int = 1,
        shortage: Shortage | None = None,
        prove: bool = True,
    ) -> None:
        if npages < 1:
            raise UsageError(f"physical memory of {npages} pages: it needs at least one")
        if ncolors < 1 or ncolors & (ncolors - 1):
            raise UsageError(f"{ncolors} page colours: a power of two is needed")
        self.k = k
        self.free = FreeCount(k, npages, name)
        #: The free list; the paging queues; how long those are.
        self.free_field = Field(k, "free list")
        self.queues_field = Field(k, "paging queues")
        self.counts_field = Field(k, "paging queues, counts", _COUNTS_BENIGN)
        #: What only the books know, and which pages are whose, and wired.
        self.books_field = Field(k, "books of pages", _BOOKS_BENIGN)
        self.shortage = shortage
        self.prove = prove
        self.colormask = ncolors - 1
        first = PHYS_BASE >> F.PAGE_SHIFT
        self.pages = [Page((first + n) << F.PAGE_SHIFT, PageChannel(k, f"page{n}")) for n in range(npages)]
        #: By colour, first those of unknown contents, then those of zeros; the last of a list goes first.
        self.buckets: list[tuple[list[Page], list[Page]]] = [([], []) for _ in range(ncolors)]
        for page in reversed(self.pages):
            page.queue = FREE
            page.books = self.books_field
            self.bucket(page).append(page)
        self.nextcolor = 0
        self.claimed = 0
        self.loose = 0
        self.held = 0
        self.cache: list[Page] = []
        self.wired = 0
        self.active: dict[int, Page] = {}
        self.inactive: dict[int, Page] = {}
        self.unmapped_later: Counter[int] = Counter()
        self.owners: list[PageOwner] = []
        self.page_is_mapped: Callable[[Page], bool] | None = None
        self.lowest: dict[str, int] = {}
        self.allocated = self.failed = self.freed = self.daemon_woken = self.reclaimed = 0

    # ------------------------------------------------------------ the free list

    def bucket(self, page: Page) -> list[Page]:
        """The list of free pages on which this one is, or would be."""
        return self.buckets[page.number & self.colormask][page.zeroed]

    def pop_free(self, color: int, *, zeros: bool) -> Page | None:
        """uvm_pagealloc_pgfl: a page of that colour, else of the next; zeros first, or last. Not counted out yet.

        Locks: the free list's. Sleeps: no.
        """
        self.free_field.write()
        for n in range(self.colormask + 1):
            at = (color + n) & self.colormask
            unknown, zeroed = self.buckets[at]
            wanted = (zeroed or unknown) if zeros else (unknown or zeroed)
            if wanted:
                self.nextcolor = (at + 1) & self.colormask
                page = wanted.pop()
                page.queue = NONE
                return page
        return None

    def push_free(self, page: Page) -> None:
        """A page goes on the free list. Not counted yet. Locks: the free list's. Sleeps: no."""
        self.free_field.write()
        page.queue = FREE
        self.buckets[page.number & self.colormask][page.zeroed].append(page)

    def struck(self) -> bool:
        """Does this allocation fail by injection?"""
        return self.shortage is not None and self.shortage.strikes(self.k)

    def note_taken(self, kind: str, free: int) -> None:
        """An allocation of that kind succeeds, at that free count."""
        self.books_field.write()
        self.allocated += 1
        if free < self.lowest.get(kind, free + 1):
            self.lowest[kind] = free

    def privileged(self, kind: str) -> int:
        """The free count that a request of that kind must leave alone."""
        raise NotImplementedError

    def waiting(self) -> list[int]:
        """The numbers of the threads that sleep for free pages."""
        raise NotImplementedError

    def counted_waiters(self) -> int:
        """How many such sleepers there may be for all that those who wake them know."""
        raise NotImplementedError

    # ------------------------------------------------------------ owners

    def adopt(self, page: Page, owner: PageOwner, pindex: int) -> None:
        """A loose page becomes an object's. Locks: the object's. Sleeps: no."""
        self.books_field.write()
        owner.pages.insert(page, pindex, owner)
        if not owner.pages.listed:
            owner.pages.listed = True
            self.owners.append(owner)
        self.loose -= 1

    def disown(self, page: Page) -> None:
        """A page is taken from its object, and loose. Locks: the object's. Sleeps: no."""
        owner = page.owner
        assert owner is not None, f"{page!r} has no owner"
        self.books_field.write()
        owner.pages.remove(page)
        self.loose += 1

    # ------------------------------------------------------------ the paging queues

    def enqueue(self, page: Page, queue: PageQueue) -> None:
        """To the young end of a paging queue, from another or from none. Locks: the paging queues'. Sleeps: no."""
        self.dequeue(page)
        self.queues_field.write()
        self.counts_field.write()
        page.queue = queue
        (self.active if queue is ACTIVE else self.inactive)[page.number] = page

    def dequeue(self, page: Page) -> None:
        """Off its paging queue, if it is on one. Locks: the paging queues'. Sleeps: no."""
        if not self.paged(page):
            return
        self.queues_field.write()
        self.counts_field.write()
        del (self.active if page.queue is ACTIVE else self.inactive)[page.number]
        page.queue = NONE

    def paged(self, page: Page) -> bool:
        """Is it on a paging queue?"""
        return page.queue is ACTIVE or page.queue is INACTIVE

    def mapped(self, page: Page) -> bool:
        """Is there a managed mapping of the page? Within the caller's step."""
        page.used(write=False)
        return bool(page.pv_list) or (self.page_is_mapped is not None and self.page_is_mapped(page))

    def left_mapped(self, page: Page) -> bool:
        """Is it mapped, and nobody has said that he will see to that later?"""
        return self.mapped(page) and not self.unmapped_later[page.number]

    # ------------------------------------------------------------ while the world is built, and at any time

    def fill(
        self,
        owner: PageOwner | None,
        pages: int,
        *,
        queue: PageQueue = NONE,
        clean: bool = False,
        content: str = "old",
    ) -> list[Page]:
        """While the world is built: pages are in use, from index 0 of an object on, or loose.

        Args:
            owner: whose they are; None: the kernel's own.
            pages: how many.
            queue: the paging queue that they are on.
            clean: what they hold is in backing store; a pager's slots are filled in.
            content: what they hold.

        Returns:
            The pages.
        """
        if self.k.cur >= 0:
            raise UsageError("fill() is for building the world; a running thread allocates")
        if pages > self.free.peek():
            raise UsageError(f"fill({pages} pages): only {self.free.peek()} are free")
        made = []
        at = 0
        for _ in range(pages):
            page = self.pop_free(self.nextcolor, zeros=False)
            assert page is not None, "the free list is as long as its count"
            self.free.poke(self.free.peek() - 1)
            self.loose += 1
            page.write(content)
            if owner is not None:
                while owner.pages.lookup(at) is not None:
                    at += 1
                self.adopt(page, owner, at)
                page.managed = owner.pages.managed
                if clean and owner.pager is not None:
                    self._back(page, owner, at)
            page.clean = clean
            if queue is not NONE:
                self.enqueue(page, queue)
            made.append(page)
        return made

    def _back(self, page: Page, owner: PageOwner, pindex: int) -> None:
        """Its contents are in a slot of its pager, too."""
        assert owner.pager is not None
        swap = owner.pager.swap
        slot = next((n for n in range(1, swap.slots + 1) if n not in swap.contents), 0)
        if not slot:
            raise UsageError(f"fill(clean=True): swap has {swap.slots} slots, all in use")
        swap.contents[slot] = page.content
        owner.pager.assign(pindex, slot)

    def hold(self, pages: int) -> None:
        """While the world is built: so many free pages are in caches that the daemon can drain."""
        self.cache += self.fill(None, pages, content="cached")
        self.loose -= pages
        self.held += pages

    def check(self) -> None:
        """Every invariant, by name; a violation is a panic of kind `invariant`. Locks: the free list's. O(npages)."""
        with Aside(self.k):
            # It looks at all pages, whoever has what locks of theirs.
            self.free_field.read()
            self.queues_field.read()
            self.books_field.read()
            if nothing_wrong(self):
                return
            said = census(self)
            for name, holds in INVARIANTS.items():
                wrong = holds(self, said)
                if wrong is not None:
                    raise self.k.violation(self.free.ident.name, name, wrong)

    def panic(self, text: str) -> Exception:
        """The exception for `raise`, with the thread's name first."""
        th = self.k.threads[self.k.cur]
        return self.k.panic(f"{th.name}: {text}")

    def statistics(self) -> PhysStatistics:
        """All counts."""
        return PhysStatistics(
            total=len(self.pages),
            free=self.free.peek(),
            owned=sum(owner.pages.resident for owner in self.owners),
            loose=self.loose,
            held=self.held,
            wired=self.wired,
            active=len(self.active),
            inactive=len(self.inactive),
            waiters=self.free.names(self.waiting()),
            allocated=self.allocated,
            failed=self.failed,
            freed=self.freed,
            daemon_woken=self.daemon_woken,
            reclaimed=self.reclaimed,
        )
