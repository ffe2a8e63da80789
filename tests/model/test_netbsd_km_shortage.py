"""uvm_km_alloc when pages are short at any point: nothing leaks, and whoever waits is served.

Every allocation of a page is made to fail in turn, and every pair of them; an injected failure looks like a real one.
"""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

import pytest

from stressvm.conform.lone import LoneThread
from stressvm.vm import netbsd
from stressvm.vm.pages import PageObject, PageQueue, Shortage, Swap, UvmPages, any_pair
from tests.support import explore

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from stressvm import Kernel, Thread

PAGE = netbsd.PAGE_SIZE
WIRED = netbsd.UVM_KMF_WIRED
PAGEABLE = netbsd.UVM_KMF_PAGEABLE
NOWAIT = netbsd.UVM_KMF_NOWAIT
CANFAIL = netbsd.UVM_KMF_CANFAIL
WAITVA = netbsd.UVM_KMF_WAITVA
ZERO = netbsd.UVM_KMF_ZERO
VERSIONS = pytest.mark.parametrize("version", netbsd.VERSIONS)

PAGES = 4
#: Every allocation of a call for so many pages, alone and in pairs; more than it makes without any failure.
POINTS = [(n,) for n in range(1, PAGES + 1)] + list(combinations(range(1, PAGES + 3), 2))


class One(LoneThread):
    """A map of eight pages over memory, one thread, and nothing to reclaim."""

    def __init__(self, version: str, at: Collection[int]) -> None:
        super().__init__()
        self.uvm = UvmPages(
            self.k, 32, reserve_pagedaemon=1, reserve_kernel=2, shortage=Shortage(at=at, most=len(at), certain=True)
        )
        self.uvm.fill(PageObject(self.k, "old"), 16, queue=PageQueue.ACTIVE)
        self.memory = netbsd.Memory(self.uvm)
        self.kmap = netbsd.setup(self.k, 8, version=version, memory=self.memory, options=netbsd.Options.DIAGNOSTIC)
        self.start()

    def alloc(self, pages: int, flags: int) -> int:
        va: int = self.now(netbsd.uvm_km_alloc(self.kmap, pages * PAGE, 0, flags))
        return va

    def free(self, va: int, pages: int, kind: int) -> None:
        self.now(netbsd.uvm_km_free(self.kmap, va, pages * PAGE, kind))

    def state(self) -> tuple[object, ...]:
        """All that a failing call must leave as it was."""
        found = self.memory.pmap.translations(self.kmap.min_offset, self.kmap.max_offset)
        return (
            self.uvm.free.peek(),
            self.uvm.loose,
            self.kmap.size,
            [(entry.start, entry.end) for entry in self.kmap.entries],
            [(one.va, one.pa) for one in found],
            sorted(self.memory.ledger.granted),
        )


@VERSIONS
@pytest.mark.parametrize("flags", [NOWAIT, CANFAIL, NOWAIT | CANFAIL], ids=["nowait", "canfail", "both"])
@pytest.mark.parametrize("first", range(1, PAGES + 1))
def test_a_call_that_fails_leaves_everything_as_it_was(version: str, flags: int, first: int) -> None:
    one = One(version, at=(2 + first,))
    left = one.alloc(2, WIRED | NOWAIT)
    before = one.state()
    assert one.alloc(PAGES, WIRED | flags) == 0
    assert one.uvm.shortage is not None
    assert (one.uvm.shortage.struck, one.uvm.shortage.asked) == (1, 2 + first)
    assert one.state() == before
    va = one.alloc(PAGES, WIRED | flags)
    assert va == left + 2 * PAGE
    one.free(va, PAGES, WIRED)
    assert one.state() == before
    one.free(left, 2, WIRED)
    assert one.kmap.size == one.uvm.loose == 0
    assert one.uvm.free.peek() == 16
    one.close()


def world(
    version: str, flags: int, shortage: Shortage | Callable[[], Shortage], *, reclaimable: bool, npages: int = 14
) -> Callable[[Kernel], None]:
    """Two threads allocate, use and free wired memory, a third pageable memory; the daemon runs. At the end all is free."""

    def build(k: Kernel) -> None:
        made = Shortage(shortage.at, most=shortage.most, certain=True) if isinstance(shortage, Shortage) else shortage()
        uvm = UvmPages(k, npages, reserve_pagedaemon=0, reserve_kernel=1, shortage=made)
        memory = netbsd.Memory(uvm)
        kmap = netbsd.setup(k, 16, version=version, flags=netbsd.VM_MAP_PAGEABLE, memory=memory)
        old = PageObject(k, "old", Swap(k, 8) if reclaimable else None)
        uvm.fill(old, 2, queue=PageQueue.INACTIVE)
        uvm.start_daemons()

        async def uses(kind: int, more: int, pages: int) -> None:
            va = await netbsd.uvm_km_alloc(kmap, pages * PAGE, 0, kind | more | WAITVA * (not more & NOWAIT))
            if not va:
                assert more & (NOWAIT | CANFAIL), "who neither hurries nor may fail gets what he asks for"
                k.record(did="failed")
                return
            for n in range(pages):
                page = await netbsd.kernel_access(kmap, va + n * PAGE, netbsd.VM_PROT_WRITE)
                page.write("mine")
            await netbsd.uvm_km_free(kmap, va, pages * PAGE, kind)
            k.record(did="served")

        async def check(others: list[Thread]) -> None:
            for other in others:
                await k.join(other)
            # The daemon may have a page in its hands.
            await k.delay(1)
            assert not uvm.loose, "pages are nobody's and not free"
            assert not memory.kernel_object.pages.resident, "the kernel object has pages"
            assert not list(kmap.entries), "addresses are left"
            assert not memory.ledger.granted
            assert not memory.ledger.wired
            assert not list(memory.pmap.translations(kmap.min_offset, kmap.max_offset))

        threads = [k.spawn(uses, WIRED, flags, 3, name=f"wired{n}") for n in range(2)]
        threads.append(k.spawn(uses, PAGEABLE, 0, 2, name="pageable"))
        k.spawn(check, threads, name="check")

    return build


@VERSIONS
@pytest.mark.parametrize("flags", [0, NOWAIT, CANFAIL, ZERO], ids=["wait", "nowait", "canfail", "zero"])
def test_a_shortage_at_any_point_and_at_any_two(version: str, flags: int) -> None:
    came: set[str] = set()
    for at in POINTS:
        for ending in explore(world(version, flags, Shortage(at), reclaimable=True), 6, seed=sum(at)):
            assert ending.kind is None, (at, ending.text)
            came.update(did.split()[1] for did in ending.said)
    assert came == ({"served", "failed"} if flags == NOWAIT else {"served"})


@VERSIONS
def test_a_shortage_with_nothing_to_reclaim_and_pages_too_few_for_all(version: str) -> None:
    """Six pages for eight: somebody must wait until another is done, and the daemon finds nothing.

    With one page less all three could have a part of theirs, and wait for each other for ever.
    """
    endings = explore(world(version, 0, any_pair, reclaimable=False, npages=9), 300, max_steps=20_000)
    assert {(ending.kind, ending.text) for ending in endings} == {(None, "")}
    assert sum("uvmexp.free" in {step[2] for step in ending.steps if step[1] == "sleep"} for ending in endings) > 30
