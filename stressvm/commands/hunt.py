"""`stressvm hunt`: explore scenarios within a budget."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from stressvm.campaign.campaign import Campaign
from stressvm.campaign.config import EXECUTIONS_UNLIMITED, OPTIONS, read, resolve
from stressvm.campaign.corpus import known_bugs
from stressvm.campaign.facts import summary_facts
from stressvm.campaign.journal import Journal, open_journal, reopened_journal
from stressvm.campaign.store import StoredSubject, create, opened
from stressvm.commands.views import view_of
from stressvm.explore.execution import Subject
from stressvm.explore.loading import digest_of, load, select
from stressvm.explore.settings import Settings
from stressvm.kernel.errors import UsageError
from stressvm.report.jsonl import created, write_execution

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

    from stressvm.campaign.store import Store
    from stressvm.explore.result import Result
    from stressvm.explore.scenario import Scenario

OK, FOUND, USAGE, NOTHING, INTERRUPTED = 0, 1, 2, 4, 130


def run(args: argparse.Namespace) -> int:
    """Hunt; the exit status."""
    with ExitStack() as stack:
        reports = [stack.enter_context(created(path, "--report")) for path in reports_of(args.report)]
        if args.resume is not None:
            plan, journal, store = _resumed(args, stack)
        else:
            plan = _planned(args)
            if not plan.subjects:
                sys.stderr.write("stressvm: nothing was selected: no scenario there\n")
                return NOTHING
            journal = stack.enter_context(open_journal(Path(plan.values["logs"]), "hunt", plan.values["seed"]))
            store = stack.enter_context(create(journal.folder))
            _note(plan, journal, store)
            if not plan.values["afresh"] and plan.values["shard"].count == 1:
                for number, known in enumerate(known_bugs(Path(plan.values["logs"]), plan.subjects)):
                    store.ledger(number).keep_known(known)
            store.put("complete", value=True)
        settings = settings_of(plan.values)
        view = view_of(plan.values["format"], journal)
        view.start(settings.seed)
        ledgers = [store.ledger(number) for number in range(len(plan.subjects))]
        campaign = Campaign(plan.subjects, settings, view, ledgers, plan.values["jobs"])
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
            report(file, campaign.results)
    return status(campaign.results, interrupted=interrupted)


class _Plan(NamedTuple):
    """What to hunt in, and the value of every option."""

    subjects: list[Subject]
    values: dict[str, Any]


def _planned(args: argparse.Namespace) -> _Plan:
    values = resolve(args.options)
    given = parameters(args.param)
    scenarios = select(args.paths)
    return _Plan([subject_of(scenario, given, values, among=scenarios) for scenario in scenarios], values)


def _note(plan: _Plan, journal: Journal, store: Store) -> None:
    """Write down what is about to be done, so that it can be gone on with."""
    plain = {name: str(value) if name == "shard" else value for name, value in plan.values.items() if name != "logs"}
    journal.header("hunt", plan.values["seed"], plain, [subject.scenario.name for subject in plan.subjects])
    store.put("values", plain)
    for number, subject in enumerate(plan.subjects):
        scenario = subject.scenario
        store.put_subject(
            number, StoredSubject(scenario.name, scenario.file, dict(subject.params), digest_of(scenario))
        )


def _resumed(args: argparse.Namespace, stack: ExitStack) -> tuple[_Plan, Journal, Store]:
    """The plan of a campaign that has a log folder, with its journal and its store."""
    more = [f"--{name}" for name in args.options if name not in ("jobs", "format")]
    more += ["--param"] * bool(args.param) + list(args.paths)
    if more:
        raise UsageError(
            f"--resume goes on with what was begun: leave out {', '.join(more)} (-j and --format may differ)"
        )
    folder = Path(args.resume)
    store = stack.enter_context(opened(folder))
    if not store.get("complete"):
        raise UsageError(f"{folder}: was killed before it had begun; start it anew")
    values = stored_values(store)
    values.update({name: read(name, raw, f"--{name}") for name, raw in args.options.items()})
    subjects = [stored_subject(subject, values, folder) for subject in store.subjects()]
    journal = stack.enter_context(reopened_journal(folder))
    return _Plan(subjects, values), journal, store


def stored_values(store: Store) -> dict[str, Any]:
    """The value of every option of a stored campaign."""
    stored = store.get("values")
    if not isinstance(stored, dict):
        raise store.damaged("campaign.values")
    where = f"{store.path}: campaign.values"
    return {
        name: option.default if stored.get(name) is None else read(name, stored[name], f"{where}.{name}")
        for name, option in OPTIONS.items()
    }


def stored_subject(stored: StoredSubject, values: Mapping[str, Any], folder: Path) -> Subject:
    """A scenario of a stored campaign, which must be as it was."""
    scenario = next((one for one in load(Path(stored.file)) if one.name == stored.name), None)
    if scenario is None or digest_of(scenario) != stored.digest:
        raise UsageError(f"{folder}: scenario {stored.name} in {stored.file} is not what it was: hunt in it anew")
    if values["max-steps"] is not None:
        scenario = replace(scenario, max_steps=values["max-steps"])
    return Subject(scenario, scenario.resolve(stored.params))


def settings_of(values: Mapping[str, Any]) -> Settings:
    """The settings of every hunt of a campaign; without any budget, each scenario has its own."""
    executions = values["executions"]
    if executions is None and (values["time"] is not None or values["until"] is not None):
        executions = EXECUTIONS_UNLIMITED
    return Settings(
        executions=executions,
        seconds=values["time"],
        seed=values["seed"],
        strategy=values["strategy"],
        depth=values["depth"],
        preemptions=values["preemptions"],
        driver=values["driver"],
        keep_going=values["keep-going"],
        hang_seconds=values["hang"],
        shard=values["shard"],
        until_saturated=values["until"] == "saturated",
        checks=values["checks"],
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


def report(file: BinaryIO, results: Sequence[Result]) -> None:
    """Write the findings to a file that was asked for."""
    for result in results:
        for finding in result.findings:
            write_execution(file, finding.recording, finding.schedule.blob())


def status(results: Sequence[Result], *, interrupted: bool) -> int:
    """The exit status."""
    if interrupted:
        return INTERRUPTED
    statuses = {result.status for result in results}
    if statuses & {"unexpected", "missed"}:
        return FOUND
    return USAGE if "error" in statuses else OK
