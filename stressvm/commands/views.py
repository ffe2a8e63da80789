"""How a hunt is shown while it goes on: for people, or as JSON lines. Both write the journal as they go."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import orjson

from stressvm._version import __version__
from stressvm.campaign.facts import finding_facts, is_ok, result_facts
from stressvm.report.console import Progress, paint, several, width
from stressvm.report.explain import explain

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from stressvm.campaign.journal import Journal
    from stressvm.explore.execution import Subject
    from stressvm.explore.result import Finding, Result


def view_of(form: str, journal: Journal) -> View:
    """The view for a `--format`."""
    return JsonView(journal) if form == "json" else HumanView(journal)


class View:
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


class JsonView(View):
    """One JSON object a line."""

    def start(self, seed: int) -> None:
        """See View."""
        _emit({"type": "header", "version": __version__, "seed": seed})

    def show(self, result: Result) -> None:
        """See View."""
        _emit({"type": "scenario", **result_facts(result)})

    def show_finding(self, result: Result, finding: Finding, command: str) -> None:
        """See View."""
        name = result.subject.scenario.name
        _emit({"type": "finding", "scenario": name, **finding_facts(finding), "replay": command})

    def finish(self, results: Sequence[Result], summary: Mapping[str, Any]) -> None:  # noqa: ARG002 - see View
        """See View."""
        _emit(summary)


def _emit(facts: Mapping[str, Any]) -> None:
    sys.stdout.write(orjson.dumps(facts).decode() + "\n")
    sys.stdout.flush()


def _found_when(finding: Finding) -> str:
    number = finding.executions_to_find
    return f"execution {number}" if number else "by its schedule from an earlier hunt"


class HumanView(View):
    """A line for each scenario, an explanation for each finding that was not declared."""

    def start(self, seed: int) -> None:
        """See View."""
        print(f"stressvm {__version__}, seed {seed}; log: {self.journal.folder}", flush=True)

    def show(self, result: Result) -> None:
        """See View."""
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
        rate = f"{several(result.executions, 'execution')}, {result.seen.distinct} distinct, {result.seconds:.2f} s"
        if result.status in ("clean", "missed"):
            rate += f", about {result.seen.unseen_mass:.0%} of interleavings unseen"
            for said in result.coverage.words():
                rate += f", {said}"
        if result.bounds:
            rate += f", {result.bounds}"
        if result.searched and not result.exhausted:
            rate += ", searched, but executions that did not end were cut short"
        if result.saturated:
            rate += ", saturated"
        print(f"{scenario.name:<34} {paint(word, colour, sys.stdout)} ({rate})", flush=True)
        if result.error:
            print(f"    {result.error}", flush=True)
        for quiet in result.fixed:
            if not quiet.known.told:
                how = "runs clean" if quiet.fits else "does not fit any more, and what is left of it runs clean"
                known = quiet.known
                print(f"    {paint('fixed', 'green', sys.stdout)}: {known.kind}  [{known.fingerprint}]  {known.text}")
                print(f"      (its schedule {how}, and the hunt has not met it again)", flush=True)

    def show_finding(self, result: Result, finding: Finding, command: str) -> None:
        """See View."""
        shrunk = finding.shrunk
        if finding.kind == result.subject.scenario.expect:
            print(f"    {finding.verdict.text}")
        else:
            lines = explain(finding.recording, finding.flips, width=width() - 4, turning=finding.turning).splitlines()
            print("\n".join(f"    {line}".rstrip() for line in lines))
        print(
            f"    {_found_when(finding)}; shrunk from {shrunk.preemptions_before} preemptions to "
            f"{finding.recording.preemptions}{' (the fewest there are)' if shrunk.fewest else ''} in "
            f"{several(shrunk.executions, 'execution')}"
            + (" (cut short: `stressvm shrink` goes on)" if shrunk.cut else "")
        )
        if finding.note:
            print(f"    {finding.note}")
        print(f"    {paint(command, 'bold', sys.stdout)}", flush=True)

    def finish(self, results: Sequence[Result], summary: Mapping[str, Any]) -> None:
        """See View."""
        good = sum(1 for result in results if is_ok(result))
        executions = sum(result.executions for result in results)
        seconds = sum(result.seconds for result in results)
        verdict = f"{good} of {len(results)} scenarios behaved as they declare"
        colour = "green" if summary["ok"] else "red"
        if summary["interrupted"]:
            verdict = f"interrupted, {self.total - len(results)} scenarios not reached; {verdict}"
        print(
            f"{paint(verdict, colour, sys.stdout)}; {several(executions, 'execution')} in {seconds:.1f} s", flush=True
        )
