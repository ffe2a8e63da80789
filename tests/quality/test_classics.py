"""The field's benchmark programs: is each found, is each mended twin clean, and are the published figures told rightly?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
import trio

from stressvm.bench.published import PROGRAMS, STRATEGIES, TRIALS, Figure
from stressvm.explore.execution import Subject, execute
from stressvm.explore.loading import select, shipped_folder
from stressvm.explore.pct import PCT
from stressvm.explore.random_walk import RandomWalk
from stressvm.kernel.stepped import stepped
from tests.support import every

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stressvm import Kernel, Scenario
    from stressvm.check.verdict import Verdict
    from stressvm.kernel.strategy import Strategy

CLASSICS: Final = {scenario.name: scenario for scenario in select([str(shipped_folder() / "classics")])}
DECLARED: Final = sorted(name for name, scenario in CLASSICS.items() if scenario.expect is not None)
CLEAN: Final = sorted(set(CLASSICS) - set(DECLARED))
DOCUMENT: Final = Path(__file__).resolve().parents[2] / "docs" / "classics.md"
#: Where a hunt says how many executions a scenario gets by default.
BUDGET: Final = 1_000

#: Re-created with one thread more than SCTBench lists: there main does the work of one of them.
MORE_THREADS: Final = {
    "CB/stringbuffer-jdk1.4",
    "CS/bluetooth_driver",
    "Chess/InterlockedWorkStealQueueWithState",
    "Chess/StateWorkStealQueue",
}

#: A schedule of safestack, one digit for each step of its three threads after main has made them, with seven
#: preemptions: found by a search through all its states, none needs fewer.
SAFESTACK: Final = "22000000000111111111200000222200000222221111111111111110"


class Script:
    """The threads 1, 2, ... go in the order of the digits (counted from 0); before that thread 0 goes to its end."""

    def __init__(self, digits: str) -> None:
        self.digits = digits

    def begin(self, number: int) -> None:
        """See Strategy."""

    def pick(self, k: Kernel, mask: int) -> int:
        """Whose step the next one is; a thread that has not started starts first, which is no digit."""
        if mask & 1:
            return 0
        done = sum(1 for t, op, _ in k.trace if t > 0 and op is not k.start_op)
        wanted = int(self.digits[done]) + 1 if done < len(self.digits) else 0
        return wanted if wanted and mask >> wanted & 1 else mask.bit_length() - 1

    def choose(self, k: Kernel, n: int) -> int:  # noqa: ARG002 - see Strategy
        """See Strategy."""
        return 0

    def end(self, k: Kernel) -> None:
        """See Strategy."""


def searched(
    scenario: Scenario, strategy: Strategy, executions: int, params: Mapping[str, int] | None = None
) -> tuple[int, Verdict | None]:
    """How many executions until something is found, and what; all of them and None, if nothing is."""
    subject = Subject(scenario, scenario.resolve(params or {}))

    async def main() -> tuple[int, Verdict | None]:
        async with stepped(subject.kernel()) as driver:
            for number in range(executions):
                verdict = await execute(subject, driver, strategy, number)
                driver.unwind()
                if verdict is not None:
                    return number + 1, verdict
        return executions, None

    found: tuple[int, Verdict | None] = trio.run(main)
    return found


@pytest.mark.parametrize("name", DECLARED)
def test_a_classic_is_found_within_its_budget_by_the_random_walk_for_every_seed(name: str) -> None:
    scenario = CLASSICS[name]
    for seed in range(1, 6):
        _, verdict = searched(scenario, RandomWalk(seed), scenario.executions or BUDGET)
        assert verdict is not None, f"seed {seed}"
        assert verdict.kind == scenario.expect


@pytest.mark.parametrize("name", DECLARED)
def test_pct_finds_it_too(name: str) -> None:
    _, verdict = searched(CLASSICS[name], PCT(1, 3), 10_000)
    assert verdict is not None
    assert verdict.kind == CLASSICS[name].expect


@pytest.mark.parametrize("name", CLEAN)
def test_a_clean_one_is_clean(name: str) -> None:
    for strategy in (RandomWalk(1), PCT(1, 3)):
        executions, verdict = searched(CLASSICS[name], strategy, 30 if name == "fsbench_ok" else 150)
        assert verdict is None, f"execution {executions}: {verdict}"


@pytest.mark.parametrize(
    "name", ["overdrawn_ok", "sleeping_barber_ok", "double_checked_ok", "deadlock01_ok", "sync01_ok", "lost_update_ok"]
)
def test_a_small_clean_one_is_clean_in_every_schedule(name: str) -> None:
    assert {ending.kind for ending in every(CLASSICS[name].build)} == {None}


def test_every_declared_classic_has_a_clean_twin_or_needs_none() -> None:
    without = {name for name in DECLARED if f"{name}_ok" not in CLASSICS}
    twins = {
        "aba_stack": "aba_stack_tagged",
        "dining_philosophers": "dining_philosophers_ordered",
        "interlocked_work_steal_queue": "work_steal_queue_ok",
        "peterson_broken": "peterson",
        "ticket_lock_broken": "ticket_lock",
    }
    assert {twins[name] for name in without if name in twins} <= set(CLEAN)
    assert without - set(twins) == {
        "din_phil",
        "interlocked_work_steal_queue_with_state",
        "lazy01",
        "phase01",
        "state_work_steal_queue",
        "token_ring",
    }


@pytest.mark.parametrize("size", ["CS/reorder_4", "CS/reorder_5", "CS/reorder_10", "CS/twostage_20", "CS/wronglock"])
def test_published_sizes_are_found_as_well(size: str) -> None:
    program = PROGRAMS[size]
    for seed in (1, 2):
        _, verdict = searched(CLASSICS[program.scenario], PCT(seed, 3), 5_000, program.params)
        assert verdict is not None
        assert verdict.kind == "assertion"


def test_the_bug_of_safestack_is_there_with_three_threads_and_not_with_two() -> None:
    safestack = CLASSICS["safestack"]
    _, verdict = searched(safestack, Script(SAFESTACK), 1, {"threads": 3})
    assert verdict is not None
    assert verdict.kind == "assertion"
    assert "two owners" in verdict.text
    assert searched(safestack, RandomWalk(1), 500)[1] is None


# ------------------------------------------------------------------------------------------------ published figures


def test_published_figures_are_well_formed() -> None:
    assert len(PROGRAMS) >= 40
    for name, program in PROGRAMS.items():
        assert set(program.figures) <= set(STRATEGIES), name
        for figure in program.figures.values():
            assert (figure.mean is None) == (figure.found == 0), name
            assert 0 <= figure.found <= TRIALS, name
            assert figure.mean is None or 1 <= figure.mean <= 1_000_000, name
        assert program.listed is None or program.listed[0] < program.listed[1], name
    assert PROGRAMS["CS/reorder_20"].best() == ("surw", Figure(6, 20))
    assert PROGRAMS["CS/bluetooth_driver"].best() == ("pos", Figure(36, 20))
    assert PROGRAMS["CS/phase01"].best() is None


def test_every_published_program_is_a_scenario_with_its_parameters_and_its_threads() -> None:
    for name, program in PROGRAMS.items():
        scenario = CLASSICS[program.scenario]
        assert scenario.expect is not None or program.scenario == "safestack"
        subject = Subject(scenario, scenario.resolve(program.params))

        async def threads(subject: Subject = subject) -> int:
            async with stepped(subject.kernel()) as driver:
                await execute(subject, driver, Script(""), 0)
                made = len(driver.k.threads)
                driver.unwind()
            return made

        if program.listed is not None:
            assert trio.run(threads) == program.listed[0] + (name in MORE_THREADS), name


def test_the_stories_tell_the_same_figures() -> None:
    for name, program in PROGRAMS.items():
        story = " ".join(CLASSICS[program.scenario].story.split())
        assert "Published" in story, name
        for strategy in ("surw", "pos", "pct3"):
            figure = program.figures.get(strategy)
            if figure is not None and figure.mean is not None:
                assert f"{figure.mean:,}" in story, f"{name}: {strategy}"


def test_the_document_has_every_program_and_every_scenario() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    for name, program in PROGRAMS.items():
        (row,) = [line for line in text.splitlines() if line.startswith(f"| {name} |")]
        assert f"`{program.scenario}`" in row
        for parameter, value in program.params.items():
            assert f"{parameter}={value}" in row
        best = program.best()
        if best is not None:
            assert f"{best[1].mean:,}" in row
    assert not {name for name in CLASSICS if f"`{name}`" not in text}
