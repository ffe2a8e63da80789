"""Running a study: every point, every replication, in as many processes as wanted, into a file that can be gone on with.

The file has a line that says what the study is, and one for each replication of a point, in order: all points of the first
replication, then all of the second. It is the same whatever the number of processes. What was cut off is run again.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import orjson

from stressvm.kernel.errors import StressvmError, UsageError
from stressvm.study.machine_kernel import where
from stressvm.study.sample import Sample
from stressvm.study.study import seed_of, written

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future
    from pathlib import Path

    from stressvm.study.study import Study

#: Of the file's first line; another one is not read.
_FORMAT: Final = 1
#: Simulations under way or waiting, for each process.
_AHEAD: Final = 4
#: Seconds between two looks whether the parent is still there.
_LOOK_SECONDS: Final = 0.5


@dataclass(frozen=True, slots=True)
class Plan:
    """What is run.

    Attributes:
        study: as it is run: the quick one, if that is wanted.
        seed: of the whole study.
        replications: of each point.
    """

    study: Study
    seed: int
    replications: int

    def cells(self) -> list[tuple[int, int]]:
        """(replication, number of the point) in the order of the file."""
        return [(r, p) for r in range(self.replications) for p in range(len(self.study.points()))]

    def facts(self) -> dict[str, Any]:
        """The file's first line."""
        return {
            "type": "study",
            "format": _FORMAT,
            "name": self.study.name,
            "factors": {name: list(levels) for name, levels in self.study.factors.items()},
            "seed": self.seed,
            "replications": self.replications,
        }


def run(plan: Plan, file: Path, jobs: int, progress: Callable[[int, int], None]) -> list[list[Sample]]:
    """Run what the file does not have yet.

    Args:
        plan: what.
        file: is made, or gone on with.
        jobs: processes.
        progress: is told how many replications of points are done, of how many.

    Returns:
        For each point its samples by replication.

    Raises:
        UsageError: the file is another study's, is damaged or cannot be written; a simulation raised.
    """
    cells = plan.cells()
    samples = _stored(plan, file, cells)
    progress(len(samples), len(cells))
    try:
        with file.open("ab") as out:
            if not out.tell():
                out.write(orjson.dumps(plan.facts()) + b"\n")
            for sample in _simulated(plan, cells[len(samples) :], jobs):
                replication, number = cells[len(samples)]
                facts = {"type": "sample", "point": plan.study.points()[number], "replication": replication}
                out.write(orjson.dumps({**facts, **sample.facts()}) + b"\n")
                out.flush()
                samples.append(sample)
                progress(len(samples), len(cells))
    except OSError as exc:
        raise UsageError(
            f"{file}: cannot be written: {exc.strerror or exc}; choose another place with --logs"
        ) from None
    points = len(plan.study.points())
    return [samples[number::points] for number in range(points)]


def _simulated(plan: Plan, cells: list[tuple[int, int]], jobs: int) -> Iterator[Sample]:
    if jobs == 1 or len(cells) < 2:
        for cell in cells:
            yield _of(_simulate(plan, cell))
        return
    # Forked, so that a user's study needs not be sent. Results are taken in order; a few more are under way.
    context = multiprocessing.get_context("fork")
    ahead: deque[Future[Sample | str]] = deque()
    with ProcessPoolExecutor(min(jobs, len(cells)), context, _begin, (plan, os.getpid())) as pool:
        try:
            for cell in cells:
                ahead.append(pool.submit(_in_worker, cell))
                if len(ahead) > _AHEAD * jobs:
                    yield _of(ahead.popleft().result())
            while ahead:
                yield _of(ahead.popleft().result())
        except BrokenProcessPool:
            raise UsageError("a process of the study ended before its time; go on with --resume") from None
        except BaseException:
            # Nobody waits for simulations that nobody will read.
            for process in multiprocessing.active_children():
                process.kill()
            raise


_plan: Plan


def _begin(plan: Plan, parent: int) -> None:
    global _plan  # noqa: PLW0603 - what a worker process is for
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    _plan = plan


def _end_with(parent: int) -> None:
    """End this process when the one that began it has been killed: nobody would close the queue that it waits at."""
    while os.getppid() == parent:
        time.sleep(_LOOK_SECONDS)
    os._exit(0)


def _in_worker(cell: tuple[int, int]) -> Sample | str:
    return _simulate(_plan, cell)


def _simulate(plan: Plan, cell: tuple[int, int]) -> Sample | str:
    """A sample, or what was wrong: errors do not all survive the way between processes."""
    replication, number = cell
    point = plan.study.points()[number]
    try:
        return plan.study.sample(point, seed_of(plan.seed, replication))
    except StressvmError as exc:
        text = str(exc)
    except Exception as exc:  # noqa: BLE001 - a user's simulation may raise anything
        text = f"simulate raised {type(exc).__name__}: {exc}{where(exc)}"
    return f"study {plan.study.name}, point {written(point)}, replication {replication}: {text}"


def _of(answer: Sample | str) -> Sample:
    if isinstance(answer, str):
        raise UsageError(answer)
    return answer


def _stored(plan: Plan, file: Path, cells: list[tuple[int, int]]) -> list[Sample]:
    """What the file has, in order; a last line that was cut off is taken away."""
    if not file.exists():
        return []
    content = file.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        with file.open("r+b") as out:
            out.truncate(whole)
    lines = content[:whole].splitlines()
    if not lines:
        return []
    points = plan.study.points()
    try:
        first = orjson.loads(lines[0])
    except ValueError:
        raise UsageError(f"{file}: line 1 is damaged; begin the study anew, without --resume") from None
    if first != orjson.loads(orjson.dumps(plan.facts())):
        raise UsageError(
            f"{file}: holds another study, or other factors, seed or replications: {first}; say the same as then, or begin anew"
        )
    samples = []
    for line, text in enumerate(lines[1:], 2):
        try:
            facts = orjson.loads(text)
            replication, number = cells[line - 2]
            known = (facts["replication"], facts["point"]) == (replication, points[number])
            samples.append(Sample.of(facts))
        except (ValueError, KeyError, TypeError, IndexError):
            known = False
        if not known:
            raise UsageError(f"{file}: line {line} is damaged; cut the file before it, or begin anew")
    return samples
