"""Programs that find room in FreeBSD's maps, wait for it, map there and unmap, and what they must come to.

Whatever is mapped, is mapped in the hold of the write lock in which its place was found. So the holds, in the order of
the trace, are the order in which the program happened: a flat list of what is taken, that goes through them one after
the other, must find exactly the addresses that were returned, and no room wherever a thread found none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, consumes, initialize

from stressvm.stateful import Execution, KernelMachine, Performed, Ref, operation
from stressvm.vm import freebsd
from tests.model.flat import Flat, joined

if TYPE_CHECKING:
    from stressvm import Kernel

PAGE = freebsd.PAGE_SIZE
#: Sizes and places are drawn in units of a page, or of 64, of which eight are a superpage.
LARGE = 64
SUPER = freebsd.NBPDR // PAGE
BASE = 0x1_0000_0000 // PAGE
OK, NO_SPACE, INVALID = freebsd.KERN_SUCCESS, freebsd.KERN_NO_SPACE, freebsd.KERN_INVALID_ADDRESS

#: What a thread holds: first page, pages.
Piece = list[int]

sizes = st.integers(1, 4)
lengths = st.sampled_from([1, 1, 2, 3, 8, 9])
places = st.integers(0, 15)
STRATEGIES = ["any", "aligned2", "aligned4", "super", "optimal"]


@dataclass(slots=True)
class World:
    """One map, its unit in pages, and what was taken at the start."""

    k: Kernel
    map: freebsd.VmMap
    unit: int
    initial: list[tuple[int, int]]

    @property
    def waits(self) -> bool:
        """Does one wait for addresses here? Then whoever frees some must say so."""
        return self.map.kind is freebsd.MapKind.SUBMAP

    async def unmap(self, page: int, pages: int) -> None:
        if self.waits:
            await freebsd.kmap_free_wakeup(self.map, page * PAGE, pages * PAGE)
        else:
            assert await freebsd.vm_map_remove(self.map, page * PAGE, (page + pages) * PAGE) == OK


class FreeBSDMachine(KernelMachine[World]):
    """FreeBSD 13 and 10.4: system, user and sub maps."""

    #: Map classes by version.
    map_classes: ClassVar[dict[str, type[freebsd.VmMap]]] = freebsd.VERSIONS
    search: ClassVar[freebsd.Search] = freebsd.Search.FIRST_FIT
    max_steps = 3_000
    held: Bundle[Ref] = Bundle("held")

    @initialize(
        version=st.sampled_from(["13", "2013"]),
        kind=st.sampled_from(["submap", "user", "system"]),
        unit=st.sampled_from([1, LARGE]),
        units=st.integers(4, 24),
        taken=st.integers(0, 4),
        at=places,
    )
    def a_map(self, *, version: str, kind: str, unit: int, units: int, taken: int, at: int) -> None:
        taken = min(taken, units)
        self.describe_world(
            version=version,
            kind=kind,
            unit=unit,
            pages=units * unit,
            taken=taken * unit,
            at=at % (units - taken + 1) * unit,
        )

    def build(
        self,
        k: Kernel,
        version: str = "13",
        kind: str = "submap",
        unit: int = 1,
        pages: int = 8,
        taken: int = 0,
        at: int = 0,
    ) -> World:
        cls = self.map_classes[version]
        search = self.search if version == "13" else freebsd.Search.FIRST_FIT
        the_map = freebsd.setup(k, pages, kind=freebsd.MapKind(kind), search=search, min_offset=BASE * PAGE, cls=cls)
        if taken:
            the_map.fill(taken, offset=at)
        return World(k, the_map, unit, [(BASE + at, BASE + at + taken)] if taken else [])

    # ------------------------------------------------------------ operations

    @operation(target=held, size=sizes)
    async def alloc(self, world: World, size: int) -> Any:
        """kmap_alloc_wait where one waits, else the first fit."""
        pages = size * world.unit
        if world.waits:
            addr = await freebsd.kmap_alloc_wait(world.map, pages * PAGE)
        else:
            _, addr = await freebsd.vm_map_find(world.map, None, 0, BASE * PAGE, pages * PAGE)
        return [addr // PAGE, pages] if addr else None

    @operation(
        target=held,
        at=places,
        size=lengths,
        bound=st.sampled_from([0, 0, 0, 1, 2, 3, 4]),
        strategy=st.sampled_from(STRATEGIES),
        color=st.sampled_from([None, 0, 1, 5]),
        read_only=st.booleans(),
    )
    async def find(
        self,
        world: World,
        *,
        at: int,
        size: int,
        bound: int,
        strategy: str,
        color: int | None,
        read_only: bool,
    ) -> Any:
        """vm_map_find; those that look at superpages map an object that may have a colour."""
        obj = None
        if strategy in ("super", "optimal"):
            obj = freebsd.VmObject(size * world.unit)
            obj.pg_color = None if color is None else color * LARGE
        hint, length = (BASE + at * world.unit) * PAGE, size * world.unit * PAGE
        max_addr = hint + length + (bound - 1) * world.unit * PAGE if bound else 0
        prot = freebsd.VM_PROT_READ if read_only else freebsd.VM_PROT_RW
        rc, addr = await freebsd.vm_map_find(
            world.map, obj, 0, hint, length, max_addr, find_space(strategy, world), prot
        )
        return [addr // PAGE, size * world.unit] if not rc else None

    @operation(target=held, at=places, size=sizes)
    async def fixed(self, world: World, at: int, size: int) -> Any:
        """vm_map_fixed, only where nothing is."""
        page, pages = BASE + at * world.unit, size * world.unit
        excl = freebsd.MAP_CHECK_EXCL
        rc = await freebsd.vm_map_fixed(world.map, None, 0, page * PAGE, pages * PAGE, cow=excl)
        # What of it is beyond the map is cut off.
        end = min(page + pages, world.map.max_offset // PAGE)
        return [page, end - page] if not rc else None

    @operation(target=held, on="what", what=consumes(held))
    async def remap(self, world: World, what: Piece | None) -> Any:
        """vm_map_fixed in place of what one holds."""
        if what is not None:
            obj = freebsd.VmObject(what[1])
            rc = await freebsd.vm_map_fixed(world.map, obj, 0, what[0] * PAGE, what[1] * PAGE)
            assert rc == OK
        return what

    @operation(on="what", what=consumes(held))
    async def free(self, world: World, what: Piece | None) -> Any:
        if what is not None:
            await world.unmap(*what)
        return what

    @operation(what=consumes(held))
    async def free_elsewhere(self, world: World, what: Piece | None) -> Any:
        if what is not None:
            await world.unmap(*what)
        return what

    @operation(target=held, on="what", what=consumes(held), skip=st.integers(0, 200), pages=st.integers(1, 100))
    async def unmap_part(self, world: World, what: Piece | None, skip: int, pages: int) -> Any:
        """The lower part that is left, if any; what is left above stays taken for ever."""
        if what is None:
            return None
        page, length = what
        skip %= length
        await world.unmap(page + skip, min(pages, length - skip))
        return [page, skip] if skip else None

    @operation(at=places, upgrade=st.booleans())
    async def look(self, world: World, *, at: int, upgrade: bool) -> Any:
        """While one reads, nothing changes; nor does it if the upgrade says so."""
        lock = world.map.lock
        addr = (BASE + at * world.unit) * PAGE
        await lock.lock_read()
        found, entry = await freebsd.vm_map_lookup_entry(world.map, addr)
        await world.k.yield_()
        assert world.map.entries.lookup(addr) == (found, entry)
        if not upgrade or world.map.kind is freebsd.MapKind.SYSTEM:
            await lock.unlock_read()
        elif await lock.lock_upgrade():
            assert world.map.entries.lookup(addr) == (found, entry)
            await lock.lock_downgrade()
            assert world.map.entries.lookup(addr) == (found, entry)
            await lock.unlock_read()
        return found

    @operation(yields=st.integers(0, 2), wait=st.booleans())
    async def busy(self, world: World, *, yields: int, wait: bool) -> None:
        """Mark the map busy for a while, or wait until it is not."""
        lock = world.map.lock
        await lock.lock()
        if wait:
            await lock.wait_busy()
            assert not lock.busy_count
        else:
            await lock.busy()
            await lock.unlock()
            for _ in range(yields):
                await world.k.yield_()
            await lock.lock()
            await lock.unbusy()
        await lock.unlock()

    # ------------------------------------------------------------ the model

    def after(self, execution: Execution[World]) -> None:
        Sequential(execution).check()
        check_held(execution)


def find_space(strategy: str, world: World) -> int:
    names = {"any": freebsd.VMFS_ANY_SPACE, "super": freebsd.VMFS_SUPER_SPACE, "optimal": freebsd.VMFS_OPTIMAL_SPACE}
    align = units_to_align(strategy) * world.unit * PAGE
    return names[strategy] if strategy in names else freebsd.VMFS_ALIGNED_SPACE(align.bit_length() - 1)


def units_to_align(strategy: str) -> int:
    return int(strategy.removeprefix("aligned")) if strategy.startswith("aligned") else 0


class Sequential:
    """A program, hold by hold, on a flat list of pages."""

    def __init__(self, execution: Execution[World]) -> None:
        self.execution = execution
        self.world = execution.world
        self.map = self.world.map
        self.flat = Flat(BASE, self.map.max_offset // PAGE, list(self.world.initial))

    def check(self) -> None:
        lock = self.map.lock
        raw = lock.sx if isinstance(lock, freebsd.UserMapLock) else lock.system_mtx
        holds = self.execution.holds(raw)
        for hold in holds:
            if hold.by is not None:
                mine = [one for one in holds if one.by is hold.by]
                self.step(hold.by, mine.index(hold), len(mine))
        entries = joined([(entry.start // PAGE, entry.end // PAGE) for entry in self.map.entries])
        assert entries == self.flat.taken
        assert self.map.size == sum(end - start for start, end in self.flat.taken) * PAGE

    def step(self, op: Performed, at: int, holds: int) -> None:
        """What an operation did in one of its holds."""
        last = op.done and at == holds - 1
        match op.name:
            case "alloc":
                self.found(op, self.flat.first_fit(BASE, op.args["size"] * self.world.unit), wanted=last)
            case "find":
                self.find(op, first=at == 0, last=last)
            case "fixed":
                page = BASE + op.args["at"] * self.world.unit
                end = min(page + op.args["size"] * self.world.unit, self.flat.high)
                free = page < end and self.flat.free(page, end - page)
                self.found(op, page if free else None, wanted=True, pages=end - page)
            case "free" | "free_elsewhere" | "unmap_part":
                self.flat.give(*freed(op))
            case "remap":
                assert all(self.flat.covers(page) for page in range(*span(op.args["what"])))
            case "look" if at == 0 and op.done:
                place = BASE + op.args["at"] * self.world.unit
                assert op.result == self.flat.covers(place), f"{op}: {self.flat}"

    def find(self, op: Performed, *, first: bool, last: bool) -> None:
        align, rest = wanted(op, self.world)
        optimal = op.args["strategy"] == "optimal"
        if self.map.version == "13":
            place = self.first_13(op, align, rest)
            if place is None and optimal:
                place = self.first_13(op, 1, 0)
            self.found(op, place, wanted=last)
        elif last and first:
            self.found(op, self.first_2013(op, align, rest), wanted=True)
        else:
            # 10.4 lets go of the lock before OPTIMAL settles for any address.
            assert optimal, f"{op} took the lock twice"
            where = self.first_2013(op, *((1, 0) if last else (align, rest)))
            self.found(op, where, wanted=last)

    def first_13(self, op: Performed, align: int, rest: int) -> int | None:
        """The lowest place that is right, if it is within the bound."""
        hint, pages, bound = request(op, self.world)
        return self.flat.first_fit(hint, pages, align, rest, bound)

    def first_2013(self, op: Performed, align: int, rest: int) -> int | None:
        """Places that fit, each moved up to one that is right, until that is free; only the former heed the bound."""
        hint, pages, bound = request(op, self.world)
        while (place := self.flat.first_fit(hint, pages, bound=bound)) is not None:
            hint = place + (rest - place) % align
            if hint + pages > self.flat.high:
                return None
            if self.flat.free(hint, pages):
                return hint
        return None

    def found(self, op: Performed, place: int | None, *, wanted: bool, pages: int = 0) -> None:
        """The model has found that place: the operation must have, too."""
        got = op.result if wanted else None
        assert place == (got[0] if got is not None else None), f"{op}: {self.flat}"
        if place is not None:
            self.flat.take(place, pages or op.args["size"] * self.world.unit)


def request(op: Performed, world: World) -> tuple[int, int, int]:
    """Hint, pages, bound (0 for none)."""
    hint, pages = BASE + op.args["at"] * world.unit, op.args["size"] * world.unit
    bound = hint + pages + (op.args["bound"] - 1) * world.unit if op.args["bound"] else 0
    return hint, pages, bound


def wanted(op: Performed, world: World) -> tuple[int, int]:
    """The addresses that are right, in pages: so much modulo that."""
    strategy, color = op.args["strategy"], op.args["color"]
    if align := units_to_align(strategy):
        return align * world.unit, 0
    if strategy == "any" or (strategy == "optimal" and color is None):
        return 1, 0
    rest = (color or 0) * LARGE % SUPER
    pages = op.args["size"] * world.unit
    return (SUPER, rest) if pages - -rest % SUPER >= SUPER else (1, 0)


def span(piece: Piece) -> tuple[int, int]:
    return piece[0], piece[0] + piece[1]


def freed(op: Performed) -> Piece:
    """What an operation that frees has freed."""
    page, length = op.args["what"]
    if op.name != "unmap_part":
        return [page, length]
    skip = op.args["skip"] % length
    return [page + skip, min(op.args["pages"], length - skip)]


def check_held(execution: Execution[World]) -> None:
    """By the results alone: no two pieces that are held overlap, and together they are all that is taken."""
    held = {Ref(-1, 0): {page for one in execution.world.initial for page in range(*one)}}
    #: What is left of a piece is held by whom the piece was allocated for.
    owner: dict[Ref, Ref] = {}
    for op in execution.operations():
        what = op.step.args.get("what")
        if not op.done:
            continue
        if what is None:
            if isinstance(op.result, list):
                held[op.ref] = set(range(*span(op.result)))
                owner[op.ref] = op.ref
        elif op.args["what"] is not None:
            owner[op.ref] = owner[what]
            if op.name != "remap":
                held[owner[what]] -= set(range(*span(freed(op))))
    taken = set().union(*held.values())
    assert sum(len(pages) for pages in held.values()) == len(taken), "two pieces that are held overlap"
    entries = execution.world.map.entries
    assert taken == {page for entry in entries for page in range(entry.start // PAGE, entry.end // PAGE)}
