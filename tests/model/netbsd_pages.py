"""A NetBSD map as a row of pages: what each one's entry says, and where entries begin.

It has no entries, no lock and no hints, and shares no code with the maps. A clip is a page that begins an entry from then
on. What a call changes before it fails stays changed, as in the kernel: the clips.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

from stressvm.vm import netbsd
from tests.model.flat import Flat

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGES = 12
NONE, ALL = netbsd.VM_PROT_NONE, netbsd.VM_PROT_ALL
NEEDSCOPY = netbsd.UVM_ET_NEEDSCOPY
CONTIG, QREF, FIXPROT = netbsd.UVM_EXTRACT_CONTIG, netbsd.UVM_EXTRACT_QREF, netbsd.UVM_EXTRACT_FIXPROT
NOMERGE = netbsd.UVM_MAP_NOMERGE
EFAULT, EINVAL, ENOMEM, EACCES = netbsd.EFAULT, netbsd.EINVAL, netbsd.ENOMEM, netbsd.EACCES


@dataclass(slots=True)
class Page:
    """A mapped page. `begins`: an entry begins here."""

    begins: bool = False
    prot: int = ALL
    most: int = ALL
    inherit: int = netbsd.MAP_INHERIT_NONE
    advice: int = netbsd.UVM_ADV_RANDOM
    etype: int = 0
    flags: int = 0
    amap: bool = False
    wired: int = 0

    def alike(self, other: Page) -> bool:
        """May the two become one entry?"""
        if (self.flags | other.flags) & NOMERGE or self.wired or other.wired:
            return False
        return replace(self, begins=False) == replace(other, begins=False)


#: What takes the place of a range: a page, or None for a hole.
Chain: TypeAlias = list[Page | None]


class Pages:
    """One map.

    Attributes:
        pages: by number; None is free.
        resident: those whose faults have wired them, and nobody has unwired since.
        future: VM_MAP_WIREFUTURE.
        forgotten: pages that are free, and the map's size does not say so.
        bad: pages that cannot be faulted in.
        lookups: faults look up the entry, and fail where there is nothing to access.
    """

    def __init__(self, version: str) -> None:
        self.version = version
        self.pages: Chain = [None] * PAGES
        self.resident: set[int] = set()
        self.future = False
        self.forgotten = 0
        self.bad: frozenset[int] = frozenset()
        self.lookups = False

    # ------------------------------------------------------------ entries

    def entry(self, page: int) -> tuple[int, int]:
        """Where the entry at a mapped page begins, and where it ends."""
        start = end = page
        while not self.at(start).begins:
            start -= 1
        end = page + 1
        while end < PAGES and (after := self.pages[end]) is not None and not after.begins:
            end += 1
        return start, end

    def entries(self, start: int = 0, end: int = PAGES) -> Iterator[tuple[int, int]]:
        """Those in [start, end), in order: not before where one begins that is asked for later."""
        while start < end:
            if self.pages[start] is None:
                start += 1
            else:
                entry = self.entry(start)
                yield entry
                start = entry[1]

    def at(self, page: int) -> Page:
        found = self.pages[page]
        assert found is not None, f"page {page} is not mapped"
        return found

    def those(self, start: int, end: int) -> list[Page]:
        return [page for page in self.pages[start:end] if page is not None]

    def clip(self, page: int) -> None:
        if page < PAGES and (found := self.pages[page]) is not None:
            found.begins = True

    def facts(self) -> list[tuple[int, int, int, int, int, int, int, int]]:
        """Each entry: start, end, protection, maximum, inheritance, advice, wirings, flags."""
        return [
            (start, end, page.prot, page.most, page.inherit, page.advice, page.wired, page.flags)
            for start, end in self.entries()
            for page in [self.at(start)]
        ]

    # ------------------------------------------------------------ mapping and unmapping

    def place(self, hint: int, length: int, *, fixed: bool) -> int | None:
        """Where there is room, from the hint on."""
        flat = Flat(0, PAGES, [(start, end) for start, end in self.entries()])
        if fixed:
            return hint if flat.free(hint, length) else None
        return flat.first_fit(hint, length)

    def put(self, start: int, length: int, page: Page) -> None:
        """Map, and merge with what is alike on both sides."""
        end = start + length
        for number in range(start, end):
            assert self.pages[number] is None, f"page {number} is mapped twice"
            self.pages[number] = replace(page, begins=number == start)
        for left in (start - 1, end - 1):
            if 0 <= left < PAGES - 1:
                a, b = self.pages[left], self.pages[left + 1]
                if a is not None and b is not None and a.alike(b):
                    b.begins = False

    def fill(self, start: int, length: int, prot: int) -> None:
        """What is there from the beginning."""
        self.put(start, length, Page(prot=prot, flags=netbsd.UVM_MAP_QUANTUM if self.version == "5.2" else 0))

    def drop(self, start: int, end: int) -> None:
        self.clip(start)
        self.clip(end)
        for number in range(start, end):
            page = self.pages[number]
            if page is not None and page.wired:
                self.resident.discard(number)
            self.pages[number] = None

    # ------------------------------------------------------------ attributes

    def protect(self, start: int, end: int, prot: int, *, most: bool) -> int:
        self.clip(start)
        if any(prot & ~page.most for page in self.those(start, end)):
            return EACCES
        self.clip(end)
        error = 0
        entries = list(self.entries(start, end))
        for entry in entries:
            old = self.at(entry[0]).prot
            for page in self.those(*entry):
                page.prot = prot & old if most else prot
                page.most = prot if most else page.most
            # Not the entry that has changed, but the first.
            if self.future and not old and prot and not self.at(entries[0][0]).wired and self.wire(*entries[0]):
                error = ENOMEM
        return error

    def inherit(self, start: int, end: int, how: int) -> int:
        if how not in (netbsd.MAP_INHERIT_NONE, netbsd.MAP_INHERIT_COPY, netbsd.MAP_INHERIT_SHARE):
            return EINVAL
        self.clip(start)
        self.clip(end)
        for page in self.those(start, end):
            page.inherit = how
        return 0

    # ------------------------------------------------------------ wiring

    def unwire(self, start: int, end: int) -> int:
        if self.pages[start] is None:
            return EFAULT
        self.clip(start)
        if not all(page is not None and page.wired for page in self.pages[start:end]):
            return EINVAL
        self.clip(end)
        self.forget(start, end)
        return 0

    def forget(self, start: int, end: int) -> None:
        """Wired no more, however often it was."""
        for page in self.those(start, end):
            page.wired = 0
        self.resident.difference_update(range(start, end))

    def own_amap(self, entry: tuple[int, int]) -> None:
        """What is to be copied is copied."""
        for page in self.those(*entry):
            if page.etype & NEEDSCOPY:
                page.etype &= ~NEEDSCOPY
                page.amap = True

    def wire(self, start: int, end: int) -> int:
        if self.pages[start] is None:
            return EFAULT
        for a, b in self.entries(start, end):
            if not self.at(a).wired:
                self.own_amap((a, b))
            self.clip(start)
            if b > end:
                self.clip(end)
            if not self.at(a).prot or (b < end and self.pages[b] is None):
                return EINVAL
        entries = list(self.entries(start, end))
        new = [entry for entry in entries if not self.at(entry[0]).wired]
        error, failed = self.fault(new)
        if failed is None:
            for page in self.those(start, end):
                page.wired += 1
            return 0
        for entry in new:
            if entry < failed:
                self.forget(*entry)
        return error

    def fault(self, entries: list[tuple[int, int]]) -> tuple[int, tuple[int, int] | None]:
        """Fault in entries: the error, and the entry that it came from."""
        for entry in entries:
            for number in range(*entry):
                error = ENOMEM if number in self.bad else 0
                if self.lookups and not self.at(number).prot:
                    error = EACCES
                if error:
                    self.resident.difference_update(range(entry[0], number))
                    return error, entry
                self.resident.add(number)
        return 0, None

    def all(self, flags: int) -> int:
        """uvm_map_pageable_all."""
        if not flags:
            self.future = False
            for entry in self.entries():
                if self.at(entry[0]).wired:
                    self.forget(*entry)
            return 0
        self.future |= bool(flags & netbsd.MCL_FUTURE)
        if not flags & netbsd.MCL_CURRENT:
            return 0
        counted = [entry for entry in self.entries() if self.at(entry[0]).prot]
        for entry in counted:
            if not self.at(entry[0]).wired:
                self.own_amap(entry)
            for page in self.those(*entry):
                page.wired += 1
        error, failed = self.fault([entry for entry in self.entries() if self.at(entry[0]).wired == 1])
        if failed is not None:
            for entry in counted:
                for page in self.those(*entry):
                    page.wired -= 1
                # The wrong way round: who had wired it before has it wired no more.
                if entry < failed and self.at(entry[0]).wired:
                    self.forget(*entry)
        return error

    # ------------------------------------------------------------ extracting and replacing

    def copies(self, start: int, end: int, flags: int) -> tuple[int, Chain]:
        """What an extraction takes from here: an error, or a page for each of the range's."""
        chain: Chain = [None] * (end - start)
        if self.pages[start] is None and flags & CONTIG:
            return EINVAL, chain
        if not flags & QREF:
            self.clip(start)
        for a, b in self.entries(start, end):
            if b > end and not flags & QREF:
                self.clip(end)
            self.own_amap(self.entry(a))
            first = max(a, start)
            for number in range(first, min(b, end)):
                page = replace(self.at(number), wired=0, flags=NOMERGE if flags & QREF else 0, begins=number == first)
                page.prot = page.most if flags & FIXPROT else page.prot
                chain[number - start] = page
            if flags & CONTIG and b < end and self.pages[b] is None:
                return EINVAL, chain
        return 0, chain

    def replace(self, start: int, chain: Chain) -> bool:
        """Put pages into the place of a blank entry, if there is one."""
        end = start + len(chain)
        if self.pages[start] is None:
            return False
        a, b = self.entry(start)
        if b > end:
            self.clip(end)
        if a != start or b < end or self.at(start).amap:
            return False
        for number in range(start, end):
            self.pages[number] = chain[number - start]
        if self.version == "5.2":
            self.forgotten += chain.count(None)
        return True

    def removed(self, start: int, end: int) -> None:
        """Moved elsewhere: the size does not say so."""
        self.forgotten += len(self.those(start, end))
        self.drop(start, end)
