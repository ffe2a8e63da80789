"""What only 5.2 has: entries that lie in the map itself, reclaim callbacks, and the pool of single pages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from stressvm import Kernel, Panic, UsageError
from stressvm.vm import netbsd
from tests.lone_netbsd import PAGE, One
from tests.support import every, explore, kinds, outcomes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stressvm.vm.netbsd import VmMap

VAONLY = netbsd.UVM_KMF_VAONLY
INTRSAFE = netbsd.VM_MAP_INTRSAFE
NOMERGE, QUANTUM = netbsd.UVM_FLAG_NOMERGE, netbsd.UVM_FLAG_QUANTUM
CHUNK = netbsd.UVM_KMAPENT_CHUNK


class Five(One):
    """An INTRSAFE map that takes entries out of itself."""

    def __init__(self, pages: int = 16, *, stocked: bool = True, **settings: Any) -> None:
        def build(kmap: VmMap) -> None:
            if stocked:
                kmap.stock_entries()

        super().__init__(pages, build, **{"version": "5.2", "flags": INTRSAFE, "kmapent": True, **settings})

    @property
    def pool(self) -> netbsd.Kmapents:
        assert self.kmap.kmapents is not None
        return self.kmap.kmapents

    def alloc(self, pages: int = 1, flags: int = 0) -> int | None:
        va = self.now(netbsd.uvm_km_alloc(self.kmap, pages * PAGE, 0, VAONLY | flags))
        return self.page(va) if va else None

    def free(self, page: int, pages: int = 1) -> None:
        self.now(netbsd.uvm_km_free(self.kmap, self.at(page), pages * PAGE, VAONLY))

    def used(self) -> list[int]:
        return [page.used for page in self.pool.free]


@pytest.fixture
def five() -> Iterator[Five]:
    with Five() as made:
        yield made


# ---------------------------------------------------------------- entries in the map


def test_the_first_entry_costs_a_page() -> None:
    with Five(stocked=False) as five:
        assert five.alloc() == 1
        assert five.ranges() == [(0, 1), (1, 2)]
        assert five.entry(0).flags == netbsd.UVM_MAP_KERNEL | netbsd.UVM_MAP_KMAPENT | netbsd.UVM_MAP_NOMERGE
        assert five.entry(1).home is five.entry(0).home is five.pool.free[0]
        assert five.used() == [2]
        assert five.kmap.size == 2 * PAGE


def test_a_map_can_be_stocked_beforehand(five: Five) -> None:
    assert five.ranges() == [(0, 1)]
    assert five.used() == [1]
    assert five.alloc() == 1
    assert five.used() == [2]


def test_an_entry_saved_by_a_merge_is_kept_for_the_split_that_may_follow(five: Five) -> None:
    assert [five.alloc() for _ in range(3)] == [1, 2, 3]
    assert five.ranges() == [(0, 1), (1, 4)]
    assert (five.used(), len(five.pool.merged)) == ([4], 2)
    five.free(2)
    assert five.ranges() == [(0, 1), (1, 2), (3, 4)]
    assert (five.used(), len(five.pool.merged)) == ([3], 0), "both parts needed one, and the page's is free"
    assert five.alloc() == 2
    assert (five.ranges(), len(five.pool.merged)) == ([(0, 1), (1, 4)], 2)
    for page in (1, 2, 3):
        five.free(page)
    assert five.ranges() == [(0, 1)]


def test_to_split_what_was_mapped_as_one_panics(five: Five) -> None:
    assert five.alloc(3) == 1
    with pytest.raises(Panic, match=r"uvm_mapent_alloc_split: KASSERT\(me\)"):
        five.free(2)


def test_a_full_page_is_followed_by_another_and_goes_when_it_is_empty_and_not_the_last() -> None:
    with Five(80) as five:
        taken = range(2, 2 + 2 * CHUNK, 2)
        for page in taken:
            assert five.map(page, flags=NOMERGE) == 0
        homes = {entry.home for entry in five.kmap.entries}
        assert len(homes) == 2
        assert sum(entry.flags & netbsd.UVM_MAP_KMAPENT > 0 for entry in five.kmap.entries) == 2
        for page in taken:
            five.unmap(page)
        assert len([entry for entry in five.kmap.entries if entry.flags & netbsd.UVM_MAP_KMAPENT]) == 1
        assert five.used() == [1]


def test_without_a_free_entry_a_full_map_fails_even_a_caller_that_would_wait() -> None:
    with Five(4) as five:
        five.pool.free[0].used = CHUNK - 1
        assert five.alloc(3) == 1
        assert five.used() == []
        assert five.alloc(1, netbsd.UVM_KMF_WAITVA) is None
        assert five.kmap.flags.peek() & netbsd.VM_MAP_WANTVA


def test_who_fails_gives_the_entry_back(five: Five) -> None:
    assert five.alloc(99) is None
    assert five.used() == [1]


def test_the_page_of_entries_itself_is_freed_by_mistake(five: Five) -> None:
    """Its own entry lies in it; when that is given back there is one fewer used than the page itself counts for."""
    assert five.alloc() == 1
    five.free(1)
    assert five.used() == [1]
    with pytest.raises(Panic, match=r"the page of entries at 0x.* was unmapped with an entry in use"):
        five.free(0)
    assert five.k.trouble is not None
    assert five.k.trouble.kind == "invariant"


def test_the_page_of_entries_is_freed_with_entries_in_it_and_they_are_given_back_later(five: Five) -> None:
    """While some are in use nobody notices; the last one given back is one too many."""
    assert five.alloc() == 1
    five.free(0)
    assert five.ranges() == [(1, 2)]
    with pytest.raises(Panic, match="was unmapped with an entry in use"):
        five.free(1)


def test_unmapping_reserves_two_entries_except_for_quantum_ranges(five: Five) -> None:
    assert five.map(4, 8, flags=NOMERGE) == 0
    used = five.used()
    five.unmap(6, 2)
    assert five.ranges() == [(0, 1), (4, 6), (8, 12)]
    assert five.used() == [used[0] + 1]
    assert five.pool.umr == []


def test_what_52_reserves_it_does_not_use_so_a_clip_may_find_none(five: Five) -> None:
    """Two entries are free and both are reserved: the clip would carve a page out of the map that is locked."""
    assert five.map(4, 8, flags=NOMERGE) == 0
    five.pool.free[0].used = CHUNK - 2
    with pytest.raises(Panic, match="locking against myself: no entry is free for a clip"):
        five.unmap(6, 2)


def test_with_three_free_entries_one_side_can_be_clipped(five: Five) -> None:
    assert five.map(4, 8, flags=NOMERGE) == 0
    five.pool.free[0].used = CHUNK - 3
    five.unmap(6, 8)
    assert five.ranges() == [(0, 1), (4, 6)]


def test_calls_that_reserve_nothing_panic_when_they_must_clip(five: Five) -> None:
    assert five.map(4, 8, flags=NOMERGE) == 0
    assert five.now(netbsd.uvm_map_inherit(five.kmap, five.at(4), five.at(12), netbsd.MAP_INHERIT_COPY)) == 0
    with pytest.raises(Panic, match=r"KASSERT\(!UMR_EMPTY\(umr\)\)"):
        five.now(netbsd.uvm_map_inherit(five.kmap, five.at(4), five.at(6), netbsd.MAP_INHERIT_COPY))


def test_a_submap_of_kernel_map_gets_two_for_its_clips() -> None:
    with Five(flags=0, kind=netbsd.MapKind.KERNEL) as five:
        assert five.map(4, 8, flags=NOMERGE) == 0
        made = five.now(netbsd.uvm_km_suballoc(five.kmap, five.at(12), 2 * PAGE, INTRSAFE, kmapent=True))
        assert (made.max_offset - made.min_offset) // PAGE == 2 + 1, "and one for the entries"
        assert made.kmapents is not None
        assert five.now(netbsd.uvm_map_submap(five.kmap, five.at(5), five.at(6), made)) == 0
        assert five.ranges()[1:4] == [(4, 5), (5, 6), (6, 12)]


def test_a_longer_blank_entry_is_not_clipped_by_replacing() -> None:
    with Five(flags=0, kind=netbsd.MapKind.KERNEL) as five:
        assert five.now(netbsd.uvm_map_reserve(five.kmap, 4 * PAGE, five.at(4))) == five.at(4)
        five.now(five.kmap.lock.lock())
        assert not netbsd.uvm_map_replace(five.kmap, five.at(4), five.at(6), [])
        assert five.ranges() == [(0, 1), (4, 8)]


def test_filling_takes_entries_too() -> None:
    def build(kmap: VmMap) -> None:
        kmap.stock_entries()
        kmap.fill(4, offset=1)

    with One(8, build, version="5.2", flags=INTRSAFE, kmapent=True) as one:
        assert one.ranges() == [(0, 1), (1, 5)]
        assert one.kmap.kmapents is not None
        assert len(one.kmap.kmapents.merged) == 3
        one.now(netbsd.uvm_km_free(one.kmap, one.at(2), PAGE, VAONLY))
        assert one.ranges() == [(0, 1), (1, 2), (3, 5)]


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"version": "6"}, "only 5.2 takes map entries out of the map"),
        ({"version": "5.2"}, "is for VM_MAP_INTRSAFE maps and kernel_map"),
    ],
)
def test_other_maps_take_no_entries_out_of_themselves(settings: dict[str, Any], fault: str) -> None:
    with pytest.raises(UsageError, match=fault):
        One(kmapent=True, **settings)


def test_what_the_worlds_builder_must_do_first() -> None:
    settings: dict[str, Any] = {"version": "5.2", "flags": INTRSAFE}
    with pytest.raises(UsageError, match="call stock_entries"):
        One(8, lambda kmap: kmap.fill(1, offset=2), kmapent=True, **settings)
    with pytest.raises(UsageError, match="make it with kmapent=True"):
        One(8, lambda kmap: kmap.stock_entries(), **settings)

    def full(kmap: VmMap) -> None:
        kmap.stock_entries()
        kmap.fill(7, offset=1)
        kmap.stock_entries()

    with pytest.raises(UsageError, match="has no room for a page of map entries"):
        One(8, full, kmapent=True, **settings)


# ---------------------------------------------------------------- reclaim callbacks


def test_callbacks_are_asked_in_turn_whatever_the_flags() -> None:
    asked: list[str] = []

    def callback(name: str, result: int) -> Any:
        async def fn(_arg: object) -> int:
            asked.append(name)
            return result

        return fn

    go_on, stop = netbsd.CALLBACK_CHAIN_CONTINUE, netbsd.CALLBACK_CHAIN_ABORT

    def build(kmap: VmMap) -> None:
        head = netbsd.vm_map_to_kernel(kmap).vmk_reclaim_callback
        for name, result in (("a", go_on), ("b", stop), ("c", go_on)):
            head.add(callback(name, result))

    with One(1, build, version="5.2") as one:
        for flags in (netbsd.UVM_KMF_NOWAIT, netbsd.UVM_KMF_TRYLOCK, 0):
            assert one.now(netbsd.uvm_km_alloc(one.kmap, 2 * PAGE, 0, VAONLY | flags)) == 0
        assert asked == ["a", "b", "c", "a", "b", "c", "a", "b"]


def test_a_callback_that_frees_addresses_saves_the_caller_that_does_not_wait() -> None:
    def build(k: Kernel) -> None:
        kmap = netbsd.setup(k, 2, version="5.2", flags=INTRSAFE)
        full = kmap.fill()

        async def give_back(_arg: object) -> int:
            await netbsd.uvm_km_free(kmap, full, PAGE, VAONLY)
            return netbsd.CALLBACK_CHAIN_CONTINUE

        kmap.vmk_reclaim_callback.add(give_back)

        async def allocs() -> None:
            va = await netbsd.uvm_km_alloc(kmap, PAGE, 0, VAONLY | netbsd.UVM_KMF_NOWAIT)
            k.record(did=va == full)

        k.spawn(allocs, name="t")

    endings = every(build)
    assert (kinds(endings), outcomes(endings)) == ({None}, {("t True",)})


def test_a_callback_is_not_unregistered_while_one_runs() -> None:
    def build(k: Kernel) -> None:
        kmap = netbsd.setup(k, 1, version="5.2")
        head = kmap.vmk_reclaim_callback
        running: list[int] = []

        async def slow(_arg: object) -> int:
            running.append(1)
            await k.yield_()
            running.pop()
            return netbsd.CALLBACK_CHAIN_CONTINUE

        async def runs() -> None:
            await head.register(slow)
            await head.run_roundrobin(None)

        async def leaves() -> None:
            await k.delay(0)
            if slow in head.entries:
                await head.unregister(slow)
                assert not running
                k.record(did="left")

        k.spawn(runs, name="runs")
        k.spawn(leaves, name="leaves")

    endings = every(build)
    assert kinds(endings) == {None}
    assert ("leaves left",) in outcomes(endings)


def test_unregistering_the_one_that_is_next_moves_the_turn() -> None:
    asked: list[int] = []

    async def first(_arg: object) -> int:
        asked.append(1)
        return netbsd.CALLBACK_CHAIN_ABORT

    async def second(_arg: object) -> int:
        asked.append(2)
        return netbsd.CALLBACK_CHAIN_ABORT

    with One(version="5.2") as one:
        head = one.kmap.vmk_reclaim_callback
        for fn in (first, second):
            one.now(head.register(fn))
        assert one.now(head.run_roundrobin(None)) == netbsd.CALLBACK_CHAIN_ABORT
        one.now(head.unregister(second))
        one.now(head.run_roundrobin(None))
        assert asked == [1, 1]


@pytest.mark.parametrize("settings", [{"version": "6"}, {"version": "5.2", "kind": netbsd.MapKind.USER}])
def test_other_maps_have_no_reclaim_callbacks(settings: dict[str, Any]) -> None:
    with One(**settings) as one, pytest.raises(UsageError, match="has no reclaim callbacks"):
        _ = one.kmap.vmk_reclaim_callback


# ---------------------------------------------------------------- VM_MAP_VACACHE


def cached(kmap: VmMap) -> None:
    netbsd.uvm_km_vacache_init(kmap, 4 * PAGE)


def test_pages_come_from_chunks_and_chunks_go_back_when_addresses_are_short() -> None:
    with One(12, cached, version="5.2") as one:
        assert one.kmap.flags.peek() & netbsd.VM_MAP_VACACHE
        got = [one.page(one.now(netbsd.km_vacache_alloc(one.kmap, waitok=True))) for _ in range(5)]
        assert got == [0, 1, 2, 3, 4]
        assert one.ranges() == [(0, 8)]
        one.now(netbsd.km_vacache_free(one.kmap, one.at(4)))
        assert one.ranges() == [(0, 8)], "the chunk stays with the pool"
        va = one.now(netbsd.uvm_km_alloc(one.kmap, 8 * PAGE, 0, VAONLY | netbsd.UVM_KMF_NOWAIT))
        assert one.page(va) == 4
        assert one.now(netbsd.km_vacache_alloc(one.kmap, waitok=False)) == 0, "nothing is left to cut"


def test_a_chunk_that_is_in_use_stays() -> None:
    with One(12, cached, version="5.2") as one:
        first = one.now(netbsd.km_vacache_alloc(one.kmap, waitok=False))
        assert one.now(netbsd.uvm_km_alloc(one.kmap, 12 * PAGE, 0, VAONLY)) == 0
        assert one.ranges() == [(0, 4)]
        one.now(netbsd.km_vacache_free(one.kmap, first))
        assert one.page(one.now(netbsd.uvm_km_alloc(one.kmap, 12 * PAGE, 0, VAONLY))) == 0


def test_an_interrupt_handler_may_take_a_page_from_an_intrsafe_map() -> None:
    def build(k: Kernel) -> None:
        kmap = netbsd.setup(k, 12, version="5.2", flags=INTRSAFE)
        cached(kmap)

        async def handler() -> None:
            va = await netbsd.km_vacache_alloc(kmap, waitok=False)
            await netbsd.km_vacache_free(kmap, va)

        async def thread() -> None:
            va = await netbsd.km_vacache_alloc(kmap, waitok=True)
            await netbsd.km_vacache_free(kmap, va)
            await netbsd.uvm_km_alloc(kmap, 9 * PAGE, 0, VAONLY)

        k.spawn(handler, interrupt=True)
        k.spawn(thread)

    assert kinds(explore(build, 300)) == {None}


@pytest.mark.parametrize("pages", [8, 7])
def test_a_map_must_be_more_than_twice_a_chunk(pages: int) -> None:
    with pytest.raises(Panic, match="km_vacache_init: KASSERT"):
        One(pages, cached, version="5.2")


def test_the_usual_chunk_is_32_pages() -> None:
    with One(80, netbsd.uvm_km_vacache_init, version="5.2", min_offset=0xC000_0000) as one:
        assert one.page(one.now(netbsd.km_vacache_alloc(one.kmap, waitok=True))) == 0
        assert one.ranges() == [(0, 32)]


def test_what_has_no_pool_says_so() -> None:
    with One(version="5.2") as one, pytest.raises(UsageError, match="call uvm_km_vacache_init"):
        one.now(netbsd.km_vacache_alloc(one.kmap, waitok=True))
    with pytest.raises(UsageError, match="has no VM_MAP_VACACHE"):
        One(build=cached)
