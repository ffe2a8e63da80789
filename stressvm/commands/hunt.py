"""`stressvm hunt`: explore scenarios within a budget."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import orjson

from stressvm._version import __version__
from stressvm.campaign.campaign import Campaign
from stressvm.campaign.config import EXECUTIONS_UNLIMITED, resolve
from stressvm.campaign.facts import finding_facts, is_ok, result_facts, summary_facts
from stressvm.campaign.journal import Journal, open_journal
from stressvm.explore.execution import Subject
from stressvm.explore.hunt import Finding, Result, Settings
from stressvm.explore.loading import select
from stressvm.kernel.errors import UsageError
from stressvm.report.console import Progress, paint, width
from stressvm.report.explain import explain
from stressvm.report.jsonl import created, write_execution

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

    from stressvm.explore.scenario import Scenario

OK, FOUND, USAGE, NOTHING, INTERRUPTED = 0, 1, 2, 4, 130


def run(args: argparse.Namespace) -> int:
    """Hunt; the exit status."""
    values = resolve(vars(args)["options"])
    given = parameters(args.param)
    scenarios = select(args.paths)
    if not scenarios:
        sys.stderr.write("stressvm: nothing was selected: no scenario there\n")
        return NOTHING
    subjects = [subject_of(scenario, given, values, among=scenarios) for scenario in scenarios]
    settings = settings_of(values)
    with ExitStack() as stack:
        reports = [stack.enter_context(created(path, "--report")) for path in reports_of(args.report)]
        journal = stack.enter_context(open_journal(Path(values["logs"]), "hunt", settings.seed))
        plain = {name: value for name, value in values.items() if name != "logs"}
        journal.header("hunt", settings.seed, plain, [subject.scenario.name for subject in subjects])
        view: _View = _Json(journal) if values["format"] == "json" else _Human(journal)
        view.start(settings.seed)
        campaign = Campaign(subjects, settings, view)
        interrupted = False
        try:
            campaign.run()
        except KeyboardInterrupt:
            interrupted = True
            if campaign.current is not None:
                view.end(campaign.current)
        summary = summary_facts(campaign.results, settings.seed, interrupted=interrupted)
        journal.summary(summary)
        view.finish(campaign.results, summary)
        for file in reports:
            _report(file, campaign.results)
    return _status(campaign.results, interrupted=interrupted)


def settings_of(values: Mapping[str, Any]) -> Settings:
    """The settings of every hunt of a campaign; without any budget, each scenario has its own."""
    executions = values["executions"]
    if executions is None and values["time"] is not None:
        executions = EXECUTIONS_UNLIMITED
    return Settings(
        executions=executions,
        seconds=values["time"],
        seed=values["seed"],
        strategy=values["strategy"],
        depth=values["depth"],
        driver=values["driver"],
        keep_going=values["keep-going"],
        hang_seconds=values["hang"],
    )


def parameters(words: Sequence[str]) -> dict[str, str]:
    """NAME=VALUE words."""
    given = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise UsageError(f"--param {word!r}: give NAME=VALUE")
        given[name] = value
    return given


def subject_of(
    scenario: Scenario, given: Mapping[str, str], values: Mapping[str, Any], *, among: Sequence[Scenario]
) -> Subject:
    """A scenario with its parameters; one that another scenario of the same hunt knows is not for this one."""
    known = {name for other in among for name in other.params}
    mine = {name: value for name, value in given.items() if name in scenario.params or name not in known}
    if values["max-steps"] is not None:
        scenario = replace(scenario, max_steps=values["max-steps"])
    return Subject(scenario, scenario.resolve(mine))


def reports_of(words: Sequence[str]) -> list[Path]:
    """`jsonl=FILE` words; several in one are separated by commas."""
    paths = []
    for word in (part for words_ in words for part in words_.split(",")):
        kind, equals, path = word.partition("=")
        if kind != "jsonl" or not equals or not path:
            raise UsageError(f"--report {word!r}: give jsonl=FILE (further formats are not there yet)")
        paths.append(Path(path))
    return paths


def _report(file: BinaryIO, results: Sequence[Result]) -> None:
    for result in results:
        for finding in result.findings:
            write_execution(file, finding.recording, finding.schedule.blob())


def _status(results: Sequence[Result], *, interrupted: bool) -> int:
    if interrupted:
        return INTERRUPTED
    statuses = {result.status for result in results}
    if statuses & {"unexpected", "missed"}:
        return FOUND
    return USAGE if "error" in statuses else OK


class _View:
    """What both forms of output share: the journal, and the live line."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        #: The command that replays each finding, by its identity.
        self.commands: dict[int, str] = {}
        self.live = Progress()
        self.total = 0

    def start(self, seed: int) -> None:
        """Before anything else."""

    def begin(self, subject: Subject, number: int, total: int) -> None:
        """See Watcher."""
        self.total = total
        self.live.begin(subject, number, total)

    def progress(self, result: Result, left: float | None) -> None:
        """See Watcher."""
        self.live.progress(result, left)

    def found(self, result: Result, finding: Finding) -> None:  # noqa: ARG002 - see Watcher
        """See Watcher: it is on disk before anything else happens."""
        self.commands[id(finding)] = self.journal.finding(finding)

    def end(self, result: Result) -> None:
        """See Watcher."""
        self.live.end(result)
        self.journal.result(result)
        self.show(result)
        for finding in result.findings:
            self.show_finding(result, finding, self.commands[id(finding)])

    def show(self, result: Result) -> None:
        """A finished scenario."""

    def show_finding(self, result: Result, finding: Finding, command: str) -> None:
        """One of its findings."""

    def finish(self, results: Sequence[Result], summary: Mapping[str, Any]) -> None:
        """After everything else."""


class _Json(_View):
    """One JSON object a line."""

    def start(self, seed: int) -> None:
        _emit({"type": "header", "version": __version__, "seed": seed})

    def show(self, result: Result) -> None:
        _emit({"type": "scenario", **result_facts(result)})

    def show_finding(self, result: Result, finding: Finding, command: str) -> None:
        name = result.subject.scenario.name
        _emit({"type": "finding", "scenario": name, **finding_facts(finding), "replay": command})

    def finish(self, results: Sequence[Result], summary: Mapping[str, Any]) -> None:  # noqa: ARG002 - see _View
        _emit(summary)


def _emit(facts: Mapping[str, Any]) -> None:
    sys.stdout.write(orjson.dumps(facts).decode() + "\n")
    sys.stdout.flush()


class _Human(_View):
    """A line for each scenario, an explanation for each finding that was not declared."""

    def start(self, seed: int) -> None:
        print(f"stressvm {__version__}, seed {seed}; log: {self.journal.folder}", flush=True)

    def show(self, result: Result) -> None:
        scenario = result.subject.scenario
        word, colour = {
            "clean": ("clean", "green"),
            "exhausted": ("clean, exhausted", "green"),
            "found": (f"found {scenario.expect}, as declared", "green"),
            "missed": (f"MISSED {scenario.expect}, which it declares", "red"),
            "unexpected": ("UNEXPECTED " + ", ".join(finding.kind for finding in result.findings), "red"),
            "error": ("ERROR", "red"),
        }[result.status]
        if result.interrupted and result.status in ("clean", "missed"):
            word, colour = "interrupted", "yellow"
        rate = f"{result.executions} executions, {result.seen.distinct} distinct, {result.seconds:.2f} s"
        if result.status in ("clean", "missed"):
            rate += f", about {result.seen.unseen_mass:.0%} of interleavings unseen"
        print(f"{scenario.name:<34} {paint(word, colour, sys.stdout)} ({rate})", flush=True)
        if result.error:
            print(f"    {result.error}", flush=True)

    def show_finding(self, result: Result, finding: Finding, command: str) -> None:
        shrunk = finding.shrunk
        if finding.kind == result.subject.scenario.expect:
            print(f"    {finding.verdict.text}")
        else:
            lines = explain(finding.recording, finding.flips, width=width() - 4).splitlines()
            print("\n".join(f"    {line}".rstrip() for line in lines))
        print(
            f"    execution {finding.executions_to_find}; shrunk from {shrunk.preemptions_before} preemptions to "
            f"{finding.recording.preemptions} in {shrunk.executions} executions"
            + (" (cut short: `stressvm shrink` goes on)" if shrunk.cut else "")
        )
        print(f"    {paint(command, 'bold', sys.stdout)}", flush=True)

    def finish(self, results: Sequence[Result], summary: Mapping[str, Any]) -> None:
        good = sum(1 for result in results if is_ok(result))
        executions = sum(result.executions for result in results)
        seconds = sum(result.seconds for result in results)
        verdict = f"{good} of {len(results)} scenarios behaved as they declare"
        colour = "green" if summary["ok"] else "red"
        if summary["interrupted"]:
            verdict = f"interrupted, {self.total - len(results)} scenarios not reached; {verdict}"
        print(f"{paint(verdict, colour, sys.stdout)}; {executions} executions in {seconds:.1f} s", flush=True)
