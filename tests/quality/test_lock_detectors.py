"""Lock order and predicted deadlocks over all shipped scenarios: nothing where nothing is, and what is there is seen."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from stressvm.check.linearizability import judge_histories
from stressvm.check.lock_order import WITNESS, LockOrder, Rule
from stressvm.check.predict import Predictor
from stressvm.explore.execution import Subject, execute
from stressvm.explore.loading import select, shipped_folder
from stressvm.explore.random_walk import RandomWalk
from stressvm.explore.steer import confirm, plan_of
from tests.support import in_trio, opened

if TYPE_CHECKING:
    from stressvm import Scenario
    from stressvm.check.lock_order import Violation
    from stressvm.check.predict import Prediction

SCENARIOS = {scenario.name: scenario for scenario in select([str(shipped_folder())])}

EXECUTIONS = 20

#: Scenarios whose locks really are taken in both orders; each of them declares the deadlock.
INVERTED = ("carter01", "deadlock01", "dining_philosophers", "netbsd6_two_maps", "netbsd6_extract_both_ways_waiting")

#: What WITNESS says of clean ones, and why it is no mistake there: in `carter01_ok` only one thread takes these locks, and in
#: the others two locks of one class are taken in an order of their own (forks and data by number, FreeBSD's objects from
#: the shadow to what it shadows).
WITNESS_SAYS = {
    "carter01_ok": {Rule.REVERSAL},
    "dining_philosophers_ordered": {Rule.DUPLICATE},
    "twostage_ok": {Rule.DUPLICATE},
    "freebsd13_fork_and_write": {Rule.DUPLICATE},
    "freebsd13_copy_seen": {Rule.DUPLICATE},
    "it_02_refused_after_transition_ok": {Rule.DUPLICATE},
}


def observed(
    scenario: Scenario, order: LockOrder, predictor: Predictor
) -> tuple[list[Violation], list[Prediction], list[str]]:
    """What the first executions of a random walk show."""
    what = Subject(scenario, dict(scenario.params))

    async def main() -> tuple[list[Violation], list[Prediction], list[str]]:
        strategy = RandomWalk(1)
        violations: list[Violation] = []
        predictions: list[Prediction] = []
        histories: list[str] = []
        async with opened(what.kernel(), "stepped") as driver:
            k = driver.k
            for number in range(EXECUTIONS):
                await execute(what, driver, strategy, number)
                violations += order.observe(k.trace, k.threads)
                predictions += predictor.observe(k.trace, k.threads)
                broken = judge_histories(k)
                histories += [] if broken is None else [broken.text]
                driver.unwind()
        return violations, predictions, histories

    result: tuple[list[Violation], list[Prediction], list[str]] = in_trio(main)
    return result


@pytest.mark.parametrize("name", SCENARIOS)
def test_they_are_silent_where_nothing_is(name: str) -> None:
    scenario = SCENARIOS[name]
    violations, predictions, histories = observed(scenario, LockOrder(), Predictor())
    if scenario.expect == "deadlock":
        assert histories == []
        return
    assert [violation.text for violation in violations] == []
    assert [prediction.text for prediction in predictions] == []
    if scenario.expect is None:
        assert histories == []


@pytest.mark.parametrize("name", INVERTED)
def test_they_see_what_is_there(name: str) -> None:
    violations, predictions, _ = observed(SCENARIOS[name], LockOrder(), Predictor())
    assert {violation.rule for violation in violations} == {Rule.REVERSAL}
    assert predictions


@pytest.mark.parametrize("name", WITNESS_SAYS)
def test_what_only_witness_reports_has_been_judged(name: str) -> None:
    assert SCENARIOS[name].expect is None
    violations, _, _ = observed(SCENARIOS[name], LockOrder(WITNESS), Predictor())
    assert {violation.rule for violation in violations} == WITNESS_SAYS[name]


def test_witness_reports_nothing_else_on_clean_scenarios() -> None:
    for name, scenario in SCENARIOS.items():
        if scenario.expect is None and name not in WITNESS_SAYS:
            violations, _, _ = observed(scenario, LockOrder(WITNESS), Predictor())
            assert [violation.text for violation in violations] == [], name


@pytest.mark.parametrize("name", INVERTED)
def test_what_is_predicted_is_brought_about(name: str) -> None:
    """From the first execution that passes; of `carter01` one of the two."""
    scenario = SCENARIOS[name]
    what = Subject(scenario, dict(scenario.params))

    async def main() -> list[bool]:
        strategy = RandomWalk(1)
        async with opened(what.kernel(), "stepped") as driver:
            k = driver.k
            for number in range(EXECUTIONS):
                verdict = await execute(what, driver, strategy, number)
                found = Predictor().observe(k.trace, k.threads) if verdict is None else ()
                plans = [plan_of(prediction, k) for prediction in found]
                driver.unwind()
                if found:
                    results = [await confirm(what, driver, *pair) for pair in zip(found, plans, strict=True)]
                    return [result.recording is not None for result in results]
        return []

    assert True in in_trio(main)
