"""Objects, amaps, submaps and kinds of maps: what merges, what a clip shares, and when references go."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from stressvm import Panic, UsageError
from stressvm.vm import netbsd
from tests.lone_netbsd import FIXED, PAGE, One

if TYPE_CHECKING:
    from collections.abc import Iterator

NONE, READ, ALL = netbsd.VM_PROT_NONE, netbsd.VM_PROT_READ, netbsd.VM_PROT_ALL
NOMERGE, COPYONW, OVERLAY = netbsd.UVM_FLAG_NOMERGE, netbsd.UVM_FLAG_COPYONW, netbsd.UVM_FLAG_OVERLAY
PAGEABLE, KERNEL, USER = netbsd.VM_MAP_PAGEABLE, netbsd.MapKind.KERNEL, netbsd.MapKind.USER
CHECKS = netbsd.Options.DIAGNOSTIC | netbsd.Options.DEBUG | netbsd.Options.DEBUG_CHECK_MAP


@pytest.fixture(params=netbsd.VERSIONS)
def one(request: pytest.FixtureRequest) -> Iterator[One]:
    with One(version=request.param, flags=PAGEABLE, options=CHECKS) as made:
        yield made


# ---------------------------------------------------------------- merging


def test_offsets_must_go_on_for_entries_to_merge(one: One) -> None:
    uobj = netbsd.UvmObject()
    uobj.refs = 6
    one.map(4, 1, uobj=uobj, uoffset=4 * PAGE)
    one.map(5, 1, uobj=uobj, uoffset=5 * PAGE)
    assert one.ranges() == [(4, 6)]
    one.map(6, 1, uobj=uobj, uoffset=5 * PAGE)
    assert one.ranges() == [(4, 6), (6, 7)], "offset 6 pages would go on"
    one.map(3, 1, uobj=uobj, uoffset=3 * PAGE)
    assert one.ranges() == [(3, 6), (6, 7)]
    assert one.entry(3).offset == 3 * PAGE
    one.map(2, 1, uobj=netbsd.UvmObject(), uoffset=2 * PAGE)
    one.map(7, 1, uobj=uobj, uoffset=0)
    assert one.ranges() == [(2, 3), (3, 6), (6, 7), (7, 8)]
    assert uobj.refs == 4, "of six references handed over two were not needed"


@pytest.mark.parametrize(("version", "left"), [("5.2", 1), ("6", 2)])
def test_three_that_become_one_keep_one_reference_and_on_6_another_for_ever(version: str, left: int) -> None:
    with One(version=version) as one:
        uobj = netbsd.UvmObject()
        uobj.refs = 3
        for page in (0, 2, 1):
            one.map(page, 1, uobj=uobj, uoffset=page * PAGE)
        assert one.ranges() == [(0, 3)]
        assert uobj.refs == left
        one.unmap(0, 3)
        assert uobj.refs == left - 1


def test_the_middle_that_goes_on_only_one_way(one: One) -> None:
    """Backwards the offset does not go on; forwards it does."""
    uobj = netbsd.UvmObject()
    uobj.refs = 3
    one.map(0, 1, uobj=uobj, uoffset=9 * PAGE)
    one.map(2, 1, uobj=uobj, uoffset=2 * PAGE)
    one.map(1, 1, uobj=uobj, uoffset=1 * PAGE)
    assert one.ranges() == [(0, 1), (1, 3)]
    assert one.each("offset") == [9 * PAGE, 1 * PAGE]


@pytest.mark.parametrize("flags", [COPYONW, COPYONW | OVERLAY])
def test_a_copy_on_write_mapping_merges_only_with_its_like(one: One, flags: int) -> None:
    one.map(0, 1)
    one.map(1, 1, flags=flags)
    one.map(2, 1)
    expected = netbsd.UVM_ET_COPYONWRITE | (0 if flags & OVERLAY else netbsd.UVM_ET_NEEDSCOPY)
    assert one.each("etype") == [0, expected, 0]
    assert one.ranges() == [(0, 1), (1, 2), (2, 3)]
    assert (one.entry(1).amap is not None) == bool(flags & OVERLAY)
    one.map(4, 1, flags=flags)
    one.map(5, 1, flags=flags)
    assert one.ranges()[-1] == (4, 6)


def test_an_amap_grows_with_its_entry_unless_it_is_shared(one: One) -> None:
    one.map(4, 1, flags=OVERLAY)
    amap = one.entry(4).amap
    assert amap is not None
    one.map(5, 1)
    one.map(3, 1)
    assert one.ranges() == [(3, 6)]
    assert one.entry(3).amap is amap
    amap.ref()
    one.map(6, 1)
    one.map(2, 1)
    assert one.ranges() == [(2, 3), (3, 6), (6, 7)]


def test_two_amaps_cannot_become_one_entry(one: One) -> None:
    one.map(0, 1, flags=OVERLAY)
    one.map(2, 1, flags=OVERLAY)
    one.map(1, 1)
    assert one.ranges() == [(0, 2), (2, 3)]


@pytest.mark.parametrize("page", [0, 2])
def test_one_amap_on_either_side_can(one: One, page: int) -> None:
    one.map(page, 1, flags=OVERLAY)
    one.map(2 - page, 1)
    amap = one.entry(page).amap
    one.map(1, 1)
    assert one.ranges() == [(0, 3)]
    assert one.entry(0).amap is amap
    assert amap is not None
    assert amap.refs == 1


@pytest.mark.parametrize(("refuses", "ranges"), [(0, [(0, 1), (1, 2), (2, 3)]), (1, [(0, 2), (2, 3)])])
def test_an_amap_that_cannot_grow(refuses: int, ranges: list[tuple[int, int]]) -> None:
    """At the first try there is no merge at all; at the second the first one stands."""

    class Stiff(netbsd.VmMap):
        tries = 0

        def amap_extend(self, entry: netbsd.MapEntry, size: int) -> bool:  # noqa: ARG002
            self.tries += 1
            return self.tries <= refuses

    with One(cls=Stiff) as one:
        one.map(0, 1, flags=OVERLAY)
        one.map(2, 1)
        one.map(1, 1)
        assert one.ranges() == ranges


def test_without_memory_for_an_entry_nowait_is_enomem_and_nothing_changes() -> None:
    class Short(netbsd.VmMap):
        def entry_available(self) -> bool:
            return False

    with One(cls=Short) as one:
        one.map(0, 1)
        assert one.map(4, 1, flags=netbsd.UVM_FLAG_NOWAIT) == netbsd.ENOMEM
        assert one.map(1, 1, flags=netbsd.UVM_FLAG_NOWAIT) == 0, "a merge needs none"
        assert one.map(5, 1) == 0, "who may wait gets one"
        assert (one.ranges(), one.kmap.size) == ([(0, 2), (5, 6)], 3 * PAGE)
        assert not one.kmap.flags.peek() & netbsd.VM_MAP_WANTVA


# ---------------------------------------------------------------- clipping and unmapping


def test_a_clip_shares_the_object_and_the_amap_and_moves_the_offsets(one: One) -> None:
    uobj = netbsd.UvmObject()
    one.map(0, 8, uobj=uobj, uoffset=PAGE, flags=COPYONW | OVERLAY)
    amap = one.entry(0).amap
    assert amap is not None
    one.unmap(2, 3)
    assert one.ranges() == [(0, 2), (5, 8)]
    assert one.each("offset") == [PAGE, 6 * PAGE]
    assert one.each("pageoff") == [0, 5]
    assert (uobj.refs, amap.refs) == (2, 2)
    one.unmap(0, 16)
    assert (uobj.refs, amap.refs) == (0, 0)


def test_the_last_reference_goes_when_the_map_is_unlocked() -> None:
    with One() as one:
        held: list[bool] = []

        async def last() -> None:
            held.append(one.kmap.lock.write_held())

        one.map(0, 1, uobj=netbsd.UvmObject(last=last), uoffset=0)
        one.unmap(0, 1)
        assert held == [False]


def test_a_clipped_submap_entry_is_two_references(one: One) -> None:
    sub = one.now(netbsd.uvm_km_suballoc(one.kmap, one.at(0), 4 * PAGE))
    with one.reading():
        assert netbsd.uvm_map_checkprot(one.kmap, one.at(0), one.at(4), ALL)
    assert one.now(netbsd.uvm_map_inherit(one.kmap, one.at(1), one.at(2), netbsd.MAP_INHERIT_COPY)) == 0
    assert one.ranges() == [(0, 1), (1, 2), (2, 4)]
    assert sub.ref_count == 4


# ---------------------------------------------------------------- the kernel object


@pytest.mark.parametrize("version", netbsd.VERSIONS)
def test_offsets_of_a_kernel_object_count_from_kernel_map(version: str) -> None:
    with One(version=version, kind=KERNEL) as one:
        uobj = netbsd.UvmObject(kernel=True)
        one.map(3, 1, uobj=uobj)
        assert (one.entry(3).offset, one.entry(3).etype) == (3 * PAGE, netbsd.UVM_ET_OBJ)
        sub = one.now(netbsd.uvm_km_suballoc(one.kmap, one.at(8), 4 * PAGE))
        one.now(netbsd.uvm_map(sub, one.at(9), PAGE, uobj=uobj, flags=FIXED))
        assert [entry.offset for entry in sub.entries] == [9 * PAGE]


def test_an_unknown_offset_in_another_object_panics(one: One) -> None:
    with pytest.raises(Panic, match="unknown offset"):
        one.map(0, 1, uobj=netbsd.UvmObject())


def test_unmapping_a_kernel_object_in_a_pageable_map_panics_on_6(one: One) -> None:
    one.map(0, 1, uobj=netbsd.UvmObject(kernel=True))
    if one.kmap.version == "6":
        with pytest.raises(Panic, match="uvm_unmap_remove: kernel object"):
            one.unmap(0, 1)
    else:
        one.unmap(0, 1)
        assert one.ranges() == []


@pytest.mark.parametrize("flags", [netbsd.UVM_FLAG_VAONLY, 0])
def test_it_does_not_when_nothing_is_mapped_any_more_or_the_map_is_not_pageable(flags: int) -> None:
    with One(flags=PAGEABLE if flags else 0) as one:
        one.map(0, 1, uobj=netbsd.UvmObject(kernel=True))
        one.unmap(0, 1, flags)
        assert one.ranges() == []


def test_52_with_debug_panics_on_the_offset_that_is_left_without_its_object() -> None:
    with One(version="5.2", flags=PAGEABLE, options=netbsd.Options.DEBUG) as one:
        one.map(1, 1, uobj=netbsd.UvmObject(kernel=True))
        with pytest.raises(Panic, match="bad entry"):
            one.unmap(1, 1)


# ---------------------------------------------------------------- kinds of maps


@pytest.mark.parametrize(
    ("version", "kind", "error"), [("6", USER, netbsd.EACCES), ("5.2", USER, 0), ("6", netbsd.MapKind.SUBMAP, 0)]
)
def test_address_0_of_a_process_is_refused_on_6(version: str, kind: netbsd.MapKind, error: int) -> None:
    with One(version=version, kind=kind, min_offset=0) as one:
        assert one.now(netbsd.uvm_map(one.kmap, 0, PAGE, flags=FIXED)) == (error, 0)
        assert one.kmap.lock.timestamp.peek() == (not error)


@pytest.mark.parametrize(
    "call",
    [
        lambda kmap: netbsd.uvm_km_alloc(kmap, PAGE, 0, netbsd.UVM_KMF_VAONLY),
        lambda kmap: netbsd.uvm_km_free(kmap, kmap.min_offset, PAGE, netbsd.UVM_KMF_VAONLY),
        lambda kmap: netbsd.uvm_km_suballoc(kmap, kmap.min_offset, PAGE),
    ],
    ids=["alloc", "free", "suballoc"],
)
def test_uvm_km_wants_a_map_of_the_kernels(call: Any) -> None:
    with One(kind=USER) as one, pytest.raises(Panic, match=r"KASSERT\(vm_map_pmap\(map\) == pmap_kernel\(\)\)"):
        one.now(call(one.kmap))


def test_entries_of_pager_map_never_merge_and_are_got_before_it_is_locked() -> None:
    class Short(netbsd.VmMap):
        def entry_available(self) -> bool:
            return len(self.entries) < 2

    with One(kind=netbsd.MapKind.PAGER, cls=Short) as one:
        one.map(0, 1, flags=netbsd.UVM_FLAG_NOWAIT)
        one.map(1, 1, flags=netbsd.UVM_FLAG_NOWAIT)
        assert one.ranges() == [(0, 1), (1, 2)]
        before = one.kmap.lock.timestamp.peek()
        assert one.map(2, 1, flags=netbsd.UVM_FLAG_NOWAIT) == netbsd.ENOMEM
        assert one.kmap.lock.timestamp.peek() == before


@pytest.mark.parametrize("kind", [KERNEL, USER, netbsd.MapKind.PAGER])
def test_only_a_submap_of_the_kernels_is_intrsafe(kind: netbsd.MapKind) -> None:
    with pytest.raises(UsageError, match="only a kernel submap can be VM_MAP_INTRSAFE"):
        One(version="5.2", flags=netbsd.VM_MAP_INTRSAFE, kind=kind)


@pytest.mark.parametrize("flags", [0, PAGEABLE, netbsd.VM_MAP_TOPDOWN, PAGEABLE | netbsd.VM_MAP_TOPDOWN])
@pytest.mark.parametrize("fixed", [False, True])
def test_a_submap_has_the_flags_it_is_given(one: One, flags: int, *, fixed: bool) -> None:
    one.map(2, 1)
    sub = one.now(netbsd.uvm_km_suballoc(one.kmap, one.at(3 if fixed else 2), 4 * PAGE, flags, fixed=fixed))
    assert sub.flags.peek() == flags
    assert (sub.min_offset, sub.max_offset) == (one.at(3), one.at(7))
    sub.options = netbsd.Options.NONE
    va = one.now(netbsd.uvm_km_alloc(sub, PAGE, 0, netbsd.UVM_KMF_VAONLY))
    assert one.page(va) == (6 if flags & netbsd.VM_MAP_TOPDOWN else 3)
    assert sub.parent is one.kmap


# ---------------------------------------------------------------- page colours and caches


@pytest.mark.parametrize(("color", "place"), [(0, 4), (1, 1), (2, 2), (3, 3)])
def test_a_page_of_that_colour(color: int, place: int) -> None:
    with One(machine=netbsd.Machine(colors=4), min_offset=0xC000_0000) as one:
        one.map(0, 1)
        va = one.now(netbsd.uvm_km_alloc(one.kmap, PAGE, color, netbsd.UVM_KMF_VAONLY | netbsd.UVM_KMF_COLORMATCH))
        assert one.page(va) == place


def test_colours_from_the_top_and_with_gaps_that_have_none() -> None:
    with One(machine=netbsd.Machine(colors=4), flags=netbsd.VM_MAP_TOPDOWN, min_offset=0xC000_0000) as one:
        one.map(8, 8)
        one.map(4, 2)

        def top(color: int) -> tuple[int, int]:
            flags = netbsd.UVM_FLAG_COLORMATCH
            error, va = one.now(netbsd.uvm_map(one.kmap, one.kmap.max_offset, PAGE, align=color, flags=flags))
            return error, one.page(va) if not error else -1

        assert top(3) == (0, 7)
        assert top(2) == (0, 6)
        assert top(1) == (netbsd.ENOMEM, -1), "the space before the first entry is not seen from the top"


def test_a_colour_that_there_is_not_panics() -> None:
    with One(machine=netbsd.Machine(colors=4)) as one, pytest.raises(Panic, match="colour 4 of 4"):
        one.map(0, 1, flags=netbsd.UVM_FLAG_COLORMATCH, align=4)


def test_a_colour_and_a_place_exclude_each_other() -> None:
    with One(machine=netbsd.Machine(colors=4)) as one:
        assert one.map(3, 1, flags=netbsd.UVM_FLAG_COLORMATCH) == 0, "colour 0 is no alignment, and is not looked at"
        with pytest.raises(Panic, match="FIXED with an alignment"):
            one.map(5, 1, flags=netbsd.UVM_FLAG_COLORMATCH, align=1)


def test_with_one_colour_any_page_will_do() -> None:
    with One() as one:
        one.map(0, 1)
        va = one.now(netbsd.uvm_km_alloc(one.kmap, PAGE, 0, netbsd.UVM_KMF_VAONLY | netbsd.UVM_KMF_COLORMATCH))
        assert one.page(va) == 1


@pytest.mark.parametrize(
    ("settings", "hint", "fault"),
    [
        ({"min_offset": 0}, 0, "begins or ends less than"),
        ({}, 0xC000_0001, "the hint must be a page's address"),
        ({"machine": netbsd.Machine(colors=4, prefer=8 * PAGE)}, 0xC000_0000, "is not modelled"),
    ],
)
def test_what_is_not_modelled_of_colours_is_refused(settings: dict[str, Any], hint: int, fault: str) -> None:
    with One(**{"machine": netbsd.Machine(colors=4), **settings}) as one:
        call = netbsd.uvm_map(one.kmap, hint, PAGE, uoffset=0, flags=netbsd.UVM_FLAG_COLORMATCH, align=1)
        with pytest.raises(UsageError, match=fault):
            one.now(call)


@pytest.mark.parametrize("version", netbsd.VERSIONS)
def test_pmap_prefer_moves_an_address_to_agree_with_the_offset(version: str) -> None:
    with One(version=version, machine=netbsd.Machine(prefer=4 * PAGE)) as one:

        def place(uoffset: int, **how: Any) -> int:
            error, va = one.now(netbsd.uvm_map(one.kmap, one.kmap.min_offset, PAGE, uoffset=uoffset, **how))
            assert error == 0
            return one.page(va)

        assert place(6 * PAGE, uobj=netbsd.UvmObject()) == 2
        assert place(2 * PAGE) == 6
        assert place(netbsd.UVM_UNKNOWN_OFFSET) == 0
        assert place(0) == 4
        assert place(PAGE, align=PAGE) == 1
        with pytest.raises(UsageError, match="on a machine with PMAP_PREFER"):
            place(0, align=2 * PAGE)


def test_a_reservation_for_an_extraction_agrees_with_the_source() -> None:
    with One(machine=netbsd.Machine(prefer=4 * PAGE)) as one:
        one.map(3, 1)
        error, va = one.now(netbsd.uvm_map_extract(one.kmap, one.at(3), PAGE, one.kmap))
        assert (error, one.page(va)) == (0, 7)


def test_quantum_is_52s() -> None:
    with One() as one, pytest.raises(UsageError, match="no UVM_FLAG_QUANTUM"):
        one.map(0, 1, flags=netbsd.UVM_FLAG_QUANTUM)
    with One(version="5.2", kind=USER) as one, pytest.raises(Panic, match="QUANTUM on a user map"):
        one.map(0, 1, flags=netbsd.UVM_FLAG_QUANTUM)


def test_quantum_ranges_merge_with_their_like_only() -> None:
    with One(version="5.2") as one:
        one.map(0, 1, advice=netbsd.UVM_ADV_RANDOM)
        assert one.page(one.now(netbsd.uvm_km_alloc(one.kmap, PAGE, 0, netbsd.UVM_KMF_VAONLY))) == 1
        assert one.page(one.now(netbsd.uvm_km_alloc(one.kmap, PAGE, 0, netbsd.UVM_KMF_VAONLY))) == 2
        assert one.ranges() == [(0, 1), (1, 3)]
