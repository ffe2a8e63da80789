"""`stressvm bench`: the engine's and the map's own speed."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import orjson

from stressvm.commands.hunt import OK

if TYPE_CHECKING:
    import argparse


def run(args: argparse.Namespace) -> int:
    """Measure and print; the exit status."""
    facts: dict[str, Any]
    if args.what == "engine":
        from stressvm.bench import engine

        facts = engine.run(quick=args.quick)
        text = engine.render(facts)
    else:
        from stressvm.bench import map as map_bench

        rows = map_bench.run(quick=args.quick)
        facts = {"type": "bench", "what": "map", "rows": rows}
        text = map_bench.render(rows)
    sys.stdout.write(orjson.dumps(facts).decode() + "\n" if args.format == "json" else text + "\n")
    return OK
