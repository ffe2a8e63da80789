"""`stressvm bench`: the engine's and the map's own speed; how soon bugs of known programs, and planted ones, are found."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from stressvm.commands.hunt import FOUND, OK
from stressvm.commands.numbers import jobs_of, number_of
from stressvm.kernel.errors import UsageError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

_HUNTS = ("seeds", "cap", "jobs", "resume")
#: Which options only some benches know.
_OPTIONS = {"engine": ("peer",), "strategies": ("program", "strategy", *_HUNTS), "defects": ("id", "markdown", *_HUNTS)}


def run(args: argparse.Namespace) -> int:
    """Measure and print; the exit status."""
    facts: dict[str, Any]
    status = OK
    _check_options(args)
    if args.what == "engine":
        from stressvm.bench import engine

        facts = engine.run(quick=args.quick, peer=args.peer or "")
        text = engine.render(facts)
    elif args.what == "map":
        from stressvm.bench import map as map_bench

        rows = map_bench.run(quick=args.quick)
        facts = {"type": "bench", "what": "map", "rows": rows}
        text = map_bench.render(rows)
    elif args.what == "checks":
        from stressvm.bench import checks

        costs = checks.run(quick=args.quick)
        facts = {"type": "bench", "what": "checks", "rows": costs}
        text = checks.render(costs)
    elif args.what == "strategies":
        facts, text = _strategies(args)
    else:
        facts, text = _defects(args)
        status = OK if not facts["defects_missed"] and not facts["twins_unexpected"] else FOUND
    sys.stdout.write(orjson.dumps(facts).decode() + "\n" if args.format == "json" else text + "\n")
    return status


def _check_options(args: argparse.Namespace) -> None:
    known = _OPTIONS.get(args.what, ())
    for name in dict.fromkeys(name for options in _OPTIONS.values() for name in options):
        if getattr(args, name) and name not in known:
            knows = " and ".join(f"bench {what}" for what, options in _OPTIONS.items() if name in options)
            raise UsageError(f"--{name}: an option of {knows} only")


def _strategies(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    from stressvm.bench import strategies

    seeds = number_of("--seeds", args.seeds, strategies.SEEDS_QUICK if args.quick else strategies.SEEDS)
    cap = number_of("--cap", args.cap, strategies.CAP_QUICK if args.quick else strategies.CAP)
    what = strategies.plan(args.program, args.strategy, seeds, cap)
    file = _log(args, "strategies")
    table = strategies.rows(what, strategies.run(what, file, jobs_of(args.jobs), _progress(file)))
    facts = {"type": "bench", "what": "strategies", "seeds": seeds, "cap": cap, "rows": table}
    return facts, strategies.render(what, table)


def _defects(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    from stressvm.bench.defects import measure, render

    seeds = number_of("--seeds", args.seeds, measure.SEEDS_QUICK if args.quick else measure.SEEDS)
    cap = number_of("--cap", args.cap, measure.CAP_QUICK if args.quick else measure.CAP)
    what = measure.plan(args.id, seeds, cap)
    file = _log(args, "defects")
    table = measure.rows(what, measure.run(what, file, jobs_of(args.jobs), _progress(file)))
    facts = {"type": "summary", "what": "defects", "seeds": seeds, "cap": cap, **measure.summary(table), "rows": table}
    return facts, render.page(table, cap) if args.markdown else render.render(table, cap)


def _log(args: argparse.Namespace, what: str) -> Path:
    """The file that has what was measured, or will have it."""
    folder = Path(args.resume) if args.resume else Path(args.logs) / f"bench-{time.strftime('%Y%m%d-%H%M%S')}"
    file = folder / f"{what}.jsonl"
    if args.resume and not file.is_file():
        raise UsageError(f"{folder}: nothing to go on with: it has no {file.name}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise UsageError(f"{folder}: cannot be made: {exc.strerror}; choose another place with --logs") from None
    return file


def _progress(file: Path) -> Callable[[int, int], None]:
    """Says now and then how far it is."""
    shown = 0.0

    def progress(done: int, total: int) -> None:
        nonlocal shown
        if time.monotonic() - shown >= 10 or done == total:
            shown = time.monotonic()
            sys.stderr.write(f"{done} of {total} cells measured; {file}\n")

    return progress
