"""The concurrent programs for NetBSD 5.2 once more, with map entries taken out of the map itself, as they were recorded.

The map has one page more, in front, which was carved out for entries beforehand; programs and outcomes leave it out. The
lock of the entries adds places where threads can be switched, which the record does not have; it may add no outcome.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stressvm.conform.netbsd_programs import PAGE, VAONLY, VERDICTS, Program, World, parse
from stressvm.conform.records import read
from stressvm.explore.execution import execute
from stressvm.explore.random_walk import RandomWalk
from stressvm.vm import netbsd
from tests.support import in_trio, opened, subject

if TYPE_CHECKING:
    from stressvm import Kernel

RECORDS = read(Path(__file__).parents[1] / "data" / "netbsd_mt.jsonl.gz")
PROGRAMS = [program for program in map(parse, RECORDS) if program.system == "netbsd5.2-intrsafe"]
EXECUTIONS = 250


class Shifted(World):
    """A world whose pages are counted from the second one of its map."""

    def page(self, va: int) -> int:
        return World.page(self, va) - 1

    async def free(self, page: int, pages: int) -> None:
        await netbsd.uvm_km_free(self.kmap, self.kmap.min_offset + (page + 1) * PAGE, pages * PAGE, VAONLY)

    def outcome(self) -> str:
        """Without the page in front."""
        kmap = self.kmap
        first = kmap.entries.first
        assert first is not None
        assert first.flags & netbsd.UVM_MAP_KMAPENT, "the page with the entries is where it was"
        kmap.entries.delete(first)
        return World.outcome(self)


def build(k: Kernel, program: Program) -> Shifted:
    kmap = netbsd.setup(k, program.pages + 1, version="5.2", flags=netbsd.VM_MAP_INTRSAFE, kmapent=True)
    kmap.stock_entries()
    world = Shifted(program, kmap, [[] for _ in program.threads])
    for start, length in program.initial:
        low = kmap.min_offset + (start + 1) * PAGE
        kmap.fill_range(low, low + length * PAGE, netbsd.UVM_MAP_QUANTUM)
    for number in range(len(program.threads)):
        k.spawn(world.run, number, name=f"t{number}")
    return world


def reached(program: Program) -> tuple[set[str], set[str], int]:
    """Outcomes, kinds of verdicts, and how many executions had no end."""
    worlds: list[Shifted] = []
    what = subject(lambda k: worlds.append(build(k, program)), timers=program.timers, max_steps=4_000)
    outcomes: set[str] = set()
    found: set[str] = set()
    endless: list[int] = []
    walk = RandomWalk(1)

    async def main() -> None:
        async with opened(what.kernel(), "stepped") as driver:
            for number in range(EXECUTIONS):
                verdict = await execute(what, driver, walk, number)
                if verdict is not None:
                    found.add(verdict.kind)
                if driver.k.trouble is None:
                    outcomes.add(worlds[-1].outcome())
                else:
                    endless.append(number)
                driver.unwind()

    in_trio(main)
    return outcomes, found, len(endless)


def test_there_are_programs() -> None:
    assert len(PROGRAMS) > 60
    assert sum(program.lost_wakeup for program in PROGRAMS) == 24


@pytest.mark.parametrize("part", range(4))
def test_entries_in_the_map_change_no_outcome(part: int) -> None:
    met = known = lost = 0
    for program in PROGRAMS[part::4]:
        outcomes, found, endless = reached(program)
        assert outcomes <= program.outcomes, program.name
        assert found <= VERDICTS, program.name
        assert endless * 5 < EXECUTIONS, program.name
        if not program.lost_wakeup:
            assert "lost-wakeup" not in found, program.name
        lost += "lost-wakeup" in found
        met += len(outcomes)
        known += len(program.outcomes)
    assert met * 10 > known * 6
    assert lost
