"""The pages of a FreeBSD object: its lock, its table, where their contents come from, and what faults are at work on it.

An object gets these when it is first asked for a page. What the map does to objects (shadow, collapse, split) it does
within one step, so pages that change hands there do so in the same step; that is only done to objects *at rest*, on
which nobody else is at work. The kernel would wait for whoever is, or leave it: here it is left, as all of these save
memory and nothing depends on them. Pages that are to be freed are freed with all locks that this takes, later but before
the thread goes on to anything else: see `Memory.drain`.

Source: sys/vm/vm_object.c of releng/13.0 and release/10.4: vm_object_terminate, vm_object_page_remove, vm_object_unwire,
vm_object_collapse_scan (10.4: vm_object_backing_scan), vm_object_split.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from stressvm.kernel.field import Field
from stressvm.kernel.mutex import Mutex
from stressvm.kernel.op import EVERYTHING
from stressvm.vm.pages import PageQueue, PagesOf, SwapPager

if TYPE_CHECKING:
    from collections.abc import Collection

    from stressvm.kernel.kernel import Kernel
    from stressvm.vm.freebsd.vm_memory import Memory
    from stressvm.vm.freebsd.vm_object import VmObject
    from stressvm.vm.pages import Page

#: Why `valid` and `pip` are used without a lock that all who do so hold.
_PAGING_BENIGN: Final = (
    "who has a page busy marks it valid without the object's lock, and a fault that finds it marked maps it without making it "
    "busy; faults at work are counted by atomic operations"
)


class Pager:
    """Where the pages of an object that is no anonymous memory come from: a file, say. To read it takes I/O.

    Args:
        name: what it is; page 3 holds "name:3".
        missing: the pages, by index, that it has not: they are zeros.
        errors: those that cannot be read.
    """

    __slots__ = ("errors", "missing", "name")

    def __init__(self, name: str = "file", *, missing: Collection[int] = (), errors: Collection[int] = ()) -> None:
        self.name = name
        self.missing = frozenset(missing)
        self.errors = frozenset(errors)

    def content(self, pindex: int) -> str | None:
        """What page `pindex` holds; None if it has no such page."""
        return None if pindex in self.missing else f"{self.name}:{pindex}"


class ObjectPages:
    """What an object has besides its place among objects. It is the owner of its pages (`PageOwner`).

    Args:
        memory: where pages come from.
        name: as reports show it.
        obj: the object; None for the kernel object, which is no part of any map's entries.
        swap: may its pages be written to swap, if there is any?
        managed: mappings of its pages are recorded; False for the kernel object.

    Attributes:
        lock: the object's lock, for writing: it protects all of these.
        pages: its resident pages.
        pager: its slots in swap, or None.
        valid: which pages hold what they should, by index: a page that is not there is being filled, or was not.
        pip: paging_in_progress: how many faults are at work on it.
    """

    __slots__ = ("_pip", "lock", "memory", "name", "obj", "pager", "pages", "paging", "valid")

    def __init__(
        self, memory: Memory, name: str, obj: VmObject | None = None, *, swap: bool = True, managed: bool = True
    ) -> None:
        self.memory = memory
        self.name = name
        self.obj = obj
        self.lock = Mutex(memory.k, f"{name}.lock")
        self.pages = PagesOf(managed=managed, field=Field(memory.k, f"{name}.pages"))
        self.pager = SwapPager(memory.swap) if swap and memory.swap is not None else None
        #: What is marked valid, and how many faults are at work.
        self.paging = Field(memory.k, f"{name}.paging", _PAGING_BENIGN)
        self.valid: dict[int, Page] = {}
        self._pip = 0

    @property
    def k(self) -> Kernel:
        """The kernel."""
        return self.memory.k

    def is_valid(self, page: Page) -> bool:
        """vm_page_all_valid."""
        self.paging.read()
        return self.valid.get(page.pindex) is page

    def validate(self, page: Page) -> None:
        """vm_page_valid. Locks: the page is busy."""
        self.paging.write()
        self.valid[page.pindex] = page

    def invalid(self, pindex: int) -> None:
        """What is at that index now, or will be next, is not valid."""
        self.paging.write()
        self.valid.pop(pindex, None)

    @property
    def pip(self) -> int:
        """See the class."""
        return self._pip

    @pip.setter
    def pip(self, pip: int) -> None:
        self.paging.write()
        self._pip = pip

    def swapped(self, pindex: int) -> int:
        """The slot of swap that holds a page, or 0."""
        return self.pager.find(pindex) if self.pager is not None else 0

    # ------------------------------------------------------------ within the caller's step

    def at_rest(self) -> bool:
        """Is nobody else at work on it: no fault, nobody who holds its lock, no busy page?

        Nor may anybody be about to look at its pages from their queues, or to change its slots.
        """
        self.k.touch(EVERYTHING, write=False)
        if self.pip or any(page.busy for page in self.pages):
            return False
        phys = self.memory.pages
        locks = [self.lock, phys.pagequeue, *([self.pager.swap.lock] if self.pager is not None else [])]
        return all(lock.owner in (-1, self.k.cur) for lock in locks)

    def take_over(self, behind: ObjectPages, shift: int, size: int) -> None:
        """vm_object_collapse_scan: the pages that `behind` has and this one lacks become this one's; the others go.

        Locks: both are at rest.

        Args:
            behind: what this one has shadowed.
            shift: this one's page 0 is that page of `behind`.
            size: of this one, pages.
        """
        resident = {page.pindex for page in behind.pages}
        for page in behind.pages:
            pindex = page.pindex - shift
            mine = self.pages.lookup(pindex)
            if mine is not None and not self.is_valid(mine):
                self.give_up(mine)
                mine = None
            wanted = 0 <= pindex < size and mine is None and not self.swapped(pindex) and behind.is_valid(page)
            if wanted:
                self.take(page, pindex)
            else:
                behind.give_up(page)
        if behind.pager is not None and self.pager is not None:
            for at, slot in list(behind.pager.slots.items()):
                pindex = at - shift
                behind.pager.assign(at, 0)
                if 0 <= pindex < size and self.pages.lookup(pindex) is None and not self.swapped(pindex):
                    self.pager.assign(pindex, slot)
                else:
                    self.memory.forget_slot(slot, only=at not in resident)

    def take_range(self, other: ObjectPages, first: int, size: int) -> None:
        """vm_object_split: `size` pages of another object, from index `first` on, become this one's, from 0 on."""
        for page in other.pages:
            if first <= page.pindex < first + size:
                if other.is_valid(page):
                    self.take(page, page.pindex - first)
                else:
                    other.give_up(page)
        if other.pager is not None and self.pager is not None:
            for at, slot in list(other.pager.slots.items()):
                if first <= at < first + size:
                    other.pager.assign(at, 0)
                    self.pager.assign(at - first, slot)

    def take(self, page: Page, pindex: int) -> None:
        """vm_page_rename: a page of another object becomes this one's. Its mappings stay."""
        owner = page.owner
        assert isinstance(owner, ObjectPages), f"{page!r} is of another kind of object"
        owner.invalid(page.pindex)
        self.memory.pages.disown(page)
        self.memory.pages.adopt(page, self, pindex)
        self.validate(page)

    def give_up(self, page: Page) -> None:
        """A page is to be freed: it belongs to nobody from now on, and is freed soon."""
        self.invalid(page.pindex)
        self.memory.pages.disown(page)
        self.memory.doom(page)

    def give_up_range(self, first: int, end: int) -> None:
        """All pages from index `first` on, below `end`. Locks: the object is at rest."""
        resident = {page.pindex for page in self.pages}
        for page in self.pages:
            if first <= page.pindex < end:
                self.give_up(page)
        if self.pager is not None:
            for at in [at for at in self.pager.slots if first <= at < end]:
                self.memory.forget_slot(self.pager.assign(at, 0), only=at not in resident)

    # ------------------------------------------------------------ with the lock

    async def drop_slots(self, first: int, end: int) -> None:
        """swap_pager_freespace: what is in swap only, of a range, is wanted no more. Locks: the object's, and the swap's."""
        pager = self.pager
        if pager is None:
            return
        for at in sorted(at for at in pager.slots if first <= at < end):
            slot = pager.assign(at, 0)
            await pager.swap.add_only(-1)
            await pager.swap.free(slot)

    async def page_remove(self, first: int, end: int) -> None:
        """vm_object_page_remove: free the pages from index `first` on, below `end`; waits for busy ones.

        Locks: takes the object's, given up while asleep. Sleeps: for that, and for busy pages. No page of the range may
        be mapped or wired.
        """
        phys = self.memory.pages
        await self.lock.lock()
        while True:
            page = next((page for page in self.pages if first <= page.pindex < end), None)
            if page is None:
                break
            if not await phys.vm_page_tryxbusy(page):
                await phys.vm_page_sleep_if_busy(page, "vmopar")
                continue
            # Its slot goes with it: what is in memory as well was never counted as in swap only.
            slot = self.pager.assign(page.pindex, 0) if self.pager is not None else 0
            await self.free(page)
            if slot and self.pager is not None:
                await self.pager.swap.free(slot)
        await self.drop_slots(first, end)
        await self.lock.unlock()

    async def free(self, page: Page) -> None:
        """vm_page_free of one of its pages, busy by this thread. Locks: the object's."""
        self.invalid(page.pindex)
        await self.memory.pages.vm_page_free(page)

    async def terminate(self) -> None:
        """vm_object_terminate: nobody refers to it any more: all its pages are freed.

        Locks: takes the object's. Sleeps: for that, and for the daemon to be done with a page. A page that is wired still
        is a violation: what had wired it is gone.
        """
        for page in self.pages:
            if page.wire_count:
                text = f"{page!r} is wired, and nobody refers to {self.name} any more"
                raise self.k.panic(f"{self.name}: G6 wirings: {text}", "invariant")
        last = max(
            (*(page.pindex for page in self.pages), *(self.pager.slots if self.pager is not None else ())), default=-1
        )
        await self.page_remove(0, last + 1)
        self.memory.stores.remove(self)

    def __repr__(self) -> str:
        """Name and pages."""
        return f"<ObjectPages {self.name} of {self.pages.resident} pages>"


async def vm_object_unwire(memory: Memory, obj: VmObject | None, first: int, pages: int, queue: PageQueue) -> None:
    """Unwire pages of an object, or of those that it shadows, where it has none itself.

    Locks: none of objects on entry and exit; takes those of the chain, from the front on. Sleeps: for those, and for busy
    pages.

    Args:
        memory: where the pages are.
        obj: the object; None: there is nothing to unwire.
        first: the index of the first page.
        pages: how many.
        queue: where pages go that nobody wires any more.

    Source: sys/vm/vm_object.c, vm_object_unwire.
    """
    if obj is None:
        return
    for pindex in range(first, first + pages):
        while not await _unwire_page(memory, obj, pindex, queue):
            pass


async def _unwire_page(memory: Memory, obj: VmObject, pindex: int, queue: PageQueue) -> bool:
    """One page; False: it was busy, and all is to do again."""
    phys = memory.pages
    held: list[ObjectPages] = []
    at: VmObject | None = obj
    page = None
    while at is not None and page is None:
        if at.store is not None:
            await at.store.lock.lock()
            held.append(at.store)
            page = at.store.pages.lookup(pindex)
        if page is None:
            pindex += memory.index(at.backing_object_offset)
            at = at.backing_object
    again = page is not None and await phys.vm_page_busied(page)
    if again:
        assert page is not None, "a busy one"
        for store in held[:-1]:
            await store.lock.unlock()
        await phys.vm_page_busy_sleep(page, "vmobuw")
        return False
    if page is not None:
        await phys.vm_page_unwire(page, queue)
    for store in reversed(held):
        await store.lock.unlock()
    return True
