"""FreeBSD's pmap, call by call: what each refuses, what it tells the processors, what becomes of superpages and lists."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from stressvm import Panic, UsageError
from stressvm.conform.lone import LoneThread
from stressvm.vm import pmap
from stressvm.vm.pmap import (
    NBPDR,
    NPTEPG,
    PAGE_SIZE,
    PMAP_ENTER_NOSLEEP,
    PMAP_ENTER_WIRED,
    VM_PROT_ALL,
    VM_PROT_EXECUTE,
    VM_PROT_READ,
    VM_PROT_RW,
    VM_PROT_WRITE,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

R, W, X, RW = VM_PROT_READ, VM_PROT_WRITE, VM_PROT_EXECUTE, VM_PROT_RW
KERNEL, USER, RAM = 0xC000_0000, 4 * NBPDR, 8 * NBPDR
WIRED = PMAP_ENTER_WIRED
CPUS = 2


class World:
    """A user pmap and the kernel's, 516 pages, one thread."""

    def __init__(self, **machine: Any) -> None:
        self.lone = LoneThread()
        self.machine = pmap.Machine(self.lone.k, CPUS, **machine)
        self.ptps: list[pmap.PhysPage] = []
        #: How many pages for page tables there are; None: any number.
        self.left: int | None = None
        self.user = pmap.FreeBSDPmap(self.machine, "user", alloc_ptp=self.alloc, free_ptp=self.free)
        self.kernel = pmap.FreeBSDPmap(
            self.machine,
            "kernel",
            kernel=True,
            min_address=KERNEL,
            max_address=KERNEL + 8 * NBPDR,
            kernel_vm_end=KERNEL + NBPDR,
            alloc_ptp=self.alloc,
        )
        self.pages = [pmap.Frame(RAM + n * PAGE_SIZE) for n in range(NPTEPG + 4)]
        self.machine.add_pages(self.pages)
        self.now = self.lone.now
        self.started = False

    def start(self) -> None:
        self.started = True
        self.lone.start()

    async def alloc(self, may_sleep: bool) -> pmap.PhysPage | None:  # noqa: FBT001
        if self.left is not None and not may_sleep:
            if not self.left:
                return None
            self.left -= 1
        page = await self.machine.boot_ptp(may_sleep)
        assert page is not None
        self.ptps.append(page)
        return page

    async def free(self, page: pmap.PhysPage) -> None:
        self.ptps.remove(page)

    def enter(self, vpn: int, page: int, prot: int, flags: int, **more: int) -> int:
        return self.now(self.user.enter(USER + vpn * PAGE_SIZE, self.pages[page], prot, flags, **more))

    def access(self, vpn: int, prot: int) -> Any:
        return self.now(self.user.access(USER + vpn * PAGE_SIZE, prot))

    def remove(self, vpn: int, count: int = 1) -> None:
        self.now(self.user.remove(USER + vpn * PAGE_SIZE, USER + (vpn + count) * PAGE_SIZE))

    def protect(self, vpn: int, prot: int, count: int = 1) -> None:
        self.now(self.user.protect(USER + vpn * PAGE_SIZE, USER + (vpn + count) * PAGE_SIZE, prot))

    def told(self) -> int:
        """Processors told so far."""
        return self.user.statistics().invalidations

    def seen(self) -> dict[int, pmap.Translation]:
        """The user's translations by page."""
        found = self.user.translations(0, pmap.VM_MAXUSER_ADDRESS)
        return {(one.va - USER) // PAGE_SIZE: one for one in found}

    def on_both(self) -> None:
        """The user pmap is active on both processors."""
        for cpu in range(CPUS):
            self.now(self.machine.migrate(cpu))
            self.now(self.user.activate())
        self.user.active = (1 << CPUS) - 1


@pytest.fixture
def w() -> Iterator[World]:
    world = World()
    world.start()
    yield world
    world.lone.close()


def superpage(prot: int, flags: int, **machine: Any) -> World:
    """A world with 512 pages mapped at USER, promoted."""
    world = World(**machine)
    world.user.prefill(USER, world.pages[:NPTEPG], prot, flags)
    world.start()
    assert world.user.statistics().superpages == 1
    return world


# ------------------------------------------------------------ pmap_enter


def test_a_write_that_the_mapping_does_not_allow_panics(w: World) -> None:
    with pytest.raises(Panic, match="flags includes VM_PROT_WRITE but prot doesn't"):
        w.enter(0, 0, R, W)


def test_an_address_beyond_the_pmap_panics(w: World) -> None:
    with pytest.raises(Panic, match="toobig"):
        w.now(w.user.enter(pmap.VM_MAXUSER_ADDRESS, w.pages[0], R, R))


def test_flags_that_are_not_modelled_are_a_usage_error(w: World) -> None:
    with pytest.raises(UsageError, match="flags=0x401"):
        w.enter(0, 0, R, R | 0x400)


def test_the_offset_within_the_page_does_not_matter(w: World) -> None:
    assert w.now(w.user.enter(USER + 0x123, w.pages[0], R, R)) == pmap.KERN_SUCCESS
    assert w.now(w.user.extract(USER + 0x456)) == RAM + 0x456


def test_without_a_page_for_a_table_nosleep_changes_nothing(w: World) -> None:
    w.left = 2
    assert w.enter(0, 0, R, R | PMAP_ENTER_NOSLEEP) == pmap.KERN_RESOURCE_SHORTAGE
    assert (w.user.resident_count, w.user.statistics().tables, w.ptps) == (0, 0, [])
    w.left = 3
    assert w.enter(0, 0, R, R | PMAP_ENTER_NOSLEEP) == pmap.KERN_SUCCESS
    assert (w.user.resident_count, w.user.statistics().tables, len(w.ptps)) == (1, 3, 3)


def test_without_nosleep_it_waits_for_the_page_with_nothing_locked(w: World) -> None:
    w.left = 0
    held = []

    async def alloc(may_sleep: bool) -> pmap.PhysPage | None:  # noqa: FBT001
        if may_sleep:
            held.append(w.user.lock.owned())
        return await World.alloc(w, may_sleep)

    w.user.alloc_ptp = alloc
    assert w.enter(0, 0, R, R) == pmap.KERN_SUCCESS
    # The first two pages that it waited for are kept while it waits for the next.
    assert held == [False] * 3
    assert len(w.ptps) == 3


def test_the_last_mapping_takes_its_tables_with_it(w: World) -> None:
    w.enter(0, 0, R, R)
    w.enter(NPTEPG, 1, R, R)
    assert w.user.statistics().tables == 4
    w.remove(0)
    assert w.user.statistics().tables == 3
    w.remove(NPTEPG)
    assert (w.user.statistics().tables, w.ptps) == (0, [])


def test_the_kernel_needs_its_page_tables_first(w: World) -> None:
    va = KERNEL + NBPDR
    with pytest.raises(Panic, match=f"invalid page directory va={va:#x}"):
        w.now(w.kernel.enter(va, w.pages[0], R, R))


def test_growing_the_kernel_first_helps(w: World) -> None:
    va = KERNEL + NBPDR
    assert w.now(w.kernel.growkernel(va + 1)) == pmap.KERN_SUCCESS
    assert w.now(w.kernel.enter(va, w.pages[0], R, R)) == pmap.KERN_SUCCESS
    assert w.kernel.statistics().kernel_vm_end == KERNEL + 2 * NBPDR


def test_a_writable_mapping_of_an_unmanaged_page_is_modified_from_the_start(w: World) -> None:
    w.pages[0].managed = False
    w.enter(0, 0, RW, R)
    w.enter(1, 1, RW, R)
    assert [w.seen()[vpn].modified for vpn in (0, 1)] == [True, False]
    assert not w.pages[0].pv_list


def test_the_same_page_again_with_the_same_rights_changes_nothing(w: World) -> None:
    w.enter(0, 0, RW, W)
    steps = len(w.lone.k.trace)
    w.enter(0, 0, RW, R)
    assert w.seen()[0].modified
    assert len(w.lone.k.trace) == steps + 2, "the lock and nothing else"


@pytest.mark.parametrize(
    ("before", "after", "tells"),
    [
        ((RW, W), (R, R), True),
        ((RW, R), (R, R), False),
        ((R, R), (RW, R), False),
        ((R | X, R), (R, R), True),
        ((R, R), (R | X, R), False),
        ((RW, W), (RW, R | WIRED), True),
        ((R, R), (R, R | WIRED), False),
    ],
)
def test_processors_are_told_when_rights_shrink(
    w: World, before: tuple[int, int], after: tuple[int, int], *, tells: bool
) -> None:
    """What is writable and clean may become read-only in silence; with its modified bit a mapping loses a right, too."""
    w.on_both()
    w.enter(0, 0, *before)
    told = w.told()
    w.enter(0, 0, *after)
    assert w.told() - told == (CPUS if tells else 0)
    assert w.pages[0].md_modified == (before == (RW, W))


def test_another_page_is_broken_first_and_keeps_what_the_mapping_said(w: World) -> None:
    w.on_both()
    w.enter(0, 0, RW, W)
    steps, told = len(w.lone.k.trace), w.told()
    w.enter(0, 1, RW, R)
    assert w.told() - told == CPUS
    kinds = [op.kind for _, op, _ in w.lone.k.trace[steps:] if op.kind in ("store", "invalidate")]
    assert kinds == ["store", "invalidate", "invalidate", "store"]
    assert (w.pages[0].md_modified, w.pages[0].md_referenced, w.pages[0].pv_list) == (True, True, {})
    assert list(w.pages[1].pv_list) == [(w.user, USER)]
    assert w.user.resident_count == 1


def test_wiring_is_counted_once(w: World) -> None:
    w.enter(0, 0, RW, R | WIRED)
    w.enter(0, 0, RW, R | WIRED)
    w.enter(0, 1, RW, R | WIRED)
    assert (w.user.resident_count, w.user.wired_count) == (1, 1)
    w.enter(0, 1, RW, R)
    assert w.user.wired_count == 0


def test_a_managed_page_must_be_busy_or_its_object_locked() -> None:
    world = World(page_owned=lambda page: page.phys_addr == RAM)
    world.start()
    world.enter(0, 0, R, R)
    world.pages[1].busy = True
    world.enter(1, 1, R, R)
    world.pages[2].managed = False
    world.enter(2, 2, R, R)
    with pytest.raises(Panic, match="neither busy nor its object locked"):
        world.enter(3, 3, R, R)
    world.lone.close()


# ------------------------------------------------------------ remove, protect, unwire


def test_removing_nothing_takes_no_lock(w: World) -> None:
    steps = len(w.lone.k.trace)
    w.remove(0, NPTEPG)
    assert len(w.lone.k.trace) == steps


def test_holes_are_no_error_and_processors_are_told_once_for_the_range(w: World) -> None:
    w.on_both()
    for vpn in (0, 2, NPTEPG + 1):
        w.enter(vpn, vpn, RW, W | (WIRED if vpn else 0))
    told = w.told()
    w.remove(0, 2 * NPTEPG)
    assert w.told() - told == CPUS
    assert (w.user.resident_count, w.user.wired_count, w.seen()) == (0, 0, {})
    assert all(w.pages[vpn].md_modified for vpn in (0, 2, NPTEPG + 1))


def test_protecting_with_no_rights_removes(w: World) -> None:
    w.enter(0, 0, R, R)
    w.protect(0, pmap.VM_PROT_NONE)
    assert not w.seen()


def test_protecting_never_gives_rights_and_write_with_execute_does_nothing(w: World) -> None:
    w.enter(0, 0, R, R)
    w.enter(1, 1, VM_PROT_ALL, W)
    w.protect(0, RW, count=2)
    assert [w.seen()[vpn].prot for vpn in (0, 1)] == [R, RW]
    w.protect(0, VM_PROT_ALL, count=2)
    assert [w.seen()[vpn].prot for vpn in (0, 1)] == [R, RW]
    assert [page.md_modified for page in w.pages[:2]] == [False, False]
    w.protect(0, R, count=2)
    assert [w.seen()[vpn].prot for vpn in (0, 1)] == [R, R]
    assert [page.md_modified for page in w.pages[:2]] == [False, True]
    with pytest.raises(Panic, match="invalid prot"):
        w.protect(0, 8)


def test_unwiring_passes_over_holes_and_panics_at_what_is_not_wired(w: World) -> None:
    w.enter(0, 0, RW, R | WIRED)
    w.enter(2, 2, RW, R | WIRED)
    w.now(w.user.unwire(USER, USER + 4 * PAGE_SIZE))
    assert (w.user.resident_count, w.user.wired_count) == (2, 0)
    with pytest.raises(Panic, match="is missing PG_W"):
        w.now(w.user.unwire(USER, USER + PAGE_SIZE))


# ------------------------------------------------------------ superpages


def test_the_512th_page_makes_a_superpage_and_its_lists_one() -> None:
    world = World()
    world.user.prefill(USER, world.pages[: NPTEPG - 1], R, R)
    world.start()
    world.enter(NPTEPG - 1, NPTEPG - 1, R, R)
    stats = world.user.statistics()
    assert (stats.superpages, stats.promotions, stats.resident_count) == (1, 1, NPTEPG)
    assert not any(page.pv_list for page in world.pages)
    assert list(world.machine.pvh(RAM).pv_list) == [(world.user, USER)]
    assert world.machine.statistics().pv_entries == 1
    assert world.now(world.user.extract(USER + 5 * PAGE_SIZE + 7)) == RAM + 5 * PAGE_SIZE + 7
    assert world.access(77, R) is world.pages[77]
    assert world.now(pmap.pmap_page_is_mapped(world.machine, world.pages[77]))
    world.lone.close()


@pytest.mark.parametrize(
    ("odd", "last", "why"),
    [
        ((0, RW, W), (R, R), "another right"),
        ((0, R | X, R), (R, R), "execute"),
        ((0, R, R | WIRED), (R, R), "wired"),
        ((NPTEPG, R, R), (R, R), "another page"),
    ],
)
def test_pages_that_are_not_alike_are_not_promoted(odd: tuple[int, int, int], last: tuple[int, int], why: str) -> None:
    world = World()
    world.user.prefill(USER, world.pages[: NPTEPG - 1], R, R)
    world.start()
    at = 0 if odd[0] == 0 else 3
    world.enter(at, odd[0], odd[1], odd[2])
    world.enter(NPTEPG - 1, NPTEPG - 1, *last)
    stats = world.user.statistics()
    assert (stats.superpages, stats.promotion_failures) == (0, 1), why
    world.lone.close()


def test_a_reservation_that_is_not_fully_populated_is_not_promoted() -> None:
    world = World(fullpop=lambda page: page.phys_addr != RAM + PAGE_SIZE * (NPTEPG - 1))
    world.user.prefill(USER, world.pages[: NPTEPG - 1], R, R)
    world.start()
    world.enter(NPTEPG - 1, NPTEPG - 1, R, R)
    assert world.user.statistics().superpages == 0
    world.enter(0, 0, R, R)
    assert world.user.statistics().superpages == 1
    world.lone.close()


def test_superpages_can_be_switched_off() -> None:
    world = World()
    world.user.pg_ps_enabled = False
    world.user.prefill(USER, world.pages[:NPTEPG], R, R)
    assert world.user.statistics().superpages == 0


def test_what_is_writable_and_clean_becomes_read_only_before_it_is_promoted() -> None:
    world = superpage(RW, R)
    assert world.seen()[0].prot == R
    fault = world.access(9, W)
    assert fault == pmap.PageFault(USER + 9 * PAGE_SIZE, W, present=True)
    # The fault handler maps the page for writing: that is no superpage any more.
    world.enter(9, 9, RW, W)
    assert world.user.statistics().superpages == 0
    assert [world.seen()[vpn].prot for vpn in (8, 9)] == [R, RW]
    world.lone.close()


def test_a_failed_promotion_leaves_what_it_had_made_read_only() -> None:
    world = World()
    world.user.prefill(USER, world.pages[: NPTEPG - 1], RW, R)
    world.start()
    world.access(5, W)
    world.enter(NPTEPG - 1, NPTEPG - 1, RW, R)
    rights = {vpn: one.prot for vpn, one in world.seen().items()}
    assert {vpn for vpn, prot in rights.items() if prot == RW} == {1, 2, 3, 4, 5}, "the first, then from the last down"
    world.lone.close()


def test_a_cut_demotes_and_the_rest_stays() -> None:
    world = superpage(RW, W)
    world.remove(3, 2)
    stats = world.user.statistics()
    assert (stats.superpages, stats.demotions, stats.resident_count) == (0, 1, NPTEPG - 2)
    assert [len(world.pages[vpn].pv_list) for vpn in (2, 3, 4, 5)] == [1, 0, 0, 1]
    assert not world.machine.pvh(RAM).pv_list
    world.protect(9, R)
    assert (world.seen()[8].prot, world.seen()[9].prot) == (RW, R)
    # Whole again, it is promoted again.
    for vpn in (9, 3, 4):
        world.enter(vpn, vpn, RW, W)
    assert world.user.statistics().superpages == 1
    world.remove(0, NPTEPG)
    assert (world.user.resident_count, world.machine.statistics().pv_entries, world.user.statistics().tables) == (
        0,
        0,
        0,
    )
    assert all(page.md_modified for page in world.pages[:NPTEPG])
    world.lone.close()


def test_a_whole_superpage_is_changed_as_one() -> None:
    world = superpage(RW, W | WIRED)
    assert world.user.wired_count == NPTEPG
    world.on_both()
    told = world.told()
    world.now(world.user.unwire(USER, USER + NBPDR))
    assert (world.user.wired_count, world.told() - told) == (0, 0)
    world.protect(0, R, NPTEPG)
    assert (world.user.statistics().superpages, world.told() - told) == (1, CPUS)
    assert world.pages[100].md_modified
    world.lone.close()


def test_what_lingers_of_small_pages_goes_with_the_superpage() -> None:
    world = World()
    world.user.prefill(USER, world.pages[: NPTEPG - 1], RW, W)
    world.start()
    for vpn in (0, 1, 2):
        world.access(vpn, W)
    world.enter(NPTEPG - 1, NPTEPG - 1, RW, W)
    assert world.user.statistics().superpages == 1
    world.access(3, W)
    tlb = world.user.tlbs[0]
    assert (len(tlb.small), len(tlb.large)) == (3, 1)
    world.remove(0, NPTEPG)
    assert (tlb.small, tlb.large) == ({}, {})
    world.lone.close()


def unaccessed() -> World:
    """A superpage whose accessed bit has been cleared, by the page of the 512 whose turn it is."""
    world = superpage(R, R)
    turn = ((USER >> 21) ^ world.user.number) % NPTEPG
    assert world.now(pmap.pmap_ts_referenced(world.machine, world.pages[turn ^ 1])) == 1
    assert world.seen()[0].accessed
    assert world.now(pmap.pmap_ts_referenced(world.machine, world.pages[turn])) == 1
    assert not world.seen()[0].accessed
    return world


def test_a_superpage_that_was_not_accessed_is_destroyed_rather_than_cut() -> None:
    world = unaccessed()
    world.remove(3)
    stats = world.user.statistics()
    assert (stats.resident_count, stats.demotions, stats.demotion_failures, stats.tables) == (0, 0, 1, 0)
    assert not world.machine.pvh(RAM).pv_list
    world.lone.close()


def test_an_access_sets_the_superpages_bit_again() -> None:
    world = unaccessed()
    world.access(4, R)
    world.remove(3)
    assert world.user.resident_count == NPTEPG - 1
    world.lone.close()


def test_a_superpage_made_whole_needs_a_page_table_to_be_cut(w: World) -> None:
    assert w.enter(0, 0, RW, W, psind=1) == pmap.KERN_SUCCESS
    assert (w.user.statistics().superpages, w.user.resident_count, len(w.ptps)) == (1, NPTEPG, 2)
    w.remove(0)
    assert (w.user.resident_count, len(w.ptps)) == (NPTEPG - 1, 3)
    w.remove(0, NPTEPG)
    w.enter(0, 0, RW, W, psind=1)
    w.left = 0
    w.remove(1)
    assert (w.user.resident_count, w.user.statistics().demotion_failures) == (0, 1)


def test_a_wired_superpage_without_a_page_table_cannot_be_cut(w: World) -> None:
    w.enter(0, 0, RW, W | WIRED, psind=1)
    with pytest.raises(Panic, match="cannot be demoted"):
        w.remove(1)


def test_a_superpage_takes_the_place_of_what_was_there(w: World) -> None:
    w.enter(3, NPTEPG, RW, W)
    w.access(3, W)
    assert w.enter(0, 0, R, R, psind=1) == pmap.KERN_SUCCESS
    assert (w.user.resident_count, w.pages[NPTEPG].md_modified, w.pages[NPTEPG].pv_list) == (NPTEPG, True, {})
    assert w.access(3, R) is w.pages[3]
    assert w.enter(0, 0, RW, W, psind=1) == pmap.KERN_SUCCESS
    assert w.user.statistics().superpages == 1
    assert w.access(3, W) is w.pages[3]


@pytest.mark.parametrize(("vpn", "page", "prot"), [(1, 0, R), (0, 1, R)])
def test_an_unaligned_superpage_panics(w: World, vpn: int, page: int, prot: int) -> None:
    with pytest.raises(Panic, match="unaligned superpage"):
        w.enter(vpn, page, prot, prot, psind=1)


def test_a_writable_superpage_must_be_written_at_once(w: World) -> None:
    with pytest.raises(Panic, match="newpde is missing PG_M"):
        w.enter(0, 0, RW, R, psind=1)


def test_a_superpage_of_pages_that_nobody_knows_is_a_usage_error(w: World) -> None:
    with pytest.raises(UsageError, match="call machine"):
        w.enter(0, NPTEPG, R, R, psind=1)


def test_the_kernel_keeps_its_page_tables(w: World) -> None:
    assert w.now(w.kernel.enter(KERNEL, w.pages[0], RW, W, psind=1)) == pmap.KERN_SUCCESS
    assert w.now(w.kernel.access(KERNEL + 5 * PAGE_SIZE, W)) is w.pages[5]
    w.now(w.kernel.remove(KERNEL, KERNEL + PAGE_SIZE))
    assert w.kernel.resident_count == NPTEPG - 1
    w.now(w.kernel.remove(KERNEL, KERNEL + NBPDR))
    w.now(w.kernel.kenter(KERNEL + PAGE_SIZE, RAM))
    assert w.now(w.kernel.access(KERNEL + PAGE_SIZE, W)) is w.pages[0]


def test_a_whole_kernel_superpage_leaves_an_empty_page_table(w: World) -> None:
    w.now(w.kernel.enter(KERNEL, w.pages[0], RW, W, psind=1))
    w.now(w.kernel.protect(KERNEL, KERNEL + NBPDR, R))
    w.now(w.kernel.remove(KERNEL, KERNEL + NBPDR))
    w.now(w.kernel.kenter(KERNEL, RAM))
    assert w.kernel.resident_count == 0


# ------------------------------------------------------------ entries of pv lists


def test_without_memory_for_a_pv_entry_another_mapping_is_destroyed() -> None:
    world = World(pv_entries_max=2)
    world.start()
    world.enter(0, 0, RW, W | WIRED)
    world.enter(1, 1, RW, W)
    world.enter(2, 2, R, R)
    assert set(world.seen()) == {0, 2}
    assert world.pages[1].md_modified
    assert world.machine.statistics().pv_reclaimed == 1
    world.lone.close()


def test_other_pmaps_give_too_but_nobody_gives_what_is_wired() -> None:
    world = World(pv_entries_max=1)
    other = pmap.FreeBSDPmap(world.machine, "other")
    world.start()
    world.now(other.enter(USER, world.pages[0], R, R))
    world.enter(0, 1, R, R | WIRED)
    assert (other.resident_count, world.user.resident_count) == (0, 1)
    with pytest.raises(UsageError, match="pv_entries_max=1"):
        world.now(other.enter(USER, world.pages[0], R, R))
    world.lone.close()


def test_a_demotion_reserves_its_entries_before_it_cuts() -> None:
    world = superpage(R, R, pv_entries_max=NPTEPG)
    world.enter(NPTEPG, NPTEPG, R, R)
    assert world.machine.statistics().pv_entries == 2
    world.remove(3)
    assert world.user.resident_count == NPTEPG - 1, "the other mapping was reclaimed for it"
    assert world.machine.statistics() == pmap.MachineStatistics((None, None), NPTEPG - 1, 1)
    world.lone.close()


def test_a_superpage_without_memory_for_its_entry_is_refused() -> None:
    world = World(pv_entries_max=1)
    world.start()
    world.enter(NPTEPG, NPTEPG, R, R)
    assert world.enter(0, 0, R, R, psind=1) == pmap.KERN_RESOURCE_SHORTAGE
    assert world.user.resident_count == 1
    world.lone.close()


# ------------------------------------------------------------ kernel mappings by hand


def test_by_hand_nobody_is_told_and_nothing_counted(w: World) -> None:
    w.now(w.kernel.kenter(KERNEL, RAM))
    assert w.now(w.kernel.access(KERNEL, W)) is w.pages[0]
    assert w.now(w.kernel.access(KERNEL, X)) == pmap.PageFault(KERNEL, X, present=True)
    assert w.now(w.kernel.kextract(KERNEL + 9)) == RAM + 9
    w.now(w.kernel.access(KERNEL, W))
    w.now(w.kernel.kremove(KERNEL))
    assert w.now(w.kernel.access(KERNEL, W)) is w.pages[0], "the processor has not been told"
    stats = w.kernel.statistics()
    assert (stats.resident_count, stats.invalidations, stats.stale_uses) == (0, 0, 1)
    w.now(w.kernel.invalidate_range(KERNEL, KERNEL + PAGE_SIZE))
    assert w.now(w.kernel.access(KERNEL, W)) == pmap.PageFault(KERNEL, W, present=False)


def test_another_page_where_a_processor_remembers_one_is_found_out(w: World) -> None:
    w.now(w.kernel.kenter(KERNEL, RAM))
    w.now(w.kernel.access(KERNEL, R))
    w.now(w.kernel.kremove(KERNEL))
    with pytest.raises(Panic, match="G20 two pages"):
        w.now(w.kernel.kenter(KERNEL, RAM + PAGE_SIZE))


@pytest.mark.parametrize("call", ["kenter", "kremove", "qenter", "qremove"])
def test_what_is_counted_is_not_to_be_changed_by_hand(w: World, call: str) -> None:
    w.now(w.kernel.enter(KERNEL, w.pages[1], RW, R))
    calls = {
        "kenter": lambda: w.kernel.kenter(KERNEL, RAM),
        "kremove": lambda: w.kernel.kremove(KERNEL),
        "qenter": lambda: w.kernel.qenter(KERNEL, w.pages[:1]),
        "qremove": lambda: w.kernel.qremove(KERNEL, 1),
    }
    with pytest.raises(Panic, match="G20 counts: 0xc0000000 is changed by hand"):
        w.now(calls[call]())


def test_what_was_made_by_hand_is_not_to_be_counted(w: World) -> None:
    w.now(w.kernel.kenter(KERNEL, RAM))
    w.now(w.kernel.enter(KERNEL + PAGE_SIZE, w.pages[1], RW, R))
    with pytest.raises(Panic, match=r"G20 counts: resident_count -?\d, wired_count 0, but 0 pages"):
        w.now(w.kernel.remove(KERNEL, KERNEL + 2 * PAGE_SIZE))


def test_qenter_tells_only_if_something_was_there_and_qremove_once(w: World) -> None:
    w.now(w.kernel.qenter(KERNEL, w.pages[:3]))
    assert w.kernel.statistics().invalidations == 0
    w.now(w.kernel.access(KERNEL, R))
    w.now(w.kernel.qenter(KERNEL, w.pages[3:6]))
    assert w.kernel.statistics().invalidations == CPUS
    assert w.now(w.kernel.access(KERNEL, R)) is w.pages[3]
    w.now(w.kernel.qremove(KERNEL, 3))
    assert w.kernel.statistics().invalidations == 2 * CPUS
    assert w.now(w.kernel.access(KERNEL, R)) == pmap.PageFault(KERNEL, R, present=False)


@pytest.mark.parametrize("call", ["kenter", "kremove", "qenter", "qremove"])
def test_beyond_its_page_tables_the_kernel_faults(w: World, call: str) -> None:
    va = KERNEL + NBPDR
    calls = {
        "kenter": lambda: w.kernel.kenter(va, RAM),
        "kremove": lambda: w.kernel.kremove(va),
        "qenter": lambda: w.kernel.qenter(va, w.pages[:1]),
        "qremove": lambda: w.kernel.qremove(va, 1),
    }
    with pytest.raises(Panic, match=f"pmap_{call}: page fault: no page table"):
        w.now(calls[call]())


def test_looking_up_what_is_not_mapped(w: World) -> None:
    assert w.now(w.user.extract(USER)) == 0
    assert w.now(w.user.extract_and_hold(USER, R)) is None
    with pytest.raises(Panic, match="pmap_kextract: page fault"):
        w.now(w.kernel.kextract(KERNEL))


def test_holding_asks_for_write_only(w: World) -> None:
    w.enter(0, 0, R, R)
    assert w.now(w.user.extract_and_hold(USER, R | X)) is w.pages[0]
    assert w.now(w.user.extract_and_hold(USER, W)) is None
    w.user.unhold(w.pages[0])
    with pytest.raises(Panic, match="hold count < 0"):
        w.user.unhold(w.pages[0])


# ------------------------------------------------------------ growing


def test_growing_goes_in_steps_stops_at_the_end_and_never_goes_back(w: World) -> None:
    for want, end in ((1, 1), (NBPDR + 1, 2), (1, 2), (100 * NBPDR, 8)):
        assert w.now(w.kernel.growkernel(KERNEL + want)) == pmap.KERN_SUCCESS
        assert w.kernel.kernel_vm_end == KERNEL + end * NBPDR
    with pytest.raises(Panic, match="it goes back"):
        w.kernel.grown(KERNEL)


def test_growing_without_a_page_panics_or_says_so(w: World) -> None:
    w.left = 1
    w.kernel.growkernel_panics = False
    assert w.now(w.kernel.growkernel(KERNEL + 8 * NBPDR)) == pmap.KERN_RESOURCE_SHORTAGE
    assert w.kernel.kernel_vm_end == KERNEL + 2 * NBPDR
    w.kernel.growkernel_panics = True
    with pytest.raises(Panic, match="no memory to grow kernel"):
        w.now(w.kernel.growkernel(KERNEL + 8 * NBPDR))


def test_growing_in_the_window_made_at_boot_is_no_growing(w: World) -> None:
    w.kernel.preallocated = (KERNEL + 3 * NBPDR, KERNEL + 4 * NBPDR)
    w.now(w.kernel.growkernel(KERNEL + 4 * NBPDR))
    assert w.kernel.kernel_vm_end == KERNEL + NBPDR


def test_growing_needs_the_kernel_maps_mutex(w: World) -> None:
    w.kernel.kernel_map_owned = lambda: False
    with pytest.raises(Panic, match="the kernel map's mutex is not owned"):
        w.now(w.kernel.growkernel(KERNEL + 2 * NBPDR))


# ------------------------------------------------------------ a page, everywhere


def test_counting_references_stops_at_five_and_goes_on_with_the_others(w: World) -> None:
    for vpn in range(7):
        w.enter(vpn, 0, R, R)
    assert w.now(pmap.pmap_ts_referenced(w.machine, w.pages[0])) == 5
    assert [va for _, va in w.pages[0].pv_list][:2] == [USER + 5 * PAGE_SIZE, USER + 6 * PAGE_SIZE]
    assert w.now(pmap.pmap_ts_referenced(w.machine, w.pages[0])) == 2
    assert not w.now(pmap.pmap_is_referenced(w.machine, w.pages[0]))


def test_a_page_without_writable_mappings_is_not_modified_whatever_they_say(w: World) -> None:
    w.enter(0, 0, RW, W)
    assert w.now(pmap.pmap_is_modified(w.machine, w.pages[0]))
    w.now(pmap.pmap_remove_write(w.machine, w.pages[0]))
    steps = len(w.lone.k.trace)
    assert not w.now(pmap.pmap_is_modified(w.machine, w.pages[0]))
    assert len(w.lone.k.trace) == steps


def test_clearing_modified_starts_anew_and_needs_the_page_not_busy(w: World) -> None:
    w.enter(0, 0, RW, W)
    w.now(pmap.pmap_clear_modify(w.machine, w.pages[0]))
    assert not w.now(pmap.pmap_is_modified(w.machine, w.pages[0]))
    assert not w.pages[0].md_modified
    w.access(0, W)
    assert w.now(pmap.pmap_is_modified(w.machine, w.pages[0]))
    w.pages[0].busy = True
    with pytest.raises(Panic, match="exclusive busied"):
        w.now(pmap.pmap_clear_modify(w.machine, w.pages[0]))


def test_calls_on_a_page_want_a_managed_one(w: World) -> None:
    w.pages[0].managed = False
    assert w.now(pmap.pmap_page_wired_mappings(w.machine, w.pages[0])) == 0
    with pytest.raises(Panic, match="pmap_remove_all: KASSERT: page 0x1000000 is not managed"):
        w.now(pmap.pmap_remove_all(w.machine, w.pages[0]))


# ------------------------------------------------------------ the model's own proofs


def test_a_page_that_can_still_be_reached_is_not_reused(w: World) -> None:
    w.machine.assert_page_unused(w.pages[0])
    w.now(w.kernel.kenter(KERNEL, RAM))
    with pytest.raises(Panic, match="reused, and still mapped"):
        w.machine.assert_page_unused(w.pages[0])


def test_nor_one_that_only_a_processor_remembers(w: World) -> None:
    w.now(w.kernel.kenter(KERNEL, RAM))
    w.now(w.kernel.access(KERNEL, R))
    w.now(w.kernel.kremove(KERNEL))
    with pytest.raises(Panic, match="cpu0 still translates to it in kernel"):
        w.machine.assert_page_unused(w.pages[0])


def test_addresses_that_are_mapped_or_remembered_are_not_handed_out(w: World) -> None:
    w.now(w.kernel.kenter(KERNEL, RAM))
    w.now(w.kernel.access(KERNEL, R))
    w.now(w.kernel.kremove(KERNEL))
    w.kernel.assert_vacated(KERNEL + PAGE_SIZE, KERNEL + NBPDR)
    with pytest.raises(Panic, match="cpu0 still translates it"):
        w.kernel.assert_vacated(KERNEL, KERNEL + NBPDR)


def test_addresses_of_a_superpage_neither() -> None:
    world = superpage(R, R)
    world.access(1, R)
    with pytest.raises(Panic, match="still mapped to 0x1000000"):
        world.user.assert_vacated(USER + PAGE_SIZE, USER + 2 * PAGE_SIZE)
    world.lone.close()


def test_counting_everything_finds_a_wrong_count(w: World) -> None:
    for vpn in range(pmap.RECOUNT_MAX + 1):
        w.enter(vpn, vpn, R, R)
    w.user.resident_count += 1
    with pytest.raises(Panic, match="G20 counts: resident_count 67, wired_count 0, but 66 pages are mapped"):
        w.enter(100, 100, R, R)


def test_prefill_is_for_the_world_alone(w: World) -> None:
    with pytest.raises(UsageError, match="prefill builds the world"):
        w.user.prefill(USER, w.pages[:1], R)


def test_prefill_maps_nothing_twice() -> None:
    world = World()
    world.user.prefill(USER, world.pages[:2], R, WIRED)
    assert (world.user.resident_count, world.user.wired_count) == (2, 2)
    with pytest.raises(UsageError, match="is mapped, or has no page table"):
        world.user.prefill(USER + PAGE_SIZE, world.pages[:1], R)
