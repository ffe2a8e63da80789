"""Every classic mistake with TLBs, planted in one small step of a pmap, is found by a hunt; without it nothing is.

A world is a story of two processors; a mistake is a subclass that overrides one method (two, if it moves something from
one step to another). The worlds run with the faithful pmap as well, by both strategies, and stay clean.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import trio

from stressvm import Kernel, Mutex, scenario
from stressvm.bench.defects.pmap import (
    BreaksWithoutTelling,
    ChangesAfterTelling,
    DoesNotBreak,
    ForgetsAProcessor,
    InvalidatesAfterUnlock,
    PromotesTheUnlike,
    ReservesNothing,
    cut,
    fill,
    frames,
    protect,
    remove,
    replace,
)
from stressvm.explore.execution import Subject
from stressvm.explore.hunt import Result, Settings, hunt_subject
from stressvm.vm import pmap
from stressvm.vm.pmap import NBPDR, NPTEPG, PAGE_SIZE, VM_PROT_READ, VM_PROT_RW, VM_PROT_WRITE, netbsd_pages

R, RW, W = VM_PROT_READ, VM_PROT_RW, VM_PROT_WRITE
KERNEL, USER, RAM = 0xC000_0000, 4 * NBPDR, 8 * NBPDR
CLEAN = 600
CLEAN_LARGE = 100
BOUND = 300

Build = Callable[[Kernel], None]
World = Callable[..., Build]


def kernel_pmap(cls: Any, machine: pmap.Machine) -> Any:
    return cls(
        machine, "kernel", kernel=True, min_address=KERNEL, max_address=KERNEL + NBPDR, kernel_vm_end=KERNEL + NBPDR
    )


# ------------------------------------------------------------ worlds


def buffers(cls: type[pmap.FreeBSDPmap] = pmap.FreeBSDPmap) -> Build:
    """Kernel addresses are mapped and unmapped by hand, and given on, while another processor reads there."""

    def build(k: Kernel) -> None:
        machine = pmap.Machine(k, 2)
        kernel = kernel_pmap(cls, machine)
        pages = frames(machine, 2)

        async def move() -> None:
            await kernel.qenter(KERNEL, pages[:1])
            await kernel.qremove(KERNEL, 1)
            machine.assert_page_unused(pages[0])
            await kernel.kenter(KERNEL, pages[1].phys_addr)

        async def read() -> None:
            for _ in range(3):
                await kernel.access(KERNEL, R)

        k.spawn(move, name="move")
        k.spawn(read, name="read")

    return build


def reclaim(cls: type[pmap.FreeBSDPmap] = pmap.FreeBSDPmap, invl: type[pmap.DelayedInvl] | None = None) -> Build:
    """The page daemon unmaps a page and uses it anew, while the process is just unmapping a range with it."""

    def build(k: Kernel) -> None:
        machine = pmap.Machine(k, 2)
        if invl is not None:
            machine.invl = invl(k)
        space = cls(machine, "user")
        pages = frames(machine, 2)
        space.prefill(USER, pages, RW, W)

        async def unmap() -> None:
            await space.remove(USER, USER + 2 * PAGE_SIZE)

        async def daemon() -> None:
            await space.access(USER, W)
            await pmap.pmap_remove_all(machine, pages[0])
            machine.assert_page_unused(pages[0])

        k.spawn(unmap, name="unmap")
        k.spawn(daemon, name="daemon")

    return build


def launder(cls: type[pmap.FreeBSDPmap] = pmap.FreeBSDPmap) -> Build:
    """The page daemon makes a page read-only everywhere, while the process is unmapping it, or mapping it elsewhere."""

    def build(k: Kernel) -> None:
        machine = pmap.Machine(k, 2)
        space = cls(machine, "user")
        (page,) = frames(machine, 1)
        space.prefill(USER, [page], RW, W)

        async def unmap() -> None:
            await space.remove(USER, USER + PAGE_SIZE)
            await space.enter(USER + NBPDR, page, R, R)

        async def daemon() -> None:
            await pmap.pmap_remove_write(machine, page)

        k.spawn(unmap, name="unmap")
        k.spawn(daemon, name="daemon")

    return build


def processes(cls: type[pmap.FreeBSDPmap] = pmap.FreeBSDPmap) -> Build:
    """A processor goes to another process and back, while the first process unmaps a page on the other processor."""

    def build(k: Kernel) -> None:
        machine = pmap.Machine(k, 2, pcid=True)
        one, two = cls(machine, "one"), cls(machine, "two")
        pages = frames(machine, 2)
        one.prefill(USER, pages[:1], RW, W)
        two.prefill(USER, pages[1:], RW, W)

        async def unmap() -> None:
            await one.access(USER, R)
            await one.remove(USER, USER + PAGE_SIZE)
            machine.assert_page_unused(pages[0])

        async def wander() -> None:
            for space in (one, two, one):
                await space.access(USER, R)

        k.spawn(unmap, name="unmap")
        k.spawn(wander, name="wander")

    return build


class KernelMap:
    """As much of uvm_map as it takes: an address is handed out again as soon as the map is unlocked."""

    def __init__(self, k: Kernel, kernel: pmap.NetBSDPmap) -> None:
        self.lock = Mutex(k, "map")
        self.kernel = kernel

    async def uvm_unmap(self, vas: list[int]) -> None:
        await self.lock.lock()
        for va in vas:
            await self.kernel.kremove(va, PAGE_SIZE)
        await self.leave(vas)

    async def leave(self, vas: list[int]) -> None:
        """The processors are told before the addresses can be handed out."""
        await self.kernel.update()
        await self.unlock(vas)

    async def unlock(self, vas: list[int]) -> None:
        for va in vas:
            self.kernel.assert_vacated(va, va + PAGE_SIZE)
        await self.lock.unlock()


def unmaps(cls: type[pmap.NetBSDPmap] = pmap.NetBSDPmap, make: type[KernelMap] = KernelMap) -> Build:
    """Kernel memory is unmapped by two threads under their map's locks, and read from both processors."""

    def build(k: Kernel) -> None:
        machine = pmap.Machine(k, 2)
        kernel = kernel_pmap(cls, machine)
        pages = frames(machine, 4)
        vas = [KERNEL + number * PAGE_SIZE for number in range(4)]
        maps = [make(k, kernel) for _ in range(2)]

        async def live(first: int) -> None:
            mine = range(first, 4, 2)
            for number in mine:
                await kernel.kenter_pa(vas[number], pages[number].phys_addr, RW)
            await kernel.update()
            got = await kernel.access(vas[first], W)
            assert got is pages[first]
            await maps[first].uvm_unmap([vas[number] for number in mine])
            for number in mine:
                machine.assert_page_unused(pages[number])

        async def read() -> None:
            for va in (*vas, vas[0]):
                await kernel.access(va, R)

        k.spawn(live, 0, name="live0")
        k.spawn(live, 1, name="live1")
        k.spawn(read, name="read0")
        k.spawn(read, name="read1")

    return build


def anything(cls: type[pmap.FreeBSDPmap] = pmap.FreeBSDPmap, *, large: bool = False, pcid: bool = False) -> Build:
    """Three threads do anything at all with three pages, or a superpage, in two pmaps, with few entries of pv lists."""

    def build(k: Kernel) -> None:
        machine = pmap.Machine(k, 2, pcid=pcid, pv_entries_max=NPTEPG + 4 if large else 4)
        spaces = [cls(machine, "one"), cls(machine, "two")]
        pages = frames(machine, NPTEPG + 1 if large else 3)
        some = (0, 1, NPTEPG) if large else (0, 1, 2)
        spaces[0].prefill(USER, pages[:NPTEPG] if large else pages[:2], RW, W)

        async def call(space: pmap.FreeBSDPmap, page: pmap.Frame, va: int) -> None:
            match k.choose(9):
                case 0:
                    await space.enter(va, page, RW, W)
                case 1:
                    await space.enter(va, page, R, R)
                case 2:
                    await space.remove(va, va + 2 * PAGE_SIZE)
                case 3:
                    await space.protect(va, va + PAGE_SIZE, R)
                case 4:
                    await pmap.pmap_remove_all(machine, page)
                case 5:
                    await pmap.pmap_remove_write(machine, page)
                case 6:
                    await pmap.pmap_ts_referenced(machine, page)
                case 7:
                    await pmap.pmap_clear_modify(machine, page)
                case _:
                    await pmap.pmap_is_modified(machine, page)

        async def work() -> None:
            for _ in range(3):
                space, number = spaces[k.choose(2)], some[k.choose(3)]
                va = USER + some[k.choose(3)] * PAGE_SIZE
                await space.access(va, (R, W)[k.choose(2)])
                await call(space, pages[number], va)
                await space.access(va, R)

        for number in range(3):
            k.spawn(work, name=f"work{number}")

    return build


def anything_netbsd(cls: type[pmap.NetBSDPmap] = pmap.NetBSDPmap, *, pcid: bool = False) -> Build:
    """The same with NetBSD's calls: three threads, two user pmaps and the kernel's."""

    def build(k: Kernel) -> None:
        machine = pmap.Machine(k, 2, pcid=pcid)
        spaces = [cls(machine, "one"), cls(machine, "two")]
        pages = frames(machine, 3)
        spaces[0].prefill(USER, pages[:2], RW, W)

        async def call(space: pmap.NetBSDPmap, page: pmap.Frame, va: int) -> None:
            match k.choose(8):
                case 0:
                    await space.enter(va, page.phys_addr, RW, W)
                case 1:
                    await space.enter(va, page.phys_addr, R, R)
                case 2:
                    await space.remove(va, va + 2 * PAGE_SIZE)
                case 3:
                    await space.protect(va, va + PAGE_SIZE, R)
                case 4:
                    await netbsd_pages.pmap_page_protect(machine, page, k.choose(2))
                case 5:
                    await netbsd_pages.pmap_clear_modify(machine, page)
                case 6:
                    await netbsd_pages.pmap_is_referenced(machine, page)
                case _:
                    await space.update()

        async def work() -> None:
            for _ in range(3):
                space, page = spaces[k.choose(2)], pages[k.choose(3)]
                va = USER + k.choose(3) * PAGE_SIZE
                await space.access(va, (R, W)[k.choose(2)])
                await call(space, page, va)
                await space.access(va, R)
                await space.update()

        for number in range(3):
            k.spawn(work, name=f"work{number}")

    return build


# ------------------------------------------------------------ mistakes


class RemovesInSilence(pmap.FreeBSDPmap):
    """pmap_qremove as if it were pmap_kremove."""

    async def invalidate_removed(self, sva: int, eva: int) -> None:
        """The caller will know."""


class WaitsForNobody(pmap.DelayedInvl):
    """A page that is on no list any more is taken for one that nobody can reach."""

    async def wait(self, md: Any) -> None:
        """No."""


class SameGeneration(pmap.FreeBSDPmap):
    """A list that has changed looks as if it had not."""

    def unlist_page(self, va: int, md: Any) -> None:
        super().unlist_page(va, md)
        md.pv_gen -= 1

    def list_page(self, va: int, md: Any) -> None:
        super().list_page(va, md)
        md.pv_gen -= 1


class ForgetsContextIds(pmap.FreeBSDPmap):
    """Processors with another process's pmap keep what they have, and come back to it."""

    def tell_inactive(self, forget: Any) -> None:
        """They have nothing."""


class TellsInactiveLast(pmap.FreeBSDPmap):
    """They are told after the others: one that has come back meanwhile is told by nobody."""

    async def tell(self, va: int, forget: Any) -> None:
        pcid, self.machine.pcid = self.machine.pcid, False
        await super().tell(va, forget)
        self.machine.pcid = pcid
        self.tell_inactive(forget)


class KeepsQuiet(pmap.NetBSDPmap):
    """kremove does not note what pmap_update must tell."""

    def queue_shootdown(self, va: int) -> None:
        """Nothing is noted."""


class ForgetsAProcessorToo(pmap.NetBSDPmap):
    """pmap_update tells one processor too few."""

    def shoot_targets(self) -> list[pmap.Tlb]:
        return [tlb for tlb in super().shoot_targets() if tlb.cpu]


class NeverUpdates(pmap.NetBSDPmap):
    """21: pmap_update is left out."""

    async def update(self) -> None:
        """It will be all right."""


class TrustsOthers(pmap.NetBSDPmap):
    """pmap_update returns at once if another call is telling the processors of the caller's change just now."""

    async def update(self) -> None:
        mine = self.queue
        self.queue = pmap.Shootdown()
        if mine.pages:
            await self.shoot([mine])
        self.keep_word(mine)


class UpdatesAfterUnlock(KernelMap):
    """21: pmap_update after the map's lock is released."""

    async def leave(self, vas: list[int]) -> None:
        await self.unlock(vas)
        await self.kernel.update()


WORLDS: dict[str, Build] = {
    "protect": protect(),
    "remove": remove(),
    "replace": replace(),
    "buffers": buffers(),
    "reclaim": reclaim(),
    "launder": launder(),
    "processes": processes(),
    "unmaps": unmaps(),
    "anything": anything(),
    "anything with context ids": anything(pcid=True),
    "anything of NetBSD's": anything_netbsd(),
    "anything of NetBSD's with context ids": anything_netbsd(pcid=True),
}

#: These take a few milliseconds an execution.
LARGE: dict[str, Build] = {"cut": cut(), "fill": fill(), "anything large": anything(large=True)}

#: World with the mistake, kind of finding, what the panic says.
MISTAKES: dict[str, tuple[Build, str, str]] = {
    "protect: invalidate after unlock": (protect(InvalidatesAfterUnlock), "invariant", "the lock is released, and cpu"),
    "remove: invalidate after unlock": (remove(InvalidatesAfterUnlock), "invariant", "the lock is released, and cpu"),
    "protect: a processor forgotten": (protect(ForgetsAProcessor), "invariant", "and cpu1 still translates"),
    "remove: a processor forgotten": (remove(ForgetsAProcessor), "invariant", "and cpu1 still translates"),
    "protect: changed after the interrupt": (
        protect(ChangesAfterTelling),
        "invariant",
        "the lock is released, and cpu",
    ),
    "remove: changed after the interrupt": (remove(ChangesAfterTelling), "invariant", "the lock is released, and cpu"),
    "replace: not broken": (replace(DoesNotBreak), "invariant", "G20 two pages"),
    "replace: broken, not told": (replace(BreaksWithoutTelling), "invariant", "G20 two pages"),
    "replace: as in 10.4": (replace(pmap.FreeBSD2013Pmap), "invariant", "G20 two pages"),
    "cut: nothing reserved": (cut(ReservesNothing), "panic", "missing spare"),
    "fill: unlike pages": (fill(PromotesTheUnlike), "invariant", "G20 superpages"),
    "buffers: no invalidation": (buffers(RemovesInSilence), "invariant", "pmap_qremove is done, and cpu"),
    "reclaim: no waiting": (reclaim(invl=WaitsForNobody), "invariant", "is reused, and cpu"),
    "launder: the list has not changed": (launder(SameGeneration), "panic", "on a page's pv list and not mapped"),
    "processes: context ids": (processes(ForgetsContextIds), "invariant", "the lock is released, and cpu1"),
    "processes: context ids too late": (processes(TellsInactiveLast), "invariant", "the lock is released, and cpu1"),
    "unmaps: nothing noted": (unmaps(KeepsQuiet), "invariant", "pmap_update is done, and cpu"),
    "unmaps: a processor forgotten": (unmaps(ForgetsAProcessorToo), "invariant", "pmap_update is done, and cpu0"),
    "unmaps: no update": (unmaps(NeverUpdates), "invariant", "is handed out, and cpu"),
    "unmaps: others trusted": (unmaps(TrustsOthers), "invariant", "is handed out, and cpu"),
    "unmaps: update after unlock": (unmaps(make=UpdatesAfterUnlock), "invariant", "is handed out, and cpu"),
}


def hunt(build: Build, settings: Settings, expect: str | None = None) -> Result:
    return trio.run(hunt_subject, Subject(scenario(expect=expect)(build), {}), settings)


@pytest.mark.parametrize("strategy", ["random", "pct"])
@pytest.mark.parametrize("name", list(WORLDS))
def test_without_a_mistake_every_world_is_clean(name: str, strategy: str) -> None:
    for seed in (1, 11):
        result = hunt(WORLDS[name], Settings(executions=CLEAN, strategy=strategy, seed=seed))
        assert (result.status, result.error, [finding.verdict.text for finding in result.findings]) == ("clean", "", [])


@pytest.mark.parametrize("strategy", ["random", "pct"])
@pytest.mark.parametrize("name", list(LARGE))
def test_nor_is_anything_found_with_superpages(name: str, strategy: str) -> None:
    result = hunt(LARGE[name], Settings(executions=CLEAN_LARGE, strategy=strategy))
    assert (result.status, result.error, [finding.verdict.text for finding in result.findings]) == ("clean", "", [])


@pytest.mark.parametrize("name", list(MISTAKES))
def test_every_mistake_is_found_and_said_what_it_is(name: str) -> None:
    build, kind, says = MISTAKES[name]
    for seed in (1, 2, 3):
        result = hunt(build, Settings(executions=BOUND, seed=seed), expect=kind)
        assert (result.status, result.error) == ("found", ""), seed
        (finding,) = result.findings
        assert says in finding.verdict.text


def test_a_hunt_with_the_trio_driver_finds_the_same_in_the_same_execution() -> None:
    build, kind, _ = MISTAKES["remove: a processor forgotten"]
    found = []
    for driver in ("stepped", "trio"):
        (finding,) = hunt(build, Settings(executions=BOUND, driver=driver), expect=kind).findings
        found.append((finding.executions_to_find, finding.schedule.choices, finding.verdict.text))
    assert found[0] == found[1]
