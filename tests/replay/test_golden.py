"""Schedules recorded once, on one Python, replay everywhere with the trace that they had then.

The file holds a blob for every declared finding of the shipped scenarios; each blob carries digests of its trace. When
a change to the model makes one diverge, the changelog must say that older schedules no longer replay, and the file is
made anew: `python -m tests.replay.test_golden`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import orjson
import pytest
import trio

from stressvm.explore.execution import Recording, Subject, record
from stressvm.explore.hunt import Settings, hunt_subject
from stressvm.explore.loading import by_name, select
from stressvm.explore.schedule import parse
from stressvm.explore.tape import Strict
from tests.support import DRIVERS, opened

GOLDEN: Final = Path(__file__).with_name("golden.jsonl")
LINES: Final = [orjson.loads(line) for line in GOLDEN.read_bytes().splitlines()] if GOLDEN.exists() else []


def replayed(blob: str, driver: str) -> Recording:
    schedule = parse(blob)
    scenario = by_name(schedule.scenario)
    subject = Subject(scenario, scenario.resolve(schedule.params))

    async def run() -> Recording:
        k = subject.kernel()
        async with opened(k, driver) as made:
            return await record(subject, made, Strict(schedule))

    recording: Recording = trio.run(run)
    return recording


def test_every_declared_finding_has_a_golden_schedule() -> None:
    declared = {scenario.name for scenario in select([]) if scenario.expect is not None}
    assert {line["scenario"] for line in LINES} == declared


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("line", LINES, ids=[line["scenario"] for line in LINES])
def test_a_golden_schedule_replays_with_the_same_trace(line: dict[str, Any], driver: str) -> None:
    recording = replayed(line["schedule"], driver)
    assert recording.verdict is not None
    assert (recording.verdict.kind, recording.verdict.fingerprint) == (line["kind"], line["fingerprint"])
    assert recording.digests == parse(line["schedule"]).digests


def main() -> None:
    """Record them anew."""
    lines = []
    for scenario in select([]):
        if scenario.expect is None:
            continue
        result = trio.run(hunt_subject, Subject(scenario, scenario.resolve({})), Settings())
        (finding,) = result.findings
        facts = {"scenario": scenario.name, "kind": finding.kind, "fingerprint": finding.fingerprint}
        lines.append(orjson.dumps({**facts, "schedule": finding.schedule.blob()}))
    GOLDEN.write_bytes(b"".join(line + b"\n" for line in lines))


if __name__ == "__main__":
    main()
