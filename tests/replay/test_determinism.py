"""A recorded finding replays to the letter: in fresh processes, under any hash seed, driver and Python present.

Pythons beside the one that runs the tests are taken from STRESSVM_PYTHONS (paths, separated as in PATH); each must be
able to import stressvm's dependencies.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import trio

from stressvm.explore.execution import Subject
from stressvm.explore.hunt import Finding, Settings, hunt_subject
from stressvm.explore.loading import by_name

ROOT = Path(__file__).parents[2]
PYTHONS = [sys.executable, *filter(None, os.environ.get("STRESSVM_PYTHONS", "").split(os.pathsep))]
SCENARIOS = ("netbsd5_intrsafe_waiters", "netbsd5_intrsafe_nowait")
DRIVERS = ("stepped", "trio")


class Replayed(NamedTuple):
    """What a fresh process printed."""

    status: int
    lines: bytes
    errors: bytes

    @property
    def summary(self) -> dict[str, Any]:
        """The last line."""
        summary: dict[str, Any] = json.loads(self.lines.splitlines()[-1])
        assert summary["type"] == "summary"
        return summary


def _find(name: str) -> Finding:
    scenario = by_name(name)
    result = trio.run(hunt_subject, Subject(scenario, scenario.resolve({})), Settings(executions=5_000))
    (finding,) = result.findings
    return finding


@pytest.fixture(scope="module", params=SCENARIOS)
def finding(request: pytest.FixtureRequest) -> Finding:
    return _find(request.param)


def _replay(blob: str, *, python: str = sys.executable, hash_seed: str = "0", driver: str = "stepped") -> Replayed:
    done = subprocess.run(
        [python, "-m", "stressvm", "replay", blob, "--format", "json", "--driver", driver],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=False,
    )
    return Replayed(done.returncode, done.stdout, done.stderr)


def test_ten_of_ten_replays_in_fresh_processes_are_the_same_byte_for_byte(finding: Finding) -> None:
    blob = finding.schedule.blob()
    with ThreadPoolExecutor(2) as pool:
        replays = list(pool.map(lambda seed: _replay(blob, hash_seed=str(seed)), range(10)))
    assert {replay.status for replay in replays} == {1}
    assert len({replay.lines for replay in replays}) == 1
    summary = replays[0].summary
    assert summary["digest"] == finding.recording.digests[-1]
    assert summary["fingerprint"] == finding.fingerprint
    assert summary["verdict"] == finding.kind == "lost-wakeup"
    assert summary["steps"] == len(finding.recording.records)


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("python", PYTHONS)
def test_every_python_and_driver_shows_the_same_trace(finding: Finding, python: str, driver: str) -> None:
    replay = _replay(finding.schedule.blob(), python=python, hash_seed="random", driver=driver)
    assert replay.status == 1, replay.errors.decode()
    assert replay.summary["digest"] == finding.recording.digests[-1]
    assert replay.summary["fingerprint"] == finding.fingerprint


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_same_seed_finds_the_same_schedule_again(name: str) -> None:
    assert _find(name).schedule == _find(name).schedule


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("hash_seed", ["0", "1", "4242"])
def test_a_hunt_in_a_fresh_process_finds_the_same_whatever_the_hash_seed(
    finding: Finding, python: str, hash_seed: str, tmp_path: Path
) -> None:
    name = finding.recording.subject.scenario.name
    done = subprocess.run(
        [python, "-m", "stressvm", "hunt", name, "--format", "json", "--executions", "5000", "--logs", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    found = [json.loads(line) for line in done.stdout.splitlines()]
    (fact,) = [line for line in found if line["type"] == "finding"]
    assert fact["fingerprint"] == finding.fingerprint
    assert finding.schedule.blob() in json.dumps(fact)


def test_a_schedule_of_another_trace_is_said_to_diverge(finding: Finding) -> None:
    from dataclasses import replace

    other = replace(finding.schedule, digests=("00000000",) * len(finding.schedule.digests))
    replay = _replay(other.blob())
    assert replay.status == 5
    assert b"replay diverged" in replay.errors


def test_a_schedule_with_a_decision_too_few_is_said_to_diverge(finding: Finding) -> None:
    from dataclasses import replace

    schedule = finding.schedule
    other = replace(schedule, choices=schedule.choices[:-1], arities=schedule.arities[:-1])
    replay = _replay(other.blob())
    assert replay.status == 5
    assert b"decision" in replay.errors
