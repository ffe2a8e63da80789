"""How soon a hunt notices planted defects, by which check, and whether it is silent without them.

A cell is one hunt: a planted defect and a seed, or the same world without it (a twin). What counts is the number of
executions up to and including the one that shows something wrong. A cell is one line of the log file, written as soon as it
is known: what was interrupted goes on from there.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import statistics
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import orjson

from stressvm.bench.defects.defect import Label
from stressvm.bench.defects.table import DEFECTS
from stressvm.check.detectors import DETECTORS
from stressvm.explore.batch import open_runner
from stressvm.explore.execution import record
from stressvm.explore.running import run_trio
from stressvm.explore.settings import Settings
from stressvm.explore.tape import Follow
from stressvm.kernel.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from stressvm.bench.defects.defect import Plant
    from stressvm.explore.execution import Subject

SEEDS: Final = 20
CAP: Final = 10_000
SEEDS_QUICK: Final = 3
CAP_QUICK: Final = 1_000

_BATCH_SECONDS: Final = 0.2
#: These worlds do not hang; a machine that has more to do than this may seem to.
_HANG_SECONDS: Final = 120.0
#: The name of a broken invariant, within what is said of it.
_INVARIANT: Final = re.compile(r"\b(G\d+(?:-G\d+)? [a-z_ ]+):")
#: Kinds of what detectors find in executions that come to rest with nothing wrong.
_DETECTED: Final = frozenset(entry.kind for entry in DETECTORS.values())
#: The seed of a twin's hunt.
_TWIN: Final = 0

#: All ways to open all windows, by name.
PLANTS: Final[dict[str, Plant]] = {name: plant for defect in DEFECTS for name, plant in defect.named()}


class Cell(NamedTuple):
    """One hunt: a planted defect by its name, and the hunt's seed; seed 0 is the world without it."""

    name: str
    seed: int


class Shown(NamedTuple):
    """What a hunt came to.

    Attributes:
        executions: how many up to the first finding; or all that there were.
        kind: of the finding; "" for none.
        check: the kind, with the name of the invariant if it is one.
        says: what was found, in a sentence.
        declared: is it what the defect is known by?
        exhausted: there was nothing more to explore.
    """

    executions: int
    kind: str
    check: str
    says: str
    declared: bool
    exhausted: bool


class Plan(NamedTuple):
    """What to measure: planted defects by name, seeds 1 to that, executions at most."""

    names: Sequence[str]
    seeds: int
    cap: int

    def cells(self) -> Iterator[Cell]:
        """All of them; worlds without defects once each."""
        for name in self.names:
            for seed in range(1, self.seeds + 1):
                yield Cell(name, seed)
        twins = {PLANTS[name].twin_key(): name for name in reversed(self.names)}
        for name in self.names:
            if twins[PLANTS[name].twin_key()] == name:
                yield Cell(name, _TWIN)

    def cap_of(self, cell: Cell) -> int:
        """Executions of a hunt at most. What cannot be noticed is looked for in as many, over all seeds together."""
        if cell.seed and PLANTS[cell.name].label is Label.EQUIVALENT:
            return max(1, self.cap // self.seeds)
        return self.cap

    def twin_of(self, name: str) -> Cell:
        """The cell that has measured the world of a defect without it."""
        key = PLANTS[name].twin_key()
        return Cell(next(other for other in self.names if PLANTS[other].twin_key() == key), _TWIN)


def plan(ids: Sequence[str], seeds: int, cap: int) -> Plan:
    """A plan of what was asked for; nothing: everything.

    Raises:
        UsageError: there is no such defect.
    """
    names: list[str] = []
    for wanted in ids:
        found = [name for defect in DEFECTS for name, _ in defect.named() if wanted in (defect.id, name)]
        if not found:
            raise UsageError(f"bench defects: no defect {wanted!r}; there are: {', '.join(PLANTS)}")
        names += [name for name in found if name not in names]
    return Plan(names or list(PLANTS), seeds, cap)


# ---------------------------------------------------------------- one hunt


async def hunt(subject: Subject, plant: Plant, seed: int, cap: int) -> Shown:
    """The first execution that shows something wrong."""
    number = 0
    async with open_runner(subject, Settings(executions=cap, seed=seed, hang_seconds=_HANG_SECONDS)) as runner:
        while number < cap:
            batch = await runner.run(number, cap, _BATCH_SECONDS)
            if batch.error is not None:
                raise batch.error
            if batch.failures:
                first = batch.failures[0]
                again = await record(runner.subject, runner.spare, Follow(first.picks))
                told = again.verdict.of(first.fingerprint) if again.verdict is not None else None
                says = told.text if told is not None else ""
                return Shown(
                    first.number + 1,
                    first.kind,
                    check_of(first.kind, says),
                    says,
                    declared=is_declared(plant, first.kind, says),
                    exhausted=False,
                )
            number = batch.stop
            if batch.exhausted:
                break
    return Shown(number, "", "", "", declared=False, exhausted=number < cap)


def check_of(kind: str, says: str) -> str:
    """Which check has found it: the kind, and an invariant by its name."""
    found = _INVARIANT.search(says)
    return f"{kind} {found[1]}" if found is not None and kind == "invariant" else kind


def is_declared(plant: Plant, kind: str, says: str) -> bool:
    """Is it found as what the defect is known by? Or by a detector, which sees causes, before anything comes of them."""
    if kind in _DETECTED:
        return bool(plant.kind)
    return kind in plant.kind.split("|") and re.search(plant.says, says) is not None


def _measure(cell: Cell, cap: int) -> Shown:
    plant = PLANTS[cell.name]
    subject = plant.twin_subject(f"{cell.name}_twin") if cell.seed == _TWIN else plant.subject(cell.name)
    shown: Shown = run_trio(hunt, subject, plant, cell.seed or 1, cap)
    return shown


# ---------------------------------------------------------------- all of them, and what is known already


def known(file: Path, what: Plan) -> dict[Cell, Shown]:
    """The cells that a log file has; a last line that was cut off is none.

    Raises:
        UsageError: it is no such file, or of another cap.
    """
    found: dict[Cell, Shown] = {}
    lines = file.read_bytes().split(b"\n")[:-1] if file.exists() else []
    for number, line in enumerate(lines, start=1):
        try:
            facts = orjson.loads(line)
            cell = Cell(str(facts["name"]), int(facts["seed"]))
            shown = Shown(*(facts[field] for field in Shown._fields))
            measured = int(facts["cap"])
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
            raise UsageError(f"{file}: line {number}: not a measured cell: {line[:60]!r}") from None
        if cell.name in PLANTS and measured != what.cap_of(cell):
            cap = what.cap_of(cell)
            raise UsageError(f"{file}: line {number}: measured with a cap of {measured}, not {cap}")
        found[cell] = shown
    return found


def run(what: Plan, file: Path, jobs: int, progress: Callable[[int, int], None]) -> dict[Cell, Shown]:
    """Measure what the log file does not have yet.

    Args:
        what: the plan.
        file: its log.
        jobs: processes.
        progress: told the number of cells done, and of all.
    """
    done = known(file, what)
    cells = list(what.cells())
    missing = [cell for cell in cells if cell not in done]
    if file.exists():
        # Whoever was killed in the middle of a line has left the beginning of it.
        os.truncate(file, file.read_bytes().rfind(b"\n") + 1)
    with file.open("ab") as log, ProcessPoolExecutor(jobs, multiprocessing.get_context("fork")) as pool:
        futures = {pool.submit(_measure, cell, what.cap_of(cell)): cell for cell in missing}
        try:
            for future in as_completed(futures):
                cell = futures[future]
                shown = done[cell] = future.result()
                log.write(orjson.dumps({**cell._asdict(), "cap": what.cap_of(cell), **shown._asdict()}) + b"\n")
                log.flush()
                progress(sum(cell in done for cell in cells), len(cells))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return {cell: done[cell] for cell in cells}


def rows(what: Plan, done: dict[Cell, Shown]) -> list[dict[str, Any]]:
    """For every planted defect: found by how many seeds, by which checks, after how many executions; and its twin."""
    table = []
    for defect in DEFECTS:
        for name, plant in defect.named():
            if name not in what.names:
                continue
            shown = [done[Cell(name, seed)] for seed in range(1, what.seeds + 1)]
            found = [one for one in shown if one.kind]
            twin = done[what.twin_of(name)]
            numbers = [one.executions for one in found]
            table.append(
                {
                    "name": name,
                    "id": defect.id,
                    "system": defect.system,
                    "window": defect.window,
                    "what": plant.what,
                    "label": plant.label.value,
                    "found": len(found),
                    "as_declared": sum(one.declared for one in found),
                    "seeds": what.seeds,
                    "checks": dict(Counter(one.check for one in found).most_common()),
                    "median": statistics.median(numbers) if numbers else None,
                    "most": max(numbers, default=None),
                    "says": found[0].says if found else "",
                    "exhausted": not found and all(one.exhausted for one in shown),
                    "twin_of": what.twin_of(name).name,
                    "twin": twin.kind or ("exhausted" if twin.exhausted else "clean"),
                    "twin_executions": twin.executions,
                    "note": plant.note,
                }
            )
    return table


def passed(row: dict[str, Any]) -> bool:
    """Is it as it should be: found by every seed, or, if nobody can notice it, by none?"""
    return bool(row["found"] == (0 if row["label"] == Label.EQUIVALENT.value else row["seeds"]))


def summary(table: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Numbers over a table: defects found by every seed, missed by any, and worlds that are not clean without one."""
    real = [row for row in table if row["label"] != Label.EQUIVALENT.value]
    return {
        "windows": len({row["id"] for row in table}),
        "defects_found": sum(passed(row) for row in real),
        "defects_missed": sum(not passed(row) for row in real),
        "equivalent": len(table) - len(real),
        "equivalent_found": sum(not passed(row) for row in table if row["label"] == Label.EQUIVALENT.value),
        "twins_unexpected": len({row["twin_of"] for row in table if row["twin"] not in ("clean", "exhausted")}),
    }
