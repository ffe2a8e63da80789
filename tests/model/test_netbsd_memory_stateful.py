"""Random programs that use NetBSD's kernel memory, under random schedules, against a flat model of it.

Then defects, planted in one small step each: the programs run into every one of them.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from stressvm.stateful import ProgramFailed
from stressvm.vm import netbsd
from stressvm.vm.pages import UvmPages
from tests.model.netbsd_memory_machine import NetBSDMemoryMachine
from tests.model.netbsd_memory_world import Made

if TYPE_CHECKING:
    from stressvm.check.verdict import Verdict
    from stressvm.stateful import Execution
    from stressvm.vm.netbsd import MapEntry, Vmem, VmMap
    from stressvm.vm.pages import Page
    from tests.model.netbsd_memory_world import World

PAGE = netbsd.PAGE_SIZE
PROGRAMS = settings(stateful_step_count=20)
#: The same examples whatever the profile; what is found is not shrunk.
FIND = settings(
    PROGRAMS,
    max_examples=600,
    derandomize=True,
    database=None,
    phases=(Phase.generate,),
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)

TestNetBSDMemory = NetBSDMemoryMachine.TestCase
TestNetBSDMemory.settings = PROGRAMS


def test_the_programs_do_what_they_are_for() -> None:
    """Every operation comes to everything it can come to; threads sleep, find locks held, and are short of pages."""
    seen: Counter[str] = Counter()

    class Counting(NetBSDMemoryMachine):
        def after(self, execution: Execution[World]) -> None:
            super().after(execution)
            world = execution.world
            for op in execution.operations():
                outcome = op.result if "wire" in op.name else "nothing" if op.result in (None, False) else "something"
                seen[f"{op.name} {outcome}"] += 1
                steps = {(o.kind, o.obj.name) for _, (_, o, _) in execution.steps_of(op)}
                seen.update(f"{kind} {name}" for kind, name in steps)
            seen["by injection"] += world.uvm.shortage.struck if world.uvm.shortage is not None else 0
            seen["reclaimed"] += world.uvm.reclaimed
            seen["paged in"] += world.paged_in

    run_state_machine_as_test(Counting, settings=settings(PROGRAMS, max_examples=100, derandomize=True, database=None))
    for name in ("alloc", "pool", "read", "write", "free", "free_elsewhere"):
        assert seen[f"{name} something"], f"{name} never succeeds"
        assert seen[f"{name} nothing"], f"{name} never fails"
    for result in ([0], [netbsd.EFAULT]):
        assert seen[f"wire {result}"], f"wiring never comes to {result}"
    assert seen[f"unwire {[netbsd.EINVAL]}"], "nothing is unwired that is not wired"
    assert seen["wire_for_a_while [0, 0]"], "nothing is unwired"
    for step in ("sleep kmap.cv", "sleep uvmexp.free", "try-lock-failed kmap.lock"):
        assert seen[step], f"no {step}"
    assert seen["by injection"], "no allocation of a page fails by injection"
    assert seen["reclaimed"], "the daemon reclaims nothing"
    assert seen["paged in"], "what is used is never paged out and used again"


# ---------------------------------------------------------------- planted defects


class AddressesFirst(netbsd.Memory):
    """The addresses are free before the pages are."""

    async def free(self, vm_map: VmMap, addr: int, size: int, kind: int) -> None:
        await self.free_addresses(vm_map, addr, addr + size)
        await self.free_contents(vm_map, addr, addr + size, kind)


class AddressesFirstUnseen(AddressesFirst):
    """The same, without the proof where addresses are given back: what comes of it is found."""

    def given_back(self, vm_map: VmMap, start: int, end: int) -> None:  # type: ignore[override]  # noqa: ARG002
        self.ledger.given_back(start, end)


class UnwindLeaksPages(netbsd.Memory):
    """A call that fails gives its addresses back, and keeps its pages."""

    async def unwind(self, vm_map: VmMap, va: int, size: int, kind: int) -> None:  # noqa: ARG002 - that is the defect
        await self.free_addresses(vm_map, va, va + size)


class UnwindLeaksUnseen(UnwindLeaksPages):
    """The same, without the proofs: the last thread finds what is left."""

    def given_back(self, vm_map: VmMap, start: int, end: int) -> None:  # type: ignore[override]  # noqa: ARG002
        self.ledger.given_back(start, end)

    def failed(self, name: str, call: int) -> None:
        """Not looked at."""

    def handed_out(self, vm_map: VmMap, start: int, end: int) -> None:  # type: ignore[override]
        """Not looked at."""

    async def assert_unmapped(self, va: int) -> None:
        """Not looked at."""


class NeverUpdates(netbsd.VmMap):
    """Processors are not told that addresses are free."""

    async def update_before_unlock(self) -> None:
        """Never."""


class WakesNobodyForAddresses(netbsd.VmMap):
    """Who frees addresses does not tell those who wait for some."""

    async def wake_va_waiters(self) -> None:
        """Nobody."""


class SecondFit(netbsd.VmMap):
    """The search begins a page above the map's minimum."""

    def findspace(self, hint: int, size: int, align: int = 0, flags: int = 0) -> int | None:
        return super().findspace(hint + PAGE, size, align, flags)


class IgnoresWaiters(UvmPages):
    """The daemon sleeps whether anybody waits or not."""

    def may_sleep(self) -> bool:
        return True


class NotWired(netbsd.KmFault):
    """What is wired is made active."""

    def pagewire(self, page: Page) -> None:
        self.activate(page)


class KeepsPagesWired(netbsd.KmFault):
    """Unwiring asks the pmap, and forgets the page."""

    async def unwire_page(self, entry: MapEntry, va: int, pa: int) -> None:  # noqa: ARG002 - that is the defect
        await self.memory.pmap.unwire(va)


class ForgetsWhatIsInSwap(netbsd.KmFault):
    """A page that was paged out is filled with zeros."""

    async def get_locked(self, off: int) -> Page | None:
        obj = self.memory.kernel_object
        pager = obj.pager
        slot = pager.assign(off // PAGE, 0) if pager is not None else 0
        page = await super().get_locked(off)
        if slot and pager is not None:
            pager.assign(off // PAGE, slot)
        return page


class KmemToldLate(netbsd.Memory):
    """Processors are told when kmem_arena's addresses are free."""

    async def free_kmem(self, vm_map: VmMap, vm: Vmem, va: int, size: int) -> None:
        await self.pgremove_intrsafe(vm_map, va, va + size)
        self.given_back(vm_map, va, va + size)
        await vm.free(va, size)
        await self.update()


class Hunted(NetBSDMemoryMachine):
    """A machine that stops at the first finding, and tells no story of it."""

    found: ClassVar[ProgramFailed | None] = None

    def run(self) -> Execution[World]:
        if self.found is not None:
            raise self.found
        try:
            return super().run()
        except ProgramFailed as exc:
            type(self).found = exc
            raise


def of(version: str, *names: str, **planted: Any) -> type[Hunted]:
    """The machine with one version alone, which is made of something else, and perhaps with some operations alone."""
    others = {name: None for name in NetBSDMemoryMachine.operations() if names and name not in names}
    return type("Planted", (Hunted,), {**others, "versions": (version,), "made": Made(**planted)})


def first(machine: type[Hunted]) -> Verdict:
    """What it runs into."""
    with pytest.raises(ProgramFailed):
        run_state_machine_as_test(machine, settings=FIND)
    assert machine.found is not None
    return machine.found.verdict


#: The machine, the kinds of finding that it may be, and words in its text.
PLANTED: dict[str, tuple[type[Hunted], str, str]] = {
    "pages after addresses": (of("6", memory=AddressesFirst), "invariant", "G17 pages"),
    "pages after addresses, seen later": (
        of("6", "alloc", "free", memory=AddressesFirstUnseen),
        "invariant",
        "G15 vacated",
    ),
    "pages after addresses on 5.2": (of("5.2", memory=AddressesFirst), "invariant", "G17 pages"),
    "an unwind that leaks pages": (of("6", "alloc", memory=UnwindLeaksPages), "invariant", "G17"),
    "an unwind that leaks pages, unseen": (
        of("6", "alloc", memory=UnwindLeaksUnseen),
        "assertion",
        "",
    ),
    "processors are not told": (
        of("6", "alloc", "write", "free", map=NeverUpdates),
        "invariant",
        "still translates it",
    ),
    "nobody is told of addresses": (
        of("6", "alloc", "free", map=WakesNobodyForAddresses),
        "exhausted rescued-sleep",
        "on kmap.cv",
    ),
    "not the lowest room": (of("5.2", "alloc", map=SecondFit), "assertion", "taken"),
    "pages stay wired": (
        of("6", "alloc", "wire_for_a_while", fault=KeepsPagesWired),
        "assertion",
        "wired",
    ),
    "the daemon ignores who waits": (of("6", uvm=IgnoresWaiters), "exhausted", "sleeps on uvmexp.free"),
    "nothing is wired": (of("6", fault=NotWired), "invariant", "G15 wired down"),
    "what is in swap is forgotten": (
        of("6", "alloc", "read", fault=ForgetsWhatIsInSwap),
        "assertion",
        "holds 'zeros'",
    ),
    "kmem is told late": (
        of("6", "pool", "read", "free", "free_elsewhere", memory=KmemToldLate),
        "invariant",
        "still translates it",
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_what_is_planted_is_found(name: str) -> None:
    machine, kind, text = PLANTED[name]
    verdict = first(machine)
    assert verdict.kind in kind.split(), verdict.text
    assert text in verdict.text, verdict.text
