"""FreeBSD's stacks: how they are made, what they grow by, and what stops them."""

from __future__ import annotations

from typing import Any

import pytest

from stressvm import Panic
from stressvm.vm import freebsd
from tests.freebsd_lone import PAGE, LoneMap, closing

DOWN, UP = freebsd.MAP_STACK_GROWS_DOWN, freebsd.MAP_STACK_GROWS_UP
RW = freebsd.VM_PROT_RW
BOTH = pytest.mark.parametrize("version", ["13", "2013"])
closed = pytest.fixture(autouse=True)(closing)


class Stack(LoneMap):
    """A stack at page 16, by default of 16 pages, of which 4 are there at first and one is the guard."""

    def __init__(self, version: str = "13", cow: int = DOWN, *, pages: int = 16, guard: int = 1, **kw: Any) -> None:
        super().__init__(version, **kw)
        freebsd.sysctl(self.k).stack_guard_page = guard
        assert self.make(16, pages, cow) == 0

    def make(self, start: int, pages: int, cow: int = DOWN) -> int:
        return self.now(freebsd.vm_map_stack(self.map, self.at(start), pages * PAGE, RW, RW, cow))

    def grow(self, page: int, gap: int | None = None) -> int:
        self.now(self.map.lock.lock_read())
        entry = None if gap is None else self.entry(gap)
        result = self.now(freebsd.vm_map_growstack(self.map, self.at(page), entry))
        self.now(self.map.lock.unlock_read())
        return result

    def fault(self, page: int, access: int = freebsd.VM_PROT_WRITE) -> int:
        result, found = self.now(self.map.vm_map_lookup(self.at(page), access, grow=True))
        if found is not None:
            self.now(found.vm_map.lookup_done())
        return result


# ---------------------------------------------------------------- making one


@BOTH
def test_a_stack_that_grows_down_has_its_gap_below(version: str) -> None:
    one = Stack(version)
    assert one.entries() == [(16, 28), (28, 32)]
    gap, stack = one.entry(16), one.entry(31)
    assert gap.eflags == freebsd.MAP_ENTRY_GUARD | freebsd.MAP_ENTRY_STACK_GAP_DN
    assert (gap.protection, gap.max_protection, gap.cred, gap.next_read) == (0, 0, None, PAGE)
    assert (stack.eflags, stack.protection) == (freebsd.MAP_ENTRY_GROWS_DOWN, RW)
    assert (one.map.size, one.reserved) == (4 * PAGE, 4)


@BOTH
def test_a_stack_that_grows_up_has_its_gap_above(version: str) -> None:
    one = Stack(version, UP)
    assert one.entries() == [(16, 20), (20, 32)]
    assert one.entry(20).eflags == freebsd.MAP_ENTRY_GUARD | freebsd.MAP_ENTRY_STACK_GAP_UP
    assert one.entry(16).eflags == freebsd.MAP_ENTRY_GROWS_UP


@pytest.mark.parametrize(
    ("start", "pages", "of_13", "of_2013"),
    [
        (4, 0, freebsd.KERN_INVALID_ADDRESS, freebsd.KERN_NO_SPACE),
        (60, 5, freebsd.KERN_INVALID_ADDRESS, freebsd.KERN_INVALID_ADDRESS),
        (-1, 4, freebsd.KERN_INVALID_ADDRESS, freebsd.KERN_NO_SPACE),
        (4, 1, freebsd.KERN_INVALID_ARGUMENT, freebsd.KERN_NO_SPACE),
        (20, 4, freebsd.KERN_NO_SPACE, freebsd.KERN_NO_SPACE),
        (14, 4, freebsd.KERN_NO_SPACE, freebsd.KERN_NO_SPACE),
        (4, 2, 0, 0),
    ],
)
def test_which_stacks_are_refused(start: int, pages: int, of_13: int, of_2013: int) -> None:
    for version, wanted in (("13", of_13), ("2013", of_2013)):
        one = Stack(version)
        before = one.entries()
        assert one.make(start, pages) == wanted
        assert (one.entries() == before) == (wanted != 0)


@BOTH
def test_a_first_piece_leaves_room_for_the_guard(version: str) -> None:
    one = Stack(version)
    assert one.make(0, 3) == 0
    assert one.entries()[:2] == [(0, 1), (1, 3)]


def test_without_a_guard_a_small_stack_has_no_gap_and_2013_cannot_make_it() -> None:
    for version, wanted in (("13", 0), ("2013", freebsd.KERN_INVALID_ADDRESS)):
        one = Stack(version)
        freebsd.sysctl(one.k).stack_guard_page = 0
        before = one.reserved
        assert one.make(0, 4) == wanted
        assert one.entries()[:1] == ([(0, 4)] if not wanted else [(16, 28)])
        assert one.reserved == before + (0 if wanted else 4)


@BOTH
def test_no_swap_for_the_first_piece(version: str) -> None:
    one = Stack(version)
    freebsd.ucred(one.k).limit = 5 * PAGE
    assert one.make(0, 8) == freebsd.KERN_RESOURCE_SHORTAGE
    assert len(one.entries()) == 2


@BOTH
def test_the_first_piece_counts_against_the_limit_of_the_process(version: str) -> None:
    one = Stack(version, limits=freebsd.Limits(vmem=7 * PAGE))
    assert one.make(0, 8) == freebsd.KERN_NO_SPACE
    assert one.make(0, 3) == 0


@BOTH
def test_what_a_new_stack_asserts(version: str) -> None:
    for cow in (0, DOWN | UP):
        with pytest.raises(Panic, match="one direction"):
            Stack(version).make(0, 8, cow)
    one = Stack(version)
    one.map.flags |= freebsd.MAP_WIREFUTURE
    with pytest.raises(Panic, match="to be wired"):
        one.make(0, 8)
    for call in (freebsd.vm_map_find, freebsd.vm_map_fixed):
        one = Stack(version)
        with pytest.raises(Panic, match="non-NULL backing object"):
            one.now(call(one.map, freebsd.VmObject(8), 0, one.at(0), 8 * PAGE, cow=DOWN))


@BOTH
def test_find_and_fixed_make_stacks_too(version: str) -> None:
    one = LoneMap(version)
    result, addr = one.now(freebsd.vm_map_find(one.map, None, 0, one.at(0), 8 * PAGE, cow=DOWN))
    assert (result, one.page(addr), one.entries()) == (0, 0, [(0, 4), (4, 8)])
    assert one.insert(16, 20) == 0
    assert one.now(freebsd.vm_map_fixed(one.map, None, 0, one.at(18), 8 * PAGE, cow=UP)) == 0
    assert one.entries()[2:] == [(16, 18), (18, 22), (22, 26)]
    assert one.now(freebsd.vm_map_fixed(one.map, None, 0, one.at(62), 8 * PAGE, cow=UP)) != 0


# ---------------------------------------------------------------- growing


@BOTH
def test_it_grows_by_whole_steps_and_what_is_new_is_an_entry_of_its_own(version: str) -> None:
    one = Stack(version)
    assert one.fault(27) == 0
    assert one.entries() == [(16, 24), (24, 28), (28, 32)]
    assert one.entry(24).eflags == freebsd.MAP_ENTRY_GROWS_DOWN
    assert (one.map.size, one.reserved, one.entry(16).next_read) == (8 * PAGE, 8, PAGE)
    assert one.fault(19) == 0
    assert one.entries() == [(16, 17), (17, 24), (24, 28), (28, 32)]


@BOTH
def test_upwards_it_is_extended(version: str) -> None:
    one = Stack(version, UP)
    assert one.fault(16) == 0
    assert one.fault(20) == 0
    assert one.entries() == [(16, 24), (24, 32)]
    obj = one.entry(16).object
    assert obj is not None
    assert (obj.size, obj.charge, one.reserved, one.map.size) == (8, 8 * PAGE, 8, 8 * PAGE)
    freebsd.audit(one.k)


@BOTH
def test_the_guard_is_never_grown_into(version: str) -> None:
    for cow, guard in ((DOWN, 16), (UP, 31)):
        one = Stack(version, cow)
        assert one.grow(guard) == freebsd.KERN_NO_SPACE
        assert one.fault(guard) == freebsd.KERN_PROTECTION_FAILURE
        assert len(one.entries()) == 2


def test_2013_asks_anew_how_large_the_guard_is_and_13_has_noted_it() -> None:
    for version, wanted in (("13", 0), ("2013", freebsd.KERN_NO_SPACE)):
        one = Stack(version)
        freebsd.sysctl(one.k).stack_guard_page = 4
        assert one.grow(17) == wanted


@BOTH
def test_what_is_no_gap_of_a_stack(version: str) -> None:
    one = Stack(version)
    assert one.grow(29) == 0
    assert one.grow(1) == freebsd.KERN_FAILURE
    assert one.insert(0, 2, prot=0, max_prot=0, cow=freebsd.MAP_CREATE_GUARD) == 0
    assert one.grow(1) == freebsd.KERN_FAILURE
    assert one.remove(28, 29) == 0
    assert one.grow(20) == freebsd.KERN_FAILURE
    other = Stack(version, UP)
    assert other.remove(19, 20) == 0
    assert other.grow(21) == freebsd.KERN_FAILURE


@BOTH
def test_a_thread_of_another_process_does_not_grow_it(version: str) -> None:
    limits = freebsd.Limits()
    one = Stack(version, limits=limits)
    stranger = freebsd.vmspace_alloc(one.k, 0, 1 << 20, version=version)
    stranger.adopt(one.k.threads[0])
    assert one.grow(27) == freebsd.KERN_FAILURE
    freebsd.Vmspace(one.map, limits, freebsd.Fork).adopt(one.k.threads[0])
    assert one.grow(27) == 0


@BOTH
def test_the_limit_of_the_main_stack(version: str) -> None:
    limits = freebsd.Limits(stack=7 * PAGE + 1, ssize=4 * PAGE)
    one = Stack(version, limits=limits)
    limits.maxsaddr, limits.usrstack = one.at(16), one.at(32)
    assert one.grow(24) == freebsd.KERN_NO_SPACE
    assert one.grow(25) == 0
    assert (one.entries()[1], limits.ssize) == ((25, 28), 7 * PAGE)
    assert one.grow(24) == freebsd.KERN_NO_SPACE
    limits.usrstack = one.at(16)
    assert one.grow(24) == 0
    assert limits.ssize == 7 * PAGE


@BOTH
def test_the_limit_of_all_memory(version: str) -> None:
    one = Stack(version, limits=freebsd.Limits(vmem=7 * PAGE))
    assert one.grow(27) == freebsd.KERN_NO_SPACE
    assert len(one.entries()) == 2


@BOTH
@pytest.mark.parametrize(("cow", "page", "error"), [(DOWN, 27, "RESOURCE_SHORTAGE"), (UP, 20, "NO_SPACE")])
def test_no_swap_to_grow(version: str, cow: int, page: int, error: str) -> None:
    one = Stack(version, cow)
    before = one.entries()
    freebsd.ucred(one.k).limit = 7 * PAGE
    assert one.grow(page) == getattr(freebsd, f"KERN_{error}")
    assert (one.entries(), one.reserved) == (before, 4)
    freebsd.ucred(one.k).limit = 8 * PAGE
    assert one.grow(page) == 0


@BOTH
@pytest.mark.parametrize(("cow", "page"), [(DOWN, 16), (UP, 31)])
def test_without_a_guard_it_may_fill_its_gap(version: str, cow: int, page: int) -> None:
    stack = Stack(version, cow, guard=0)
    assert stack.grow(page) == 0
    assert stack.entries() == ([(16, 28), (28, 32)] if cow == DOWN else [(16, 32)])


def test_a_gap_that_was_put_back_has_lost_its_note_in_13() -> None:
    for version, wanted in (("13", freebsd.KERN_NO_SPACE), ("2013", 0)):
        stack = Stack(version, pages=8, guard=0)
        freebsd.ucred(stack.k).limit = 6 * PAGE
        assert stack.grow(16) == freebsd.KERN_RESOURCE_SHORTAGE
        assert stack.entries() == [(16, 20), (20, 24)]
        freebsd.ucred(stack.k).limit = None
        assert stack.grow(16) == wanted


@BOTH
def test_upwards_swap_is_lost_when_its_object_shadows_another(version: str) -> None:
    one = Stack(version, UP)
    assert one.fault(16) == 0
    entry = one.entry(16)
    assert entry.object is not None
    entry.object.reference()
    freebsd.vm_object_hold(one.k, entry.object)
    assert freebsd.ucred(one.k).swap_reserve(4 * PAGE)
    entry.object = entry.object.shadow(0, 4 * PAGE, freebsd.ucred(one.k))
    assert (one.grow(20), one.reserved) == (freebsd.KERN_FAILURE, 12)
    with pytest.raises(Panic, match="reserved, and 0x8000 are charged for"):
        freebsd.audit(one.k)


# ---------------------------------------------------------------- what is to be wired in the future


def test_what_has_grown_is_wired_if_the_future_is_to_be() -> None:
    for version, wanted in (("13", freebsd.KERN_OUT_OF_BOUNDS), ("2013", 0)):
        one = Stack(version)
        one.map.flags |= freebsd.MAP_WIREFUTURE
        assert one.grow(27) == 0
        assert (one.entry(24).wired_count, bool(one.entry(24).eflags & freebsd.MAP_ENTRY_USER_WIRED)) == (1, True)
        one.map.fault.bad = frozenset({one.at(21)})
        assert one.grow(23) == wanted
        assert one.entry(20).wired_count == 0


@BOTH
def test_the_limit_of_what_may_be_wired(version: str) -> None:
    one = Stack(version, limits=freebsd.Limits(memlock=4 * PAGE))
    one.map.flags |= freebsd.MAP_WIREFUTURE
    assert one.grow(27) == 0
    assert one.grow(23) == freebsd.KERN_NO_SPACE
    freebsd.sysctl(one.k).old_mlock = True
    assert one.grow(23) == 0
