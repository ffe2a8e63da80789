"""uvm_km(9) and uvm_map(9) call by call: every flag, every misuse."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import pytest

from stressvm import Kernel, Panic, UsageError
from stressvm.conform.lone import LoneThread
from stressvm.vm import netbsd
from tests.support import every, explore, kinds, outcomes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PAGE = netbsd.PAGE_SIZE
VAONLY = netbsd.UVM_KMF_VAONLY
NOWAIT = netbsd.UVM_KMF_NOWAIT
WAITVA = netbsd.UVM_KMF_WAITVA
CANFAIL = netbsd.UVM_KMF_CANFAIL
TRYLOCK = netbsd.UVM_KMF_TRYLOCK

#: Version, and whether the map is VM_MAP_INTRSAFE.
Kind: TypeAlias = tuple[str, bool]
SIX: Kind = ("6", False)
FIVE: Kind = ("5.2", False)
INTRSAFE: Kind = ("5.2", True)
ALL = pytest.mark.parametrize("kind", [SIX, FIVE, INTRSAFE], ids=["6", "5.2", "5.2-intrsafe"])


class One(LoneThread):
    """A map of eight pages and a thread that nobody disturbs; places are pages from the map's lowest."""

    def __init__(self, kind: Kind = SIX, *, pages: int = 8, full: bool = False) -> None:
        super().__init__()
        version, intrsafe = kind
        self.kmap = netbsd.submap(self.k, pages, version=version, intrsafe=intrsafe)
        if full:
            self.kmap.fill()
        self.start()

    def at(self, page: int) -> int:
        return self.kmap.min_offset + page * PAGE

    def alloc(self, pages: int, flags: int = 0, align: int = 0) -> int | None:
        """The page, or None for 0."""
        va = self.now(netbsd.uvm_km_alloc(self.kmap, pages * PAGE, align, VAONLY | flags))
        return (va - self.kmap.min_offset) // PAGE if va else None

    def free(self, page: int, pages: int) -> None:
        self.now(netbsd.uvm_km_free(self.kmap, self.at(page), pages * PAGE, VAONLY))

    def entries(self) -> list[tuple[int, int]]:
        low = self.kmap.min_offset
        return [((entry.start - low) // PAGE, (entry.end - low) // PAGE) for entry in self.kmap.entries]

    def wantva(self) -> bool:
        return bool(self.kmap.flags.peek() & netbsd.VM_MAP_WANTVA)


@pytest.fixture
def one() -> Iterator[One]:
    """On NetBSD 6, empty."""
    made = One()
    yield made
    made.close()


def world(kind: Kind, *threads: tuple[str, int, int], pages: int = 1, full: bool = True) -> Callable[[Kernel], None]:
    """Threads that allocate (name, pages, flags) and say what they got; 0 pages: one that frees the first page."""

    def build(k: Kernel) -> None:
        version, intrsafe = kind
        kmap = netbsd.submap(k, pages, version=version, intrsafe=intrsafe)
        start = kmap.fill() if full else kmap.min_offset

        async def allocs(count: int, flags: int) -> None:
            va = await netbsd.uvm_km_alloc(kmap, count * PAGE, 0, VAONLY | flags)
            k.record(did="got" if va else "failed")

        async def frees() -> None:
            await netbsd.uvm_km_free(kmap, start, PAGE, VAONLY)

        for name, count, flags in threads:
            if count:
                k.spawn(allocs, count, flags, name=name)
            else:
                k.spawn(frees, name=name)

    return build


def locked(kind: Kind, flags: int) -> Callable[[Kernel], None]:
    """A thread that holds the map's lock for a while, and one that allocates."""

    def build(k: Kernel) -> None:
        version, intrsafe = kind
        kmap = netbsd.submap(k, 2, version=version, intrsafe=intrsafe)

        async def holds() -> None:
            await kmap.lock.lock()
            await k.yield_()
            await kmap.lock.unlock()

        async def allocs() -> None:
            va = await netbsd.uvm_km_alloc(kmap, PAGE, 0, VAONLY | flags)
            k.record(did="got" if va else "failed")

        k.spawn(holds)
        k.spawn(allocs, name="t")

    return build


FREE = ("f", 0, 0)

# ---------------------------------------------------------------- uvm_km_alloc: what it gives


@ALL
def test_the_lowest_room_is_given_and_the_size_is_rounded_up(kind: Kind) -> None:
    one = One(kind)
    assert one.now(netbsd.uvm_km_alloc(one.kmap, 1, 0, VAONLY)) == one.at(0)
    assert one.now(netbsd.uvm_km_alloc(one.kmap, PAGE + 1, 0, VAONLY)) == one.at(1)
    assert one.kmap.size == 3 * PAGE
    one.free(0, 2)
    assert one.alloc(1) == 0
    assert one.alloc(2) == 3
    one.close()


@ALL
def test_neighbours_become_one_entry(kind: Kind) -> None:
    one = One(kind)
    assert [one.alloc(1), one.alloc(2)] == [0, 1]
    assert one.entries() == [(0, 3)]
    one.alloc(2)
    one.free(1, 2)
    assert one.entries() == [(0, 1), (3, 5)]
    assert one.alloc(2) == 1
    assert one.entries() == [(0, 5)]
    one.close()


def test_what_an_allocation_looks_like_in_the_map(one: One) -> None:
    one.alloc(1)
    entry = one.kmap.entries.first
    assert entry is not None
    assert (entry.protection, entry.max_protection) == (netbsd.VM_PROT_ALL, netbsd.VM_PROT_ALL)
    assert (entry.inheritance, entry.advice) == (netbsd.MAP_INHERIT_NONE, netbsd.UVM_ADV_RANDOM)
    assert (entry.flags, entry.wired_count, entry.sub_map) == (0, 0, None)


@pytest.mark.parametrize(
    ("align", "expected"), [(0, 1), (16, 1), (PAGE, 1), (2 * PAGE, 2), (4 * PAGE, 4), (8 * PAGE, None)]
)
def test_alignment(one: One, align: int, expected: int | None) -> None:
    assert one.alloc(1) == 0
    assert one.alloc(1, align=align) == expected


@pytest.mark.parametrize("align", [3, 3 * PAGE, PAGE + 1, -2])
def test_an_alignment_that_is_no_power_of_two_panics(one: One, align: int) -> None:
    with pytest.raises(Panic, match="power of two"):
        one.alloc(1, align=align)


@pytest.mark.parametrize("flags", [netbsd.UVM_KMF_ZERO, netbsd.UVM_KMF_EXEC, CANFAIL])
def test_flags_that_mean_nothing_without_pages_are_ignored(one: One, flags: int) -> None:
    assert one.alloc(1, flags) == 0


# ---------------------------------------------------------------- uvm_km_alloc: no room


@ALL
@pytest.mark.parametrize("flags", [0, NOWAIT, CANFAIL, TRYLOCK, NOWAIT | CANFAIL | TRYLOCK])
def test_without_waitva_no_room_is_a_failure_at_once_that_leaves_wantva(kind: Kind, flags: int) -> None:
    one = One(kind, full=True)
    assert one.alloc(1, flags) is None
    assert one.wantva()
    assert one.entries() == [(0, 8)]
    one.free(3, 1)
    assert not one.wantva()
    assert one.alloc(2, flags) is None
    assert one.alloc(1, flags) == 3
    assert one.wantva(), "only freeing clears it"
    one.close()


@ALL
@pytest.mark.parametrize("flags", [WAITVA, WAITVA | CANFAIL])
def test_canfail_does_not_end_a_wait_for_addresses(kind: Kind, flags: int) -> None:
    endings = every(world(kind, ("t", 1, flags)))
    assert kinds(endings) == {"exhausted"}
    assert outcomes(endings) == {()}
    assert outcomes(explore(world(kind, ("t", 1, flags), FREE), 400)) == {("t got",)}


@ALL
def test_neither_nowait_nor_waitva_fails_rather_than_sleeps(kind: Kind) -> None:
    endings = explore(world(kind, ("t", 1, 0), FREE), 400)
    assert kinds(endings) == {None}
    assert outcomes(endings) == {("t got",), ("t failed",)}
    assert not any(step[1] == "sleep" for ending in endings for step in ending.steps)


@ALL
def test_a_request_larger_than_the_map_fails_or_waits_for_ever(kind: Kind) -> None:
    assert outcomes(every(world(kind, ("t", 9, NOWAIT), full=False))) == {("t failed",)}
    assert kinds(every(world(kind, ("t", 9, WAITVA), full=False))) == {"exhausted"}


@ALL
def test_two_that_wait_are_both_served_when_both_pages_are_freed(kind: Kind) -> None:
    def build(k: Kernel) -> None:
        version, intrsafe = kind
        kmap = netbsd.submap(k, 2, version=version, intrsafe=intrsafe)
        start = kmap.fill()

        async def waits() -> None:
            assert await netbsd.uvm_km_alloc(kmap, PAGE, 0, VAONLY | WAITVA)

        async def frees() -> None:
            await netbsd.uvm_km_free(kmap, start, 2 * PAGE, VAONLY)

        for body in (waits, waits, frees):
            k.spawn(body)

    assert kinds(explore(build, 400)) == {None}


# ---------------------------------------------------------------- uvm_km_alloc: a held lock


@pytest.mark.parametrize(
    ("kind", "expected"),
    [(SIX, {("t got",), ("t failed",)}), (FIVE, {("t got",), ("t failed",)}), (INTRSAFE, {("t got",)})],
    ids=["6", "5.2", "5.2-intrsafe"],
)
def test_trylock_fails_with_a_held_lock_except_on_intrsafe_maps(kind: Kind, expected: set[tuple[str, ...]]) -> None:
    for flags in (TRYLOCK, TRYLOCK | NOWAIT, TRYLOCK | WAITVA):
        endings = every(locked(kind, flags))
        assert kinds(endings) == {None}
        assert outcomes(endings) == expected


@ALL
@pytest.mark.parametrize("flags", [0, NOWAIT, CANFAIL, WAITVA])
def test_without_trylock_all_wait_for_the_lock(kind: Kind, flags: int) -> None:
    endings = every(locked(kind, flags))
    assert kinds(endings) == {None}
    assert outcomes(endings) == {("t got",)}


def test_trylock_with_waitva_may_fail_after_a_sleep() -> None:
    """Woken by a thread that still holds the lock, it finds the lock held."""
    endings = explore(world(SIX, ("t", 1, TRYLOCK | WAITVA), FREE), 1000)
    assert kinds(endings) == {None}
    assert outcomes(endings) == {("t got",), ("t failed",)}
    slept = {ending.said for ending in endings if any(step[:3] == (0, "sleep", "kmap.cv") for step in ending.steps)}
    assert slept == {("t got",), ("t failed",)}


def test_a_try_on_a_busy_map_fails_even_for_the_one_who_marked_it() -> None:
    one = One()
    lock = one.kmap.lock
    assert isinstance(lock, netbsd.VmMapLock)
    one.now(lock.lock())
    one.now(lock.busy())
    one.now(lock.unlock())
    assert one.alloc(1, TRYLOCK) is None
    assert not one.wantva()
    assert one.alloc(1, NOWAIT) == 0
    one.now(lock.unbusy())
    one.close()


# ---------------------------------------------------------------- uvm_km_alloc: misuse


@ALL
def test_nowait_with_waitva_panics(kind: Kind) -> None:
    one = One(kind)
    with pytest.raises(Panic, match="NOWAIT and WAITVA exclude each other"):
        one.alloc(1, NOWAIT | WAITVA)
    one.close()


def test_a_size_of_nothing_panics(one: One) -> None:
    with pytest.raises(Panic, match=r"KASSERT\(size > 0\)"):
        one.alloc(0)


@pytest.mark.parametrize(
    "types",
    [
        0,
        VAONLY | netbsd.UVM_KMF_WIRED,
        VAONLY | netbsd.UVM_KMF_PAGEABLE,
        netbsd.UVM_KMF_WIRED | netbsd.UVM_KMF_PAGEABLE,
        netbsd.UVM_KMF_TYPEMASK,
    ],
)
def test_anything_but_one_memory_type_panics(one: One, types: int) -> None:
    with pytest.raises(Panic, match=r"uvm_km_alloc: KASSERT: .*exactly one memory type"):
        one.now(netbsd.uvm_km_alloc(one.kmap, PAGE, 0, types | NOWAIT))


@pytest.mark.parametrize("types", [0, VAONLY | netbsd.UVM_KMF_WIRED, netbsd.UVM_KMF_TYPEMASK])
def test_freeing_anything_but_one_memory_type_panics(one: One, types: int) -> None:
    one.alloc(1)
    with pytest.raises(Panic, match=r"uvm_km_free: KASSERT: .*exactly one memory type"):
        one.now(netbsd.uvm_km_free(one.kmap, one.at(0), PAGE, types))


@pytest.mark.parametrize("kind", [netbsd.UVM_KMF_WIRED, netbsd.UVM_KMF_PAGEABLE])
def test_memory_with_pages_is_refused_in_clear_words(one: One, kind: int) -> None:
    with pytest.raises(UsageError, match="WIRED and PAGEABLE memory need physical pages"):
        one.now(netbsd.uvm_km_alloc(one.kmap, PAGE, 0, kind))
    with pytest.raises(UsageError, match="WIRED and PAGEABLE memory need physical pages"):
        one.now(netbsd.uvm_km_free(one.kmap, one.at(0), PAGE, kind))


def test_colours_are_for_addresses_only_and_for_6(one: One) -> None:
    with pytest.raises(Panic, match="COLORMATCH is for VAONLY"):
        one.now(netbsd.uvm_km_alloc(one.kmap, PAGE, 0, netbsd.UVM_KMF_WIRED | netbsd.UVM_KMF_COLORMATCH))
    five = One(FIVE)
    with pytest.raises(UsageError, match=r"5\.2' has no COLORMATCH"):
        five.alloc(1, netbsd.UVM_KMF_COLORMATCH)
    five.close()


# ---------------------------------------------------------------- uvm_km_free


def test_freeing_a_part_splits_and_rounds_up(one: One) -> None:
    one.alloc(8)
    one.now(netbsd.uvm_km_free(one.kmap, one.at(2), PAGE + 1, VAONLY))
    assert one.entries() == [(0, 2), (4, 8)]
    assert one.kmap.size == 6 * PAGE
    one.free(0, 8)
    assert one.entries() == []
    assert one.kmap.size == 0


def test_freeing_nothing_is_no_error_and_still_wakes(one: One) -> None:
    one.alloc(7)
    assert one.alloc(2) is None
    assert one.wantva()
    one.free(7, 1)
    assert not one.wantva()
    assert one.entries() == [(0, 7)]


def test_a_free_that_helps_nobody_wakes_all_the_same() -> None:
    """The sleeper looks again and sleeps again: the free leaves nothing behind that could mislead it."""
    endings = explore(world(SIX, ("t", 2, WAITVA), FREE, pages=2), 300)
    assert kinds(endings) == {"exhausted"}
    assert any(step[1] == "broadcast" for ending in endings for step in ending.steps)


def test_freeing_an_address_inside_a_page_panics(one: One) -> None:
    one.alloc(1)
    with pytest.raises(Panic, match="is not page aligned"):
        one.now(netbsd.uvm_km_free(one.kmap, one.at(0) + 8, PAGE, VAONLY))


# ---------------------------------------------------------------- uvm_map, uvm_unmap


def test_uvm_map_takes_only_whole_pages(one: One) -> None:
    with pytest.raises(Panic, match="no whole number of pages"):
        one.now(netbsd.uvm_map(one.kmap, 0, PAGE + 1))


def test_a_protection_beyond_the_highest_is_refused_before_anything_is_locked(one: One) -> None:
    wrong = netbsd.uvm_map(one.kmap, 0, PAGE, align=3, prot=netbsd.VM_PROT_WRITE, maxprot=netbsd.VM_PROT_READ)
    assert one.now(wrong) == (netbsd.EACCES, 0)
    assert one.kmap.lock.timestamp.peek() == 0


@pytest.mark.parametrize(("size", "flags", "match"), [(0, 0, "size > 0"), (PAGE, NOWAIT | WAITVA, "exclude")])
def test_what_uvm_map_asserts_comes_before_the_protection(one: One, size: int, flags: int, match: str) -> None:
    with pytest.raises(Panic, match=match):
        one.now(netbsd.uvm_map(one.kmap, 0, size, flags=flags, prot=netbsd.VM_PROT_ALL, maxprot=0))


def test_fixed_means_there_or_nowhere(one: One) -> None:
    def fixed(page: int, pages: int, flags: int = 0) -> tuple[int, int]:
        return one.now(netbsd.uvm_map(one.kmap, one.at(page), pages * PAGE, flags=netbsd.UVM_FLAG_FIXED | flags))

    assert fixed(3, 2) == (0, one.at(3))
    assert fixed(4, 1) == (netbsd.ENOMEM, 0)
    assert fixed(2, 2) == (netbsd.ENOMEM, 0)
    assert fixed(7, 2) == (netbsd.ENOMEM, 0)
    assert fixed(8, 1) == (netbsd.ENOMEM, 0)
    assert fixed(-1, 1) == (netbsd.ENOMEM, 0)
    assert fixed(5, 3) == (0, one.at(5))
    with pytest.raises(Panic, match="FIXED with an alignment"):
        one.now(netbsd.uvm_map(one.kmap, one.at(0), PAGE, align=PAGE, flags=netbsd.UVM_FLAG_FIXED))


def test_a_hint_is_the_lowest_address_looked_at(one: One) -> None:
    def near(page: int, pages: int = 1) -> tuple[int, int]:
        return one.now(netbsd.uvm_map(one.kmap, one.at(page), pages * PAGE))

    assert near(5) == (0, one.at(5))
    assert near(5) == (0, one.at(6))
    assert near(5, 2) == (netbsd.ENOMEM, 0)
    assert near(-3) == (0, one.at(0))
    assert near(8) == (netbsd.ENOMEM, 0)
    assert near(9) == (netbsd.ENOMEM, 0)


def test_trylock_of_uvm_map_gives_eagain() -> None:
    def build(k: Kernel) -> None:
        kmap = netbsd.submap(k, 1)

        async def holds() -> None:
            await kmap.lock.lock()
            await k.delay(5)
            await kmap.lock.unlock()

        async def tries() -> None:
            await k.delay(1)
            assert await netbsd.uvm_map(kmap, 0, PAGE, flags=netbsd.UVM_FLAG_TRYLOCK) == (netbsd.EAGAIN, 0)

        k.spawn(holds)
        k.spawn(tries)

    assert kinds(every(build)) == {None}


def test_unmapping_is_cut_to_the_map(one: One) -> None:
    one.alloc(8)
    one.now(netbsd.uvm_unmap(one.kmap, one.at(6), one.at(99)))
    one.now(netbsd.uvm_unmap(one.kmap, one.at(-9), one.at(1)))
    assert one.entries() == [(1, 6)]


def test_a_static_entry_is_never_unmapped(one: One) -> None:
    one.alloc(4)
    entry = one.kmap.entries.first
    assert entry is not None
    entry.flags |= 0x4
    with pytest.raises(Panic, match="is STATIC"):
        one.free(1, 1)


def test_what_is_unmapped_is_unwired_first(one: One) -> None:
    one.alloc(4)
    entry = one.kmap.entries.first
    assert entry is not None
    entry.wired_count = 2
    one.free(0, 4)
    assert (one.entries(), entry.wired_count) == ([], 0)


def test_a_wired_entry_is_not_detached(one: One) -> None:
    one.alloc(4)
    entry = one.kmap.entries.first
    assert entry is not None
    entry.wired_count = 1
    with pytest.raises(Panic, match="is wired"):
        one.now(netbsd.uvm_unmap_detach(one.kmap, [entry]))


# ---------------------------------------------------------------- uvm_km_suballoc


def test_a_submap_is_an_entry_by_itself_with_two_references(one: One) -> None:
    one.alloc(1)
    sub = one.now(netbsd.uvm_km_suballoc(one.kmap, one.at(0), 2 * PAGE - 1, netbsd.VM_MAP_PAGEABLE, name="sub"))
    one.alloc(1)
    assert one.entries() == [(0, 1), (1, 3), (3, 4)]
    assert (sub.min_offset, sub.max_offset) == (one.at(1), one.at(3))
    assert (sub.name, sub.version, sub.ref_count, sub.size) == ("sub", "6", 2, 0)
    assert sub.flags.peek() == netbsd.VM_MAP_PAGEABLE
    assert one.now(netbsd.uvm_km_alloc(sub, PAGE, 0, VAONLY)) == one.at(1)
    assert one.now(netbsd.uvm_km_alloc(sub, 2 * PAGE, 0, VAONLY | NOWAIT)) == 0
    nested = one.now(netbsd.uvm_km_suballoc(sub, 0, PAGE))
    assert nested.min_offset == one.at(2)


def test_the_place_is_a_hint_or_the_place(one: One) -> None:
    def carve(page: int, *, fixed: bool) -> int:
        return one.now(netbsd.uvm_km_suballoc(one.kmap, one.at(page), PAGE, fixed=fixed)).min_offset

    assert carve(3, fixed=True) == one.at(3)
    assert carve(3, fixed=False) == one.at(4)
    assert carve(-5, fixed=False) == one.at(0)
    with pytest.raises(Panic, match="unable to allocate"):
        carve(3, fixed=True)


@pytest.mark.parametrize(("page", "pages"), [(0, 9), (7, 2), (9, 1), (1 << 40, 1)])
def test_a_submap_for_which_there_is_no_room_panics(one: One, page: int, pages: int) -> None:
    with pytest.raises(Panic, match="uvm_km_suballoc: unable to allocate"):
        one.now(netbsd.uvm_km_suballoc(one.kmap, one.at(page), pages * PAGE))


def test_a_submap_of_nothing_panics(one: One) -> None:
    with pytest.raises(Panic, match="size > 0"):
        one.now(netbsd.uvm_km_suballoc(one.kmap, 0, 0))


def test_a_submap_cannot_be_unmapped(one: One) -> None:
    one.now(netbsd.uvm_km_suballoc(one.kmap, 0, PAGE))
    with pytest.raises(Panic, match="is a submap"):
        one.free(0, 1)


@pytest.mark.parametrize(
    ("start", "end", "error"),
    [
        (0, 1, 0),
        (1, 2, 0),
        (0, 2, 0),
        (0, 3, netbsd.EINVAL),
        (4, 6, netbsd.EINVAL),
        (3, 5, netbsd.EINVAL),
    ],
)
def test_only_a_blank_range_becomes_a_submap(one: One, start: int, end: int, error: int) -> None:
    one.alloc(2)
    sub = one.now(netbsd.uvm_km_suballoc(one.kmap, one.at(4), 2 * PAGE))
    assert one.now(netbsd.uvm_map_submap(one.kmap, one.at(start), one.at(end), sub)) == error
    assert sub.ref_count == (2 if error else 3)
    assert ((start, end) in one.entries()) == (not error or (start, end) == (4, 6))


def test_a_submap_that_cannot_be_put_in_panics() -> None:
    class Refuses(netbsd.VmMap):
        def make_submap(self, start: int, end: int, submap: netbsd.VmMap) -> int:  # noqa: ARG002
            return netbsd.EINVAL

    lone = LoneThread()
    kmap = netbsd.submap(lone.k, 2, cls=Refuses)
    lone.start()
    with pytest.raises(Panic, match="submap allocation failed"):
        lone.now(netbsd.uvm_km_suballoc(kmap, 0, PAGE))
    lone.close()


def test_a_defect_of_the_parent_is_one_of_the_submap() -> None:
    class Planted(netbsd.VmMap):
        pass

    lone = LoneThread()
    kmap = netbsd.submap(lone.k, 2, cls=Planted)
    lone.start()
    assert type(lone.now(netbsd.uvm_km_suballoc(kmap, 0, PAGE))) is Planted
    lone.close()


# ---------------------------------------------------------------- what versions have


def test_maps_have_the_version_asked_for() -> None:
    k = LoneThread().k
    assert netbsd.submap(k, 1).version == "6"
    assert isinstance(netbsd.submap(k, 1, version="5.2").lock, netbsd.VmMapLock)
    intrsafe = netbsd.submap(k, 1, version="5.2", intrsafe=True)
    assert isinstance(intrsafe.lock, netbsd.IntrsafeMapLock)
    assert intrsafe.flags.peek() == netbsd.VM_MAP_INTRSAFE
    assert "NetBSD 5.2 [0xc0000000, 0xc0001000)" in repr(intrsafe)


@pytest.mark.parametrize(
    "make",
    [
        lambda one: netbsd.submap(one.k, 1, intrsafe=True),
        lambda one: netbsd.setup(one.k, 1, flags=netbsd.VM_MAP_INTRSAFE),
        lambda one: one.now(netbsd.uvm_km_suballoc(one.kmap, 0, PAGE, netbsd.VM_MAP_INTRSAFE)),
        lambda one: netbsd.vm_map_to_kernel(one.kmap),
    ],
    ids=["submap", "setup", "uvm_km_suballoc", "vm_map_to_kernel"],
)
def test_what_only_the_manual_page_of_614_has_is_refused_in_clear_words(
    one: One, make: Callable[[One], object]
) -> None:
    with pytest.raises(UsageError, match=r"version='6' has no .* of 6\.1\.4 still names .* ask for version='5\.2'"):
        make(one)


def test_52_has_a_kernel_part_in_each_map() -> None:
    one = One(FIVE)
    assert netbsd.vm_map_to_kernel(one.kmap) is one.kmap
    one.close()


def test_an_allocation_on_a_map_that_searches_from_the_top_panics_with_diagnostic_only() -> None:
    """uvm_km_alloc gives the map's minimum as the hint, and the search begins at the top of the first gap."""
    lone = LoneThread()
    kmap = netbsd.setup(lone.k, 4, flags=netbsd.VM_MAP_TOPDOWN)
    lone.start()
    top = kmap.max_offset - PAGE
    assert lone.now(netbsd.uvm_km_alloc(kmap, PAGE, 0, VAONLY)) == top
    assert lone.now(netbsd.uvm_km_alloc(kmap, PAGE, 0, VAONLY)) == top - PAGE
    assert (len(kmap.entries), kmap.first_free) == (1, None)
    kmap.options = netbsd.Options.DIAGNOSTIC
    with pytest.raises(Panic, match=r"KASSERT\(!topdown \|\| hint <= orig_hint\)"):
        lone.now(netbsd.uvm_km_alloc(kmap, PAGE, 0, VAONLY))
    lone.close()


def test_a_submap_has_the_options_of_its_parent_and_its_own_direction() -> None:
    lone = LoneThread()
    kmap = netbsd.setup(lone.k, 4, options=netbsd.Options.DIAGNOSTIC)
    lone.start()
    sub = lone.now(netbsd.uvm_km_suballoc(kmap, kmap.min_offset, 2 * PAGE, netbsd.VM_MAP_TOPDOWN))
    assert (sub.options, sub.topdown, kmap.topdown) == (netbsd.Options.DIAGNOSTIC, True, False)
    lone.close()


def test_a_wrong_first_free_breaks_an_invariant() -> None:
    lone = LoneThread()
    kmap = netbsd.setup(lone.k, 4)
    kmap.fill(1, offset=0)
    kmap.fill(1, offset=2)
    kmap.check()
    assert kmap.first_free is kmap.entries.first
    kmap.first_free = kmap.entries.last
    with pytest.raises(Panic, match=r"first_free is .* there is a gap before it"):
        kmap.check()


@pytest.mark.parametrize("version", ["6.1.4", "7", ""])
def test_an_unknown_version_is_refused(version: str) -> None:
    with pytest.raises(UsageError, match=r"NetBSD 5\.2 and 6 are modelled"):
        netbsd.submap(LoneThread().k, 1, version=version)


def test_a_map_has_at_least_a_page_and_whole_ones() -> None:
    k = LoneThread().k
    for pages in (0, -1):
        with pytest.raises(UsageError, match="at least one"):
            netbsd.submap(k, pages)
    for low, high in ((1, PAGE), (0, PAGE + 1), (PAGE, PAGE), (-PAGE, PAGE)):
        with pytest.raises(UsageError, match="page aligned"):
            netbsd.VmMap(k, low, high)


def test_filling_is_for_the_worlds_builder(one: One) -> None:
    with pytest.raises(UsageError, match="a running thread calls uvm_km_alloc"):
        one.kmap.fill(1)


def test_what_is_filled_looks_like_what_is_allocated() -> None:
    lone = LoneThread()
    kmap = netbsd.submap(lone.k, 4)
    assert kmap.fill(1, offset=1) == kmap.min_offset + PAGE
    lone.start()
    assert lone.now(netbsd.uvm_km_alloc(kmap, PAGE, 0, VAONLY)) == kmap.min_offset
    assert len(kmap.entries) == 1
    assert kmap.size == 2 * PAGE
    lone.close()


# ---------------------------------------------------------------- the invariants of a map


def test_a_wrong_size_is_found_at_the_next_release(one: One) -> None:
    one.alloc(2)
    one.kmap.size += PAGE
    with pytest.raises(Panic, match="the entries add up to"):
        one.alloc(1)
    assert one.k.trouble is not None
    assert one.k.trouble.kind == "invariant"


def test_a_torn_list_is_found_at_the_next_release(one: One) -> None:
    one.alloc(2)
    entry = one.kmap.entries.first
    assert entry is not None
    entry.end += PAGE
    with pytest.raises(Panic, match="kmap: "):
        one.now(netbsd.uvm_unmap(one.kmap, one.at(6), one.at(7)))
    assert one.k.trouble is not None
    assert one.k.trouble.kind == "invariant"
