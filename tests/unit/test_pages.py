"""Frames, tables, swap, injected shortage, the books, and every invariant by the break that it is there to find."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from stressvm import Kernel, Panic, UsageError
from stressvm.conform.lone import LoneThread
from stressvm.explore.random_walk import RandomWalk
from stressvm.vm import pages
from stressvm.vm.pages import (
    INVARIANTS,
    PAGE_SIZE,
    PHYS_BASE,
    Page,
    PageObject,
    PageQueue,
    PagesOf,
    Shortage,
    Swap,
    UvmPages,
    VmPages13,
    VmPages2013,
    any_pair,
    every_allocation,
    no_shortage,
    nth_allocation,
)
from tests.support import every

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class One(LoneThread):
    """Eight pages of NetBSD's, an object with swap, and a thread that nobody disturbs."""

    def __init__(self, **settings: int | bool) -> None:
        super().__init__()
        self.uvm = UvmPages(self.k, 8, **settings)  # type: ignore[arg-type]
        self.swap = Swap(self.k, 3)
        self.obj = PageObject(self.k, "obj", self.swap)

    def close(self) -> None:
        for thread in self.k.threads:
            thread.coro.close()


@pytest.fixture
def one() -> Iterator[One]:
    made = One()
    yield made
    made.close()


# ---------------------------------------------------------------- a page, and a table of pages


def test_a_page_knows_where_it_is() -> None:
    page = Page(0x7000)
    assert (page.phys_addr, page.number, page.offset) == (0x7000, 7, 0)
    assert (page.busy, page.wanted, page.managed, page.md_modified, page.md_referenced) == (False, False, True) + (
        False,
    ) * 2
    assert (page.pv_list, page.queue) == ({}, PageQueue.NONE)
    page.pindex = 3
    assert page.offset == 3 * PAGE_SIZE


def test_a_physical_address_is_page_aligned() -> None:
    with pytest.raises(AssertionError, match="0x7001 is not page aligned"):
        Page(0x7001)


def test_what_is_written_to_a_page_is_nowhere_else() -> None:
    page = Page(0x7000)
    page.zero()
    page.zeroed = True
    page.write("data")
    assert (page.content, page.zeroed, page.clean) == ("data", False, False)


def test_a_page_is_made_busy_once() -> None:
    page = Page(0x7000)
    page.set_busy(2)
    assert (page.busy, page.busy_thread) == (True, 2)
    with pytest.raises(AssertionError, match="busy already"):
        page.set_busy(3)
    page.wanted = True
    page.set_unbusy()
    assert (page.busy, page.wanted, page.busy_thread) == (False, False, -1)


def test_a_page_is_shown_with_its_marks(one: One) -> None:
    (page,) = one.uvm.fill(one.obj, 1, queue=PageQueue.ACTIVE)
    page.set_busy(0)
    page.wire_count = 2
    assert repr(page) == f"<Page {PHYS_BASE >> 12:#x} active busy wired 2 at 0 of obj>"


def test_frames_begin_at_a_superpage_and_follow_each_other(one: One) -> None:
    assert PHYS_BASE % (1 << 21) == 0
    assert [page.phys_addr for page in one.uvm.pages] == [PHYS_BASE + n * PAGE_SIZE for n in range(8)]


def test_a_table_is_by_index_and_in_order(one: One) -> None:
    table = PagesOf()
    a, b = Page(0x1000), Page(0x2000)
    table.insert(b, 7, one.obj)
    table.insert(a, 2, one.obj)
    assert (table.lookup(7), table.lookup(2), table.lookup(3)) == (b, a, None)
    assert (list(table), len(table), table.resident) == ([a, b], 2, 2)
    assert [table.find_least(at) for at in (0, 2, 3, 8)] == [a, a, b, None]
    table.remove(a)
    assert (a.owner, b.owner, table.resident) == (None, one.obj, 1)


def test_a_table_has_one_page_at_an_index_and_a_page_one_owner(one: One) -> None:
    table = PagesOf()
    page = Page(0x1000)
    table.insert(page, 0, one.obj)
    with pytest.raises(AssertionError, match="has an owner already"):
        table.insert(page, 1, one.obj)
    with pytest.raises(AssertionError, match="has a page at 0 already"):
        table.insert(Page(0x2000), 0, one.obj)
    with pytest.raises(AssertionError, match="not in this table"):
        table.remove(Page(0x3000))


# ---------------------------------------------------------------- swap


def test_slots_are_numbered_from_1_and_used_up(one: One) -> None:
    one.start()
    assert [one.now(one.swap.alloc()) for _ in range(4)] == [1, 2, 3, 0]
    one.now(one.swap.free(2))
    assert one.now(one.swap.alloc()) == 2
    assert one.swap.statistics() == pages.SwapStatistics(3, 3, 0)
    with pytest.raises(AssertionError, match="slot 9 is free already"):
        one.now(one.swap.free(9))


def test_swap_is_full_when_all_of_it_is_nowhere_else(one: One) -> None:
    one.start()
    assert not one.now(one.swap.is_full())
    one.now(one.swap.add_only(3))
    assert one.now(one.swap.is_full())
    assert one.now(Swap(one.k, 0).is_full())


def test_a_pager_remembers_slots_by_page(one: One) -> None:
    pager = one.obj.pager
    assert pager is not None
    assert (pager.assign(4, 2), pager.find(4), pager.count) == (0, 2, 1)
    assert (pager.assign(4, 0), pager.find(4), pager.count) == (2, 0, 0)


# ---------------------------------------------------------------- shortage


def draws(shortage: Shortage, allocations: int) -> set[tuple[bool, ...]]:
    """All patterns of failures of so many allocations."""
    found = set()

    def build(k: Kernel) -> None:
        shortage.asked = shortage.struck = 0

        async def asks() -> None:
            pattern = tuple(shortage.strikes(k) for _ in range(allocations))
            found.add(pattern)
            await k.yield_()

        k.spawn(asks)

    every(build)
    return found


def test_every_allocation_may_fail() -> None:
    assert len(draws(every_allocation(), 3)) == 8


def test_the_nth_allocation_fails_or_may() -> None:
    assert draws(nth_allocation(2), 3) == {(False, True, False)}
    assert draws(nth_allocation(2, certain=False), 3) == {(False, True, False), (False,) * 3}


def test_any_pair_may_fail_and_no_more() -> None:
    found = draws(any_pair(), 4)
    assert {sum(pattern) for pattern in found} == {0, 1, 2}
    assert sum(sum(pattern) == 2 for pattern in found) == 6


def test_nothing_fails_unless_asked_for(one: One) -> None:
    assert one.uvm.shortage is None
    none = no_shortage()
    assert draws(none, 3) == {(False, False, False)}
    assert none.asked == 3


@pytest.mark.parametrize("wrong", [lambda: nth_allocation(0), lambda: Shortage(most=-1)])
def test_a_shortage_makes_sense(wrong: Callable[[], Shortage]) -> None:
    with pytest.raises(UsageError, match="Shortage"):
        wrong()


@pytest.mark.parametrize("cls", [UvmPages, VmPages2013, VmPages13])
def test_an_injected_failure_is_a_failure(cls: type[UvmPages | VmPages2013 | VmPages13]) -> None:
    lone = LoneThread()
    mem = cls(lone.k, 8, shortage=nth_allocation(2))
    lone.start()
    got = []
    for _ in range(3):
        if isinstance(mem, UvmPages):
            got.append(lone.now(mem.uvm_pagealloc(None, 0)))
        else:
            got.append(lone.now(mem.vm_page_alloc(None, 0, pages.VM_ALLOC_NOOBJ)))
    assert [page is None for page in got] == [False, True, False]
    told = mem.statistics()
    assert (told.allocated, told.failed, told.free, told.loose) == (2, 1, 6, 2)
    lone.close()


# ---------------------------------------------------------------- the world's builder, and the books


def test_filling_takes_pages_and_counts_them(one: One) -> None:
    got = one.uvm.fill(one.obj, 3, queue=PageQueue.INACTIVE, clean=True, content="text")
    one.uvm.fill(one.obj, 1, queue=PageQueue.ACTIVE)
    one.uvm.fill(None, 1)
    one.uvm.hold(2)
    told = one.uvm.statistics()
    assert (told.total, told.free, told.owned, told.loose, told.held) == (8, 1, 4, 1, 2)
    assert (told.active, told.inactive, told.wired, told.waiters) == (1, 3, 0, ())
    assert [(page.pindex, page.content, page.clean) for page in got] == [(n, "text", True) for n in range(3)]
    assert one.swap.statistics().in_use == 3
    one.uvm.check()


def test_filling_beyond_what_there_is(one: One) -> None:
    with pytest.raises(UsageError, match=r"fill\(9 pages\): only 8 are free"):
        one.uvm.fill(None, 9)
    with pytest.raises(UsageError, match="swap has 3 slots, all in use"):
        one.uvm.fill(one.obj, 4, clean=True)


def test_a_running_thread_does_not_fill(one: One) -> None:
    one.start()
    with pytest.raises(UsageError, match="a running thread allocates"):
        one.uvm.fill(None, 1)


@pytest.mark.parametrize(("npages", "ncolors"), [(0, 1), (4, 3), (4, 0)])
def test_memory_has_pages_and_a_power_of_two_of_colours(npages: int, ncolors: int) -> None:
    k = Kernel()
    k.reset(RandomWalk(0))
    with pytest.raises(UsageError, match=r"needs at least one|a power of two is needed"):
        UvmPages(k, npages, ncolors=ncolors)


def test_thresholds_ascend() -> None:
    k = Kernel()
    k.reset(RandomWalk(0))
    with pytest.raises(UsageError, match="they must ascend"):
        VmPages13(k, 8, v_free_reserved=5, v_free_min=4)


# ---------------------------------------------------------------- invariants


def forget_a_page(one: One) -> None:
    one.uvm.fill(None, 1)
    one.uvm.loose -= 1


def count_too_many(one: One) -> None:
    one.uvm.free.poke(9)
    one.uvm.held = -1


def list_twice(one: One) -> None:
    one.uvm.buckets[0][0][0] = one.uvm.buckets[0][0][1]


def free_mapped(one: One) -> None:
    one.uvm.pages[0].pv_list["va"] = 1


def free_mapped_elsewhere(one: One) -> None:
    one.uvm.page_is_mapped = lambda page: page.number % 8 == 3


def free_busy(one: One) -> None:
    one.uvm.pages[0].set_busy(0)


def free_wired(one: One) -> None:
    one.uvm.pages[0].wire_count = 1


def free_owned(one: One) -> None:
    one.uvm.pages[0].owner = one.obj


def free_not_zeros(one: One) -> None:
    page = one.uvm.buckets[0][0].pop()
    page.zeroed = True
    one.uvm.buckets[0][1].append(page)


def on_two_queues(one: One) -> None:
    (page,) = one.uvm.fill(one.obj, 1, queue=PageQueue.ACTIVE)
    one.uvm.inactive[page.number] = page


def wired_and_queued(one: One) -> None:
    (page,) = one.uvm.fill(one.obj, 1, queue=PageQueue.ACTIVE)
    page.wire_count = one.uvm.wired = 1


def says_active(one: One) -> None:
    (page,) = one.uvm.fill(one.obj, 1)
    page.queue = PageQueue.ACTIVE


def strays(one: One) -> None:
    (page,) = one.uvm.fill(one.obj, 1)
    page.pindex = 5


def counts_one_more(one: One) -> None:
    one.uvm.fill(one.obj, 1)
    one.uvm.fill(None, 1)
    one.obj.pages.resident += 1
    one.uvm.loose -= 1


def wired_uncounted(one: One) -> None:
    (page,) = one.uvm.fill(one.obj, 1)
    page.wire_count = 1


def wired_below_zero(one: One) -> None:
    (page,) = one.uvm.fill(one.obj, 1)
    page.wire_count = -1


def unknown_sleeper(one: One) -> None:
    one.uvm.free_channel.waiters.append(0)


def dug_too_deep(one: One) -> None:
    one.uvm.note_taken("ordinary", 2)


BREAKS = [
    ("conservation", forget_a_page),
    ("conservation", count_too_many),
    ("free list", list_twice),
    ("free list", free_mapped),
    ("free list", free_mapped_elsewhere),
    ("free list", free_busy),
    ("free list", free_wired),
    ("free list", free_owned),
    ("free list", free_not_zeros),
    ("queues", on_two_queues),
    ("queues", wired_and_queued),
    ("queues", says_active),
    ("owners", strays),
    ("owners", counts_one_more),
    ("wirings", wired_uncounted),
    ("wirings", wired_below_zero),
    ("waiters", unknown_sleeper),
    ("reserves", dug_too_deep),
]


@pytest.mark.parametrize(("name", "breaks"), BREAKS, ids=[f"{name}-{fn.__name__}" for name, fn in BREAKS])
def test_each_invariant_finds_its_break(one: One, name: str, breaks: Callable[[One], None]) -> None:
    one.uvm.check()
    breaks(one)
    with pytest.raises(Panic, match=f"uvmexp.free: {name}: "):
        one.uvm.check()
    assert one.k.trouble is not None
    assert one.k.trouble.kind == "invariant"


def test_there_is_a_break_for_every_invariant() -> None:
    assert {name for name, _ in BREAKS} == set(INVARIANTS)


def test_the_proof_can_be_left_out() -> None:
    for prove in (True, False):
        one = One(prove=prove)
        one.start()
        one.uvm.wired = 1
        if prove:
            with pytest.raises(Panic, match="wirings"):
                one.now(one.uvm.uvm_pagealloc(None, 0))
        else:
            assert one.now(one.uvm.uvm_pagealloc(None, 0)) is not None
        one.close()


def test_all_public_names_are_there() -> None:
    assert len(set(pages.__all__)) == len(pages.__all__)
    for name in pages.__all__:
        assert hasattr(pages, name)
