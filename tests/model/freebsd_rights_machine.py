"""Programs that protect, wire, unwire, fault into, fork and unmap FreeBSD's maps, and what they must come to.

The model knows of each page whether it is mapped, what may be done with it, and how often it is wired. It goes through
the program in the order in which the operations held the map's lock for the last time: that is when they do what they
do. Only unmapping may do it in several holds, when it has to wait in between: meanwhile the model does not know.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import initialize

from stressvm.stateful import Execution, KernelMachine, Performed, operation
from stressvm.vm import freebsd

if TYPE_CHECKING:
    from stressvm import Kernel

PAGE = freebsd.PAGE_SIZE
BASE = 0x1_0000_0000
READ, RW, ALL = freebsd.VM_PROT_READ, freebsd.VM_PROT_RW, freebsd.VM_PROT_ALL
SET_PROT, SET_MAXPROT = freebsd.VM_MAP_PROTECT_SET_PROT, freebsd.VM_MAP_PROTECT_SET_MAXPROT
OK = freebsd.KERN_SUCCESS
PAGES = 8

places = st.integers(0, PAGES - 1)
lengths = st.integers(1, 4)
prots = st.sampled_from([READ, RW, RW, 0])


def stepped_back(cls: type[freebsd.VmMap]) -> type[freebsd.VmMap]:
    """A version's map, but in which wiring looks its first entry up again after every wait.

    As they were shipped, both versions can forget an entry in transition: see the scenario
    freebsd13_wire_in_transition_for_ever. Programs at random run into that, too, but rarely.
    """

    class SteppedBack(cls):  # type: ignore[misc, valid-type]  # whichever it is
        async def wait_in_transition(
            self, progress: freebsd.Pass, entry: freebsd.VmMapEntry
        ) -> freebsd.VmMapEntry | None:
            known = entry is progress.first
            found: freebsd.VmMapEntry | None = await super().wait_in_transition(progress, entry)
            if not known:
                progress.first = None
            return found

    return SteppedBack


@dataclass(slots=True)
class World:
    """A map, and the process that it is of, if it is of one."""

    k: Kernel
    map: freebsd.VmMap
    vmspace: freebsd.Vmspace | None

    def span(self, at: int, pages: int) -> tuple[int, int]:
        return BASE + at * PAGE, BASE + min(at + pages, PAGES) * PAGE


class FreeBSDRightsMachine(KernelMachine[World]):
    """FreeBSD 13 and 10.4: user maps and kernel submaps."""

    map_classes: ClassVar[dict[str, type[freebsd.VmMap]]] = {
        version: stepped_back(cls) for version, cls in freebsd.VERSIONS.items()
    }
    #: Versions that fork: in 10.4 that does not go together with protecting what somebody is wiring.
    forks: ClassVar[frozenset[str]] = frozenset({"13"})
    max_steps = 3_000

    @initialize(
        version=st.sampled_from(["13", "2013"]),
        kind=st.sampled_from(["user", "submap"]),
        layout=st.lists(st.tuples(st.integers(0, 1), st.integers(1, 4), prots), min_size=1, max_size=3),
        bad=st.sampled_from([[], [], [1], [2, 5]]),
        lookups=st.booleans(),
    )
    def a_map(
        self, *, version: str, kind: str, layout: list[tuple[int, int, int]], bad: list[int], lookups: bool
    ) -> None:
        self.describe_world(version=version, kind=kind, layout=layout, bad=bad, lookups=lookups)

    def build(
        self,
        k: Kernel,
        *,
        version: str = "13",
        kind: str = "user",
        layout: list[list[int]] | None = None,
        bad: list[int] | None = None,
        lookups: bool = False,
    ) -> World:
        """The layout: one mapping after the other, each with the pages left out before it."""
        # What a fork leaves to be copied is copied by the faults of wiring, if these are real.
        faults = freebsd.LookupFault if lookups or kind == "user" else freebsd.Fault
        fault = faults([BASE + page * PAGE for page in bad or []])
        cls, end = self.map_classes[version], BASE + PAGES * PAGE
        vmspace = None
        if kind == "user":
            vmspace = freebsd.vmspace_alloc(k, BASE, end, version=version, name="map", cls=cls, fault=fault)
            the_map = vmspace.map
        else:
            the_map = cls(k, BASE, end, kind=freebsd.MapKind(kind), name="map", fault=fault)
        at = 0
        for gap, pages, prot in layout or []:
            start, end = BASE + (at + gap) * PAGE, BASE + min(at + gap + pages, PAGES) * PAGE
            if start < end:
                assert the_map.insert(None, 0, start, end, prot, ALL) == OK
            at += gap + pages
        return World(k, the_map, vmspace)

    # ------------------------------------------------------------ operations

    @operation(at=places, pages=lengths, user=st.booleans(), write=st.booleans())
    async def wire(self, world: World, *, at: int, pages: int, user: bool, write: bool) -> int:
        how = freebsd.VM_MAP_WIRE_USER if user else freebsd.VM_MAP_WIRE_SYSTEM
        flags = how | (freebsd.VM_MAP_WIRE_WRITE if write else 0)
        return await freebsd.vm_map_wire(world.map, *world.span(at, pages), flags)

    @operation(at=places, pages=lengths, user=st.booleans())
    async def unwire(self, world: World, *, at: int, pages: int, user: bool) -> int:
        how = freebsd.VM_MAP_WIRE_USER if user else freebsd.VM_MAP_WIRE_SYSTEM
        return await freebsd.vm_map_unwire(world.map, *world.span(at, pages), how)

    @operation(at=places, pages=lengths, prot=prots, most=st.sampled_from([None, None, ALL, RW, READ]))
    async def protect(self, world: World, at: int, pages: int, prot: int, most: int | None) -> int:
        flags = SET_PROT | (SET_MAXPROT if most is not None else 0)
        return await freebsd.vm_map_protect(world.map, *world.span(at, pages), prot, most or 0, flags)

    @operation(at=places, pages=lengths, how=st.integers(0, 3))
    async def inherit(self, world: World, at: int, pages: int, how: int) -> int:
        return await freebsd.vm_map_inherit(world.map, *world.span(at, pages), how)

    @operation(at=places, pages=lengths)
    async def remove(self, world: World, at: int, pages: int) -> int:
        return await freebsd.vm_map_remove(world.map, *world.span(at, pages))

    @operation(at=places, pages=lengths)
    async def insert(self, world: World, at: int, pages: int) -> int:
        """vm_map_fixed, only where nothing is."""
        start, end = world.span(at, pages)
        return await freebsd.vm_map_fixed(world.map, None, 0, start, end - start, RW, ALL, freebsd.MAP_CHECK_EXCL)

    @operation(at=places, write=st.booleans())
    async def fault(self, world: World, *, at: int, write: bool) -> list[int]:
        """What was found stays as long as the lock is held."""
        vaddr = BASE + at * PAGE
        result, found = await freebsd.vm_map_lookup(world.map, vaddr, RW if write else READ)
        if found is None:
            return [result, 0]
        await world.k.yield_()
        assert world.map.entries.lookup(vaddr) == (True, found.entry)
        await freebsd.vm_map_lookup_done(found)
        return [result, found.prot]

    @operation()
    async def fork(self, world: World) -> list[list[int]] | None:
        """What the child's pages are, before it ends: page, protection, the most it may become, inheritance."""
        if world.vmspace is None or world.map.version not in self.forks:
            return None
        child = await freebsd.fork1(world.vmspace)
        assert child is not None, "there is swap for it"
        left = [
            [(addr - BASE) // PAGE, entry.protection, entry.max_protection, entry.inheritance]
            for entry in child.map.entries
            for addr in range(entry.start, entry.end, PAGE)
        ]
        await freebsd.vmspace_free(child)
        return left

    # ------------------------------------------------------------ the model

    def after(self, execution: Execution[World]) -> None:
        Sequential(execution).check()


@dataclass(slots=True)
class Page:
    """One page. `known` is false while somebody may or may not have unmapped it already.

    `wirings` are those of the system; None if an unfinished operation may have added one.
    """

    mapped: bool = False
    prot: int = 0
    most: int = 0
    inherit: int = 0
    wirings: int = 0
    user: bool = False
    known: bool = True
    mapped_at: int = -1


@dataclass(slots=True)
class Sequential:
    """A program in the order of its operations' last holds, page by page.

    `step` is where in the trace it is, `since` where the operation there had the lock for the first time.
    """

    execution: Execution[World]
    pages: list[Page] = field(default_factory=list)
    step: int = -1
    since: int = -1

    def check(self) -> None:
        """Do it all, and compare."""
        self.pages = [Page() for _ in range(PAGES)]
        at = 0
        for gap, pages, prot in self.execution.program.world.get("layout", []):
            for page in self.pages[at + gap : at + gap + pages]:
                self.map_page(page, prot)
            at += gap + pages
        for step, op, since in sorted(self.turns(), key=lambda turn: turn[0]):
            self.step, self.since = step, since
            getattr(self, op.name)(op)
        self.compare()

    def turns(self) -> list[tuple[int, Performed, int]]:
        """When each operation did what it does, and since when: in its last hold.

        Unmapping in several holds has a turn for the first, too, and one that is not over has only that; in these the
        last number is -1.
        """
        world = self.execution.world
        lock = world.map.lock
        assert isinstance(lock, freebsd.UserMapLock)
        holds = self.execution.holds(lock.sx)
        found = []
        for op in self.execution.operations():
            mine = [hold for hold in holds if hold.by is op]
            if mine and op.name == "remove" and (len(mine) > 1 or not op.done):
                found.append((mine[0].start, op, -1))
            if mine and op.done:
                found.append((mine[-1].start, op, mine[0].start))
        return found

    def range(self, op: Performed) -> list[Page]:
        return self.pages[op.args["at"] : op.args["at"] + op.args["pages"]]

    def map_page(self, page: Page, prot: int) -> None:
        assert not (page.known and page.mapped), "mapped twice"
        page.known = page.mapped = True
        page.prot, page.most, page.inherit = prot, ALL, freebsd.VM_INHERIT_COPY
        page.wirings, page.user, page.mapped_at = 0, False, self.step

    # ------------------------------------------------------------ each operation

    def wire(self, op: Performed) -> None:
        pages = self.range(op)
        if op.result != OK:
            return
        assert all(page.mapped or not page.known for page in pages), f"{op}: wired a hole"
        for page in pages:
            if op.args["user"]:
                page.user = True
            else:
                page.wirings += 1

    def unwire(self, op: Performed) -> None:
        pages = self.range(op)
        if op.result != OK:
            return
        for page in pages:
            if op.args["user"]:
                page.user = False
            else:
                page.wirings -= 1
                assert page.wirings >= 0 or not page.known, f"{op}: what was not wired"

    def protect(self, op: Performed) -> None:
        pages = [page for page in self.range(op) if page.mapped]
        prot, most = op.args["prot"], op.args["most"]
        known = all(page.known for page in self.range(op))
        refused = any((prot | (most or 0)) & ~page.most for page in pages if page.known)
        if known or refused:
            assert op.result == (freebsd.KERN_PROTECTION_FAILURE if refused else OK), f"{op}: {pages}"
        if op.result == OK:
            for page in pages:
                page.prot, page.most = prot, page.most if most is None else most

    def inherit(self, op: Performed) -> None:
        assert op.result == OK
        for page in self.range(op):
            page.inherit = op.args["how"]

    def remove(self, op: Performed) -> None:
        """Begun, or done; what was mapped in between may have been too late for it."""
        for page in self.range(op):
            page.known = page.mapped_at < self.since or self.step == self.since
            page.mapped = page.mapped and not page.known

    def insert(self, op: Performed) -> None:
        pages = self.range(op)
        if all(page.known for page in pages):
            free = not any(page.mapped for page in pages)
            assert op.result == (OK if free else freebsd.KERN_NO_SPACE), f"{op}: {pages}"
        if op.result == OK:
            for page in pages:
                self.map_page(page, RW)

    def fault(self, op: Performed) -> None:
        page = self.pages[op.args["at"]]
        want = RW if op.args["write"] else READ
        if not page.known:
            return
        result = freebsd.KERN_INVALID_ADDRESS
        if page.mapped:
            result = freebsd.KERN_PROTECTION_FAILURE if want & ~page.prot or not page.prot else OK
        assert op.result[0] == result, f"{op}: {page}"
        if not result:
            # What has to be copied first, after a fork, is not writable for somebody who reads.
            copied = page.prot & (want | ~freebsd.VM_PROT_WRITE)
            assert op.result[1] in (page.prot, copied), f"{op}: {page}"

    def fork(self, op: Performed) -> None:
        """The child has what is not to be kept from it."""
        left = {page: rights for page, *rights in op.result}
        for number, page in enumerate(self.pages):
            if page.known:
                has = page.mapped and page.inherit != freebsd.VM_INHERIT_NONE
                rights = [page.prot, page.most, page.inherit] if has else None
                assert left.get(number) == rights, f"{op}: page {number}: {page}"

    # ------------------------------------------------------------ the end

    def compare(self) -> None:
        the_map = self.execution.world.map
        unfinished = [op for op in self.execution.operations() if not op.done]
        if not unfinished:
            assert not any(entry.eflags & freebsd.MAP_ENTRY_IN_TRANSITION for entry in the_map.entries)
            assert not the_map.lock.busy_count
        for number, page in enumerate(self.pages):
            if not page.known:
                continue
            found, entry = the_map.entries.lookup(BASE + number * PAGE)
            assert found == page.mapped, f"page {number}: {page}"
            if not found or entry is None:
                continue
            rights = (entry.protection, entry.max_protection, entry.inheritance)
            assert rights == (page.prot, page.most, page.inherit), f"page {number}: {page}"
            if not any(
                op.args.get("at", 0) <= number < op.args.get("at", 0) + op.args.get("pages", PAGES) for op in unfinished
            ):
                user = bool(entry.eflags & freebsd.MAP_ENTRY_USER_WIRED)
                assert (entry.system_wired_count, user) == (page.wirings, page.user), f"page {number}: {page}"
