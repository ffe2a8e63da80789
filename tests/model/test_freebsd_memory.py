"""FreeBSD's memory under concurrency, and against a dictionary: what is read is what was written, and nothing is left.

Each program ends with every process gone, every page free, every reference given back. Allocations fail one after the
other, by injection; who waits for pages or addresses gets them when there are some.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest

from stressvm.bench.defects.freebsd_memory_programs import (
    cow_in_two_threads,
    cow_on_two_processors,
    fault_and_fork,
    fault_and_protect,
    fault_and_remove,
    fault_and_wire,
    kernel_memory,
    remap_during_io,
    remove_during_io,
    remove_what_is_wired,
    short_of_pages,
    two_faults,
    wire_cow_and_protect,
)
from stressvm.bench.defects.freebsd_memory_world import LOW, PAGE, RW, MemoryWorld, R, kernel
from stressvm.vm import freebsd
from stressvm.vm.freebsd import M_NOWAIT, M_WAITOK, M_ZERO
from stressvm.vm.pages import PageObject, PageQueue, Shortage, Swap, any_pair, no_shortage, nth_allocation
from stressvm.vm.pmap import FreeBSDPmap
from tests.freebsd_lone import closing
from tests.freebsd_memory import LoneMemory
from tests.support import explore, kinds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from stressvm import Kernel

    Program = Callable[..., None]

PROGRAMS: list[Program] = [
    two_faults,
    fault_and_remove,
    fault_and_protect,
    fault_and_fork,
    cow_on_two_processors,
    cow_in_two_threads,
    fault_and_wire,
    wire_cow_and_protect,
    remap_during_io,
    remove_during_io,
    short_of_pages,
    remove_what_is_wired,
    kernel_memory,
]
BOTH = pytest.mark.parametrize("version", ["13", "2013"])


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield from closing()


@BOTH
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_what_faults_meet_does_no_harm(program: Program, version: str) -> None:
    """10.4 is given 13's pmap: with its own, two processors may see two pages, which is a finding of its own."""
    kw: dict[str, Any] = {"pmap": FreeBSDPmap} if program is not kernel_memory else {}
    endings = explore(lambda k: program(k, version=version, **kw), 250)
    assert kinds(endings) == {None}, next(ending.text for ending in endings if ending.kind)


# ---------------------------------------------------------------- shortage, one allocation after the other


def everything_that_allocates(k: Kernel, version: str, shortage: Shortage) -> None:
    """Zeros, a file's page, a copy, wired pages, a fork of wired pages, pages that become writable, a shadow's page."""
    world = MemoryWorld(k, 24, version, daemon=True, shortage=shortage, pmap=FreeBSDPmap)
    space = world.space(2)
    file = freebsd.VmObject(2, pager=freebsd.Pager("file"))
    cow, end = freebsd.MAP_COPY_ON_WRITE, LOW + 4 * PAGE
    assert space.map.insert(file, 0, LOW + 2 * PAGE, end, R, RW, cow) == 0
    space.now.update({2: "file:0", 3: "file:1"})

    async def all_of_it() -> None:
        assert await space.write(0, "zero") == 0
        assert await space.read(2) == (0, "file:0")
        assert await space.wire(0, 1) == 0
        assert await space.wire(2, 4) == 0
        assert await space.protect(2, 4, RW) == 0
        assert await space.write(3, "copied") == 0
        child = await space.fork()
        assert child is not None
        assert await child.read(0) == (0, "zero")
        assert await space.unwire(0, 1) == 0
        other = await space.fork()
        assert other is not None
        assert await other.write(0, "other") == 0
        assert await space.read(0) == (0, "zero")

    world.spawn(all_of_it)
    world.end()


def allocations(build: Callable[[Kernel, Shortage], None]) -> int:
    """How many there are if none fails."""
    counted: list[Shortage] = []

    def counting(k: Kernel) -> None:
        counted.append(no_shortage())
        build(k, counted[-1])

    assert kinds(explore(counting, 1)) == {None}
    return counted[-1].asked


@BOTH
def test_whichever_page_is_missing_to_a_fault_it_waits_and_nothing_is_lost(version: str) -> None:
    total = allocations(lambda k, shortage: everything_that_allocates(k, version, shortage))
    assert total >= 8
    for nth in range(1, total + 1):
        struck: list[Shortage] = []
        endings = explore(striking(version, nth, struck), 8)
        assert kinds(endings) == {None}, (nth, next(ending.text for ending in endings if ending.kind))
        assert {shortage.struck for shortage in struck} == {1}, nth


def striking(version: str, nth: int, struck: list[Shortage]) -> Callable[[Kernel], None]:
    """The n-th allocation fails."""

    def build(k: Kernel) -> None:
        struck.append(nth_allocation(nth))
        everything_that_allocates(k, version, struck[-1])

    return build


@BOTH
def test_or_any_two(version: str) -> None:
    endings = explore(lambda k: everything_that_allocates(k, version, any_pair()), 150)
    assert kinds(endings) == {None}, next(ending.text for ending in endings if ending.kind)


@BOTH
@pytest.mark.parametrize("page_tables", [False, True])
def test_whichever_page_is_missing_to_kmem_malloc(version: str, page_tables: bool) -> None:  # noqa: FBT001
    """Who may not wait gets nothing and keeps nothing; who may wait gets all of it."""

    def build(k: Kernel, shortage: Shortage, flags: int = M_WAITOK) -> None:
        kmem = kernel(k, 16, version, shortage=shortage, page_tables=page_tables)
        kmem.phys.start_daemon()

        async def user() -> None:
            addr = await freebsd.kmem_malloc(kmem, 3 * PAGE, flags | M_ZERO)
            assert bool(addr) == (flags == M_WAITOK)
            if addr:
                await freebsd.kmem_free(kmem, addr, 3 * PAGE)
            assert kmem.arena.inuse == kmem.pmap.resident_count == kmem.kernel_object.pages.resident == 0
            assert kmem.phys.wired == kmem.phys.loose, "page tables, if any"
            kmem.memory.audit()

        k.spawn(user)

    tables = 0 if not page_tables or version == "2013" else 3
    total = allocations(build)
    assert total == 3 + tables
    for nth in range(tables + 1, total + 1):
        for flags in (M_WAITOK, M_NOWAIT):
            endings = explore(_short(build, nth, flags), 8)
            assert kinds(endings) == {None}, (nth, next(ending.text for ending in endings if ending.kind))


def _short(build: Callable[..., None], nth: int, flags: int) -> Callable[[Kernel], None]:
    return lambda k: build(k, nth_allocation(nth), flags)


# ---------------------------------------------------------------- waiting


def all_pages_taken(k: Kernel, version: str, then: str) -> None:
    """Two threads want kernel memory, and all pages are in use: by an object that can be written to swap, or by kmem."""
    kmem = kernel(k, 8, version, map_pages=16, kmem_pages=8)
    phys = kmem.phys
    taken: list[int] = []
    if then == "daemon":
        phys.fill(PageObject(k, "old", Swap(k, 6)), 6, queue=PageQueue.INACTIVE)

    async def fill() -> None:
        if then == "free":
            taken.append(await freebsd.kmem_malloc(kmem, 6 * PAGE, M_WAITOK))
        threads = [k.spawn(user, name=f"user{n}") for n in range(2)]
        await k.yield_()
        for addr in taken:
            await freebsd.kmem_free(kmem, addr, 6 * PAGE)
        for thread in threads:
            await k.join(thread)
        kmem.memory.audit()

    async def user() -> None:
        addr = await freebsd.kmem_malloc(kmem, 2 * PAGE, M_WAITOK)
        assert addr
        await freebsd.kmem_free(kmem, addr, 2 * PAGE)

    phys.start_daemon()
    k.spawn(fill)


@BOTH
@pytest.mark.parametrize("then", ["daemon", "free"])
def test_who_waits_for_pages_gets_them(version: str, then: str) -> None:
    endings = explore(lambda k: all_pages_taken(k, version, then), 150)
    # 10.4's daemon can miss the call that wakes it, and wakes up by itself then (see stressvm.vm.pages).
    tolerated = {None} if version == "13" else {None, "rescued-sleep"}
    assert kinds(endings) <= tolerated, next(ending.text for ending in endings if ending.kind not in tolerated)


def addresses_taken(k: Kernel, version: str, *, periodic: bool = False, kernel_arena: bool = False) -> None:
    """All addresses are in use; one thread wants some, another gives some back. Pages there are enough."""
    kmem = kernel(k, 16, version, map_pages=6, kmem_pages=4)
    arena = kmem.kernel_arena if kernel_arena else None

    async def first() -> None:
        addr = await freebsd.kmem_malloc(kmem, 2 * PAGE, M_WAITOK, arena)
        while await freebsd.kmem_malloc(kmem, 2 * PAGE, M_NOWAIT, arena):
            pass
        thread = k.spawn(waits, name="waits")
        await k.yield_()
        await freebsd.kmem_free(kmem, addr, 2 * PAGE, arena)
        await k.join(thread)

    async def waits() -> None:
        assert await freebsd.kmem_malloc(kmem, 2 * PAGE, M_WAITOK, arena)

    if periodic:
        freebsd.vmem_start_callout(k)
    k.spawn(first)


@BOTH
def test_who_waits_for_addresses_gets_them(version: str) -> None:
    """10.4 sleeps in kmem_arena, which has nowhere to import from; 13 asks again and again."""
    endings = explore(lambda k: addresses_taken(k, version), 300)
    assert kinds(endings) == {None}
    slept = {
        kind for ending in endings for _, kind, name, _ in ending.steps if name.endswith("arena.cv") and kind == "sleep"
    }
    assert slept == ({"sleep"} if version == "2013" else set())


def test_what_is_freed_during_a_failing_import_is_missed_for_ten_seconds() -> None:
    """10.4's kernel arena: after a failed import nobody looks again before going to sleep."""
    found = explore(lambda k: addresses_taken(k, "2013", kernel_arena=True), 300)
    assert kinds(found) == {None, "lost-wakeup"}
    assert all("sleeps on kernel_arena.cv" in ending.text for ending in found if ending.kind)
    rescued = explore(lambda k: addresses_taken(k, "2013", kernel_arena=True, periodic=True), 300)
    assert kinds(rescued) == {None}


# ---------------------------------------------------------------- against a dictionary


class Random:
    """One thread does what comes to mind with a few processes; `Space` knows what each must read."""

    def __init__(self, version: str, seed: int, *, page_tables: bool) -> None:
        self.rng = random.Random(seed)
        self.one = LoneMemory(version, 72, mapped=6, page_tables=page_tables, pmap=FreeBSDPmap)
        file = freebsd.VmObject(4, pager=freebsd.Pager("file", missing={3}))
        self.one.insert(8, 12, file, prot=RW, cow=freebsd.MAP_COPY_ON_WRITE)
        self.one.space.now.update({page: f"file:{page - 8}" for page in (8, 9, 10)})
        self.one.begin()
        self.written = 0
        self.done: dict[str, int] = {}

    def step(self) -> None:
        one, rng = self.one, self.rng
        alive = [space for space in one.world.spaces if not space.gone]
        space = rng.choice(alive)
        words = ["write"] * 4 + ["read"] * 4 + ["protect", "remove", "remap", "wire", "unwire", "inherit"]
        words += ["fork"] if len(alive) < 3 and one.free > 40 else []
        words += ["exit"] if len(alive) > 1 else []
        word = rng.choice(words)
        self.done[word] = self.done.get(word, 0) + 1
        page = rng.randrange(12)
        end = min(page + rng.randrange(1, 4), 12)
        if word == "write":
            self.written += 1
            one.now(space.write(page, f"text {self.written}"))
        elif word == "read":
            one.now(space.read(page))
        elif word == "fork":
            child = one.now(space.fork())
            assert child is not None
            child.readonly = set(space.readonly)
        elif word == "exit":
            one.now(space.exit())
        elif word == "protect":
            one.now(space.protect(page, end, rng.choice([freebsd.VM_PROT_NONE, R, RW, RW])))
        elif word == "remove":
            if not self.system_wired(space, page, end):
                assert one.now(space.remove(page, end)) == 0
        elif word == "remap":
            self.remap(space, page, end)
        elif word == "inherit":
            what = rng.choice([freebsd.VM_INHERIT_COPY, freebsd.VM_INHERIT_NONE])
            one.now(freebsd.vm_map_inherit(space.map, space.at(page), space.at(end), what))
        elif one.free > 24:
            one.now(getattr(space, word)(page, end))

    def system_wired(self, space: Any, page: int, end: int) -> bool:
        return any(
            entry.system_wired_count
            for entry in space.map.entries
            if entry.start < space.at(end) and entry.end > space.at(page)
        )

    def remap(self, space: Any, page: int, end: int) -> None:
        if any(entry.start < space.at(end) and entry.end > space.at(page) for entry in space.map.entries):
            return
        assert self.one.now(space.remap(page, end)) == 0
        space.readonly.difference_update(range(page, end))

    def look(self) -> None:
        """Every page of every process, with what it must hold."""
        for space in self.one.world.spaces:
            for page in range(12) if not space.gone else ():
                self.one.now(space.read(page))


@BOTH
@pytest.mark.parametrize("seed", range(6))
def test_random_processes_read_what_they_wrote(version: str, seed: int) -> None:
    world = Random(version, seed, page_tables=bool(seed % 2))
    for number in range(250):
        world.step()
        if not number % 25:
            world.look()
    world.look()
    assert len(world.done) == 10
    world.one.finish()
