"""Map calls are judged by what they promise when made one after the other: the maps keep it, planted mistakes do not."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from stressvm import Kernel, UsageError
from stressvm.check.history import Call, History
from stressvm.check.linearizability import Answer, judge_histories, linearize
from stressvm.vm import freebsd, netbsd
from stressvm.vm.linear import FreeBSDSpecification, NetBSDSpecification, Request, first_fit, joined, without
from tests.model.flat import Flat
from tests.model.flat import joined as flat_joined
from tests.traces import Traced, walked

if TYPE_CHECKING:
    from collections.abc import Callable

    from stressvm.check.verdict import Verdict

    Build = Callable[[Kernel], None]

PAGE = netbsd.PAGE_SIZE
VAONLY = netbsd.UVM_KMF_VAONLY
NOWAIT, WAITVA, TRYLOCK, CANFAIL = (
    netbsd.UVM_KMF_NOWAIT,
    netbsd.UVM_KMF_WAITVA,
    netbsd.UVM_KMF_TRYLOCK,
    netbsd.UVM_KMF_CANFAIL,
)


def judged(build: Build, n: int, seed: int = 1) -> list[Verdict]:
    """The findings in the first executions of a random walk; executions that end badly for other reasons count, too."""
    return [found for one in walked(build, n, seed) if (found := judge_histories(one.k)) is not None]


def returned(one: Traced) -> int:
    """How many calls an execution has made and come back from."""
    return sum(op.kind == "return" for _, op, _ in one.trace)


# ---------------------------------------------------------------- the flat state


@pytest.mark.parametrize("seed", range(20))
def test_first_fit_is_that_of_a_plain_list(seed: int) -> None:
    rng = Random(seed)
    low, high = rng.choice((0, 5)), 40
    flat = Flat(low, high)
    taken: tuple[tuple[int, int], ...] = ()
    for _ in range(60):
        size = rng.randrange(1, 7)
        if rng.random() < 0.3:
            start = rng.randrange(low, high - size)
            flat.drop(start, size)
            taken = without(taken, start, start + size)
        else:
            hint, align, bound = rng.randrange(0, 45), rng.choice((1, 1, 2, 4, 8)), rng.choice((0, 0, 30))
            fixed = rng.random() < 0.2
            place = first_fit(
                taken, low, high, Request(hint, size, 1 if fixed else align, fixed, 0 if fixed else bound)
            )
            if fixed:
                assert place == (hint if flat.free(hint, size) else None)
            else:
                assert place == flat.first_fit(hint, size, align, 0, bound)
            if place is not None:
                flat.take(place, size)
                taken = joined([*taken, (place, place + size)])
        assert list(taken) == flat_joined(flat.taken) == flat.taken


# ---------------------------------------------------------------- the maps keep it


def netbsd_world(seed: int, version: str, cls: type[netbsd.VmMap] = netbsd.VmMap) -> Build:
    """Three threads that allocate and free in two small maps, in all the ways there are."""

    def build(k: Kernel) -> None:
        rng = Random(seed)
        maps = [netbsd.submap(k, pages=5, name=f"map{n}", version=version, cls=cls) for n in range(2)]
        maps[0].fill(1, offset=2)
        history = History(k, NetBSDSpecification(*maps), "maps")

        async def thread(plan: list[tuple[int, int, int, int, int]]) -> None:
            mine: list[tuple[netbsd.VmMap, int, int]] = []
            for which, pages, align, flags, what in plan:
                kmap, size = maps[which], pages * PAGE
                if what == 0:
                    va = await history.do(netbsd.uvm_km_alloc, kmap, size, align * PAGE, VAONLY | flags)
                elif what == 1:
                    at = kmap.min_offset + align * PAGE
                    place = netbsd.UVM_FLAG_FIXED * (align == 1)
                    _, va = await history.do(netbsd.uvm_map, kmap, at, size, flags=flags & ~CANFAIL | place)
                elif mine:
                    kmap, va, size = mine.pop()
                    if what == 2:
                        await history.do(netbsd.uvm_km_free, kmap, va, size, VAONLY)
                    else:
                        await history.do(netbsd.uvm_unmap, kmap, va, va + size)
                    va = 0
                else:
                    va = 0
                if va:
                    mine.append((kmap, va, size))

        for _ in range(3):
            k.spawn(
                thread,
                [
                    (
                        rng.randrange(2),
                        rng.randrange(1, 4),
                        rng.choice((0, 0, 1, 2)),
                        rng.choice((NOWAIT, CANFAIL, TRYLOCK, 0, NOWAIT | TRYLOCK)),
                        rng.choice((0, 0, 1, 2, 2, 3)),
                    )
                    for _ in range(4)
                ],
            )

    return build


@pytest.mark.parametrize("version", ["6", "5.2"])
@pytest.mark.parametrize("seed", range(12))
def test_netbsd_s_maps_keep_it(version: str, seed: int) -> None:
    build = netbsd_world(seed, version)
    ones = walked(build, 12)
    assert [judge_histories(one.k) for one in ones] == [None] * 12
    # Nothing keeps these from their ends: nobody waits.
    assert [one.verdict for one in ones] == [None] * 12
    assert sum(returned(one) for one in ones) > 30


def freebsd_world(seed: int, version: str, search: freebsd.Search = freebsd.Search.FIRST_FIT) -> Build:
    """Three threads in a small map, by both pairs of calls."""

    def build(k: Kernel) -> None:
        rng = Random(seed)
        vm_map = freebsd.exec_map(k, pages=6, version=version, search=search)
        vm_map.fill(1, offset=2)
        history = History(k, FreeBSDSpecification(vm_map), "map")

        async def thread(plan: list[tuple[int, int, int]]) -> None:
            mine: list[tuple[int, int]] = []
            for pages, hint, what in plan:
                size = pages * PAGE
                va = 0
                if what == 0:
                    _, va = await history.do(
                        freebsd.vm_map_find, vm_map, None, 0, vm_map.min_offset + hint * PAGE, size
                    )
                elif what == 1 and not mine:
                    va = await history.do(freebsd.kmap_alloc_wait, vm_map, size)
                elif mine:
                    va, size = mine.pop()
                    if what == 2:
                        await history.do(freebsd.kmap_free_wakeup, vm_map, va, size)
                    else:
                        await history.do(freebsd.vm_map_remove, vm_map, va, va + size)
                    va = 0
                if va:
                    mine.append((va, size))
            for va, size in mine:
                await history.do(freebsd.kmap_free_wakeup, vm_map, va, size)

        for _ in range(3):
            k.spawn(
                thread,
                [(rng.randrange(1, 4), rng.choice((0, 0, 3)), rng.choice((0, 0, 1, 2, 3))) for _ in range(4)],
            )

    return build


@pytest.mark.parametrize("version", ["13", "2013"])
@pytest.mark.parametrize("seed", range(12))
def test_freebsd_s_maps_keep_it(version: str, seed: int) -> None:
    ones = walked(freebsd_world(seed, version), 12)
    assert [judge_histories(one.k) for one in ones] == [None] * 12
    # Somebody may wait for addresses that are freed without a word, or never.
    assert {one.verdict.kind for one in ones if one.verdict is not None} <= {"lost-wakeup", "exhausted"}
    assert sum(returned(one) for one in ones) > 50


def test_a_search_that_misses_the_last_gap_does_not() -> None:
    """13's search does not see the gap after the last entry in some trees: NO_SPACE beside free addresses."""
    found = [one for seed in range(12) for one in judged(freebsd_world(seed, "13", freebsd.Search.SPLAY), 12)]
    assert {one.sites for one in found} == {("map vm_map_find", "failed with room")}
    assert "exec_map has room for" in found[0].text


# ---------------------------------------------------------------- planted mistakes


class LastFit(netbsd.VmMap):
    """The highest place in place of the lowest."""

    def findspace(self, hint: int, size: int, align: int = 0, flags: int = 0) -> int | None:
        if flags & netbsd.UVM_FLAG_FIXED or align:
            return super().findspace(hint, size, align, flags)
        place = self.entries.last_fit(size, self.max_offset - size, bound=self.max_offset)
        return place if place is not None and place >= hint else None


class NotNow(netbsd.VmMap):
    """Who must not wait for addresses does not wait for the lock, either: a failure beside free addresses.

    One call at a time never shows it.
    """

    async def lock_for_prepare(self, flags: int) -> bool:
        return await super().lock_for_prepare(flags | (TRYLOCK if flags & NOWAIT else 0))

    async def prepare(self, hint: int, size: int, align: int, flags: int) -> tuple[int, int]:
        error, va = await super().prepare(hint, size, align, flags)
        return netbsd.ENOMEM if error == netbsd.EAGAIN else error, va


class OnePageMore(netbsd.VmMap):
    """Unmaps a page too many, somebody else's."""

    async def remove(self, start: int, end: int, flags: int = 0) -> list[netbsd.MapEntry]:
        return await super().remove(start, min(end + PAGE, self.max_offset), flags)


class GivesUp(netbsd.VmMap):
    """CANFAIL ends a wait, as one could read the manual."""

    async def wait_for_va(self, timestamp: int, hint: int, size: int, align: int, flags: int) -> bool:
        return await super().wait_for_va(timestamp, hint, size, align, flags & ~WAITVA)


def two(cls: type[netbsd.VmMap], *plans: str, pages: int = 4) -> Build:
    """Threads that allocate ("+2"), wait for it ("w2"), or free the first of what they have ("-")."""

    def build(k: Kernel) -> None:
        kmap = netbsd.submap(k, pages=pages, cls=cls)
        history = History(k, NetBSDSpecification(kmap), "kmap")

        async def thread(plan: str) -> None:
            mine: list[tuple[int, int]] = []
            for word in plan.split():
                if word == "-":
                    va, size = mine.pop(0)
                    await history.do(netbsd.uvm_unmap, kmap, va, va + size)
                    continue
                size = int(word[1:]) * PAGE
                flags = WAITVA if word[0] == "w" else NOWAIT
                error, va = await history.do(netbsd.uvm_map, kmap, kmap.min_offset, size, flags=flags)
                if not error:
                    mine.append((va, size))

        for plan in plans:
            k.spawn(thread, plan)

    return build


@pytest.mark.parametrize(
    ("cls", "plans", "kind"),
    [
        (LastFit, ("+1", "+1"), "not first fit"),
        (NotNow, ("+1", "+1"), "failed with room"),
        (OnePageMore, ("+1 +1 -", "+1 +1"), "overlap"),
        (GivesUp, ("+4", "w1"), "failed although it waits"),
    ],
)
def test_a_planted_mistake_is_told_as_what_it_is(cls: type[netbsd.VmMap], plans: tuple[str, ...], kind: str) -> None:
    found = judged(two(cls, *plans), 60)
    assert found
    assert kind in {one.sites[1] for one in found}
    assert {one.kind for one in found} == {"not-linearizable"}
    assert judged(two(netbsd.VmMap, *plans), 60) == []


def test_one_call_at_a_time_does_not_show_what_only_others_cause() -> None:
    assert judged(two(NotNow, "+1 +1 - +2"), 5) == []


def test_what_is_said_of_an_overlap() -> None:
    found = [one for one in judged(two(OnePageMore, "+1 +1 -", "+1 +1"), 60) if one.sites[1] == "overlap"]
    text = found[0].text
    assert text.startswith("kmap: thread")
    assert "is taken" in text
    assert "uvm_map(kmap, 0xc0000000, 4096, flags=" in text


# ---------------------------------------------------------------- what it refuses


def calls(*made: tuple[str, tuple[Any, ...], dict[str, Any], Any]) -> list[Call]:
    return [
        Call(0, name, args, kwargs, result, 2 * n, 2 * n + 1) for n, (name, args, kwargs, result) in enumerate(made)
    ]


def world(make: Callable[[Kernel], Any]) -> Any:
    """What can be made while a world is built."""
    from stressvm.explore.tape import Lenient

    k = Kernel()
    k.reset(Lenient(()))
    return make(k)


def test_maps_that_promise_something_else_are_refused() -> None:
    for make, text in (
        (lambda k: netbsd.setup(k, 4, flags=netbsd.VM_MAP_TOPDOWN), "searched from the top"),
        (
            lambda k: netbsd.setup(k, 64, version="5.2", flags=netbsd.VM_MAP_INTRSAFE, kmapent=True),
            "takes addresses for itself",
        ),
        (lambda k: netbsd.setup(k, 4, machine=netbsd.Machine(prefer=4 * PAGE)), "PMAP_PREFER"),
    ):
        vm_map = world(make)
        with pytest.raises(UsageError, match=text):
            NetBSDSpecification(vm_map)

    def clustering(k: Kernel) -> freebsd.VmMap:
        freebsd.sysctl(k).cluster_anon = 1
        return freebsd.setup(k, 4)

    with pytest.raises(UsageError, match="there is no first fit"):
        FreeBSDSpecification(world(clustering))
    with pytest.raises(UsageError, match="name the maps"):
        FreeBSDSpecification()


def test_calls_that_are_not_known_are_refused() -> None:
    kmap = world(lambda k: netbsd.submap(k, 4))
    other = world(lambda k: netbsd.submap(k, 4))
    spec = NetBSDSpecification(kmap)
    for name, args, text in (
        ("uvm_map_protect", (kmap,), "the specification knows uvm_km_alloc, uvm_km_free, uvm_map, uvm_unmap"),
        ("uvm_km_alloc", (kmap, PAGE, 0, netbsd.UVM_KMF_WIRED), "is about VAONLY"),
        ("uvm_km_free", (kmap, 0, PAGE, netbsd.UVM_KMF_PAGEABLE), "is about VAONLY"),
        ("uvm_unmap", (other, 0, PAGE), "is no map that the specification was made for"),
    ):
        with pytest.raises(UsageError, match=text):
            linearize(calls((name, args, {}, 0)), spec)


def test_arguments_by_name_and_by_place_are_the_same() -> None:
    kmap = world(lambda k: netbsd.submap(k, 4))
    spec = NetBSDSpecification(kmap)
    low = kmap.min_offset
    by_name = {"vm_map": kmap, "size": PAGE, "align": 0, "flags": VAONLY}
    right = calls(
        ("uvm_km_alloc", (kmap, PAGE + 1, 0, VAONLY), {}, low),
        ("uvm_km_alloc", (), by_name, low + 2 * PAGE),
        ("uvm_km_free", (kmap, low, 1), {"flags": VAONLY}, None),
        ("uvm_km_alloc", (), by_name, low),
    )
    assert linearize(right, spec).answer is Answer.LINEARIZABLE
    assert linearize(right[1:], spec).answer is Answer.BROKEN


def test_a_map_that_is_too_small_and_swap_that_is_short() -> None:
    def limited(k: Kernel) -> freebsd.VmMap:
        freebsd.ucred(k).limit = PAGE
        return freebsd.exec_map(k, 4)

    ample, short = world(lambda k: freebsd.exec_map(k, 4)), world(limited)
    spec = FreeBSDSpecification(ample, short)
    for vm_map, size, answer in (
        (ample, 5 * PAGE, Answer.LINEARIZABLE),
        (ample, 4 * PAGE, Answer.BROKEN),
        (short, 4 * PAGE, Answer.LINEARIZABLE),
    ):
        assert linearize(calls(("kmap_alloc_wait", (vm_map, size), {}, 0)), spec).answer is answer
