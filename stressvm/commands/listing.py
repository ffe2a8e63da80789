"""`stressvm list`: scenarios, parameters, expectations."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import orjson

from stressvm.commands.hunt import NOTHING, OK
from stressvm.explore.loading import select

if TYPE_CHECKING:
    import argparse


def run(args: argparse.Namespace) -> int:
    """Print what there is; the exit status."""
    scenarios = select(args.paths)
    if not scenarios:
        sys.stderr.write("stressvm: nothing was selected: no scenario there\n")
        return NOTHING
    for scenario in scenarios:
        if args.format == "json":
            facts = {
                "type": "scenario",
                "name": scenario.name,
                "params": dict(scenario.params),
                "expect": scenario.expect,
                "tolerate": sorted(scenario.tolerate),
                "checks": [check if isinstance(check, str) else check.kind for check in scenario.checks],
                "source": scenario.source,
                "file": scenario.file,
                "timers": scenario.timers.value,
                "max_steps": scenario.max_steps,
                "story": scenario.story,
            }
            sys.stdout.write(orjson.dumps(facts).decode() + "\n")
            continue
        expect = scenario.expect or "clean"
        params = " ".join(f"{name}={value}" for name, value in scenario.params.items())
        print(f"{scenario.name:<34} {expect:<14} {params}".rstrip())
        print(f"    {scenario.story.partition(chr(10))[0]}")
    return OK
