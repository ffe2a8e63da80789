"""FreeBSD's pmap against a flat dictionary of pages: one thread on two processors, any sequence of calls.

The dictionary has one entry for each 4 KiB page of each pmap, and knows superpages only as a mark on 512 of them. It
shares no code with the pmap: no tables, no levels, no TLBs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import Phase, assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from stressvm import Panic
from stressvm.conform.lone import LoneThread
from stressvm.vm import pmap
from stressvm.vm.pmap import NBPDR, NPTEPG, PAGE_SIZE, VM_PROT_EXECUTE, VM_PROT_READ, VM_PROT_RW, VM_PROT_WRITE

R, RW, RX = VM_PROT_READ, VM_PROT_RW, VM_PROT_READ | VM_PROT_EXECUTE
#: Kernel addresses are in the upper half, as on the real machine.
KERNEL = 0xFFFF_FE00_0000_0000
USER = 4 * NBPDR
RAM = 8 * NBPDR
#: Pages by number: 0 to 511 are one superpage of memory, the others are apart; the last is unmanaged.
PAGES = NPTEPG + 4


@dataclass(frozen=True, slots=True)
class Map:
    """What one page of an address space maps."""

    page: int
    prot: int
    wired: bool
    accessed: bool
    modified: bool
    raw: bool = False


class World:
    """Three address spaces, flat."""

    def __init__(self) -> None:
        self.maps: list[dict[int, Map]] = [{}, {}, {}]
        #: Superpages: address of the first page, in pages; was it promoted?
        self.supers: list[dict[int, bool]] = [{}, {}, {}]
        self.lists: list[list[tuple[int, int]]] = [[] for _ in range(PAGES)]
        self.super_list: list[tuple[int, int]] = []
        self.modified = [False] * PAGES
        self.referenced = [False] * PAGES

    def managed(self, page: int) -> bool:
        return page != PAGES - 1

    def base(self, vpn: int) -> int:
        return vpn - vpn % NPTEPG

    # ------------------------------------------------------------ changes

    def drop(self, space: int, vpn: int) -> None:
        """One small mapping goes."""
        old = self.maps[space].pop(vpn)
        if self.managed(old.page) and not old.raw:
            self.keep(old)
            self.lists[old.page].remove((space, vpn))

    def keep(self, old: Map) -> None:
        if self.managed(old.page):
            self.modified[old.page] |= old.modified and bool(old.prot & VM_PROT_WRITE)
            self.referenced[old.page] |= old.accessed

    def drop_super(self, space: int, base: int) -> None:
        for vpn in range(base, base + NPTEPG):
            self.keep(self.maps[space].pop(vpn))
        del self.supers[space][base]
        self.super_list.remove((space, base))

    def demote(self, space: int, base: int) -> bool:
        if not self.maps[space][base].accessed:
            self.drop_super(space, base)
            return False
        del self.supers[space][base]
        self.super_list.remove((space, base))
        for number in range(NPTEPG):
            self.lists[number].append((space, base + number))
        return True

    def whole(self, space: int, start: int, end: int) -> list[int]:
        """Superpages within a range; those that are only partly in it are demoted."""
        inside = []
        for base in sorted(self.supers[space]):
            if start <= base and base + NPTEPG <= end:
                inside.append(base)
            elif base < end and start < base + NPTEPG:
                self.demote(space, base)
        return inside

    def small(self, space: int, start: int, end: int) -> list[int]:
        maps = self.maps[space]
        return [vpn for vpn in sorted(maps) if start <= vpn < end and self.base(vpn) not in self.supers[space]]

    def remove(self, space: int, start: int, end: int) -> None:
        if not any(not found.raw for found in self.maps[space].values()):
            return
        for base in self.whole(space, start, end):
            self.drop_super(space, base)
        for vpn in self.small(space, start, end):
            self.drop(space, vpn)

    def protect(self, space: int, start: int, end: int, prot: int) -> None:
        if prot & VM_PROT_WRITE and prot & VM_PROT_EXECUTE:
            return
        inside = self.whole(space, start, end)
        todo = [vpn for base in inside for vpn in range(base, base + NPTEPG)] + self.small(space, start, end)
        for vpn in todo:
            old = self.maps[space][vpn]
            lost = not prot & VM_PROT_WRITE
            if lost and old.modified and old.prot & VM_PROT_WRITE and self.managed(old.page) and not old.raw:
                self.modified[old.page] = True
            self.maps[space][vpn] = replace(
                old,
                prot=old.prot & (prot | VM_PROT_READ),
                modified=old.modified and not lost,
            )

    def enter(self, space: int, vpn: int, new: Map) -> None:
        if self.base(vpn) in self.supers[space]:
            self.demote(space, self.base(vpn))
        old = self.maps[space].get(vpn)
        if old is not None and old.page == new.page:
            dirty = old.modified and bool(old.prot & VM_PROT_WRITE)
            same = (old.prot, old.wired) == (new.prot, new.wired)
            if same:
                new = replace(new, accessed=old.accessed, modified=old.modified)
            elif dirty and not new.modified and self.managed(new.page):
                self.modified[new.page] = True
        else:
            if old is not None:
                self.drop(space, vpn)
            if self.managed(new.page):
                self.lists[new.page].append((space, vpn))
        self.maps[space][vpn] = new
        self.promote(space, self.base(vpn))

    def promote(self, space: int, base: int) -> None:
        maps = self.maps[space]
        vpns = range(base, base + NPTEPG)
        if space != 2 and not all(vpn in maps for vpn in vpns):
            return
        first = maps.get(base)
        if first is None or not first.accessed or first.page % NPTEPG:
            return
        first = self.clean(space, base)
        for vpn in reversed(vpns[1:]):
            found = maps.get(vpn)
            if found is None or found.page != first.page + vpn - base or not found.accessed:
                return
            found = self.clean(space, vpn)
            if replace(found, page=first.page) != first:
                return
        self.supers[space][base] = True
        self.super_list.append((space, base))
        for number, vpn in enumerate(vpns):
            self.lists[number].remove((space, vpn))

    def clean(self, space: int, vpn: int) -> Map:
        """What is writable and not modified becomes read-only."""
        found = self.maps[space][vpn]
        if found.prot & VM_PROT_WRITE and not found.modified:
            found = self.maps[space][vpn] = replace(found, prot=found.prot & ~VM_PROT_WRITE)
        return found

    def touch(self, space: int, vpn: int, access: int) -> bool:
        found = self.maps[space].get(vpn)
        if found is None or access & ~found.prot:
            return False
        write = bool(access & VM_PROT_WRITE)
        base = self.base(vpn)
        for at in range(base, base + NPTEPG) if base in self.supers[space] else [vpn]:
            found = self.maps[space][at]
            self.maps[space][at] = replace(found, accessed=True, modified=found.modified or write)
        return True

    # ------------------------------------------------------------ a page, everywhere

    def everywhere(self, page: int) -> list[tuple[int, int]]:
        """Its mappings: those of superpages, then its own."""
        return [(space, base + page) for space, base in self.super_list if page < NPTEPG] + self.lists[page]


places = st.sampled_from([0, 0, 1, 1, 2, NPTEPG - 1, NPTEPG, NPTEPG + 1])
starts = st.sampled_from([0, 0, 0, 0, 1, NPTEPG - 1, NPTEPG])
spaces = st.sampled_from([0, 0, 0, 1, 2, 2])
pages = st.sampled_from([0, 0, 1, 1, 2, NPTEPG - 1, NPTEPG, NPTEPG + 1, PAGES - 1])
prots = st.sampled_from([R, RW, RW, RX, RW | RX])
lengths = st.sampled_from([1, 2, NPTEPG - 1, NPTEPG, NPTEPG, 2 * NPTEPG])
accesses = st.sampled_from([R, R, VM_PROT_WRITE, VM_PROT_WRITE, VM_PROT_EXECUTE])


class AgainstFlat(RuleBasedStateMachine):
    """Two user pmaps and the kernel's, and the flat dictionaries."""

    PMAP: type[pmap.FreeBSDPmap] = pmap.FreeBSDPmap

    @initialize(
        fill=st.sampled_from([0, 0, NPTEPG - 1, NPTEPG, NPTEPG]),
        prot=prots,
        written=st.booleans(),
        wired=st.booleans(),
        space=spaces,
        pcid=st.booleans(),
        touched=st.booleans(),
    )
    def begin(self, *, fill: int, prot: int, written: bool, wired: bool, space: int, pcid: bool, touched: bool) -> None:
        self.lone = LoneThread()
        k = self.lone.k
        self.machine = pmap.Machine(k, 2, pcid=pcid)
        self.pmaps = [
            self.PMAP(self.machine, "user0"),
            self.PMAP(self.machine, "user1"),
            self.PMAP(
                self.machine,
                "kernel",
                kernel=True,
                min_address=KERNEL,
                max_address=KERNEL + 8 * NBPDR,
                kernel_vm_end=KERNEL + 2 * NBPDR,
            ),
        ]
        self.pages = [pmap.Frame(RAM + n * PAGE_SIZE, managed=n != PAGES - 1) for n in range(PAGES)]
        self.machine.add_pages(self.pages)
        self.world = World()
        flags = (VM_PROT_WRITE if written and prot & VM_PROT_WRITE else VM_PROT_READ) | wired * pmap.PMAP_ENTER_WIRED
        self.pmaps[space].prefill(self.va(space, 0), self.pages[:fill], prot, flags)
        modified = written and bool(prot & VM_PROT_WRITE)
        for number in range(fill):
            self.world.maps[space][number] = Map(number, prot, wired, accessed=True, modified=modified)
            self.world.lists[number].append((space, number))
        if fill == NPTEPG:
            self.world.promote(space, 0)
        self.lone.start()
        if touched:
            self.access_all(space=space, access=R)

    def teardown(self) -> None:
        if hasattr(self, "lone"):
            self.lone.close()

    def va(self, space: int, vpn: int) -> int:
        return (KERNEL if space == 2 else USER) + vpn * PAGE_SIZE

    def free_of_raw(self, space: int, start: int, end: int) -> None:
        """Calls that keep count must not meet mappings made by hand."""
        assume(not any(found.raw for vpn, found in self.world.maps[space].items() if start <= vpn < end))

    # ------------------------------------------------------------ mappings

    @rule(space=spaces, vpn=places, page=pages, prot=prots, write=st.booleans(), wired=st.booleans())
    def enter(self, *, space: int, vpn: int, page: int, prot: int, write: bool, wired: bool) -> None:
        self.free_of_raw(space, vpn, vpn + 1)
        self.no_wired_loss(space, vpn, vpn + 1)
        write = write and bool(prot & VM_PROT_WRITE)
        flags = (VM_PROT_WRITE if write else VM_PROT_READ) | wired * pmap.PMAP_ENTER_WIRED
        unmanaged = not self.world.managed(page) and bool(prot & VM_PROT_WRITE)
        got = self.lone.now(self.pmaps[space].enter(self.va(space, vpn), self.pages[page], prot, flags))
        assert got == pmap.KERN_SUCCESS
        new = Map(page, prot, wired, accessed=True, modified=write or unmanaged)
        self.world.enter(space, vpn, new)

    @rule(space=spaces, prot=prots, write=st.booleans())
    def enter_superpage(self, *, space: int, prot: int, write: bool) -> None:
        """With psind 1: writable only by a write."""
        self.free_of_raw(space, 0, NPTEPG)
        write = bool(prot & VM_PROT_WRITE)
        flags = VM_PROT_WRITE if write else VM_PROT_READ
        got = self.lone.now(self.pmaps[space].enter(self.va(space, 0), self.pages[0], prot, flags, psind=1))
        assert got == pmap.KERN_SUCCESS
        world = self.world
        if 0 in world.supers[space]:
            world.drop_super(space, 0)
        for vpn in world.small(space, 0, NPTEPG):
            world.drop(space, vpn)
        for number in range(NPTEPG):
            world.maps[space][number] = Map(number, prot, wired=False, accessed=True, modified=write)
        world.supers[space][0] = False
        world.super_list.append((space, 0))

    def no_wired_loss(self, space: int, start: int, end: int) -> None:
        """To cut a superpage that is wired and has no page table is a panic; a superpage made whole has none."""
        for base, promoted in self.world.supers[space].items():
            found = self.world.maps[space][base]
            if base < end and start < base + NPTEPG and found.wired:
                assume(promoted)

    @rule(space=spaces, start=starts, length=lengths)
    def remove(self, space: int, start: int, length: int) -> None:
        self.free_of_raw(space, start, start + length)
        self.lone.now(self.pmaps[space].remove(self.va(space, start), self.va(space, start + length)))
        self.world.remove(space, start, start + length)

    @rule(space=spaces, start=starts, length=lengths, prot=prots)
    def protect(self, space: int, start: int, length: int, prot: int) -> None:
        self.free_of_raw(space, start, start + length)
        self.lone.now(self.pmaps[space].protect(self.va(space, start), self.va(space, start + length), prot))
        self.world.protect(space, start, start + length, prot)

    @rule(space=spaces, start=starts, length=lengths)
    def unwire(self, space: int, start: int, length: int) -> None:
        maps = self.world.maps[space]
        # A superpage is looked at whole, even where only a part of it is to be unwired.
        bases = [base for base in self.world.supers[space] if base < start + length and start < base + NPTEPG]
        assume(all(maps[vpn].wired for vpn in [*bases, *self.world.small(space, start, start + length)]))
        self.lone.now(self.pmaps[space].unwire(self.va(space, start), self.va(space, start + length)))
        inside = self.world.whole(space, start, start + length)
        todo = [vpn for base in inside for vpn in range(base, base + NPTEPG)]
        for vpn in todo + self.world.small(space, start, start + length):
            maps[vpn] = replace(maps[vpn], wired=False)

    # ------------------------------------------------------------ use

    @rule(space=spaces, some=st.lists(st.tuples(places, accesses), min_size=1, max_size=8))
    def access(self, space: int, some: list[tuple[int, int]]) -> None:
        for vpn, access in some:
            self.access_one(space, vpn, access)

    @rule(space=spaces, some=st.lists(st.tuples(places, accesses, st.integers(0, 1)), min_size=2, max_size=8))
    def access_from_both(self, space: int, some: list[tuple[int, int, int]]) -> None:
        for vpn, access, cpu in some:
            self.migrate(cpu)
            self.access_one(space, vpn, access)

    @rule(space=spaces, access=accesses)
    def access_all(self, space: int, access: int) -> None:
        """A few of what is mapped, from both processors."""
        vpns = [vpn for vpn in (0, 1, 2, NPTEPG - 1, NPTEPG, NPTEPG + 1) if vpn in self.world.maps[space]]
        for cpu in (0, 1):
            self.migrate(cpu)
            for vpn in vpns:
                self.access_one(space, vpn, access)

    def access_one(self, space: int, vpn: int, access: int) -> None:
        """Through the TLB of this processor; a spurious fault is repaired by trying again."""
        space_of = self.pmaps[space]
        got = self.lone.now(space_of.access(self.va(space, vpn), access))
        if isinstance(got, pmap.PageFault) and got.spurious:
            got = self.lone.now(space_of.access(self.va(space, vpn), access))
        found = self.world.maps[space].get(vpn)
        if self.world.touch(space, vpn, access):
            assert found is not None
            assert got is self.pages[found.page]
        else:
            assert isinstance(got, pmap.PageFault)
            assert got == pmap.PageFault(self.va(space, vpn), access, present=found is not None)

    @rule(cpu=st.integers(0, 1))
    def migrate(self, cpu: int) -> None:
        self.lone.now(self.machine.migrate(cpu))

    @rule(space=spaces, vpn=places, offset=st.integers(0, PAGE_SIZE - 1))
    def extract(self, space: int, vpn: int, offset: int) -> None:
        found = self.world.maps[space].get(vpn)
        want = self.pages[found.page].phys_addr + offset if found is not None else 0
        assert self.lone.now(self.pmaps[space].extract(self.va(space, vpn) + offset)) == want

    @rule(space=spaces, vpn=places, prot=prots)
    def extract_and_hold(self, space: int, vpn: int, prot: int) -> None:
        found = self.world.maps[space].get(vpn)
        allowed = found is not None and not (prot & VM_PROT_WRITE and not found.prot & VM_PROT_WRITE)
        page = self.lone.now(self.pmaps[space].extract_and_hold(self.va(space, vpn), prot))
        assert page is (self.pages[found.page] if found is not None and allowed else None)
        if page is not None:
            self.pmaps[space].unhold(page)

    # ------------------------------------------------------------ by hand

    @rule(vpn=places, page=pages)
    def kenter(self, vpn: int, page: int) -> None:
        assume(vpn not in self.world.maps[2])
        self.lone.now(self.pmaps[2].kenter(self.va(2, vpn), self.pages[page].phys_addr))
        self.world.maps[2][vpn] = Map(page, RW, wired=False, accessed=True, modified=True, raw=True)

    @precondition(lambda self: any(found.raw for found in self.world.maps[2].values()))
    @rule(quick=st.booleans(), data=st.data())
    def kremove(self, *, quick: bool, data: Any) -> None:
        vpn = data.draw(st.sampled_from([vpn for vpn, found in self.world.maps[2].items() if found.raw]))
        kernel = self.pmaps[2]
        if quick:
            self.lone.now(kernel.qremove(self.va(2, vpn), 1))
        else:
            self.lone.now(kernel.kremove(self.va(2, vpn)))
            self.lone.now(kernel.invalidate_range(self.va(2, vpn), self.va(2, vpn + 1)))
        del self.world.maps[2][vpn]

    @rule(start=places, some=st.lists(pages, min_size=1, max_size=3))
    def qenter(self, start: int, some: list[int]) -> None:
        """Over other mappings made by hand, or none."""
        maps = self.world.maps[2]
        vpns = range(start, start + len(some))
        assume(all(vpn not in maps or maps[vpn].raw for vpn in vpns) and vpns[-1] < 2 * NPTEPG)
        self.lone.now(self.pmaps[2].qenter(self.va(2, start), [self.pages[page] for page in some]))
        for vpn, page in zip(vpns, some, strict=True):
            maps[vpn] = Map(page, RW, wired=False, accessed=True, modified=True, raw=True)

    @rule(end=st.integers(0, 8 * NBPDR))
    def growkernel(self, end: int) -> None:
        kernel = self.pmaps[2]
        before = kernel.kernel_vm_end
        assert self.lone.now(kernel.growkernel(KERNEL + end)) == pmap.KERN_SUCCESS
        wanted = min(KERNEL + -(-end // NBPDR) * NBPDR, kernel.max_address)
        assert kernel.kernel_vm_end == max(before, wanted)

    # ------------------------------------------------------------ a page, everywhere

    def found(self, page: int) -> list[Map]:
        return [self.world.maps[space][vpn] for space, vpn in self.world.everywhere(page)]

    @rule(page=st.sampled_from([0, 1, NPTEPG - 1, NPTEPG]))
    def look(self, page: int) -> None:
        machine, frame = self.machine, self.pages[page]
        found = self.found(page)
        dirty = any(one.modified and one.prot & VM_PROT_WRITE for one in found)
        assert self.lone.now(pmap.pmap_is_modified(machine, frame)) == dirty
        assert self.lone.now(pmap.pmap_is_referenced(machine, frame)) == any(one.accessed for one in found)
        assert self.lone.now(pmap.pmap_page_is_mapped(machine, frame)) == bool(found)
        assert self.lone.now(pmap.pmap_page_wired_mappings(machine, frame)) == sum(one.wired for one in found)

    def no_cut(self, page: int, *, writable: bool) -> None:
        for space, base in self.world.super_list:
            if page < NPTEPG and (not writable or self.world.maps[space][base].prot & VM_PROT_WRITE):
                self.no_wired_loss(space, base, base + 1)

    @rule(page=st.sampled_from([0, 1, NPTEPG - 1, NPTEPG]))
    def remove_all(self, page: int) -> None:
        self.no_cut(page, writable=False)
        self.lone.now(pmap.pmap_remove_all(self.machine, self.pages[page]))
        if page < NPTEPG:
            for space, base in list(self.world.super_list):
                self.world.demote(space, base)
        for space, vpn in list(self.world.lists[page]):
            self.world.drop(space, vpn)
        self.machine.assert_page_unused(self.pages[page]) if not self.made_by_hand(page) else None

    def made_by_hand(self, page: int) -> bool:
        return any(found.raw and found.page == page for found in self.world.maps[2].values())

    @rule(page=st.sampled_from([0, 1, NPTEPG - 1, NPTEPG]), clear=st.booleans())
    def write_protect(self, *, page: int, clear: bool) -> None:
        """pmap_remove_write, or pmap_clear_modify."""
        self.no_cut(page, writable=True)
        world = self.world
        call = pmap.pmap_clear_modify if clear else pmap.pmap_remove_write
        self.lone.now(call(self.machine, self.pages[page]))
        cut = set()
        for space, base in list(world.super_list) if page < NPTEPG else []:
            old = world.maps[space][base]
            if old.prot & VM_PROT_WRITE and world.demote(space, base) and not old.wired:
                cut.add((space, base + page))
        for space, vpn in world.lists[page]:
            old = world.maps[space][vpn]
            if not old.prot & VM_PROT_WRITE:
                continue
            if not clear or (space, vpn) in cut:
                world.modified[page] |= old.modified
                world.maps[space][vpn] = replace(old, prot=old.prot & ~VM_PROT_WRITE, modified=False)
            else:
                world.maps[space][vpn] = replace(old, modified=False)

    @rule(page=st.sampled_from([0, 1, NPTEPG - 1, NPTEPG]))
    def ts_referenced(self, page: int) -> None:
        world = self.world
        got = self.lone.now(pmap.pmap_ts_referenced(self.machine, self.pages[page]))
        count = 0
        for source, large in ((world.super_list, True), (world.lists[page], False)):
            for space, vpn in list(source) if page < NPTEPG or not large else []:
                if count >= 5:
                    break
                old = world.maps[space][vpn]
                world.modified[page] |= old.modified and bool(old.prot & VM_PROT_WRITE)
                count += old.accessed
                number = (self.pages[page].phys_addr >> 12) ^ (self.va(space, vpn) >> 21) ^ space
                if large and not number % NPTEPG and not old.wired:
                    for at in range(vpn, vpn + NPTEPG):
                        world.maps[space][at] = replace(world.maps[space][at], accessed=False)
                    # Small entries may linger beside a promoted superpage, and then its bit is not set again at once.
                    self.lone.now(self.pmaps[space].invalidate_all())
                elif not large:
                    world.maps[space][vpn] = replace(old, accessed=False)
                if len(source) > 1:
                    source.remove((space, vpn))
                    source.append((space, vpn))
        assert got == count

    # ------------------------------------------------------------ everything, after each call

    @invariant()
    def the_same(self) -> None:
        world = self.world
        for space, space_of in enumerate(self.pmaps):
            maps = world.maps[space]
            counted = [found for found in maps.values() if not found.raw]
            assert space_of.resident_count == len(counted)
            assert space_of.wired_count == sum(found.wired for found in counted)
            assert space_of.statistics().superpages == len(world.supers[space])
            assert pmap.INVARIANTS["G20 counts"](space_of) is None
            got: dict[int, Map] = {}
            for one in space_of.translations(self.va(space, 0), self.va(space, 2 * NPTEPG)):
                vpn = (one.va - self.va(space, 0)) // PAGE_SIZE
                assert (one.size == NBPDR) == (vpn in world.supers[space])
                page = (one.pa - RAM) // PAGE_SIZE
                # Of a superpage, three pages stand for all.
                for number in (0,) if one.size == PAGE_SIZE else (0, 1, NPTEPG - 1):
                    got[vpn + number] = Map(page + number, one.prot, one.wired, one.accessed, one.modified, one.raw)
            inner = {base + number for base in world.supers[space] for number in range(2, NPTEPG - 1)}
            assert got == {vpn: found for vpn, found in maps.items() if vpn not in inner}
        for number in (0, 1, 2, NPTEPG - 1, NPTEPG, NPTEPG + 1, PAGES - 1):
            frame = self.pages[number]
            listed = [(self.pmaps.index(owner), va) for owner, va in frame.pv_list]
            assert listed == [(space, self.va(space, vpn)) for space, vpn in world.lists[number]]
            assert (frame.md_modified, frame.md_referenced) == (world.modified[number], world.referenced[number])
        header = self.machine.pvh(RAM).pv_list
        assert [(self.pmaps.index(owner), va) for owner, va in header] == [
            (space, self.va(space, base)) for space, base in world.super_list
        ]
        assert self.machine.statistics().pv_entries == sum(map(len, world.lists)) + len(world.super_list)


SETTINGS = settings(max_examples=60, stateful_step_count=30)
TestAgainstFlat = AgainstFlat.TestCase
TestAgainstFlat.settings = SETTINGS


class KeepsModified(pmap.FreeBSDPmap):
    """A page that is unmapped does not learn that it was modified."""

    def hand_over(self, md: Any, pte: int) -> None:
        super().hand_over(md, pte & ~pmap.PG_M)


class ForgetsWiring(pmap.FreeBSDPmap):
    """Counts a wired page that goes as if it were not wired."""

    def uncount(self, old: int) -> None:
        super().uncount(old & ~pmap.PG_W)


@pytest.mark.parametrize("cls", [KeepsModified, ForgetsWiring])
def test_the_comparison_can_fail(cls: type[pmap.FreeBSDPmap]) -> None:
    machine = type("Machine", (AgainstFlat,), {"PMAP": cls})
    with pytest.raises((Panic, AssertionError)):
        run_state_machine_as_test(machine, settings=settings(SETTINGS, phases=[Phase.generate]))
