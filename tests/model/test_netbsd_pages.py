"""Every call that changes mappings, against a map that is nothing but a list of pages: one thread, any sequence.

A page knows what is mapped there (protection, limit, inheritance, advice, object with offset, amap or not, wirings) and
nothing of entries; so merging and clipping must not show, but for three things that the list has to be told: where entries
begin (for what the kernel does to whole entries), and the size that it forgets to reduce.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from stressvm.conform.lone import LoneThread
from stressvm.vm import netbsd

PAGE = netbsd.PAGE_SIZE
SPAN = 24
NONE, READ, RW, ALL = 0, netbsd.VM_PROT_READ, netbsd.VM_PROT_READ | netbsd.VM_PROT_WRITE, netbsd.VM_PROT_ALL
LOW = 0xC000_0000
BAD = 5


@dataclass(frozen=True, slots=True)
class Page:
    """What is mapped at one page."""

    prot: int
    maxprot: int
    inherit: int = netbsd.MAP_INHERIT_NONE
    advice: int = netbsd.UVM_ADV_NORMAL
    uobj: int = -1
    offset: int = 0
    cow: int = 0
    wired: int = 0


places = st.sampled_from([*range(12), *range(SPAN)])
lengths = st.sampled_from([1, 1, 1, 2, 2, 3, 5, 9])
prots = st.sampled_from([NONE, READ, RW, RW, ALL, ALL, ALL])
#: (protection, limit, inheritance, advice): mostly the same, so that neighbours merge.
likes = st.sampled_from(
    [(ALL, ALL, 2, 0)] * 8 + [(RW, ALL, 2, 0), (READ, READ, 2, 0), (NONE, RW, 1, 0), (RW, READ, 0, 2)]
)


class AgainstPages(RuleBasedStateMachine):
    """`self.pages` is the plain map; None is free."""

    @initialize(version=st.sampled_from(netbsd.VERSIONS), fails=st.booleans())
    def begin(self, version: str, *, fails: bool) -> None:
        self.lone = LoneThread()
        fault = netbsd.FailingFault([LOW + BAD * PAGE]) if fails else netbsd.LockingFault()
        self.fails = fails
        options = netbsd.Options.DIAGNOSTIC | netbsd.Options.DEBUG | netbsd.Options.DEBUG_CHECK_MAP
        self.kmap = netbsd.setup(
            self.lone.k,
            SPAN,
            version=version,
            flags=netbsd.VM_MAP_PAGEABLE,
            fault=fault,
            options=options,
            min_offset=LOW,
        )
        self.lone.start()
        self.pages: list[Page | None] = [None] * SPAN
        self.objects = [netbsd.UvmObject(f"o{n}") for n in range(2)]
        for at, length, uobj in ((0, 4, 0), (4, 3, -1), (9, 5, 0), (16, 2, 1)):
            self.uvm_map(
                at=at, length=length, like=(ALL, ALL, 2, 0), uobj=uobj, offset=0, cow=0, nomerge=False, near=""
            )

    def teardown(self) -> None:
        if hasattr(self, "lone"):
            self.lone.close()

    def at(self, page: int) -> int:
        return LOW + page * PAGE

    def mapped(self, start: int, end: int) -> list[int]:
        return [page for page in range(start, min(end, SPAN)) if self.pages[page] is not None]

    def starts(self) -> set[int]:
        return {(entry.start - LOW) // PAGE for entry in self.kmap.entries}

    def beside(self, at: int, length: int, near: str) -> tuple[int, int]:
        """A place of that length; or one that touches what is mapped at or after `at`, or fills the gap there."""
        taken = [n for n in range(at, SPAN) if self.pages[n] is not None]
        if near and taken:
            end = taken[0]
            while end < SPAN and self.pages[end] is not None:
                end += 1
            following = next((n for n in range(end, SPAN) if self.pages[n] is not None), SPAN)
            if near == "before" and taken[0] >= length:
                return taken[0] - length, length
            if near == "after" and end < SPAN:
                return end, min(length, SPAN - end)
            if near == "between" and end < following:
                return end, following - end
        return at, min(length, SPAN - at)

    # ------------------------------------------------------------ calls

    @rule(
        at=places,
        length=lengths,
        like=st.one_of(st.none(), st.none(), likes),
        uobj=st.sampled_from([-1, -1, 0, 0, 0, 1]),
        offset=st.sampled_from([0, 0, 0, 1]),
        cow=st.sampled_from([0, netbsd.UVM_FLAG_COPYONW, netbsd.UVM_FLAG_COPYONW | netbsd.UVM_FLAG_OVERLAY]),
        nomerge=st.sampled_from([False, False, False, True]),
        near=st.sampled_from(["", "after", "before", "between"]),
    )
    def uvm_map(
        self,
        *,
        at: int,
        length: int,
        like: tuple[int, int, int, int] | None,
        uobj: int,
        offset: int,
        cow: int,
        nomerge: bool,
        near: str,
    ) -> None:
        """At a place; an object's offset goes on with the address, so that neighbours may merge."""
        at, length = self.beside(at, length, near)
        first = (at + offset) * PAGE
        beside = self.pages[at - 1] if at else None
        if beside is None and at + length < SPAN:
            beside = self.pages[at + length]
        if like is None and beside is not None:
            like, uobj = (beside.prot, beside.maxprot, beside.inherit, beside.advice), beside.uobj
            on = length if beside is not self.pages[at - 1] or not at else -1
            first = max(0, beside.offset - on * PAGE + offset * PAGE)
            if not beside.cow:
                cow = 0
        prot, maxprot, inherit, advice = like if like is not None else (ALL, ALL, 2, 0)
        flags = netbsd.UVM_FLAG_FIXED | cow | (netbsd.UVM_FLAG_NOMERGE if nomerge else 0)
        obj = self.objects[uobj] if uobj >= 0 else None
        if obj is not None:
            obj.reference()
        error, va = self.lone.now(
            netbsd.uvm_map(
                self.kmap,
                self.at(at),
                length * PAGE,
                uobj=obj,
                uoffset=first if uobj >= 0 else netbsd.UVM_UNKNOWN_OFFSET,
                flags=flags,
                prot=prot,
                maxprot=maxprot,
                inherit=inherit,
                advice=advice,
            )
        )
        if prot & ~maxprot:
            assert (error, va) == (netbsd.EACCES, 0)
            return
        if self.mapped(at, at + length):
            assert (error, va) == (netbsd.ENOMEM, 0)
            return
        assert (error, va) == (0, self.at(at))
        etype = (netbsd.UVM_ET_COPYONWRITE if cow else 0) | (
            netbsd.UVM_ET_NEEDSCOPY if cow == netbsd.UVM_FLAG_COPYONW else 0
        )
        for n in range(length):
            where = (first + n * PAGE) if uobj >= 0 else 0
            self.pages[at + n] = Page(prot, maxprot, inherit, advice, uobj, where, etype)

    @rule(at=places, length=lengths)
    def uvm_unmap(self, at: int, length: int) -> None:
        self.lone.now(netbsd.uvm_unmap(self.kmap, self.at(at), self.at(at + length)))
        for page in self.mapped(at, at + length):
            self.pages[page] = None

    @rule(at=places, length=lengths, prot=prots, set_max=st.booleans())
    def protect(self, *, at: int, length: int, prot: int, set_max: bool) -> None:
        call = netbsd.uvm_map_protect(self.kmap, self.at(at), self.at(at + length), prot, set_max=set_max)
        error = self.lone.now(call)
        hit = self.mapped(at, at + length)
        if any(prot & ~page.maxprot for n in hit if (page := self.pages[n]) is not None):
            assert error == netbsd.EACCES
            return
        assert error == 0
        for n in hit:
            page = self.pages[n]
            assert page is not None
            if set_max:
                self.pages[n] = replace(page, maxprot=prot, prot=page.prot & prot)
            else:
                self.pages[n] = replace(page, prot=prot)

    @rule(at=places, length=lengths, inherit=st.integers(-1, 3))
    def inherit(self, at: int, length: int, inherit: int) -> None:
        error = self.lone.now(netbsd.uvm_map_inherit(self.kmap, self.at(at), self.at(at + length), inherit))
        if not 0 <= inherit <= 2:
            assert error == netbsd.EINVAL
            return
        assert error == 0
        for n in self.mapped(at, at + length):
            page = self.pages[n]
            assert page is not None
            self.pages[n] = replace(page, inherit=inherit)

    @rule(at=places, length=lengths, advice=st.integers(0, 3))
    def advise(self, at: int, length: int, advice: int) -> None:
        error = self.lone.now(netbsd.uvm_map_advice(self.kmap, self.at(at), self.at(at + length), advice))
        hit = self.mapped(at, at + length)
        assert error == (netbsd.EINVAL if advice == 3 and hit else 0)
        for n in hit if advice != 3 else ():
            page = self.pages[n]
            assert page is not None
            self.pages[n] = replace(page, advice=advice)

    def copied(self, page: Page) -> Page:
        """What wiring does to a page that needs to be copied."""
        needs = page.cow & netbsd.UVM_ET_NEEDSCOPY and not page.wired
        if needs and (page.maxprot & netbsd.VM_PROT_WRITE or page.uobj < 0):
            return replace(page, cow=page.cow & ~netbsd.UVM_ET_NEEDSCOPY)
        return page

    @rule(at=places, length=lengths)
    def wire(self, at: int, length: int) -> None:
        """Which entries need a copy is resolved one by one, before they are clipped, up to the one with the fault."""
        end = min(at + length, SPAN)
        before = list(self.pages)
        call = netbsd.uvm_map_pageable(self.kmap, self.at(at), self.at(at + length), new_pageable=False)
        starts = self.starts()
        error = self.lone.now(call)
        if self.pages[at] is None:
            assert error == netbsd.EFAULT
            return
        resolved = list(self.pages)
        ok = True
        for n in range(at, end):
            page = self.pages[n]
            if page is None:
                ok = False
                break
            for m in self.extent(n, starts):
                other = self.pages[m]
                assert other is not None
                resolved[m] = self.copied(other)
            if not page.prot:
                ok = False
                break
        self.pages = resolved
        if not ok:
            assert error == netbsd.EINVAL
            return
        fresh = [n for n in range(at, end) if not (before[n] or Page(0, 0)).wired]
        if self.fails and BAD in fresh:
            assert error == netbsd.ENOMEM
            return
        assert error == 0
        for n in range(at, end):
            page = self.pages[n]
            assert page is not None
            self.pages[n] = replace(page, wired=page.wired + 1)

    def extent(self, page: int, starts: set[int]) -> range:
        """The pages of the entry that covers a page."""
        first = max(n for n in starts if n <= page)
        last = page + 1
        while last < SPAN and last not in starts and self.pages[last] is not None:
            last += 1
        return range(first, last)

    @rule(at=places, length=lengths)
    def unwire(self, at: int, length: int) -> None:
        end = min(at + length, SPAN)
        call = netbsd.uvm_map_pageable(self.kmap, self.at(at), self.at(at + length), new_pageable=True)
        error = self.lone.now(call)
        if self.pages[at] is None:
            assert error == netbsd.EFAULT
            return
        if any(page is None or not page.wired for page in self.pages[at:end]):
            assert error == netbsd.EINVAL
            return
        assert error == 0
        for n in range(at, end):
            page = self.pages[n]
            assert page is not None
            self.pages[n] = replace(page, wired=0)

    @rule(at=places, length=lengths, fixprot=st.booleans(), qref=st.booleans(), remove=st.booleans())
    def extract(self, *, at: int, length: int, fixprot: bool, qref: bool, remove: bool) -> None:
        """Within the map, of a range without holes: a chain with holes breaks first_free, which is a test by itself."""
        whole = self.mapped(at, at + length)
        wired = any(page is not None and page.wired for page in self.pages[at : at + length])
        if len(whole) < length or (remove and wired):
            return
        flags = netbsd.UVM_EXTRACT_FIXPROT if fixprot else 0
        flags |= netbsd.UVM_EXTRACT_REMOVE if remove else netbsd.UVM_EXTRACT_CONTIG
        if qref and not remove:
            flags |= netbsd.UVM_EXTRACT_QREF
        starts = self.starts()
        error, va = self.lone.now(netbsd.uvm_map_extract(self.kmap, self.at(at), length * PAGE, self.kmap, flags=flags))
        room = [n for n in range(SPAN - length + 1) if not self.mapped(n, n + length)]
        assert error == (0 if room else netbsd.ENOMEM)
        if error:
            return
        to = (va - LOW) // PAGE
        assert to == room[0]
        for n in range(at, at + length):
            for m in self.extent(n, starts) if flags & netbsd.UVM_EXTRACT_QREF else range(n, n + 1):
                page = self.pages[m]
                assert page is not None
                self.pages[m] = replace(page, cow=page.cow & ~netbsd.UVM_ET_NEEDSCOPY)
        for n in range(length):
            page = self.pages[at + n]
            assert page is not None
            self.pages[to + n] = replace(page, wired=0, prot=page.maxprot if fixprot else page.prot)
        if remove:
            for n in range(at, at + length):
                self.pages[n] = None

    # ------------------------------------------------------------ comparison

    @invariant()
    def same(self) -> None:
        if not hasattr(self, "pages"):
            return
        kmap = self.kmap
        kmap.check()
        seen: list[Page | None] = [None] * SPAN
        for entry in kmap.entries:
            for va in range(entry.start, entry.end, PAGE):
                uobj = self.objects.index(entry.object) if entry.object is not None else -1
                seen[(va - LOW) // PAGE] = Page(
                    entry.protection,
                    entry.max_protection,
                    entry.inheritance,
                    entry.advice,
                    uobj,
                    entry.offset + va - entry.start if uobj >= 0 else 0,
                    entry.etype & ~netbsd.UVM_ET_OBJ,
                    entry.wired_count,
                )
        assert seen == self.pages
        wired = {self.at(n) for n, page in enumerate(self.pages) if page is not None and page.wired}
        assert kmap.fault.wired == wired
        assert not kmap.lock.write_held()
        assert kmap.lock.busy_thread == -1


TestAgainstPages = AgainstPages.TestCase
TestAgainstPages.settings = settings(max_examples=400, stateful_step_count=40)
