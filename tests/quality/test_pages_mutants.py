"""Every step of waiting for pages that the kernels have is there for a reason: without it, a hunt finds a bug.

Each mutant overrides one small method. It is found, as the kind of bug that it is; what the kernels do is clean, but for
one race that FreeBSD 10.4 has and bridges with a timeout.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from stressvm import Timers, scenario
from stressvm.bench.defects.netbsd_memory import DropsTheCount, GoesOn, IgnoresWaiters, WaitsInTwoSteps
from stressvm.explore.execution import Subject
from stressvm.explore.hunt import Result, Settings, hunt_subject
from stressvm.kernel.aside import Aside
from stressvm.vm import pages
from stressvm.vm.netbsd import VmMapLock
from stressvm.vm.pages import PageObject, PageQueue, Swap, UvmPages, VmPages13, VmPages2013

if TYPE_CHECKING:
    from collections.abc import Callable

    from stressvm import Kernel
    from stressvm.vm.pages import Page, PageOwner

    Build = Callable[[Kernel], None]

PAGE = pages.PAGE_SIZE


def hunt(
    build: Build,
    expect: str | None,
    *,
    tolerate: tuple[str, ...] | None = None,
    executions: int = 1_000,
    strategy: str = "pct",
    timers: Timers = Timers.IDLE,
    max_steps: int = 4_000,
) -> Result:
    made = scenario(expect=expect, tolerate=tolerate, timers=timers, max_steps=max_steps)(build)
    result: Result = trio.run(hunt_subject, Subject(made, {}), Settings(executions=executions, strategy=strategy))
    assert not result.error, result.error
    return result


def assert_found(build: Build, expect: str, **how: object) -> Result:
    result = hunt(build, expect, **how)  # type: ignore[arg-type]
    assert result.status == "found", f"{result.status}: {[finding.verdict.text for finding in result.findings]}"
    return result


def assert_clean(build: Build, **how: object) -> Result:
    result = hunt(build, None, **how)  # type: ignore[arg-type]
    assert result.status == "clean", [finding.verdict.text for finding in result.findings]
    return result


STRATEGIES = pytest.mark.parametrize("strategy", ["random", "pct"])

# ---------------------------------------------------------------- NetBSD: worlds


def takers(cls: type[UvmPages] = UvmPages, *, clean: bool = False, prove: bool = True) -> Build:
    """All but one page belong to an object, and are inactive; two threads need a page each."""

    def build(k: Kernel) -> None:
        uvm = cls(k, 5, reserve_pagedaemon=0, reserve_kernel=1, prove=prove)
        old = PageObject(k, "old", Swap(k, 4))
        new = PageObject(k, "new")
        uvm.fill(old, 4, queue=PageQueue.INACTIVE, clean=clean)

        async def take(at: int) -> None:
            await new.lock.lock()
            page = await uvm.uao_get(new, at * PAGE)
            page.write("new")
            await uvm.uvm_page_unbusy((page,))
            await new.lock.unlock()
            k.progress()

        uvm.start_daemons()
        for at in range(2):
            k.spawn(take, at, name=f"take{at}")

    return build


def caches(cls: type[UvmPages] = UvmPages, *, prove: bool = True) -> Build:
    """What can be had is in caches, which a round drains after it has woken the waiters: they are woken in vain once."""

    def build(k: Kernel) -> None:
        uvm = cls(k, 4, reserve_pagedaemon=0, reserve_kernel=1, prove=prove)
        uvm.hold(3)

        async def take() -> None:
            while await uvm.uvm_pagealloc(None, 0) is None:
                await uvm.uvm_wait("test")
            k.progress()

        uvm.start_daemons()
        k.spawn(take, name="take0")
        k.spawn(take, name="take1")

    return build


def one_freed(cls: type[UvmPages] = UvmPages, *, prove: bool = True) -> Build:
    """Nothing can be reclaimed: two threads wait, one page is freed; who gets it gives it back."""

    def build(k: Kernel) -> None:
        uvm = cls(k, 3, reserve_pagedaemon=0, reserve_kernel=1, prove=prove)
        (mine, _) = uvm.fill(None, 2)

        async def take() -> None:
            while (page := await uvm.uvm_pagealloc(None, 0)) is None:
                await uvm.uvm_wait("test")
            await uvm.uvm_pagefree(page)
            k.progress()

        async def free() -> None:
            await uvm.uvm_pagefree(mine)

        uvm.start_daemons()
        for n in range(2):
            k.spawn(take, name=f"take{n}")
        k.spawn(free, name="free")

    return build


def busy_page(cls: type[UvmPages] = UvmPages, *, then: str = "unbusy") -> Build:
    """A thread has a page busy, with the object unlocked; two others want it."""

    def build(k: Kernel) -> None:
        uvm = cls(k, 6)
        obj = PageObject(k, "obj")
        uvm.fill(obj, 1, queue=PageQueue.ACTIVE)

        async def uses() -> None:
            await obj.lock.lock()
            page = await uvm.uao_get(obj, 0)
            await obj.lock.unlock()
            await obj.lock.lock()
            page.released = then == "free"
            await uvm.uvm_pageqlock.lock()
            await uvm.uvm_page_unbusy((page,))
            await uvm.uvm_pageqlock.unlock()
            await obj.lock.unlock()
            k.progress()

        for n in range(3):
            k.spawn(uses, name=f"uses{n}")

    return build


def removal(cls: type[UvmPages] = UvmPages) -> Build:
    """A range of the kernel object is freed while one of its pages is busy."""

    def build(k: Kernel) -> None:
        uvm = cls(k, 6)
        obj = PageObject(k, "kernel_object", Swap(k, 2))
        uvm.fill(obj, 3, queue=PageQueue.ACTIVE)

        async def uses() -> None:
            await obj.lock.lock()
            page = await uvm.uao_get(obj, PAGE)
            await obj.lock.unlock()
            await obj.lock.lock()
            await uvm.uvm_page_unbusy((page,))
            await obj.lock.unlock()

        async def removes() -> None:
            await uvm.uvm_km_pgremove(obj, 0, 3 * PAGE)
            with Aside(k):
                left = [page.pindex for page in obj.pages if not page.busy]
            assert not left, f"pages {left} are left behind"

        k.spawn(uses, name="uses")
        k.spawn(removes, name="removes")

    return build


def map_lock(*, held: bool, by_io: bool = False) -> Build:
    """To free pages somebody must lock a map, which the thread that waits for them may hold."""

    def build(k: Kernel) -> None:
        uvm = UvmPages(k, 3, reserve_pagedaemon=0, reserve_kernel=1)
        lock = VmMapLock(k, "kmap", lambda: None)
        old = PageObject(k, "old", Swap(k, 2))
        mine = [] if by_io else uvm.fill(None, 2)
        if by_io:
            uvm.fill(old, 2, queue=PageQueue.INACTIVE)
            uvm.pagermapout = lambda: with_map(nothing)

        async def nothing() -> None:
            """The map is locked and unlocked; that is all."""

        async def with_map(does: Callable[[], object]) -> None:
            await lock.lock()
            await does()  # type: ignore[misc]
            await lock.unlock()

        async def take() -> None:
            while await uvm.uvm_pagealloc(None, 0) is None:
                await uvm.uvm_wait("test")

        async def free() -> None:
            for page in mine:
                page.set_unbusy()
                await uvm.uvm_pagefree(page)

        async def frees() -> None:
            await with_map(free)

        async def takes() -> None:
            if held:
                await with_map(take)
            else:
                await with_map(nothing)
                await take()
            k.progress()

        uvm.start_daemons()
        k.spawn(takes, name="takes")
        if not by_io:
            k.spawn(frees, name="frees")

    return build


# ---------------------------------------------------------------- NetBSD: mutants


class WakesOne(UvmPages):
    """The daemon wakes the first of those who wait."""

    async def wake_free_channel(self) -> None:
        await self.free_channel.wakeup_one()


class DoneWakesNobody(UvmPages):
    """The end of a pageout wakes neither those who wait nor the daemon."""

    async def uvm_pageout_done(self, npages: int) -> None:
        await self.uvm_fpageqlock.lock()
        self.paging -= npages
        await self.uvm_fpageqlock.unlock()


class WakesNobodyWanting(UvmPages):
    """A page that is made unbusy, or freed, wakes nobody."""

    async def wake_wanting(self, page: Page) -> None:
        """Nobody is woken."""


class DoesNotMark(UvmPages):
    """Who waits for a busy page does not say so."""

    def mark_wanted(self, page: Page) -> None:
        """Nothing is said."""


class UnlocksThenSleeps(UvmPages):
    """The object's lock is given up before the sleep on the page."""

    async def sleep_on(self, page: Page, owner: PageOwner, wmesg: str) -> None:
        await owner.lock.unlock()
        await owner.lock.lock()
        await super().sleep_on(page, owner, wmesg)


class NoReserve(UvmPages):
    """Everybody may take the last page."""

    def allows(self, kind: str, free: int) -> bool:
        return free > 0 or not kind


class TakesBusyPages(UvmPages):
    """The daemon does not look whether a page is busy."""

    def in_use(self, page: Page) -> bool:
        return page.busy and page.pageout


class LosesPages(UvmPages):
    """A freed page is counted, and not put on the list."""

    def push_free(self, page: Page) -> None:
        page.queue = PageQueue.NONE


@pytest.mark.parametrize("build", [takers(), takers(clean=True), caches()], ids=["dirty", "clean", "cached"])
@STRATEGIES
def test_netbsd_loses_no_waiter(build: Build, strategy: str) -> None:
    assert_clean(build, strategy=strategy, executions=500)


def test_netbsd_two_wait_and_one_page_is_freed() -> None:
    """At random, for the daemon and a waiter with nobody else let in go round for ever, in the kernel too."""
    assert_clean(one_freed(), strategy="random", executions=500)
    result = assert_found(one_freed(WakesOne, prove=False), "lost-wakeup", strategy="random")
    assert "sleeps on uvmexp.free (test)" in result.findings[0].verdict.text


@pytest.mark.parametrize(
    ("mutant", "clean"),
    [
        (IgnoresWaiters, True),
        (DropsTheCount, True),
        (WaitsInTwoSteps, True),
        (WakesOne, True),
        (DoneWakesNobody, False),
    ],
)
def test_netbsd_a_broken_wait_loses_a_waiter(*, mutant: type[UvmPages], clean: bool) -> None:
    result = assert_found(takers(mutant, clean=clean, prove=False), "lost-wakeup")
    (finding,) = result.findings
    assert "sleeps on uvmexp.free" in finding.verdict.text
    assert finding.recording.preemptions <= 3


@pytest.mark.parametrize("mutant", [DropsTheCount, WakesOne, WaitsInTwoSteps])
def test_netbsd_an_uncounted_waiter_is_seen_by_the_invariant_as_well(mutant: type[UvmPages]) -> None:
    result = assert_found(takers(mutant, clean=True), "invariant", tolerate=("lost-wakeup", "exhausted"))
    assert "threads sleep for free pages" in result.findings[0].verdict.text


@pytest.mark.parametrize("then", ["unbusy", "free"])
def test_netbsd_nobody_waits_for_ever_for_a_busy_page(then: str) -> None:
    assert_clean(busy_page(then=then))


@pytest.mark.parametrize("mutant", [WakesNobodyWanting, DoesNotMark])
@pytest.mark.parametrize("then", ["unbusy", "free"])
def test_netbsd_a_broken_busy_page_loses_a_waiter(mutant: type[UvmPages], then: str) -> None:
    result = assert_found(busy_page(mutant, then=then), "lost-wakeup")
    assert "sleeps on page0 (uao_get)" in result.findings[0].verdict.text


def test_netbsd_a_page_slept_for_in_two_steps_may_be_gone() -> None:
    """Unbusy already: then nobody will make it so. Freed and busy anew for another: then the sleep is for a stranger."""
    assert_found(busy_page(UnlocksThenSleeps), "lost-wakeup")


def test_netbsd_a_range_is_removed_whole() -> None:
    assert_clean(removal())
    result = assert_found(removal(GoesOn), "assertion")
    assert "pages [1] are left behind" in result.findings[0].verdict.text


def test_netbsd_no_map_lock_may_be_held_while_waiting_for_pages() -> None:
    assert_clean(map_lock(held=False))
    assert_clean(map_lock(held=False, by_io=True))
    livelock = assert_found(map_lock(held=True), "livelock", executions=20, max_steps=200)
    assert "no progress" in livelock.findings[0].verdict.text
    deadlock = assert_found(map_lock(held=True, by_io=True), "deadlock", tolerate=("livelock",))
    assert {"takes", "aiodoned"} <= {
        deadlock.findings[0].recording.names()[t] for t in deadlock.findings[0].verdict.cycle
    }


@pytest.mark.parametrize(("mutant", "said"), [(NoReserve, "reserves:"), (LosesPages, "free list:")])
def test_netbsd_broken_books_are_found(mutant: type[UvmPages], said: str) -> None:
    result = assert_found(takers(mutant), "invariant")
    assert said in result.findings[0].verdict.text


def user(cls: type[UvmPages] = UvmPages) -> Build:
    """A thread uses an inactive page, busy and with its object unlocked, while another needs pages."""

    def build(k: Kernel) -> None:
        uvm = cls(k, 4, reserve_pagedaemon=0, reserve_kernel=1)
        old = PageObject(k, "old", Swap(k, 4))
        uvm.fill(old, 3, queue=PageQueue.INACTIVE, clean=True)

        async def uses() -> None:
            await old.lock.lock()
            page = await uvm.uao_get(old, 0)
            await old.lock.unlock()
            await k.yield_()
            await old.lock.lock()
            assert page.owner is old, "a busy page was taken away"
            assert page.content == "old", f"a busy page holds {page.content!r}"
            await uvm.uvm_page_unbusy((page,))
            await old.lock.unlock()

        async def takes() -> None:
            while await uvm.uvm_pagealloc(None, 0) is None:
                await uvm.uvm_wait("test")

        uvm.start_daemons()
        k.spawn(uses, name="uses")
        k.spawn(takes, name="takes")

    return build


def test_netbsd_the_daemon_leaves_busy_pages_alone() -> None:
    assert_clean(user())
    result = assert_found(user(TakesBusyPages), "panic", strategy="random")
    assert "is busy by uses" in result.findings[0].verdict.text


# ---------------------------------------------------------------- FreeBSD: worlds


def grabbers(cls: type[VmPages2013 | VmPages13], *, prove: bool = True, clean: bool = False) -> Build:
    """All but one page belong to an object, inactive; threads need a page each."""

    def build(k: Kernel) -> None:
        vm = cls(
            k,
            5,
            v_interrupt_free_min=0,
            v_free_reserved=1,
            v_free_min=2,
            v_free_target=3,
            v_pageout_free_min=1,
            prove=prove,
        )
        old = PageObject(k, "old", Swap(k, 4))
        new = PageObject(k, "new")
        vm.fill(old, 4, queue=PageQueue.INACTIVE, clean=clean)

        async def take(at: int) -> None:
            await new.lock.lock()
            page = await vm.vm_page_grab(new, at, pages.VM_ALLOC_NORMAL)
            page.write("new")
            await vm.vm_page_xunbusy(page)
            await new.lock.unlock()
            k.progress()

        vm.start_daemon()
        for at in range(2):
            k.spawn(take, at, name=f"take{at}")

    return build


def sharers(cls: type[VmPages2013 | VmPages13], *, prove: bool = True) -> Build:
    """Nothing can be reclaimed: two threads wait for pages, two others have one each and free it."""

    def build(k: Kernel) -> None:
        vm = cls(k, 4, v_interrupt_free_min=0, v_free_reserved=1, v_free_min=2, v_free_target=2, prove=prove)
        mine = vm.fill(None, 3)
        request = pages.VM_ALLOC_NORMAL | pages.VM_ALLOC_NOOBJ

        async def take() -> None:
            while (page := await vm.vm_page_alloc(None, 0, request)) is None:
                await vm.vm_wait()
            await vm.vm_page_free(page)
            k.progress()

        async def frees(page: Page) -> None:
            await vm.vm_page_free(page)

        vm.start_daemon()
        for n in range(2):
            k.spawn(take, name=f"take{n}")
            k.spawn(frees, mine[n], name=f"frees{n}")

    return build


def busied(cls: type[VmPages2013 | VmPages13]) -> Build:
    """Three threads want one page busy, in turn, and unbusy it with the object unlocked."""

    def build(k: Kernel) -> None:
        vm = cls(k, 6)
        obj = PageObject(k, "obj")
        vm.fill(obj, 1)

        async def uses() -> None:
            await obj.lock.lock()
            page = await vm.vm_page_grab(obj, 0, pages.VM_ALLOC_NORMAL)
            await obj.lock.unlock()
            await vm.vm_page_xunbusy(page)
            k.progress()

        for n in range(3):
            k.spawn(uses, name=f"uses{n}")

    return build


# ---------------------------------------------------------------- FreeBSD: mutants


class WakesOne2013(VmPages2013):
    """One waiter is woken, and the flag is lowered."""

    async def wake_waiters(self) -> None:
        await self.free_channel.wakeup_one()


class WakesOne13(VmPages13):
    """One waiter is woken, and nobody counted any more."""

    async def wake_waiters(self) -> None:
        await self.min_channel.wakeup_one()


class FreesSilently2013(VmPages2013):
    """A page is freed, and nobody is woken."""

    async def vm_page_free_wakeup(self) -> None:
        """Nobody is woken."""


class FreesSilently13(VmPages13):
    """The count goes above the threshold, and nobody says so."""

    async def vm_domain_clear(self) -> None:
        """Nothing is said."""


class DropsTheCount13(VmPages13):
    """vm_wait does not count the waiter."""

    def count_waiter(self) -> None:
        """Nobody is counted."""


class SetsBlindly13(VmPages13):
    """The shortage is announced without another look at the count."""

    async def vm_domain_set(self) -> None:
        await self.vm_domainset_lock.lock()
        self.vmd_minset = True
        await self.vm_domainset_lock.unlock()


class LooksBeforeItClears13(VmPages13):
    """The daemon looks at the free count before it clears the counter of calls."""

    async def wait_for_work(self) -> None:
        await self.pageout_lock.lock()
        low = await self.free.load() < self.wakeup_thresh
        await self.vmd_pageout_wanted.store(0)
        if low:
            await self.pageout_lock.unlock()
        else:
            await self.wanted_channel.sleep(
                self.pageout_lock, "psleep", timo=1, pdrop=True, until=lambda: self.free.peek() < self.wakeup_thresh
            )
        await self.vmd_pageout_wanted.store(1)


class WantsNothing2013(VmPages2013):
    """Who waits for a busy page does not note it in the busy word."""

    async def want(self, page: Page) -> bool:
        return page.busy


class WantsNothing13(VmPages13):
    """The same."""

    async def want(self, page: Page) -> bool:
        return page.busy


class UnbusiesSilently2013(VmPages2013):
    """The hard way to unbusy a page wakes nobody."""

    async def wake_wanting(self, page: Page) -> None:
        """Nobody is woken."""


class UnbusiesSilently13(VmPages13):
    """The same."""

    async def wake_wanting(self, page: Page) -> None:
        """Nobody is woken."""


class ChecksUnlocked2013(VmPages2013):
    """The busy word is looked at before the page lock is taken."""

    async def vm_page_busy_sleep(self, page: Page, wmesg: str) -> None:
        owner = page.owner
        assert owner is not None
        pindex = page.pindex
        wanted = await self.want(page)
        await owner.lock.unlock()
        if wanted:
            await self.page_lock.lock()
            await self.sleep_on(page, owner, pindex, wmesg)


BOTH = pytest.mark.parametrize("cls", [VmPages2013, VmPages13])


@BOTH
@pytest.mark.parametrize("clean", [False, True])
@STRATEGIES
def test_freebsd_loses_no_waiter(*, cls: type[VmPages2013 | VmPages13], clean: bool, strategy: str) -> None:
    """10.4's daemon may miss a call for a second: see the next test."""
    tolerate = ("rescued-sleep",) if cls is VmPages2013 else ()
    assert_clean(grabbers(cls, clean=clean), tolerate=tolerate, strategy=strategy, executions=300)
    assert_clean(sharers(cls), tolerate=tolerate, strategy=strategy, executions=300)
    assert_clean(busied(cls), strategy=strategy, executions=300)


def test_freebsd_2013_the_daemon_may_sleep_through_a_call() -> None:
    """vm_pages_needed is raised without the mutex, and whoever then waits does not call the daemon again."""
    result = assert_found(grabbers(VmPages2013), "rescued-sleep", strategy="random")
    assert "pagedaemon slept on vm_pages_needed.sleepers" in result.findings[0].verdict.text
    stuck = assert_found(grabbers(VmPages2013), "exhausted", timers=Timers.NEVER, strategy="random")
    assert "sleeps on v_free_count.sleepers" in stuck.findings[0].verdict.text
    assert_clean(grabbers(VmPages13), timers=Timers.NEVER, strategy="random")


@pytest.mark.parametrize(
    "mutant",
    [WakesOne2013, WakesOne13, FreesSilently13, DropsTheCount13, SetsBlindly13],
)
def test_freebsd_a_broken_wait_loses_a_waiter(mutant: type[VmPages2013 | VmPages13]) -> None:
    result = assert_found(sharers(mutant, prove=False), "lost-wakeup")
    (finding,) = result.findings
    assert "(vmwait)" in finding.verdict.text
    assert finding.recording.preemptions <= 4


def test_freebsd_2013_the_daemon_heals_a_silent_free() -> None:
    """Its own look every half second, while pages are needed, wakes those whom vm_page_free should have woken."""
    assert_clean(sharers(FreesSilently2013), tolerate=("rescued-sleep",))


@pytest.mark.parametrize("mutant", [WakesOne2013, WakesOne13, DropsTheCount13])
def test_freebsd_an_unknown_waiter_is_seen_by_the_invariant_as_well(mutant: type[VmPages2013 | VmPages13]) -> None:
    result = assert_found(sharers(mutant), "invariant", tolerate=("lost-wakeup", "exhausted"))
    assert "sleep for free pages" in result.findings[0].verdict.text


def test_freebsd_13_the_daemon_must_clear_before_it_looks() -> None:
    assert_found(grabbers(LooksBeforeItClears13), "rescued-sleep", tolerate=("exhausted",), strategy="random")


@pytest.mark.parametrize(
    "mutant", [WantsNothing2013, WantsNothing13, UnbusiesSilently2013, UnbusiesSilently13, ChecksUnlocked2013]
)
def test_freebsd_a_broken_busy_page_loses_a_waiter(mutant: type[VmPages2013 | VmPages13]) -> None:
    result = assert_found(busied(mutant), "lost-wakeup")
    assert "sleeps on page0 (pgrbwt)" in result.findings[0].verdict.text
