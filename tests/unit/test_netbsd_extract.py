"""uvm_map_reserve, uvm_map_replace and uvm_map_extract, alone: return codes, what moves, and what is left behind."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from stressvm import Panic
from stressvm.vm import netbsd
from tests.lone_netbsd import PAGE, One

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stressvm.vm.netbsd import MapEntry, VmMap

NONE, READ, ALL = netbsd.VM_PROT_NONE, netbsd.VM_PROT_READ, netbsd.VM_PROT_ALL
REMOVE, CONTIG, QREF = netbsd.UVM_EXTRACT_REMOVE, netbsd.UVM_EXTRACT_CONTIG, netbsd.UVM_EXTRACT_QREF
FIXPROT, RESERVED = netbsd.UVM_EXTRACT_FIXPROT, netbsd.UVM_EXTRACT_RESERVED
NOMERGE = netbsd.UVM_FLAG_NOMERGE
DIAGNOSTIC = netbsd.Options.DIAGNOSTIC
LOW = 0xC000_0000
DST = 0xD000_0000


class Two(One):
    """`kmap` is the source, `dst` the destination, of eight pages."""

    dst: VmMap

    def __init__(self, version: str, options: netbsd.Options = DIAGNOSTIC) -> None:
        def build(kmap: VmMap) -> None:
            self.dst = netbsd.setup(
                kmap.k, 8, version=version, flags=netbsd.VM_MAP_PAGEABLE, name="dst", min_offset=DST, options=options
            )

        super().__init__(build=build, version=version, flags=netbsd.VM_MAP_PAGEABLE, options=options)

    def extract(
        self, page: int, pages: int, flags: int = 0, *, dst: VmMap | None = None, to: int = 0
    ) -> tuple[int, int]:
        """The error, and the page in the destination."""
        dst = dst if dst is not None else self.dst
        call = netbsd.uvm_map_extract(self.kmap, self.at(page), pages * PAGE, dst, dstaddr=to, flags=flags)
        error, va = self.now(call)
        assert (va == 0) == bool(error)
        assert not dst.lock.write_held()
        assert not self.kmap.lock.write_held()
        return error, (va - dst.min_offset) // PAGE if va else -1


@pytest.fixture(params=netbsd.VERSIONS)
def two(request: pytest.FixtureRequest) -> Iterator[Two]:
    with Two(request.param) as made:
        yield made


# ---------------------------------------------------------------- uvm_map_reserve


def test_a_reserved_range_cannot_be_accessed_and_never_merges(two: Two) -> None:
    assert two.now(netbsd.uvm_map_reserve(two.kmap, PAGE + 1, 0)) == two.at(0)
    assert two.now(netbsd.uvm_map_reserve(two.kmap, PAGE, two.at(0), align=4 * PAGE)) == two.at(4)
    assert two.now(netbsd.uvm_map_reserve(two.kmap, PAGE, two.at(2), flags=netbsd.UVM_FLAG_FIXED)) == two.at(2)
    assert two.now(netbsd.uvm_map_reserve(two.kmap, PAGE, two.at(2), flags=netbsd.UVM_FLAG_FIXED)) is None
    assert two.ranges() == [(0, 2), (2, 3), (4, 5)]
    assert two.each("protection") == two.each("max_protection") == [NONE] * 3
    assert two.now(netbsd.uvm_map_reserve(two.kmap, 99 * PAGE, 0)) is None
    assert two.kmap.flags.peek() & netbsd.VM_MAP_WANTVA


# ---------------------------------------------------------------- uvm_map_replace


def entries(one: One, *ranges: tuple[int, int]) -> list[MapEntry]:
    return [netbsd.MapEntry(one.at(start), one.at(end)) for start, end in ranges]


def replace(one: One, start: int, end: int, chain: list[MapEntry]) -> bool:
    one.now(one.kmap.lock.lock())
    done = netbsd.uvm_map_replace(one.kmap, one.at(start), one.at(end), chain)
    one.now(one.kmap.lock.unlock())
    return done


def test_a_chain_takes_the_place_of_the_blank_entry(two: Two) -> None:
    two.now(netbsd.uvm_map_reserve(two.kmap, 4 * PAGE, 0))
    two.map(6)
    assert replace(two, 0, 4, entries(two, (0, 1), (1, 4)))
    assert two.ranges() == [(0, 1), (1, 4), (6, 7)]
    assert two.kmap.size == 5 * PAGE
    assert two.kmap.first_free is two.entry(1), "the blank entry was that, so the last of the chain is"
    assert two.kmap.hint is two.entry(0)


def test_a_longer_blank_entry_is_clipped_at_the_end_only(two: Two) -> None:
    two.now(netbsd.uvm_map_reserve(two.kmap, 6 * PAGE, 0))
    assert not replace(two, 1, 4, entries(two, (1, 4)))
    assert two.ranges() == [(0, 4), (4, 6)], "the clip at the end stays"
    assert replace(two, 0, 4, entries(two, (0, 4)))
    assert two.ranges() == [(0, 4), (4, 6)]


def test_what_is_not_blank_or_not_there_is_not_replaced(two: Two) -> None:
    two.map(0, 1, uobj=netbsd.UvmObject(), uoffset=0)
    two.map(2, 1, flags=netbsd.UVM_FLAG_COPYONW | netbsd.UVM_FLAG_OVERLAY)
    two.now(netbsd.uvm_km_suballoc(two.kmap, two.at(4), PAGE, fixed=True))
    for page in (0, 2, 4, 6):
        assert not replace(two, page, page + 1, entries(two, (page, page + 1)))


def test_an_empty_chain_frees_the_range_and_nobody_looks_at_wantva(two: Two) -> None:
    two.now(netbsd.uvm_map_reserve(two.kmap, 16 * PAGE, 0))
    assert two.now(netbsd.uvm_map_reserve(two.kmap, PAGE, 0)) is None
    assert replace(two, 0, 16, [])
    assert two.kmap.flags.peek() & netbsd.VM_MAP_WANTVA
    assert (two.ranges(), two.kmap.first_free, two.kmap.hint) == ([], None, None)
    assert two.kmap.size == (16 * PAGE if two.kmap.version == "5.2" else 0), "5.2 does not think of the size"


def test_a_chain_with_a_hole_leaves_a_first_free_with_a_gap_before_it(two: Two) -> None:
    """The kernel's mistake: a search from the bottom does not look before first_free, so what is there is lost."""
    two.now(netbsd.uvm_map_reserve(two.kmap, 4 * PAGE, 0))
    with pytest.raises(Panic, match=r"G6 first_free: first_free is .* there is a gap before it"):
        replace(two, 0, 4, entries(two, (0, 1), (2, 4)))


@pytest.mark.parametrize(
    ("ranges", "text"),
    [
        ([(1, 2), (0, 1)], "uvm_map_replace1"),
        ([(0, 2), (1, 3)], "uvm_map_replace1"),
        ([(0, 5)], "uvm_map_replace2"),
    ],
)
def test_with_diagnostic_a_chain_that_does_not_fit_panics(two: Two, ranges: list[tuple[int, int]], text: str) -> None:
    two.now(netbsd.uvm_map_reserve(two.kmap, 4 * PAGE, 0))
    with pytest.raises(Panic, match=text):
        replace(two, 0, 4, entries(two, *ranges))


@pytest.mark.parametrize(("version", "panics"), [("6", True), ("5.2", False)])
def test_an_empty_entry_in_a_chain_panics_on_6(version: str, *, panics: bool) -> None:
    with Two(version) as two:
        two.now(netbsd.uvm_map_reserve(two.kmap, 4 * PAGE, 0))
        chain = entries(two, (0, 4))
        chain[0].end = chain[0].start
        if panics:
            with pytest.raises(Panic, match="uvm_map_replace2"):
                two.kmap.check_chain(two.at(0), two.at(4), chain)
        else:
            two.kmap.check_chain(two.at(0), two.at(4), chain)


# ---------------------------------------------------------------- uvm_map_extract


def test_mappings_are_copied_with_references_of_their_own(two: Two) -> None:
    uobj = netbsd.UvmObject()
    two.map(0, 4, uobj=uobj, uoffset=8 * PAGE, prot=READ, inherit=netbsd.MAP_INHERIT_COPY, advice=2)
    assert two.extract(1, 2) == (0, 0)
    assert two.ranges() == [(0, 1), (1, 3), (3, 4)]
    assert two.ranges(two.dst) == [(0, 2)]
    (copy,) = two.dst.entries
    assert (copy.object, copy.offset, copy.protection, copy.inheritance, copy.advice) == (
        uobj,
        9 * PAGE,
        READ,
        netbsd.MAP_INHERIT_COPY,
        2,
    )
    assert uobj.refs == 4
    assert (two.dst.size, two.kmap.size) == (2 * PAGE, 4 * PAGE)
    assert not copy.flags & netbsd.UVM_MAP_NOMERGE, "the reservation was, the copy is not"


def test_an_amap_is_shared_and_the_copy_is_not_wired(two: Two) -> None:
    two.map(0, 4, flags=netbsd.UVM_FLAG_COPYONW)
    call = netbsd.uvm_map_pageable(two.kmap, two.at(0), two.at(4), new_pageable=False)
    assert two.now(call) == 0
    assert two.extract(2, 2) == (0, 0)
    (copy,) = two.dst.entries
    back = two.entry(2)
    assert (copy.amap, copy.pageoff, copy.wired_count) == (back.amap, 2, 0)
    assert copy.amap is not None
    assert (copy.amap.refs, copy.amap.shared) == (3, True)
    assert copy.etype == netbsd.UVM_ET_COPYONWRITE


def test_what_needs_a_copy_gets_its_amap_before_it_is_shared(two: Two) -> None:
    two.map(0, 1, flags=netbsd.UVM_FLAG_COPYONW)
    assert two.extract(0, 1) == (0, 0)
    assert two.entry(0).etype == netbsd.UVM_ET_COPYONWRITE


def test_holes_stay_holes_unless_contig_forbids_them(two: Two) -> None:
    two.now(netbsd.uvm_map(two.dst, DST + PAGE, PAGE, flags=netbsd.UVM_FLAG_FIXED))
    two.map(1, 1)
    two.map(3, 1)
    for start, pages in ((0, 2), (1, 3)):
        assert two.extract(start, pages, CONTIG) == (netbsd.EINVAL, -1)
        assert two.ranges(two.dst) == [(1, 2)], "the reservation is gone again"
    assert two.extract(1, 3) == (0, 2)
    assert two.ranges(two.dst) == [(1, 2), (2, 3), (4, 5)]
    assert two.dst.size == (4 if two.dst.version == "5.2" else 3) * PAGE
    assert two.extract(1, 1, CONTIG) == (0, 0)


def test_a_hole_before_the_end_leaves_the_destination_with_a_wrong_first_free(two: Two) -> None:
    """As replacing does: the last of the chain becomes first_free."""
    two.map(0, 1)
    two.map(2, 1)
    with pytest.raises(Panic, match="dst: G6 first_free"):
        two.extract(0, 3)


def test_nothing_to_extract_frees_what_was_reserved(two: Two) -> None:
    assert two.extract(0, 2) == (0, 0)
    assert two.ranges(two.dst) == []
    assert two.dst.size == (2 * PAGE if two.dst.version == "5.2" else 0)


def test_no_room_in_the_destination_is_enomem(two: Two) -> None:
    two.map(0, 9)
    assert two.extract(0, 9) == (netbsd.ENOMEM, -1)
    assert two.dst.flags.peek() & netbsd.VM_MAP_WANTVA
    assert two.ranges() == [(0, 9)]


def test_qref_does_not_clip_and_its_copies_never_merge(two: Two) -> None:
    uobj = netbsd.UvmObject()
    two.map(0, 4, uobj=uobj, uoffset=0)
    assert two.extract(1, 2, QREF) == (0, 0)
    assert two.ranges() == [(0, 4)]
    (copy,) = two.dst.entries
    assert (copy.offset, copy.flags, two.ranges(two.dst)) == (PAGE, netbsd.UVM_MAP_NOMERGE, [(0, 2)])
    assert uobj.refs == 2


def test_fixprot_gives_the_highest_protection(two: Two) -> None:
    two.map(0, 1, prot=READ)
    assert two.extract(0, 1, FIXPROT) == (0, 0)
    assert [entry.protection for entry in two.dst.entries] == [ALL]


def test_with_reserved_the_caller_keeps_the_place(two: Two) -> None:
    two.map(0, 2)
    kept = two.now(netbsd.uvm_map_reserve(two.dst, 2 * PAGE, DST + 4 * PAGE))
    assert kept == DST + 4 * PAGE
    assert two.extract(0, 1, RESERVED | CONTIG, to=DST) == (netbsd.EIO, -1), "nothing is kept there"
    assert two.extract(0, 2, RESERVED, to=kept) == (0, 4)
    two.unmap(1, 1)
    assert two.extract(0, 2, RESERVED | CONTIG, to=kept) == (netbsd.EINVAL, -1)
    assert two.ranges(two.dst) == [(4, 5), (5, 6)], "and stays there, as it was"


def test_a_place_that_is_no_longer_blank_is_eio_and_the_copies_are_dropped(two: Two) -> None:
    uobj = netbsd.UvmObject()
    two.map(0, 1, uobj=uobj, uoffset=0)
    two.now(netbsd.uvm_map(two.dst, DST, PAGE, uobj=netbsd.UvmObject(), uoffset=0))
    assert two.extract(0, 1, RESERVED, to=DST) == (netbsd.EIO, -1)
    assert uobj.refs == 1
    assert two.ranges(two.dst) == [(0, 1)]


def test_remove_unmaps_the_source_without_a_word_and_leaves_its_size(two: Two) -> None:
    uobj = netbsd.UvmObject()
    two.map(0, 16, uobj=uobj, uoffset=0)
    assert two.now(netbsd.uvm_map_reserve(two.kmap, PAGE, 0)) is None
    assert two.extract(4, 4, REMOVE) == (0, 0)
    assert two.ranges() == [(0, 4), (8, 16)]
    assert two.ranges(two.dst) == [(0, 4)]
    assert two.kmap.flags.peek() & netbsd.VM_MAP_WANTVA
    assert two.kmap.size == 16 * PAGE
    assert uobj.refs == 3
    assert two.kmap.first_free is two.kmap.hint is two.entry(0)


def test_remove_of_everything(two: Two) -> None:
    two.map(0, 4)
    assert two.extract(0, 4, REMOVE) == (0, 0)
    assert (two.ranges(), two.kmap.first_free, two.kmap.hint) == ([], None, None)
    assert two.extract(0, 4, REMOVE) == (0, 4), "nothing is left to be removed"


def test_remove_of_what_is_wired_panics_when_it_is_dropped(two: Two) -> None:
    two.map(0, 1)
    call = netbsd.uvm_map_pageable(two.kmap, two.at(0), two.at(1), new_pageable=False)
    assert two.now(call) == 0
    with pytest.raises(Panic, match=r"uvm_unmap_detach: KASSERT: .* is wired"):
        two.extract(0, 1, REMOVE)


def test_within_one_map(two: Two) -> None:
    uobj = netbsd.UvmObject()
    two.map(0, 2, uobj=uobj, uoffset=0)
    assert two.extract(0, 2, dst=two.kmap) == (0, 2)
    assert two.ranges() == [(0, 2), (2, 4)]
    assert two.extract(0, 1, REMOVE, dst=two.kmap) == (0, 4)
    assert two.ranges() == [(1, 2), (2, 4), (4, 5)]
    assert [entry.offset for entry in two.kmap.entries] == [PAGE, 0, 0]


@pytest.mark.parametrize("flags", [REMOVE | CONTIG, REMOVE | QREF])
def test_remove_excludes_contig_and_qref(two: Two, flags: int) -> None:
    with pytest.raises(Panic, match="REMOVE with CONTIG or QREF"):
        two.extract(0, 1, flags)


@pytest.mark.parametrize(("start", "length"), [(1, PAGE), (0, 1)])
def test_parts_of_pages_panic(two: Two, start: int, length: int) -> None:
    with pytest.raises(Panic, match="are not whole pages"):
        two.now(netbsd.uvm_map_extract(two.kmap, LOW + start, length, two.dst))


def test_a_submap_is_taken_for_an_object(two: Two) -> None:
    two.now(netbsd.uvm_km_suballoc(two.kmap, two.at(0), PAGE))
    with pytest.raises(Panic, match="is a submap, and is taken for an object"):
        two.extract(0, 1)


def test_a_copy_that_there_is_no_memory_for_is_enomem() -> None:
    class Short(netbsd.VmMap):
        def amap_copy(self, entry: MapEntry) -> bool:  # noqa: ARG002 - that is the shortage
            return False

    with Two("6") as two:
        two.kmap.__class__ = Short
        two.map(0, 1)
        two.map(1, 1, flags=netbsd.UVM_FLAG_COPYONW)
        assert two.extract(0, 2) == (netbsd.ENOMEM, -1)
        assert two.ranges(two.dst) == []


def test_removing_what_was_reserved_as_the_destination_is_a_use_after_free(two: Two) -> None:
    """Within one map the place found may lie in the range asked for; it is unlinked before the source is."""
    with pytest.raises(Panic, match="is used, and has left the map"):
        two.extract(0, 1, REMOVE, dst=two.kmap)
