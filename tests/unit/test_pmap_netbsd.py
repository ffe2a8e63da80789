"""NetBSD's pmap, call by call: what each refuses, what stays believable until pmap_update, what pmap_update tells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from stressvm import Panic, UsageError
from stressvm.conform.lone import LoneThread
from stressvm.vm import pmap
from stressvm.vm.pmap import (
    NBPDR,
    PAGE_SIZE,
    PMAP_CANFAIL,
    PMAP_WIRED,
    VM_PROT_ALL,
    VM_PROT_EXECUTE,
    VM_PROT_READ,
    VM_PROT_RW,
    VM_PROT_WRITE,
)
from stressvm.vm.pmap import netbsd_pages as pages

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

R, W, X, RW = VM_PROT_READ, VM_PROT_WRITE, VM_PROT_EXECUTE, VM_PROT_RW
KERNEL, USER, RAM = 0xC000_0000, NBPDR, 8 * NBPDR


class World:
    """A user pmap and the kernel's, ten pages, one thread on the first of two processors."""

    def __init__(self) -> None:
        self.lone = LoneThread()
        self.machine = pmap.Machine(self.lone.k, 2)
        self.left: int | None = None
        self.freed = 0
        self.user = pmap.NetBSDPmap(self.machine, "user", alloc_ptp=self.alloc, free_ptp=self.free)
        self.kernel = pmap.NetBSDPmap(
            self.machine,
            "kernel",
            kernel=True,
            min_address=KERNEL,
            max_address=KERNEL + 4 * NBPDR,
            kernel_vm_end=KERNEL + NBPDR,
            alloc_ptp=self.alloc,
        )
        self.pages = [pmap.Frame(RAM + n * PAGE_SIZE) for n in range(10)]
        self.machine.add_pages(self.pages)
        self.now = self.lone.now
        self.lone.start()

    async def alloc(self, may_sleep: bool) -> pmap.PhysPage | None:  # noqa: FBT001
        assert not may_sleep, "NetBSD's pmap_enter does not wait"
        if self.left is not None:
            if not self.left:
                return None
            self.left -= 1
        return await self.machine.boot_ptp(may_sleep)

    async def free(self, page: pmap.PhysPage) -> None:
        assert not page.managed
        self.freed += 1

    def enter(self, vpn: int, page: int, prot: int, flags: int) -> int:
        return self.now(self.user.enter(USER + vpn * PAGE_SIZE, RAM + page * PAGE_SIZE, prot, flags))

    def access(self, vpn: int, prot: int) -> Any:
        return self.now(self.user.access(USER + vpn * PAGE_SIZE, prot))

    def remove(self, vpn: int, count: int = 1) -> None:
        self.now(self.user.remove(USER + vpn * PAGE_SIZE, USER + (vpn + count) * PAGE_SIZE))

    def protect(self, vpn: int, prot: int) -> None:
        self.now(self.user.protect(USER + vpn * PAGE_SIZE, USER + (vpn + 1) * PAGE_SIZE, prot))

    def one(self, vpn: int) -> pmap.Translation:
        """The one translation of a page."""
        (found,) = self.user.translations(USER + vpn * PAGE_SIZE, USER + (vpn + 1) * PAGE_SIZE)
        return found


@pytest.fixture
def w() -> Iterator[World]:
    world = World()
    yield world
    world.lone.close()


# ------------------------------------------------------------ pmap_enter


def test_without_a_page_for_a_table_it_fails_if_it_can_and_panics_if_not(w: World) -> None:
    w.left = 2
    assert w.enter(0, 0, R, R | PMAP_CANFAIL) == pmap.ENOMEM
    assert (w.user.resident_count, w.user.statistics().tables, w.freed) == (0, 0, 2)
    with pytest.raises(Panic, match="pmap_enter: get ptp failed"):
        w.enter(0, 0, R, R)


def test_a_write_that_the_mapping_does_not_allow_panics(w: World) -> None:
    with pytest.raises(Panic, match="the access type is a write, and prot is 1"):
        w.enter(0, 0, R, W)


@pytest.mark.parametrize(("va", "pa"), [(USER + 1, RAM), (USER, RAM + 1), (pmap.VM_MAXUSER_ADDRESS, RAM)])
def test_what_is_not_aligned_or_out_of_range_panics(w: World, va: int, pa: int) -> None:
    with pytest.raises(Panic, match="pmap_enter: KASSERT: user"):
        w.now(w.user.enter(va, pa, R, R))


def test_the_same_page_keeps_what_it_knows_and_its_place_on_the_list(w: World) -> None:
    w.enter(0, 0, RW, W)
    w.enter(1, 0, R, 0)
    w.enter(0, 0, R, R | PMAP_WIRED)
    assert (w.one(0).prot, w.one(0).modified, w.one(0).wired, w.one(1).accessed) == (R, True, True, False)
    assert [va for _, va in w.pages[0].pv_list] == [USER, USER + PAGE_SIZE]
    assert (w.user.resident_count, w.user.wired_count) == (2, 1)


def test_another_page_takes_the_place_at_once_and_is_seen_after_the_update(w: World) -> None:
    w.enter(0, 0, RW, W)
    assert w.access(0, W) is w.pages[0]
    w.enter(0, 1, RW, 0)
    assert w.now(w.user.extract(USER + 5)) == (True, RAM + PAGE_SIZE + 5)
    assert w.access(0, W) is w.pages[0], "the processor has not been told"
    w.now(w.user.update())
    assert w.access(0, W) is w.pages[1]
    assert (w.pages[0].md_modified, w.pages[0].pv_list, w.user.stale_uses) == (True, {}, 1)


def test_an_unmanaged_page_is_on_no_list(w: World) -> None:
    w.pages[0].managed = False
    w.enter(0, 0, R, R)
    w.enter(0, 1, R, R)
    assert (w.pages[0].pv_list, len(w.pages[1].pv_list)) == ({}, 1)
    w.remove(0)
    assert w.user.resident_count == 0


# ------------------------------------------------------------ remove, protect, unwire


def test_removal_passes_over_holes_and_frees_tables(w: World) -> None:
    for vpn in (0, 2):
        w.enter(vpn, vpn, RW, W | PMAP_WIRED)
    w.remove(0, 10)
    assert (w.user.resident_count, w.user.wired_count, w.user.statistics().tables, w.freed) == (0, 0, 0, 3)
    assert w.pages[2].md_modified


def test_protecting_takes_rights_and_never_gives_any(w: World) -> None:
    w.enter(0, 0, VM_PROT_ALL, W)
    w.protect(0, RW)
    assert w.one(0).prot == VM_PROT_ALL
    w.protect(0, R | X)
    assert (w.one(0).prot, w.one(0).modified) == (R | X, True)
    w.protect(0, R)
    assert w.one(0).prot == R
    w.protect(0, pmap.VM_PROT_NONE)
    assert w.user.resident_count == 0


def test_a_clean_page_becomes_read_only_without_telling_anybody(w: World) -> None:
    w.enter(0, 0, RW, R)
    w.access(0, R)
    w.protect(0, R)
    w.now(w.user.update())
    assert w.user.invalidations == 0
    assert w.access(0, W) == pmap.PageFault(USER, W, present=True)


def test_unwiring_what_is_not_mapped_panics_and_what_is_not_wired_does_not(w: World) -> None:
    w.enter(0, 0, RW, R | PMAP_WIRED)
    for _ in range(2):
        w.now(w.user.unwire(USER))
        assert (w.user.resident_count, w.user.wired_count) == (1, 0)
    with pytest.raises(Panic, match="invalid \\(unmapped\\) va 0x201000"):
        w.now(w.user.unwire(USER + PAGE_SIZE))


def test_extract_says_whether_and_where(w: World) -> None:
    assert w.now(w.user.extract(USER)) == (False, 0)
    w.pages.append(pmap.Frame(0))
    w.machine.add_page(w.pages[-1])
    w.now(w.user.enter(USER, 0, R, R))
    assert w.now(w.user.extract(USER)) == (True, 0)


# ------------------------------------------------------------ the kernel's own mappings


def test_entering_by_hand_where_something_is_panics(w: World) -> None:
    w.now(w.kernel.kenter_pa(KERNEL, RAM, RW))
    with pytest.raises(Panic, match="pmap_kenter_pa: KASSERT: kernel: 0xc0000000 is mapped already"):
        w.now(w.kernel.kenter_pa(KERNEL, RAM, RW))


def test_neither_removal_takes_what_the_other_entered(w: World) -> None:
    w.now(w.kernel.kenter_pa(KERNEL, RAM, RW))
    w.now(w.kernel.enter(KERNEL + PAGE_SIZE, RAM, RW, R))
    assert (w.kernel.resident_count, len(w.pages[0].pv_list)) == (1, 1)
    with pytest.raises(Panic, match="pmap_remove: KASSERT: kernel: 0xc0000000 was entered by pmap_kenter_pa"):
        w.now(w.kernel.remove(KERNEL, KERNEL + 2 * PAGE_SIZE))


def test_nor_the_other_way_round(w: World) -> None:
    w.now(w.kernel.enter(KERNEL, RAM, RW, R))
    with pytest.raises(Panic, match="pmap_kremove: KASSERT: kernel: 0xc0000000 was entered by pmap_enter"):
        w.now(w.kernel.kremove(KERNEL, PAGE_SIZE))


def test_pmap_enter_over_a_mapping_by_hand_panics(w: World) -> None:
    w.now(w.kernel.kenter_pa(KERNEL, RAM, RW))
    with pytest.raises(Panic, match="was entered by pmap_kenter_pa"):
        w.now(w.kernel.enter(KERNEL, RAM + PAGE_SIZE, RW, R))


@pytest.mark.parametrize("call", ["enter", "kenter_pa"])
def test_beyond_its_page_tables_the_kernel_panics(w: World, call: str) -> None:
    with pytest.raises(Panic, match=f"no page table for {KERNEL + NBPDR:#x}"):
        w.now(beyond(w, call))


@pytest.mark.parametrize("call", ["enter", "kenter_pa"])
def test_until_it_has_grown(w: World, call: str) -> None:
    assert w.now(w.kernel.growkernel(KERNEL + NBPDR + 1)) == KERNEL + 2 * NBPDR
    assert w.now(w.kernel.growkernel(KERNEL)) == KERNEL + 2 * NBPDR
    w.now(beyond(w, call))
    assert w.now(w.kernel.access(KERNEL + NBPDR, R)) is w.pages[0]


def beyond(w: World, call: str) -> Coroutine[Any, Any, object]:
    """Map the first page behind the first 2 MiB."""
    if call == "enter":
        return w.kernel.enter(KERNEL + NBPDR, RAM, RW, R | PMAP_CANFAIL)
    return w.kernel.kenter_pa(KERNEL + NBPDR, RAM, RW)


def test_growing_without_a_page_panics(w: World) -> None:
    w.left = 0
    with pytest.raises(Panic, match="pmap_growkernel: out of memory"):
        w.now(w.kernel.growkernel(KERNEL + 2 * NBPDR))


def test_holes_are_no_error_for_kremove(w: World) -> None:
    for vpn in (0, 2):
        w.now(w.kernel.kenter_pa(KERNEL + vpn * PAGE_SIZE, RAM, R))
    w.now(w.kernel.kremove(KERNEL, NBPDR))
    assert not list(w.kernel.translations(KERNEL, KERNEL + NBPDR))
    w.machine.assert_page_unused(w.pages[0])


# ------------------------------------------------------------ pmap_update


def test_an_update_with_nothing_to_tell_is_no_step(w: World) -> None:
    w.now(w.kernel.kenter_pa(KERNEL, RAM, RW))
    w.now(w.kernel.kremove(KERNEL, PAGE_SIZE))
    steps = len(w.lone.k.trace)
    w.now(w.kernel.update())
    assert len(w.lone.k.trace) == steps, "nobody has used it, so nobody can remember it"


def test_an_update_is_one_step_for_each_processor_that_has_the_pmap(w: World) -> None:
    w.enter(0, 0, RW, R)
    w.access(0, R)
    w.remove(0)
    steps = len(w.lone.k.trace)
    w.now(w.user.update())
    assert [op.kind for _, op, _ in w.lone.k.trace[steps:]] == ["invalidate"]
    w.now(w.kernel.kenter_pa(KERNEL, RAM, RW))
    w.now(w.kernel.access(KERNEL, R))
    w.now(w.kernel.kremove(KERNEL, PAGE_SIZE))
    steps = len(w.lone.k.trace)
    w.now(w.kernel.update())
    assert [op.kind for _, op, _ in w.lone.k.trace[steps:]] == ["invalidate"] * 2


@pytest.mark.parametrize(("count", "left"), [(6, 1), (7, 0)])
def test_of_many_pages_everything_is_forgotten(w: World, count: int, left: int) -> None:
    for vpn in range(8):
        w.enter(vpn, vpn, R, R)
        w.access(vpn, R)
    w.remove(0, count)
    w.now(w.user.update())
    assert bool(w.user.tlbs[0].small) == bool(left)
    assert w.access(7, R) is w.pages[7]


def test_a_processor_that_has_left_the_pmap_has_forgotten_it(w: World) -> None:
    other = pmap.NetBSDPmap(w.machine, "other")
    w.enter(0, 0, RW, W)
    w.access(0, W)
    w.now(other.activate())
    w.remove(0)
    w.now(w.user.update())
    assert w.user.invalidations == 0
    assert isinstance(w.access(0, R), pmap.PageFault)


# ------------------------------------------------------------ a page, everywhere


def test_a_page_is_unmapped_everywhere_and_nobody_remembers_it(w: World) -> None:
    w.enter(0, 0, RW, W)
    w.enter(5, 0, R, R)
    w.now(w.kernel.enter(KERNEL, RAM, RW, R))
    w.access(5, R)
    w.now(w.kernel.access(KERNEL, R))
    w.now(pages.pmap_page_protect(w.machine, w.pages[0], RW))
    assert len(w.pages[0].pv_list) == 3
    w.now(pages.pmap_page_protect(w.machine, w.pages[0], pmap.VM_PROT_NONE))
    assert (w.user.resident_count, w.kernel.resident_count, w.user.statistics().tables) == (0, 0, 0)
    assert w.pages[0].md_modified
    w.machine.assert_page_unused(w.pages[0])


def test_a_page_becomes_read_only_everywhere_and_stays_modified(w: World) -> None:
    w.enter(0, 0, RW, W)
    w.enter(1, 0, VM_PROT_ALL, R)
    w.access(0, W)
    w.access(1, X)
    w.now(pages.pmap_page_protect(w.machine, w.pages[0], R | X))
    assert [(w.one(vpn).prot, w.one(vpn).modified) for vpn in (0, 1)] == [(R, True), (R | X, False)]
    assert w.access(0, W) == pmap.PageFault(USER, W, present=True)


def test_modified_and_referenced_are_the_pages_word_or_that_of_a_mapping(w: World) -> None:
    page = w.pages[0]

    def says() -> tuple[bool, bool]:
        return w.now(pages.pmap_is_modified(w.machine, page)), w.now(pages.pmap_is_referenced(w.machine, page))

    w.enter(0, 0, RW, 0)
    assert says() == (False, False)
    w.access(0, W)
    assert says() == (True, True)
    w.remove(0)
    assert says() == (True, True)
    assert w.now(pages.pmap_clear_modify(w.machine, page))
    assert says() == (False, True)
    assert w.now(pages.pmap_clear_reference(w.machine, page))
    assert says() == (False, False)


def test_what_is_cleared_is_said_again_by_the_next_use(w: World) -> None:
    page = w.pages[0]
    w.enter(0, 0, RW, W)
    for _ in range(2):
        w.access(0, W)
        assert w.now(pages.pmap_clear_modify(w.machine, page))
        assert not w.now(pages.pmap_clear_modify(w.machine, page))
        w.access(0, R)
        assert w.now(pages.pmap_clear_reference(w.machine, page))
        assert not w.now(pages.pmap_is_referenced(w.machine, page))
    assert not page.md_modified


# ------------------------------------------------------------ while the world is built


def test_prefill_is_what_the_calls_would_have_done() -> None:
    lone = LoneThread()
    machine = pmap.Machine(lone.k, 2)
    kernel = pmap.NetBSDPmap(machine, "kernel", kernel=True, max_address=NBPDR, kernel_vm_end=NBPDR)
    user = pmap.NetBSDPmap(machine, "user")
    frames = [pmap.Frame(RAM + n * PAGE_SIZE) for n in range(3)]
    kernel.prefill(0, frames, RW, by_hand=True)
    user.prefill(USER, frames[:2], RW, W | PMAP_WIRED)
    assert (kernel.resident_count, user.resident_count, user.wired_count) == (0, 2, 2)
    assert [len(page.pv_list) for page in frames] == [1, 1, 0]
    assert all(one.modified for one in user.translations(USER, USER + NBPDR))
    with pytest.raises(UsageError, match="0x200000 is mapped"):
        user.prefill(USER, frames[:1], R)
    lone.start()
    lone.now(kernel.kremove(0, NBPDR))
    assert lone.now(kernel.access(0, R)) == pmap.PageFault(0, R, present=False)
    with pytest.raises(UsageError, match="prefill builds the world"):
        user.prefill(USER, frames, R)
    lone.close()


def test_an_unmanaged_page_that_is_mapped_is_not_reused(w: World) -> None:
    w.pages[0].managed = False
    w.enter(0, 0, R, 0)
    with pytest.raises(Panic, match="reused, and still mapped"):
        w.machine.assert_page_unused(w.pages[0])
