"""Below the maps: page table entries, the processors' TLBs, superpages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from stressvm.bench.defects.defect import Defect, Label, Plant
from stressvm.vm import pmap
from stressvm.vm.pmap import NBPDR, NPTEPG, PAGE_SIZE, VM_PROT_READ, VM_PROT_RW, VM_PROT_WRITE

if TYPE_CHECKING:
    from stressvm.bench.defects.defect import Build
    from stressvm.kernel.kernel import Kernel

R, RW, W = VM_PROT_READ, VM_PROT_RW, VM_PROT_WRITE
USER, RAM = 4 * NBPDR, 8 * NBPDR


def frames(machine: pmap.Machine, count: int) -> list[pmap.Frame]:
    """Page frames of that machine."""
    made = [pmap.Frame(RAM + n * PAGE_SIZE, content=0) for n in range(count)]
    machine.add_pages(made)
    return made


def protect(cls: type[pmap.FreeBSDPmap] = pmap.FreeBSDPmap) -> Build:
    """A page is made read-only, to be copied; a thread on the other processor goes on writing to it."""

    def build(k: Kernel) -> None:
        machine = pmap.Machine(k, 2)
        space = cls(machine, "user")
        (page,) = frames(machine, 1)
        space.prefill(USER, [page], RW, W)

        async def copy() -> None:
            await space.protect(USER, USER + PAGE_SIZE, R)
            copied = page.content
            await k.yield_()
            assert page.content == copied, "a write was lost"

        async def write() -> None:
            for _ in range(3):
                got = await space.access(USER, W)
                if not isinstance(got, pmap.PageFault):
                    page.content += 1

        k.spawn(copy, name="copy")
        k.spawn(write, name="write")

    return build


def remove(cls: type[pmap.FreeBSDPmap] = pmap.FreeBSDPmap) -> Build:
    """Two pages are unmapped, and then one of them is used for something else."""

    def build(k: Kernel) -> None:
        machine = pmap.Machine(k, 2)
        space = cls(machine, "user")
        pages = frames(machine, 2)
        space.prefill(USER, pages, RW, W)

        async def unmap() -> None:
            await space.remove(USER, USER + 2 * PAGE_SIZE)
            machine.assert_page_unused(pages[1])

        async def use() -> None:
            for number in (1, 0, 1):
                await space.access(USER + number * PAGE_SIZE, W)

        k.spawn(unmap, name="unmap")
        k.spawn(use, name="use")

    return build


def replace(cls: type[pmap.FreeBSDPmap] = pmap.FreeBSDPmap) -> Build:
    """A fault on a copy-on-write page maps the copy; a thread of the same process reads what another has written."""

    def build(k: Kernel) -> None:
        machine = pmap.Machine(k, 2)
        space = cls(machine, "user")
        old, new = frames(machine, 2)
        space.prefill(USER, [old], R)

        async def fault() -> None:
            await space.enter(USER, new, RW, W)
            got = await space.access(USER, W)
            assert got is new

        async def read() -> None:
            seen = [await space.access(USER, R) for _ in range(3)]
            pages = [got for got in seen if not isinstance(got, pmap.PageFault)]
            assert old not in pages[pages.index(new) :] if new in pages else True

        k.spawn(fault, name="fault")
        k.spawn(read, name="read")

    return build


def cut(cls: type[pmap.FreeBSDPmap] = pmap.FreeBSDPmap) -> Build:
    """A superpage is cut while entries of pv lists are short: whether there are enough depends on who comes first."""

    def build(k: Kernel) -> None:
        machine = pmap.Machine(k, 2, pv_entries_max=NPTEPG)
        space, other = cls(machine, "user"), cls(machine, "other")
        pages = frames(machine, NPTEPG + 1)
        space.prefill(USER, pages[:NPTEPG], R)

        async def unmap() -> None:
            await space.remove(USER, USER + PAGE_SIZE)

        async def enter() -> None:
            await other.enter(USER, pages[NPTEPG], R, R)

        k.spawn(unmap, name="unmap")
        k.spawn(enter, name="enter")

    return build


def fill(cls: type[pmap.FreeBSDPmap] = pmap.FreeBSDPmap) -> Build:
    """The last page of 512 is mapped while one of the others loses a right."""

    def build(k: Kernel) -> None:
        machine = pmap.Machine(k, 2)
        space = cls(machine, "user")
        pages = frames(machine, NPTEPG)
        space.prefill(USER, pages[:-1], R | pmap.VM_PROT_EXECUTE)

        async def enter() -> None:
            await space.enter(USER + NBPDR - PAGE_SIZE, pages[-1], R | pmap.VM_PROT_EXECUTE, R)

        async def restrict() -> None:
            await space.protect(USER + 7 * PAGE_SIZE, USER + 8 * PAGE_SIZE, R)

        k.spawn(enter, name="enter")
        k.spawn(restrict, name="restrict")

    return build


class InvalidatesAfterUnlock(pmap.FreeBSDPmap):
    """The lock is released before the processors are told."""

    async def finish_protection(self, *, anychanged: bool) -> None:
        await super().finish_protection(anychanged=False)
        if anychanged:
            await self.invalidate_all()

    async def finish_removal(self, *, anyvalid: bool, page: int | None) -> None:
        await super().finish_removal(anyvalid=False, page=page)
        if anyvalid:
            await self.invalidate_all()


class ForgetsAProcessor(pmap.FreeBSDPmap):
    """The processor with the highest number is not told."""

    def ipi_targets(self) -> list[pmap.Tlb]:
        return [tlb for tlb in super().ipi_targets() if tlb.cpu != self.machine.ncpu - 1]


class ChangesAfterTelling(pmap.FreeBSDPmap):
    """The processors are told first, and then the entries are changed."""

    async def protect_ptes(self, table: pmap.PageTable, vas: list[int], prot: int) -> bool:
        await self.invalidate_all()
        await super().protect_ptes(table, vas, prot)
        return False

    async def clear_ptes(self, table: pmap.PageTable, vas: list[int]) -> list[int]:
        await self.invalidate_all()
        return await super().clear_ptes(table, vas)

    async def remove_ptes(self, *args: Any) -> bool:
        await super().remove_ptes(*args)
        return False


class DoesNotBreak(pmap.FreeBSDPmap):
    """Another page is stored over the old one, which is cleared on paper only."""

    async def break_mapping(self, table: pmap.PageTable, va: int) -> int:
        old = table.entries[self.index_of(va)]
        self.hand_over(self.machine.md(old), old)
        return old


class BreaksWithoutTelling(pmap.FreeBSDPmap):
    """The old mapping is cleared, but nobody told before the new one is made."""

    async def invalidate_page(self, va: int) -> None:
        """Nobody."""


class ReservesNothing(pmap.FreeBSDPmap):
    """Demotion hopes for the best."""

    async def reserve_pv_entries(self, needed: int, lockp: pmap.PvLock) -> None:
        """There will be some."""


class PromotesTheUnlike(pmap.FreeBSDPmap):
    """Promotion does not look at the right to execute."""

    def alike(self, pte: int, first: int) -> bool:
        return super().alike(pte | pmap.PG_NX, first | pmap.PG_NX)


_UNTOLD: Final = "the lock is released, and cpu"


def _cls(cls: type[pmap.FreeBSDPmap]) -> tuple[tuple[str, Any], ...]:
    return (("cls", cls),)


DEFECTS: Final = (
    Defect(
        "F36",
        "After an entry of a page table was changed, the processors are told before the pmap is unlocked.",
        (
            Plant("protecting: afterwards", protect, _cls(InvalidatesAfterUnlock), "invariant", _UNTOLD),
            Plant("removing: afterwards", remove, _cls(InvalidatesAfterUnlock), "invariant", _UNTOLD),
            Plant("protecting: before the entry is changed", protect, _cls(ChangesAfterTelling), "invariant", _UNTOLD),
            Plant("removing: before the entries are changed", remove, _cls(ChangesAfterTelling), "invariant", _UNTOLD),
            Plant("removing: one processor is not", remove, _cls(ForgetsAProcessor), "invariant", "and cpu1 still"),
        ),
    ),
    Defect(
        "F37",
        "A page is replaced by another by clearing its entry and telling the processors, and only then entering the other.",
        (
            Plant("the entry is not cleared first", replace, _cls(DoesNotBreak), "invariant", "G20 two pages"),
            Plant("it is cleared, and nobody told", replace, _cls(BreaksWithoutTelling), "invariant", "G20 two pages"),
            Plant(
                "10.4, as shipped: one store, and the processors are told afterwards",
                replace,
                _cls(pmap.FreeBSD2013Pmap),
                "invariant",
                "G20 two pages",
                label=Label.SHIPPED,
            ),
        ),
    ),
    Defect(
        "F38",
        "A superpage is cut up only once its pv entries are reserved, and made only of pages with equal rights.",
        (
            Plant("nothing is reserved", cut, _cls(ReservesNothing), "panic", "missing spare"),
            Plant("the right to execute is not compared", fill, _cls(PromotesTheUnlike), "invariant", "G20 superpages"),
        ),
    ),
)
