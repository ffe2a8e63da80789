"""FreeBSD's kernel map: submaps of it, the growth of its page tables, and the reserve of its entries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from stressvm import Kernel, Panic, UsageError
from stressvm.vm import freebsd
from tests.freebsd_lone import PAGE, Lone, closing
from tests.support import every, run

if TYPE_CHECKING:
    from collections.abc import Callable

BOTH = pytest.mark.parametrize("version", ["13", "2013"])
SUPER = freebsd.NBPDR // PAGE
BAD = freebsd.KERN_INVALID_ARGUMENT
closed = pytest.fixture(autouse=True)(closing)


class Root(Lone):
    """The kernel's map and a thread; places are pages from its lowest."""

    def __init__(self, version: str = "13", *, pages: int = 8 * SUPER, **kw: Any) -> None:
        super().__init__()
        self.map = freebsd.kernel_map(self.k, pages, version=version, **kw)
        self.begin()

    def at(self, page: int) -> int:
        return self.map.min_offset + page * PAGE

    def insert(self, start: int, end: int, obj: freebsd.VmObject | None = None, **kw: Any) -> int:
        self.now(self.map.lock.lock())
        result = freebsd.vm_map_insert(self.map, obj, 0, self.at(start), self.at(end), **kw)
        self.now(self.map.lock.unlock())
        return result

    def entries(self) -> list[tuple[int, int]]:
        low = self.map.min_offset
        return [((entry.start - low) // PAGE, (entry.end - low) // PAGE) for entry in self.map.entries]

    @property
    def tables(self) -> int:
        """Up to which page there are page tables."""
        return (self.map.kernel_vm_end - self.map.min_offset) // PAGE


# ---------------------------------------------------------------- submaps


def other(one: Root) -> freebsd.VmMap:
    return freebsd.setup(one.k, 4, kind=freebsd.MapKind.SUBMAP, version=one.map.version, name="sub")


@BOTH
def test_part_of_an_entry_is_left_to_a_submap(version: str) -> None:
    one = Root(version)
    sub = other(one)
    assert one.insert(2, 8) == 0
    assert one.now(freebsd.vm_map_submap(one.map, one.at(4), one.at(6), sub)) == 0
    assert one.entries() == [(2, 4), (4, 6), (6, 8)]
    _, entry = one.map.entries.lookup(one.at(4))
    assert entry is not None
    assert (entry.sub_map, bool(entry.eflags & freebsd.MAP_ENTRY_IS_SUB_MAP)) == (sub, True)
    assert bool(sub.flags & freebsd.MAP_IS_SUB_MAP) == (version == "13")
    assert one.now(freebsd.vm_map_submap(one.map, one.at(4), one.at(6), other(one))) == BAD


@pytest.mark.parametrize(
    ("start", "end", "of_2013"),
    [
        (7, 9, [(2, 7), (7, 8), (10, 12)]),
        (0, 1, [(2, 8), (10, 12)]),
        (1, 4, [(2, 4), (4, 8), (10, 12)]),
        (10, 11, [(2, 8), (10, 11), (11, 12)]),
    ],
)
def test_which_ranges_are_refused_and_what_2013_has_clipped_by_then(
    start: int, end: int, of_2013: list[tuple[int, int]]
) -> None:
    for version, wanted in (("13", [(2, 8), (10, 12)]), ("2013", of_2013)):
        one = Root(version)
        sub = other(one)
        assert one.insert(2, 8) == 0
        assert one.insert(10, 12, freebsd.VmObject(2)) == 0
        assert one.now(freebsd.vm_map_submap(one.map, one.at(start), one.at(end), sub)) == BAD
        assert (one.entries(), sub.flags) == (wanted, 0)


@BOTH
def test_what_is_copied_on_write_is_left_to_no_submap(version: str) -> None:
    one = Root(version)
    assert one.insert(2, 8, cow=freebsd.MAP_COPY_ON_WRITE) == 0
    assert one.now(freebsd.vm_map_submap(one.map, one.at(2), one.at(8), other(one))) == BAD


def test_in_a_map_that_is_no_system_map_an_entry_is_left_whole_or_not_at_all() -> None:
    one = Root()
    user = freebsd.setup(one.k, 8, name="user")
    one.now(user.lock.lock())
    low = user.min_offset
    assert freebsd.vm_map_insert(user, None, 0, low, low + 4 * PAGE) == 0
    one.now(user.lock.unlock())
    assert one.now(freebsd.vm_map_submap(user, low, low + 4 * PAGE, other(one))) == 0
    user = freebsd.setup(one.k, 8, name="another")
    one.now(user.lock.lock())
    assert freebsd.vm_map_insert(user, None, 0, low, low + 4 * PAGE) == 0
    one.now(user.lock.unlock())
    with pytest.raises(UsageError, match="no system map"):
        one.now(freebsd.vm_map_submap(user, low, low + PAGE, other(one)))


@BOTH
def test_kmem_suballoc_takes_a_range_of_its_own(version: str) -> None:
    one = Root(version)
    assert one.insert(0, 1) == 0
    sub = one.now(freebsd.kmem_suballoc(one.map, 3 * PAGE + 1, name="exec_map"))
    assert (sub.version, sub.kind, sub.name) == (version, freebsd.MapKind.SUBMAP, "exec_map")
    assert (sub.min_offset, sub.max_offset, one.entries()) == (one.at(1), one.at(5), [(0, 1), (1, 5)])
    big = one.now(freebsd.kmem_suballoc(one.map, SUPER * PAGE, superpage_align=True))
    assert big.min_offset == one.at(SUPER)
    assert one.tables == 2 * SUPER
    with pytest.raises(Panic, match="bad status return of 3"):
        one.now(freebsd.kmem_suballoc(one.map, 9 * SUPER * PAGE))


@BOTH
def test_a_fault_in_a_submap_is_looked_up_there(version: str) -> None:
    one = Root(version)
    sub = one.now(freebsd.kmem_suballoc(one.map, 4 * PAGE))
    addr = one.now(freebsd.kmap_alloc_wait(sub, PAGE))
    result, found = one.now(one.map.vm_map_lookup(addr, freebsd.VM_PROT_READ))
    assert result == 0
    assert found is not None
    assert found.vm_map is sub
    one.now(found.vm_map.lookup_done())
    result, _ = one.now(one.map.vm_map_lookup(addr + PAGE, freebsd.VM_PROT_READ))
    assert result == freebsd.KERN_INVALID_ADDRESS


@BOTH
def test_an_exec_map_within_the_kernels_map(version: str) -> None:
    one = Lone()
    root = freebsd.kernel_map(one.k, 64, version=version)
    root.fill(2)
    sub = freebsd.exec_map(one.k, 8, parent=root)
    assert (sub.min_offset, sub.version, len(root.entries)) == (root.min_offset + 2 * PAGE, version, 2)
    with pytest.raises(UsageError, match="no room"):
        freebsd.exec_map(one.k, 64, parent=root)
    one.begin()
    assert one.now(freebsd.kmap_alloc_wait(sub, PAGE)) == sub.min_offset
    one.now(root.lock.lock())
    one.now(root.lock.unlock())


# ---------------------------------------------------------------- page tables


@BOTH
def test_page_tables_are_made_in_steps_of_two_megabytes(version: str) -> None:
    asked: list[int] = []

    def page() -> bool:
        asked.append(1)
        return True

    one = Root(version, page=page)
    assert one.tables == 0
    assert one.insert(0, 1) == 0
    # One page for the directory, one for the table.
    assert (one.tables, len(asked)) == (SUPER, 2)
    assert one.insert(5, 6) == 0
    assert (one.tables, len(asked)) == (SUPER, 2)
    assert one.insert(3 * SUPER, 3 * SUPER + 1) == 0
    assert (one.tables, len(asked)) == (4 * SUPER, 5)


def test_a_fixed_mapping_grows_them_as_well_and_a_search_does_not() -> None:
    one = Root()
    one.now(one.map.lock.lock())
    assert freebsd.vm_map_findspace(one.map, one.at(SUPER), PAGE) == one.at(SUPER)
    one.now(one.map.lock.unlock())
    assert one.tables == 0
    assert one.now(freebsd.vm_map_fixed(one.map, None, 0, one.at(SUPER), PAGE)) == 0
    assert one.tables == 2 * SUPER


def test_they_end_with_the_map() -> None:
    one = Root(pages=SUPER + 8, kernel_vm_end=0xFFFF_F800_0000_0000 + freebsd.NBPDR)
    assert one.insert(SUPER, SUPER + 8) == 0
    assert one.tables == SUPER + 8


def test_only_what_passed_every_check_grows_them() -> None:
    one = Root()
    freebsd.ucred(one.k).limit = 0
    assert one.insert(0, 1) == freebsd.KERN_RESOURCE_SHORTAGE
    assert one.insert(0, 0) == freebsd.KERN_INVALID_ADDRESS
    assert one.tables == 0
    # They come before the entry is extended.
    assert one.insert(0, SUPER, cow=freebsd.MAP_ACC_NO_CHARGE) == 0
    assert one.insert(SUPER, SUPER + 1, cow=freebsd.MAP_ACC_NO_CHARGE) == 0
    assert (one.entries(), one.tables) == ([(0, SUPER + 1)], 2 * SUPER)


@BOTH
def test_without_a_page_for_them_the_kernel_panics(version: str) -> None:
    pages = [True, True]
    one = Root(version, page=lambda: pages.pop() if pages else False)
    assert one.insert(0, 1) == 0
    with pytest.raises(Panic, match="no memory to grow kernel"):
        one.insert(SUPER, SUPER + 1)


def test_a_lack_of_pages_can_be_a_choice() -> None:
    def build(k: Kernel) -> None:
        vm_map = freebsd.kernel_map(k, 4 * SUPER, page=lambda: k.choose(2) == 0)

        async def find() -> None:
            await freebsd.vm_map_find(vm_map, None, 0, vm_map.min_offset, PAGE)

        k.spawn(find)

    assert [ending.kind for ending in every(build)].count("panic") == 2


class Unlocked(freebsd.KernelMap13):
    """A map that makes page tables when it is searched, before it is locked."""

    async def find(self, request: freebsd.Request) -> tuple[int, int]:
        """vm_map_find(9) says that the search may grow the map."""
        self.pmap_growkernel(request.addr + request.length)
        return await super().find(request)


class Searched(freebsd.KernelMap13):
    """A map whose page tables are made for what is searched for, and not for what is inserted."""

    def grow_kernel(self, end: int) -> None:
        """Nothing."""

    def insert_found(self, request: freebsd.Request, start: int) -> int:
        """Here in its place."""
        if request.find_space != freebsd.VMFS_NO_SPACE:
            self.pmap_growkernel(start + request.length)
        return super().insert_found(request, start)


def lone_find(cls: type[freebsd.KernelMap], find_space: int = freebsd.VMFS_ANY_SPACE) -> Callable[[Kernel], None]:
    def build(k: Kernel) -> None:
        vm_map = freebsd.kernel_map(k, 4 * SUPER, cls=cls)

        async def find() -> None:
            await freebsd.vm_map_find(vm_map, None, 0, vm_map.min_offset, PAGE, find_space=find_space)

        k.spawn(find)

    return build


def test_page_tables_are_made_under_the_lock_and_for_everything() -> None:
    fixed = freebsd.VMFS_NO_SPACE
    assert run(lone_find(freebsd.KernelMap13)).verdict is None
    assert run(lone_find(freebsd.KernelMap13, fixed)).verdict is None
    assert run(lone_find(Searched)).verdict is None
    beyond = run(lone_find(Searched, fixed)).verdict
    assert beyond is not None
    assert (beyond.kind, "G15 page tables" in beyond.text) == ("invariant", True)
    unlocked = run(lone_find(Unlocked)).verdict
    assert unlocked is not None
    assert "not locked for writing" in unlocked.text


# ---------------------------------------------------------------- entries


def test_entries_come_out_of_the_reserve_last_and_then_a_slab_is_mapped() -> None:
    one = Root(pages=64, entries=1, per_slab=4)
    assert one.insert(8, 9, freebsd.VmObject(1)) == 0
    assert (one.map.free_entries, one.entries()) == (freebsd.KMAPENT_RESERVE, [(8, 9)])
    one.now(one.map.lock.lock())
    assert freebsd.vm_map_insert(one.map, freebsd.VmObject(1), 0, one.at(10), one.at(11)) == 0
    assert one.map.flags & freebsd.MAP_REPLENISH
    one.now(one.map.lock.unlock())
    # Both of the reserve were taken, one of them for the slab, which gave four.
    assert (one.map.free_entries, one.map.flags, one.entries()) == (4, 0, [(0, 1), (8, 9), (10, 11)])
    assert one.now(freebsd.vm_map_remove(one.map, one.at(8), one.at(11))) == 0
    assert one.map.free_entries == 6


def test_slabs_side_by_side_need_one_entry_only() -> None:
    one = Root(pages=64, entries=0, per_slab=2)
    for page in range(8, 14, 2):
        assert one.insert(page, page + 1, freebsd.VmObject(1)) == 0
    # The first slab took one of the reserve, the second none; the third insertion needed none of it.
    assert (one.entries()[0], one.map.free_entries) == ((0, 2), 2)


def test_two_entries_in_one_hold_of_the_lock_are_more_than_the_reserve_is_for() -> None:
    one = Root(pages=64, entries=0, per_slab=2)
    one.now(one.map.lock.lock())
    for page in (8, 10):
        assert freebsd.vm_map_insert(one.map, freebsd.VmObject(1), 0, one.at(page), one.at(page + 1)) == 0
    with pytest.raises(Panic, match="kernel resources exhausted"):
        one.now(one.map.lock.unlock())


@pytest.mark.parametrize("call", ["lock_downgrade", "unlock_and_wait"])
def test_nothing_but_an_unlock_fills_the_reserve_up(call: str) -> None:
    one = Root(pages=64, entries=0)
    one.now(one.map.lock.lock())
    assert freebsd.vm_map_insert(one.map, None, 0, one.at(8), one.at(9)) == 0
    with pytest.raises(Panic, match="MAP_REPLENISH leaked"):
        one.now(getattr(one.map.lock, call)())


def test_a_slab_needs_room_in_the_map() -> None:
    one = Root(pages=2, entries=0)
    with pytest.raises(Panic, match="kernel map is exhausted"):
        one.insert(0, 2)


def test_with_a_direct_map_there_is_no_reserve() -> None:
    one = Root(pages=64)
    assert one.insert(8, 9) == 0
    assert (one.map.free_entries, one.entries(), one.map.flags) == (None, [(8, 9)], 0)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda k: freebsd.kernel_map(k, 0), "at least one"),
        (lambda k: freebsd.kernel_map(k, 4, version="14"), "version='14'"),
        (lambda k: freebsd.kernel_map(k, 4, version="2013", entries=1), "no reserve"),
        (lambda k: freebsd.kernel_map(k, 4, entries=-1), "not below 0"),
        (lambda k: freebsd.kernel_map(k, 4, entries=1, per_slab=1), "fill the reserve"),
        (lambda k: (freebsd.kernel_map(k, 4), freebsd.kernel_map(k, 4)), "one only"),
    ],
)
def test_impossible_kernel_maps_are_refused(make: Callable[[Kernel], Any], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        make(Lone().k)
