"""`stressvm merge`: the results of several shards become one."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from stressvm.campaign.facts import summary_facts
from stressvm.campaign.journal import open_journal
from stressvm.campaign.merge import Merging, same_campaign
from stressvm.campaign.store import opened
from stressvm.commands.hunt import report, reports_of, settings_of, status, stored_subject, stored_values
from stressvm.commands.views import view_of
from stressvm.explore.running import run_trio
from stressvm.explore.settings import WHOLE
from stressvm.report.jsonl import created

if TYPE_CHECKING:
    import argparse


def run(args: argparse.Namespace) -> int:
    """Merge; the exit status is that of the one campaign."""
    folders = list(dict.fromkeys(Path(word) for word in args.folders))
    with ExitStack() as stack:
        reports = [stack.enter_context(created(path, "--report")) for path in reports_of(args.report)]
        stores = [stack.enter_context(opened(folder)) for folder in folders]
        values = [stored_values(store) for store in stores]
        shards = [one["shard"] for one in values]
        same_campaign(stores, shards)
        settings = replace(settings_of(values[0]), shard=WHOLE)
        subjects = [stored_subject(subject, values[0], folders[0]) for subject in stores[0].subjects()]
        journal = stack.enter_context(open_journal(Path(args.logs), "merge", settings.seed))
        names = [subject.scenario.name for subject in subjects]
        journal.header("merge", settings.seed, {"folders": [str(folder) for folder in folders]}, names)
        view = view_of(args.format, journal)
        view.start(settings.seed)
        results = []
        for number, subject in enumerate(subjects):
            view.begin(subject, number + 1, len(subjects))
            ledgers = [(shard, store.ledger(number)) for shard, store in zip(shards, stores, strict=True)]
            result = run_trio(Merging(subject, settings, ledgers).run, view.found)
            results.append(result)
            view.end(result)
        summary = summary_facts(results, settings.seed, interrupted=False)
        journal.summary(summary)
        view.finish(results, summary)
        for file in reports:
            report(file, results)
    return status(results, interrupted=False)
