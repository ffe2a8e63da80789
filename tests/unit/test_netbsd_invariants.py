"""Every named check of a map fires: each is broken by one overridden step, or by hand, and a panic says which it was."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from stressvm import Kernel, Panic
from stressvm.vm import netbsd
from tests.lone_netbsd import FIXED, PAGE, One
from tests.support import every, explore, kinds

if TYPE_CHECKING:
    from collections.abc import Callable

    from stressvm.vm.netbsd import MapEntry

PAGEABLE = netbsd.VM_MAP_PAGEABLE
NOMERGE = netbsd.UVM_FLAG_NOMERGE
VAONLY = netbsd.UVM_KMF_VAONLY
LOW = 0xC000_0000


def breaks(one: One, name: str, match: str = "") -> None:
    """The next release finds it, and it is an `invariant`."""
    one.now(one.kmap.lock.lock())
    with pytest.raises(Panic, match=rf"kmap: {name}.*{match}"):
        one.now(one.kmap.lock.unlock())
    assert one.k.trouble is not None
    assert one.k.trouble.kind == "invariant"


def test_the_list_of_checks() -> None:
    assert list(netbsd.INVARIANTS) == [
        "G1-G4 structure",
        "G5 size",
        "G6 first_free",
        "G7 hint",
        "G8 types",
        "G10 nomerge",
        "G12 timestamp",
        "G16 placed",
        "G18 static",
        "G19 waiters",
        "G21 union",
        "G22 unlocked busy",
    ]
    assert list(netbsd.ON_ACQUIRE) == ["G13 busy", "G20 lock order"]


def torn(one: One) -> None:
    one.entry(1).end += PAGE


def smaller(one: One) -> None:
    one.kmap.size -= PAGE


def gone_hint(one: One) -> None:
    one.kmap.hint = netbsd.MapEntry(one.at(1), one.at(2))


def no_object(one: One) -> None:
    one.map(5, 1, uobj=netbsd.UvmObject(), uoffset=0)
    one.entry(5).object = None


def no_type(one: One) -> None:
    one.map(5, 1, uobj=netbsd.UvmObject(), uoffset=0)
    one.entry(5).etype = 0


def offset_alone(one: One) -> None:
    one.map(5, 1, flags=netbsd.UVM_FLAG_COPYONW)
    one.entry(5).offset = PAGE


def grown(one: One) -> None:
    one.map(5, 1, flags=NOMERGE)
    one.kmap.entries.resize(one.entry(5), end=one.at(7))
    one.kmap.size += PAGE


def stamped(one: One) -> None:
    one.kmap.lock.timestamp.poke(77)


@pytest.mark.parametrize(
    ("name", "damage", "match"),
    [
        ("G1-G4 structure", torn, ""),
        ("G5 size", smaller, "the entries add up to"),
        ("G7 hint", gone_hint, "not in the map"),
        ("G8 types", no_object, "object None"),
        ("G8 types", no_type, "type 0x0"),
        ("G8 types", offset_alone, "offset 0x1000"),
        ("G10 nomerge", grown, "is NOMERGE, and has grown"),
        ("G12 timestamp", stamped, "the timestamp is 78, after"),
    ],
)
@pytest.mark.parametrize("version", netbsd.VERSIONS)
def test_damage_is_found_at_the_next_release(
    version: str, name: str, damage: Callable[[One], None], match: str
) -> None:
    with One(version=version) as one:
        one.map(1, 2)
        damage(one)
        breaks(one, name, match)


def test_an_unused_hint_of_another_map_is_found() -> None:
    with One() as one:
        sub = one.now(netbsd.uvm_km_suballoc(one.kmap, 0, 2 * PAGE))
        one.now(netbsd.uvm_km_alloc(sub, PAGE, 0, VAONLY))
        one.kmap.hint = sub.entries.first
        breaks(one, "G7 hint")


def test_an_intrsafe_map_whose_timestamp_moves_is_found() -> None:
    with One(version="5.2", flags=netbsd.VM_MAP_INTRSAFE) as one:
        one.map(1, 1)
        one.kmap.lock.timestamp.poke(1)
        breaks(one, "G12 timestamp")


def test_a_lock_that_does_not_count_is_found() -> None:
    class Still(netbsd.VmMapLock):
        def moved(self) -> None:
            """Nothing."""

    class Map(netbsd.VmMap):
        def make_lock(self) -> netbsd.MapLock:
            return Still(self.k, self.name, self.check)

    with One(cls=Map) as one:
        breaks(one, "G12 timestamp", "the timestamp is 0, after 1 acquisitions")


# ---------------------------------------------------------------- what is entered


def test_a_place_that_is_not_aligned_is_found() -> None:
    class Crooked(netbsd.VmMap):
        def findspace(self, hint: int, size: int, align: int = 0, flags: int = 0) -> int | None:  # noqa: ARG002
            return self.min_offset + PAGE

    with One(cls=Crooked) as one, pytest.raises(Panic, match=r"G16 placed: .* alignment 0x4000, remainder 0x0"):
        one.now(netbsd.uvm_map(one.kmap, one.at(0), PAGE, align=4 * PAGE))


def test_a_place_of_another_colour_is_found() -> None:
    class Gray(netbsd.VmMap):
        def findspace(self, hint: int, size: int, align: int = 0, flags: int = 0) -> int | None:  # noqa: ARG002
            return self.min_offset

    with One(cls=Gray, machine=netbsd.Machine(colors=2)) as one, pytest.raises(Panic, match="remainder 0x1000"):
        one.now(netbsd.uvm_map(one.kmap, one.at(0), PAGE, align=1, flags=netbsd.UVM_FLAG_COLORMATCH))


@pytest.mark.parametrize("page", [0, 15])
def test_a_place_that_is_taken_or_outside_is_found(page: int) -> None:
    class Blind(netbsd.VmMap):
        def findspace(self, hint: int, size: int, align: int = 0, flags: int = 0) -> int | None:  # noqa: ARG002
            return hint

    with One(cls=Blind) as one:
        one.map(0, 1, flags=NOMERGE)
        with pytest.raises(Panic, match="G16 placed"):
            one.now(netbsd.uvm_map(one.kmap, one.at(page), 2 * PAGE))
        assert one.k.trouble is not None
        assert one.k.trouble.kind == "invariant"


def test_what_is_handed_out_twice_is_found() -> None:
    class Forgetful(netbsd.VmMap):
        def insert(self, entry: MapEntry, prev: MapEntry | None, flags: int) -> None:
            super().insert(entry, prev, flags)
            if len(self.entries) > 1:
                self.first_free = None
                self.entries.delete(entry)
                self.size -= entry.end - entry.start
                self.hint = None

    with One(cls=Forgetful) as one:
        one.map(4, 1)
        with pytest.raises(Panic, match="G21 union"):
            one.now(netbsd.uvm_km_alloc(one.kmap, PAGE, 0, VAONLY))


def test_a_range_that_is_unmapped_behind_its_owners_back_and_handed_out_again_is_found() -> None:
    class Generous(netbsd.VmMap):
        async def unlink_range(self, start: int, end: int) -> list[MapEntry]:
            return await super().unlink_range(start, end + PAGE)

    with One(cls=Generous) as one:
        first, second = (one.now(netbsd.uvm_km_alloc(one.kmap, PAGE, 0, VAONLY)) for _ in range(2))
        one.now(netbsd.uvm_km_free(one.kmap, first, PAGE, VAONLY))
        assert one.now(netbsd.uvm_km_alloc(one.kmap, PAGE, 0, VAONLY)) == first
        with pytest.raises(Panic, match=f"G16 live: {second:#x}"):
            one.now(netbsd.uvm_km_alloc(one.kmap, PAGE, 0, VAONLY))


@pytest.mark.parametrize("more", [-1, 1])
def test_a_merge_that_takes_too_little_or_too_much_is_found(more: int) -> None:
    class Sloppy(netbsd.VmMap):
        def merge_back(self, prev: MapEntry, entry: MapEntry) -> None:
            end = entry.end + more * PAGE
            self.size += more * PAGE
            self.entries.resize(prev, end=end)

    with One(cls=Sloppy) as one:
        one.map(0, 1)
        with pytest.raises(Panic, match=r"G21 union: .*entries should cover"):
            one.map(1, 2)


def test_a_static_range_that_goes_is_found() -> None:
    with One(build=lambda kmap: kmap.fill(2, static=True)) as one:
        one.map(4, 1)
        one.unmap(4, 1)
        one.entry(0).flags &= ~netbsd.UVM_MAP_STATIC
        breaks(one, "G18 static", "no longer mapped")


def test_a_static_range_is_not_unmapped_by_mistake() -> None:
    with One(build=lambda kmap: kmap.fill(2, static=True)) as one, pytest.raises(Panic, match="is STATIC"):
        one.unmap(0, 16)


# ---------------------------------------------------------------- locks and sleepers


def test_a_thread_that_enters_a_busy_map_is_found_as_it_gets_the_lock() -> None:
    class Rude(netbsd.VmMapLock):
        def refuses_try(self) -> bool:
            return False

    class Map(netbsd.VmMap):
        def make_lock(self) -> netbsd.MapLock:
            return Rude(self.k, self.name, self.check)

    def build(k: Kernel) -> None:
        kmap = netbsd.setup(k, 4, cls=Map)

        async def marks() -> None:
            await kmap.lock.lock()
            await kmap.lock.busy()
            await kmap.lock.unlock()
            await k.yield_()
            await kmap.lock.unbusy()

        async def enters() -> None:
            if await kmap.lock.lock_try():
                await kmap.lock.unlock()

        k.spawn(marks, name="marks")
        k.spawn(enters, name="enters")

    found = [ending for ending in every(build) if ending.kind is not None]
    assert kinds(found) == {"invariant"}
    assert {ending.text for ending in found} == {
        "kmap: G13 busy: enters has the write lock, and marks has marked the map busy (in VmMap._hold)"
    }


def test_unlocking_a_map_that_another_has_marked_is_found_when_the_lock_does_not_say_so() -> None:
    def build(k: Kernel) -> None:
        kmap = netbsd.setup(k, 4)

        async def breaks_in() -> None:
            await kmap.lock.lock()
            kmap.lock.busy_thread = 1
            kmap.check()

        async def other() -> None:
            """Only there to be named."""

        k.spawn(breaks_in, name="breaks_in")
        k.spawn(other, name="other")

    text = "kmap: G22 unlocked busy: breaks_in has the write lock, and other has marked the map busy (in VmMap._hold)"
    assert {(ending.kind, ending.text) for ending in every(build)} == {("invariant", text)}


def test_the_map_is_not_locked_with_misc_lock_held() -> None:
    with One() as one:
        one.now(one.kmap.lock.misc_lock.lock())
        with pytest.raises(Panic, match=r"G20 lock order: .* while it held kmap\.misc_lock"):
            one.now(one.kmap.lock.lock())


@pytest.mark.parametrize("parent_first", [False, True])
def test_a_map_and_its_submap_are_not_locked_together(*, parent_first: bool) -> None:
    with One() as one:
        sub = one.now(netbsd.uvm_km_suballoc(one.kmap, 0, PAGE, name="sub"))
        first, second = (one.kmap, sub) if parent_first else (sub, one.kmap)
        one.now(first.lock.lock())
        with pytest.raises(Panic, match=rf"{second.name}: G20 lock order: .* together with {first.name}"):
            one.now(second.lock.lock())


class NoLimit(netbsd.VmMap):
    """The wait for addresses without its second."""

    async def sleep_for_va(self, hint: int, size: int, align: int, flags: int) -> None:  # noqa: ARG002
        await self.lock.cv.wait(self.lock.misc_lock, wmesg="addresses")


class NoLimitAndFlagOnly(NoLimit):
    """And without the timestamp in its condition."""

    async def unchanged_since(self, timestamp: int) -> bool:  # noqa: ARG002
        return bool(await self.flags.load() & netbsd.VM_MAP_WANTVA)


@pytest.mark.parametrize(("cls", "broken"), [(NoLimit, False), (NoLimitAndFlagOnly, True)])
def test_who_sleeps_without_a_limit_must_have_looked_since_the_map_was_locked(
    cls: type[netbsd.VmMap], *, broken: bool
) -> None:
    def build(k: Kernel) -> None:
        kmap = netbsd.submap(k, 2, cls=cls)
        kmap.fill()

        async def waits() -> None:
            await netbsd.uvm_km_alloc(kmap, PAGE, 0, VAONLY | netbsd.UVM_KMF_WAITVA)

        async def fails() -> None:
            await netbsd.uvm_km_alloc(kmap, PAGE, 0, VAONLY | netbsd.UVM_KMF_NOWAIT)
            await kmap.lock.lock()
            await kmap.lock.unlock()

        k.spawn(waits, name="waits")
        k.spawn(fails, name="fails")

    texts = {ending.text for ending in explore(build, 1_500, max_steps=500) if ending.kind == "invariant"}
    if broken:
        who = "waits sleeps without a limit, and had not looked since the map was last locked"
        assert texts == {f"kmap: G19 waiters: {who} (in VmMap._hold)"}
    else:
        assert texts == set()


# ---------------------------------------------------------------- one look, and many


def test_one_look_never_misses_what_a_named_check_sees() -> None:
    """After damage the quick look says no; without it, it says yes, on maps of every sort."""
    for damage in (None, torn, smaller, gone_hint, no_object, no_type, offset_alone, grown, stamped):
        with One(flags=PAGEABLE) as one:
            one.map(1, 2)
            one.map(8, 1, flags=NOMERGE)
            one.now(netbsd.uvm_map(one.kmap, one.at(10), PAGE, flags=FIXED | netbsd.UVM_FLAG_COPYONW))
            one.now(netbsd.uvm_km_suballoc(one.kmap, one.at(11), PAGE))
            one.now(one.kmap.lock.lock())
            one.kmap.check()
            if damage is None:
                continue
            one.now(one.kmap.lock.unlock())
            damage(one)
            wrong = [name for name, holds in netbsd.INVARIANTS.items() if holds(one.kmap) is not None]
            assert wrong
            with pytest.raises(Panic, match="kmap: G"):
                one.kmap.check()
