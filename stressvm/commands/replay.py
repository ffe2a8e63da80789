"""`stressvm replay`, `shrink` and `explain`: one recorded schedule, again."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import orjson

from stressvm._version import __version__
from stressvm.campaign.facts import program, scenario_words
from stressvm.commands.hunt import FOUND, OK
from stressvm.explore.execution import DIGEST_EVERY, Recording, Subject, record
from stressvm.explore.flips import Flip, flips
from stressvm.explore.loading import by_name, digest_of
from stressvm.explore.result import schedule_of
from stressvm.explore.running import run_trio
from stressvm.explore.schedule import PREFIX, Schedule, parse
from stressvm.explore.shrink import shrink as shrink_recording
from stressvm.explore.tape import Strict
from stressvm.explore.turning import Turning, turning_point
from stressvm.kernel.errors import ReplayDiverged, UsageError
from stressvm.kernel.kernel import Timers
from stressvm.kernel.looped import looped
from stressvm.kernel.stepped import stepped
from stressvm.kernel.watchdog import Watchdog
from stressvm.report.console import several, width
from stressvm.report.explain import explain as explain_recording
from stressvm.report.explain import headline
from stressvm.report.facts import post_mortem_facts, turning_facts
from stressvm.report.jsonl import also_facts, place_facts, thread_facts, write_execution
from stressvm.report.lane import swim_lane

if TYPE_CHECKING:
    import argparse

#: A finding file is small; what is larger is something else.
FILE_BYTES_MAX: Final = 64 << 20

_HANG_SECONDS: Final = 5.0

#: Steps that `shrink` may spend on the search for a schedule with fewer preemptions; a hunt spends fewer.
BOUNDED_STEPS: Final = 2_000_000


@dataclass(frozen=True, slots=True)
class Loaded:
    """A schedule with the scenario that it belongs to."""

    schedule: Schedule
    subject: Subject


def replay(args: argparse.Namespace) -> int:
    """Run one recorded schedule again: exit 1 when it shows a finding, 0 when it runs clean."""
    loaded = _load(args)
    recording = _replayed(loaded, args.driver)
    blob = loaded.schedule.blob()
    if args.format == "json":
        write_execution(sys.stdout.buffer, _until(recording, args.until), blob)
    else:
        shown = _until(recording, args.until)
        print(headline(recording))
        print(swim_lane(shown, width=width()))
        print(f"replayed as recorded: {len(recording.records)} steps, trace digest {recording.digests[-1]}")
    return FOUND if recording.verdict is not None else OK


def shrink(args: argparse.Namespace) -> int:
    """Make a schedule as small as it gets: exit 1 with the smaller one, 0 if it shows no finding."""
    loaded = _load(args)
    recording = _replayed(loaded, "stepped")
    if recording.verdict is None:
        print("the schedule runs clean; there is nothing to shrink")
        return OK

    async def run() -> Any:
        async with stepped(loaded.subject.kernel()) as driver:
            return await shrink_recording(loaded.subject, driver, recording, bounded_steps=BOUNDED_STEPS)

    shrunk = run_trio(run)
    best = shrunk.best
    blob = schedule_of(best).blob()
    if args.format == "json":
        _emit(
            {
                "type": "shrunk",
                "version": __version__,
                "scenario": loaded.subject.scenario.name,
                "kind": best.verdict.kind,
                "fingerprint": best.verdict.fingerprint,
                "executions": shrunk.executions,
                "fewest_preemptions": shrunk.fewest,
                "preemptions": [shrunk.preemptions_before, best.preemptions],
                "steps": [len(recording.records), len(best.records)],
                "schedule": blob,
            }
        )
    else:
        print(headline(best))
        print(
            f"preemptions {shrunk.preemptions_before} -> {best.preemptions}, decisions against the default "
            f"{shrunk.switches_before} -> {sum(1 for choice in best.choices if choice)}, "
            f"steps {len(recording.records)} -> {len(best.records)}, in {several(shrunk.executions, 'execution')}"
        )
        if shrunk.fewest:
            print("no schedule with fewer preemptions shows it")
        if shrunk.cut:
            print("the limit of executions was reached; `stressvm shrink` with the result goes on")
        print(shlex.join([*program(), "replay", blob, *scenario_words(loaded.subject.scenario)]))
    return FOUND


def explain(args: argparse.Namespace) -> int:
    """Swim lane, who waits for whom, which switches matter: exit as replay."""
    loaded = _load(args)
    recording = _replayed(loaded, "stepped")
    flips: tuple[Flip, ...] = ()
    turning: Turning | None = None
    if recording.verdict is not None:
        flips, turning = run_trio(_flips, loaded.subject, recording)
    if args.format == "json":
        verdict = recording.verdict
        _emit(
            {
                "type": "explanation",
                "version": __version__,
                "scenario": loaded.subject.scenario.name,
                "kind": verdict.kind if verdict is not None else None,
                "text": verdict.text if verdict is not None else None,
                "fingerprint": verdict.fingerprint if verdict is not None else None,
                "steps": len(recording.records),
                "preemptions": recording.preemptions,
                "threads": [thread_facts(recording, number) for number in range(len(recording.threads))],
                "switches": [
                    {"step": flip.step, "preempting": flip.preempting, "without": flip.then, "same": flip.same}
                    for flip in flips
                ],
                **post_mortem_facts(recording),
                "turning_point": turning_facts(turning),
                "places": place_facts(recording),
                "also": also_facts(recording),
            }
        )
    else:
        print(explain_recording(recording, flips, width=width(), turning=turning))
    return FOUND if recording.verdict is not None else OK


async def _flips(subject: Subject, recording: Recording) -> tuple[tuple[Flip, ...], Turning]:
    async with stepped(subject.kernel()) as driver:
        matter = await flips(subject, driver, recording)
        return matter, await turning_point(subject, driver, recording, matter)


def _emit(facts: dict[str, Any]) -> None:
    sys.stdout.write(orjson.dumps(facts).decode() + "\n")


def _load(args: argparse.Namespace) -> Loaded:
    schedule = parse(_blob(args.schedule))
    extra = args.scenario
    if extra is None and Path(schedule.file).is_file() and _wants_its_file(schedule):
        extra = schedule.file
    scenario = by_name(schedule.scenario, extra)
    if schedule.source and digest_of(scenario) != schedule.source:
        sys.stderr.write(
            f"stressvm: {scenario.file} has changed since this schedule was recorded (by version {schedule.version})\n"
        )
    try:
        timers = Timers(schedule.timers)
    except ValueError:
        raise UsageError(f"the schedule is damaged: timers {schedule.timers!r}") from None
    scenario = replace(scenario, timers=timers, max_steps=schedule.max_steps)
    return Loaded(schedule, Subject(scenario, scenario.resolve(schedule.params), schedule.checks or ("none",)))


def _wants_its_file(schedule: Schedule) -> bool:
    """Is the scenario found by name another one, or none?"""
    try:
        found = by_name(schedule.scenario)
    except UsageError:
        return True
    return digest_of(found) != schedule.source and Path(found.file) != Path(schedule.file)


def _blob(word: str) -> str:
    """The schedule itself, or the one in a finding file, an execution file or a plain text file."""
    if word.startswith("stressvm:") or (":" in word and not Path(word).exists()):
        return word
    path = Path(word)
    try:
        if path.stat().st_size > FILE_BYTES_MAX:
            raise UsageError(f"{word}: larger than {FILE_BYTES_MAX >> 20} MiB; not a file with a schedule")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError(f"{word}: neither a schedule (it would start with {PREFIX!r}) nor a file") from None
    except OSError as exc:
        raise UsageError(f"{word}: cannot be read: {exc.strerror or exc}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{word}: not a text file") from None
    stripped = text.strip()
    if stripped.startswith("stressvm:"):
        return stripped
    for candidate in (stripped, stripped.partition("\n")[0]):
        try:
            facts = orjson.loads(candidate)
        except orjson.JSONDecodeError:
            continue
        if isinstance(facts, dict) and isinstance(facts.get("schedule"), str):
            return str(facts["schedule"])
    raise UsageError(
        f"{word}: no schedule in it: give a finding file, an execution as JSON lines, or the schedule itself"
    )


def _replayed(loaded: Loaded, driver: str) -> Recording:
    """The execution, held to the digests that were recorded with it."""

    async def run() -> Recording:
        kernel = loaded.subject.kernel()
        with Watchdog([kernel], _HANG_SECONDS):
            async with looped(kernel) if driver == "trio" else stepped(kernel) as made:
                found = await record(loaded.subject, made, Strict(loaded.schedule))
                return found.about(loaded.schedule.bug) if loaded.schedule.bug else found

    recording = run_trio(run)
    schedule = loaded.schedule
    if len(recording.choices) < len(schedule.choices):
        raise ReplayDiverged(
            f"replay diverged at step {len(recording.records)}: the execution is over after {len(recording.choices)} "
            f"decisions, {len(schedule.choices)} were recorded"
        )
    for index, (expected, actual) in enumerate(zip(schedule.digests, recording.digests, strict=False)):
        if expected != actual:
            raise ReplayDiverged(
                f"replay diverged before step {min((index + 1) * DIGEST_EVERY, len(recording.records))}: the trace digest "
                f"is {actual}, expected {expected}; the decisions fit, so an operation or its argument differs"
            )
    if schedule.digests and len(schedule.digests) != len(recording.digests):
        raise ReplayDiverged(
            f"replay diverged: {len(recording.records)} steps, where about "
            f"{(len(schedule.digests) - 1) * DIGEST_EVERY} were recorded"
        )
    return recording


def _until(recording: Recording, step: int | None) -> Recording:
    """The recording up to a step."""
    return recording if step is None else replace(recording, records=recording.records[: step + 1])
