"""The operations of NetBSDRightsMachine in the order in which they had their maps' locks, done once more on pages."""

from __future__ import annotations

from dataclasses import dataclass, field
from dataclasses import replace as dataclass_replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from stressvm.vm import netbsd
from tests.model.netbsd_pages import PAGES, Chain, Page, Pages

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from stressvm.stateful import Execution, Hold, Performed

PAGE = netbsd.PAGE_SIZE
RESERVED, REMOVE = netbsd.UVM_EXTRACT_RESERVED, netbsd.UVM_EXTRACT_REMOVE

#: Number of the map, first page, pages.
Piece: TypeAlias = list[int]
#: A step of the trace, and what the model does then.
Turn: TypeAlias = "tuple[int, Callable[[], None]]"


@dataclass(slots=True)
class Extraction:
    """One extraction: what is copied, from where, and to where."""

    op: Performed
    src: int
    dst: int
    at: int
    length: int
    flags: int
    to: int = -1
    chain: Chain = field(default_factory=list)
    error: int = 0


def same(op: Performed, got: Any) -> None:
    """The kernel's result must be the model's."""
    assert op.result == got, f"{op}: the model has {got}"


class Sequential:
    """A program, turn by turn, on the pages of both maps.

    Args:
        execution: the program, over.
        pages: the maps as they were in the beginning.
    """

    def __init__(self, execution: Execution[Any], pages: list[Pages]) -> None:
        self.execution = execution
        self.world = execution.world
        self.pages = pages
        self.misc = [vm_map.lock.misc_lock.ident.number for vm_map in self.world.maps]
        self.holds = [execution.holds(vm_map.lock.rw) for vm_map in self.world.maps]

    def check(self) -> None:
        """Do it all, and compare."""
        turns = [turn for op in self.execution.operations() for turn in self.turns(op)]
        for _, turn in sorted(turns, key=lambda turn: turn[0]):
            turn()
        self.compare()

    # ------------------------------------------------------------ when

    def mine(self, op: Performed, where: int) -> list[Hold]:
        """The holds in which an operation did something: without those given up because the map was busy."""
        return [hold for hold in self.holds[where] if hold.by is op and not self.gave_up(hold, where)]

    def gave_up(self, hold: Hold, where: int) -> bool:
        """Who waits for a busy map holds misc_lock when he gives up the lock; nobody else does."""
        misc = 0
        for thread, op, _ in self.execution.k.trace[hold.start : hold.end]:
            if thread == hold.thread and op.obj.number == self.misc[where]:
                misc += (op.kind == "lock") - (op.kind == "unlock")
        return misc > 0

    def tried(self, hold: Hold) -> bool:
        return self.execution.k.trace[hold.start][1].kind == "try-write-lock"

    def turns(self, op: Performed) -> Iterator[Turn]:
        """What an operation did, and when."""
        assert op.done, f"{op}: somebody waits for nothing"
        args = op.args
        if op.name in ("extract", "extract_reserved"):
            yield from self.extraction(op)
            return
        piece = args.get("what")
        where = piece[0] if piece else args.get("where", 0)
        if op.name in ("wire", "unwire", "pageable_all"):
            where = self.world.wirable(where)
        holds = self.mine(op, where)
        # Nothing was locked, or no more than tried.
        if holds and not (op.name == "map" and op.result[0] == netbsd.EAGAIN):
            # Mapping tries the lock first, in vain if the map is busy; the rest of what others do is up to their first hold.
            hold = holds[-1 if op.name in ("map", "reserve") else 0]
            yield hold.start, partial(getattr(self, op.name), op, self.pages[where])
        else:
            inherit = op.name == "inherit" and op.result == netbsd.EINVAL
            assert inherit or piece is None, f"{op}: has locked nothing"

    # ------------------------------------------------------------ each operation

    def span(self, op: Performed) -> tuple[int, int]:
        return op.args["at"], min(op.args["at"] + op.args["pages"], PAGES)

    def map(self, op: Performed, pages: Pages) -> None:
        start, end = self.span(op)
        place = pages.place(start, end - start, fixed=op.args["fixed"])
        same(op, [netbsd.ENOMEM, -1] if place is None else [0, place])
        if place is not None:
            page = Page(prot=op.args["prot"], advice=netbsd.UVM_ADV_NORMAL)
            if op.args["copy"]:
                page.flags = netbsd.UVM_MAP_NOMERGE
                page.etype = netbsd.UVM_ET_COPYONWRITE | netbsd.UVM_ET_NEEDSCOPY
            pages.put(place, end - start, page)

    def unmap(self, op: Performed, pages: Pages) -> None:
        pages.drop(*self.span(op))

    def protect(self, op: Performed, pages: Pages) -> None:
        same(op, pages.protect(*self.span(op), op.args["prot"], most=op.args["most"]))

    def inherit(self, op: Performed, pages: Pages) -> None:
        same(op, pages.inherit(*self.span(op), op.args["how"]))

    def wire(self, op: Performed, pages: Pages) -> None:
        same(op, pages.wire(*self.span(op)))

    def unwire(self, op: Performed, pages: Pages) -> None:
        same(op, pages.unwire(*self.span(op)))

    def pageable_all(self, op: Performed, pages: Pages) -> None:
        same(op, pages.all(op.args["flags"]))

    def look(self, op: Performed, pages: Pages) -> None:
        same(op, pages.pages[op.args["at"]] is not None)

    def reserve(self, op: Performed, pages: Pages) -> None:
        place = self.blank(pages, op.args["pages"])
        same(op, None if place is None else [op.args["where"], place, op.args["pages"]])

    @staticmethod
    def blank(pages: Pages, length: int) -> int | None:
        """uvm_map_reserve: where, if there is room."""
        place = pages.place(0, length, fixed=False)
        if place is not None:
            pages.put(place, length, Page(prot=0, most=0, flags=netbsd.UVM_MAP_NOMERGE))
        return place

    def replace(self, op: Performed, pages: Pages) -> None:
        _, start, length = op.args["what"]
        mask, page = op.args["mask"], Page(begins=True, prot=op.args["prot"])
        same(op, pages.replace(start, [dataclass_replace(page) if mask >> n & 1 else None for n in range(length)]))

    # ------------------------------------------------------------ extraction, in its parts

    def extraction(self, op: Performed) -> Iterator[Turn]:
        """Reserve, copy, put in, give back: those of them that happened, by the holds."""
        reserved = op.name == "extract_reserved"
        if reserved and op.args["what"] is None:
            return
        if reserved:
            dst, to, length = op.args["what"]
        else:
            dst, to, length = op.args["dst"], -1, min(op.args["pages"], PAGES - op.args["at"])
        src, flags = self.world.source(op.args["src"], dst, op.args["flags"])
        it = Extraction(op, src, dst, op.args["at"], length, flags, to)
        there = self.mine(op, dst)
        if not reserved and op.result[0] == netbsd.ENOMEM:
            yield there[-1].start, partial(self.room, it)
            return
        if op.result[0] and not reserved:
            yield there.pop().start, partial(self.give_back, it)
        hold = there[-1] if src == dst else self.mine(op, src)[0]
        if not reserved:
            yield [other for other in there if other.start < hold.start][-1].start, partial(self.room, it)
        # The try with the source locked; then, if that came to nothing, the hold without.
        there = [other for other in there if other.start > hold.start]
        at_once = src == dst or not any(not self.tried(other) for other in there)
        # Where the place is not as it was, and that is seen at once, nothing is removed.
        removes = bool(flags & REMOVE) and not (op.result[0] and at_once)
        yield hold.start, partial(self.copy, it, removes=removes)
        if op.result[0] != netbsd.EINVAL:
            yield (there or [hold])[-1].start, partial(self.put_in, it)

    def room(self, it: Extraction) -> None:
        place = self.blank(self.pages[it.dst], it.length)
        if place is None:
            same(it.op, [netbsd.ENOMEM, -1])
        else:
            assert it.op.result[0] or it.op.result[1] == place, f"{it.op}: the model has {place}"
            it.to = place

    def copy(self, it: Extraction, *, removes: bool) -> None:
        end = it.at + it.length
        it.error, it.chain = self.pages[it.src].copies(it.at, end, it.flags)
        if it.error or it.op.result[0] == netbsd.EINVAL:
            same(it.op, [it.error, -1])
        if removes:
            self.pages[it.src].removed(it.at, end)

    def put_in(self, it: Extraction) -> None:
        if self.pages[it.dst].replace(it.to, it.chain):
            same(it.op, [0, it.to])
        else:
            same(it.op, [netbsd.EIO, -1])

    def give_back(self, it: Extraction) -> None:
        self.pages[it.dst].drop(it.to, it.to + it.length)

    # ------------------------------------------------------------ the end

    def compare(self) -> None:
        for vm_map, pages in zip(self.world.maps, self.pages, strict=True):
            base = vm_map.min_offset
            entries = [
                (
                    (entry.start - base) // PAGE,
                    (entry.end - base) // PAGE,
                    entry.protection,
                    entry.max_protection,
                    entry.inheritance,
                    entry.advice,
                    entry.wired_count,
                    entry.flags,
                )
                for entry in vm_map.entries
            ]
            assert entries == pages.facts(), vm_map.name
            assert {(va - base) // PAGE for va in vm_map.fault.wired} == pages.resident, vm_map.name
            assert vm_map.size == (len(pages.those(0, PAGES)) + pages.forgotten) * PAGE, vm_map.name
            assert bool(vm_map.flags.peek() & netbsd.VM_MAP_WIREFUTURE) == pages.future
            assert vm_map.lock.busy_thread < 0, f"{vm_map.name} stays busy"
