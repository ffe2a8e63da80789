"""NetBSD's pages call by call: who may take which page, what may be freed, busy pages, the daemon's rounds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from stressvm import Panic
from stressvm.conform.lone import LoneThread
from stressvm.vm import pages
from stressvm.vm.pages import PAGE_SIZE, Page, PageObject, PageQueue, Swap, UvmPages
from tests.support import every, explore, kinds, outcomes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from stressvm import Kernel


class One(LoneThread):
    """Eight pages, an object with swap, and a thread that nobody disturbs."""

    def __init__(self, npages: int = 8, *, slots: int = 4, start: bool = True, **settings: int) -> None:
        super().__init__()
        self.uvm = UvmPages(self.k, npages, **settings)  # type: ignore[arg-type]
        self.swap = Swap(self.k, slots)
        self.obj = PageObject(self.k, "obj", self.swap)
        if start:
            self.start()

    def alloc(self, flags: int = 0) -> Page | None:
        return self.now(self.uvm.uvm_pagealloc(None, 0, flags))

    def take(self, at: int = 0, flags: int = 0) -> Page:
        """A page of the object."""
        self.now(self.obj.lock.lock())
        page = self.now(self.uvm.uvm_pagealloc(self.obj, at * PAGE_SIZE, flags))
        assert page is not None
        self.now(self.obj.lock.unlock())
        return page

    def free(self, page: Page) -> None:
        self.now(self.uvm.uvm_pagefree(page))

    def with_pageq(self, does: Callable[[Page], None], page: Page) -> None:
        self.now(self.uvm.uvm_pageqlock.lock())
        does(page)
        self.now(self.uvm.uvm_pageqlock.unlock())


@pytest.fixture
def one() -> Iterator[One]:
    made = One()
    yield made
    made.close()


# ---------------------------------------------------------------- uvm_pagealloc: the reserves


def until_none(one: One, flags: int = 0) -> int:
    """How many pages can be had."""
    got = 0
    while one.alloc(flags) is not None:
        got += 1
    return got


@pytest.mark.parametrize(
    ("who", "flags", "priority", "left"),
    [
        ("ordinary", 0, 0, 3),
        ("user of the reserve", pages.UVM_PGA_USERESERVE, 0, 1),
        ("kernel thread", 0, pages.PRI_KTHREAD, 1),
        ("below a kernel thread", 0, pages.PRI_KTHREAD - 1, 3),
        ("daemon", 0, 0, 0),
    ],
)
def test_who_may_take_the_last_pages(who: str, flags: int, priority: int, left: int) -> None:
    one = One(reserve_pagedaemon=1, reserve_kernel=3)
    one.k.threads[0].priority = priority
    one.uvm.daemon_thread = 0 if who == "daemon" else -1
    assert until_none(one, flags) == 8 - left
    assert one.uvm.free.peek() == left
    assert one.uvm.statistics().failed == 1
    one.close()


def test_the_daemons_reserve_is_the_daemons_even_if_it_is_the_larger() -> None:
    one = One(reserve_pagedaemon=4, reserve_kernel=2)
    assert until_none(one) == 4
    assert one.alloc(pages.UVM_PGA_USERESERVE) is None
    one.close()


def test_a_fresh_page_is_busy_clean_and_where_it_was_put(one: One) -> None:
    page = one.take(3)
    assert (page.busy, page.busy_thread, page.clean, page.queue) == (True, 0, True, PageQueue.NONE)
    assert (page.owner, page.offset) == (one.obj, 3 * PAGE_SIZE)
    assert one.uvm.statistics().owned == 1


def test_a_page_for_nobody_is_loose(one: One) -> None:
    page = one.alloc()
    assert page is not None
    assert page.owner is None
    assert one.uvm.statistics().loose == 1


def test_only_zero_gives_zeros(one: One) -> None:
    page = one.alloc()
    assert page is not None
    page.write("secret")
    one.free(page)
    assert one.alloc() is page, "the page freed last is taken first"
    assert page.content == "secret"
    one.free(page)
    assert one.alloc(pages.UVM_PGA_ZERO) is page
    assert (page.content, page.clean) == (pages.ZEROS, False)


def test_zero_prefers_a_page_of_zeros_and_others_leave_it(one: One) -> None:
    zeros = one.alloc()
    assert zeros is not None
    zeros.zero()
    zeros.zeroed = True
    one.free(zeros)
    other = one.alloc()
    assert other is not zeros
    assert one.alloc(pages.UVM_PGA_ZERO) is zeros


def test_colours_go_round_unless_one_is_asked_for() -> None:
    one = One(npages=16, ncolors=4)
    first = [one.alloc() for _ in range(5)]
    assert [page.number % 4 for page in first if page is not None] == [0, 1, 2, 3, 0]
    matched = one.now(one.uvm.uvm_pagealloc(None, 3 * PAGE_SIZE, pages.UVM_FLAG_COLORMATCH))
    assert matched is not None
    assert matched.number % 4 == 3
    after = one.alloc()
    assert after is not None
    assert after.number % 4 == 0
    one.close()


def test_another_colour_is_taken_when_one_is_out() -> None:
    one = One(npages=8, ncolors=4, reserve_pagedaemon=0, reserve_kernel=0)
    got = [one.now(one.uvm.uvm_pagealloc(None, PAGE_SIZE, pages.UVM_FLAG_COLORMATCH)) for _ in range(4)]
    assert [page.number % 4 for page in got if page is not None] == [1, 1, 2, 2]
    one.close()


def test_an_offset_is_page_aligned_and_the_object_locked(one: One) -> None:
    with pytest.raises(Panic, match="0x1 is not page aligned"):
        one.now(one.uvm.uvm_pagealloc(None, 1))


def test_the_object_is_locked(one: One) -> None:
    with pytest.raises(Panic, match="the lock of obj is not held"):
        one.now(one.uvm.uvm_pagealloc(one.obj, 0))


def test_an_interrupt_handler_may_allocate() -> None:
    def build(k: Kernel) -> None:
        uvm = UvmPages(k, 4)

        async def interrupt() -> None:
            page = await uvm.uvm_pagealloc(None, 0, pages.UVM_PGA_USERESERVE)
            assert page is not None
            await uvm.uvm_pagefree(page)
            k.record(did="done")

        k.spawn(interrupt, name="i", interrupt=True)

    assert outcomes(every(build)) == {("i done",)}


# ---------------------------------------------------------------- uvm_pagefree


def test_freeing_takes_a_page_from_everything(one: One) -> None:
    page = one.take()
    one.with_pageq(one.uvm.uvm_pageactivate, page)
    one.now(one.obj.lock.lock())
    one.now(one.uvm.uvm_pageqlock.lock())
    one.free(page)
    assert (page.owner, page.busy, page.queue) == (None, False, PageQueue.FREE)
    assert len(one.obj.pages) == 0
    told = one.uvm.statistics()
    assert (told.free, told.active, told.freed) == (8, 0, 1)


def test_freeing_unwires(one: One) -> None:
    page = one.alloc()
    assert page is not None
    one.with_pageq(one.uvm.uvm_pagewire, page)
    assert one.uvm.statistics().wired == 1
    one.free(page)
    assert (page.wire_count, one.uvm.statistics().wired) == (0, 0)


def free_twice(one: One, page: Page) -> None:
    one.now(one.obj.lock.lock())
    one.free(page)
    one.free(page)


def free_mapped(one: One, page: Page) -> None:
    page.pv_list["va"] = "here"
    one.now(one.obj.lock.lock())
    one.free(page)


def free_anothers(one: One, page: Page) -> None:
    page.busy_thread = 1
    one.k.spawn(one._nothing, name="other")
    one.free(page)


def free_unlocked(one: One, page: Page) -> None:
    one.free(page)


def free_queued(one: One, page: Page) -> None:
    one.with_pageq(one.uvm.uvm_pageactivate, page)
    one.now(one.obj.lock.lock())
    one.free(page)


def free_pageout(one: One, page: Page) -> None:
    page.pageout = True
    one.free(page)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (free_twice, "freeing free page"),
        (free_mapped, "is mapped"),
        (free_anothers, "is busy by other"),
        (free_unlocked, "the lock of obj is not held"),
        (free_queued, "uvm_pageqlock is not held"),
        (free_pageout, "is being paged out"),
    ],
)
def test_what_may_not_be_freed(one: One, wrong: Callable[[One, Page], None], said: str) -> None:
    with pytest.raises(Panic, match=said):
        wrong(one, one.take())
    for thread in one.k.threads[1:]:
        thread.coro.close()


# ---------------------------------------------------------------- queues and wiring


def on(page: Page) -> PageQueue:
    """The queue that it is on now."""
    return page.queue


def test_pages_are_on_one_queue_and_wired_ones_on_none(one: One) -> None:
    page = one.take()
    page.md_referenced = True
    one.with_pageq(one.uvm.uvm_pageactivate, page)
    assert on(page) is PageQueue.ACTIVE
    one.with_pageq(one.uvm.uvm_pagedeactivate, page)
    assert (on(page), page.md_referenced) == (PageQueue.INACTIVE, False)
    one.with_pageq(one.uvm.uvm_pagewire, page)
    one.with_pageq(one.uvm.uvm_pagewire, page)
    one.with_pageq(one.uvm.uvm_pageactivate, page)
    assert on(page) is PageQueue.NONE
    one.with_pageq(one.uvm.uvm_pageunwire, page)
    assert on(page) is PageQueue.NONE
    one.with_pageq(one.uvm.uvm_pageunwire, page)
    assert on(page) is PageQueue.ACTIVE
    one.with_pageq(one.uvm.uvm_pagedequeue, page)
    assert on(page) is PageQueue.NONE
    with pytest.raises(Panic, match="is not wired"):
        one.with_pageq(one.uvm.uvm_pageunwire, page)


@pytest.mark.parametrize("name", ["uvm_pageactivate", "uvm_pagedeactivate", "uvm_pagedequeue", "uvm_pagewire"])
def test_the_queues_are_locked(one: One, name: str) -> None:
    with pytest.raises(Panic, match="uvm_pageqlock is not held"):
        getattr(one.uvm, name)(one.take())


# ---------------------------------------------------------------- busy pages


def test_unbusying_needs_a_busy_page_and_its_lock(one: One) -> None:
    page = one.take()
    with pytest.raises(Panic, match="the lock of obj is not held"):
        one.now(one.uvm.uvm_page_unbusy((page,)))


def test_unbusying_twice(one: One) -> None:
    page = one.take()
    one.now(one.obj.lock.lock())
    one.now(one.uvm.uvm_page_unbusy((page,)))
    assert not page.busy
    with pytest.raises(Panic, match="is not busy"):
        one.now(one.uvm.uvm_page_unbusy((page,)))


def test_nobody_waits_for_a_page_that_is_not_busy(one: One) -> None:
    page = one.alloc()
    assert page is not None
    with pytest.raises(Panic, match="is nobody's, or not busy"):
        one.now(one.uvm.uvm_pagewait(page, "test"))


def test_who_waits_for_a_busy_page_holds_no_lock_and_looks_again() -> None:
    def build(k: Kernel) -> None:
        uvm = UvmPages(k, 6)
        obj = PageObject(k, "obj")
        (page,) = uvm.fill(obj, 1)

        async def has() -> None:
            await obj.lock.lock()
            page.set_busy(k.cur)
            await obj.lock.unlock()
            await obj.lock.lock()
            await uvm.uvm_page_unbusy((page,))
            await obj.lock.unlock()

        async def wants() -> None:
            await obj.lock.lock()
            if page.busy:
                await uvm.uvm_pagewait(page, "test")
                assert not obj.lock.owned()
                k.record(did="waited")
            else:
                await obj.lock.unlock()
                k.record(did="found it free")

        k.spawn(has)
        k.spawn(wants, name="t")

    endings = every(build)
    assert kinds(endings) == {None}
    assert outcomes(endings) == {("t waited",), ("t found it free",)}


def test_two_pages_taken_under_one_hold_of_the_lock_are_no_deadlock() -> None:
    def build(k: Kernel) -> None:
        uvm = UvmPages(k, 6)
        obj = PageObject(k, "obj")
        uvm.fill(obj, 2)

        async def both(first: int, second: int) -> None:
            await obj.lock.lock()
            got = [await uvm.uao_get(obj, first), await uvm.uao_get(obj, second)]
            await uvm.uvm_page_unbusy(got)
            await obj.lock.unlock()

        k.spawn(both, 0, PAGE_SIZE, name="up")
        k.spawn(both, PAGE_SIZE, 0, name="down")

    assert kinds(explore(build, 50)) == {None}


def test_a_cycle_through_busy_pages_is_a_deadlock() -> None:
    def build(k: Kernel) -> None:
        uvm = UvmPages(k, 6)
        objs = [PageObject(k, "a"), PageObject(k, "b")]
        for obj in objs:
            uvm.fill(obj, 1)

        async def both(first: PageObject, second: PageObject) -> None:
            got = []
            for obj in (first, second):
                await obj.lock.lock()
                got.append(await uvm.uao_get(obj, 0))
                await obj.lock.unlock()
            for page, obj in zip(got, (first, second), strict=True):
                await obj.lock.lock()
                await uvm.uvm_page_unbusy((page,))
                await obj.lock.unlock()

        k.spawn(both, objs[0], objs[1], name="ab")
        k.spawn(both, objs[1], objs[0], name="ba")

    endings = explore(build, 200)
    assert kinds(endings) == {None, "deadlock"}
    texts = {ending.text for ending in endings if ending.kind}
    assert texts == {"ab sleeps on page1 (uao_get), held by ba; ba sleeps on page0 (uao_get), held by ab"}


# ---------------------------------------------------------------- objects


def test_getting_a_page_makes_it_reads_it_or_finds_it(one: One) -> None:
    one.now(one.obj.lock.lock())
    page = one.now(one.uvm.uao_get(one.obj, 0))
    assert (page.content, page.busy) == (pages.ZEROS, True)
    page.write("data")
    one.now(one.uvm.uvm_page_unbusy((page,)))
    assert one.now(one.uvm.uao_get(one.obj, 0)) is page
    assert page.content == "data"


def test_what_was_paged_out_comes_back() -> None:
    one = One(start=False)
    (page,) = one.uvm.fill(one.obj, 1, queue=PageQueue.INACTIVE, clean=True, content="data")
    one.start()
    one.now(one.obj.lock.lock())
    one.now(one.uvm.uvm_pageqlock.lock())
    one.now(one.uvm.reclaim(page, one.obj, []))
    one.now(one.uvm.uvm_pageqlock.unlock())
    assert (page.queue, one.swap.statistics().only) == (PageQueue.FREE, 1)
    one.now(one.obj.lock.lock())
    back = one.now(one.uvm.uao_get(one.obj, 0))
    assert (back.content, one.swap.statistics().only) == ("data", 0)
    one.close()


def test_a_range_is_removed_with_its_slots() -> None:
    one = One(start=False)
    one.uvm.fill(one.obj, 3, queue=PageQueue.ACTIVE, clean=True)
    one.start()
    one.now(one.uvm.uvm_km_pgremove(one.obj, PAGE_SIZE, 3 * PAGE_SIZE))
    assert [page.pindex for page in one.obj.pages] == [0]
    assert (one.uvm.free.peek(), one.swap.statistics().in_use) == (7, 1)
    one.close()


def test_the_last_reference_takes_pages_and_slots_with_it() -> None:
    one = One(start=False)
    one.uvm.fill(one.obj, 2, queue=PageQueue.ACTIVE, clean=True)
    one.start()
    one.now(one.obj.reference())
    one.now(one.uvm.uao_detach(one.obj))
    assert len(one.obj.pages) == 2
    one.now(one.uvm.uao_detach(one.obj))
    assert (len(one.obj.pages), one.uvm.free.peek(), one.swap.statistics()) == (0, 8, pages.SwapStatistics(4, 0, 0))
    assert repr(one.obj) == "<PageObject obj of 0 pages, 0 references>"
    one.close()


# ---------------------------------------------------------------- the daemon


@pytest.mark.parametrize(
    ("slots", "only", "filepages", "wired", "pageable", "worth"),
    [
        (4, 0, 0, 0, 0, True),
        (4, 4, 0, 0, 0, True),
        (4, 4, 0, 1, 0, False),
        (4, 4, 1, 1, 16, False),
        (4, 4, 2, 1, 16, True),
        (0, 0, 0, 1, 0, False),
    ],
)
def test_is_it_worth_while_to_wait(
    *, slots: int, only: int, filepages: int, wired: int, pageable: int, worth: bool
) -> None:
    one = One(npages=32, slots=slots, start=False, filepages=filepages)
    one.uvm.fill(one.obj, pageable + 1, queue=PageQueue.ACTIVE)
    page = one.obj.pages.lookup(0)
    assert page is not None
    one.uvm.dequeue(page)
    page.wire_count = one.uvm.wired = wired
    one.swap.only = only
    one.start()
    assert one.now(one.uvm.uvm_reclaimable()) is worth
    one.close()


def round_of(one: One) -> None:
    """A round of the daemon, done by the lone thread."""
    one.uvm.daemon_thread = 0
    one.now(one.uvm.round())


def test_a_round_frees_clean_pages_oldest_first() -> None:
    one = One(start=False, freetarg=2)
    made = one.uvm.fill(one.obj, 8, queue=PageQueue.INACTIVE)
    for page in made:
        page.clean = True
    one.start()
    round_of(one)
    assert one.uvm.free.peek() == 2 << 2
    one.close()


def test_a_round_leaves_used_busy_and_locked_pages(one: One) -> None:
    one = One(start=False, freetarg=8, reserve_kernel=1)
    other = PageObject(one.k, "other")
    used, busy, clean = one.uvm.fill(one.obj, 3, queue=PageQueue.INACTIVE)
    (locked,) = one.uvm.fill(other, 1, queue=PageQueue.INACTIVE)
    used.md_referenced = True
    for page in (used, busy, clean, locked):
        page.clean = True
    one.start()
    busy.set_busy(0)
    one.now(other.lock.lock())
    round_of(one)
    assert [page.owner is None for page in (used, busy, clean, locked)] == [False, False, True, False]
    assert not used.md_referenced
    one.close()


def test_a_round_writes_dirty_pages_out_and_gives_back_those_without_a_slot() -> None:
    one = One(start=False, slots=1, freetarg=8)
    with_slot, without = one.uvm.fill(one.obj, 2, queue=PageQueue.INACTIVE, content="data")
    one.start()
    round_of(one)
    assert (with_slot.pageout, with_slot.busy, with_slot.queue) == (True, True, PageQueue.NONE)
    assert (without.pageout, without.queue, one.uvm.paging) == (False, PageQueue.INACTIVE, 1)
    (cluster,) = one.uvm.aiodone_work
    one.uvm.daemon_thread, one.uvm.aiodone_thread = -1, 0
    with_slot.busy_thread = 0
    one.now(one.uvm.uvm_aio_aiodone_pages(cluster))
    assert (with_slot.queue, one.uvm.paging, one.swap.contents) == (PageQueue.FREE, 0, {1: "data"})
    assert one.swap.statistics() == pages.SwapStatistics(1, 1, 1)
    one.close()


def test_a_page_written_through_a_mapping_is_dirty() -> None:
    one = One(start=False, freetarg=8)
    (page,) = one.uvm.fill(one.obj, 1, queue=PageQueue.INACTIVE, clean=True)
    page.pv_list["va"] = "here"

    async def remove(page: Page) -> None:
        page.pv_list.clear()
        page.md_modified = True

    one.uvm.remove_mappings = remove
    one.start()
    round_of(one)
    assert (page.pageout, page.md_modified, page.pv_list) == (True, False, {})
    one.close()


def test_a_mapped_page_cannot_be_reclaimed_without_a_pmap() -> None:
    one = One(start=False, freetarg=8)
    (page,) = one.uvm.fill(one.obj, 1, queue=PageQueue.INACTIVE, clean=True)
    page.pv_list["va"] = "here"
    one.start()
    with pytest.raises(Panic, match="is still mapped"):
        round_of(one)
    one.close()


def test_a_round_drains_caches_for_what_it_lacks(one: One) -> None:
    for most, left in ((None, 1), (2, 3)):
        one = One(start=False, freetarg=7, reserve_kernel=1)
        one.uvm.hold(5)
        one.uvm.cache_yield = most
        one.start()
        round_of(one)
        assert (one.uvm.held, one.uvm.free.peek()) == (left, 8 - left)
        one.close()


def test_a_round_makes_active_pages_inactive(one: One) -> None:
    one = One(start=False, freetarg=1, reserve_kernel=0)
    one.uvm.fill(one.obj, 4, queue=PageQueue.ACTIVE)
    one.start()
    round_of(one)
    told = one.uvm.statistics()
    assert (told.active, told.inactive) == (2, 2)
    one.close()


def test_the_daemon_that_waits_for_itself_only_pauses() -> None:
    def build(k: Kernel) -> None:
        uvm = UvmPages(k, 2, reserve_pagedaemon=0, reserve_kernel=0)

        async def daemon() -> None:
            uvm.daemon_thread = k.cur
            await uvm.uvm_wait("test")
            k.record(did=f"after {k.now} ticks")

        uvm.fill(None, 2)
        k.spawn(daemon, name="d")

    assert outcomes(every(build)) == {("d after 12 ticks",)}


def test_who_waits_is_counted_and_seen() -> None:
    seen = []

    def build(k: Kernel) -> None:
        uvm = UvmPages(k, 3, reserve_pagedaemon=0, reserve_kernel=1)
        mine = uvm.fill(None, 2)

        async def waits() -> None:
            while await uvm.uvm_pagealloc(None, 0) is None:
                await uvm.uvm_wait("test")

        async def frees() -> None:
            for _ in range(10):
                await k.yield_()
            seen.append(uvm.statistics().waiters)
            await uvm.uvm_pagefree(mine[0])

        uvm.start_daemons()
        k.spawn(waits, name="w")
        k.spawn(frees)

    endings = explore(build, 300)
    assert kinds(endings) == {None}
    assert set(seen) == {(), ("w",)}


def test_without_anything_to_reclaim_waiting_is_a_livelock() -> None:
    """The kernel does the same: the daemon wakes those who wait in vain, and they wait again."""

    def build(k: Kernel) -> None:
        uvm = UvmPages(k, 2)

        async def waits() -> None:
            while await uvm.uvm_pagealloc(None, 0) is None:
                await uvm.uvm_wait("test")

        uvm.start_daemons()
        k.spawn(waits)

    assert kinds(explore(build, 20, max_steps=400)) == {"livelock"}


# ---------------------------------------------------------------- rare ways


def test_the_last_reference_waits_for_a_busy_page_and_takes_what_is_in_swap_only() -> None:
    def build(k: Kernel) -> None:
        uvm = UvmPages(k, 6)
        swap = Swap(k, 4)
        obj = PageObject(k, "obj", swap)
        uvm.fill(obj, 1, clean=True)
        swap.contents[4], swap.only = "gone", 1
        assert obj.pager is not None
        obj.pager.assign(9, 4)

        async def uses() -> None:
            await obj.lock.lock()
            page = obj.pages.lookup(0)
            if page is None:
                await obj.lock.unlock()
                k.record(did="came late")
                return
            page.set_busy(k.cur)
            await obj.lock.unlock()
            await obj.lock.lock()
            assert page.owner is obj
            await uvm.uvm_page_unbusy((page,))
            await obj.lock.unlock()
            k.record(did="used it")

        async def drops() -> None:
            await uvm.uao_detach(obj)
            assert (len(obj.pages), uvm.free.peek(), swap.statistics()) == (0, 6, pages.SwapStatistics(4, 0, 0))

        k.spawn(uses, name="u")
        k.spawn(drops)

    endings = explore(build, 300)
    assert kinds(endings) == {None}
    assert outcomes(endings) == {("u came late",), ("u used it",)}


def test_the_daemon_pauses_when_it_finds_too_many_owners_locked() -> None:
    def build(k: Kernel) -> None:
        uvm = UvmPages(k, 20, freetarg=20)
        obj = PageObject(k, "obj")
        uvm.fill(obj, 18, queue=PageQueue.INACTIVE)

        async def holds() -> None:
            await obj.lock.lock()
            await uvm.uvm_pageqlock.lock()
            await uvm.uvmpd_scan_queue()
            await uvm.uvm_pageqlock.unlock()
            await obj.lock.unlock()
            k.record(did=f"after {k.now} ticks")

        k.spawn(holds, name="h")

    assert outcomes(every(build)) == {("h after 1 ticks",)}


def test_a_full_cluster_is_written_at_once() -> None:
    one = One(start=False, slots=3, freetarg=8, cluster=2)
    one.uvm.fill(one.obj, 3, queue=PageQueue.INACTIVE)
    one.start()
    round_of(one)
    assert [len(cluster) for cluster in one.uvm.aiodone_work] == [2, 1]
    assert one.uvm.paging == 3
    one.close()


def test_pages_that_will_suffice_are_not_written() -> None:
    """With four times the target free or on its way, a dirty page keeps its place."""
    one = One(start=False, freetarg=1, reserve_kernel=0)
    (page,) = one.uvm.fill(one.obj, 1, queue=PageQueue.INACTIVE)
    one.start()
    one.now(one.obj.lock.lock())
    one.now(one.uvm.uvm_pageqlock.lock())
    assert not one.now(one.uvm.reclaim(page, one.obj, []))
    assert (page.queue, page.clean, page.busy, one.obj.lock.owned()) == (PageQueue.INACTIVE, False, False, False)
    one.close()
