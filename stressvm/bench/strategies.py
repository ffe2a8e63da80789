"""Executions to the first bug, by strategy, on the field's benchmark programs, beside the published figures.

Every cell is one hunt: a program, a strategy, a seed; what counts is the number of executions up to and including the one
that shows a bug, any bug that stops the program or is declared: nothing is predicted and no race is looked for, as with
the tools whose figures stand beside. A seed that finds none within the cap counts as not found and is left out of mean and median,
as in the published figures: so a mean says nothing without the number of seeds that it is over.

A cell is one line of the log file, written as soon as it is known: what was interrupted goes on from there.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import orjson

from stressvm.bench.published import PROGRAMS
from stressvm.explore.batch import open_runner
from stressvm.explore.execution import Subject
from stressvm.explore.loading import by_name
from stressvm.explore.running import run_trio
from stressvm.explore.settings import STRATEGIES, Settings
from stressvm.kernel.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

SEEDS: Final = 20
CAP: Final = 10_000
SEEDS_QUICK: Final = 3
CAP_QUICK: Final = 1_000

#: Strategies measured unless others are named; a depth may follow a name.
DEFAULT: Final = tuple(
    word for name in STRATEGIES if name not in ("dfs", "dpor") for word in (("pct3",) if name == "pct" else (name,))
)

_BATCH_SECONDS: Final = 0.2


class Cell(NamedTuple):
    """One hunt."""

    program: str
    strategy: str
    seed: int


class Plan(NamedTuple):
    """What to measure: programs by their published names, strategies, seeds 1 to that, executions at most."""

    programs: Sequence[str]
    strategies: Sequence[str]
    seeds: int
    cap: int

    def cells(self) -> Iterator[Cell]:
        """All of them."""
        for program in self.programs:
            for strategy in self.strategies:
                for seed in range(1, self.seeds + 1):
                    yield Cell(program, strategy, seed)


def plan(programs: Sequence[str], strategies: Sequence[str], seeds: int, cap: int) -> Plan:
    """A plan of what was asked for; nothing: everything.

    Raises:
        UsageError: there is no such program or strategy.
    """
    for program in programs:
        if program not in PROGRAMS:
            raise UsageError(f"bench strategies: no program {program!r}; there are: {', '.join(PROGRAMS)}")
    for strategy in strategies:
        settings_of(strategy, 1, cap)
    return Plan(programs or tuple(PROGRAMS), strategies or DEFAULT, seeds, cap)


def settings_of(strategy: str, seed: int, cap: int) -> Settings:
    """The settings of a cell; a number behind the name of a strategy is its depth, as in `pct3`."""
    name = strategy.rstrip("0123456789")
    depth = strategy[len(name) :]
    settings = Settings(executions=cap, seed=seed, strategy=name, checks=())
    return replace(settings, depth=int(depth)) if depth else settings


async def first_bug(subject: Subject, settings: Settings, cap: int) -> int | None:
    """The number of executions up to the first bug; None if there was none."""
    number = 0
    async with open_runner(subject, settings) as runner:
        while number < cap:
            batch = await runner.run(number, cap, _BATCH_SECONDS)
            if batch.error is not None:
                raise batch.error
            if batch.failures:
                return batch.failures[0].number + 1
            if batch.exhausted:
                return None
            number = batch.stop
    return None


def _measure(cell: Cell, cap: int) -> int | None:
    program = PROGRAMS[cell.program]
    scenario = by_name(program.scenario)
    subject = Subject(scenario, scenario.resolve(dict(program.params)))
    return run_trio(first_bug, subject, settings_of(cell.strategy, cell.seed, cap), cap)


def known(file: Path, cap: int) -> dict[Cell, int | None]:
    """The cells that a log file has; a last line that was cut off is none.

    Raises:
        UsageError: it is no such file, or of another cap.
    """
    found: dict[Cell, int | None] = {}
    lines = file.read_bytes().split(b"\n")[:-1] if file.exists() else []
    for number, line in enumerate(lines, start=1):
        try:
            facts = orjson.loads(line)
            cell = Cell(str(facts["program"]), str(facts["strategy"]), int(facts["seed"]))
            executions = facts["executions"]
            if int(facts["cap"]) != cap or not (executions is None or isinstance(executions, int)):
                raise UsageError(f"{file}: line {number}: measured with a cap of {facts['cap']}, not {cap}")
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
            raise UsageError(f"{file}: line {number}: not a measured cell: {line[:60]!r}") from None
        found[cell] = executions
    return found


def run(what: Plan, file: Path, jobs: int, progress: Callable[[int, int], None]) -> dict[Cell, int | None]:
    """Measure what the log file does not have yet.

    Args:
        what: the plan.
        file: its log.
        jobs: processes.
        progress: told the number of cells done, and of all.
    """
    done = known(file, what.cap)
    cells = list(what.cells())
    missing = [cell for cell in cells if cell not in done]
    for program in what.programs:
        # Workers are forked, and have what is loaded.
        by_name(PROGRAMS[program].scenario)
    if file.exists():
        # Whoever was killed in the middle of a line has left the beginning of it.
        os.truncate(file, file.read_bytes().rfind(b"\n") + 1)
    with file.open("ab") as log, ProcessPoolExecutor(jobs, multiprocessing.get_context("fork")) as pool:
        futures = {pool.submit(_measure, cell, what.cap): cell for cell in missing}
        try:
            for future in as_completed(futures):
                cell = futures[future]
                executions = done[cell] = future.result()
                log.write(orjson.dumps({**cell._asdict(), "cap": what.cap, "executions": executions}) + b"\n")
                log.flush()
                progress(sum(cell in done for cell in cells), len(cells))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return {cell: done[cell] for cell in cells}


def rows(what: Plan, done: dict[Cell, int | None]) -> list[dict[str, Any]]:
    """For every program and strategy: found of how many, mean and median, and what was published."""
    table = []
    for program in what.programs:
        published = PROGRAMS[program]
        best = published.best()
        for strategy in what.strategies:
            found = [done[Cell(program, strategy, seed)] for seed in range(1, what.seeds + 1)]
            numbers = [number for number in found if number is not None]
            figure = published.figures.get(strategy)
            table.append(
                {
                    "program": program,
                    "strategy": strategy,
                    "found": len(numbers),
                    "seeds": what.seeds,
                    "mean": round(statistics.mean(numbers), 1) if numbers else None,
                    "median": statistics.median(numbers) if numbers else None,
                    "published": None if figure is None else {"mean": figure.mean, "found": figure.found},
                    "published_best": None
                    if best is None
                    else {"strategy": best[0], "mean": best[1].mean, "found": best[1].found},
                }
            )
    return table


def render(what: Plan, table: Sequence[dict[str, Any]]) -> str:
    """As a table: a line for each program, mean executions by strategy, the best published figure last."""
    width = max(len(program) for program in what.programs)
    head = f"{'program':<{width}}" + "".join(f"{strategy:>12}" for strategy in what.strategies) + "   best published"
    lines = [f"mean executions to the first bug, {what.seeds} seeds, at most {what.cap} executions", head]
    by_cell = {(row["program"], row["strategy"]): row for row in table}
    for program in what.programs:
        line = f"{program:<{width}}"
        for strategy in what.strategies:
            line += f"{_mean(by_cell[program, strategy]):>12}"
        best = by_cell[program, what.strategies[0]]["published_best"]
        lines.append(line + (f"   {best['mean']} ({best['strategy']}, {best['found']}/20)" if best else "   -"))
    lines.append("n/m behind a mean: found by n of m seeds only")
    return "\n".join(lines)


def _mean(row: dict[str, Any]) -> str:
    if row["mean"] is None:
        return f"0/{row['seeds']}"
    mean = f"{row['mean']:.0f}" if row["mean"] >= 10 else f"{row['mean']:.1f}"
    return mean if row["found"] == row["seeds"] else f"{mean} {row['found']}/{row['seeds']}"
