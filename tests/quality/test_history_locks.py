"""Historical bugs of locks, wakeups and waiting, planted back: is each found, and is each clean without its defect?"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
import trio

from stressvm.explore.execution import Subject, execute
from stressvm.explore.loading import select, shipped_folder
from stressvm.explore.pct import PCT
from stressvm.explore.random_walk import RandomWalk
from stressvm.kernel.stepped import stepped

if TYPE_CHECKING:
    from stressvm import Scenario
    from stressvm.check.verdict import Verdict
    from stressvm.kernel.strategy import Strategy

HISTORY: Final = {scenario.name: scenario for scenario in select([str(shipped_folder() / "history")])}
#: The families that this file is about.
FAMILIES: Final = ("lw_", "ws_", "dl_", "st_", "uf_08", "uf_10")
LOCKS: Final = [name for name in HISTORY if name.startswith(FAMILIES)]
DECLARED: Final = [name for name in LOCKS if HISTORY[name].expect is not None]
CLEAN: Final = [name for name in LOCKS if HISTORY[name].expect is None]
DOCUMENT: Final = Path(__file__).resolve().parents[2] / "docs" / "history.md"

#: The random walk needs more for these: many steps of one thread have to fall between two of another.
BOUNDS: Final = defaultdict(lambda: 1_000, lw_04_release_in_two_steps=10_000, uf_08_wakes_too_early=3_000)
#: So many orderings between threads, or so long a stretch without any other thread, that PCT with two change points is the
#: wrong tool.
NOT_FOR_PCT: Final = {"lw_04_release_in_two_steps", "st_04_handoff_left_behind"}


def number_of(name: str) -> str:
    """The id of the bug that a scenario is about: LW-04 of lw_04_..."""
    match = re.match(r"([a-z]{2})_(\d\d)_", name)
    assert match is not None, f"{name}: the name of a scenario in history/ begins with the id of its bug, as lw_04_"
    return f"{match[1].upper()}-{match[2]}"


def rows() -> dict[str, list[str]]:
    """The rows of the document's table by id, each as its cells."""
    lines = [
        line for line in DOCUMENT.read_text(encoding="utf-8").splitlines() if re.match(r"\| [A-Z]{2}-\d\d \|", line)
    ]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert len({row[0] for row in cells}) == len(cells), "a bug has two rows"
    return {row[0]: row for row in cells}


def searched(scenario: Scenario, strategy: Strategy, executions: int) -> tuple[int, Verdict | None]:
    """How many executions until there is a finding, and what; all of them and None, if there is none."""
    subject = Subject(scenario, scenario.resolve({}))

    async def main() -> tuple[int, Verdict | None]:
        async with stepped(subject.kernel()) as driver:
            for number in range(executions):
                verdict = await execute(subject, driver, strategy, number)
                driver.unwind()
                if verdict is not None and verdict.kind not in scenario.tolerate:
                    return number + 1, verdict
        return executions, None

    found: tuple[int, Verdict | None] = trio.run(main)
    return found


def test_all_bugs_of_these_families_are_there() -> None:
    assert len(DECLARED) == len(CLEAN) == 29


@pytest.mark.parametrize("name", DECLARED)
def test_a_bug_is_found_by_the_random_walk_for_every_seed(name: str) -> None:
    for seed in (1, 2, 3):
        executions, verdict = searched(HISTORY[name], RandomWalk(seed), BOUNDS[name])
        assert verdict is not None, f"seed {seed}: not in {executions} executions"
        assert verdict.kind == HISTORY[name].expect


@pytest.mark.parametrize("name", [name for name in DECLARED if name not in NOT_FOR_PCT])
def test_pct_finds_it_for_every_seed(name: str) -> None:
    for seed in (1, 2, 3):
        executions, verdict = searched(HISTORY[name], PCT(seed, 3), 1_000)
        assert verdict is not None, f"seed {seed}: not in {executions} executions"
        assert verdict.kind == HISTORY[name].expect


@pytest.mark.parametrize("name", CLEAN)
def test_without_the_defect_it_is_clean(name: str) -> None:
    for strategy in (RandomWalk(1), PCT(1, 3)):
        executions, verdict = searched(HISTORY[name], strategy, 300)
        assert verdict is None, f"execution {executions}: {verdict}"


@pytest.mark.parametrize("name", LOCKS)
def test_a_scenario_has_its_source_and_its_twin(name: str) -> None:
    scenario: Scenario = HISTORY[name]
    assert scenario.source
    assert f"{name}_ok" in CLEAN or name.removesuffix("_ok") in DECLARED
    assert number_of(name) == number_of(Path(scenario.file).stem)


def test_the_document_lists_every_bug_with_its_scenario_its_finding_and_its_twin() -> None:
    table = rows()
    for name, scenario in HISTORY.items():
        row = table[number_of(name)]
        assert any(f"`{name}`" in cell for cell in row), name
        if scenario.expect is not None:
            assert scenario.expect in row, f"{name}: the table does not say that it is a {scenario.expect}"
    assert set(table) == {number_of(name) for name in HISTORY}
