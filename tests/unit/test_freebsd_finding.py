"""FreeBSD's vm_map_find and its kin beyond first fit: near the last mapping, at random, from a hint, aligned."""

from __future__ import annotations

from typing import Any

import pytest

from stressvm import Panic, UsageError
from stressvm.vm import freebsd
from tests.freebsd_lone import PAGE, LoneMap, closing
from tests.support import every

BOTH = pytest.mark.parametrize("version", ["13", "2013"])
SUPER = freebsd.NBPDR // PAGE
closed = pytest.fixture(autouse=True)(closing)


class Finder(LoneMap):
    """Places are pages; -1 stands for no address, 0, which is below the map."""

    def find(self, page: int, pages: int, obj: freebsd.VmObject | None = None, **kw: Any) -> tuple[int, int]:
        addr = 0 if page < 0 else self.at(page)
        result, found = self.now(freebsd.vm_map_find(self.map, obj, 0, addr, pages * PAGE, **kw))
        return result, self.page(found) if not result else -1


# ---------------------------------------------------------------- clustering


def clustered(mode: int, **kw: Any) -> Finder:
    """Pages 0 and 8 to 10 are mapped, the latter last."""
    one = Finder(**kw)
    freebsd.sysctl(one.k).cluster_anon = mode
    assert one.insert(0, 1, freebsd.VmObject(1)) == 0
    assert one.find(8, 2, find_space=freebsd.VMFS_ANY_SPACE)[1] == 8
    one.map.anon_loc = one.at(10) if mode else 0
    return one


@pytest.mark.parametrize(("mode", "hint", "found"), [(0, -1, 1), (1, -1, 10), (1, 0, 1), (2, 0, 10), (2, 20, 10)])
def test_where_an_anonymous_mapping_goes(mode: int, hint: int, found: int) -> None:
    one = clustered(mode)
    assert one.find(hint, 2) == (0, found)
    near = mode == 2 or (mode == 1 and hint < 0)
    assert one.map.anon_loc == (one.at(found + 2) if near else one.at(10) if mode else 0)


@pytest.mark.parametrize(
    "kw",
    [
        {"obj": freebsd.VmObject(2)},
        {"max_addr": 1 << 40},
        {"cow": freebsd.MAP_INHERIT_SHARE},
        {"prot": freebsd.VM_PROT_NONE},
        {"cow": freebsd.MAP_STACK_GROWS_DOWN},
    ],
)
def test_what_is_not_put_near_others(kw: dict[str, Any]) -> None:
    one = clustered(2)
    assert one.find(-1, 2, **kw) == (0, 1)
    assert one.map.anon_loc == one.at(10)


def test_neither_a_fixed_mapping_nor_a_submap_is_clustered() -> None:
    one = clustered(2)
    assert one.find(20, 2, find_space=freebsd.VMFS_NO_SPACE) == (0, 20)
    one.map.flags |= freebsd.MAP_IS_SUB_MAP
    assert one.find(-1, 2) == (0, 1)


def test_the_second_attempt_is_from_the_beginning() -> None:
    one = clustered(1, pages=12)
    assert one.find(-1, 3) == (0, 1)
    assert one.map.anon_loc == one.at(4)
    assert one.find(-1, 9) == (freebsd.KERN_NO_SPACE, -1)
    assert one.map.anon_loc == one.at(4)


def test_the_place_moves_down_when_the_last_mapping_goes() -> None:
    one = clustered(1)
    assert one.remove(9, 10) == 0
    assert one.map.anon_loc == one.at(9)
    assert one.remove(0, 1) == 0
    assert one.map.anon_loc == one.at(9)
    assert one.find(-1, 2) == (0, 9)


def test_2013_knows_nothing_of_it() -> None:
    one = Finder("2013")
    freebsd.sysctl(one.k).cluster_anon = 2
    one.map.anon_loc = one.at(10)
    assert one.find(-1, 2) == (0, 0)


# ---------------------------------------------------------------- addresses drawn at random


def drawn(pages: int, flags: int, max_pages: int = 0, find_space: int = freebsd.VMFS_ANY_SPACE) -> set[int]:
    """All places that a page may get in a map of so many pages, of which the first is taken."""
    places: set[int] = set()

    def build(k: Any) -> None:
        vm_map = freebsd.setup(k, pages)
        vm_map.flags |= flags
        vm_map.fill(1)

        async def find() -> None:
            bound = vm_map.min_offset + max_pages * PAGE if max_pages else 0
            obj = freebsd.VmObject(SUPER, pg_color=0) if find_space != freebsd.VMFS_ANY_SPACE else None
            size = SUPER * PAGE if obj else PAGE
            result, addr = await freebsd.vm_map_find(vm_map, obj, 0, vm_map.min_offset, size, bound, find_space)
            assert not result
            places.add((addr - vm_map.min_offset) // PAGE)

        k.spawn(find)

    assert {ending.kind for ending in every(build)} == {None}
    return places


def test_an_address_is_drawn_from_a_range_with_room_to_spare() -> None:
    assert drawn(1 + 0x1000 + 1, freebsd.MAP_ASLR) == {1 + n * 0x100 for n in range(16)}
    assert drawn(1 + 0x1000, freebsd.MAP_ASLR) == {1}
    assert drawn(1 + 0x1000 + 1, 0) == {1}


def test_superpages_are_drawn_as_such_and_aligned() -> None:
    places = drawn(40 * SUPER, freebsd.MAP_ASLR, find_space=freebsd.VMFS_SUPER_SPACE)
    assert places == {n * SUPER for n in range(1, 17)}


def test_what_is_drawn_above_the_bound_is_given_up_for_the_lowest() -> None:
    assert drawn(1 + 0x1000 + 1, freebsd.MAP_ASLR, max_pages=2 + 0x100) == {1, 1 + 0x100}


@pytest.mark.parametrize(("flags", "found"), [(0, 20), (freebsd.MAP_ASLR_IGNSTART, 0)])
def test_the_second_attempt_may_ignore_the_hint(flags: int, found: int) -> None:
    one = Finder()
    one.map.flags |= freebsd.MAP_ASLR | flags
    assert one.find(20, 2) == (0, found)


# ---------------------------------------------------------------- from a hint, aligned, and what is refused


@BOTH
def test_find_min_begins_again_below(version: str) -> None:
    one = Finder(version, pages=16)
    assert one.insert(9, 16) == 0

    def find(hint: int, low: int) -> tuple[int, int]:
        call = freebsd.vm_map_find_min(one.map, None, 0, one.at(hint), 4 * PAGE, one.at(low))
        result, addr = one.now(call)
        return result, one.page(addr) if not result else -1

    timestamp = one.map.lock.timestamp.peek()
    assert find(8, 8) == (freebsd.KERN_NO_SPACE, -1)
    assert one.map.lock.timestamp.peek() == timestamp + 1
    assert find(8, 2) == (0, 2)
    assert one.map.lock.timestamp.peek() == timestamp + 3
    assert find(8, 6) == (freebsd.KERN_NO_SPACE, -1)
    assert find(0, 0) == (freebsd.KERN_NO_SPACE, -1)


def test_find_aligned_maps_nothing() -> None:
    one = Finder(pages=4 * SUPER)
    assert one.insert(0, 1) == 0
    one.now(one.map.lock.lock())

    def find(pages: int, alignment: int, bound: int = 0) -> tuple[int, int]:
        limit = one.at(bound) if bound else 0
        result, addr = freebsd.vm_map_find_aligned(one.map, one.at(0), pages * PAGE, limit, alignment)
        return result, one.page(addr) if not result else -1

    assert find(1, PAGE) == (0, 1)
    assert find(1, 1) == (0, 1)
    assert find(1, 8 * PAGE) == (0, 8)
    assert find(1, 0) == (0, 1)
    assert find(SUPER, 0) == (0, SUPER)
    assert find(1, 8 * PAGE, 8) == (freebsd.KERN_NO_SPACE, -1)
    assert find(4 * SUPER, PAGE) == (freebsd.KERN_NO_SPACE, -1)
    assert one.entries() == [(0, 1)]
    with pytest.raises(UsageError, match="no power of two"):
        find(1, 3)
    one.now(one.map.lock.unlock())
    with pytest.raises(UsageError, match="no such call"):
        freebsd.vm_map_find_aligned(Finder("2013").map, 0, PAGE)
    with pytest.raises(Panic, match="not locked"):
        find(1, PAGE)


def test_a_stack_is_not_put_in_place_of_what_is_there() -> None:
    cow = freebsd.MAP_REMAP | freebsd.MAP_STACK_GROWS_DOWN
    with pytest.raises(Panic, match="a stack in place"):
        Finder().find(0, 8, find_space=freebsd.VMFS_NO_SPACE, cow=cow)


def test_maps_of_2013_cannot_draw_addresses() -> None:
    with pytest.raises(UsageError, match="MAP_ASLR"):
        freebsd.vmspace_alloc(Finder().k, 0, PAGE, version="2013", flags=freebsd.MAP_ASLR)


# ---------------------------------------------------------------- large pages


def large(index: int) -> int:
    """The flag of a mapping that is made of pages of that size."""
    return index << freebsd.MAP_SPLIT_BOUNDARY_SHIFT


def test_a_mapping_of_large_pages_begins_and_ends_at_their_boundaries() -> None:
    one = LoneMap(pages=4 * SUPER)
    obj = freebsd.VmObject(2 * SUPER)
    for start, end, index in ((1, SUPER, 1), (0, 1, 1), (0, SUPER, 2), (0, SUPER, 3)):
        assert one.insert(start, end, obj, cow=large(index)) == freebsd.KERN_INVALID_ARGUMENT
    assert one.insert(0, 2 * SUPER, obj, cow=large(1)) == 0
    assert one.entry(0).eflags == 1 << freebsd.MAP_ENTRY_SPLIT_BOUNDARY_SHIFT


def test_and_is_clipped_nowhere_else() -> None:
    one = LoneMap(pages=4 * SUPER)
    assert one.insert(0, 2 * SUPER, freebsd.VmObject(2 * SUPER), cow=large(1)) == 0
    assert one.insert(3 * SUPER, 3 * SUPER + 4, freebsd.VmObject(4)) == 0
    assert one.remove(1, 2 * SUPER) == freebsd.KERN_INVALID_ARGUMENT
    assert one.remove(0, 1) == freebsd.KERN_INVALID_ARGUMENT
    assert one.remove(0, SUPER) == 0
    assert one.entries() == [(SUPER, 2 * SUPER), (3 * SUPER, 3 * SUPER + 4)]


def test_what_lies_below_a_clip_that_fails_is_gone() -> None:
    one = LoneMap(pages=4 * SUPER)
    assert one.insert(0, 4, freebsd.VmObject(4)) == 0
    assert one.insert(SUPER, 2 * SUPER, freebsd.VmObject(SUPER), cow=large(1)) == 0
    assert one.remove(2, SUPER + 1) == freebsd.KERN_INVALID_ARGUMENT
    assert one.entries() == [(0, 2), (SUPER, 2 * SUPER)]
