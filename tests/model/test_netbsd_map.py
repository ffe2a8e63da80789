"""NetBSD's map against a plain sorted list of ranges: one thread, any sequence of calls, everything compared after each.

The list is searched page by page and merged by the rules as they are documented; it shares no code with the map. All
places and sizes in it are pages.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from stressvm.conform.lone import LoneThread
from stressvm.vm import netbsd

PAGE = netbsd.PAGE_SIZE
SPAN = 40
MINE = netbsd.UVM_KMF_VAONLY


@dataclass(frozen=True, slots=True)
class Like:
    """What two neighbours must have in common to be one entry; a submap or a NOMERGE entry is one by itself."""

    prot: int = netbsd.VM_PROT_ALL
    maxprot: int = netbsd.VM_PROT_ALL
    inherit: int = netbsd.MAP_INHERIT_NONE
    advice: int = netbsd.UVM_ADV_RANDOM
    nomerge: bool = False
    submap: bool = False
    #: 5.2: what uvm_km_alloc maps does not merge with what uvm_map maps.
    quantum: bool = False

    @property
    def merges(self) -> bool:
        return not self.nomerge and not self.submap


@dataclass(slots=True)
class Plain:
    """A map as a sorted list of (start, end, attributes)."""

    low: int
    high: int
    ranges: list[tuple[int, int, Like]] = field(default_factory=list)
    locked: int = 0
    wantva: bool = False

    def free(self, page: int) -> bool:
        return self.low <= page < self.high and not any(start <= page < end for start, end, _ in self.ranges)

    def first_fit(self, hint: int, pages: int, align: int) -> int | None:
        """The lowest place at or above the hint, by trying them all; `align` is in bytes."""
        for page in range(max(hint, self.low), self.high):
            if (not align or page * PAGE % align == 0) and all(self.free(page + n) for n in range(pages)):
                return page
        return None

    def wraps(self, hint: int, align: int) -> bool:
        """Does rounding up the place to start from pass the end of the address space?

        The kernel then searches from address 0, and may answer with a place below the hint: not what a list says.
        """
        start = max(hint, self.low)
        start = next((end for one, end, _ in self.ranges if one <= start < end), start)
        return align > 0 and -(-start * PAGE // align) * align >= 1 << 64

    def enter(self, start: int, end: int, like: Like) -> int:
        """Put a range in and merge it with what touches it and is like it; how many entries there are more."""
        alike = [
            other
            for other in self.ranges
            if like.merges and other[2] == like and (other[1] == start or other[0] == end)
        ]
        for other in alike:
            self.ranges.remove(other)
            start, end = min(start, other[0]), max(end, other[1])
        self.ranges.append((start, end, like))
        self.ranges.sort(key=lambda one: one[0])
        return 1 - len(alike)

    def remove(self, start: int, end: int) -> None:
        """Take a range out, whatever is in it."""
        left: list[tuple[int, int, Like]] = []
        for one, other, like in self.ranges:
            left.extend((a, b, like) for a, b in ((one, min(other, start)), (max(one, end), other)) if a < b)
        self.ranges = left
        self.locked += 1
        self.wantva = False

    def in_submap(self, start: int, end: int) -> bool:
        return any(like.submap and one < end and start < other for one, other, like in self.ranges)


pages = st.sampled_from([1, 1, 1, 2, 2, 3, 4, 7, 12])
alignments = st.sampled_from([0, 0, 0, 16, PAGE, 2 * PAGE, 4 * PAGE, 8 * PAGE, 64 * PAGE])
places = st.integers(-3, SPAN + 3)
#: Each differs from some other in one thing only, so that neighbours which differ in just that are common.
likes = st.sampled_from(
    [
        Like(),
        Like(),
        Like(prot=netbsd.VM_PROT_READ),
        Like(prot=netbsd.VM_PROT_READ, maxprot=netbsd.VM_PROT_READ),
        Like(inherit=netbsd.MAP_INHERIT_COPY),
        Like(advice=netbsd.UVM_ADV_NORMAL),
        Like(nomerge=True),
        Like(maxprot=netbsd.VM_PROT_READ),
    ]
)
km_flags = st.sampled_from(
    [
        0,
        netbsd.UVM_KMF_NOWAIT,
        netbsd.UVM_KMF_TRYLOCK,
        netbsd.UVM_KMF_CANFAIL,
        netbsd.UVM_KMF_NOWAIT | netbsd.UVM_KMF_CANFAIL,
    ]
)
which_map = st.integers(0, 5)


class AgainstPlainList(RuleBasedStateMachine):
    """`self.maps` holds the map, and the submaps carved out of it, each with its plain list."""

    @initialize(
        low=st.sampled_from([1, 0xC0003, (1 << 52) - SPAN]),
        kind=st.sampled_from([("6", 0), ("5.2", 0), ("5.2", netbsd.VM_MAP_INTRSAFE)]),
    )
    def begin(self, low: int, kind: tuple[str, int]) -> None:
        version, flags = kind
        self.lone = LoneThread()
        kmap = netbsd.setup(self.lone.k, SPAN, version=version, flags=flags, min_offset=low * PAGE)
        self.lone.start()
        self.maps = [(kmap, Plain(low, low + SPAN))]

    def teardown(self) -> None:
        if hasattr(self, "lone"):
            self.lone.close()

    def pick(self, which: int) -> tuple[netbsd.VmMap, Plain]:
        return self.maps[which % len(self.maps)]

    def mapped(self, kmap: netbsd.VmMap, plain: Plain, place: int | None, pages: int, like: Like) -> int:
        """A call that locks the map once and finds that place, or none; the address."""
        plain.locked += 1
        if place is None:
            plain.wantva = True
            return 0
        entries = len(plain.ranges)
        more = plain.enter(place, place + pages, like)
        assert len(kmap.entries) == entries + more
        return place * PAGE

    @rule(which=which_map, at=places, pages=pages, align=alignments, fixed=st.booleans(), like=likes)
    def uvm_map(self, *, which: int, at: int, pages: int, align: int, fixed: bool, like: Like) -> None:
        kmap, plain = self.pick(which)
        hint = plain.low + at
        assume(hint >= 0)
        align = 0 if fixed else align
        assume(not plain.wraps(hint, align))
        got = self.lone.now(
            netbsd.uvm_map(
                kmap,
                hint * PAGE,
                pages * PAGE,
                align=align,
                flags=(netbsd.UVM_FLAG_FIXED if fixed else 0) | (netbsd.UVM_FLAG_NOMERGE if like.nomerge else 0),
                prot=like.prot,
                maxprot=like.maxprot,
                inherit=like.inherit,
                advice=like.advice,
            )
        )
        if like.prot & ~like.maxprot:
            assert got == (netbsd.EACCES, 0)
            return
        place = plain.first_fit(hint, pages, align)
        if fixed and place != hint:
            place = None
        va = self.mapped(kmap, plain, place, pages, like)
        assert got == ((0, va) if place is not None else (netbsd.ENOMEM, 0))

    @rule(which=which_map, at=places, pages=pages, align=alignments)
    def findspace(self, which: int, at: int, pages: int, align: int) -> None:
        kmap, plain = self.pick(which)
        assume(not plain.wraps(plain.low + at, align))
        place = plain.first_fit(plain.low + at, pages, align)
        assert kmap.findspace((plain.low + at) * PAGE, pages * PAGE, align) == (
            place * PAGE if place is not None else None
        )

    @rule(which=which_map, at=places, pages=st.integers(1, SPAN))
    def uvm_unmap(self, which: int, at: int, pages: int) -> None:
        """Any range, with holes and from outside; submaps cannot be unmapped."""
        kmap, plain = self.pick(which)
        start = plain.low + at
        assume(not plain.in_submap(start, start + pages))
        self.lone.now(netbsd.uvm_unmap(kmap, start * PAGE, (start + pages) * PAGE))
        plain.remove(start, start + pages)

    @rule(which=which_map, pages=pages, odd=st.sampled_from([0, 0, 1, PAGE - 1]), align=alignments, flags=km_flags)
    def uvm_km_alloc(self, which: int, pages: int, odd: int, align: int, flags: int) -> None:
        """The size is rounded up; the hint is the map's lowest address; nobody holds the lock."""
        kmap, plain = self.pick(which)
        assume(not plain.wraps(plain.low, align))
        va = self.lone.now(netbsd.uvm_km_alloc(kmap, pages * PAGE - odd, align, MINE | flags))
        like = Like(quantum=kmap.version == "5.2")
        assert va == self.mapped(kmap, plain, plain.first_fit(plain.low, pages, align), pages, like)

    @rule(which=which_map, data=st.data())
    def uvm_km_free(self, which: int, data: st.DataObject) -> None:
        """A part of an entry."""
        kmap, plain = self.pick(which)
        entries = [one for one in plain.ranges if not one[2].submap]
        assume(entries)
        start, end, _ = data.draw(st.sampled_from(entries))
        start = data.draw(st.integers(start, end - 1))
        end = data.draw(st.integers(start + 1, end))
        self.lone.now(
            netbsd.uvm_km_free(kmap, start * PAGE, (end - start) * PAGE - data.draw(st.sampled_from([0, 1])), MINE)
        )
        plain.remove(start, end)

    @rule(which=which_map, at=places, pages=pages, fixed=st.booleans(), pageable=st.booleans(), intrsafe=st.booleans())
    def uvm_km_suballoc(self, *, which: int, at: int, pages: int, fixed: bool, pageable: bool, intrsafe: bool) -> None:
        """Where there is room: else it panics."""
        kmap, plain = self.pick(which)
        hint = plain.low + at
        place = plain.first_fit(hint, pages, 0)
        assume(place is not None and (place == hint or not fixed))
        assert place is not None
        flags = netbsd.VM_MAP_PAGEABLE if pageable else 0
        flags |= netbsd.VM_MAP_INTRSAFE if intrsafe and kmap.version == "5.2" else 0
        sub = self.lone.now(netbsd.uvm_km_suballoc(kmap, hint * PAGE, pages * PAGE, flags, fixed=fixed))
        assert (sub.min_offset, sub.max_offset) == (place * PAGE, (place + pages) * PAGE)
        assert (sub.flags.peek(), sub.version, sub.ref_count, kmap.ref_count) == (
            flags,
            kmap.version,
            2,
            kmap.ref_count,
        )
        plain.enter(place, place + pages, Like(nomerge=True, submap=True))
        plain.locked += 2
        self.maps.append((sub, Plain(place, place + pages)))

    @rule(which=which_map, at=places)
    def lookup(self, which: int, at: int) -> None:
        kmap, plain = self.pick(which)
        page = plain.low + at
        found, entry = kmap.entries.lookup(page * PAGE)
        before = [one for one in plain.ranges if one[0] <= page]
        assert found == bool(before and page < before[-1][1])
        assert (entry.start if entry is not None else None) == (before[-1][0] * PAGE if before else None)

    @invariant()
    def same(self) -> None:
        for kmap, plain in getattr(self, "maps", []):
            kmap.entries._check()
            kmap.check()
            assert [
                (
                    entry.start // PAGE,
                    entry.end // PAGE,
                    Like(
                        entry.protection,
                        entry.max_protection,
                        entry.inheritance,
                        entry.advice,
                        bool(entry.flags & netbsd.UVM_MAP_NOMERGE),
                        entry.sub_map is not None,
                        bool(entry.flags & netbsd.UVM_MAP_QUANTUM),
                    ),
                )
                for entry in kmap.entries
            ] == plain.ranges
            assert kmap.size == sum(end - start for start, end, _ in plain.ranges) * PAGE
            assert len(kmap.entries) == len(plain.ranges)
            assert bool(kmap.flags.peek() & netbsd.VM_MAP_WANTVA) == plain.wantva
            assert kmap.lock.timestamp.peek() == (0 if kmap.intrsafe else plain.locked)
            assert kmap.ref_count == (1 if kmap is self.maps[0][0] else 2)
            assert not kmap.lock.write_held()


TestAgainstPlainList = AgainstPlainList.TestCase
TestAgainstPlainList.settings = settings(max_examples=100, stateful_step_count=40)


def test_back_forward_and_bi_merge() -> None:
    """The three merges by hand, and what keeps entries apart."""
    lone = LoneThread()
    kmap = netbsd.setup(lone.k, 8, min_offset=8 * PAGE)
    lone.start()

    def put(at: int, advice: int = 0, flags: int = 0) -> list[tuple[int, int]]:
        fixed = netbsd.UVM_FLAG_FIXED | flags
        assert lone.now(netbsd.uvm_map(kmap, (8 + at) * PAGE, PAGE, flags=fixed, advice=advice)) == (0, (8 + at) * PAGE)
        return [(entry.start // PAGE - 8, entry.end // PAGE - 8) for entry in kmap.entries]

    assert put(0) == [(0, 1)]
    assert put(1) == [(0, 2)]
    assert put(4) == [(0, 2), (4, 5)]
    assert put(3) == [(0, 2), (3, 5)]
    assert put(2) == [(0, 5)]
    assert put(5, advice=1) == [(0, 5), (5, 6)]
    assert put(7, flags=netbsd.UVM_FLAG_NOMERGE) == [(0, 5), (5, 6), (7, 8)]
    assert put(6) == [(0, 5), (5, 6), (6, 7), (7, 8)]
    lone.close()


def test_a_wired_entry_and_one_of_other_protection_do_not_merge() -> None:
    lone = LoneThread()
    kmap = netbsd.setup(lone.k, 8, min_offset=8 * PAGE)
    lone.start()

    def alloc() -> int:
        return lone.now(netbsd.uvm_km_alloc(kmap, PAGE, 0, MINE))

    first = alloc()
    alloc()
    assert len(kmap.entries) == 1
    entry = kmap.entries.first
    assert entry is not None
    entry.wired_count = 1
    alloc()
    assert len(kmap.entries) == 2
    entry.wired_count = 0
    alloc()
    assert len(kmap.entries) == 2, "it merges backwards only; the two older ones are not looked at again"
    lone.now(netbsd.uvm_km_free(kmap, first, PAGE, MINE))
    error, va = lone.now(
        netbsd.uvm_map(kmap, kmap.min_offset, PAGE, prot=netbsd.VM_PROT_READ, advice=netbsd.UVM_ADV_RANDOM)
    )
    assert (error, va) == (0, first)
    assert len(kmap.entries) == 3
    lone.close()
