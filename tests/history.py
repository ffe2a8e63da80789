"""Bugs that kernels really had, planted back: what the tests of scenarios/history share."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from stressvm.explore.execution import Subject, execute
from stressvm.explore.loading import select, shipped_folder
from stressvm.kernel.stepped import stepped

if TYPE_CHECKING:
    from stressvm import Scenario
    from stressvm.check.verdict import Verdict
    from stressvm.kernel.strategy import Strategy

HISTORY: Final = {scenario.name: scenario for scenario in select([str(shipped_folder() / "history")])}
DOCUMENT: Final = Path(__file__).resolve().parents[1] / "docs" / "history.md"


def declared(families: tuple[str, ...]) -> list[str]:
    """The scenarios with a bug, of those whose names begin so."""
    return [name for name in HISTORY if name.startswith(families) and HISTORY[name].expect is not None]


def clean(families: tuple[str, ...]) -> list[str]:
    """Their twins."""
    return [name for name in HISTORY if name.startswith(families) and HISTORY[name].expect is None]


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


def must_find(name: str, strategy: Strategy, executions: int) -> None:
    """The bug is found in so many executions, and is of the kind that the scenario declares."""
    number, verdict = searched(HISTORY[name], strategy, executions)
    assert verdict is not None, f"not in {number} executions"
    assert verdict.kind == HISTORY[name].expect, verdict.text


def must_stay_clean(name: str, strategy: Strategy, executions: int) -> None:
    """Nothing is found in so many executions."""
    number, verdict = searched(HISTORY[name], strategy, executions)
    assert verdict is None, f"execution {number}: {verdict}"


def must_have_source_and_twin(name: str) -> None:
    """A scenario has its source, and its twin with or without the defect, in a file named after the same bug."""
    scenario: Scenario = HISTORY[name]
    assert scenario.source
    other = name.removesuffix("_ok") if name.endswith("_ok") else f"{name}_ok"
    assert other in HISTORY
    assert (scenario.expect is None) == name.endswith("_ok")
    assert HISTORY[other].file == scenario.file
    assert number_of(name) == number_of(Path(scenario.file).stem)
