"""One range of an address map, and the express lanes that pass over it.

An `Entry` is both the caller's record (start, end, and whatever a face adds in a subclass) and the bottom link of the
skip list; a `Lane` is the same link one or more levels up. Keeping each level of a tower as an object of its own, with
four pointers, was measured against one flat list per tower: descents are a fifth faster up to 10,000 entries (attribute
loads beat indexing, and going down needs no index arithmetic), no slower beyond, and every link has a static type. The
back pointers let a change find the lanes above it by walking left and up from where it is, instead of remembering the
path of a search from the top.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Generic, Self, TypeVar

if TYPE_CHECKING:
    from stressvm.vm.lanes import Lanes

E = TypeVar("E", bound="Entry")

BEYOND: Final = 1 << 65
"""Above every address and every length: the key and the gap of the sentinel after the last entry."""


class EntryError(ValueError):
    """An operation that the entry list refuses; the list is unchanged."""


class OverlapError(EntryError):
    """The range would cover addresses that belong to another entry."""


class RangeError(EntryError):
    """The range is empty, inside out, or not within the bounds it must keep to."""


class Entry:
    """A half-open range of addresses, [start, end), that can be put into one `EntryList`.

    Anyone may read `start` and `end`; only the list changes them once the entry is in it. `next`, `prev`, `gap` (free
    addresses between this end and the next start), `lane` (the level above) and `owner` are the list's: they exist
    while the entry is in a list, and the neighbours of the first and last entry are sentinels. Callers use
    `EntryList.next_of` and its kin.

    A subclass adds its own slots and extends `copy`.
    """

    __slots__ = ("end", "gap", "lane", "next", "owner", "prev", "start")

    start: int
    end: int
    next: Self
    prev: Self
    gap: int
    lane: Lane[Self] | None
    owner: Lanes[Self] | None

    def __init__(self, start: int, end: int) -> None:
        self.start = start
        self.end = end
        self.owner = None

    def copy(self) -> Self:
        """Another entry of the same range, in no list: what a clip splits off starts as one of these.

        A subclass calls this first and then copies its own slots; it is not passed through `__init__`.
        """
        cls = type(self)
        twin = cls.__new__(cls)
        twin.start = self.start
        twin.end = self.end
        twin.owner = None
        return twin

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.start:#x}-{self.end:#x}>"


class Lane(Generic[E]):
    """The link of one entry at one level above the bottom.

    It leads to the next entry that reaches this level, which starts at `until`; `gap` is the largest free gap after any
    of the entries from this one up to, not including, that one. Kept here, the address saves a search that goes down at
    this link from looking at the next one: in a large map that is a cache miss for each level.
    """

    __slots__ = ("down", "entry", "gap", "next", "prev", "until", "up")

    next: Lane[E]
    prev: Lane[E]
    gap: int

    def __init__(self, entry: E, until: int, down: Lane[E] | None) -> None:
        self.entry = entry
        self.until = until
        self.down = down
        self.up: Lane[E] | None = None
