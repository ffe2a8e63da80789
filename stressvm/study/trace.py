"""The execution behind a number of a study: every visible operation, with the tick at which it happened."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from stressvm._version import __version__
from stressvm.kernel.errors import UsageError
from stressvm.report.jsonl import logger_to
from stressvm.report.lane import WAKES
from stressvm.study.experiment import traced
from stressvm.study.study import seed_of, written

if TYPE_CHECKING:
    from typing import BinaryIO

    from stressvm.study.machine import Run
    from stressvm.study.sample import Sample
    from stressvm.study.study import Study

#: Of the file.
FORMAT: Final = "stressvm-trace:1"


def point_of(study: Study, text: str) -> dict[str, str | int | float]:
    """The point that `wake=all,waiters=4` says; factors that have one level alone may be left out.

    Raises:
        UsageError: it is no point of the study.
    """
    said: dict[str, str] = {}
    for part in text.split(","):
        name, equals, level = part.partition("=")
        if not equals or name not in study.factors:
            raise UsageError(f"--trace: {part!r} is not FACTOR=LEVEL; factors are {', '.join(study.factors)}")
        said[name] = level
    among = [point for point in study.points() if all(str(point[name]) == level for name, level in said.items())]
    if len(among) != 1:
        points = "; ".join(written(point) for point in (among or study.points())[:4])
        raise UsageError(f"--trace: {text!r} names {len(among)} points, not one; there are {points}, ...")
    return among[0]


def trace(study: Study, point: dict[str, str | int | float], seed: int, replication: int) -> tuple[Sample, Run]:
    """Simulate one replication of a point again, and keep all of it.

    Raises:
        UsageError: the study simulates without `measured`, which is what can keep events.
    """
    with traced() as runs:
        sample = study.sample(point, seed_of(seed, replication))
    if len(runs) != 1:
        raise UsageError(f"study {study.name}: simulate() called `measured` {len(runs)} times; --trace needs it once")
    return sample, runs[0]


def write_trace(file: BinaryIO, study: Study, point: dict[str, str | int | float], run: Run, sample: Sample) -> None:
    """Write a run as JSON lines: a header, an operation a line, a summary."""
    log = logger_to(file)
    names = [thread.name for thread in run.threads]
    log.info("header", format=FORMAT, version=__version__, study=study.name, point=point, threads=names)
    for step, (tick, event) in enumerate(zip(run.ticks, run.trace, strict=True)):
        thread, op, arg = event
        name = names[thread] if thread >= 0 else None
        log.info(
            "step", step=step, tick=tick, thread=name, op=op.kind, object=_object(op), arg=_arg(op.kind, arg, names)
        )
    log.info(
        "summary", ended=run.ended, tick=run.now, steps=run.events, switches=run.switches, measures=sample.measures
    )


def _object(op: Any) -> str | None:
    return str(op.obj.name) or None


def _arg(kind: str, arg: Any, names: list[str]) -> Any:
    """Whom an operation woke, by name; what it was given, where JSON can say it."""
    if kind in WAKES and isinstance(arg, tuple):
        return [names[number] for number in arg]
    return arg if isinstance(arg, bool | int | float | str | tuple | dict | None) else str(arg)
