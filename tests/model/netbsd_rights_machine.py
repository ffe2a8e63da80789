"""Programs that protect, wire, extract and replace what NetBSD's maps have, and what they must come to.

The model has a list of pages for each map, and knows of each page what its entry knows, and whether an entry begins
there. It goes through the program in the order in which the operations held the map's lock. Marked busy, a map belongs to
the marker even while it is not locked: so an operation does at once, in its first hold, what it does to one map. Only an
extraction comes in parts: it reserves, copies, puts in, and perhaps gives back what it had reserved.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, consumes, initialize

from stressvm.stateful import KernelMachine, Ref, operation
from stressvm.vm import netbsd
from tests.model.netbsd_pages import PAGES, Pages
from tests.model.netbsd_turns import Piece, Sequential

if TYPE_CHECKING:
    from stressvm import Kernel
    from stressvm.stateful import Execution

PAGE = netbsd.PAGE_SIZE
READ, ALL, NONE = netbsd.VM_PROT_READ, netbsd.VM_PROT_ALL, netbsd.VM_PROT_NONE
RW = READ | netbsd.VM_PROT_WRITE
REMOVE, CONTIG, QREF = netbsd.UVM_EXTRACT_REMOVE, netbsd.UVM_EXTRACT_CONTIG, netbsd.UVM_EXTRACT_QREF
FIXPROT, RESERVED = netbsd.UVM_EXTRACT_FIXPROT, netbsd.UVM_EXTRACT_RESERVED

which_map = st.integers(0, 1)
places = st.sampled_from([*range(PAGES), 2, 3, 4, 5, 6, 7])
lengths = st.integers(1, 3)
taken = st.tuples(st.integers(0, 3), st.integers(3, 8), st.sampled_from([ALL, ALL, NONE]))
prots = st.sampled_from([RW, READ, ALL, NONE])
how_to_extract = st.sampled_from([0, REMOVE, REMOVE, CONTIG, QREF, FIXPROT, QREF | CONTIG, REMOVE | FIXPROT])


def first_free_repaired(cls: type[netbsd.VmMap]) -> type[netbsd.VmMap]:
    """A map, but in which uvm_map_replace leaves no gap before first_free.

    As it was shipped, it does where a chain has holes or is empty, and an invariant reports that (G6).
    """

    class Repaired(cls):  # type: ignore[misc, valid-type]  # whichever it is
        def replace(self, start: int, end: int, chain: list[netbsd.MapEntry]) -> bool:
            replaced: bool = super().replace(start, end, chain)
            ungapped: list[netbsd.MapEntry | None] = [None]
            at = self.min_offset
            for entry in self.entries:
                if entry.start != at:
                    break
                ungapped.append(entry)
                at = entry.end
            if self.first_free not in ungapped:
                self.first_free: netbsd.MapEntry | None = ungapped[-1]
            return replaced

    return Repaired


@dataclass(slots=True)
class World:
    """Two maps. With `moves` mappings are moved out of the second, and then nothing is wired there.

    (uvm_map_extract with REMOVE does not unwire; detaching what is wired panics.)
    """

    k: Kernel
    maps: list[netbsd.VmMap]
    taken: list[Piece]
    moves: bool

    def span(self, where: int, at: int, pages: int) -> tuple[int, int]:
        """Addresses; the range is cut to the map."""
        base = self.maps[where].min_offset
        return base + at * PAGE, base + min(at + pages, PAGES) * PAGE

    def wirable(self, where: int) -> int:
        """The map that is wired in the place of that one."""
        return 0 if self.moves else where

    def source(self, src: int, dst: int, flags: int) -> tuple[int, int]:
        """Where an extraction is really from, and its flags: REMOVE is only for what goes from the second map to the first."""
        if flags & REMOVE and self.moves and dst == 0:
            return 1, flags
        return src, flags & ~REMOVE


class NetBSDRightsMachine(KernelMachine[World]):
    """NetBSD 6 and 5.2: protection, inheritance, wiring, extraction, replacement."""

    threads_max = 4
    map_class: ClassVar[type[netbsd.VmMap]] = first_free_repaired(netbsd.VmMap)
    kept: Bundle[Ref] = Bundle("kept")

    @initialize(
        version=st.sampled_from(["6", "5.2"]),
        taken=st.tuples(taken, taken),
        bad=st.sampled_from([[], [2, 5], [1, 4, 7], [3, 6]]),
        lookups=st.sampled_from([False, False, True]),
        moves=st.booleans(),
        future=st.booleans(),
        debug=st.booleans(),
    )
    def two_maps(
        self, *, version: str, taken: list[Piece], bad: list[int], lookups: bool, moves: bool, future: bool, debug: bool
    ) -> None:
        self.describe_world(
            version=version, taken=taken, bad=bad, lookups=lookups, moves=moves, future=future, debug=debug
        )

    def build(
        self,
        k: Kernel,
        *,
        version: str = "6",
        taken: list[Piece] | None = None,
        bad: list[int] | None = None,
        lookups: bool = False,
        moves: bool = False,
        future: bool = False,
        debug: bool = False,
    ) -> World:
        """`taken`: for each map first page, pages and protection. `bad`: pages that cannot be faulted in, in both maps, unless `lookups`."""
        options = netbsd.Options.DIAGNOSTIC
        if debug:
            options |= netbsd.Options.DEBUG
        flags = netbsd.VM_MAP_PAGEABLE
        maps: list[netbsd.VmMap] = []
        for name, base in (("one", 0xC000_0000), ("two", 0xD000_0000)):
            fault = netbsd.LockingFault() if lookups else netbsd.FailingFault(base + page * PAGE for page in bad or [])
            made = netbsd.setup(
                k,
                PAGES,
                version=version,
                flags=flags | (netbsd.VM_MAP_WIREFUTURE if future and not (moves and maps) else 0),
                name=name,
                min_offset=base,
                options=options,
                fault=fault,
                cls=self.map_class,
            )
            maps.append(made)
        for vm_map, (at, pages, prot) in zip(maps, taken or [], strict=False):
            vm_map.fill(pages, offset=at)
            assert vm_map.entries.first is not None
            vm_map.entries.first.protection = prot
        return World(k, maps, [list(piece) for piece in taken or []], moves)

    # ------------------------------------------------------------ operations

    @operation(
        where=which_map,
        at=places,
        pages=lengths,
        prot=prots,
        fixed=st.booleans(),
        copy=st.sampled_from([False, False, True]),
        flags=st.sampled_from([0, 0, netbsd.UVM_FLAG_NOWAIT, netbsd.UVM_FLAG_TRYLOCK]),
    )
    async def map(
        self, world: World, *, where: int, at: int, pages: int, prot: int, fixed: bool, copy: bool, flags: int
    ) -> list[int]:
        """A copy never merges, so that amaps do not either."""
        start, end = world.span(where, at, pages)
        flags |= netbsd.UVM_FLAG_FIXED if fixed else 0
        flags |= netbsd.UVM_FLAG_COPYONW | netbsd.UVM_FLAG_NOMERGE if copy else 0
        error, va = await netbsd.uvm_map(world.maps[where], start, end - start, flags=flags, prot=prot)
        return [error, self.page(world, where, va)]

    @operation(where=which_map, at=places, pages=lengths)
    async def unmap(self, world: World, where: int, at: int, pages: int) -> None:
        await netbsd.uvm_unmap(world.maps[where], *world.span(where, at, pages))

    @operation(where=which_map, at=places, pages=lengths, prot=prots, most=st.sampled_from([False, False, True]))
    async def protect(self, world: World, *, where: int, at: int, pages: int, prot: int, most: bool) -> int:
        span = world.span(where, at, pages)
        return await netbsd.uvm_map_protect(world.maps[where], *span, prot, set_max=most)

    @operation(where=which_map, at=places, pages=lengths, how=st.integers(0, 3))
    async def inherit(self, world: World, where: int, at: int, pages: int, how: int) -> int:
        return await netbsd.uvm_map_inherit(world.maps[where], *world.span(where, at, pages), how)

    @operation(where=which_map, at=places, pages=lengths)
    async def wire(self, world: World, where: int, at: int, pages: int) -> int:
        where = world.wirable(where)
        return await netbsd.uvm_map_pageable(world.maps[where], *world.span(where, at, pages), new_pageable=False)

    @operation(where=which_map, at=places, pages=lengths)
    async def unwire(self, world: World, where: int, at: int, pages: int) -> int:
        where = world.wirable(where)
        return await netbsd.uvm_map_pageable(world.maps[where], *world.span(where, at, pages), new_pageable=True)

    @operation(where=which_map, flags=st.sampled_from([0, 1, 1, 2, 3, 3]))
    async def pageable_all(self, world: World, where: int, flags: int) -> int:
        return await netbsd.uvm_map_pageable_all(world.maps[world.wirable(where)], flags)

    @operation(src=which_map, dst=which_map, at=places, pages=lengths, flags=how_to_extract)
    async def extract(self, world: World, *, src: int, dst: int, at: int, pages: int, flags: int) -> list[int]:
        src, flags = world.source(src, dst, flags)
        start, end = world.span(src, at, pages)
        error, va = await netbsd.uvm_map_extract(world.maps[src], start, end - start, world.maps[dst], flags=flags)
        return [error, self.page(world, dst, va)]

    @operation(target=kept, where=which_map, pages=st.integers(1, 3))
    async def reserve(self, world: World, where: int, pages: int) -> Piece | None:
        vm_map = world.maps[where]
        va = await netbsd.uvm_map_reserve(vm_map, pages * PAGE, vm_map.min_offset)
        return None if va is None else [where, self.page(world, where, va), pages]

    @operation(on="what", what=consumes(kept), src=which_map, at=st.integers(0, PAGES - 3), flags=how_to_extract)
    async def extract_reserved(
        self, world: World, *, what: Piece | None, src: int, at: int, flags: int
    ) -> list[int] | None:
        if what is None:
            return None
        dst, page, pages = what
        src, flags = world.source(src, dst, flags)
        start, end = world.span(src, at, pages)
        error, va = await netbsd.uvm_map_extract(
            world.maps[src],
            start,
            end - start,
            world.maps[dst],
            dstaddr=world.span(dst, page, pages)[0],
            flags=flags | RESERVED,
        )
        return [error, self.page(world, dst, va)]

    @operation(on="what", what=consumes(kept), prot=prots, mask=st.integers(0, 7))
    async def replace(self, world: World, what: Piece | None, prot: int, mask: int) -> bool | None:
        """The bits of the mask are pages of the range that are mapped from then on, each by itself."""
        if what is None:
            return None
        where, page, pages = what
        start, end = world.span(where, page, pages)
        chain = [netbsd.MapEntry(at, at + PAGE) for n, at in enumerate(range(start, end, PAGE)) if mask >> n & 1]
        for entry in chain:
            entry.protection = prot
        vm_map = world.maps[where]
        await vm_map.lock.lock()
        replaced = netbsd.uvm_map_replace(vm_map, start, end, chain)
        await vm_map.lock.unlock()
        return replaced

    @operation(where=which_map, at=places)
    async def look(self, world: World, where: int, at: int) -> bool:
        """While one reads, no entry changes, busy or not."""
        vm_map = world.maps[where]
        await vm_map.lock.lock_read()
        found, entry = netbsd.uvm_map_lookup_entry(vm_map, vm_map.min_offset + at * PAGE)
        before = entry and (entry.start, entry.end, entry.protection, entry.wired_count, entry.inheritance)
        await world.k.yield_()
        assert vm_map.lookup(vm_map.min_offset + at * PAGE) == (found, entry)
        assert before == (entry and (entry.start, entry.end, entry.protection, entry.wired_count, entry.inheritance))
        await vm_map.lock.unlock_read()
        return found

    @staticmethod
    def page(world: World, where: int, va: int) -> int:
        """The number of a page by its address; -1 for no address."""
        return (va - world.maps[where].min_offset) // PAGE if va else -1

    # ------------------------------------------------------------ the model

    def after(self, execution: Execution[World]) -> None:
        world = execution.world
        pages = [Pages(vm_map.version) for vm_map in world.maps]
        facts = execution.program.world
        for model in pages:
            model.bad = frozenset() if facts.get("lookups") else frozenset(facts.get("bad") or [])
            model.future = bool(facts.get("future")) and not (world.moves and model is pages[1])
            model.lookups = bool(facts.get("lookups"))
        for model, piece in zip(pages, world.taken, strict=False):
            model.fill(*piece)
        Sequential(execution, pages).check()


netbsd_rights_machine = NetBSDRightsMachine.scenario("netbsd_rights_machine")
