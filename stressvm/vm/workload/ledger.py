"""Which pages of which allocation are mapped: the bookkeeping that a replay, a window and a file's check share."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

from stressvm.vm.workload.operations import Alloc, Free, Grow, Move, Operation, Piece, Protect, Remap

if TYPE_CHECKING:
    from collections.abc import Iterable


class Ledger:
    """Which pages of which allocation are mapped; pieces without an id are not its business.

    `pages` is their number. The ranges of an allocation are kept disjoint, in order, and as long as possible.
    """

    def __init__(self) -> None:
        self.pages = 0
        self._live: dict[int, list[tuple[int, int]]] = {}

    def apply(self, op: Operation) -> None:
        """Do to the ledger what the operation does to a map.

        Raises:
            ValueError: it works on pages that are not mapped, or maps pages that are.
        """
        match op:
            case Alloc() | Move() if op.id in self._live:
                raise ValueError(f"allocation {op.id} exists already")
            case Alloc():
                self._add(op.id, 0, op.pages)
            case Grow() if op.id not in self._live:
                raise ValueError(f"there is no allocation {op.id}")
            case Grow():
                self._add(op.id, op.page, op.pages)
            case Free():
                self._remove(op.pieces)
            case Move():
                self._remove(op.pieces)
                self._add(op.id, 0, op.pages)
            case Protect():
                self._expect(op.pieces)
            case Remap():
                self._expect((op.piece,))

    def mapped(self) -> dict[int, list[tuple[int, int]]]:
        """All that is mapped: for each allocation, by id, its ranges of pages, half open and in order."""
        return {name: list(ranges) for name, ranges in sorted(self._live.items()) if ranges}

    def live(self, piece: Piece) -> list[Piece]:
        """The mapped parts of a piece; a piece without an id counts as mapped."""
        if piece.id is None:
            return [piece]
        ranges = self._live.get(piece.id, [])
        stop = piece.page + piece.pages
        found = []
        for start, end in ranges[max(bisect_right(ranges, piece.page, key=_first) - 1, 0) :]:
            if start >= stop:
                break
            low, high = max(start, piece.page), min(end, stop)
            if low < high:
                found.append(Piece(piece.id, low, high - low))
        return found

    def _expect(self, pieces: Iterable[Piece]) -> None:
        for piece in pieces:
            if sum(part.pages for part in self.live(piece)) != piece.pages:
                raise ValueError(f"{piece.pages} pages from page {piece.page} of allocation {piece.id} are not mapped")

    def _add(self, name: int, page: int, pages: int) -> None:
        if self.live(Piece(name, page, pages)):
            raise ValueError(f"some of {pages} pages from page {page} of allocation {name} are mapped already")
        ranges = self._live.setdefault(name, [])
        index = bisect_right(ranges, page, key=_first)
        low, high = page, page + pages
        if index < len(ranges) and ranges[index][0] == high:
            high = ranges.pop(index)[1]
        if index and ranges[index - 1][1] == low:
            index -= 1
            low = ranges.pop(index)[0]
        ranges.insert(index, (low, high))
        self.pages += pages

    def _remove(self, pieces: Iterable[Piece]) -> None:
        for piece in pieces:
            self._expect((piece,))
            if piece.id is None:
                continue
            ranges = self._live[piece.id]
            index = bisect_right(ranges, piece.page, key=_first) - 1
            start, end = ranges.pop(index)
            stop = piece.page + piece.pages
            ranges[index:index] = [(a, b) for a, b in ((start, piece.page), (stop, end)) if a < b]
            self.pages -= piece.pages


def _first(pages: tuple[int, int]) -> int:
    return pages[0]
