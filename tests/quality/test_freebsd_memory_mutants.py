"""Is each step between FreeBSD's maps, pages and pmaps needed? One at a time is done wrongly, and a hunt must see it.

Each defect overrides one small method. The same program without it is clean.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from stressvm.bench.defects.freebsd_memory import (
    ComparesTheObjectOnly,
    GrowsNothing,
    NeverUnmaps,
    TrustsTheMap,
    UnmapsLate,
    UnwiresLate,
    UnwiresSecond,
    WaitsForTheMap,
)
from stressvm.bench.defects.freebsd_memory_programs import (
    addresses_wait,
    cow_in_two_threads,
    cow_on_two_processors,
    fault_and_fork,
    fault_and_protect,
    fault_and_remove,
    fault_and_wire,
    kernel_memory,
    kernel_memory_waits,
    out_of_pages,
    remap_during_io,
    remove_during_io,
    remove_what_is_wired,
    shared_copy,
    short_of_pages,
    two_faults,
    wire_cow_and_protect,
)
from stressvm.explore.random_walk import RandomWalk
from stressvm.vm import freebsd
from stressvm.vm.freebsd import Fork, Kmem13, Kmem2013, VmFault, VmFault2013, VmMap13
from stressvm.vm.freebsd.vm_fault_lookup import RESTART
from stressvm.vm.pages import VM_ALLOC_NORMAL, VM_ALLOC_ZERO
from stressvm.vm.pmap import FreeBSD2013Pmap, FreeBSDPmap
from tests.support import ending, explore, in_trio, kinds, opened, subject

if TYPE_CHECKING:
    from collections.abc import Callable

    from stressvm import Kernel
    from stressvm.vm.freebsd import FaultState, Vmem, VmMapEntry
    from stressvm.vm.pages import Page

# ---------------------------------------------------------------- defects of maps


class NeverUnwires(VmMap13):
    """The entry is wired no more, and its pages are."""

    async def unwire_pages(self, entry: VmMapEntry, start: int, end: int) -> None:
        """Nothing."""


class ProtectsTheEntryOnly(VmMap13):
    """Mappings keep the rights that their entry has lost."""

    async def take_rights(self, lost: list[tuple[int, int, int]]) -> None:
        """Nothing."""


class CopiesNothing(VmMap13):
    """What the user has wired becomes writable as it is."""

    async def copy_wired(self, entry: VmMapEntry, prot: int) -> None:
        """Nothing."""


class KeepsWriting(Fork):
    """A fork leaves writable mappings behind."""

    async def revoke_writing(self) -> None:
        """Nothing."""


# ---------------------------------------------------------------- defects of pmaps


class ProtectsLate(FreeBSDPmap):
    """Processors are told of lost rights when the pmap is unlocked."""

    async def finish_protection(self, *, anychanged: bool) -> None:
        await self.release()
        if anychanged:
            await self.invalidate_all()


class RemovesLate(FreeBSDPmap):
    """Processors are told of removed mappings when the pmap is unlocked."""

    async def finish_removal(self, *, anyvalid: bool, page: int | None) -> None:  # noqa: ARG002 - all of it
        await self.release()
        if anyvalid:
            await self.invalidate_all()


# ---------------------------------------------------------------- defects of faults


class WaitsWithTheMap(VmFault):
    """It waits for a page with the map locked."""

    async def allocate(self, fs: FaultState) -> int:
        page = await fs.phys.vm_page_alloc(fs.store, fs.pindex, VM_ALLOC_NORMAL | VM_ALLOC_ZERO)
        if page is None:
            await fs.store.lock.unlock()
            await fs.phys.vm_wait("pfault")
            await fs.store.lock.lock()
            await self.unlock_and_deallocate(fs)
            return RESTART
        fs.store.valid.pop(fs.pindex, None)
        fs.m = page
        return 0


class MapsAnEmptyCopy(VmFault):
    """The new page is not filled from the old one."""

    async def copy_page(self, fs: FaultState, page: Page, copy: Page) -> None:
        copy.zero()
        fs.first.validate(copy)
        fs.m_cow = page


class MapsTooMuch(VmFault):
    """What is mapped may be written if the entry may, although it needs to be copied for that."""

    async def look_up(self, fs: FaultState) -> int:
        result = await super().look_up(fs)
        if not result:
            fs.prot = fs.entry.protection
        return result


class LeavesItBusy(VmFault):
    """The page that was copied stays busy."""

    async def release_page(self, fs: FaultState, page: Page | None) -> None:
        if page is not None:
            await fs.phys.vm_page_deactivate(page)


class KeepsTheReference(VmFault):
    """The reference to the first object is forgotten."""

    async def deallocate(self, fs: FaultState) -> None:
        freebsd.vm_object_hold(fs.k, fs.first_object, -1)
        await fs.memory.drain()


class SeesNothingElsewhere(VmFault):
    """Who else has mapped the page that was copied is not asked."""

    async def forget_elsewhere(self, fs: FaultState, page: Page) -> None:
        """Nothing."""


# ---------------------------------------------------------------- defects of kernel memory


class FreesAddressesFirst(Kmem13):
    """Addresses are free before what is there is gone."""

    async def free(self, arena: Vmem, addr: int, size: int) -> None:
        await freebsd.vmem_free(arena, addr, size)
        await self.unback(addr, size)


class FreesPagesFirst(Kmem13):
    """Pages are free before they are unmapped."""

    async def unback(self, addr: int, size: int) -> None:
        if size:
            await self.free_pages(addr, size)
            await self.pmap.remove(addr, addr + size)


class KeepsPages(Kmem13):
    """Who gets too few pages keeps them."""

    async def back_failed(self, addr: int, size: int) -> None:
        """Nothing."""


class KeepsAddresses(Kmem13):
    """Who gets too few pages keeps the addresses."""

    async def malloc_failed(self, arena: Vmem, addr: int, size: int) -> None:
        """Nothing."""


class WaitsWithTheObject(Kmem2013):
    """It waits for pages with the kernel object locked."""

    async def wait_for_page(self) -> None:
        await self.phys.vm_wait()


class SilentVmem(freebsd.Vmem):
    """Who waits for room is not told."""

    async def broadcast(self) -> None:
        """Nothing."""


class WakesNobody(Kmem2013):
    """A kmem_arena that tells nobody."""

    async def free_addresses(self, arena: Vmem, addr: int, size: int) -> None:
        arena.__class__ = SilentVmem
        await super().free_addresses(arena, addr, size)


# ---------------------------------------------------------------- the hunt


class Seen(NamedTuple):
    """What a hunt has seen first: in which execution, what kind of finding, and what is said of it."""

    number: int
    kind: str
    text: str


#: So many executions must do; most defects need ten.
WITHIN = 400


def hunt(program: Callable[..., None], n: int, **kw: Any) -> Seen | None:
    """The first execution of a random walk that is not clean; None for none in `n`."""

    def build(k: Kernel) -> None:
        made = dict(kw)
        if "fault" in made:
            made["fault"] = made["fault"]()
        program(k, **made)

    what = subject(build)
    walk = RandomWalk(1)

    async def main() -> Seen | None:
        async with opened(what.kernel(), "stepped") as driver:
            for number in range(1, n + 1):
                one = await ending(what, driver, walk, number - 1)
                if one.kind is not None:
                    return Seen(number, one.kind, one.text)
        return None

    found: Seen | None = in_trio(main)
    return found


@dataclass(frozen=True)
class Planted:
    """A defect, the program that shows it, and how it shows. `text` is part of what is said of it."""

    program: Callable[..., None]
    what: tuple[str, Any]
    kind: str
    text: str
    more: tuple[tuple[str, Any], ...] = ()


OLD_PMAP = (("pmap", FreeBSDPmap),)
PLANTED: dict[str, Planted] = {
    "unmapped late": Planted(fault_and_remove, ("cls", UnmapsLate), "invariant", "G14 deleted"),
    "never unmapped": Planted(fault_and_remove, ("cls", NeverUnmaps), "invariant", "G14 deleted"),
    "unwired late": Planted(remove_what_is_wired, ("cls", UnwiresLate), "invariant", "G6 wirings"),
    "never unwired": Planted(fault_and_wire, ("cls", NeverUnwires), "panic", "freeing wired page"),
    "the entry alone is protected": Planted(
        fault_and_protect, ("cls", ProtectsTheEntryOnly), "invariant", "G15 translations: .* for writing, of"
    ),
    "wired memory is not copied": Planted(wire_cow_and_protect, ("cls", CopiesNothing), "invariant", "G15 pages"),
    "no page tables": Planted(kernel_memory, ("map_cls", GrowsNothing), "invariant", "G15 page tables"),
    "a fork keeps writing": Planted(
        fault_and_fork, ("fork", KeepsWriting), "invariant", "for writing, though it needs to be copied"
    ),
    "protected, told late": Planted(fault_and_protect, ("pmap", ProtectsLate), "invariant", "G20 tlb"),
    "forked, told late": Planted(fault_and_fork, ("pmap", ProtectsLate), "invariant", "G20 tlb"),
    "unmapped, told late": Planted(fault_and_remove, ("pmap", RemovesLate), "invariant", "G20 tlb"),
    "another page without a break": Planted(
        cow_in_two_threads, ("pmap", FreeBSD2013Pmap), "invariant", "G20 two pages"
    ),
    "the map is trusted": Planted(remap_during_io, ("fault", TrustsTheMap), "assertion", "is not what is mapped"),
    "the object alone is compared": Planted(
        remap_during_io, ("fault", ComparesTheObjectOnly), "assertion", "is not what is mapped"
    ),
    "the map is waited for": Planted(
        remove_during_io, ("fault", WaitsForTheMap), "deadlock", "waits for read-lock .* sleeps on page"
    ),
    "pages are waited for with the map": Planted(
        short_of_pages, ("fault", WaitsWithTheMap), "exhausted", "for something that never came"
    ),
    "an empty copy": Planted(cow_in_two_threads, ("fault", MapsAnEmptyCopy), "assertion", "reads 'zeros'"),
    "too many rights": Planted(
        fault_and_fork, ("fault", MapsTooMuch), "invariant|assertion", "for writing, though|reads"
    ),
    "left busy": Planted(cow_on_two_processors, ("fault", LeavesItBusy), "deadlock|exhausted", "sleeps on page"),
    "a reference forgotten": Planted(two_faults, ("fault", KeepsTheReference), "invariant", "memory: leak"),
    "a copy unseen by others": Planted(
        shared_copy, ("fault", SeesNothingElsewhere), "assertion", "after the parent wrote"
    ),
    "10.4: a copy unseen by others": Planted(
        shared_copy, ("fault", VmFault2013), "assertion", "after the parent wrote", (("version", "2013"), *OLD_PMAP)
    ),
    "addresses freed first": Planted(kernel_memory, ("cls", FreesAddressesFirst), "panic", "already allocated"),
    "pages freed first": Planted(kernel_memory, ("cls", FreesPagesFirst), "invariant", "is reused, and still mapped"),
    "pages kept": Planted(out_of_pages, ("cls", KeepsPages), "assertion", "pages were kept"),
    "addresses kept": Planted(out_of_pages, ("cls", KeepsAddresses), "assertion", "addresses were kept"),
    "pages are waited for with the object": Planted(
        kernel_memory_waits, ("cls", WaitsWithTheObject), "exhausted", "never came", (("version", "2013"),)
    ),
    "nobody is told of addresses": Planted(addresses_wait, ("cls", WakesNobody), "lost-wakeup", "arena.cv"),
}


@pytest.mark.parametrize("name", PLANTED)
def test_what_is_planted_is_found(name: str) -> None:
    planted = PLANTED[name]
    found = hunt(planted.program, WITHIN, **dict([planted.what, *planted.more]))
    assert found is not None
    assert found.kind in planted.kind.split("|"), found.text
    assert re.search(planted.text, found.text), found.text


#: 10.4 has the one about a copy unseen by others.
CLEAN = [
    made
    for made in dict.fromkeys((planted.program, planted.more) for planted in PLANTED.values())
    if made[0] is not shared_copy or not made[1]
]


@pytest.mark.parametrize(("program", "more"), CLEAN, ids=[program.__name__ for program, _ in CLEAN])
def test_without_it_the_program_is_clean(program: Callable[..., None], more: tuple[tuple[str, Any], ...]) -> None:
    assert hunt(program, WITHIN, **dict(more)) is None


def test_in_13_the_order_of_unwiring_and_unmapping_alone_does_not_matter() -> None:
    """It finds the pages by their object, and its pmap passes over what is not mapped; 9.3 needs the order."""
    endings = explore(lambda k: remove_what_is_wired(k, cls=UnwiresSecond), WITHIN)
    assert kinds(endings) == {None}


def test_what_a_stale_mapping_costs_is_seen_without_any_invariant(monkeypatch: pytest.MonkeyPatch) -> None:
    """The programs know what they must read: with the maps' proofs off, a fork that keeps writing is a wrong read."""
    for name in ("G15 translations", "G15 pages"):
        monkeypatch.setitem(freebsd.INVARIANTS, name, lambda _: None)
    found = hunt(fault_and_fork, WITHIN, fork=KeepsWriting)
    assert found is not None
    assert found.kind == "assertion"
    assert "reads" in found.text
