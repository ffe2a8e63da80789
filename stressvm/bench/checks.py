"""What detectors cost: the time of a hunt with checks over that of one without, in interleaved rounds of one process.

A random walk over clean scenarios, so that every execution is looked at to its end. Where few interleavings are different
(three threads with three sections under one lock), detectors that look at classes are hardly ever asked; with five threads
and eight sections, and over maps, every execution is of a class of its own.
"""

from __future__ import annotations

import platform
import statistics
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from stressvm.explore.execution import Subject
from stressvm.explore.hunt import Settings, hunt_subject
from stressvm.explore.loading import by_name
from stressvm.explore.running import run_trio

if TYPE_CHECKING:
    from collections.abc import Mapping


class Program(NamedTuple):
    """A clean scenario, its parameters, and executions for a round."""

    name: str
    params: Mapping[str, int]
    executions: int


PROGRAMS: Final = (
    Program("locked_sections", {}, 3_000),
    Program("locked_sections", {"threads": 5, "sections": 8}, 400),
    Program("safestack", {}, 400),
    Program("inspect_bounded_buffer_ok", {}, 400),
    Program("freebsd13_exec_args", {}, 100),
    Program("freebsd13_copy_seen", {}, 100),
    Program("netbsd6_wired_memory", {}, 100),
)

#: What is compared with no checks at all.
CHECKS: Final = ("default", "all")


def _seconds(program: Program, checks: str, executions: int) -> float:
    """Seconds of the processor for a hunt."""
    scenario = by_name(program.name)
    subject = Subject(scenario, scenario.resolve(program.params))
    settings = Settings(executions=executions, strategy="random", checks=(checks,))
    started = time.process_time()
    result = run_trio(hunt_subject, subject, settings)
    assert result.status == "clean", (program.name, result.status, result.error)
    return time.process_time() - started


def run(*, quick: bool) -> list[dict[str, Any]]:
    """Measure; a row for each program: the ratios of its rounds, as the median and the largest."""
    rounds, part = (3, 10) if quick else (9, 1)
    rows = []
    for program in PROGRAMS:
        executions = program.executions // part
        ratios: dict[str, list[float]] = {checks: [] for checks in CHECKS}
        _seconds(program, "all", executions // 10)
        for _ in range(rounds):
            none = _seconds(program, "none", executions)
            for checks in CHECKS:
                ratios[checks].append(_seconds(program, checks, executions) / none)
        rows.append(
            {
                "program": program.name,
                "params": dict(program.params),
                "executions": executions,
                "rounds": rounds,
                **{checks: round(statistics.median(found), 2) for checks, found in ratios.items()},
                **{f"{checks}_max": round(max(found), 2) for checks, found in ratios.items()},
            }
        )
    return rows


def render(rows: list[dict[str, Any]]) -> str:
    """The figures as a table."""
    rounds = rows[0]["rounds"]
    lines = [
        f"A hunt with checks over one without; Python {platform.python_version()}, medians of {rounds} interleaved rounds",
        f"(the largest in brackets)\n{'':<46} {'default':>14} {'all':>14}",
    ]
    for row in rows:
        params = ", ".join(f"{name}={value}" for name, value in row["params"].items())
        title = f"{row['program']}({params})" if params else row["program"]
        figures = [f"{row[checks]:.2f} ({row[f'{checks}_max']:.2f})" for checks in CHECKS]
        lines.append(f"{title:<46} {figures[0]:>14} {figures[1]:>14}")
    return "\n".join(lines)
