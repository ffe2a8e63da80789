"""Programs that use the memory of FreeBSD's processes and of its kernel, on two processors, perhaps short of pages.

Processes map, unmap, protect, wire and fork, and read and write through the TLB of the processor that they are on. Each
has two parts: what is in the lower one is copied by a fork, what is in the upper one is shared with the child. The kernel
allocates memory and addresses. When all threads are done, one more (`freebsd_memory_end`) looks at how they left it, reads
what there is, gives everything back, and sees that nothing is left. What each operation must come to is in
`freebsd_memory_turns`.

What FreeBSD gets wrong as it was shipped, and a scenario shows, is left out here: wiring that forgets an entry
(`stepped_back`), 10.4's pmap, and for 10.4 one of three, drawn: wiring, protecting, or copying on write.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, consumes, initialize

from stressvm.stateful import Execution, KernelMachine, Ref, ThreadState, operation
from stressvm.vm import freebsd
from stressvm.vm.pages import ZEROS
from tests.model.freebsd_memory_turns import ALL, COPIED, LOW, OK, PAGE, PAGES, RW, R, Sequential, W
from tests.model.freebsd_memory_world import (
    KERNEL_PAGES,
    VERSION_13,
    VERSION_2013,
    Layout,
    Space,
    Version,
    World,
    make_world,
)

if TYPE_CHECKING:
    from stressvm import Kernel

USER, SYSTEM = freebsd.VM_MAP_WIRE_USER, freebsd.VM_MAP_WIRE_SYSTEM
SPACES_MAX = 4

places = st.sampled_from([*range(PAGES), 0, 1, 2, 3, 4])
copied = st.integers(0, COPIED - 1)
lengths = st.integers(1, 3)
cpus = st.integers(0, 1)
prots = st.sampled_from([R, RW, RW, 0])
pieces = st.tuples(st.integers(0, 1), st.integers(1, 3), st.sampled_from([R, RW, RW]), st.booleans())


class FreeBSDMemoryMachine(KernelMachine[World]):
    """FreeBSD 13 and 10.4. 10.4's daemon can miss the call that wakes it, and wakes up by itself then."""

    threads_max = 4
    tolerate = frozenset({"exhausted", "rescued-sleep"})
    max_steps = 8_000
    versions: ClassVar[tuple[Version, ...]] = (VERSION_13, VERSION_2013)
    #: Processes, and what the kernel has allocated, by number.
    processes: Bundle[Any] = Bundle("processes")
    memory: Bundle[Ref] = Bundle("memory")

    @initialize(
        version=st.integers(0, 1),
        layouts=st.lists(st.lists(pieces, min_size=1, max_size=3), min_size=2, max_size=2),
        shared=st.sampled_from(["", "anon", "data", "text"]),
        frames=st.one_of(st.none(), st.integers(14, 20)),
        old=st.sampled_from([0, 6]),
        short=st.lists(st.integers(1, 16), max_size=3, unique=True),
        page_tables=st.booleans(),
        leaves_out=st.integers(0, 5),
        target=processes,
    )
    def a_world(
        self,
        *,
        version: int,
        layouts: list[Layout],
        shared: str,
        frames: int | None,
        old: int,
        short: list[int],
        page_tables: bool,
        leaves_out: int,
    ) -> int:
        """`frames`: so many, of which the page daemon writes some to swap when they run low; None: quite a few."""
        which = self.versions[version % len(self.versions)]
        self.describe_world(
            version=which.name,
            layouts=layouts,
            shared=shared,
            frames=frames,
            old=old if frames is not None else 0,
            short=short,
            page_tables=page_tables,
            without=which.leaves_out[leaves_out % len(which.leaves_out)],
        )
        return 0

    @initialize(target=processes, second=st.booleans())
    def another_process(self, *, second: bool) -> int:
        """The second one, or the first again, which is then used more often."""
        return int(second)

    def build(
        self,
        k: Kernel,
        *,
        version: str = "13",
        layouts: list[Layout] | None = None,
        shared: str = "",
        frames: int | None = None,
        old: int = 0,
        short: list[int] | None = None,
        page_tables: bool = False,
        without: str = "",
    ) -> World:
        """See `make_world`."""
        return make_world(
            k,
            next(one for one in self.versions if one.name == version),
            layouts=layouts or [[], []],
            shared=shared,
            frames=frames,
            old=old,
            short=short or [],
            page_tables=page_tables,
            without=without,
        )

    # ------------------------------------------------------------ using memory

    @operation(space=processes, at=places)
    async def read(self, world: World, space: int | None, at: int) -> list[list[Any]] | None:
        """For each of two pages: the code, what was read, and where in the trace it began and ended."""
        return await self.use(world, space, at)

    @operation(space=processes, at=places)
    async def write(self, world: World, space: int | None, at: int, thread: ThreadState) -> list[list[Any]] | None:
        """The same; what is written is written nowhere else."""
        return await self.use(world, space, at, f"t{thread.number}#{len(thread.results)}")

    async def use(self, world: World, which: int | None, at: int, text: str | None = None) -> list[list[Any]] | None:
        """One page after the other."""
        with world.using(which) as space:
            if space is None:
                return None
            used: list[list[Any]] = []
            for va in range(*space.span(at, 2), PAGE):
                begin = len(world.k.trace)
                rc, page = await freebsd.vmspace_access(space.map, va, R if text is None else W, text)
                used.append([rc, page.content if page is not None else "", begin, len(world.k.trace)])
            return used

    # ------------------------------------------------------------ what is mapped

    @operation(
        space=processes,
        at=places,
        pages=lengths,
        prot=prots,
        kind=st.sampled_from(["anon", "text", "data"]),
        offset=st.integers(0, 2),
        how=st.sampled_from(["fixed", "fixed", "find", "replace"]),
    )
    async def map(
        self, world: World, space: int | None, *, at: int, pages: int, prot: int, kind: str, offset: int, how: str
    ) -> list[Any] | None:
        """Fixed where nothing is, in place of what is there, or (in the lower part) wherever there is room.

        The code, the page where it is, and what was mapped.
        """
        with world.using(space) as it:
            if it is None:
                return None
            if at < COPIED:
                pages = min(pages, COPIED - at)
            start, end = it.span(at, pages)
            kind = world.kind_of(kind, at)
            obj, cow = world.mapping(kind, at)
            if how == "find" and at < COPIED:
                bound = LOW + COPIED * PAGE
                rc, start = await freebsd.vm_map_find(
                    it.map, obj, offset * PAGE, start, end - start, bound, prot=prot, max_prot=ALL, cow=cow
                )
            else:
                cow |= 0 if how == "replace" else freebsd.MAP_CHECK_EXCL
                rc = await freebsd.vm_map_fixed(it.map, obj, offset * PAGE, start, end - start, prot, ALL, cow)
            if rc and obj is not None:
                obj.deallocate()
            return [rc, (start - LOW) // PAGE if not rc else -1, kind]

    @operation(space=processes, at=places, pages=lengths)
    async def unmap(self, world: World, space: int | None, at: int, pages: int) -> int | None:
        with world.using(space) as it:
            return await freebsd.vm_map_remove(it.map, *it.span(at, pages)) if it is not None else None

    @operation(space=processes, at=places, pages=lengths, prot=prots)
    async def protect(self, world: World, space: int | None, at: int, pages: int, prot: int) -> int | None:
        with world.using(space, "protect") as it:
            if it is None:
                return None
            return await freebsd.vm_map_protect(it.map, *it.span(at, pages), prot, 0, freebsd.VM_MAP_PROTECT_SET_PROT)

    @operation(space=processes, at=copied, pages=lengths, how=st.integers(1, 3))
    async def inherit(self, world: World, space: int | None, at: int, pages: int, how: int) -> int | None:
        """In the lower part: COPY, NONE or ZERO."""
        with world.using(space) as it:
            if it is None:
                return None
            return await freebsd.vm_map_inherit(it.map, *it.span(at, min(pages, COPIED - at)), how)

    @operation(space=processes, at=places, pages=lengths)
    async def mlock(self, world: World, space: int | None, at: int, pages: int) -> int | None:
        with world.using(space, "wire") as it:
            return await freebsd.vm_map_wire(it.map, *it.span(at, pages), USER) if it is not None else None

    @operation(space=processes, at=places, pages=lengths)
    async def munlock(self, world: World, space: int | None, at: int, pages: int) -> int | None:
        with world.using(space, "wire") as it:
            return await freebsd.vm_map_unwire(it.map, *it.span(at, pages), USER) if it is not None else None

    @operation(space=processes, at=places, pages=lengths, write=st.booleans(), yields=st.integers(0, 2))
    async def vslock(
        self, world: World, space: int | None, *, at: int, pages: int, write: bool, yields: int
    ) -> list[int] | None:
        """What sysctl(3) does: wire the caller's buffer, and unwire it soon. The codes, and when it was wired."""
        with world.using(space, "wire") as it:
            if it is None:
                return None
            flags = SYSTEM | (freebsd.VM_MAP_WIRE_WRITE if write else 0)
            rc = await freebsd.vm_map_wire(it.map, *it.span(at, pages), flags)
            wired = len(world.k.trace)
            if rc:
                return [rc, wired, OK]
            for _ in range(yields):
                await world.k.yield_()
            return [rc, wired, await freebsd.vm_map_unwire(it.map, *it.span(at, pages), SYSTEM)]

    # ------------------------------------------------------------ processes and processors

    @operation(target=processes, space=processes)
    async def fork(self, world: World, space: int | None) -> int | None:
        """The child's number."""
        with world.using(space, "copy") as it:
            if it is None or len(world.spaces) >= SPACES_MAX:
                return None
            world.spaces.append(child := Space(it.vm, gone=True))
            number = len(world.spaces) - 1
            vm = await freebsd.fork1(it.vm)
            assert vm is not None, "there is swap for it"
            child.vm, child.gone = vm, False
            return number

    @operation(space=processes, cpu=cpus)
    async def terminate(self, world: World, space: int | None, cpu: int) -> bool | None:
        """On that processor; not the first one, and only if no other thread is at work in it."""
        with world.using(space) as it:
            await world.memory.machine.migrate(cpu)
            if it is None or not space or it.users > 1:
                return None
            it.gone = True
            await freebsd.vmspace_free(it.vm)
            return True

    # ------------------------------------------------------------ the kernel's memory

    @operation(
        target=memory,
        pages=lengths,
        how=st.sampled_from(["wait", "wait", "wait zero", "no wait", "no wait zero", "addresses", "too many"]),
    )
    async def kmalloc(self, world: World, pages: int, how: str, thread: ThreadState) -> int | None:
        """kmem_malloc, and the memory looked at and written; or kva_alloc. Memory may be missing, addresses never are."""
        world.begin()
        if how in ("addresses", "too many"):
            pages += KERNEL_PAGES if how == "too many" else 0
            addr = await freebsd.kva_alloc(world.kmem, pages * PAGE)
            assert bool(addr) == (how == "addresses")
            return world.allocated(addr, pages) if addr else None
        zero = "zero" in how
        flags = (freebsd.M_NOWAIT if "no" in how else freebsd.M_WAITOK) | (freebsd.M_ZERO if zero else 0)
        failed = world.memory.pages.failed
        addr = await freebsd.kmem_malloc(world.kmem, pages * PAGE, flags)
        if not addr:
            assert flags & freebsd.M_NOWAIT, "who may wait gets it"
            assert world.memory.pages.failed > failed, "there were pages and addresses"
            return None
        text = f"t{thread.number}#{len(thread.results)}"
        number = world.allocated(addr, pages, text)
        with world.holding(number):
            await self.look(world, addr, pages, ZEROS if zero else None)
            for va in range(addr, addr + pages * PAGE, PAGE):
                rc, _ = await freebsd.vmspace_access(world.kmem.map, va, W, text)
                assert rc == OK
        return number

    async def look(self, world: World, addr: int, pages: int, text: str | None) -> None:
        """Read kernel memory, which holds that, if anybody knows."""
        for va in range(addr, addr + pages * PAGE, PAGE):
            rc, page = await freebsd.vmspace_access(world.kmem.map, va, R)
            assert rc == OK
            assert page is not None
            assert text is None or page.content == text, f"{va:#x} holds {page.content!r}, not {text!r}"

    @operation(what=memory, cpu=cpus)
    async def revisit(self, world: World, what: int | None, cpu: int) -> bool | None:
        """Read kernel memory, on that processor."""
        with world.holding(what) as block:
            await world.memory.machine.migrate(cpu)
            if block is None or not block.text:
                return None
            await self.look(world, block.addr, block.pages, block.text)
            return True

    @operation(what=consumes(memory), cpu=cpus)
    async def release(self, world: World, what: int | None, cpu: int) -> bool | None:
        """Give kernel memory or addresses back, on that processor."""
        world.begin()
        await world.memory.machine.migrate(cpu)
        block = world.given_back(what)
        if block is not None:
            await world.free(block)
        return block is not None

    # ------------------------------------------------------------ the model

    def after(self, execution: Execution[World]) -> None:
        Sequential(execution).check()
