"""`stressvm import`: a log of a real program becomes a workload file."""

from __future__ import annotations

import os
import shlex
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from stressvm.commands.hunt import OK
from stressvm.kernel.errors import UsageError
from stressvm.vm.workload import read_strace, write_workload

if TYPE_CHECKING:
    import argparse

    from stressvm.vm.workload import Workload


def run(args: argparse.Namespace) -> int:
    """Read the log, write the workload, say what it is and how to hunt in it; the exit status.

    Raises:
        UsageError: the log cannot be read or understood, or the workload cannot be written.
    """
    log = Path(args.log)
    output = Path(args.output) if args.output is not None else beside(log)
    if os.path.realpath(output) == os.path.realpath(log):
        raise UsageError(f"{output}: the workload would replace the log; choose another --output")
    workload = read_strace(log, lenient=args.lenient, space=args.space)
    write_workload(workload, output)
    written = str(output).encode("utf-8", "backslashreplace").decode()
    command = shlex.join(["stressvm", "hunt", "imported_workload", "--param", f"workload={written}"])
    if args.format == "json":
        sys.stdout.write(orjson.dumps(_facts(workload, written, command)).decode() + "\n")
        return OK
    print(workload.summary())
    print(f"written to {written}")
    print(f"hunt in its first operations:  {command}")
    print("choose others with --param first=N and --param count=N (0: to the end)")
    return OK


def beside(log: Path) -> Path:
    """Where the workload of a log goes by default: NAME.strace or NAME.strace.gz become NAME.json.gz."""
    return log.with_name(f"{log.name.removesuffix('.gz').removesuffix('.strace')}.json.gz")


def _facts(workload: Workload, output: str, command: str) -> dict[str, object]:
    operations = [op for _, op in workload.in_order()]
    return {
        "type": "workload",
        "source": workload.source,
        "output": output,
        "hunt": command,
        "operations": len(operations),
        "kinds": dict(sorted(Counter(type(op).__name__.lower() for op in operations).items())),
        "threads": [{"name": t.name, "pid": t.pid, "operations": len(t.operations)} for t in workload.threads],
        "largest_pages": workload.largest_pages,
        "peak_pages": workload.peak_pages,
        "dependencies": len(workload.dependencies()),
        "split": sum(op.begin < op.end for op in operations),
        "counts": dict(workload.counts),
    }
