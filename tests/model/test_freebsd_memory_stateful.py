"""Random programs that use FreeBSD's memory, under random schedules, against a table of pages and what is in them.

Then defects, planted in one small step each: the programs run into every one of them.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, run_state_machine_as_test

from stressvm.stateful import ProgramFailed
from stressvm.vm import freebsd
from stressvm.vm.pages import VmPages13
from stressvm.vm.pmap import FreeBSD2013Pmap, FreeBSDPmap
from tests.model.freebsd_memory_machine import FreeBSDMemoryMachine
from tests.model.freebsd_memory_turns import RW, UNREADABLE
from tests.model.freebsd_memory_world import VERSION_13, VERSION_2013, Layout, Version

if TYPE_CHECKING:
    from stressvm.check.verdict import Verdict
    from stressvm.stateful import Execution, Performed
    from stressvm.vm.freebsd import FaultState
    from stressvm.vm.pages import Page
    from tests.model.freebsd_memory_world import World

PROGRAMS = settings(stateful_step_count=16)
#: The same examples whatever the profile; what is found is not shrunk.
FIND = settings(
    PROGRAMS,
    max_examples=400,
    derandomize=True,
    database=None,
    phases=(Phase.generate,),
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)

TestFreeBSDMemory = FreeBSDMemoryMachine.TestCase
TestFreeBSDMemory.settings = PROGRAMS


def test_the_programs_do_what_they_are_for() -> None:
    """Calls succeed and fail in every way that they can; faults copy, wait, and read; the daemon frees pages."""
    seen: Counter[str] = Counter()

    class Counting(FreeBSDMemoryMachine):
        def after(self, execution: Execution[World]) -> None:
            super().after(execution)
            phys = execution.world.memory.pages
            assert phys.shortage is not None
            seen.update({"reclaimed": phys.reclaimed, "struck": phys.shortage.struck, "done": execution.world.done})
            for op in execution.operations():
                used = op.name in ("read", "write") and op.done and op.result is not None
                for code in [one[0] for one in op.result] if used else [outcome(op)]:
                    seen[f"{op.name} {code}"] += 1
                seen.update(o.kind for _, (_, o, _) in execution.steps_of(op))

    run_state_machine_as_test(Counting, settings=settings(FIND, max_examples=150))
    expected = {
        "read": (0, 1),
        "write": (0, 1, 2),
        "map": ("fixed 0", "fixed 3", "find 0", "replace 0"),
        "unmap": (0,),
        "protect": (0,),
        "inherit": (0,),
        "mlock": (0, 1),
        "munlock": (0, 1),
        "vslock": (0, 1),
        "fork": ("something",),
        "terminate": ("something",),
        "kmalloc": ("something",),
        "release": ("something",),
    }
    missing = [f"{name} {one}" for name, codes in expected.items() for one in codes if not seen[f"{name} {one}"]]
    assert not missing, missing
    assert any(seen[f"{name} {code}"] for name in ("read", "write", "mlock", "vslock") for code in UNREADABLE.values())
    steps = {"switch", "invalidate", "getpages", "sleep", "try-upgrade-failed", "try-read-lock", "reclaimed", "struck"}
    assert not {step for step in steps if not seen[step]}
    assert seen["done"] > 110, "few sleep for ever"


def outcome(op: Performed) -> object:
    """What an operation has come to, as far as it matters."""
    if not op.done or op.result is None:
        return None if op.done else "undone"
    if op.name == "map":
        return f"{op.args['how']} {op.result[0]}"
    if op.name == "vslock":
        return op.result[0]
    return "something" if op.name in ("fork", "terminate", "kmalloc", "release", "revisit") else op.result


# ---------------------------------------------------------------- planted defects


class MapsAnEmptyCopy(freebsd.VmFault):
    """The new page is not filled from the old one."""

    async def copy_page(self, fs: FaultState, page: Page, copy: Page) -> None:
        copy.zero()
        fs.first.validate(copy)
        fs.m_cow = page


class KeepsWriting(freebsd.Fork):
    """A fork leaves writable mappings behind."""

    async def revoke_writing(self) -> None:
        """Nothing."""


class ProtectsLate(FreeBSDPmap):
    """Processors are told of lost rights when the pmap is unlocked."""

    async def finish_protection(self, *, anychanged: bool) -> None:
        await self.release()
        if anychanged:
            await self.invalidate_all()


class ForgetsNothing(FreeBSDPmap):
    """A processor that goes over to another process takes along what it knows of this one."""

    def deactivated(self, cpu: int) -> None:
        self.active &= ~(1 << cpu)
        self.machine.curpmap[cpu] = None


class NeverUnmaps(freebsd.VmMap13):
    """Pages are freed, and their mappings stay."""

    async def pmap_remove(self, start: int, end: int) -> None:
        """Nothing."""


class NeverWires(freebsd.VmFault):
    """What is wired is mapped, and not wired."""

    async def map_page(self, fs: FaultState) -> None:
        fs.wire = False
        await super().map_page(fs)


class TakesWhatIsBusy(VmPages13):
    """A page that somebody else has is no reason to wait."""

    async def vm_page_tryxbusy(self, page: Page) -> bool:
        await super().vm_page_tryxbusy(page)
        return True


class KeepsPages(freebsd.Kmem13):
    """Who gets too few pages keeps them."""

    async def back_failed(self, addr: int, size: int) -> None:
        """Nothing."""


class KeepsAddresses(freebsd.Kmem13):
    """Who gets too few pages keeps the addresses."""

    async def malloc_failed(self, arena: freebsd.Vmem, addr: int, size: int) -> None:
        """Nothing."""


class KeepsTheReference(freebsd.VmFault):
    """The reference to the first object is forgotten."""

    async def deallocate(self, fs: FaultState) -> None:
        freebsd.vm_object_hold(fs.k, fs.first_object, -1)
        await fs.memory.drain()


class WakesNobody(VmPages13):
    """Who waits for pages is not told that there are some."""

    async def wake_waiters(self) -> None:
        """Nothing."""


class Hunted(FreeBSDMemoryMachine):
    """A machine whose processes begin with much that can be written; it stops at the first finding, and tells no story."""

    @initialize(
        target=FreeBSDMemoryMachine.processes,
        frames=st.sampled_from([None, None, 14]),
        short=st.lists(st.integers(1, 8), max_size=2, unique=True),
    )
    def a_world(self, *, frames: int | None, short: list[int]) -> int:
        layout: Layout = [(0, 3, RW, False), (0, 2, RW, True), (1, 2, RW, False)]
        version = self.versions[0]
        self.describe_world(
            version=version.name,
            layouts=[layout, layout],
            shared="anon",
            frames=frames,
            short=short,
            without=version.leaves_out[0],
        )
        return 0

    found: ClassVar[ProgramFailed | None] = None

    def run(self) -> Execution[World]:
        if self.found is not None:
            raise self.found
        try:
            return super().run()
        except ProgramFailed as exc:
            type(self).found = exc
            raise


def of(version: Version, *names: str, **planted: Any) -> type[Hunted]:
    """The machine with one version alone, which is made of something else, and perhaps with some operations alone."""
    others = {name: None for name in FreeBSDMemoryMachine.operations() if names and name not in names}
    return type("Planted", (Hunted,), {**others, "versions": (replace(version, **planted),)})


def first(machine: type[Hunted]) -> Verdict:
    """What it runs into."""
    with pytest.raises(ProgramFailed):
        run_state_machine_as_test(machine, settings=FIND)
    assert machine.found is not None
    return machine.found.verdict


PLANTED: dict[str, tuple[type[Hunted], str, str]] = {
    "a copy is empty": (of(VERSION_13, fault=MapsAnEmptyCopy), "assertion", "and it holds"),
    "a fork keeps writing": (of(VERSION_13, "write", "fork", fork=KeepsWriting), "invariant", "for writing, though"),
    "processors are told late": (of(VERSION_13, "write", "protect", pmap=ProtectsLate), "invariant", "G20 tlb"),
    "processors forget nothing": (of(VERSION_13, pmap=ForgetsNothing), "invariant", "G20 tlb"),
    "never unmapped": (of(VERSION_13, map=NeverUnmaps), "invariant", "G14 deleted"),
    "never wired": (of(VERSION_13, fault=NeverWires), "panic", "wire count is zero"),
    "what is busy is taken": (of(VERSION_13, "read", "write", phys=TakesWhatIsBusy), "panic", "busy"),
    "addresses are kept": (of(VERSION_13, "kmalloc", kmem=KeepsAddresses), "assertion", "left: addresses"),
    "pages are kept": (of(VERSION_13, "kmalloc", kmem=KeepsPages), "panic", "of kernel_object already allocated"),
    "a reference is forgotten": (of(VERSION_13, fault=KeepsTheReference), "invariant", "memory: leak"),
    "nobody is told of pages": (of(VERSION_13, phys=WakesNobody), "invariant", "sleep for free pages"),
    "two pages (as 10.4 was shipped)": (
        of(VERSION_2013, "read", "write", pmap=FreeBSD2013Pmap, leaves_out=("wire",)),
        "invariant",
        "G20 two pages",
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_what_is_planted_is_found(name: str) -> None:
    machine, kind, text = PLANTED[name]
    verdict = first(machine)
    assert verdict.kind == kind, verdict.text
    assert text in verdict.text, verdict.text


def test_the_model_sees_it_where_no_invariant_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fork that keeps writing is seen by a wrong read, with the maps' proofs off."""
    for name in ("G15 translations", "G15 pages"):
        monkeypatch.setitem(freebsd.INVARIANTS, name, lambda _: None)
    verdict = first(of(VERSION_13, "write", "fork", fork=KeepsWriting))
    assert verdict.kind == "assertion"
    assert "and it holds" in verdict.text
