"""Programs of allocating, freeing, mapping, splitting and marking busy on NetBSD's maps, and what they must come to.

Every search and the insertion that follows it are done in one hold of the map's write lock. So the holds, in the order
of the trace, are the order in which the program happened: a flat list of what is taken, that goes through them one
after the other, must find exactly the addresses that were returned, and no room wherever a thread found none.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, consumes, initialize

from stressvm.stateful import Execution, Hold, KernelMachine, Performed, Ref, operation
from stressvm.vm import netbsd
from tests.model.flat import Flat, joined

if TYPE_CHECKING:
    from stressvm import Kernel

PAGE = netbsd.PAGE_SIZE
VAONLY = netbsd.UVM_KMF_VAONLY
TRYLOCK, NOWAIT, CANFAIL, WAITVA = (
    netbsd.UVM_KMF_TRYLOCK,
    netbsd.UVM_KMF_NOWAIT,
    netbsd.UVM_KMF_CANFAIL,
    netbsd.UVM_KMF_WAITVA,
)

#: What a thread holds: number of the map, first page, pages.
Piece = list[int]

#: Every mix that is allowed: NOWAIT and WAITVA exclude each other.
FLAGS = [a | b | c for a in (0, WAITVA, NOWAIT) for b in (0, TRYLOCK) for c in (0, CANFAIL)]
flags = st.sampled_from(FLAGS)
sizes = st.integers(1, 4)
aligns = st.sampled_from([0, 0, 0, 1, 2, 4])
which_map = st.integers(0, 2)
places = st.integers(0, 15)


@dataclass(slots=True)
class World:
    """The map, and the submaps carved out of it, in order; `initial` is what was taken at the start."""

    k: Kernel
    maps: list[netbsd.VmMap]
    initial: list[tuple[int, int]] = field(default_factory=list)

    def map(self, where: int) -> tuple[int, netbsd.VmMap]:
        return where % len(self.maps), self.maps[where % len(self.maps)]

    async def free(self, what: Piece | None) -> Piece | None:
        if what is not None:
            await netbsd.uvm_km_free(self.maps[what[0]], what[1] * PAGE, what[2] * PAGE, VAONLY)
        return what


def low(kmap: netbsd.VmMap) -> int:
    return kmap.min_offset // PAGE


def raw(kmap: netbsd.VmMap) -> Any:
    """The lock as the trace has it."""
    return kmap.lock.mutex if isinstance(kmap.lock, netbsd.IntrsafeMapLock) else kmap.lock.rw  # type: ignore[attr-defined]


class NetBSDMachine(KernelMachine[World]):
    """NetBSD 6 and 5.2."""

    map_class: ClassVar[type[netbsd.VmMap]] = netbsd.VmMap
    map_flags: ClassVar[int] = 0
    max_steps = 3_000
    held: Bundle[Ref] = Bundle("held")

    @initialize(version=st.sampled_from(["6", "5.2"]), pages=st.integers(4, 20), taken=st.integers(0, 4), at=places)
    def a_map(self, version: str, pages: int, taken: int, at: int) -> None:
        self.describe_world(
            version=version, pages=pages, taken=min(taken, pages), at=at % (pages - min(taken, pages) + 1)
        )

    def build(self, k: Kernel, version: str = "6", pages: int = 8, taken: int = 0, at: int = 0) -> World:
        kmap = netbsd.setup(k, pages, version=version, flags=self.map_flags, cls=self.map_class)
        world = World(k, [kmap])
        if taken:
            kmap.fill(taken, offset=at)
            world.initial.append((low(kmap) + at, low(kmap) + at + taken))
        return world

    # ------------------------------------------------------------ operations

    @operation(target=held, where=which_map, pages=sizes, align=aligns, flags=flags)
    async def alloc(self, world: World, where: int, pages: int, align: int, flags: int) -> Any:
        number, kmap = world.map(where)
        va = await netbsd.uvm_km_alloc(kmap, pages * PAGE, align * PAGE, VAONLY | flags)
        return [number, va // PAGE, pages] if va else None

    @operation(target=held, where=which_map, at=places, pages=sizes, align=aligns, flags=flags, alike=st.booleans())
    async def map_hint(
        self, world: World, *, where: int, at: int, pages: int, align: int, flags: int, alike: bool
    ) -> Any:
        """Like what uvm_km_alloc maps, so that it is merged with that, or not."""
        number, kmap = world.map(where)
        hint = kmap.min_offset + at * PAGE
        flags &= ~CANFAIL
        advice = netbsd.UVM_ADV_RANDOM if alike else netbsd.UVM_ADV_NORMAL
        error, va = await netbsd.uvm_map(kmap, hint, pages * PAGE, align=align * PAGE, flags=flags, advice=advice)
        return None if error else [number, va // PAGE, pages]

    @operation(target=held, where=which_map, at=places, pages=sizes, flags=flags)
    async def map_fixed(self, world: World, where: int, at: int, pages: int, flags: int) -> Any:
        number, kmap = world.map(where)
        place = kmap.min_offset + at * PAGE
        flags = (flags & ~CANFAIL) | netbsd.UVM_FLAG_FIXED
        error, va = await netbsd.uvm_map(kmap, place, pages * PAGE, flags=flags, advice=netbsd.UVM_ADV_RANDOM)
        return None if error else [number, va // PAGE, pages]

    @operation(on="what", what=consumes(held))
    async def free(self, world: World, what: Piece | None) -> Any:
        return await world.free(what)

    @operation(what=consumes(held))
    async def free_elsewhere(self, world: World, what: Piece | None) -> Any:
        return await world.free(what)

    @operation(target=held, on="what", what=consumes(held), skip=st.integers(0, 3), pages=sizes)
    async def unmap_part(self, world: World, what: Piece | None, skip: int, pages: int) -> Any:
        """The lower part that is left, if any; what is left above stays taken for ever."""
        if what is None:
            return None
        number, page, length = what
        skip %= length
        pages = min(pages, length - skip)
        await netbsd.uvm_unmap(world.maps[number], (page + skip) * PAGE, (page + skip + pages) * PAGE)
        return [number, page, skip] if skip else None

    @operation(target=held, where=which_map, yields=st.integers(0, 2), pages=st.integers(0, 2))
    async def busy(self, world: World, where: int, yields: int, pages: int) -> Any:
        """While the map is busy, its owner may allocate."""
        number, kmap = world.map(where)
        if not isinstance(kmap.lock, netbsd.VmMapLock):
            return None
        await self.mark(kmap)
        for _ in range(yields):
            await world.k.yield_()
        va = await netbsd.uvm_km_alloc(kmap, pages * PAGE, 0, VAONLY) if pages else 0
        await kmap.lock.unbusy()
        return [number, va // PAGE, pages] if va else None

    @operation(where=which_map, pages=sizes)
    async def suballoc(self, world: World, where: int, pages: int) -> Any:
        """uvm_km_suballoc panics without room; with the map busy, what there is stays."""
        number, kmap = world.map(where)
        if not isinstance(kmap.lock, netbsd.VmMapLock):
            return None
        await self.mark(kmap)
        made = None
        if kmap.entries.largest_gap >= pages * PAGE:
            made = await netbsd.uvm_km_suballoc(kmap, kmap.min_offset, pages * PAGE, name=f"sub{len(world.maps)}")
            world.maps.append(made)
        await kmap.lock.unbusy()
        return [number, low(made), pages] if made is not None else None

    @staticmethod
    async def mark(kmap: netbsd.VmMap) -> None:
        assert isinstance(kmap.lock, netbsd.VmMapLock)
        await kmap.lock.lock()
        await kmap.lock.busy()
        await kmap.lock.unlock()

    @operation(where=which_map, at=places)
    async def look(self, world: World, where: int, at: int) -> Any:
        """While one reads, nothing changes."""
        _, kmap = world.map(where)
        if not isinstance(kmap.lock, netbsd.VmMapLock):
            return None
        addr = kmap.min_offset + at * PAGE
        await kmap.lock.lock_read()
        found, entry = kmap.entries.lookup(addr)
        await world.k.yield_()
        assert kmap.entries.lookup(addr) == (found, entry)
        await kmap.lock.unlock_read()
        return found

    # ------------------------------------------------------------ the model

    def after(self, execution: Execution[World]) -> None:
        world = execution.world
        for number, kmap in enumerate(world.maps):
            Sequential(execution, number, kmap).check()
        check_held(execution)


class ScarceMachine(NetBSDMachine):
    """Everybody waits for addresses, of which there are few."""

    version: ClassVar[str] = "6"
    held: Bundle[Ref] = NetBSDMachine.held
    a_map = map_hint = map_fixed = free_elsewhere = busy = suballoc = look = None  # type: ignore[assignment]

    @initialize(pages=st.integers(2, 4))
    def a_small_map(self, pages: int) -> None:
        self.describe_world(version=self.version, pages=pages)

    @operation(target=held, pages=st.integers(1, 3))
    async def alloc(self, world: World, pages: int) -> Any:
        va = await netbsd.uvm_km_alloc(world.maps[0], pages * PAGE, 0, VAONLY | WAITVA)
        return [0, va // PAGE, pages] if va else None


class IntrsafeMachine(ScarceMachine):
    """The same on a VM_MAP_INTRSAFE map of NetBSD 5.2."""

    version: ClassVar[str] = "5.2"
    map_flags: ClassVar[int] = netbsd.VM_MAP_INTRSAFE


class Sequential:
    """One map's part of a program, hold by hold, on a flat list of pages."""

    def __init__(self, execution: Execution[World], number: int, kmap: netbsd.VmMap) -> None:
        self.execution = execution
        self.kmap = kmap
        self.flat = Flat(low(kmap), kmap.max_offset // PAGE, list(execution.world.initial) if not number else [])
        #: For every busy mark: the thread, and the steps from which and up to which it stood.
        self.busy: list[tuple[int, int, int]] = []
        #: The holds in which an operation went about its business, so far.
        self.done: dict[Ref, list[Hold]] = {}

    def check(self) -> None:
        moved = 0
        for hold in self.execution.holds(raw(self.kmap)):
            if hold.by is not None and not self.refused(hold):
                moved += hold.exclusive
                self.done.setdefault(hold.by.ref, []).append(hold)
                self.step(hold.by, hold, len(self.done[hold.by.ref]))
        entries = joined([(entry.start // PAGE, entry.end // PAGE) for entry in self.kmap.entries])
        assert entries == self.flat.taken
        assert self.kmap.size == sum(end - start for start, end in self.flat.taken) * PAGE
        assert self.kmap.intrsafe or self.kmap.lock.timestamp.peek() == moved

    def refused(self, hold: Hold) -> bool:
        """Found busy, by another or by a try, and given up at once."""
        tried = self.execution.k.trace[hold.start][1].kind == "try-write-lock"
        return hold.exclusive and any(
            begin < hold.start < end and (thread != hold.thread or tried) for thread, begin, end in self.busy
        )

    def step(self, op: Performed, hold: Hold, nth: int) -> None:
        """What an operation did in the n-th of its holds."""
        match op.name:
            case "alloc" | "map_hint" | "map_fixed":
                self.search(op, found=op.done and op.result is not None and self.last(op, hold))
            case "busy" | "suballoc" if nth == 1:
                self.busy.append((op.thread, hold.start, self.unbusied(op)))
            case "busy" | "suballoc" if nth == 2:
                self.search(op, found=op.result is not None)
            case "free" | "free_elsewhere" | "unmap_part":
                self.flat.give(*freed(op)[1:])
            case "look":
                assert not hold.exclusive
                place = self.flat.low + op.args["at"]
                assert op.result == self.flat.covers(place), f"{op}: {self.flat}"

    def last(self, op: Performed, hold: Hold) -> bool:
        """Does the operation not get the lock once more?"""
        kinds = ("write-lock", "try-write-lock", "lock", "trylock")
        number = raw(self.kmap).ident.number
        return not any(
            at > hold.start and o.kind in kinds and o.obj.number == number
            for at, (_, o, _) in self.execution.steps_of(op)
        )

    def unbusied(self, op: Performed) -> int:
        """The mark goes in the last step that locks misc_lock."""
        misc = self.kmap.lock.misc_lock.ident.number
        locked = [at for at, (_, o, _) in self.execution.steps_of(op) if o.kind == "lock" and o.obj.number == misc]
        return locked[-1] if op.done else len(self.execution.k.trace)

    def search(self, op: Performed, *, found: bool) -> None:
        args = op.args
        pages, start = args["pages"], self.flat.low + args.get("at", 0)
        if op.name == "map_fixed":
            place = start if self.flat.free(start, pages) else None
        else:
            place = self.flat.first_fit(start, pages, args.get("align", 0) or 1)
        assert place == (op.result[1] if found else None), f"{op}: {self.flat}"
        if place is not None:
            self.flat.take(place, pages)


def check_held(execution: Execution[World]) -> None:
    """By the results alone: no two pieces that are held overlap, and together they are all that is taken."""
    world = execution.world
    held = {Ref(-1, 0): {(0, page) for start, end in world.initial for page in range(start, end)}}
    #: What is left of a piece is held by whom the piece was allocated for.
    owner: dict[Ref, Ref] = {}
    for op in execution.operations():
        what = op.step.args.get("what")
        if not op.done:
            continue
        if what is None:
            if isinstance(op.result, list):
                held[op.ref] = pages_of(*op.result)
                owner[op.ref] = op.ref
        elif op.args["what"] is not None:
            owner[op.ref] = owner[what]
            held[owner[what]] -= pages_of(*freed(op))
    taken = set().union(*held.values())
    assert sum(len(pages) for pages in held.values()) == len(taken), f"held twice: {held}"
    for number, kmap in enumerate(world.maps):
        mapped = {page for entry in kmap.entries for page in range(entry.start // PAGE, entry.end // PAGE)}
        assert {page for where, page in taken if where == number} == mapped


def pages_of(number: int, page: int, pages: int) -> set[tuple[int, int]]:
    return {(number, page + n) for n in range(pages)}


def freed(op: Performed) -> Piece:
    """What an operation that frees has freed."""
    number, page, length = op.args["what"]
    if op.name != "unmap_part":
        return [number, page, length]
    skip = op.args["skip"] % length
    return [number, page + skip, min(op.args["pages"], length - skip)]


net_bsd_machine = NetBSDMachine.scenario("netbsd_machine")
scarce_machine = ScarceMachine.scenario()
intrsafe_machine = IntrsafeMachine.scenario()
