"""uvm_map_pageable and uvm_map_pageable_all, alone: return codes, counts, clips, recovery, and the lock on the way."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from stressvm import Panic
from stressvm.vm import netbsd
from tests.lone_netbsd import PAGE, One

if TYPE_CHECKING:
    from collections.abc import Iterator

NONE, READ, ALL = netbsd.VM_PROT_NONE, netbsd.VM_PROT_READ, netbsd.VM_PROT_ALL
PAGEABLE = netbsd.VM_MAP_PAGEABLE
ENTER, EXIT = netbsd.UVM_LK_ENTER, netbsd.UVM_LK_EXIT
LOW = 0xC000_0000
DIAGNOSTIC = netbsd.Options.DIAGNOSTIC


@pytest.fixture(params=netbsd.VERSIONS)
def one(request: pytest.FixtureRequest) -> Iterator[One]:
    with One(version=request.param, flags=PAGEABLE, options=DIAGNOSTIC) as made:
        yield made


def wire(one: One, page: int, pages: int, lockflags: int = 0) -> int:
    call = netbsd.uvm_map_pageable(
        one.kmap, one.at(page), one.at(page + pages), new_pageable=False, lockflags=lockflags
    )
    return one.now(call)


def unwire(one: One, page: int, pages: int, lockflags: int = 0) -> int:
    call = netbsd.uvm_map_pageable(one.kmap, one.at(page), one.at(page + pages), new_pageable=True, lockflags=lockflags)
    return one.now(call)


def wired_pages(one: One) -> list[int]:
    return sorted(one.page(va) for va in one.kmap.fault.wired)


def idle(one: One) -> bool:
    return not one.kmap.lock.write_held() and one.kmap.lock.busy_thread == -1


# ---------------------------------------------------------------- wiring


def test_wiring_clips_counts_and_faults_in_what_was_not_wired(one: One) -> None:
    one.map(0, 6)
    assert wire(one, 1, 2) == 0
    assert one.ranges() == [(0, 1), (1, 3), (3, 6)]
    assert one.each("wired_count") == [0, 1, 0]
    assert wire(one, 2, 2) == 0
    assert one.ranges() == [(0, 1), (1, 2), (2, 3), (3, 4), (4, 6)]
    assert one.each("wired_count") == [0, 1, 2, 1, 0]
    assert wired_pages(one) == [1, 2, 3]
    assert idle(one)


def test_the_map_is_locked_once_to_wire_and_the_lock_is_not_needed_again(one: One) -> None:
    one.map(0, 2)
    before = one.kmap.lock.timestamp.peek()
    assert wire(one, 0, 2) == 0
    assert one.kmap.lock.timestamp.peek() == before + 1


def test_nothing_mapped_at_the_start_is_efault(one: One) -> None:
    one.map(1, 2)
    assert wire(one, 0, 3) == unwire(one, 0, 3) == netbsd.EFAULT
    assert one.each("wired_count") == [0]
    assert idle(one)


def test_a_hole_is_einval_and_the_counts_are_as_they_were(one: One) -> None:
    one.map(0, 4)
    one.map(5, 2)
    assert wire(one, 0, 2) == 0
    assert wire(one, 1, 6) == netbsd.EINVAL
    assert one.ranges() == [(0, 1), (1, 2), (2, 4), (5, 7)], "the clips stay"
    assert one.each("wired_count") == [1, 1, 0, 0]
    assert wire(one, 5, 4) == netbsd.EINVAL, "a hole at the end"
    assert one.each("wired_count") == [1, 1, 0, 0]
    assert idle(one)


def test_what_cannot_be_accessed_cannot_be_wired(one: One) -> None:
    one.map(0, 2)
    one.map(2, 2, prot=NONE)
    assert wire(one, 0, 4) == netbsd.EINVAL
    assert one.each("wired_count") == [0, 0]
    assert wired_pages(one) == []


def test_a_map_that_is_not_pageable_panics() -> None:
    with One() as one:
        one.map(0)
        with pytest.raises(Panic, match=r"KASSERT\(map->flags & VM_MAP_PAGEABLE\)"):
            wire(one, 0, 1)


# ---------------------------------------------------------------- unwiring


def test_unwiring_ends_all_wirings_at_once(one: One) -> None:
    one.map(0, 4)
    for _ in range(3):
        assert wire(one, 0, 4) == 0
    assert unwire(one, 1, 2) == 0
    assert one.ranges() == [(0, 1), (1, 3), (3, 4)]
    assert one.each("wired_count") == [3, 0, 3]
    assert wired_pages(one) == [0, 3]


def test_unwiring_what_is_not_wired_or_has_a_hole_is_einval(one: One) -> None:
    one.map(0, 2)
    one.map(2, 1, flags=netbsd.UVM_FLAG_NOMERGE)
    one.map(4, 1)
    assert wire(one, 0, 2) == wire(one, 4, 1) == 0
    assert unwire(one, 0, 3) == netbsd.EINVAL
    assert wire(one, 2, 1) == 0
    assert unwire(one, 0, 5) == netbsd.EINVAL
    assert one.each("wired_count") == [1, 1, 1]
    assert unwire(one, 0, 3) == 0
    assert one.each("wired_count") == [0, 0, 1]
    assert idle(one)


def test_unmapping_unwires(one: One) -> None:
    one.map(0, 2)
    assert wire(one, 0, 2) == 0
    one.unmap(0, 1)
    assert wired_pages(one) == [1]
    assert one.ranges() == [(1, 2)]


# ---------------------------------------------------------------- lockflags


@pytest.mark.parametrize("fails", [False, True])
def test_the_lock_is_taken_over_and_left_held_as_asked(fails: bool) -> None:  # noqa: FBT001 - a column of the table
    fault = netbsd.FailingFault([LOW + PAGE]) if fails else netbsd.UvmFault()
    for lockflags in (0, ENTER, EXIT, ENTER | EXIT):
        with One(flags=PAGEABLE, fault=fault, options=DIAGNOSTIC, min_offset=LOW) as one:
            one.map(0, 4)
            if lockflags & ENTER:
                one.now(one.kmap.lock.lock())
            assert wire(one, 0, 4, lockflags) == (netbsd.ENOMEM if fails else 0)
            assert one.kmap.lock.write_held() == bool(lockflags & EXIT)
            assert one.kmap.lock.busy_thread == -1


@pytest.mark.parametrize("page", [0, 3])
def test_the_lock_is_left_held_for_errors_too(one: One, page: int) -> None:
    one.map(0, 2)
    assert wire(one, page, 3, EXIT) in (netbsd.EINVAL, netbsd.EFAULT)
    assert one.kmap.lock.write_held()
    assert unwire(one, page, 3, ENTER) in (netbsd.EINVAL, netbsd.EFAULT)
    assert idle(one)


# ---------------------------------------------------------------- recovery


@pytest.mark.parametrize("version", netbsd.VERSIONS)
def test_a_fault_that_fails_undoes_everything_but_the_clips(version: str) -> None:
    fault = netbsd.FailingFault([LOW + 4 * PAGE], error=netbsd.EIO)
    with One(version=version, flags=PAGEABLE, fault=fault, options=DIAGNOSTIC, min_offset=LOW) as one:
        for page in (0, 2, 4):
            one.map(page, 2, flags=netbsd.UVM_FLAG_NOMERGE)
        assert wire(one, 0, 2) == 0
        before = one.kmap.lock.timestamp.peek()
        assert wire(one, 0, 6) == netbsd.EIO
        assert one.each("wired_count") == [1, 0, 0]
        assert wired_pages(one) == [0, 1], "those of the second entry had been wired"
        assert one.kmap.lock.timestamp.peek() == before + 2
        assert idle(one)


def test_pages_before_the_one_that_fails_are_unwired_again() -> None:
    with One(flags=PAGEABLE, fault=netbsd.FailingFault([LOW + 2 * PAGE]), min_offset=LOW) as one:
        one.map(0, 4)
        assert wire(one, 0, 4) == netbsd.ENOMEM
        assert wired_pages(one) == []


def test_a_copy_on_write_entry_has_got_its_amap_before_the_faults_and_keeps_it() -> None:
    with One(flags=PAGEABLE, fault=netbsd.FailingFault([LOW]), min_offset=LOW) as one:
        one.map(0, 2, flags=netbsd.UVM_FLAG_COPYONW)
        entry = one.entry(0)
        assert entry.etype == netbsd.UVM_ET_COPYONWRITE | netbsd.UVM_ET_NEEDSCOPY
        assert wire(one, 0, 2) == netbsd.ENOMEM
        assert entry.etype == netbsd.UVM_ET_COPYONWRITE
        assert entry.amap is not None


def test_an_object_that_can_never_be_written_needs_no_copy(one: One) -> None:
    one.map(0, 1, flags=netbsd.UVM_FLAG_COPYONW, uobj=netbsd.UvmObject(), uoffset=0, prot=READ, maxprot=READ)
    assert wire(one, 0, 1) == 0
    assert one.entry(0).etype & netbsd.UVM_ET_NEEDSCOPY
    assert one.entry(0).amap is None


def test_a_fault_that_looks_the_page_up_sees_what_the_map_has() -> None:
    with One(flags=PAGEABLE, fault=netbsd.LockingFault()) as one:
        one.map(0, 2)
        assert wire(one, 0, 2) == 0
        kmap = one.kmap
        assert one.now(kmap.fault.fault(kmap, one.at(5), ALL)) == netbsd.EFAULT
        one.map(3, prot=NONE)
        assert one.now(kmap.fault.fault(kmap, one.at(3), ALL)) == netbsd.EACCES


# ---------------------------------------------------------------- uvm_map_pageable_all


def pageable_all(one: One, flags: int, limit: int = 0) -> int:
    return one.now(netbsd.uvm_map_pageable_all(one.kmap, flags, limit))


def test_all_that_can_be_accessed_is_wired_holes_or_not(one: One) -> None:
    one.map(0, 2)
    one.map(3, 1, prot=NONE)
    one.map(5, 1)
    assert wire(one, 5, 1) == 0
    assert pageable_all(one, netbsd.MCL_CURRENT) == 0
    assert one.each("wired_count") == [1, 0, 2]
    assert wired_pages(one) == [0, 1, 5]
    assert not one.kmap.flags.peek() & netbsd.VM_MAP_WIREFUTURE
    assert pageable_all(one, 0) == 0
    assert one.each("wired_count") == [0, 0, 0]
    assert wired_pages(one) == []
    assert idle(one)


def test_the_future_is_a_flag_of_the_map_until_everything_is_unwired(one: One) -> None:
    one.map(0, 2)
    assert pageable_all(one, netbsd.MCL_FUTURE) == 0
    assert one.kmap.flags.peek() & netbsd.VM_MAP_WIREFUTURE
    assert one.each("wired_count") == [0]
    assert pageable_all(one, 0) == 0
    assert not one.kmap.flags.peek() & netbsd.VM_MAP_WIREFUTURE


def test_limits_of_the_map_and_of_the_machine_are_enomem_with_the_future_set() -> None:
    with One(flags=PAGEABLE, fault=netbsd.UvmFault(wiredmax=3)) as one:
        one.map(0, 2)
        one.map(4, 2)
        both = netbsd.MCL_CURRENT | netbsd.MCL_FUTURE
        assert pageable_all(one, both) == netbsd.ENOMEM
        assert one.kmap.flags.peek() & netbsd.VM_MAP_WIREFUTURE
        assert one.each("wired_count") == [0, 0]
        one.unmap(4, 1)
        assert pageable_all(one, both, limit=3 * PAGE - 1) == netbsd.ENOMEM
        assert pageable_all(one, both, limit=3 * PAGE) == 0
        assert idle(one)


def test_the_kernels_recovery_unwires_the_wrong_ones() -> None:
    """What another has wired is unwired for good, and what nobody has keeps its pages wired."""
    with One(flags=PAGEABLE, fault=netbsd.FailingFault([LOW + 8 * PAGE]), options=DIAGNOSTIC, min_offset=LOW) as one:
        one.map(0, 1)
        one.map(3, 1)
        one.map(5, 1, prot=NONE)
        one.map(8, 1)
        assert wire(one, 0, 1) == 0
        assert pageable_all(one, netbsd.MCL_CURRENT) == netbsd.ENOMEM
        assert one.each("wired_count") == [0, 0, 0, 0], "the first was wired once by somebody else"
        assert wired_pages(one) == [3], "page 0 was his; page 3 is nobody's"
        assert idle(one)


def test_with_that_mended_it_unwires_its_own() -> None:
    class Mended(netbsd.VmMap):
        async def undo_all(self, failed: netbsd.MapEntry) -> None:
            first = self.entries.first
            assert first is not None
            await self.undo_range(first, failed, self.max_offset)

    with One(flags=PAGEABLE, fault=netbsd.FailingFault([LOW + 8 * PAGE]), min_offset=LOW, cls=Mended) as one:
        for page in (0, 3, 8):
            one.map(page, 1)
        assert wire(one, 0, 1) == 0
        assert pageable_all(one, netbsd.MCL_CURRENT) == netbsd.ENOMEM
        assert one.each("wired_count") == [1, 0, 0]
        assert wired_pages(one) == [0]


def test_all_on_a_map_that_is_not_pageable_panics() -> None:
    with One() as one, pytest.raises(Panic, match="uvm_map_pageable_all: KASSERT"):
        pageable_all(one, netbsd.MCL_CURRENT)
