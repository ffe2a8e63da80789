"""Results and findings as plain values: what the JSON output, the journal and the finding files say."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stressvm._version import __version__
from stressvm.campaign.corpus import facts_of
from stressvm.explore.loading import shipped_folder
from stressvm.report.facts import post_mortem_facts, turning_facts
from stressvm.report.jsonl import place_facts, thread_facts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stressvm.explore.known import Quiet
    from stressvm.explore.result import Finding, Result
    from stressvm.explore.scenario import Scenario

#: A blob longer than this is given as a file in commands.
BLOB_ON_COMMAND_LINE_MAX = 2_000


def finding_facts(finding: Finding) -> dict[str, Any]:
    """One finding, as in the summary."""
    return {
        "kind": finding.kind,
        "fingerprint": finding.fingerprint,
        "executions_to_find": finding.executions_to_find,
        "preemptions": finding.recording.preemptions,
        "fewest_preemptions": finding.shrunk.fewest,
        "text": finding.verdict.text,
        "steps": len(finding.recording.records),
        "shrunk_in": finding.shrunk.executions,
        "schedule": finding.schedule.blob(),
        **({"note": finding.note} if finding.note else {}),
    }


def fixed_facts(quiet: Quiet) -> dict[str, Any]:
    """A bug of an earlier hunt that is not there any more, as in the summary; `fits`: its schedule still does."""
    return {**facts_of(quiet.known), "told": True, "fits": quiet.fits}


def finding_file(finding: Finding, command: str) -> dict[str, Any]:
    """One finding, whole: what a finding file holds."""
    recording = finding.recording
    return {
        "type": "finding",
        "version": __version__,
        "scenario": recording.subject.scenario.name,
        "params": dict(recording.subject.params),
        **finding_facts(finding),
        "threads": [thread_facts(recording, number) for number in range(len(recording.threads))],
        "places": place_facts(recording),
        **post_mortem_facts(recording),
        "turning_point": turning_facts(finding.turning),
        "replay": command,
    }


def result_facts(result: Result) -> dict[str, Any]:
    """One scenario, as in the summary."""
    facts: dict[str, Any] = {
        "name": result.subject.scenario.name,
        "params": dict(result.subject.params),
        "expect": result.subject.scenario.expect,
        "status": result.status,
        "executions": result.executions,
        "steps": result.steps,
        "distinct": result.seen.distinct,
        "exhausted": result.exhausted,
        "bounds": result.bounds,
        "saturated": result.saturated,
        "evidence": result.evidence,
        "seconds": round(result.seconds, 3),
        "unseen_mass": round(result.seen.unseen_mass, 4),
        "coverage": result.coverage.facts(),
        "sampled": result.seen.sampled,
        "findings": [finding_facts(finding) for finding in result.findings],
        "fixed": [fixed_facts(quiet) for quiet in result.fixed if not quiet.known.told],
    }
    if result.interrupted:
        facts["interrupted"] = True
    if result.error:
        facts["error"] = result.error
    return facts


def summary_facts(results: Sequence[Result], seed: int, *, interrupted: bool) -> dict[str, Any]:
    """The last line of JSON output and of a journal."""
    return {
        "type": "summary",
        "version": __version__,
        "seed": seed,
        "ok": all(is_ok(result) for result in results) and not interrupted,
        "interrupted": interrupted,
        "scenarios": [result_facts(result) for result in results],
    }


def is_ok(result: Result) -> bool:
    """Did the scenario behave as it declares?"""
    return result.status in ("clean", "exhausted", "found")


def replay_command(finding: Finding, file: Path | None) -> str:
    """The exact command that replays a finding: from its file if it has one and the blob is long."""
    blob = finding.schedule.blob()
    words = [*program(), "replay"]
    words.append(str(file) if file is not None and len(blob) > BLOB_ON_COMMAND_LINE_MAX else blob)
    words.extend(scenario_words(finding.recording.subject.scenario))
    return shlex.join(words)


def program() -> list[str]:
    """How this program is called from where the user is: by name, if the name is found."""
    called = sys.argv[0]
    if shutil.which("stressvm") is not None or Path(called).name != "stressvm":
        return ["stressvm"]
    path = Path(called)
    return [str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else called]


def scenario_words(scenario: Scenario) -> list[str]:
    """`--scenario FILE` for a scenario that is not found by its name alone."""
    path = Path(scenario.file)
    local = Path("scenarios").resolve()
    if path.is_relative_to(shipped_folder()) or path.is_relative_to(local):
        return []
    return ["--scenario", str(path)]
