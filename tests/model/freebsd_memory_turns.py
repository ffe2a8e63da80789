"""What the programs of `freebsd_memory_machine` must come to: each operation at the moment at which it does what it does.

The model knows of each page of each process what its entry says and what is in it. It changes a map when the hold of
the map's lock ends in which the operation has changed it: until then others may go on with what their processors
remember, and afterwards nobody may. Reading and writing happens when the processor translates, and failing to in the last
hold of the lock, for reading, in which the fault looked.

What a page holds is a cell; processes that share the page share it. It may hold one of several things as long as nobody
has looked: a fork copies wired memory at some moment while it is written to. Unmapping in several holds, with a sleep in
between, has unmapped one cannot know what, until it is over.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from stressvm.vm import freebsd
from stressvm.vm.pages import ZEROS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from stressvm.stateful import Execution, Hold, Performed
    from tests.model.freebsd_memory_world import World

PAGE: Final = freebsd.PAGE_SIZE
LOW: Final = 0x1_0000_0000
#: Pages of a process; those below COPIED are copied by a fork, the others shared.
PAGES: Final = 12
COPIED: Final = 8
R, W, RW, ALL = freebsd.VM_PROT_READ, freebsd.VM_PROT_WRITE, freebsd.VM_PROT_RW, freebsd.VM_PROT_ALL
OK: Final = freebsd.KERN_SUCCESS
UNMAPPED, FORBIDDEN, NO_SPACE = (
    freebsd.KERN_INVALID_ADDRESS,
    freebsd.KERN_PROTECTION_FAILURE,
    freebsd.KERN_NO_SPACE,
)
SHARE, COPY, NONE, ZERO = (
    freebsd.VM_INHERIT_SHARE,
    freebsd.VM_INHERIT_COPY,
    freebsd.VM_INHERIT_NONE,
    freebsd.VM_INHERIT_ZERO,
)
#: What a fault fails with for a page that cannot be read, and for one beyond the end of its file.
UNREADABLE: Final = {"13": freebsd.KERN_OUT_OF_BOUNDS, "2013": freebsd.KERN_FAILURE}
BEYOND: Final = {"13": freebsd.KERN_OUT_OF_BOUNDS, "2013": freebsd.KERN_PROTECTION_FAILURE}
#: What changes whether a range can be wired.
_REMAPS: Final = frozenset({"map", "unmap", "protect"})

Turn: TypeAlias = "tuple[int, Callable[[], None]]"


@dataclass(slots=True, eq=False)
class Cell:
    """What a page holds: one of these."""

    may: set[str]


@dataclass(slots=True)
class Page:
    """One page of one process. `known` is false while somebody may or may not have unmapped it already.

    `error` is what a fault fails with there; `mapped_at` the step at which it was mapped.
    """

    mapped: bool = False
    prot: int = 0
    inherit: int = COPY
    user: bool = False
    known: bool = True
    mapped_at: int = -1
    error: int = 0
    cell: Cell = field(default_factory=lambda: Cell({ZEROS}))

    def refusal(self, want: int) -> int:
        """What an access comes to."""
        if not self.mapped:
            return UNMAPPED
        return FORBIDDEN if want & ~self.prot or not self.prot else self.error


class Sequential:
    """A program, turn by turn."""

    def __init__(self, execution: Execution[World]) -> None:
        self.execution = execution
        self.world = execution.world
        self.version = self.world.version
        self.data: dict[int, Cell] = {}
        self.spaces: dict[int, list[Page]] = {}
        #: By the operation that forks: for each page what it has held since the copying began.
        self.forking: dict[Any, dict[int, set[str]]] = {}
        self.ops = execution.operations()
        self.holds: dict[int, list[Hold]] = {}
        for number, space in enumerate(self.world.spaces):
            lock = space.map.lock
            assert isinstance(lock, freebsd.UserMapLock)
            self.holds[number] = execution.holds(lock.sx)
        self.step = -1

    def check(self) -> None:
        """Do it all, and compare."""
        self.lay_out()
        for step, turn in sorted(self.turns(), key=lambda turn: turn[0]):
            self.step = step
            turn()
        if self.world.done:
            self.compare()
        if self.version == "13":
            rescued = [op for _, op, satisfied in self.execution.k.trace if op.kind == "timeout" and satisfied is True]
            assert not rescued, f"{rescued}: only the timeout has ended that sleep"

    # ------------------------------------------------------------ the beginning

    def lay_out(self) -> None:
        """As the machine does it when it builds the world."""
        world = self.execution.program.world
        for number, layout in enumerate(world.get("layouts", [[], []])):
            self.spaces[number] = [Page() for _ in range(PAGES)]
            at = 0
            for gap, pages, prot, file in layout:
                kind = "text" if file and self.world.without != "copy" else "anon"
                self.put(number, range(at + gap, min(at + gap + pages, COPIED)), kind, 0, prot)
                at += gap + pages
            if world.get("shared"):
                self.put(number, range(COPIED, PAGES), self.world.kind_of(world["shared"], COPIED), 0, RW)

    def put(self, space: int, pages: range, kind: str, offset: int, prot: int) -> None:
        """Map something."""
        for index, at in enumerate(pages):
            page = self.spaces[space][at]
            assert not (page.known and page.mapped), f"page {at} of {space} is mapped twice"
            inherit = COPY if at < COPIED else SHARE
            self.spaces[space][at] = made = Page(True, prot, inherit, mapped_at=self.step)
            number = index + offset
            if kind != "anon" and number >= 4:
                made.error = BEYOND[self.version]
            elif kind == "data":
                made.cell = self.data.setdefault(number, Cell({ZEROS if number == 3 else f"data:{number}"}))
            elif kind == "text":
                made.error = UNREADABLE[self.version] if number == 2 else 0
                made.cell = Cell({ZEROS if number == 3 else f"text:{number}"})

    # ------------------------------------------------------------ when

    def mine(self, op: Performed, *, exclusive: bool = True) -> list[Hold]:
        """The holds of an operation; those that have ended."""
        over = len(self.execution.k.trace)
        holds = self.holds[op.args["space"]]
        return [one for one in holds if one.by is op and one.exclusive >= exclusive and one.end < over]

    def turns(self) -> Iterator[Turn]:
        """What each operation did, and at which step."""
        for op in self.ops:
            if op.args.get("space") is None or (op.done and op.result is None):
                continue
            if op.name in ("read", "write"):
                yield from self.accesses(op)
            elif op.done or op.name in ("unmap", "map"):
                yield from self.changes(op)

    def accesses(self, op: Performed) -> Iterator[Turn]:
        """Each page by itself. One that is never done with has done nothing."""
        if not op.done:
            return
        steps = self.execution.steps_of(op)
        holds = self.mine(op, exclusive=False)
        for at, (rc, content, begin, end) in enumerate(op.result, op.args["at"]):
            if rc:
                when = [hold.start for hold in holds if begin <= hold.start < end][-1]
            else:
                when = [step for step, (_, o, _) in steps if o.kind == "access" and begin <= step < end][-1]
            yield when, partial(self.access, op, at, rc, content)

    def changes(self, op: Performed) -> Iterator[Turn]:
        """At the end of the last hold; of several that unmap, also of the first."""
        holds = self.mine(op)
        if not holds:
            # Such a range is empty.
            assert op.name in ("unmap", "protect", "mlock", "munlock", "vslock") or not op.done, (
                f"{op}: has locked nothing"
            )
            return
        unmaps = op.name == "unmap" or (op.name == "map" and op.args["how"] == "replace")
        if unmaps and (len(holds) > 1 or not op.done):
            yield holds[0].end, partial(self.begun, op)
        if op.name == "fork":
            yield holds[-1].start, partial(self.copying, op)
        if op.done:
            since = holds[0].end if len(holds) > 1 else -1
            yield holds[-1].end, partial(getattr(self, op.name), op, since)

    def range(self, op: Performed) -> list[Page]:
        """The pages of an operation, cut to the space, and to the lower part if it begins there and stays there."""
        end = op.args["at"] + op.args["pages"]
        if op.name in ("map", "inherit") and op.args["at"] < COPIED:
            end = min(end, COPIED)
        return self.spaces[op.args["space"]][op.args["at"] : end]

    # ------------------------------------------------------------ using memory

    def access(self, op: Performed, at: int, rc: int, content: str) -> None:
        space = op.args["space"]
        page = self.spaces[space][at]
        expected = page.refusal(R if op.name == "read" else W)
        assert rc == expected or (not page.known and rc in (OK, UNMAPPED)), f"{op}: page {at}: {page}"
        if rc:
            return
        if op.name == "read":
            self.see(op, page, content)
            return
        page.cell.may = {content}
        for by, seen in self.forking.items():
            if self.execution.performed[by.thread][by.index].args["space"] == space:
                seen[at].add(content)

    def see(self, what: object, page: Page, content: str) -> None:
        """That is what it holds."""
        assert content in page.cell.may, f"{what}: {content!r} is read, and it holds {page.cell.may}"
        page.cell.may = {content}

    # ------------------------------------------------------------ what is mapped

    def begun(self, op: Performed) -> None:
        """Unmapping has begun, and some of it is done."""
        for page in self.range(op):
            page.known = page.known and not page.mapped

    def unmapped(self, pages: list[Page], since: int) -> None:
        """It is over; what was mapped in between may have been too late for it."""
        for page in pages:
            page.known = since < 0 or page.mapped_at < since
            page.mapped = page.mapped and not page.known

    def unmap(self, op: Performed, since: int) -> None:
        assert op.result == OK
        self.unmapped(self.range(op), since)

    def map(self, op: Performed, since: int) -> None:
        rc, at, kind = op.result
        wanted = self.range(op)
        pages = self.spaces[op.args["space"]]
        if op.args["how"] == "replace":
            self.unmapped(wanted, since)
        found = op.args["at"]
        if op.args["how"] == "find" and found < COPIED:
            found = self.first_fit(pages, found, len(wanted))
        fits = found >= 0 and not any(page.mapped for page in pages[found : found + len(wanted)])
        if all(page.known for page in (pages if op.args["how"] == "find" else wanted)):
            assert (rc, at) == ((OK, found) if fits else (NO_SPACE, -1)), f"{op}: {pages}"
        if op.args["how"] == "replace" and since < 0:
            assert not rc, f"{op}: nobody could have been faster"
        if not rc:
            for page in pages[at : at + len(wanted)]:
                assert not (page.known and page.mapped), f"{op}: {page}"
                page.mapped = False
            self.put(op.args["space"], range(at, at + len(wanted)), kind, op.args["offset"], op.args["prot"])

    @staticmethod
    def first_fit(pages: list[Page], at: int, length: int) -> int:
        """The lowest place in the lower part, or -1."""
        fits = (
            place
            for place in range(at, COPIED - length + 1)
            if not any(page.mapped for page in pages[place : place + length])
        )
        return next(fits, -1)

    def protect(self, op: Performed, _: int) -> None:
        assert op.result == OK
        for page in self.range(op):
            page.prot = op.args["prot"]

    def inherit(self, op: Performed, _: int) -> None:
        assert op.result == OK
        for page in self.range(op):
            page.inherit = op.args["how"]

    # ------------------------------------------------------------ wiring

    def mlock(self, op: Performed, _: int) -> None:
        self.wired(op, op.result, op.end, R)
        for page in self.range(op) if not op.result else ():
            page.user = True

    def munlock(self, op: Performed, _: int) -> None:
        pages = self.range(op)
        if self.undisturbed(op, op.end) and all(page.known for page in pages):
            expected = OK if all(page.mapped for page in pages) else UNMAPPED
            assert op.result == expected, f"{op}: {pages}"
        for page in pages if not op.result else ():
            page.user = False

    def vslock(self, op: Performed, _: int) -> None:
        rc, wired, unwired = op.result
        self.wired(op, rc, wired, RW if op.args["write"] else R)
        assert unwired == OK, f"{op}: what was wired can be unwired"

    def wired(self, op: Performed, rc: int, end: int, want: int) -> None:
        """Wiring ends with the first page, in order of address, that cannot be wired."""
        pages = self.range(op)
        if rc == OK:
            assert all(page.mapped or not page.known for page in pages), f"{op}: wired a hole: {pages}"
        if self.undisturbed(op, end) and all(page.known for page in pages):
            assert rc == next((code for page in pages if (code := self.unwirable(page, want))), OK), f"{op}: {pages}"

    @staticmethod
    def unwirable(page: Page, want: int) -> int:
        """Without the rights is the same as not mapped."""
        return page.error if page.mapped and page.prot and not want & ~page.prot else UNMAPPED

    def undisturbed(self, op: Performed, end: int) -> bool:
        """From its first hold to that step, has nobody else changed what its pages are?"""
        holds = self.holds[op.args["space"]]
        begin = next(hold.start for hold in holds if hold.by is op)
        others = {
            hold.by.ref: hold.by
            for hold in holds
            if hold.by and hold.exclusive and begin < hold.end and hold.start < end
        }
        return not any(other.name in _REMAPS for other in others.values() if other is not op)

    # ------------------------------------------------------------ processes

    def copying(self, op: Performed) -> None:
        """The map is locked, and pages are copied, from here to the end of the hold."""
        self.forking[op.ref] = {at: set(page.cell.may) for at, page in enumerate(self.spaces[op.args["space"]])}

    def fork(self, op: Performed, _: int) -> None:
        """Mappings that are not wired cannot be written from some moment on; what is wired is copied at another."""
        seen = self.forking.pop(op.ref)
        parent = op.args["space"]
        self.spaces[op.result] = [
            self.left(page, seen[at], copied_at_once=page.user or self.being_wired(parent, at))
            for at, page in enumerate(self.spaces[parent])
        ]

    def left(self, page: Page, seen: set[str], *, copied_at_once: bool) -> Page:
        """What a child gets."""
        if page.inherit == SHARE:
            return replace(page, user=False)
        if page.inherit == NONE:
            return replace(page, mapped=False, user=False)
        if page.inherit == ZERO:
            return replace(page, user=False, error=0, cell=Cell({ZEROS}))
        return replace(page, user=False, cell=Cell(seen if copied_at_once else set(page.cell.may)))

    def being_wired(self, space: int, at: int) -> bool:
        """Is somebody at work on its wiring?"""
        return any(
            op.name in ("mlock", "munlock", "vslock")
            and op.args["space"] == space
            and op.begin <= self.step
            and (not op.done or op.end >= self.step)
            and op.args["at"] <= at < op.args["at"] + op.args["pages"]
            for op in self.ops
        )

    def terminate(self, op: Performed, since: int) -> None:
        assert since < 0, "nobody else is at work in it"
        self.unmapped(self.spaces[op.args["space"]], -1)

    # ------------------------------------------------------------ the end

    def compare(self) -> None:
        """What the last thread has seen."""
        for number, entries in self.world.entries.items():
            for at, page in enumerate(self.spaces[number]):
                found = entries.get(at)
                if page.known:
                    says = [page.prot, ALL, page.inherit, page.user, 0] if page.mapped else None
                    assert found == says, f"page {at} of {number}: {page}"
        for (number, at), (rc, content) in self.world.contents.items():
            page = self.spaces[number][at]
            assert not page.known or rc == page.refusal(R), f"page {at} of {number}: {rc}, {page}"
            if not rc:
                self.see(f"page {at} of {number}", page, content)
        if self.version == "13" and self.counted():
            users = sum(page.mapped and page.user for number in self.world.entries for page in self.spaces[number])
            assert self.world.user_wired == users * PAGE, (
                f"{self.world.user_wired:#x} bytes are counted, {users} pages wired"
            )

    def counted(self) -> bool:
        """Is what users have wired counted as it should be?

        13 counts wrongly where the system wires what a user does, too, and where wiring fails after others have cut the
        entry (see the scenario freebsd13_user_wired_given_back_twice).
        """
        return all(page.known for pages in self.spaces.values() for page in pages) and not any(
            op.name == "vslock" or (op.name == "mlock" and op.result) for op in self.ops if op.result is not None
        )
