"""One address space as a log shows it: its calls become operations on allocations.

The bookkeeping is in recorded pages: which allocation has them, and where it begins. A call on a range becomes pieces,
so that the operations say what they work on wherever a replay puts it.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Final

from stressvm.vm.workload.calls import pages_of
from stressvm.vm.workload.operations import PAGE_BYTES, Alloc, Free, Grow, Move, Operation, Piece, Protect, Remap
from stressvm.vm.workload.workload import Thread

if TYPE_CHECKING:
    from stressvm.vm.workload.calls import Call

_FAR: Final = 1 << 64


class Space:
    """One address space as far as the log shows it.

    `spans` are the known mappings, sorted and disjoint: (first page, page after the last, id, page where the allocation
    begins). `leaving` has what a moving mremap has taken away and not yet put down, by the line where it began.
    """

    def __init__(self, break_bytes: int | None = None) -> None:
        self.break_bytes = break_bytes
        self.calls = self.idle = self.operations = self.ids = 0
        self.spans: list[tuple[int, int, int, int]] = []
        self.leaving: dict[int, tuple[Piece, ...]] = {}
        self.by_pid: dict[int, list[Operation]] = {}

    def threads(self) -> tuple[Thread, ...]:
        """The threads that did anything, named in order of first appearance."""
        return tuple(Thread(f"t{i}", pid, tuple(ops)) for i, (pid, ops) in enumerate(self.by_pid.items()))

    def known(self, start: int, stop: int) -> list[Piece]:
        """The known parts of a page range."""
        return [Piece(name, first - base, last - first) for first, last, name, base in self._within(start, stop)]

    def distance(self, page: int) -> int:
        """Pages between a page and the nearest known mapping."""
        if not self.spans:
            return _FAR
        index = bisect_right(self.spans, page, key=lambda span: span[0])
        near = self.spans[max(index - 1, 0) : index + 1]
        return min(max(first - page, page - last + 1, 0) for first, last, _, _ in near)

    def leave(self, call: Call) -> None:
        """A moving mremap begins: its old pages can be had by others from here on."""
        first = call.address // PAGE_BYTES
        self.leaving[call.begin] = self._all(first, first + pages_of(call.length))
        self._cut(first, first + pages_of(call.length))

    def take(self, call: Call) -> None:
        """The call takes effect."""
        before = self.operations
        match call.name:
            case "mmap":
                self._mmap(call)
            case "munmap":
                self._unmap(call, call.address // PAGE_BYTES, pages_of(call.length))
            case "mprotect":
                first = call.address // PAGE_BYTES
                if pieces := self._all(first, first + pages_of(call.length)):
                    self._emit(call, Protect(**self._place(call), pieces=pieces, protection=call.protection))
            case "mremap":
                self._mremap(call)
            case "brk":
                self._brk(call)
        self.calls += 1
        self.idle += self.operations == before

    def _mmap(self, call: Call) -> None:
        first, pages = call.result // PAGE_BYTES, pages_of(call.length)
        over = self.known(first, first + pages)
        if over and len({piece.id for piece in over}) == 1 and sum(piece.pages for piece in over) == pages:
            piece = Piece(over[0].id, over[0].page, pages)
            self._emit(call, Remap(**self._place(call), piece=piece, protection=call.protection))
        else:
            self._alloc(call, first, pages, fixed=call.fixed, protection=call.protection)

    def _mremap(self, call: Call) -> None:
        old, new = pages_of(call.length), pages_of(call.wanted)
        first, target = call.address // PAGE_BYTES, call.result // PAGE_BYTES
        if pieces := self.leaving.pop(call.begin, ()):
            self._vacate(call, target, target + new)
            name = self._put(target, new)
            move = Move(**self._place(call), pieces=pieces, id=name, pages=new, address=call.result)
            self._emit(call, move)
        elif target != first:  # a second mapping of the same memory; it is readable and writable in all uses known
            self._alloc(call, target, new, fixed=False, protection="rw-")
        elif new < old:
            self._unmap(call, first + new, old - new)
        elif new > old:
            self._extend(call, first + old, new - old)

    def _brk(self, call: Call) -> None:
        stop = pages_of(call.result)
        start = stop if self.break_bytes is None else pages_of(self.break_bytes)
        self.break_bytes = call.result
        if stop < start:
            self._unmap(call, stop, start - stop)
        elif stop > start:
            self._extend(call, start, stop - start)

    def _extend(self, call: Call, page: int, pages: int) -> None:
        """Pages are added behind what is there; if that is not known, they are an allocation of their own."""
        self._vacate(call, page, page + pages)
        index = bisect_right(self.spans, page, key=lambda span: span[0]) - 1
        # while a part of the allocation is on the move, its page numbers are taken
        if index >= 0 and self.spans[index][1] == page and not self.leaving:
            first, _, name, base = self.spans[index]
            self.spans[index] = (first, page + pages, name, base)
            self._emit(call, Grow(**self._place(call), id=name, page=page - base, pages=pages))
        else:
            self._alloc(call, page, pages, fixed=True, protection="rw-")

    def _alloc(self, call: Call, page: int, pages: int, *, fixed: bool, protection: str) -> None:
        self._vacate(call, page, page + pages)
        name = self._put(page, pages)
        address = page * PAGE_BYTES
        alloc = Alloc(**self._place(call), id=name, pages=pages, address=address, fixed=fixed, protection=protection)
        self._emit(call, alloc)

    def _vacate(self, call: Call, start: int, stop: int) -> None:
        """What a fixed mapping replaces, and was not one allocation's, is freed first."""
        if over := self.known(start, stop):
            self._cut(start, stop)
            self._emit(call, Free(**self._place(call), pieces=tuple(over)))

    def _unmap(self, call: Call, page: int, pages: int) -> None:
        if pieces := self._all(page, page + pages):
            self._cut(page, page + pages)
            self._emit(call, Free(**self._place(call), pieces=pieces))

    def _all(self, start: int, stop: int) -> tuple[Piece, ...]:
        """A page range in pieces: the known parts, and what lies between them as pieces without an id."""
        pieces, page = [], start
        for first, last, name, base in self._within(start, stop):
            if page < first:
                pieces.append(Piece(None, page, first - page))
            pieces.append(Piece(name, first - base, last - first))
            page = last
        if page < stop:
            pieces.append(Piece(None, page, stop - page))
        return tuple(pieces)

    def _within(self, start: int, stop: int) -> list[tuple[int, int, int, int]]:
        """The spans that overlap a page range, clipped to it."""
        index = max(bisect_right(self.spans, start, key=lambda span: span[0]) - 1, 0)
        found = []
        while index < len(self.spans) and self.spans[index][0] < stop:
            first, last, name, base = self.spans[index]
            if last > start:
                found.append((max(first, start), min(last, stop), name, base))
            index += 1
        return found

    def _cut(self, start: int, stop: int) -> None:
        """Forget what is mapped in a page range; spans that reach beyond it keep their ends."""
        inside = self._within(start, stop)
        if not inside:
            return
        low = bisect_right(self.spans, inside[0][0], key=lambda span: span[0]) - 1
        high = low + len(inside)
        first, _, first_name, first_base = self.spans[low]
        _, last, last_name, last_base = self.spans[high - 1]
        self.spans[low:high] = [
            span
            for span in ((first, start, first_name, first_base), (stop, last, last_name, last_base))
            if span[0] < span[1]
        ]

    def _put(self, page: int, pages: int) -> int:
        name = self.ids
        self.ids += 1
        self.spans.insert(bisect_right(self.spans, page, key=lambda s: s[0]), (page, page + pages, name, page))
        return name

    def _place(self, call: Call) -> dict[str, int]:
        return {"order": self.operations, "begin": call.begin, "end": call.end}

    def _emit(self, call: Call, op: Operation) -> None:
        self.by_pid.setdefault(call.pid, []).append(op)
        self.operations += 1
