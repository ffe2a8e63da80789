"""What DIAGNOSTIC, DEBUG and LOCKDEBUG add to a map, and the two checks of DEBUG that are wrong themselves."""

from __future__ import annotations

import pytest

from stressvm import Panic
from stressvm.vm import netbsd
from tests.lone_netbsd import PAGE, One

Options = netbsd.Options
PAGEABLE = netbsd.VM_MAP_PAGEABLE


class Stale(netbsd.VmMap):
    """uvm_unmap that leaves the hint where it is."""

    def forget_hint(self, entry: netbsd.MapEntry) -> None:
        """Nothing."""


class StaleFirst(netbsd.VmMap):
    """uvm_unmap that leaves first_free where it is."""

    def repair_first_free(self, entry: netbsd.MapEntry | None) -> None:
        """Nothing."""


@pytest.mark.parametrize(
    ("cls", "what", "later"),
    [(Stale, "hint", r"G7 hint"), (StaleFirst, "first_free", r"G6 first_free")],
)
def test_diagnostic_panics_on_unlinking_what_is_still_pointed_to_and_else_an_invariant_does(
    cls: type[netbsd.VmMap], what: str, later: str
) -> None:
    for options, match in ((Options.DIAGNOSTIC, rf"KASSERT\(entry != map->{what}\)"), (Options.NONE, later)):
        with One(cls=cls, options=options) as one:
            one.map(0, 2)
            with pytest.raises(Panic, match=match):
                one.unmap(0, 2)


def test_replacing_and_extracting_point_their_maps_elsewhere_too() -> None:
    for cls in (Stale, netbsd.VmMap):
        with One(cls=cls, options=Options.DIAGNOSTIC) as one:
            one.now(netbsd.uvm_map_reserve(one.kmap, PAGE, 0))
            one.now(one.kmap.lock.lock())
            if cls is Stale:
                with pytest.raises(Panic, match=r"KASSERT\(entry != map->hint\)"):
                    netbsd.uvm_map_replace(one.kmap, one.at(0), one.at(1), [])
            else:
                assert netbsd.uvm_map_replace(one.kmap, one.at(0), one.at(1), [])


def test_options_can_be_changed() -> None:
    with One() as one:
        assert one.kmap.options is Options.NONE
        one.kmap.options |= Options.DIAGNOSTIC
        assert (one.kmap.options, one.kmap.diagnostic, one.kmap.debug) == (Options.DIAGNOSTIC, True, False)
        one.kmap.options = Options.DEBUG_CHECK_MAP
        assert (one.kmap.diagnostic, one.kmap.debug) == (False, True)


# ---------------------------------------------------------------- DEBUG


def uses(one: One) -> None:
    """Every kind of call that DEBUG looks at."""
    one.map(0, 8)
    one.map(10, 2)
    one.unmap(2, 1)
    one.map(2, 1)
    one.now(netbsd.uvm_map_protect(one.kmap, one.at(1), one.at(5), netbsd.VM_PROT_READ))
    one.now(netbsd.uvm_map_extract(one.kmap, one.at(1), PAGE, one.kmap))
    one.now(netbsd.uvm_map_pageable(one.kmap, one.at(0), one.at(2), new_pageable=False))
    with one.reading():
        netbsd.uvm_map_lookup_entry(one.kmap, one.at(11))


@pytest.mark.parametrize("options", [Options.DEBUG, Options.DEBUG_CHECK_MAP, Options.DEBUG | Options.DEBUG_CHECK_MAP])
@pytest.mark.parametrize("version", netbsd.VERSIONS)
def test_a_map_that_is_as_it_should_be_passes(version: str, options: Options) -> None:
    with One(version=version, options=options, flags=PAGEABLE) as one:
        uses(one)


@pytest.mark.parametrize(
    ("etype", "offset"),
    [(netbsd.UVM_ET_OBJ, 0), (netbsd.UVM_ET_SUBMAP, 0), (0, PAGE)],
)
def test_debug_panics_on_an_entry_without_what_its_type_says(etype: int, offset: int) -> None:
    with One(options=Options.DEBUG) as one:
        one.map(0, 2)
        one.entry(0).etype, one.entry(0).offset = etype, offset
        with pytest.raises(Panic, match="_uvm_mapent_check: bad entry"):
            one.unmap(0, 1)


def test_debug_panics_on_an_object_without_its_type() -> None:
    with One(options=Options.DEBUG) as one:
        one.map(0, 2)
        one.entry(0).object = netbsd.UvmObject()
        one.now(one.kmap.lock.lock_read())
        with pytest.raises(Panic, match="bad entry"):
            netbsd.uvm_map_lookup_entry(one.kmap, one.at(1))


@pytest.mark.parametrize(
    ("field", "text"), [("hint", "stale hint"), ("first_free", "stale first_free"), ("gap", "should be before")]
)
def test_debug_with_the_map_check_panics_before_an_operation_on_a_map_that_is_wrong(field: str, text: str) -> None:
    with One(options=Options.DEBUG_CHECK_MAP) as one:
        one.map(0, 1)
        one.map(3, 1)
        if field == "gap":
            one.kmap.first_free = one.entry(3)
        else:
            setattr(one.kmap, field, netbsd.MapEntry(0, PAGE))
            if field == "first_free":
                one.kmap.entries.resize(one.entry(0), end=one.at(3))
                one.kmap.entries.resize(one.entry(3), end=one.kmap.max_offset)
        with pytest.raises(Panic, match=f'uvm_map_check failed: "unmap_remove entry".*{text}'):
            one.unmap(8, 1)


def test_the_tree_check_of_6_panics_on_every_map_with_an_entry() -> None:
    with One(options=Options.DEBUG_CHECK_RBTREE) as one:
        one.unmap(0, 1)
        one.map(0, 1)
        with pytest.raises(Panic, match=r'"map_findspace entry".*lookup: .* is not found by its start'):
            one.map(1, 1)


def test_the_tree_check_of_52_holds_gaps_against_the_sum_of_the_entries() -> None:
    with One(version="5.2", options=Options.DEBUG_CHECK_RBTREE) as one:
        one.map(0, 12)
        one.unmap(8, 1)
        with pytest.raises(Panic, match=r"KASSERT\(tmp->gap < map->size\).* followed by 0x4000 free bytes"):
            one.unmap(0, 8)


# ---------------------------------------------------------------- LOCKDEBUG


@pytest.mark.parametrize(
    ("kind", "options", "panics"),
    [
        (netbsd.MapKind.KERNEL, Options.LOCKDEBUG, True),
        (netbsd.MapKind.KERNEL, Options.DEBUG, False),
        (netbsd.MapKind.SUBMAP, Options.LOCKDEBUG, False),
    ],
)
def test_memory_of_kernel_map_with_a_live_lock_in_it_is_not_unmapped(
    kind: netbsd.MapKind, options: Options, *, panics: bool
) -> None:
    with One(kind=kind, options=options) as one:
        one.map(0, 4)
        one.kmap.lockdebug_alloc(one.at(2) + 64, "softc.lock")
        one.unmap(0, 2)
        if panics:
            with pytest.raises(Panic, match=r"is freed with the lock softc\.lock in it"):
                one.unmap(2, 1)
        else:
            one.unmap(2, 1)


def test_a_lock_that_was_destroyed_is_no_matter() -> None:
    with One(kind=netbsd.MapKind.KERNEL, options=Options.LOCKDEBUG) as one:
        one.map(0, 4)
        one.kmap.lockdebug_alloc(one.at(2), "softc.lock")
        one.kmap.lockdebug_free(one.at(2))
        one.unmap(0, 4)
        assert one.ranges() == []
