"""FreeBSD's vm_map(9) call by call: what it asserts, what it refuses, what it merges, and what its invariants see."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from stressvm import Kernel, Panic, UsageError
from stressvm.conform.lone import LoneThread
from stressvm.vm import freebsd
from stressvm.vm.freebsd import MapKind, Search
from tests.support import every, kinds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PAGE = freebsd.PAGE_SIZE
RW = freebsd.VM_PROT_RW
BOTH = pytest.mark.parametrize("version", ["13", "2013"])


#: The threads of the test that runs.
LONE: list[LoneThread] = []


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    """Whatever a test began is closed after it."""
    yield
    while LONE:
        LONE.pop().close()


class One(LoneThread):
    """A map of 16 pages and a thread that nobody disturbs; places are pages from the map's lowest."""

    def __init__(self, version: str = "13", kind: MapKind = MapKind.SYSTEM, **kw: Any) -> None:
        super().__init__()
        self.map = freebsd.setup(self.k, 16, version=version, kind=kind, **kw)
        self.start()
        LONE.append(self)
        self.now(self.map.lock.lock())

    def at(self, page: int) -> int:
        return self.map.min_offset + page * PAGE

    def insert(self, start: int, end: int, obj: freebsd.VmObject | None = None, offset: int = 0, **kw: Any) -> int:
        return self.map.insert(obj, offset * PAGE, self.at(start), self.at(end), **kw)

    def delete(self, start: int, end: int) -> int:
        return self.now(self.map.delete(self.at(start), self.at(end)))

    def entry(self, page: int) -> freebsd.VmMapEntry:
        found, entry = self.map.entries.lookup(self.at(page))
        assert found
        assert entry is not None
        return entry

    def unlock(self) -> None:
        self.now(self.map.lock.unlock())

    def entries(self) -> list[tuple[int, int]]:
        low = self.map.min_offset
        return [((entry.start - low) // PAGE, (entry.end - low) // PAGE) for entry in self.map.entries]


# ---------------------------------------------------------------- insertion


@BOTH
def test_the_checks_of_an_insertion_come_in_their_order(version: str) -> None:
    one = One(version)
    assert one.insert(4, 8) == 0
    guard: dict[str, Any] = {"cow": freebsd.MAP_CREATE_GUARD, "prot": 0}
    assert one.insert(5, 5, **guard) == freebsd.KERN_INVALID_ADDRESS
    assert one.insert(15, 17, **guard) == freebsd.KERN_INVALID_ADDRESS
    assert one.insert(5, 9, **guard) == freebsd.KERN_NO_SPACE
    assert one.insert(3, 5, **guard) == freebsd.KERN_NO_SPACE
    assert one.insert(8, 9, **guard) == freebsd.KERN_INVALID_ARGUMENT
    freebsd.ucred(one.k).limit = 4 * PAGE
    assert one.insert(9, 10) == freebsd.KERN_RESOURCE_SHORTAGE
    assert one.insert(9, 10, cow=freebsd.MAP_ACC_NO_CHARGE) == 0
    assert one.entries() == [(4, 8), (9, 10)]
    one.unlock()


def test_writable_and_executable_is_refused_before_anything_is_looked_up() -> None:
    one = One()
    one.map.flags = freebsd.MAP_WXORX
    assert one.insert(0, 1) == 0
    assert one.insert(0, 1, prot=freebsd.VM_PROT_ALL) == freebsd.KERN_PROTECTION_FAILURE
    assert one.insert(0, 0, prot=freebsd.VM_PROT_ALL) == freebsd.KERN_INVALID_ADDRESS


@BOTH
@pytest.mark.parametrize(
    ("kw", "text"),
    [
        ({"prot": freebsd.VM_PROT_ALL, "max_prot": RW}, "not subset of max_prot"),
        ({"obj": freebsd.VmObject(1), "cow": freebsd.MAP_NOFAULT}, "paradoxical MAP_NOFAULT"),
    ],
)
def test_what_an_insertion_asserts(version: str, kw: dict[str, Any], text: str) -> None:
    with pytest.raises(Panic, match=text):
        One(version).insert(0, 1, **kw)


def test_the_lock_is_asserted() -> None:
    one = One()
    one.unlock()
    with pytest.raises(Panic, match="vm_map_findspace: KASSERT"):
        freebsd.vm_map_findspace(one.map, 0, PAGE)
    with pytest.raises(Panic, match="vm_map_insert: KASSERT"):
        one.insert(0, 1)


@BOTH
def test_a_mapping_of_the_next_pages_of_an_object_is_merged_with_both_neighbours(version: str) -> None:
    one = One(version)
    obj = freebsd.VmObject(8)
    for start, end in ((0, 2), (4, 6), (2, 4)):
        obj.ref_count += 1
        assert one.insert(start, end, obj, offset=start) == 0
    assert one.entries() == [(0, 6)]
    assert (one.entry(0).offset, obj.ref_count) == (0, 2)
    obj.ref_count += 1
    assert one.insert(6, 8, obj, offset=7) == 0
    assert one.entries() == [(0, 6), (6, 8)], "not the next pages"
    one.unlock()


@BOTH
@pytest.mark.parametrize("kind", list(MapKind))
def test_a_clip_makes_one_object_for_both_parts_except_in_a_system_map(version: str, kind: MapKind) -> None:
    one = One(version, kind)
    one.insert(0, 8)
    one.delete(3, 5)
    low, high = one.entry(0), one.entry(5)
    assert one.entries() == [(0, 3), (5, 8)]
    assert low.object is high.object
    if kind is MapKind.SYSTEM:
        assert low.object is None
    else:
        assert low.object is not None
        assert (low.object.size, low.offset, high.offset) == (8, 0, 5 * PAGE)
        assert low.object.ref_count == 3, "two, and what was deleted is not let go of before the lock is"
        one.unlock()
        assert low.object.ref_count == 2


@BOTH
def test_an_object_that_may_be_in_use_behind_a_mapping_does_not_grow(version: str) -> None:
    one = One(version)
    obj = freebsd.VmObject(2, anon=True)
    one.insert(0, 2, obj)
    assert one.insert(2, 3, cow=freebsd.MAP_ACC_NO_CHARGE) == 0
    assert (one.entries(), obj.size) == ([(0, 3)], 3), "it grew"
    obj.ref_count += 1
    obj.size, obj.one_mapping = 9, False
    assert one.insert(3, 4, cow=freebsd.MAP_ACC_NO_CHARGE) == 0
    assert one.entries() == [(0, 3), (3, 4)], "another reference, to pages beyond"
    assert one.entry(3).object is None


@BOTH
def test_an_object_can_grow_although_the_entry_cannot(version: str) -> None:
    one = One(version)
    obj = freebsd.VmObject(2, anon=True)
    one.insert(0, 2, obj)
    assert one.insert(2, 3, cow=freebsd.MAP_ACC_NO_CHARGE | freebsd.MAP_INHERIT_SHARE) == 0
    assert one.entry(2).object is obj
    assert (one.entry(2).offset, obj.ref_count, obj.size) == (2 * PAGE, 2, 3)


def test_a_wired_entry_is_not_extended() -> None:
    one = One()
    one.insert(0, 2)
    one.entry(0).wired_count = 1
    assert one.insert(2, 3) == 0
    assert one.entries() == [(0, 2), (2, 3)]


# ---------------------------------------------------------------- searching


@pytest.mark.parametrize("before", [None, 0x2000, 0x8000])
@pytest.mark.parametrize("upwards", [True, False])
def test_whether_the_last_gap_is_missed_depends_on_what_was_asked_before(before: int | None, *, upwards: bool) -> None:
    """As the kernel's own code answered; 0 stands for "no space"."""
    lone = LoneThread()
    vm_map = freebsd.VmMap13(lone.k, 0, 0x20000, kind=MapKind.SYSTEM, search=Search.SPLAY)
    ranges = [(0x2000, 0x5000), (0x8000, 0x9000)]
    for start, end in ranges if upwards else ranges[::-1]:
        vm_map.insert(freebsd.VmObject(), 0, start, end)
    if before is not None:
        vm_map.findspace(before, 0x1000)
    answers = {(None, True): 0x9000, (None, False): None, (0x2000, True): None, (0x8000, True): 0x9000}
    if (before, upwards) in answers:
        assert vm_map.findspace(0x6000, 0x4000) == answers[before, upwards]
    vm_map.check()


def test_2013_returns_the_start_of_an_entry_for_no_bytes_and_13_its_end() -> None:
    for version, expected in (("2013", (4, 8, 16)), ("13", (8, 8, None))):
        one = One(version)
        one.insert(4, 8)
        found = [one.map.findspace(one.at(page), 0) for page in (4, 5, 16)]
        assert found == [one.at(page) if page is not None else None for page in expected]


def test_2013_maps_above_the_bound_if_it_has_to_align() -> None:
    for version, expected in (("2013", (freebsd.KERN_SUCCESS, 4)), ("13", (freebsd.KERN_NO_SPACE, None))):
        one = One(version)
        one.unlock()
        rc, addr = one.now(
            freebsd.vm_map_find(
                one.map, None, 0, one.at(1), PAGE, one.at(3), freebsd.VMFS_ALIGNED_SPACE(freebsd.PAGE_SHIFT + 2)
            )
        )
        assert (rc, addr) == (expected[0], one.at(expected[1]) if expected[1] is not None else 0)


def test_an_aligned_address_beyond_the_end_is_invalid_in_2013() -> None:
    for version, expected in (("2013", freebsd.KERN_INVALID_ADDRESS), ("13", freebsd.KERN_NO_SPACE)):
        one = One(version)
        one.unlock()
        find = freebsd.vm_map_find(one.map, None, 0, one.at(1), PAGE, 0, freebsd.VMFS_ALIGNED_SPACE(30))
        assert one.now(find) == (expected, 0)


def test_remap_takes_the_place_of_what_is_there() -> None:
    one = One()
    one.insert(2, 6)
    one.unlock()
    find = freebsd.vm_map_find(
        one.map, freebsd.VmObject(), 0, one.at(3), PAGE, find_space=freebsd.VMFS_NO_SPACE, cow=freebsd.MAP_REMAP
    )
    assert one.now(find) == (0, one.at(3))
    assert one.entries() == [(2, 3), (3, 4), (4, 6)]
    find = freebsd.vm_map_find(
        one.map, None, 0, one.at(15), 2 * PAGE, find_space=freebsd.VMFS_NO_SPACE, cow=freebsd.MAP_REMAP
    )
    assert one.now(find) == (freebsd.KERN_INVALID_ADDRESS, 0)


@pytest.mark.parametrize(
    ("offset", "color", "addr", "pages", "expected"),
    [
        (0, None, 0x1000, 511, 0x1000),
        (0, None, 0x1000, 512, 0x200000),
        (0, None, 0x200000, 512, 0x200000),
        (3, None, 0x1000, 512, 0x1000),
        (3, None, 0x1000, 1021, 0x3000),
        (3, None, 0x4000, 1021, 0x203000),
        (3, 2, 0x1000, 1019, 0x5000),
        (0, None, freebsd.VM_OFFSET_MASK - 0xFFF, 512, 0),
    ],
)
def test_pmap_align_superpage(offset: int, color: int | None, addr: int, pages: int, expected: int) -> None:
    obj = freebsd.VmObject(pg_color=color)
    assert freebsd.pmap_align_superpage(obj, offset * PAGE, addr, pages * PAGE) == expected


# ---------------------------------------------------------------- deletion


@pytest.mark.parametrize("disturbed", [False, True])
@pytest.mark.parametrize("kind", list(MapKind))
def test_a_delete_waits_for_an_entry_in_transition(kind: MapKind, *, disturbed: bool) -> None:
    """Whether or not somebody else had the lock meanwhile, and split the entry."""

    def build(k: Kernel) -> None:
        vm_map = freebsd.setup(k, 4, kind=kind)
        low = vm_map.fill()
        entry = vm_map.entries.first
        assert entry is not None
        entry.eflags |= freebsd.MAP_ENTRY_IN_TRANSITION
        entry.wiring_thread = 1

        async def remove() -> None:
            assert await freebsd.vm_map_remove(vm_map, low + PAGE, low + 3 * PAGE) == 0

        async def done() -> None:
            await vm_map.lock.lock()
            for piece in vm_map.entries:
                piece.eflags &= ~(freebsd.MAP_ENTRY_IN_TRANSITION | freebsd.MAP_ENTRY_NEEDS_WAKEUP)
                piece.wiring_thread = -1
            await vm_map.lock.wakeup()
            await vm_map.lock.unlock()

        async def other() -> None:
            await vm_map.lock.lock()
            found, piece = vm_map.lookup(low + PAGE)
            if found:
                assert piece is not None
                vm_map.clip_start(piece, low + 2 * PAGE)
            await vm_map.lock.unlock()

        async def look(threads: list[Any]) -> None:
            for thread in threads:
                await k.join(thread)
            covered = [(piece.start - low) // PAGE for piece in vm_map.entries]
            assert covered == [0, 3]

        threads = [k.spawn(remove, name="remove"), k.spawn(done, name="done")]
        if disturbed:
            threads.append(k.spawn(other, name="other"))
        k.spawn(look, threads, name="look")

    endings = every(build)
    assert kinds(endings) == {None}
    assert len(endings) > 3


@pytest.mark.parametrize("kind", list(MapKind))
def test_a_user_map_waits_for_system_wirings_and_a_kernel_map_does_not(kind: MapKind) -> None:
    def build(k: Kernel) -> None:
        vm_map = freebsd.setup(k, 4, kind=kind)
        vm_map.fill()
        entry = vm_map.entries.first
        assert entry is not None
        entry.wired_count = 1

        async def remove() -> None:
            await freebsd.vm_map_remove(vm_map, vm_map.min_offset, vm_map.max_offset)

        k.spawn(remove, name="remove")

    assert kinds(every(build)) == {"exhausted" if kind is MapKind.USER else None}


# ---------------------------------------------------------------- waiting for addresses


def test_a_request_that_can_never_be_met_gets_0_and_its_charge_back() -> None:
    one = One(kind=MapKind.SUBMAP)
    one.unlock()
    assert one.now(freebsd.kmap_alloc_wait(one.map, 17 * PAGE)) == 0
    assert freebsd.ucred(one.k).reserved == 0
    freebsd.ucred(one.k).limit = PAGE
    assert one.now(freebsd.kmap_alloc_wait(one.map, 2 * PAGE)) == 0
    assert one.now(freebsd.kmap_alloc_wait(one.map, 1)) == one.at(0)
    one.now(freebsd.kmap_free_wakeup(one.map, one.at(0), 1))
    assert (one.entries(), freebsd.ucred(one.k).reserved) == ([], 0)


def test_remove_wakes_nobody_who_waits_for_addresses() -> None:
    def build(k: Kernel) -> None:
        vm_map = freebsd.exec_map(k, 1)
        full = vm_map.fill()

        async def take() -> None:
            await freebsd.kmap_alloc_wait(vm_map, PAGE)

        async def give() -> None:
            await freebsd.vm_map_remove(vm_map, full, full + PAGE)

        k.spawn(take, name="take")
        k.spawn(give, name="give")

    assert kinds(every(build)) == {None, "lost-wakeup"}


# ---------------------------------------------------------------- invariants


def _size(vm_map: freebsd.VmMap, entry: freebsd.VmMapEntry) -> None:
    del entry
    vm_map.size += PAGE


def _order(vm_map: freebsd.VmMap, entry: freebsd.VmMapEntry) -> None:
    del vm_map
    entry.end += 20 * PAGE


def _tree(vm_map: freebsd.VmMap, entry: freebsd.VmMapEntry) -> None:
    del vm_map
    entry.max_free += PAGE


def _lost(vm_map: freebsd.VmMap, entry: freebsd.VmMapEntry) -> None:
    del entry
    assert isinstance(vm_map.tree, freebsd.SplayTree)
    vm_map.tree.root = None


def _bounds(vm_map: freebsd.VmMap, entry: freebsd.VmMapEntry) -> None:
    del entry
    vm_map.bounds = (vm_map.min_offset, vm_map.max_offset + PAGE)


def _set(**values: int) -> Callable[[freebsd.VmMap, freebsd.VmMapEntry], None]:
    def corrupt(vm_map: freebsd.VmMap, entry: freebsd.VmMapEntry) -> None:
        del vm_map
        for name, value in values.items():
            setattr(entry, name, value)

    return corrupt


def _unmerged(vm_map: freebsd.VmMap, entry: freebsd.VmMapEntry) -> None:
    vm_map.clip_end(entry, entry.start + PAGE)
    vm_map.seams.clear()


@pytest.mark.parametrize(
    ("corrupt", "text"),
    [
        (_order, "G1-G4 structure"),
        (_tree, "G1-G4 structure: .* says max_free"),
        (_lost, "G1-G4 structure: the tree and the list"),
        (_size, "G2 size"),
        (_bounds, "G5 bounds"),
        (_set(protection=7, max_protection=3), "G6 rights: .* beyond"),
        (_set(wired_count=-1), "G6 rights: .* wired -1 times"),
        (_set(wired_count=-2, eflags=freebsd.MAP_ENTRY_IN_TRANSITION), "G6 rights: .* wired -2 times"),
        (_set(eflags=freebsd.MAP_ENTRY_USER_WIRED), "G6 rights: .* wired by the user"),
        (
            _set(
                eflags=freebsd.MAP_ENTRY_USER_WIRED | freebsd.MAP_ENTRY_COW | freebsd.MAP_ENTRY_NEEDS_COPY,
                wired_count=1,
            ),
            "G6 rights: .* still needs to be copied",
        ),
        (_set(eflags=freebsd.MAP_ENTRY_NEEDS_COPY), "G8 flags: .* not copied on write"),
        (_set(eflags=freebsd.MAP_ENTRY_IS_SUB_MAP), "G8 flags: .* submap"),
        (_set(eflags=freebsd.MAP_ENTRY_IS_SUB_MAP | freebsd.MAP_ENTRY_COW), "G8 flags: .* copied on write"),
        (_unmerged, "G9 merged"),
    ],
)
def test_each_invariant_can_fail(corrupt: Callable[[freebsd.VmMap, freebsd.VmMapEntry], None], text: str) -> None:
    one = One(search=Search.SPLAY, fault=freebsd.LookupFault())
    one.insert(2, 6)
    one.insert(9, 10)
    one.map.check()
    corrupt(one.map, one.entry(2))
    with pytest.raises(Panic, match=text):
        one.unlock()


def test_a_guard_has_nothing() -> None:
    one = One()
    one.insert(0, 2, prot=0, max_prot=0, cow=freebsd.MAP_CREATE_GUARD)
    one.map.check()
    assert one.map.size == 0
    one.entry(0).object = freebsd.VmObject()
    with pytest.raises(Panic, match=r"G8 flags: .* is a guard"):
        one.map.check()


@BOTH
def test_what_a_clip_split_may_stay_split_until_a_merge_is_tried(version: str) -> None:
    one = One(version)
    one.insert(0, 4)
    one.map.clip_start(one.entry(0), one.at(2))
    one.map.check()
    assert one.entries() == [(0, 2), (2, 4)]
    one.map.merge_inserted(one.entry(0))
    assert one.entries() == [(0, 4)]
    assert not one.map.seams


# ---------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda k: freebsd.setup(k, 0), "at least one"),
        (lambda k: freebsd.setup(k, 1, version="14"), "13"),
        (lambda k: freebsd.setup(k, 1, version="2013", search=Search.SPLAY), "only version 13"),
        (lambda k: freebsd.VmMap2013(k, 0, PAGE, flags=freebsd.MAP_WXORX), "MAP_WXORX"),
        (lambda k: freebsd.VmMap13(k, PAGE, PAGE), "larger"),
    ],
)
def test_impossible_maps_are_refused(make: Callable[[Kernel], freebsd.VmMap], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        make(LoneThread().k)


def test_impossible_strategies_are_refused() -> None:
    one = One()
    one.unlock()
    for find_space in (4, freebsd.VMFS_ALIGNED_SPACE(14) | 1):
        with pytest.raises(UsageError, match="VMFS_ALIGNED_SPACE"):
            one.now(freebsd.vm_map_find(one.map, None, 0, 0, PAGE, find_space=find_space))
    with pytest.raises(UsageError, match="building the world"):
        one.map.fill()
    one = One()
    one.unlock()
    lone = LoneThread()
    full = freebsd.setup(lone.k, 2)
    full.fill()
    with pytest.raises(UsageError, match="is not free"):
        full.fill(1)
