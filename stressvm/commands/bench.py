"""`stressvm bench`: the engine's and the map's own speed; how soon strategies find the bugs of known programs."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from stressvm.campaign.config import jobs, positive
from stressvm.commands.hunt import OK
from stressvm.kernel.errors import UsageError

if TYPE_CHECKING:
    import argparse

#: Options of `bench strategies`; the other benches know none of them.
_OF_STRATEGIES = ("program", "strategy", "seeds", "cap", "jobs", "resume")


def run(args: argparse.Namespace) -> int:
    """Measure and print; the exit status."""
    facts: dict[str, Any]
    given = [f"--{name}" for name in _OF_STRATEGIES if getattr(args, name)]
    if args.what != "strategies" and given:
        raise UsageError(f"{', '.join(given)}: only bench strategies knows these")
    if args.what == "engine":
        from stressvm.bench import engine

        facts = engine.run(quick=args.quick)
        text = engine.render(facts)
    elif args.what == "map":
        from stressvm.bench import map as map_bench

        rows = map_bench.run(quick=args.quick)
        facts = {"type": "bench", "what": "map", "rows": rows}
        text = map_bench.render(rows)
    else:
        facts, text = _strategies(args)
    sys.stdout.write(orjson.dumps(facts).decode() + "\n" if args.format == "json" else text + "\n")
    return OK


def _strategies(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    from stressvm.bench import strategies

    seeds = _number("--seeds", args.seeds, strategies.SEEDS_QUICK if args.quick else strategies.SEEDS)
    cap = _number("--cap", args.cap, strategies.CAP_QUICK if args.quick else strategies.CAP)
    what = strategies.plan(args.program, args.strategy, seeds, cap)
    folder = Path(args.resume) if args.resume else Path(args.logs) / f"bench-{time.strftime('%Y%m%d-%H%M%S')}"
    file = folder / "strategies.jsonl"
    if args.resume and not file.is_file():
        raise UsageError(f"{folder}: nothing to go on with: it has no strategies.jsonl")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise UsageError(f"{folder}: cannot be made: {exc.strerror}; choose another place with --logs") from None
    shown = 0.0

    def progress(done: int, total: int) -> None:
        nonlocal shown
        if time.monotonic() - shown >= 10 or done == total:
            shown = time.monotonic()
            sys.stderr.write(f"{done} of {total} cells measured; {file}\n")

    table = strategies.rows(what, strategies.run(what, file, _jobs(args.jobs), progress))
    facts = {"type": "bench", "what": "strategies", "seeds": seeds, "cap": cap, "rows": table}
    return facts, strategies.render(what, table)


def _number(option: str, text: str | None, default: int) -> int:
    if text is None:
        return default
    try:
        return positive(text)
    except ValueError:
        raise UsageError(f"{option}: {text!r} is not a whole number from 1") from None


def _jobs(text: str | None) -> int:
    try:
        return jobs(text or "auto")
    except ValueError:
        raise UsageError(f"--jobs: {text!r} is not a whole number from 1, or auto") from None
