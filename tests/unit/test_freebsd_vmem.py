"""FreeBSD's vmem(9): what an arena gives, where from, and who is woken."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from stressvm import Kernel, Panic, UsageError
from stressvm.vm import freebsd
from stressvm.vm.freebsd import ENOMEM, M_BESTFIT, M_FIRSTFIT, M_NOWAIT, M_WAITOK, Vmem
from tests.freebsd_lone import Lone, closing
from tests.support import every, kinds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NOW, FIRST = M_NOWAIT | M_BESTFIT, M_NOWAIT | M_FIRSTFIT
BASE = 0x1000


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield from closing()


class LoneArena(Lone):
    """An arena with a quantum of 1, so that numbers are small."""

    def __init__(self, size: int = 100, **kw: Any) -> None:
        super().__init__()
        self.vm = Vmem(self.k, "arena", BASE, size, quantum=kw.pop("quantum", 1), import_quantum=16, **kw)
        self.begin()

    def alloc(self, size: int, flags: int = NOW) -> int | None:
        """Where, from the base; None for ENOMEM."""
        error, addr = self.now(freebsd.vmem_alloc(self.vm, size, flags))
        assert error in {0, ENOMEM}
        return None if error else addr - BASE

    def free(self, addr: int, size: int) -> None:
        self.now(freebsd.vmem_free(self.vm, addr + BASE, size))


# ---------------------------------------------------------------- what fits where


def test_what_is_allocated_is_disjoint_and_comes_back() -> None:
    one = LoneArena()
    assert [one.alloc(size) for size in (40, 60, 1)] == [0, 40, None]
    assert freebsd.vmem_size(one.vm) == (100, 0)
    one.free(0, 40)
    assert freebsd.vmem_size(one.vm) == (60, 40)
    assert one.alloc(41) is None
    assert one.alloc(40) == 0
    one.free(0, 40)
    one.free(40, 60)
    assert one.alloc(100) == 0, "what is free side by side is one"


def with_gaps() -> LoneArena:
    """Free are [0, 30), [40, 50) and [60, 80)."""
    one = LoneArena()
    for size in (30, 10, 10, 10, 20, 20):
        one.alloc(size)
    for addr, size in ((0, 30), (40, 10), (60, 20)):
        one.free(addr, size)
    return one


@pytest.mark.parametrize(
    ("size", "best", "first"),
    [(5, 40, 0), (10, 40, 0), (11, 60, 0), (20, 60, 0), (21, 0, 0), (30, 0, 0), (31, None, None)],
)
def test_best_fit_takes_the_smallest_block_and_first_fit_the_lowest(
    size: int, best: int | None, first: int | None
) -> None:
    assert with_gaps().alloc(size, NOW) == best
    assert with_gaps().alloc(size, FIRST) == first


def test_sizes_are_rounded_up_to_the_quantum() -> None:
    one = LoneArena(64, quantum=16)
    assert [one.alloc(size) for size in (1, 17, 16, 1)] == [0, 16, 48, None]
    one.free(16, 20)
    assert one.alloc(32) == 16


@pytest.mark.parametrize(("align", "found"), [(0, 3), (4, 4), (64, 64), (4096, None)])
def test_an_aligned_block_leaves_what_is_below_it(align: int, found: int | None) -> None:
    one = LoneArena()
    one.alloc(3)
    for flags in (NOW, FIRST):
        error, addr = one.now(freebsd.vmem_xalloc(one.vm, 8, flags, align))
        assert (None if error else addr - BASE) == found
        if found is not None:
            one.now(freebsd.vmem_xfree(one.vm, addr, 8))
    assert one.alloc(97) == 3


# ---------------------------------------------------------------- imports


def importing(one: LoneArena, *spans: int) -> list[int]:
    """Spans that it can import, each once, by address from the base; the sizes that it asked for."""
    asked: list[int] = []
    left = list(spans)

    async def importfn(size: int, flags: int, wanted: Callable[[], bool]) -> int | None:
        assert flags & M_NOWAIT
        assert not wanted()
        assert not one.vm.lock.owned(), "it may sleep"
        asked.append(size)
        return left.pop(0) + BASE if left else None

    one.vm.importfn = importfn
    return asked


def test_an_arena_without_room_imports_multiples_of_its_quantum() -> None:
    one = LoneArena(0)
    asked = importing(one, 1024, 2048)
    assert [one.alloc(size) for size in (10, 6, 17, 15, 1)] == [1024, 1034, 2048, 2065, None]
    assert asked == [16, 32, 16]
    one.free(1024, 10)
    assert one.alloc(11) is None, "spans are not joined"


def test_for_an_alignment_it_imports_more() -> None:
    one = LoneArena(0)
    asked = importing(one, 1000)
    assert one.now(freebsd.vmem_xalloc(one.vm, 8, NOW, 64)) == (0, BASE + 1024)
    assert asked == [8 + 2 * 64 + 8], "rounded up to 16"


def test_a_span_that_is_free_is_given_back_if_there_is_a_way() -> None:
    one = LoneArena(16)
    importing(one, 1024)
    given: list[tuple[int, int]] = []

    async def releasefn(addr: int, size: int) -> None:
        assert not one.vm.lock.owned()
        given.append((addr - BASE, size))

    one.vm.releasefn = releasefn
    assert [one.alloc(size) for size in (16, 4, 8)] == [0, 1024, 1028]
    one.free(1024, 4)
    assert given == []
    one.free(1028, 8)
    assert given == [(1024, 16)]
    one.free(0, 16)
    assert given == [(1024, 16)], "what it was given stays"
    assert freebsd.vmem_size(one.vm) == (0, 16)


def test_what_makes_room_is_called_and_looked_after_even_without_waiting() -> None:
    one = LoneArena(10)
    kept = [one.alloc(10)]

    async def reclaimfn(flags: int) -> None:
        assert flags & M_NOWAIT
        if kept:
            kept.pop()
            await freebsd.vmem_free(one.vm, BASE, 10)

    one.vm.reclaimfn = reclaimfn
    assert one.alloc(4) == 0
    assert one.alloc(7) is None


# ---------------------------------------------------------------- quantum caches


def test_small_sizes_are_cached_and_drained_when_there_is_no_room() -> None:
    one = LoneArena(8, qcache_max=2)
    assert [one.alloc(size) for size in (2, 2, 1, 3)] == [0, 2, 4, 5]
    for addr, size in ((0, 2), (2, 2), (4, 1)):
        one.free(addr, size)
    assert freebsd.vmem_size(one.vm) == (8, 0), "what is cached is busy"
    assert one.alloc(2) == 2, "the latest"
    assert one.alloc(2) == 0
    one.free(0, 2)
    one.free(2, 2)
    assert one.alloc(5) == 0, "all caches were drained"
    assert one.alloc(1) is None
    one.free(5, 3)
    assert one.alloc(3) == 5, "larger ones are not cached"


# ---------------------------------------------------------------- misuse


@pytest.mark.parametrize("flags", [0, M_NOWAIT, M_BESTFIT, NOW | M_WAITOK, NOW | M_FIRSTFIT])
def test_flags_that_say_nothing_or_both_are_a_panic(flags: int) -> None:
    one = LoneArena()
    with pytest.raises(Panic, match="MPASS: arena: flags"):
        one.alloc(1, flags)


@pytest.mark.parametrize(("size", "align"), [(0, 0), (1, 3)])
def test_no_size_and_no_power_of_two_are_a_panic(size: int, align: int) -> None:
    one = LoneArena()
    with pytest.raises(Panic, match="MPASS"):
        one.now(freebsd.vmem_xalloc(one.vm, size, NOW, align))


@pytest.mark.parametrize(("addr", "size"), [(0, 3), (1, 4), (4, 4), (200, 4)])
def test_to_free_what_was_not_allocated_so_is_a_panic(addr: int, size: int) -> None:
    one = LoneArena()
    one.alloc(4)
    with pytest.raises(Panic, match="vmem_xfree: MPASS"):
        one.free(addr, size)


def test_a_span_that_is_there_already_is_a_panic() -> None:
    one = LoneArena(16)
    importing(one, 8)
    one.alloc(16)
    with pytest.raises(Panic, match="is no new span"):
        one.alloc(1)


def test_a_quantum_that_is_no_power_of_two_is_refused() -> None:
    one = Lone()
    for wrong in ({"quantum": 3}, {"qcache_max": 5}, {"import_quantum": 100}):
        with pytest.raises(UsageError, match="a power of two, and multiples of it"):
            Vmem(one.k, "wrong", **{"quantum": 16, "qcache_max": 0, "import_quantum": 16, **wrong})
    one.start()
    one.close()


def test_books_that_do_not_add_up_are_a_violation() -> None:
    one = LoneArena()
    one.vm.inuse += 1
    with pytest.raises(Panic, match="arena: vmem: 0x5 of 0x64 bytes are counted as busy, and 0x4 of 0x64 are"):
        one.alloc(4)


# ---------------------------------------------------------------- waiting


def waiting(frees: int, size: int = 10) -> Callable[[Kernel], None]:
    """An arena of 10 that is full; one waits for `size`, another frees the first `frees`, then the rest."""

    def build(k: Kernel) -> None:
        vm = Vmem(k, "arena", BASE, 10, quantum=1)
        addrs = [vm.take(1, NOW, 1) for _ in range(10)]

        async def waits() -> None:
            error, addr = await freebsd.vmem_alloc(vm, size, M_WAITOK | M_BESTFIT)
            k.record(did=(error, addr - BASE))

        async def free() -> None:
            for addr in addrs[:frees]:
                assert addr is not None
                await freebsd.vmem_free(vm, addr, 1)

        k.spawn(waits, name="waits")
        k.spawn(free, name="free")

    return build


@pytest.mark.parametrize(("frees", "size"), [(1, 1), (2, 2), (3, 2)])
def test_who_may_wait_gets_it_when_there_is_room(frees: int, size: int) -> None:
    endings = every(waiting(frees, size))
    assert kinds(endings) == {None}
    assert {ending.said for ending in endings} <= {
        ("waits (0, 0)",),
        ("waits (0, 1)",),
    }


def test_and_waits_for_ever_if_there_never_is() -> None:
    endings = every(waiting(2, 3))
    assert kinds(endings) == {"exhausted"}


def two_arenas(k: Kernel) -> None:
    """One imports from the other, and waits there; what is freed into the first one wakes nobody in the second."""
    parent = Vmem(k, "parent", BASE, 10, quantum=1)
    child = Vmem(k, "child", quantum=1, import_quantum=1)

    async def importfn(size: int, flags: int, wanted: Callable[[], bool]) -> int | None:
        error, addr = await freebsd.vmem_xalloc(parent, size, flags, 0, wanted)
        return None if error else addr

    child.importfn = importfn

    async def has_it() -> None:
        _, addr = await freebsd.vmem_alloc(child, 10, M_WAITOK | M_BESTFIT)
        thread = k.spawn(wants, name="wants")
        await k.yield_()
        await freebsd.vmem_free(child, addr, 10)
        await k.join(thread)

    async def wants() -> None:
        await freebsd.vmem_alloc(child, 10, M_WAITOK | M_BESTFIT)

    k.spawn(has_it)


def test_an_import_that_may_wait_waits_where_nobody_frees() -> None:
    endings = every(two_arenas)
    assert kinds(endings) == {None, "lost-wakeup"}
    assert all("wants sleeps on parent.cv" in ending.text for ending in endings if ending.kind)


def test_who_may_not_sleep_may_not_wait() -> None:
    def build(k: Kernel) -> None:
        vm = Vmem(k, "arena", BASE, 10, quantum=1)

        async def handler() -> None:
            await freebsd.vmem_alloc(vm, 1, M_WAITOK | M_BESTFIT)

        k.spawn(handler, interrupt=True)

    assert kinds(every(build)) == {"sleep-rule"}
