"""`stressvm study`: a policy is swapped, everything else stays, and the numbers say what that did."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import orjson

from stressvm.commands.hunt import OK
from stressvm.commands.numbers import jobs_of, number_of
from stressvm.kernel.errors import UsageError
from stressvm.report.console import LIVE_SECONDS, PLAIN_SECONDS, width
from stressvm.report.jsonl import created
from stressvm.study.results import Results
from stressvm.study.runner import Plan
from stressvm.study.runner import run as run_plan
from stressvm.study.study import load, shipped, written
from stressvm.study.table import render
from stressvm.study.trace import point_of, trace, write_trace

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from stressvm.study.study import Study

_FILE: Final = "samples.jsonl"


def run(args: argparse.Namespace) -> int:
    """Run a study and print what it came to, or list the shipped ones; the exit status."""
    if args.study is None:
        return _list(args)
    study = load(args.study)
    if args.quick:
        study = study.quickly()
    if args.trace is not None:
        return _trace(args, study)
    if args.replication is not None:
        raise UsageError("--replication: says which one --trace is of; --replications says how many")
    plan = Plan(study, _seed(args.seed), number_of("--replications", args.replications, study.replications))
    folder = _folder(args)
    results = Results.of(plan, run_plan(plan, folder / _FILE, jobs_of(args.jobs), _progress(study.name)))
    if args.format == "json":
        sys.stdout.write(orjson.dumps({**results.facts(), "file": str(folder / _FILE)}).decode() + "\n")
    else:
        sys.stdout.write(f"{render(results, width())}\nRaw data: {folder / _FILE}\n")
    return OK


def _list(args: argparse.Namespace) -> int:
    studies = shipped()
    if args.format == "json":
        for name, study in studies.items():
            facts = {"type": "study", "name": name, "question": study.question, "factors": study.factors}
            sys.stdout.write(orjson.dumps({**facts, "replications": study.replications}).decode() + "\n")
    else:
        size = max(map(len, studies))
        sys.stdout.writelines(f"{name.ljust(size)}  {study.question}\n" for name, study in studies.items())
    return OK


def _trace(args: argparse.Namespace, study: Study) -> int:
    text = args.replication or "0"
    if not text.isdecimal():
        raise UsageError(f"--replication: {text!r} is not a number from 0")
    point = point_of(study, args.trace)
    sample, run = trace(study, point, _seed(args.seed), int(text))
    path = _folder(args) / "trace.jsonl"
    with created(path) as file:
        write_trace(file, study, point, run, sample)
    facts = {"type": "trace", "study": study.name, "point": point, "replication": int(text), "events": run.events}
    if args.format == "json":
        whole = {**facts, "ticks": run.now, "ended": run.ended, "measures": sample.measures, "file": str(path)}
        sys.stdout.write(orjson.dumps(whole).decode() + "\n")
    else:
        sys.stdout.write(
            f"{study.name}, {written(point)}, replication {text}: {run.events} operations in {run.now} ticks, "
            f"ended by {run.ended!r}\nTrace: {path}\n"
        )
    return OK


def _folder(args: argparse.Namespace) -> Path:
    if args.resume:
        folder = Path(args.resume)
        if not (folder / _FILE).is_file():
            raise UsageError(f"{folder}: nothing to go on with: it has no {_FILE}")
        return folder
    folder = Path(args.logs) / f"study-{time.strftime('%Y%m%d-%H%M%S')}"
    number = 1
    while True:
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            number += 1
            folder = Path(args.logs) / f"study-{time.strftime('%Y%m%d-%H%M%S')}-{number}"
        except OSError as exc:
            raise UsageError(f"{folder}: cannot be made: {exc.strerror}; choose another place with --logs") from None
        else:
            return folder


def _progress(name: str) -> Callable[[int, int], None]:
    """How far it is, and how long it will take, judged by what has been simulated here."""
    live = sys.stderr.isatty()
    began = time.monotonic()
    before = -1
    due = began + (0.0 if live else PLAIN_SECONDS)

    def progress(done: int, total: int) -> None:
        nonlocal before, due
        if before < 0:
            before = done
        now = time.monotonic()
        if now < due and done < total:
            return
        due = now + (LIVE_SECONDS if live else PLAIN_SECONDS)
        left = (now - began) / (done - before) * (total - done) if done > before else None
        text = f"{name}: {done} of {total} simulations" + (f", about {left:.0f} s left" if left is not None else "")
        sys.stderr.write(f"\r\x1b[K{text}" if live and done < total else f"\r\x1b[K{text}\n" if live else f"{text}\n")
        sys.stderr.flush()

    return progress


def _seed(text: str | None) -> int:
    if text is None:
        return 1
    if text == "random":
        return time.time_ns() % 2**48
    if text.isdecimal():
        return int(text)
    raise UsageError(f"--seed: {text!r} is neither a number from 0 nor `random`")
