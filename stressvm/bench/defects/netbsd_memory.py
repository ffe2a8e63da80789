"""NetBSD's kernel memory over pages: what is freed first, what a failing call gives back, and the page daemon."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from stressvm.bench.defects.defect import Defect, Plant
from stressvm.bench.defects.netbsd_memory_worlds import (
    failing,
    grows,
    in_interrupt,
    must_free,
    paged_out,
    same_address,
)
from stressvm.vm import netbsd
from stressvm.vm.pages import UvmPages

if TYPE_CHECKING:
    from stressvm.vm.netbsd import MapEntry, VmMap

PAGE: Final = netbsd.PAGE_SIZE
CANFAIL: Final = netbsd.UVM_KMF_CANFAIL
NOWAIT: Final = netbsd.UVM_KMF_NOWAIT


class AddressesFirst(netbsd.Memory):
    """The addresses are free before the pages are."""

    async def free(self, vm_map: VmMap, addr: int, size: int, kind: int) -> None:
        await self.free_addresses(vm_map, addr, addr + size)
        await self.free_contents(vm_map, addr, addr + size, kind)


class AddressesFirstUnseen(AddressesFirst):
    """The same, without the check where the addresses are given back: what comes of it is found all the same."""

    def given_back(self, vm_map: VmMap, start: int, end: int) -> None:  # type: ignore[override]
        """Not looked at."""


class UpdatesLate(netbsd.VmMap):
    """The processors are told when the map has been unlocked."""

    async def update_before_unlock(self) -> None:
        """Later."""

    async def finish_unmap(self, dead: list[MapEntry]) -> None:
        await super().finish_unmap(dead)
        assert self.memory is not None
        await self.memory.update()


class NeverUpdates(netbsd.VmMap):
    """The processors are not told."""

    async def update_before_unlock(self) -> None:
        """Never."""


class UnwindLeaksAddresses(netbsd.Memory):
    """A call that fails frees its pages, and keeps its addresses."""

    async def unwind(self, vm_map: VmMap, va: int, size: int, kind: int) -> None:
        await self.free_contents(vm_map, va, va + size, kind)


class UnwindFreesAPart(netbsd.Memory):
    """A call that fails gives back those addresses that have pages."""

    async def unwind(self, vm_map: VmMap, va: int, size: int, kind: int) -> None:
        there = sum(va <= at < va + size for at in self.ledger.wired)
        await self.free(vm_map, va, there * PAGE, kind)


class AsksCanfailFirst(netbsd.Memory):
    """CANFAIL is looked at before NOWAIT."""

    async def gives_up(self, flags: int) -> bool:
        if flags & CANFAIL:
            return not await self.uvm.uvm_reclaimable()
        return bool(flags & NOWAIT)


class LockedWhileWaiting(netbsd.Memory):
    """The map is locked while the call gets its pages, and so while it waits for them."""

    async def back(self, vm_map: VmMap, va: int, size: int, flags: int) -> bool:
        if flags & NOWAIT:
            return await super().back(vm_map, va, size, flags)
        await vm_map.lock.lock()
        done = await super().back(vm_map, va, size, flags)
        await vm_map.lock.unlock()
        return done


class IgnoresWaiters(UvmPages):
    """The daemon sleeps whether anybody waits or not."""

    def may_sleep(self) -> bool:
        return True


class GoesOn(UvmPages):
    """uvm_km_pgremove goes on with the next page after it has waited for a busy one."""

    def after_wait(self, off: int) -> int:
        return off + PAGE


class DropsTheCount(UvmPages):
    """uvm_wait does not count the waiter."""

    def count_waiter(self) -> None:
        """Nobody is counted."""


class WaitsInTwoSteps(UvmPages):
    """uvm_wait gives up the lock before it sleeps."""

    async def sleep_for_pages(self, wmesg: str, timo: int) -> None:
        await self.uvm_fpageqlock.unlock()
        await self.uvm_fpageqlock.lock()
        await super().sleep_for_pages(wmesg, timo)


class GrowsOutside(netbsd.Memory):
    """Page tables are made when the map has been unlocked. Two methods: it is moved from one to the other."""

    async def grow(self, end: int) -> None:
        self.k.once("ends", dict[int, int])[self.k.cur] = end

    async def back(self, vm_map: VmMap, va: int, size: int, flags: int) -> bool:
        end = self.k.once("ends", dict[int, int]).get(self.k.cur, 0)
        if self.maxkaddr < end:
            limit = await self.pmap.growkernel(end)
            # The store is a step of its own: no lock joins it to what it stores.
            await self.k.yield_()
            self.maxkaddr = limit
        return await super().back(vm_map, va, size, flags)


def _memory(memory: type[netbsd.Memory]) -> tuple[tuple[str, Any], ...]:
    return (("memory", memory),)


_STALE: Final = "still translates it"

DEFECTS: Final = (
    Defect(
        "N21",
        "The processors are told of removed mappings before the map is unlocked and the addresses can be found free.",
        (
            Plant("when it has been unlocked", same_address, (("cls", UpdatesLate),), "invariant", _STALE),
            Plant("never", same_address, (("cls", NeverUpdates),), "invariant", _STALE),
        ),
    ),
    Defect(
        "N22",
        "Pages are freed before their addresses are.",
        (
            Plant("afterwards", same_address, _memory(AddressesFirst), "invariant", "G17 pages|G15 vacated"),
            Plant(
                "afterwards, and nobody looks when addresses are given back",
                same_address,
                _memory(AddressesFirstUnseen),
                "invariant",
                "G15 vacated",
            ),
        ),
    ),
    Defect(
        "N23",
        "A call that fails for want of pages gives all of its addresses back, with those pages that it has.",
        (
            Plant("those addresses that have pages", failing, _memory(UnwindFreesAPart), "invariant", "G17 undone"),
            Plant("no addresses", failing, _memory(UnwindLeaksAddresses), "invariant", "G17 undone"),
        ),
    ),
    Defect(
        "N24",
        "Without a page, NOWAIT is asked before CANFAIL.",
        (
            Plant(
                "after it",
                in_interrupt,
                _memory(AsksCanfailFirst),
                "sleep-rule|lost-wakeup",
                "intr|km_getwait2",
            ),
        ),
    ),
    Defect(
        "N25",
        "Who waits for pages has no map locked.",
        (
            Plant(
                "the map is locked meanwhile",
                must_free,
                _memory(LockedWhileWaiting),
                "livelock|deadlock",
                "no progress|waits for",
            ),
        ),
    ),
    Defect(
        "N33",
        "Who removes pages and waits for a busy one looks at the same place again.",
        (
            Plant(
                "it goes on with the next",
                paged_out,
                (("uvm_class", GoesOn),),
                "invariant",
                "G17 pages",
            ),
        ),
    ),
    Defect(
        "N34",
        "Who waits for pages is counted as one step with going to sleep, and the daemon does not sleep while anybody is.",
        (
            Plant(
                "the daemon does not look at the count",
                must_free,
                (("uvm_class", IgnoresWaiters),),
                "lost-wakeup",
                "km_getwait2",
            ),
            Plant(
                "the lock is given up before it sleeps",
                must_free,
                (("uvm_class", WaitsInTwoSteps),),
                "invariant|lost-wakeup",
                "0 are known of|km_getwait2",
            ),
            Plant(
                "nobody is counted",
                must_free,
                (("uvm_class", DropsTheCount), ("prove", False)),
                "lost-wakeup",
                "km_getwait2",
                twin=(("prove", False),),
            ),
        ),
    ),
    Defect(
        "N35",
        "kernel_map's own limit of its page tables is changed with the map locked.",
        (
            Plant(
                "they grow when the map has been unlocked",
                grows,
                _memory(GrowsOutside),
                "assertion|panic|invariant",
                "kernel_map believes|no page table|G15",
            ),
        ),
    ),
)
