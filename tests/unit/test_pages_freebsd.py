"""FreeBSD's pages call by call, both versions: who may take which page, what may be freed, busy pages, the daemon."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import pytest

from stressvm import Panic, Timers
from stressvm.conform.lone import LoneThread
from stressvm.vm import pages
from stressvm.vm.pages import PAGE_SIZE, Page, PageObject, PageQueue, Swap, VmPages13, VmPages2013
from tests.support import explore, kinds, outcomes

if TYPE_CHECKING:
    from collections.abc import Callable

    from stressvm import Kernel

Vm: TypeAlias = VmPages2013 | VmPages13
BOTH = pytest.mark.parametrize("cls", [VmPages2013, VmPages13], ids=["2013", "13"])
NOOBJ = pages.VM_ALLOC_NOOBJ


class One(LoneThread):
    """Eight pages, an object with swap, and a thread that nobody disturbs."""

    def __init__(
        self,
        cls: type[Vm],
        npages: int = 8,
        *,
        slots: int = 4,
        start: bool = True,
        managed: bool = True,
        **settings: int,
    ) -> None:
        super().__init__()
        self.vm = cls(self.k, npages, **settings)  # type: ignore[arg-type]
        self.swap = Swap(self.k, slots)
        self.obj = PageObject(self.k, "obj", self.swap, managed=managed)
        if start:
            self.start()

    def alloc(self, req: int = 0) -> Page | None:
        return self.now(self.vm.vm_page_alloc(None, 0, NOOBJ | req))

    def take(self, at: int = 0, req: int = 0) -> Page:
        """A page of the object."""
        self.now(self.obj.lock.lock())
        page = self.now(self.vm.vm_page_alloc(self.obj, at, req))
        assert page is not None
        self.now(self.obj.lock.unlock())
        return page

    def free(self, page: Page) -> None:
        self.now(self.vm.vm_page_free(page))


# ---------------------------------------------------------------- vm_page_alloc


@BOTH
@pytest.mark.parametrize(
    ("req", "daemon", "left"),
    [
        (pages.VM_ALLOC_NORMAL, False, 3),
        (pages.VM_ALLOC_SYSTEM, False, 1),
        (pages.VM_ALLOC_INTERRUPT, False, 0),
        (pages.VM_ALLOC_NORMAL, True, 1),
        (pages.VM_ALLOC_INTERRUPT, True, 0),
    ],
)
def test_who_may_take_the_last_pages(*, cls: type[Vm], req: int, daemon: bool, left: int) -> None:
    one = One(cls, v_interrupt_free_min=1, v_free_reserved=3, v_free_min=4, v_free_target=5)
    one.vm.daemon_thread = 0 if daemon else -1
    got = 0
    while one.alloc(req) is not None:
        got += 1
    assert got == 8 - left
    told = one.vm.statistics()
    assert (told.free, told.loose, told.failed) == (left, 8 - left, 1)
    one.close()


@BOTH
def test_a_request_has_a_class(cls: type[Vm]) -> None:
    one = One(cls)
    with pytest.raises(Panic, match="request 0x103 has no class"):
        one.alloc(3)
    one.close()


@BOTH
def test_a_fresh_page_is_busy_unless_asked_otherwise_and_for_no_object_never(cls: type[Vm]) -> None:
    one = One(cls)
    assert one.take(0).busy
    assert not one.take(1, pages.VM_ALLOC_NOBUSY).busy
    loose = one.alloc()
    assert loose is not None
    assert (loose.busy, loose.managed, loose.owner) == (False, False, None)
    one.close()


@BOTH
def test_pages_of_an_unmanaged_object_are_unmanaged(cls: type[Vm]) -> None:
    one = One(cls, managed=False)
    page = one.take()
    assert not page.managed
    one.now(one.vm.vm_page_activate(page))
    assert page.queue is PageQueue.NONE
    one.close()


@BOTH
def test_a_page_is_wired_from_the_start_if_asked(cls: type[Vm]) -> None:
    one = One(cls)
    page = one.take(0, pages.VM_ALLOC_WIRED)
    assert (page.wire_count, one.vm.statistics().wired) == (1, 1)
    one.close()


@BOTH
def test_zero_is_a_wish_and_the_page_says_whether_it_was_granted(cls: type[Vm]) -> None:
    one = One(cls)
    page = one.take(0, pages.VM_ALLOC_NOBUSY)
    page.write("secret")
    one.now(one.obj.lock.lock())
    one.free(page)
    again = one.alloc(pages.VM_ALLOC_ZERO)
    assert again is page
    assert (page.zeroed, page.content) == (False, "secret")
    page.zero()
    one.now(one.vm.vm_page_free_zero(page))
    assert one.alloc() is not page, "a page of zeros is kept for those who want one"
    assert one.alloc(pages.VM_ALLOC_ZERO) is page
    assert page.zeroed
    one.close()


@BOTH
def test_zeros_are_zeros(cls: type[Vm]) -> None:
    one = One(cls)
    page = one.alloc()
    assert page is not None
    page.write("data")
    with pytest.raises(Panic, match="holds 'data'"):
        one.now(one.vm.vm_page_free_zero(page))
    one.close()


@BOTH
@pytest.mark.parametrize(
    ("obj", "req", "locked", "said"),
    [
        (True, NOOBJ, True, "inconsistent object"),
        (False, 0, True, "inconsistent object"),
        (True, 0, False, "obj is not locked"),
    ],
)
def test_a_request_is_consistent(*, cls: type[Vm], obj: bool, req: int, locked: bool, said: str) -> None:
    one = One(cls)
    if locked:
        one.now(one.obj.lock.lock())
    with pytest.raises(Panic, match=said):
        one.now(one.vm.vm_page_alloc(one.obj if obj else None, 0, req))
    one.close()


@BOTH
def test_there_is_one_page_at_an_index(cls: type[Vm]) -> None:
    one = One(cls)
    one.take(3)
    with pytest.raises(Panic, match="pindex 3 of obj already allocated"):
        one.take(3)
    one.close()


def test_13_does_not_sleep_and_put_a_page_into_an_object() -> None:
    one = One(VmPages13)
    with pytest.raises(Panic, match="Can't sleep and retry object insertion"):
        one.take(0, pages.VM_ALLOC_WAITOK)
    one.close()


# ---------------------------------------------------------------- vm_page_free


def free_twice(one: One, page: Page) -> None:
    one.free(page)
    one.free(page)


def free_mapped(one: One, page: Page) -> None:
    page.pv_list["va"] = "here"
    one.free(page)


def free_anothers(one: One, page: Page) -> None:
    page.busy_thread = 1
    one.free(page)


def free_wired(one: One, page: Page) -> None:
    one.now(one.vm.vm_page_wire(page))
    one.free(page)


def free_unlocked(one: One, page: Page) -> None:
    one.now(one.obj.lock.unlock())
    one.free(page)


@BOTH
@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (free_twice, "freeing free page"),
        (free_mapped, "freeing mapped page"),
        (free_anothers, "freeing busy page"),
        (free_wired, "freeing wired page"),
        (free_unlocked, "obj is not locked"),
    ],
)
def test_what_may_not_be_freed(cls: type[Vm], wrong: Callable[[One, Page], None], said: str) -> None:
    one = One(cls)
    page = one.take()
    one.now(one.obj.lock.lock())
    with pytest.raises(Panic, match=said):
        wrong(one, page)
    one.close()


@BOTH
def test_freeing_takes_a_page_from_everything(cls: type[Vm]) -> None:
    one = One(cls)
    page = one.take()
    one.now(one.vm.vm_page_activate(page))
    one.now(one.obj.lock.lock())
    one.free(page)
    assert (page.owner, page.busy, page.queue) == (None, False, PageQueue.FREE)
    told = one.vm.statistics()
    assert (told.free, told.active, told.owned, told.freed) == (8, 0, 0, 1)
    one.close()


def on(page: Page) -> PageQueue:
    """The queue that it is on now."""
    return page.queue


@BOTH
def test_pages_are_on_one_queue_and_wired_ones_on_none(cls: type[Vm]) -> None:
    one = One(cls)
    page = one.take()
    one.now(one.vm.vm_page_activate(page))
    one.now(one.vm.vm_page_deactivate(page))
    assert (on(page), one.vm.statistics().active) == (PageQueue.INACTIVE, 0)
    one.now(one.vm.vm_page_wire(page))
    one.now(one.vm.vm_page_activate(page))
    assert on(page) is PageQueue.NONE
    one.now(one.vm.vm_page_unwire(page, PageQueue.INACTIVE))
    assert on(page) is PageQueue.INACTIVE
    with pytest.raises(Panic, match="wire count is zero"):
        one.now(one.vm.vm_page_unwire(page, PageQueue.ACTIVE))
    one.close()


# ---------------------------------------------------------------- busy pages


@BOTH
def test_a_page_is_busy_once(cls: type[Vm]) -> None:
    one = One(cls)
    page = one.take()
    assert one.now(one.vm.vm_page_busied(page))
    assert not one.now(one.vm.vm_page_tryxbusy(page))
    one.now(one.vm.vm_page_xunbusy(page))
    assert one.now(one.vm.vm_page_tryxbusy(page))
    one.close()


@BOTH
def test_nobody_sleeps_for_a_page_that_is_not_busy(cls: type[Vm]) -> None:
    one = One(cls)
    page = one.take(0, pages.VM_ALLOC_NOBUSY)
    with pytest.raises(Panic, match="its object is not locked"):
        one.now(one.vm.vm_page_sleep_if_busy(page, "test"))
    one.close()


@BOTH
def test_the_object_is_unlocked_while_asleep_and_locked_afterwards(cls: type[Vm]) -> None:
    def build(k: Kernel) -> None:
        vm = cls(k, 6)
        obj = PageObject(k, "obj")
        (page,) = vm.fill(obj, 1)

        async def has() -> None:
            await obj.lock.lock()
            assert await vm.vm_page_tryxbusy(page)
            await obj.lock.unlock()
            await obj.lock.lock()
            await vm.vm_page_xunbusy(page)
            await obj.lock.unlock()

        async def wants() -> None:
            await obj.lock.lock()
            slept = await vm.vm_page_sleep_if_busy(page, "test")
            assert obj.lock.owned()
            await obj.lock.unlock()
            k.record(did="slept" if slept else "found it free")

        k.spawn(has)
        k.spawn(wants, name="t")

    endings = explore(build, 500)
    assert kinds(endings) == {None}
    assert outcomes(endings) == {("t slept",), ("t found it free",)}


@BOTH
def test_grabbing_makes_one_page_for_all(cls: type[Vm]) -> None:
    def build(k: Kernel) -> None:
        vm = cls(k, 6)
        obj = PageObject(k, "obj")

        async def grabs() -> None:
            await obj.lock.lock()
            page = await vm.vm_page_grab(obj, 0, pages.VM_ALLOC_NORMAL | pages.VM_ALLOC_ZERO)
            assert page.content in (pages.ZEROS, "data")
            page.write("data")
            await obj.lock.unlock()
            await vm.vm_page_xunbusy(page)
            assert vm.free.peek() == 5

        for _ in range(2):
            k.spawn(grabs)

    assert kinds(explore(build, 300)) == {None}


# ---------------------------------------------------------------- waiting


@BOTH
def test_who_waits_is_woken_by_whoever_ends_the_shortage(cls: type[Vm]) -> None:
    seen = set()

    def build(k: Kernel) -> None:
        vm = cls(k, 4, v_interrupt_free_min=0, v_free_reserved=1, v_free_min=2, v_free_target=2)
        mine = vm.fill(None, 3)

        async def waits() -> None:
            while await vm.vm_page_alloc(None, 0, NOOBJ) is None:
                await vm.vm_wait()

        async def frees() -> None:
            for _ in range(8):
                await k.yield_()
            seen.add(vm.statistics().waiters)
            await vm.vm_page_free(mine[0])

        vm.start_daemon()
        k.spawn(waits, name="w")
        k.spawn(frees)

    endings = explore(build, 300)
    assert kinds(endings) <= {None, "rescued-sleep"}
    assert ("w",) in seen


def test_13_waits_within_the_allocation_if_asked() -> None:
    for req, gets in ((pages.VM_ALLOC_WAITOK, "page"), (pages.VM_ALLOC_WAITFAIL, "nothing"), (0, "nothing")):

        def build(k: Kernel, req: int = req) -> None:
            vm = VmPages13(k, 4, v_interrupt_free_min=0, v_free_reserved=1, v_free_min=2, v_free_target=2)
            mine = vm.fill(None, 3)

            async def takes() -> None:
                page = await vm.vm_page_alloc(None, 0, NOOBJ | req)
                k.record(did="page" if page is not None else "nothing")
                await vm.vm_page_free(mine[0])

            async def frees() -> None:
                await vm.vm_page_free(mine[1])

            k.spawn(takes, name="t")
            k.spawn(frees)

        endings = explore(build, 200)
        assert kinds(endings) == {None}
        assert (f"t {gets}",) in outcomes(endings)
        if gets == "page":
            assert outcomes(endings) == {("t page",)}


@BOTH
def test_the_daemon_waits_for_less(cls: type[Vm]) -> None:
    """It is woken as soon as v_pageout_free_min pages are free, when the others still wait."""

    def build(k: Kernel) -> None:
        vm = cls(k, 6, v_free_reserved=3, v_free_min=4, v_free_target=5, v_pageout_free_min=1)
        mine = vm.fill(None, 6)

        async def daemon() -> None:
            await vm.vm_wait()
            k.record(did=f"at {vm.free.peek()}")
            for page in mine[1:]:
                await vm.vm_page_free(page)

        async def frees() -> None:
            await vm.vm_page_free(mine[0])

        vm.daemon_thread = k.spawn(daemon, name="d").number
        k.spawn(frees)

    endings = explore(build, 200)
    assert kinds(endings) <= {None, "lost-wakeup"}
    assert outcomes(ending for ending in endings if not ending.kind) == {("d at 1",)}
    if cls is VmPages13:
        assert kinds(endings) == {None}, "13 looks at the count before it sleeps; 10.4 does not"


# ---------------------------------------------------------------- the daemon


def scan(one: One) -> bool:
    """A scan, done by the lone thread."""
    one.vm.daemon_thread = 0
    one.vm.vmd_pass = 1
    return one.now(one.vm.vm_pageout_scan())


@BOTH
def test_a_scan_frees_clean_pages_until_the_target_is_met(cls: type[Vm]) -> None:
    one = One(cls, start=False)
    one.vm.fill(one.obj, 7, queue=PageQueue.INACTIVE, clean=False)
    for page in one.obj.pages:
        page.clean = True
    one.start()
    assert scan(one)
    assert one.vm.free.peek() == one.vm.v_free_target
    assert [page.pindex for page in one.obj.pages] == [3, 4, 5, 6]
    one.close()


@BOTH
def test_a_scan_leaves_used_busy_wired_and_locked_pages(cls: type[Vm]) -> None:
    one = One(cls, start=False)
    other = PageObject(one.k, "other")
    used, busy, clean = one.vm.fill(one.obj, 3, queue=PageQueue.INACTIVE)
    (locked,) = one.vm.fill(other, 1, queue=PageQueue.INACTIVE)
    one.vm.fill(None, 4)
    used.md_referenced = True
    for page in (used, busy, clean, locked):
        page.clean = True
    one.start()
    busy.set_busy(0)
    one.now(other.lock.lock())
    assert not scan(one)
    assert [page.owner is None for page in (used, busy, clean, locked)] == [False, False, True, False]
    one.close()


@BOTH
def test_a_dirty_page_is_written_first_and_freed_by_the_next_scan(cls: type[Vm]) -> None:
    one = One(cls, start=False, slots=1)
    page, without = one.vm.fill(one.obj, 2, queue=PageQueue.INACTIVE, content="data")
    one.vm.fill(None, 6)
    one.start()
    assert not scan(one)
    assert (page.clean, page.busy, page.queue, one.swap.contents) == (True, False, PageQueue.INACTIVE, {1: "data"})
    assert (without.clean, without.owner) == (False, one.obj)
    scan(one)
    assert (page.queue, one.swap.statistics().only) == (PageQueue.FREE, 1)
    one.close()


@BOTH
def test_mappings_are_removed_before_a_page_is_freed(cls: type[Vm]) -> None:
    one = One(cls, start=False)
    (page,) = one.vm.fill(one.obj, 1, queue=PageQueue.INACTIVE)
    one.vm.fill(None, 7)
    page.clean = True
    page.pv_list["va"] = "here"

    async def remove(page: Page) -> None:
        page.pv_list.clear()

    one.vm.remove_mappings = remove
    one.start()
    scan(one)
    assert (page.queue, page.pv_list) == (PageQueue.FREE, {})
    one.close()


@BOTH
def test_a_mapped_page_cannot_be_reclaimed_without_a_pmap(cls: type[Vm]) -> None:
    one = One(cls, start=False)
    (page,) = one.vm.fill(one.obj, 1, queue=PageQueue.INACTIVE)
    one.vm.fill(None, 7)
    page.pv_list["va"] = "here"
    one.start()
    with pytest.raises(Panic, match="is still mapped"):
        scan(one)
    one.close()


@BOTH
def test_a_scan_drains_caches_first(cls: type[Vm]) -> None:
    for most, left in ((None, 4), (3, 5)):
        one = One(cls, start=False)
        one.vm.hold(8)
        one.vm.cache_yield = most
        one.start()
        assert scan(one) == (most is None)
        assert (one.vm.held, one.vm.free.peek()) == (left, 8 - left)
        one.close()


@BOTH
def test_active_pages_become_inactive_as_far_as_there_is_a_shortage(cls: type[Vm]) -> None:
    one = One(cls, start=False)
    used, old = one.vm.fill(one.obj, 2, queue=PageQueue.ACTIVE)
    used.md_referenced = True
    one.vm.fill(None, 6)
    one.start()
    scan(one)
    assert (used.queue, used.md_referenced, old.queue) == (PageQueue.ACTIVE, False, PageQueue.INACTIVE)
    one.close()


@BOTH
def test_with_nothing_to_reclaim_a_waiter_sleeps_for_ever(cls: type[Vm]) -> None:
    def build(k: Kernel) -> None:
        vm = cls(k, 4)
        vm.fill(None, 4)

        async def waits() -> None:
            while await vm.vm_page_alloc(None, 0, NOOBJ) is None:
                await vm.vm_wait()

        vm.start_daemon()
        k.spawn(waits)

    for timers in (Timers.IDLE, Timers.NEVER):
        assert kinds(explore(build, 30, timers=timers)) == {"exhausted"}


@BOTH
def test_colours_go_round(cls: type[Vm]) -> None:
    one = One(cls, npages=8, ncolors=4)
    got = [one.alloc() for _ in range(5)]
    assert [page.phys_addr // PAGE_SIZE % 4 for page in got if page is not None] == [0, 1, 2, 3, 0]
    one.close()


def test_versions() -> None:
    assert (VmPages2013.version, VmPages13.version) == ("2013", "13")
