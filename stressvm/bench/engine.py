"""What the engine costs: executions a second of small programs, beside the floors that Python and Trio set.

Three programs (engine_programs.py), both drivers, a random walk, and each at three levels: with end checks only (who is
stuck, what was left behind); as a hunt that counts classes of executions and looks for data races; as a hunt with all that
it looks for by default. Hunts are whole: everything that one does for a clean execution is included.

Two floors are measured for p5: three bare coroutines resumed 33 times in random order, with no engine at all; and the same
pool of Trio tasks handing the baton on ten times in an execution, eight executions in one loop, with no model. A peer that
is asked for runs the same programs.

All are measured in turn, round after round, in one process. Ratios are taken within a round, and their medians told; so
they hold on a machine whose speed drifts. Times are the processor's.
"""

from __future__ import annotations

import platform
import random
import statistics
import time
from typing import TYPE_CHECKING, Any, Final

import trio
from trio.lowlevel import Abort, Task, current_task, reschedule, wait_task_rescheduled

from stressvm.bench.engine_programs import PEER, PEER_VERSION, check_peer, peer_seconds, programs
from stressvm.explore.batch import LANES
from stressvm.explore.execution import Subject, execute
from stressvm.explore.hunt import Settings, hunt_subject
from stressvm.explore.random_walk import RandomWalk
from stressvm.explore.running import run_trio
from stressvm.explore.settings import DRIVERS
from stressvm.kernel.driver import BATON
from stressvm.kernel.looped import looped
from stressvm.kernel.stepped import stepped

if TYPE_CHECKING:
    from collections.abc import Callable

#: Sends of the bare coroutines, hand-overs of the bare tasks, each for one execution of p5.
BARE_SENDS: Final = 33
BARE_HANDOVERS: Final = 10

#: What is looked for: nothing beside the end, classes and races, all that is the default.
LEVELS: Final = {"end": ("none",), "races": ("data-race",), "default": ("default",)}

#: Rounds, and executions of the quickest in one; the others do a part of them.
FULL: Final = (11, 6_000)
QUICK: Final = (3, 600)

#: How much slower they are, about.
PARTS: Final = {"stepped": 1, "trio": 3, "floor-trio": 3, "peer": 12}


def _bare(executions: int) -> float:
    """Seconds for that many executions of three bare coroutines."""
    draw = random.Random(1).random

    async def thread() -> None:
        for _ in range(BARE_SENDS // 3):
            await BATON

    started = time.process_time()
    for _ in range(executions):
        coroutines = [thread(), thread(), thread()]
        sends: list[Callable[[None], Any]] = [coroutine.send for coroutine in coroutines]
        alive = [0, 1, 2]
        while alive:
            index = int(draw() * len(alive))
            try:
                sends[alive[index]](None)
            except StopIteration:
                del alive[index]
    return time.process_time() - started


async def _bare_trio(executions: int) -> float:
    """Seconds for that many executions' worth of hand-overs in pools of parked tasks."""

    def give_way(_: Any) -> Abort:
        return Abort.SUCCEEDED

    async def pool(rounds: int) -> None:
        tasks: list[Task] = [current_task()]
        left = rounds * BARE_HANDOVERS

        async def member(number: int, *, task_status: trio.TaskStatus[Task]) -> None:
            nonlocal left
            task_status.started(current_task())
            while True:
                await wait_task_rescheduled(give_way)
                left -= 1
                reschedule(tasks[(number + 1) % 3] if left else tasks[-1])

        async with trio.open_nursery() as nursery:
            for number in range(3):
                tasks.insert(-1, await nursery.start(member, number))
            reschedule(tasks[0])
            await wait_task_rescheduled(give_way)
            nursery.cancel_scope.cancel()

    started = time.process_time()
    async with trio.open_nursery() as nursery:
        for _ in range(LANES):
            nursery.start_soon(pool, max(1, executions // LANES))
    return time.process_time() - started


async def _end_checks(subject: Subject, driver: str, executions: int) -> tuple[float, int]:
    """Seconds, and visible operations, of that many executions whose end is looked at and nothing else."""
    numbers = iter(range(executions))
    steps = 0

    async def lane(make: Any) -> None:
        nonlocal steps
        strategy = RandomWalk(1)
        async with make(subject.kernel()) as lane_driver:
            for number in numbers:
                verdict = await execute(subject, lane_driver, strategy, number)
                assert verdict is None, verdict
                steps += len(lane_driver.k.trace)

    started = time.process_time()
    async with trio.open_nursery() as nursery:
        for _ in range(1 if driver == "stepped" else LANES):
            nursery.start_soon(lane, stepped if driver == "stepped" else looped)
    return time.process_time() - started, steps


def _hunt(subject: Subject, driver: str, executions: int) -> float:
    """Seconds for a hunt of that many executions."""
    settings = Settings(executions=executions, driver=driver, strategy="random", checks=subject.checks)
    started = time.process_time()
    result = run_trio(hunt_subject, subject, settings)
    assert result.status == "clean", (subject.scenario.name, result.status, result.error)
    return time.process_time() - started


def _round(size: int, peer: str, note: Callable[[str, float], None], steps: dict[str, float]) -> None:
    """Measure each once; rates go to `note`, operations of an execution to `steps`."""
    note("floor", size / _bare(size))
    part = size // PARTS["floor-trio"]
    note("floor-trio", part / run_trio(_bare_trio, part))
    for level, checks in LEVELS.items():
        for program, subject in programs(checks).items():
            for driver in DRIVERS:
                part = size // PARTS[driver]
                if level == "end":
                    seconds, done = run_trio(_end_checks, subject, driver, part)
                    steps[program] = done / part
                else:
                    seconds = _hunt(subject, driver, part)
                note(f"{program} {driver} {level}", part / seconds)
    if peer:
        for program in programs(()):
            part = size // PARTS["peer"]
            note(f"{program} peer", part / peer_seconds(program, part))


def run(*, quick: bool, peer: str = "") -> dict[str, Any]:
    """Measure everything; medians over interleaved rounds.

    Args:
        quick: fewer rounds of fewer executions.
        peer: what else is to run the programs; "" for nothing.

    Returns:
        Executions a second, and for each way to run a program the ratios to the floor, to end checks only, to the peer with
        the same program and with p5 (None where there is nothing to compare with).

    Raises:
        UsageError: there is no such peer, or it is not installed.
    """
    if peer:
        check_peer(peer)
    rounds, size = QUICK if quick else FULL
    rates: dict[str, list[float]] = {}
    steps: dict[str, float] = {}

    def note(name: str, rate: float) -> None:
        rates.setdefault(name, []).append(rate)

    for _ in range(rounds):
        _round(size, peer, note, steps)

    def ratio(above: str, below: str) -> float | None:
        if below not in rates:
            return None
        return round(statistics.median(a / b for a, b in zip(rates[above], rates[below], strict=True)), 2)

    rows = [
        {
            "program": program,
            "driver": driver,
            "checks": level,
            "executions_per_s": round(statistics.median(rates[f"{program} {driver} {level}"])),
            "time_to_end_checks": ratio(f"{program} {driver} end", f"{program} {driver} {level}"),
            "to_floor": ratio(f"{program} {driver} {level}", "floor" if driver == "stepped" else "floor-trio")
            if program == "p5"
            else None,
            "to_peer": ratio(f"{program} {driver} {level}", f"{program} peer"),
            "to_peer_p5": ratio(f"{program} {driver} {level}", "p5 peer"),
        }
        for program in steps
        for driver in DRIVERS
        for level in LEVELS
    ]
    return {
        "type": "bench",
        "what": "engine",
        "python": platform.python_version(),
        "trio": trio.__version__,
        "peer": f"{PEER} {PEER_VERSION}" if peer else None,
        "rounds": rounds,
        "operations_per_execution": {program: round(count, 1) for program, count in steps.items()},
        "others_per_s": {
            name: round(statistics.median(found)) for name, found in rates.items() if "floor" in name or "peer" in name
        },
        "rows": rows,
    }


_SAID: Final = {"end": "end checks only", "races": "classes and races", "default": "all default checks"}


def render(facts: dict[str, Any]) -> str:
    """The figures as a table."""
    operations = ", ".join(f"{name} {count}" for name, count in facts["operations_per_execution"].items())
    others = ", ".join(f"{name} {rate:,}" for name, rate in facts["others_per_s"].items())
    lines = [
        f"Python {facts['python']}, Trio {facts['trio']}, medians of {facts['rounds']} interleaved rounds",
        f"visible operations of an execution: {operations}",
        f"executions/s of the floors{' and of ' + facts['peer'] if facts['peer'] else ''}: {others}",
        f"{'':<34} {'executions/s':>13} {'time to end':>12} {'to floor':>9} {'to peer':>8} {'to its p5':>10}",
    ]
    for row in facts["rows"]:
        title = f"{row['program']:<4} {row['driver']:<8} {_SAID[row['checks']]}"
        figures = (
            f"{row['executions_per_s']:>13,} {row['time_to_end_checks']:>11.2f}x "
            f"{_ratio(row['to_floor']):>9} {_ratio(row['to_peer']):>8} {_ratio(row['to_peer_p5']):>10}"
        )
        lines.append(f"{title:<34} {figures}".rstrip())
    return "\n".join(lines)


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}x"
