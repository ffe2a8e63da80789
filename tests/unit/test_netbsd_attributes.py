"""uvm_map_protect, inherit, advice, checkprot and lookup_entry: every return code, and what is left when one fails."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from stressvm import Panic
from stressvm.vm import netbsd
from tests.lone_netbsd import PAGE, One

if TYPE_CHECKING:
    from collections.abc import Iterator

NONE, READ, WRITE, ALL = netbsd.VM_PROT_NONE, netbsd.VM_PROT_READ, netbsd.VM_PROT_WRITE, netbsd.VM_PROT_ALL
RW = READ | WRITE
PAGEABLE = netbsd.VM_MAP_PAGEABLE
WIREFUTURE = netbsd.VM_MAP_WIREFUTURE


@pytest.fixture(params=netbsd.VERSIONS)
def one(request: pytest.FixtureRequest) -> Iterator[One]:
    with One(version=request.param, flags=PAGEABLE, options=netbsd.Options.DIAGNOSTIC | netbsd.Options.DEBUG) as made:
        yield made


def protect(one: One, page: int, pages: int, prot: int, *, set_max: bool = False) -> int:
    call = netbsd.uvm_map_protect(one.kmap, one.at(page), one.at(page + pages), prot, set_max=set_max)
    return one.now(call)


# ---------------------------------------------------------------- uvm_map_protect


def test_protection_changes_in_the_range_and_clips_at_both_ends(one: One) -> None:
    one.map(0, 8)
    assert protect(one, 2, 3, READ) == 0
    assert one.ranges() == [(0, 2), (2, 5), (5, 8)]
    assert one.each("protection") == [ALL, READ, ALL]
    assert one.each("max_protection") == [ALL] * 3
    assert one.kmap.size == 8 * PAGE


def test_alike_entries_are_not_merged_again(one: One) -> None:
    one.map(0, 4)
    assert protect(one, 1, 1, READ) == protect(one, 1, 1, ALL) == 0
    assert one.ranges() == [(0, 1), (1, 2), (2, 4)]


def test_holes_are_skipped_and_the_range_is_cut_to_the_map(one: One) -> None:
    one.map(1)
    one.map(3)
    assert protect(one, -5, 100, RW) == 0
    assert one.each("protection") == [RW, RW]
    assert protect(one, 5, 3, RW) == 0


def test_more_than_allowed_is_refused_and_nothing_changes_but_the_first_clip(one: One) -> None:
    one.map(0, 4)
    one.map(4, 4, maxprot=RW, prot=READ)
    before = one.kmap.lock.timestamp.peek()
    assert protect(one, 2, 4, ALL) == netbsd.EACCES
    assert one.ranges() == [(0, 2), (2, 4), (4, 8)], "clipped at the start, not at the end"
    assert one.each("protection") == [ALL, ALL, READ]
    assert one.kmap.lock.timestamp.peek() == before + 1
    assert not one.kmap.lock.write_held()


def test_a_submap_in_the_range_is_refused_before_rights_are_looked_at(one: One) -> None:
    one.map(0, prot=READ, maxprot=READ)
    one.now(netbsd.uvm_km_suballoc(one.kmap, one.at(1), PAGE, fixed=True))
    assert protect(one, 1, 1, READ) == netbsd.EINVAL
    assert protect(one, 0, 2, READ) == netbsd.EINVAL
    assert protect(one, 0, 2, ALL) == netbsd.EACCES, "the first entry with a fault decides"


def test_set_max_lowers_the_limit_and_cuts_what_is_there(one: One) -> None:
    one.map(0, 2)
    one.map(2, 2, prot=READ)
    assert protect(one, 0, 4, RW, set_max=True) == 0
    assert one.each("max_protection") == [RW, RW]
    assert one.each("protection") == [RW, READ]
    assert protect(one, 0, 4, NONE, set_max=True) == 0
    assert one.each("protection") == [NONE, NONE]
    assert protect(one, 0, 1, READ) == netbsd.EACCES
    assert protect(one, 0, 1, READ, set_max=True) == netbsd.EACCES, "the limit can never be raised"


# ---------------------------------------------------------------- WIREFUTURE


def wiring(one: One) -> list[int]:
    one.kmap.flags.poke(PAGEABLE | WIREFUTURE)
    counts: list[int] = one.each("wired_count")
    return counts


def test_what_becomes_accessible_is_wired_on_a_wirefuture_map(one: One) -> None:
    one.map(0, 2, prot=NONE)
    wiring(one)
    assert protect(one, 0, 2, RW) == 0
    assert one.each("wired_count") == [1]
    assert one.kmap.fault.wired == {one.at(0), one.at(1)}
    assert protect(one, 0, 2, READ) == 0
    assert one.each("wired_count") == [1], "it could be accessed before"


@pytest.mark.parametrize(("old", "new"), [(READ, ALL), (NONE, NONE), (ALL, NONE)])
def test_what_was_accessible_or_stays_without_access_is_not_wired(one: One, old: int, new: int) -> None:
    one.map(0, prot=old)
    wiring(one)
    assert protect(one, 0, 1, new) == 0
    assert one.each("wired_count") == [0]


def test_the_kernel_wires_the_first_entry_of_the_range_instead_of_the_one_that_has_changed(one: One) -> None:
    """Of three that become accessible the first is wired, once; with an accessible one in front, that one is."""
    for page in range(3):
        one.map(page, prot=NONE, flags=netbsd.UVM_FLAG_NOMERGE)
    wiring(one)
    assert protect(one, 0, 3, RW) == 0
    assert one.each("wired_count") == [1, 0, 0]
    one.map(5, prot=READ, flags=netbsd.UVM_FLAG_NOMERGE)
    one.map(6, prot=NONE, flags=netbsd.UVM_FLAG_NOMERGE)
    assert protect(one, 5, 2, RW) == 0
    assert (one.entry(5).wired_count, one.entry(6).wired_count) == (1, 0)


def test_with_that_mended_each_is_wired() -> None:
    class Mended(netbsd.VmMap):
        def to_wire(self, first: netbsd.MapEntry, changed: netbsd.MapEntry) -> netbsd.MapEntry:  # noqa: ARG002
            return changed

    with One(flags=PAGEABLE, cls=Mended) as one:
        for page in range(3):
            one.map(page, prot=NONE, flags=netbsd.UVM_FLAG_NOMERGE)
        wiring(one)
        assert protect(one, 0, 3, RW) == 0
        assert one.each("wired_count") == [1, 1, 1]


def test_a_wiring_that_fails_is_remembered_and_all_protections_are_changed() -> None:
    low = 0xC000_0000
    with One(flags=PAGEABLE, fault=netbsd.FailingFault([low]), min_offset=low) as one:
        one.map(0, prot=NONE)
        one.map(2, prot=NONE)
        wiring(one)
        assert protect(one, 0, 3, RW) == netbsd.ENOMEM
        assert one.each("protection") == [RW, RW]
        assert one.each("wired_count") == [0, 0]
        assert not one.kmap.lock.write_held()
        assert one.kmap.lock.busy_thread == -1


def test_wirefuture_on_a_map_that_is_not_pageable_panics() -> None:
    with One(flags=WIREFUTURE) as one:
        one.map(0, prot=NONE)
        with pytest.raises(Panic, match="VM_MAP_PAGEABLE"):
            protect(one, 0, 1, RW)


# ---------------------------------------------------------------- uvm_map_inherit and advice


def test_inheritance_changes_in_the_range_holes_are_skipped(one: One) -> None:
    one.map(0, 4)
    one.map(6, 2)
    call = netbsd.uvm_map_inherit(one.kmap, one.at(2), one.at(7), netbsd.MAP_INHERIT_SHARE)
    assert one.now(call) == 0
    assert one.ranges() == [(0, 2), (2, 4), (6, 7), (7, 8)]
    none, share = netbsd.MAP_INHERIT_NONE, netbsd.MAP_INHERIT_SHARE
    assert one.each("inheritance") == [none, share, share, none]


def test_an_unknown_inheritance_is_refused_before_the_map_is_locked(one: One) -> None:
    one.map(0, 4)
    before = one.kmap.lock.timestamp.peek()
    assert one.now(netbsd.uvm_map_inherit(one.kmap, one.at(1), one.at(2), 3)) == netbsd.EINVAL
    assert one.kmap.lock.timestamp.peek() == before
    assert one.ranges() == [(0, 4)]


def test_an_unknown_advice_is_refused_after_the_clips(one: One) -> None:
    one.map(0, 4)
    one.map(5, 1)
    assert one.now(netbsd.uvm_map_advice(one.kmap, one.at(1), one.at(6), netbsd.UVM_ADV_SEQUENTIAL)) == 0
    normal, sequential = netbsd.UVM_ADV_NORMAL, netbsd.UVM_ADV_SEQUENTIAL
    assert one.each("advice") == [normal, sequential, sequential]
    assert one.now(netbsd.uvm_map_advice(one.kmap, one.at(2), one.at(3), 7)) == netbsd.EINVAL
    assert one.ranges() == [(0, 1), (1, 2), (2, 3), (3, 4), (5, 6)]
    assert one.each("advice")[2] == sequential
    assert one.now(netbsd.uvm_map_advice(one.kmap, one.at(10), one.at(12), 7)) == 0, "nothing is mapped there"


# ---------------------------------------------------------------- looking


def test_lookup_finds_the_entry_or_the_one_before_and_leaves_it_as_the_hint(one: One) -> None:
    one.map(1, 2)
    one.map(5, 1)
    first, last = one.entry(1), one.entry(5)
    with one.reading():
        assert netbsd.uvm_map_lookup_entry(one.kmap, one.at(2)) == (True, first)
        assert one.kmap.hint is first
        assert netbsd.uvm_map_lookup_entry(one.kmap, one.at(3)) == (False, first)
        assert netbsd.uvm_map_lookup_entry(one.kmap, one.at(15)) == (False, last)
        assert netbsd.uvm_map_lookup_entry(one.kmap, one.at(0)) == (False, None)
    assert getattr(one.kmap, "hint") is None  # noqa: B009 - mypy thinks that it is still `first`


def test_checkprot_wants_all_of_the_range(one: One) -> None:
    one.map(0, 2)
    one.map(2, 1, prot=READ)
    one.map(4, 1)
    with one.reading():
        assert netbsd.uvm_map_checkprot(one.kmap, one.at(0), one.at(2), ALL)
        assert netbsd.uvm_map_checkprot(one.kmap, one.at(1), one.at(3), READ)
        assert not netbsd.uvm_map_checkprot(one.kmap, one.at(1), one.at(3), RW)
        assert not netbsd.uvm_map_checkprot(one.kmap, one.at(2), one.at(5), READ), "a hole"
        assert not netbsd.uvm_map_checkprot(one.kmap, one.at(4), one.at(6), READ), "the end"
        assert not netbsd.uvm_map_checkprot(one.kmap, one.at(3), one.at(4), NONE), "nothing there"
