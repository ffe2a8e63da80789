"""NetBSD's pmap against its contract: a flat dictionary, and for each page all that a processor may still believe.

A change takes effect in the dictionary at once. What was there before stays believable, on every processor, until
pmap_update; an access must answer with something believable, and after pmap_update that is one thing only.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from hypothesis import Phase, assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from stressvm import Panic
from stressvm.conform.lone import LoneThread
from stressvm.vm import pmap
from stressvm.vm.pmap import NBPDR, PAGE_SIZE, VM_PROT_EXECUTE, VM_PROT_READ, VM_PROT_RW, VM_PROT_WRITE

R, RW, RX = VM_PROT_READ, VM_PROT_RW, VM_PROT_READ | VM_PROT_EXECUTE
KERNEL, USER, RAM = 0xC000_0000, 0x1000, 0x40_0000
PAGES = 6
#: The last pages before a new page table, and the first behind.
EDGE = NBPDR // PAGE_SIZE


@dataclass(frozen=True, slots=True)
class Map:
    """What one page of an address space maps."""

    page: int
    prot: int
    wired: bool = False
    raw: bool = False
    modified: bool = False

    def allows(self, access: int) -> bool:
        return not access & ~self.prot


places = st.sampled_from([0, 1, EDGE - 1, EDGE])
spaces = st.integers(0, 1)
pages = st.integers(0, PAGES - 1)
prots = st.sampled_from([R, RW, RW, RX, RW | RX])
lengths = st.sampled_from([1, 1, 1, 2, EDGE])


class AgainstContract(RuleBasedStateMachine):
    """A user pmap and the kernel's, one thread that moves between two processors."""

    USER_PMAP: type[pmap.NetBSDPmap] = pmap.NetBSDPmap

    @initialize(pcid=st.booleans(), fill=st.lists(st.tuples(spaces, places, pages, prots), min_size=2, max_size=8))
    def begin(self, *, pcid: bool, fill: list[tuple[int, int, int, int]]) -> None:
        self.lone = LoneThread()
        self.machine = pmap.Machine(self.lone.k, 2, pcid=pcid)
        self.pmaps = [
            self.USER_PMAP(self.machine, "user"),
            pmap.NetBSDPmap(
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
        self.maps: list[dict[int, Map]] = [{}, {}]
        #: What was there since the last pmap_update, None standing for nothing.
        self.past: list[dict[int, list[Map | None]]] = [{}, {}]
        self.lists: list[list[tuple[int, int]]] = [[] for _ in range(PAGES)]
        self.lone.start()
        for space, vpn, page, prot in fill:
            self.enter(space=space, vpn=vpn, page=page, prot=prot, wired=False)
            self.access_all(space=space, access=R)

    def teardown(self) -> None:
        if hasattr(self, "lone"):
            self.lone.close()

    def va(self, space: int, vpn: int) -> int:
        return (USER, KERNEL)[space] + vpn * PAGE_SIZE

    def pa(self, page: int) -> int:
        return self.pages[page].phys_addr

    def put(self, space: int, vpn: int, new: Map | None) -> None:
        """A change: what was there is believable until pmap_update."""
        old = self.maps[space].pop(vpn, None)
        self.past[space].setdefault(vpn, []).append(old)
        if new is not None:
            self.maps[space][vpn] = new
        if old is not None and not old.raw and old.page != PAGES - 1 and (new is None or new.page != old.page):
            self.lists[old.page].remove((space, vpn))
        if new is not None and not new.raw and new.page != PAGES - 1 and (old is None or old.page != new.page):
            self.lists[new.page].append((space, vpn))

    def within(self, space: int, start: int, length: int) -> list[int]:
        return [vpn for vpn in sorted(self.maps[space]) if start <= vpn < start + length]

    # ------------------------------------------------------------ calls

    @rule(space=spaces, vpn=places, page=pages, prot=prots, wired=st.booleans())
    def enter(self, *, space: int, vpn: int, page: int, prot: int, wired: bool) -> None:
        old = self.maps[space].get(vpn)
        assume(old is None or not old.raw)
        flags = R | wired * pmap.PMAP_WIRED
        assert self.lone.now(self.pmaps[space].enter(self.va(space, vpn), self.pa(page), prot, flags)) == 0
        modified = old is not None and old.page == page and old.modified
        self.put(space, vpn, Map(page, prot, wired, modified=modified))

    @rule(space=spaces, start=places, length=lengths)
    def remove(self, space: int, start: int, length: int) -> None:
        vpns = self.within(space, start, length)
        assume(not any(self.maps[space][vpn].raw for vpn in vpns))
        self.lone.now(self.pmaps[space].remove(self.va(space, start), self.va(space, start + length)))
        for vpn in vpns:
            self.put(space, vpn, None)

    @rule(space=spaces, start=places, length=lengths, prot=st.sampled_from([0, R, RX, RW]))
    def protect(self, space: int, start: int, length: int, prot: int) -> None:
        vpns = self.within(space, start, length)
        assume(not any(self.maps[space][vpn].raw for vpn in vpns))
        self.lone.now(self.pmaps[space].protect(self.va(space, start), self.va(space, start + length), prot))
        for vpn in vpns if not prot & VM_PROT_WRITE else []:
            old = self.maps[space][vpn]
            self.put(space, vpn, replace(old, prot=old.prot & prot) if prot else None)

    @rule(space=spaces, vpn=places)
    def unwire(self, space: int, vpn: int) -> None:
        assume(vpn in self.maps[space])
        assume(not self.maps[space][vpn].raw)
        self.lone.now(self.pmaps[space].unwire(self.va(space, vpn)))
        self.maps[space][vpn] = replace(self.maps[space][vpn], wired=False)

    @rule(space=spaces, vpn=places, offset=st.integers(0, PAGE_SIZE - 1))
    def extract(self, space: int, vpn: int, offset: int) -> None:
        found = self.maps[space].get(vpn)
        want = (True, self.pa(found.page) + offset) if found is not None else (False, 0)
        assert self.lone.now(self.pmaps[space].extract(self.va(space, vpn) + offset)) == want

    @rule(vpn=places, page=pages, prot=prots)
    def kenter_pa(self, vpn: int, page: int, prot: int) -> None:
        assume(vpn not in self.maps[1])
        self.lone.now(self.pmaps[1].kenter_pa(self.va(1, vpn), self.pa(page), prot))
        self.put(1, vpn, Map(page, prot, raw=True))

    @rule(start=places, length=lengths)
    def kremove(self, start: int, length: int) -> None:
        vpns = self.within(1, start, length)
        assume(all(self.maps[1][vpn].raw for vpn in vpns))
        self.lone.now(self.pmaps[1].kremove(self.va(1, start), length * PAGE_SIZE))
        for vpn in vpns:
            self.put(1, vpn, None)

    @rule(space=spaces)
    def update(self, space: int) -> None:
        self.lone.now(self.pmaps[space].update())
        self.past[space].clear()

    @rule(end=st.integers(0, 8 * NBPDR))
    def growkernel(self, end: int) -> None:
        kernel = self.pmaps[1]
        before = kernel.kernel_vm_end
        wanted = min(KERNEL + -(-end // NBPDR) * NBPDR, kernel.max_address)
        assert self.lone.now(kernel.growkernel(KERNEL + end)) == max(before, wanted) == kernel.kernel_vm_end

    # ------------------------------------------------------------ use

    @rule(
        space=spaces,
        some=st.lists(
            st.tuples(places, st.sampled_from([R, VM_PROT_WRITE, VM_PROT_EXECUTE]), st.integers(0, 1)),
            min_size=1,
            max_size=6,
        ),
    )
    def access(self, space: int, some: list[tuple[int, int, int]]) -> None:
        self.accesses(space, some)

    @rule(space=spaces, access=st.sampled_from([R, VM_PROT_WRITE, VM_PROT_EXECUTE]))
    def access_all(self, space: int, access: int) -> None:
        """Whatever is mapped, from both processors."""
        self.accesses(space, [(vpn, access, cpu) for vpn in self.maps[space] for cpu in (0, 1)])

    def accesses(self, space: int, some: list[tuple[int, int, int]]) -> None:
        for vpn, access, cpu in some:
            self.lone.now(self.machine.migrate(cpu))
            got = self.lone.now(self.pmaps[space].access(self.va(space, vpn), access))
            if isinstance(got, pmap.PageFault) and got.spurious:
                got = self.lone.now(self.pmaps[space].access(self.va(space, vpn), access))
            now = self.maps[space].get(vpn)
            believable = [now, *self.past[space].get(vpn, [])]
            answers = [self.pages[one.page] for one in believable if one is not None and one.allows(access)]
            if isinstance(got, pmap.PageFault):
                assert any(one is None or not one.allows(access) for one in believable)
            else:
                assert got in answers
            if now is not None and access == VM_PROT_WRITE and len(believable) == 1 and now.allows(access):
                self.maps[space][vpn] = replace(now, modified=True)

    # ------------------------------------------------------------ everything, after each call

    @invariant()
    def the_same(self) -> None:
        for space, space_of in enumerate(self.pmaps):
            counted = [found for found in self.maps[space].values() if not found.raw]
            assert space_of.resident_count == len(counted)
            assert space_of.wired_count == sum(found.wired for found in counted)
            got = {
                (one.va - self.va(space, 0)) // PAGE_SIZE: one
                for one in space_of.translations(self.va(space, 0), self.va(space, 2 * EDGE))
            }
            assert set(got) == set(self.maps[space])
            for vpn, found in self.maps[space].items():
                one = got[vpn]
                assert (one.pa, one.prot, one.wired, one.raw) == (
                    self.pa(found.page),
                    found.prot,
                    found.wired,
                    found.raw,
                )
                # A processor may have written through what it believed, and then the tables need not say so.
                assert one.modified or not found.modified
        for number, page in enumerate(self.pages):
            listed = [(self.pmaps.index(owner), owner, va) for owner, va in page.pv_list]
            # The same page entered again keeps its place.
            assert [(space, (va - self.va(space, 0)) // PAGE_SIZE) for space, _, va in listed] == self.lists[number]


SETTINGS = settings(max_examples=100, stateful_step_count=30)
TestAgainstContract = AgainstContract.TestCase
TestAgainstContract.settings = SETTINGS


def test_the_contract_can_be_broken() -> None:
    """The machine above is not one that accepts everything: a pmap that forgets what it must tell is found by it."""

    class Forgetful(pmap.NetBSDPmap):
        def queue_shootdown(self, va: int) -> None:
            """Nobody is told."""

    class Machine(AgainstContract):
        USER_PMAP = Forgetful

    with pytest.raises(Panic, match="G20 tlb: pmap_update is done, and cpu"):
        run_state_machine_as_test(Machine, settings=settings(SETTINGS, phases=[Phase.generate]))
