"""Are the bugs that NetBSD 5.2 really had found, quickly, and made as simple as they get?"""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

import pytest
import trio

from stressvm.explore.execution import Subject, execute
from stressvm.explore.hunt import Finding, Settings, hunt_subject
from stressvm.explore.loading import by_name
from stressvm.explore.tape import Lenient
from stressvm.kernel.stepped import stepped

if TYPE_CHECKING:
    from stressvm.check.verdict import Verdict

SCENARIOS = pytest.mark.parametrize("name", ["netbsd5_intrsafe_waiters", "netbsd5_intrsafe_nowait"])
STRATEGIES = pytest.mark.parametrize("strategy", ["random", "pct"])
SEEDS = range(20)


def _hunt(name: str, strategy: str, seed: int) -> Finding:
    scenario = by_name(name)
    subject = Subject(scenario, scenario.resolve({}))
    result = trio.run(hunt_subject, subject, Settings(executions=5_000, seed=seed, strategy=strategy))
    assert result.status == "found", result.error
    (finding,) = result.findings
    return finding


@SCENARIOS
@STRATEGIES
def test_the_lost_wakeup_is_found_in_under_200_executions_and_shrunk_to_three_preemptions(
    name: str, strategy: str
) -> None:
    findings = [_hunt(name, strategy, seed) for seed in SEEDS]
    assert {finding.kind for finding in findings} == {"lost-wakeup"}
    assert median(finding.executions_to_find for finding in findings) < 200
    assert max(finding.recording.preemptions for finding in findings) <= 3
    assert len({finding.fingerprint for finding in findings}) == 1


@SCENARIOS
def test_shrinking_keeps_the_bug_and_never_makes_it_harder_to_read(name: str) -> None:
    for seed in range(5):
        finding = _hunt(name, "random", seed)
        shrunk = finding.shrunk
        assert shrunk.best.verdict is not None
        assert shrunk.best.verdict.fingerprint == finding.fingerprint
        assert shrunk.best.preemptions <= shrunk.preemptions_before
        assert sum(1 for choice in shrunk.best.choices if choice) <= max(shrunk.switches_before, 1)
        assert finding.schedule.choices == shrunk.best.choices


@SCENARIOS
@STRATEGIES
def test_what_is_left_after_shrinking_is_needed(name: str, strategy: str) -> None:
    """No single decision against the default can go, nor can one be lowered, with as many preemptions or fewer."""
    finding = _hunt(name, strategy, 1)
    best = finding.recording
    subject = best.subject

    async def attempt(choices: tuple[int, ...]) -> tuple[Verdict | None, int, int]:
        tape = Lenient(choices)
        async with stepped(subject.kernel()) as driver:
            verdict = await execute(subject, driver, tape)
            driver.unwind()
        return verdict, sum(tape.preempting), sum(1 for choice in tape.choices if choice)

    switches = sum(1 for choice in best.choices if choice)
    for at, choice in enumerate(best.choices):
        if not choice:
            continue
        without = (*best.choices[:at], 0, *best.choices[at + 1 :])
        verdict, preemptions, others = trio.run(attempt, without)
        same = verdict is not None and verdict.fingerprint == finding.fingerprint
        assert not same or (preemptions, others) >= (best.preemptions, switches)


@SCENARIOS
def test_each_preemption_that_is_left_is_told_to_matter(name: str) -> None:
    finding = _hunt(name, "random", 1)
    told = [flip for flip in finding.flips if flip.preempting]
    assert len(told) == finding.recording.preemptions
    assert all(not flip.same for flip in told)


@SCENARIOS
def test_a_hunt_with_the_trio_driver_finds_the_same_in_the_same_execution(name: str) -> None:
    scenario = by_name(name)
    subject = Subject(scenario, scenario.resolve({}))
    found = []
    for driver in ("stepped", "trio"):
        result = trio.run(hunt_subject, subject, Settings(executions=2_000, seed=3, driver=driver))
        (finding,) = result.findings
        found.append((finding.executions_to_find, finding.schedule, result.executions))
    assert found[0] == found[1]
