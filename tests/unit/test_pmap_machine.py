"""Processors, their TLBs, and threads that move between them; delayed invalidation; what the machine refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from stressvm import Kernel, Panic, UsageError
from stressvm.conform.lone import LoneThread
from stressvm.vm import pmap
from stressvm.vm.pmap import NBPDR, PAGE_SIZE, VM_PROT_EXECUTE, VM_PROT_READ, VM_PROT_RW, VM_PROT_WRITE
from tests.support import DRIVERS, every, explore, kinds, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

R, W, X, RW = VM_PROT_READ, VM_PROT_WRITE, VM_PROT_EXECUTE, VM_PROT_RW
USER, RAM = NBPDR, 8 * NBPDR
ANY = pytest.mark.parametrize("cls", [pmap.FreeBSDPmap, pmap.NetBSDPmap])


class World:
    """Two user pmaps of FreeBSD's, with a page each at USER; one thread."""

    def __init__(self, *, pcid: bool = False) -> None:
        self.lone = LoneThread()
        self.machine = pmap.Machine(self.lone.k, 2, pcid=pcid)
        self.one, self.two = (pmap.FreeBSDPmap(self.machine, name) for name in ("one", "two"))
        self.pages = [pmap.Frame(RAM + n * PAGE_SIZE) for n in range(4)]
        self.one.prefill(USER, self.pages[:1], RW)
        self.two.prefill(USER, self.pages[1:2], RW)
        self.now = self.lone.now
        self.lone.start()

    def seen(self) -> tuple[list[int], list[int]]:
        """How many translations each processor remembers, of the one pmap and of the two."""
        return [len(tlb.small) for tlb in self.one.tlbs], [len(tlb.small) for tlb in self.two.tlbs]


@pytest.fixture
def w() -> Iterator[World]:
    world = World()
    yield world
    world.lone.close()


# ------------------------------------------------------------ accesses


def test_the_first_access_walks_the_second_does_not(w: World) -> None:
    for _ in range(2):
        assert w.now(w.one.access(USER + 5, R)) is w.pages[0]
    stats = w.one.statistics()
    assert (stats.walks, stats.hits, stats.faults) == (1, 1, 0)


def test_a_walk_sets_the_bits_and_the_first_write_walks_again(w: World) -> None:
    w.now(w.one.access(USER, R))
    (found,) = w.one.translations(USER, USER + PAGE_SIZE)
    assert (found.accessed, found.modified) == (True, False)
    for _ in range(2):
        w.now(w.one.access(USER, W))
    (found,) = w.one.translations(USER, USER + PAGE_SIZE)
    assert (found.accessed, found.modified, w.one.walks, w.one.hits) == (True, True, 2, 1)


def test_faults_say_what_was_missing(w: World) -> None:
    assert w.now(w.one.access(USER + PAGE_SIZE, R)) == pmap.PageFault(USER + PAGE_SIZE, R, present=False)
    assert w.now(w.one.access(USER, X)) == pmap.PageFault(USER, X, present=True)
    assert w.one.faults == 2


def test_a_right_that_was_added_in_silence_is_seen_after_one_spurious_fault(w: World) -> None:
    w.now(w.one.enter(USER + PAGE_SIZE, w.pages[2], R, R))
    w.now(w.one.access(USER + PAGE_SIZE, R))
    w.now(w.one.enter(USER + PAGE_SIZE, w.pages[2], RW, R))
    assert w.now(w.one.access(USER + PAGE_SIZE, W)) == pmap.PageFault(USER + PAGE_SIZE, W, present=True, spurious=True)
    assert w.now(w.one.access(USER + PAGE_SIZE, W)) is w.pages[2]
    assert w.one.statistics().spurious_faults == 1


@ANY
def test_access_is_one_step_and_so_is_the_switch_to_another_pmap(cls: type[pmap.PmapCore]) -> None:
    lone = LoneThread()
    machine = pmap.Machine(lone.k, 1)
    one, two = (cls(machine, name) for name in ("one", "two"))
    lone.start()
    lone.now(one.access(USER, R))
    lone.now(one.access(USER, R))
    lone.now(two.activate())
    lone.now(two.access(USER, R))
    assert [(op.kind, op.obj.name) for _, op, _ in lone.k.trace] == [
        ("switch", "cpu0.one"),
        ("access", "cpu0.one"),
        ("access", "cpu0.one"),
        ("switch", "cpu0.two"),
        ("access", "cpu0.two"),
    ]
    assert machine.statistics().user_pmaps == ("two",)
    lone.close()


# ------------------------------------------------------------ threads and processors


def test_threads_run_on_the_processor_of_their_number_unless_pinned() -> None:
    def build(k: Kernel) -> None:
        machine = pmap.Machine(k, 3)
        machine.pin(1, 0)

        async def where() -> None:
            k.record(did=machine.cpu())
            await machine.migrate(2)
            k.record(did=machine.cpu())
            await machine.migrate(2)

        for number in range(5):
            k.spawn(where, name=f"t{number}")

    (ending,) = explore(build, 1)
    for number, cpu in enumerate((0, 0, 2, 0, 1)):
        assert [word for word in ending.said if word.startswith(f"t{number} ")] == [f"t{number} {cpu}", f"t{number} 2"]


def test_a_switch_forgets_the_other_pmap_and_a_migration_takes_the_pmap_along(w: World) -> None:
    w.now(w.one.access(USER, R))
    assert (w.seen(), w.one.active) == (([1, 0], [0, 0]), 1)
    w.now(w.two.access(USER, R))
    assert (w.seen(), w.one.active, w.two.active) == (([0, 0], [1, 0]), 0, 1)
    w.now(w.machine.migrate(1))
    assert (w.seen(), w.two.active, w.machine.statistics().user_pmaps) == (([0, 0], [0, 0]), 2, (None, "two"))
    w.now(w.machine.migrate(1))
    assert w.two.active == 2


def test_with_context_ids_it_remembers_until_somebody_says_otherwise() -> None:
    w = World(pcid=True)
    w.now(w.one.access(USER, R))
    w.now(w.two.access(USER, R))
    assert w.seen() == ([1, 0], [1, 0])
    w.now(w.one.access(USER, R))
    assert w.one.hits == 1
    w.now(w.two.activate())
    w.now(w.one.remove(USER, USER + PAGE_SIZE))
    assert (w.seen(), w.one.invalidations) == (([0, 0], [1, 0]), 0)
    w.lone.close()


def test_the_kernels_pmap_is_active_everywhere_and_is_one() -> None:
    lone = LoneThread()
    machine = pmap.Machine(lone.k, 3)
    kernel = pmap.NetBSDPmap(machine, "kernel", kernel=True, max_address=NBPDR, kernel_vm_end=NBPDR)
    assert (kernel.active, machine.kernel_pmap) == (7, kernel)
    with pytest.raises(UsageError, match="this machine has a kernel pmap already, kernel"):
        pmap.NetBSDPmap(machine, "another", kernel=True)


# ------------------------------------------------------------ what the machine refuses


def test_the_machine_of_a_kernel_is_made_once() -> None:
    lone = LoneThread()
    made = pmap.machine(lone.k, 3)
    assert pmap.machine(lone.k) is made
    assert pmap.machine(LoneThread().k).ncpu == 2
    with pytest.raises(UsageError, match="has one with 3 processors already"):
        pmap.machine(lone.k, 2)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda m: pmap.Machine(m.k, 0), "ncpu=0"),
        (lambda m: pmap.FreeBSDPmap(m, "p", min_address=5), "page aligned"),
        (lambda m: pmap.FreeBSDPmap(m, "p", min_address=NBPDR, max_address=NBPDR), "the second larger"),
        (lambda m: m.pin(0, 2), "processor 2"),
        (lambda m: m.md(RAM), "machine.add_page"),
        (lambda m: m.add_page(pmap.Frame(RAM + 1)), "page aligned"),
    ],
)
def test_wrong_use_is_told(make: Callable[[pmap.Machine], object], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        make(pmap.Machine(LoneThread().k, 2))


def test_there_is_one_page_at_an_address() -> None:
    machine = pmap.Machine(LoneThread().k, 2)
    page = pmap.Frame(RAM)
    assert machine.add_page(page) is machine.add_page(page)
    with pytest.raises(UsageError, match="two pages at 0x1000000"):
        machine.add_page(pmap.Frame(RAM))


# ------------------------------------------------------------ delayed invalidation


def test_whoever_waits_for_a_page_waits_for_all_blocks_that_have_touched_it() -> None:
    """In every interleaving: the daemon uses the page anew only after the range is out of all TLBs."""

    def build(k: Kernel) -> None:
        machine = pmap.Machine(k, 1)
        space = pmap.FreeBSDPmap(machine, "user")
        page = pmap.Frame(RAM)
        space.prefill(USER, [page], RW, W)

        async def unmap() -> None:
            await space.remove(USER, USER + NBPDR)

        async def daemon() -> None:
            await space.access(USER, W)
            await pmap.pmap_remove_all(machine, page)
            machine.assert_page_unused(page)
            k.record(did="used anew")

        k.spawn(unmap, name="unmap")
        k.spawn(daemon, name="daemon")

    endings = every(build)
    assert len(endings) > 50
    assert kinds(endings) == {None}
    assert any(kind == "di-wait" for ending in endings for _, kind, _, _ in ending.steps)


def test_a_block_that_ends_before_an_older_one_passes_its_number_on() -> None:
    lone = LoneThread()
    k = lone.k
    invl = pmap.DelayedInvl(k)
    md = pmap.Machine(k, 1).add_page(pmap.Frame(RAM))
    for _ in range(2):
        k.spawn(lone._nothing)
    k.cur = 0

    def as_thread(number: int, operation: Callable[[], object]) -> object:
        k.cur = number
        k.enabled = 1 << number
        return operation()

    for number in (0, 1):
        as_thread(number, lambda: lone.now(invl.start()))
    as_thread(1, lambda: invl.note(md))
    as_thread(1, lambda: lone.now(invl.finish()))
    assert (invl.gen, md.invl_gen, invl.holders()) == (0, 2, [0])
    as_thread(0, lambda: lone.now(invl.finish()))
    assert (invl.gen, invl.holders()) == (2, [])
    as_thread(1, lambda: lone.now(invl.wait(md)))
    for thread in k.threads:
        thread.coro.close()


def test_blocks_do_not_nest_and_end_where_they_began(w: World) -> None:
    invl = w.machine.invl
    w.now(invl.start())
    with pytest.raises(Panic, match="already in a block"):
        w.now(invl.start())
    with pytest.raises(Panic, match="not in a block"):
        w.now(pmap.DelayedInvl(w.lone.k).finish())


# ------------------------------------------------------------ schedules


@ANY
def test_both_drivers_do_the_same(cls: type[pmap.FreeBSDPmap | pmap.NetBSDPmap]) -> None:
    """The same steps in the same order, whoever does the switching."""

    def build(k: Kernel) -> None:
        machine = pmap.machine(k)
        space = cls(machine, "user")
        pages = [pmap.Frame(RAM + n * PAGE_SIZE) for n in range(2)]
        machine.add_pages(pages)

        async def work(number: int) -> None:
            va = USER + number * PAGE_SIZE
            if isinstance(space, pmap.FreeBSDPmap):
                await space.enter(va, pages[number], RW, W)
            else:
                await space.enter(va, pages[number].phys_addr, RW, W)
            await space.access(USER, R)
            await space.protect(USER, USER + 2 * PAGE_SIZE, R)
            await space.access(USER + PAGE_SIZE, W)

        for number in range(2):
            k.spawn(work, number)

    ends = [explore(build, 50, driver=driver) for driver in DRIVERS]
    assert [end.steps for end in ends[0]] == [end.steps for end in ends[1]]
    assert {end.kind for some in ends for end in some} == {None}
    assert len({end.steps for end in ends[0]}) > 20


def test_accesses_name_the_address_in_reports() -> None:
    def build(k: Kernel) -> None:
        space = pmap.FreeBSDPmap(pmap.machine(k), "user")
        space.prefill(USER, [pmap.Frame(RAM)], RW)
        k.spawn(space.access, USER, R)

    steps = [(record.kind, record.obj, record.arg) for record in run(build).records]
    assert steps == [("switch", "cpu0.user", None), ("access", "cpu0.user", USER)]
