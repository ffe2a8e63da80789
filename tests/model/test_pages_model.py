"""The three allocators against a model that only counts; and against each other under threads."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stressvm.conform.lone import LoneThread
from stressvm.vm import pages
from stressvm.vm.pages import PAGE_SIZE, Page, PageObject, PageQueue, Swap, UvmPages, VmPages13, VmPages2013, any_pair
from tests.support import explore, kinds

if TYPE_CHECKING:
    from stressvm import Kernel

Mem = UvmPages | VmPages2013 | VmPages13

NPAGES: Final = 9
SLOTS: Final = 6
#: What a request of each kind must leave, with the numbers below.
LEAVES: Final = {"ordinary": 3, "reserve": 1}
KINDS: Final = ("ordinary", "reserve")
QUEUES: Final = (PageQueue.ACTIVE, PageQueue.INACTIVE)

ALL = pytest.mark.parametrize("cls", [UvmPages, VmPages2013, VmPages13], ids=["netbsd", "freebsd-2013", "freebsd-13"])

#: What is done: the word, a kind of request, which place in the object, or which page.
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["alloc", "alloc", "loose", "free", "free", "queue", "wire", "unwire", "write"]),
        st.integers(0, 1),
        st.integers(0, SLOTS - 1),
    ),
    max_size=40,
)


def make(cls: type[Mem], k: Kernel) -> Mem:
    """Reserves as LEAVES says."""
    if issubclass(cls, UvmPages):
        return cls(k, NPAGES, reserve_pagedaemon=1, reserve_kernel=3)
    return cls(k, NPAGES, v_interrupt_free_min=1, v_free_reserved=3, v_free_min=4, v_free_target=5)


class Face(LoneThread):
    """One allocator, by words that all three understand."""

    def __init__(self, cls: type[Mem]) -> None:
        super().__init__()
        self.mem = make(cls, self.k)
        self.obj = PageObject(self.k, "obj")
        self.start()

    def alloc(self, kind: str, at: int | None) -> Page | None:
        obj = self.obj if at is not None else None
        mem = self.mem
        if isinstance(mem, UvmPages):
            flags = pages.UVM_PGA_USERESERVE if kind == "reserve" else 0
            page = self.now(mem.uvm_pagealloc(obj, (at or 0) * PAGE_SIZE, flags))
            if page is not None:
                page.set_unbusy()
            return page
        req = pages.VM_ALLOC_SYSTEM if kind == "reserve" else pages.VM_ALLOC_NORMAL
        req |= pages.VM_ALLOC_NOBUSY if at is not None else pages.VM_ALLOC_NOOBJ
        return self.now(mem.vm_page_alloc(obj, at or 0, req))

    def free(self, page: Page) -> None:
        mem = self.mem
        if isinstance(mem, UvmPages):
            self.now(mem.uvm_pageqlock.lock())
            self.now(mem.uvm_pagefree(page))
            self.now(mem.uvm_pageqlock.unlock())
            return
        while page.wire_count:
            self.now(mem.vm_page_unwire(page, PageQueue.INACTIVE))
        self.now(mem.vm_page_free(page))

    def wire(self, page: Page, *, up: bool) -> None:
        mem = self.mem
        if isinstance(mem, UvmPages):
            self.now(mem.uvm_pageqlock.lock())
            (mem.uvm_pagewire if up else mem.uvm_pageunwire)(page)
            self.now(mem.uvm_pageqlock.unlock())
        else:
            self.now(mem.vm_page_wire(page) if up else mem.vm_page_unwire(page, PageQueue.ACTIVE))

    def queue(self, page: Page, queue: PageQueue) -> None:
        mem = self.mem
        active = queue is PageQueue.ACTIVE
        if isinstance(mem, UvmPages):
            self.now(mem.uvm_pageqlock.lock())
            (mem.uvm_pageactivate if active else mem.uvm_pagedeactivate)(page)
            self.now(mem.uvm_pageqlock.unlock())
        else:
            self.now(mem.vm_page_activate(page) if active else mem.vm_page_deactivate(page))


class Model:
    """What should be, in numbers: how many are free, what each page in use holds, how often it is wired, its queue."""

    def __init__(self) -> None:
        self.free = NPAGES
        self.at: dict[int, Page] = {}
        self.loose: list[Page] = []
        self.wired: Counter[Page] = Counter()
        self.queue: dict[Page, PageQueue] = {}
        self.holds: dict[Page, str] = {}

    def used(self) -> list[Page]:
        return [self.at[at] for at in sorted(self.at)] + self.loose


@ALL
@settings(max_examples=60)
@given(steps=STEPS)
def test_an_allocator_counts_as_a_model_does(cls: type[Mem], steps: list[tuple[str, int, int]]) -> None:
    face, model = Face(cls), Model()
    face.now(face.obj.lock.lock())
    for n, (word, which, at) in enumerate(steps):
        used = model.used()
        page = used[at % len(used)] if used else None
        if word in ("alloc", "loose"):
            if word == "alloc" and at in model.at:
                continue
            got = face.alloc(KINDS[which], at if word == "alloc" else None)
            assert (got is None) == (model.free <= LEAVES[KINDS[which]])
            if got is not None:
                assert got not in used, "a page was given twice"
                model.free -= 1
                if word == "alloc":
                    model.at[at] = got
                else:
                    model.loose.append(got)
                got.write(f"{n}")
                model.holds[got] = f"{n}"
        elif page is None:
            continue
        elif word == "free":
            face.free(page)
            model.free += 1
            model.at = {place: other for place, other in model.at.items() if other is not page}
            model.loose = [other for other in model.loose if other is not page]
            for books in (model.wired, model.queue, model.holds):
                books.pop(page, None)
        elif word == "queue" and page.owner is not None:
            face.queue(page, QUEUES[which])
            if not model.wired[page]:
                model.queue[page] = QUEUES[which]
        elif word == "wire":
            face.wire(page, up=True)
            model.wired[page] += 1
            model.queue.pop(page, None)
        elif word == "unwire" and page.owner is not None and model.wired[page]:
            face.wire(page, up=False)
            model.wired[page] -= 1
            if not model.wired[page]:
                model.queue[page] = PageQueue.ACTIVE
        elif word == "write":
            page.write(f"{n}")
            model.holds[page] = f"{n}"
        agree(face, model)
    face.close()


def agree(face: Face, model: Model) -> None:
    face.mem.check()
    told = face.mem.statistics()
    assert (told.free, told.owned, told.loose, told.held) == (model.free, len(model.at), len(model.loose), 0)
    assert told.wired == sum(count > 0 for count in model.wired.values())
    queues = Counter(model.queue.values())
    assert (told.active, told.inactive) == (queues[PageQueue.ACTIVE], queues[PageQueue.INACTIVE])
    assert {at: face.obj.pages.lookup(at) for at in model.at} == model.at
    assert {page: page.content for page in model.used()} == model.holds


@ALL
def test_threads_that_allocate_and_free_leave_every_page_free(cls: type[Mem]) -> None:
    """No page is lost or given twice, whatever the interleaving, with up to two allocations failing for no reason."""
    failures = set()

    def build(k: Kernel) -> None:
        mem = make(cls, k)
        mem.shortage = any_pair()
        mine: dict[int, list[Page]] = {0: [], 1: [], 2: []}

        async def works(me: int) -> None:
            for _ in range(3):
                if isinstance(mem, UvmPages):
                    page = await mem.uvm_pagealloc(None, 0)
                else:
                    page = await mem.vm_page_alloc(None, 0, pages.VM_ALLOC_NOOBJ)
                if page is None:
                    continue
                assert all(page not in theirs for theirs in mine.values()), "a page was given twice"
                mine[me].append(page)
                page.write(f"{me}")
            for page in list(mine[me]):
                assert page.content == f"{me}", "somebody else wrote to it"
                mine[me].remove(page)
                page.set_unbusy()
                if isinstance(mem, UvmPages):
                    await mem.uvm_pagefree(page)
                else:
                    await mem.vm_page_free(page)
            told = mem.statistics()
            failures.add(told.failed)
            assert told.free + told.loose + mem.claimed == NPAGES

        for me in mine:
            k.spawn(works, me)

    assert kinds(explore(build, 300)) == {None}
    assert len(failures) > 2, "injected and real failures were met"


@ALL
def test_both_drivers_do_the_same_and_the_same_again(cls: type[Mem]) -> None:
    """With daemons, sleeps, timeouts and injected failures: what was drawn is what happens."""

    def build(k: Kernel) -> None:
        mem = make(cls, k)
        mem.shortage = any_pair()
        old = PageObject(k, "old", Swap(k, NPAGES))
        mem.fill(old, NPAGES - 3, queue=PageQueue.INACTIVE)

        async def takes() -> None:
            for _ in range(2):
                if isinstance(mem, UvmPages):
                    while await mem.uvm_pagealloc(None, 0) is None:
                        await mem.uvm_wait("test")
                else:
                    while await mem.vm_page_alloc(None, 0, pages.VM_ALLOC_NOOBJ) is None:
                        await mem.vm_wait()
            k.record(did=f"{mem.statistics().free} free")

        if isinstance(mem, UvmPages):
            mem.start_daemons()
        else:
            mem.start_daemon()
        k.spawn(takes, name="a")
        k.spawn(takes, name="b")

    stepped = explore(build, 40)
    assert stepped == explore(build, 40)
    assert stepped == explore(build, 40, driver="trio")
    assert len({ending.steps for ending in stepped}) > 30
