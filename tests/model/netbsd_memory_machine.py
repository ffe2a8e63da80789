"""Programs that allocate, use, wire and free NetBSD's kernel memory, on two processors, perhaps short of pages.

Wired, pageable and virtual memory, and pages for pools, with every mix of flags; reads and writes go through the TLB of the
processor that a thread is on; pages may be paged out, and allocations of them may fail by injection. What is read must be
what was written last. A thread that waits, for pages or addresses, must be served. In the end, when the last thread has
given back all there is, nothing may be left.

What a call returns is held to a flat model, which goes through the program in the order of the critical sections of the
map's lock: every search finds the lowest room, and none where there is none; wiring and unwiring come to what the model's
counts say. Invariants are checked all the time: those of the map, of pages, of pmap and TLBs, and G15 to G17 of memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, consumes, initialize

from stressvm.stateful import Execution, KernelMachine, Performed, Ref, ThreadState, operation
from stressvm.vm import netbsd
from stressvm.vm.pages import ZEROS, Shortage
from tests.model.flat import Flat, joined
from tests.model.netbsd_memory_world import KINDS, KMEM, LOW, PAGE, THREADS, Block, Made, World, make_world

if TYPE_CHECKING:
    from stressvm import Kernel

TRYLOCK, NOWAIT, CANFAIL, WAITVA = (
    netbsd.UVM_KMF_TRYLOCK,
    netbsd.UVM_KMF_NOWAIT,
    netbsd.UVM_KMF_CANFAIL,
    netbsd.UVM_KMF_WAITVA,
)
WIRING = ("wire", "unwire", "wire_for_a_while")
#: Every mix that is allowed: NOWAIT and WAITVA exclude each other.
FLAGS = [a | b | c for a in (0, WAITVA, WAITVA, NOWAIT) for b in (0, 0, TRYLOCK) for c in (0, CANFAIL)]

lengths = st.integers(1, 3)
places = st.integers(0, 2)
cpus = st.integers(0, 1)


class NetBSDMemoryMachine(KernelMachine[World]):
    """NetBSD 6 and 5.2. Nobody may sleep for ever."""

    threads_max = THREADS
    tolerate = frozenset()
    max_steps = 8_000
    made: ClassVar[Made] = Made()
    versions: ClassVar[tuple[str, ...]] = ("6", "5.2")
    #: What has been allocated, by number.
    blocks: Bundle[Ref] = Bundle("blocks")

    @initialize(
        version=st.integers(0, 1),
        pages=st.integers(4, 12),
        npages=st.integers(8, 11),
        old=st.sampled_from([0, 0, 0, 30]),
        swap=st.sampled_from([True, True, False]),
        short=st.lists(st.integers(1, 12), max_size=3, unique=True),
        certain=st.booleans(),
    )
    def a_world(
        self, *, version: int, pages: int, npages: int, old: int, swap: bool, short: list[int], certain: bool
    ) -> None:
        """With so many old pages hardly any are free, or the daemon gets them."""
        which = self.versions[version % len(self.versions)]
        self.describe_world(version=which, pages=pages, npages=npages, old=old, swap=swap, short=short, certain=certain)

    def build(
        self,
        k: Kernel,
        *,
        version: str = "6",
        pages: int = 6,
        npages: int = 16,
        old: int = 0,
        swap: bool = True,
        short: list[int] | None = None,
        certain: bool = False,
    ) -> World:
        """See `make_world`."""
        shortage = Shortage(short or [], certain=certain)
        return make_world(
            k, self.made, version=version, pages=pages, npages=npages, old=old, swap=swap, shortage=shortage
        )

    # ------------------------------------------------------------ operations

    @operation(
        target=blocks,
        kind=st.sampled_from(["wired", "pageable", "pageable", "pageable", "pageable", "vaonly"]),
        pages=lengths,
        flags=st.sampled_from(FLAGS),
        zero=st.booleans(),
    )
    async def alloc(
        self, world: World, *, kind: str, pages: int, flags: int, zero: bool, thread: ThreadState
    ) -> int | None:
        """uvm_km_alloc, and all of it looked at and written. The block's number."""
        if not world.pledge(world.needs(kind, pages)):
            return None
        flags |= KINDS[kind] | (netbsd.UVM_KMF_ZERO if zero else 0)
        va = await netbsd.uvm_km_alloc(world.kmap, pages * PAGE, 0, flags)
        if not va:
            world.pledged -= world.needs(kind, pages)
            return None
        number = world.allocated(va, pages, kind)
        if kind != "vaonly":
            await self.first_use(world, number, zero=zero or kind == "pageable", thread=thread)
        return number

    @operation(target=blocks, pages=lengths, waitok=st.booleans())
    async def pool(self, world: World, pages: int, *, waitok: bool, thread: ThreadState) -> int | None:
        """What pool(9) calls: on 6 from kmem_arena, so many pages, on 5.2 one page of the map."""
        pages = pages if world.kmem is not None else 1
        if not world.pledge(pages):
            return None
        if world.kmem is not None:
            how = netbsd.VM_INSTANTFIT | (netbsd.VM_SLEEP if waitok else netbsd.VM_NOSLEEP)
            error, va = await netbsd.uvm_km_kmem_alloc(world.kmem, pages * PAGE, how)
            assert not error or (error, waitok) == (netbsd.ENOMEM, False), "who may sleep gets it"
        else:
            va = await netbsd.uvm_km_alloc_poolpage(world.kmap, waitok=waitok)
        if not va:
            world.pledged -= pages
            return None
        number = world.allocated(va, pages, "pool")
        await self.first_use(world, number, zero=False, thread=thread)
        return number

    async def first_use(self, world: World, which: int, *, zero: bool, thread: ThreadState) -> None:
        """Look at memory that is new, and write to all of it."""
        with world.using(which) as block:
            assert block is not None
            for page in range(block.page, block.page + block.pages):
                if zero:
                    world.contents[page] = ZEROS
                    await world.read(page)
                await world.write(page, f"t{thread.number}#{len(thread.results)}")

    @operation(what=blocks, cpu=cpus)
    async def read(self, world: World, what: int | None, cpu: int) -> int | None:
        """All of a block, on that processor; how many pages."""
        with world.using(what) as block:
            await world.memory.machine.migrate(cpu)
            if block is None or block.kind == "vaonly":
                return None
            for page in range(block.page, block.page + block.pages):
                await world.read(page)
            return block.pages

    @operation(on="what", what=blocks, at=places, cpu=cpus)
    async def write(self, world: World, what: int | None, at: int, cpu: int, thread: ThreadState) -> int | None:
        """The page of the map that was written."""
        with world.using(what) as block:
            await world.memory.machine.migrate(cpu)
            if block is None or block.kind == "vaonly":
                return None
            page = block.page + at % block.pages
            await world.write(page, f"t{thread.number}#{len(thread.results)}")
            return page

    @operation(what=blocks, at=places, pages=lengths)
    async def wire(self, world: World, what: int | None, at: int, pages: int) -> list[int] | None:
        return await self.pageable(world, what, at, pages, False)

    @operation(what=blocks, at=places, pages=lengths)
    async def unwire(self, world: World, what: int | None, at: int, pages: int) -> list[int] | None:
        return await self.pageable(world, what, at, pages, True)

    @operation(on="what", what=blocks, at=places, pages=lengths)
    async def wire_for_a_while(self, world: World, what: int | None, at: int, pages: int) -> list[int] | None:
        """The thread that has allocated it wires, reads and unwires."""
        return await self.pageable(world, what, at, pages, False, True)

    async def pageable(
        self, world: World, what: int | None, at: int, pages: int, *new_pageable: bool
    ) -> list[int] | None:
        """uvm_map_pageable of a part, on 5.2 of all; what it returns, each time. Not of kmem_arena's, which have no entries."""
        with world.using(what) as block:
            if block is None or (block.kind == "pool" and world.kmem is not None):
                return None
            at = at % block.pages if world.kmap.version == "6" else 0
            start = block.page + at
            end = block.page + (min(at + pages, block.pages) if world.kmap.version == "6" else block.pages)
            errors: list[int] = []
            if not self.may_wire(world, block, end - start):
                return None
            for new in new_pageable:
                if errors and block.kind != "vaonly":
                    await world.read(start)
                call = netbsd.uvm_map_pageable(world.kmap, world.va(start), world.va(end), new_pageable=new)
                errors.append(await call)
            return errors

    def may_wire(self, world: World, block: Block, pages: int) -> bool:
        """Are there enough pages if these are wired until the block is freed?"""
        if block.kind != "pageable" or block.pledged == block.pages:
            return True
        if not world.pledge(pages):
            return False
        block.pledged += pages
        return True

    @operation(on="what", what=consumes(blocks), cpu=cpus)
    async def free(self, world: World, what: int | None, cpu: int) -> bool:
        """Was there anything to free, with nobody at work with it?"""
        return await self.give_back(world, what, cpu)

    @operation(what=consumes(blocks), cpu=cpus)
    async def free_elsewhere(self, world: World, what: int | None, cpu: int) -> bool:
        """The same, by any thread."""
        return await self.give_back(world, what, cpu)

    async def give_back(self, world: World, what: int | None, cpu: int) -> bool:
        block = world.given_back(what)
        await world.memory.machine.migrate(cpu)
        if block is not None:
            await world.free(block)
        return block is not None

    # ------------------------------------------------------------ the model

    def after(self, execution: Execution[World]) -> None:
        if execution.world.begun:
            assert execution.world.done, "the last thread has not come to its end"
            Sequential(execution).check()


class Sequential:
    """A program on a flat list of addresses and counts of wirings, in the order of the map's critical sections."""

    def __init__(self, execution: Execution[World]) -> None:
        self.execution = execution
        self.world = world = execution.world
        arena = [(0, KMEM)] if world.kmem is not None else []
        self.flat = Flat(0, (world.kmap.max_offset - LOW) // PAGE, arena)
        #: Of each page that is mapped: is it pageable, and how often is it wired?
        self.kind: dict[int, bool] = {}
        self.count: dict[int, int] = {}
        #: By operation: where its last search found room, until that is unmapped; -1: nowhere.
        self.place: dict[Ref, int] = {}
        self.unwound: set[Ref] = set()
        #: By operation: what uvm_map_pageable returned, each time.
        self.answers: dict[Ref, list[int]] = {}

    def check(self) -> None:
        at, wired = self.world.wired
        for number, (step, thread, what, first, second) in enumerate([*self.world.log, (0, 0, "", 0, 0)]):
            if number == at:
                assert wired == {page for page, count in self.count.items() if count}, f"{wired} are wired"
            if not what:
                break
            op = self.execution.at(thread, step) if thread < len(self.execution.performed) else None
            getattr(self, f"see_{what}")(op, first, second)
        assert not self.count
        assert self.flat.taken == joined(
            [(e.start // PAGE - LOW // PAGE, e.end // PAGE - LOW // PAGE) for e in self.world.kmap.entries]
        )
        for op in self.execution.operations():
            if op.name == "alloc" or (op.name == "pool" and self.world.kmem is None):
                self.allocation(op)
            elif op.name in WIRING:
                assert op.result == self.answers.get(op.ref), f"{op}: the model has {self.answers.get(op.ref)}"

    def see_found(self, op: Performed | None, first: int, second: int) -> None:
        """A search of uvm_map's: the lowest room there is."""
        assert op is not None, "the last thread does not allocate"
        assert self.flat.first_fit(0, second - first, 1) == first, f"{op}: {first}, and {self.flat}"
        self.flat.take(first, second - first)
        self.place[op.ref] = first
        pages = range(first, second)
        self.kind |= dict.fromkeys(pages, op.args.get("kind") == "pageable")
        self.count |= dict.fromkeys(pages, 0)

    def see_nowhere(self, op: Performed | None, first: int, second: int) -> None:
        """And none."""
        assert op is not None
        assert self.flat.first_fit(0, second - first, 1) is None, f"{op}: nowhere, and {self.flat}"
        self.place[op.ref] = -1

    def see_unmap(self, op: Performed | None, first: int, second: int) -> None:
        """What leaves the map was there; an allocation that gives back what it had got has failed."""
        assert all(page in self.count for page in range(first, second)), f"{op}: {first} to {second}, and {self.flat}"
        self.flat.give(first, second - first)
        for page in range(first, second):
            del self.count[page], self.kind[page]
        if op is not None and op.name in ("alloc", "pool"):
            assert self.place[op.ref] == first, f"{op} gives {first} back"
            self.unwound.add(op.ref)

    def see_wire(self, op: Performed | None, first: int, second: int) -> None:
        """Marked busy, the map is the wirer's until he is done; so it is as if he did all of it at once."""
        pages = range(first, second)
        error = 0 if all(self.kind[page] for page in pages) else netbsd.EFAULT
        if not error:
            for page in pages:
                self.count[page] += 1
        self.answer(op, error)

    def see_unwire(self, op: Performed | None, first: int, second: int) -> None:
        pages = range(first, second)
        error = 0 if all(self.count[page] for page in pages) else netbsd.EINVAL
        if not error:
            self.count |= dict.fromkeys(pages, 0)
        self.answer(op, error)

    def answer(self, op: Performed | None, error: int) -> None:
        assert op is not None, "the last thread wires nothing"
        self.answers.setdefault(op.ref, []).append(error)

    def allocation(self, op: Performed) -> None:
        """It has got what it found, or there is a reason why it has not."""
        place = self.place.get(op.ref)
        if op.result is not None:
            assert self.world.blocks[op.result].page == place, f"{op}: the model has {place}"
            assert op.ref not in self.unwound, f"{op} has given it back"
            return
        flags = op.args["flags"] if op.name == "alloc" else 0 if op.args["waitok"] else NOWAIT | TRYLOCK
        kinds = {event[1].kind for _, event in self.execution.steps_of(op)} - {"spawn"}
        if not kinds:
            return  # The machine did not let it: there might not be enough pages.
        refused = flags & TRYLOCK and ("try-lock-failed" in kinds or self.busy_during(op))
        no_room = place == -1 and not flags & WAITVA
        no_pages = op.ref in self.unwound and flags & (NOWAIT | CANFAIL)
        assert refused or no_room or no_pages, f"{op} has failed without a reason: {place}, {self.unwound}"

    def busy_during(self, op: Performed) -> bool:
        """May the map have been busy when that operation tried its lock?"""
        return any(
            one.name in WIRING and one.begin < op.end and op.begin < one.end for one in self.execution.operations()
        )


net_bsd_memory_machine = NetBSDMemoryMachine.scenario("netbsd_memory_machine")
