"""`stressvm conform`: the model against recorded answers of the kernels' own code."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from stressvm._version import __version__
from stressvm.campaign.config import positive, seed
from stressvm.commands.hunt import FOUND, OK
from stressvm.conform.conform import conform
from stressvm.kernel.errors import UsageError
from stressvm.report.console import several

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from stressvm.conform.tally import Difference, Tally


def run(args: argparse.Namespace) -> int:
    """Answer the vectors, compare, say what came of it; the exit status.

    Raises:
        UsageError: a file is not what it should be.
    """
    executions = _number("--executions", args.executions, positive)
    start = _number("--seed", args.seed, seed)
    as_json = args.format == "json"
    if as_json:
        _emit({"type": "header", "version": __version__, "seed": start})
    else:
        print(f"stressvm {__version__}, seed {start}", flush=True)
    tallies = []
    for name in args.files:
        found = conform(Path(name), executions=executions, seed=start, progress=partial(_progress, name))
        tallies += found
        for tally in found:
            if as_json:
                for difference in tally.differences:
                    _emit(_difference_facts(tally, difference))
            else:
                print(render(tally), flush=True)
    ok = all(tally.ok for tally in tallies)
    if as_json:
        files = [_facts(tally) for tally in tallies]
        _emit({"type": "summary", "version": __version__, "seed": start, "ok": ok, "files": files})
    return OK if ok else FOUND


def render(tally: Tally) -> str:
    """The figures of a file by one personality, and its first differences."""
    by = f" ({tally.model})" if tally.model else ""
    head = f"{tally.path}{by}: {tally.passed} of {tally.cases} {tally.kind} agree"
    done = f"{tally.operations_passed} of {tally.operations} operations"
    if tally.executions:
        head += f" in {several(tally.executions, 'execution')} ({done}; {tally.met} of {tally.outcomes} outcomes came about)"
    else:
        head += f", {done}"
    lines = [head]
    if panics := tally.words["kassert"]:
        lines.append(f"  at {panics} an assertion fails: they panic with DIAGNOSTIC, and are answered without it")
    left_out = ", ".join(f"{count} ({reason})" for reason, count in sorted(tally.left_out.items()))
    lines.append(f"  left out: {left_out or 'nothing'}")
    for difference in tally.differences:
        lines += _difference(difference)
    if (more := tally.cases - tally.passed - len(tally.differences)) > 0:
        lines.append(f"  and {more} more {tally.kind} differ")
    return "\n".join(lines)


def _difference(difference: Difference) -> list[str]:
    lines = [
        f"  DIFFERS: {difference.case} (line {difference.line}), {difference.operation}",
        f"    expected {_text(difference.expected)}",
        f"    actual   {_text(difference.actual)}",
    ]
    return lines + [f"      {line}" for line in difference.around.splitlines()]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _facts(tally: Tally) -> dict[str, Any]:
    return {
        "path": tally.path,
        "model": tally.model,
        "kind": tally.kind,
        "ok": tally.ok,
        "cases": tally.cases,
        "cases_passed": tally.passed,
        "operations": tally.operations,
        "operations_passed": tally.operations_passed,
        "words": dict(sorted(tally.words.items())),
        "left_out": dict(sorted(tally.left_out.items())),
        "executions": tally.executions,
        "outcomes": tally.outcomes,
        "outcomes_met": tally.met,
    }


def _difference_facts(tally: Tally, difference: Difference) -> dict[str, Any]:
    return {
        "type": "difference",
        "path": tally.path,
        "model": tally.model,
        "line": difference.line,
        "case": difference.case,
        "operation": difference.operation,
        "expected": difference.expected,
        "actual": difference.actual,
        "around": difference.around,
    }


def _emit(facts: dict[str, Any]) -> None:
    sys.stdout.write(orjson.dumps(facts).decode() + "\n")
    sys.stdout.flush()


def _progress(path: str, done: int, total: int) -> None:
    if sys.stderr.isatty():
        end = "\n" if done == total else ""
        sys.stderr.write(f"\r{path}: line {done} of {total}{end}")
        sys.stderr.flush()


def _number(option: str, text: object, read: Callable[[object], int]) -> int:
    try:
        return read(text)
    except ValueError as exc:
        raise UsageError(f"{option} {text!r}: {exc}") from None
