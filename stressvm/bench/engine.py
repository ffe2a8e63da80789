"""What the engine costs: executions and visible operations a second, beside the floors that Python and Trio set.

The program is three threads of three sections under one lock (18 visible operations, some 9 switches), hunted by
random walk with default checks, everything included that a hunt does for a clean execution. Two floors are measured
in the same rounds: three bare coroutines resumed 33 times in random order, with no engine at all; and the same pool
of Trio tasks handing the baton on ten times in an execution, eight executions in one loop, with no model. Where
`detangle` (asyncio; PyPI) is installed it runs the same program, too, in 33 steps of its own.

Rounds are interleaved and the median is taken, so that ratios hold on a machine whose speed drifts.
"""

from __future__ import annotations

import importlib.util
import platform
import random
import statistics
import time
from contextlib import redirect_stdout
from io import StringIO
from typing import TYPE_CHECKING, Any, Final

import trio
from trio.lowlevel import Abort, Task, current_task, reschedule, wait_task_rescheduled

from stressvm.explore.batch import LANES
from stressvm.explore.execution import Subject
from stressvm.explore.hunt import Settings, hunt_subject
from stressvm.explore.loading import by_name
from stressvm.explore.running import run_trio
from stressvm.kernel.driver import BATON

if TYPE_CHECKING:
    from collections.abc import Callable

SCENARIO: Final = "locked_sections"
#: Sends of the bare coroutines, hand-overs of the bare tasks, each for one execution.
BARE_SENDS: Final = 33
BARE_HANDOVERS: Final = 10


def _bare(executions: int) -> float:
    """Seconds for that many executions of three bare coroutines."""
    draw = random.Random(1).random

    async def thread() -> None:
        for _ in range(BARE_SENDS // 3):
            await BATON

    started = time.perf_counter()
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
    return time.perf_counter() - started


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

    started = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for _ in range(LANES):
            nursery.start_soon(pool, max(1, executions // LANES))
    return time.perf_counter() - started


def _engine(executions: int, driver: str, strategy: str = "random") -> tuple[float, int]:
    """Seconds for that many executions in a hunt, and the visible operations of all of them."""
    scenario = by_name(SCENARIO)
    subject = Subject(scenario, scenario.resolve({}))
    settings = Settings(executions=executions, driver=driver, strategy=strategy)
    result = run_trio(hunt_subject, subject, settings)
    assert result.status == "clean", result.error
    return result.seconds, result.steps


def has_peer() -> bool:
    """Is detangle installed?"""
    return importlib.util.find_spec("detangle") is not None


def _peer(executions: int) -> float:
    """Seconds for that many executions in detangle."""
    import asyncio

    import detangle

    async def program() -> None:
        lock = asyncio.Lock()
        count = 0

        async def thread() -> None:
            nonlocal count
            # asyncio switches only where something is awaited that is not ready: these are its announcements.
            for _ in range(3):
                await asyncio.sleep(0)
                async with lock:
                    before = count
                    await asyncio.sleep(0)
                    count = before + 1

        await asyncio.gather(thread(), thread(), thread())
        assert count == 9

    started = time.perf_counter()
    with redirect_stdout(StringIO()):
        detangle.explore(program, runs=executions, strategy="random", seed=1, database=False, shrink=False)
    return time.perf_counter() - started


def run(*, quick: bool) -> dict[str, Any]:
    """Measure everything; medians over interleaved rounds.

    Returns:
        Executions a second, operations a second, and the ratios to the floors and to the peer (None without it).
    """
    rounds, size = (3, 2_000) if quick else (11, 6_000)
    times: dict[str, list[float]] = {}
    steps = 0

    def note(name: str, executions: int, seconds: float) -> None:
        times.setdefault(name, []).append(executions / seconds)

    for _ in range(rounds):
        note("floor", size, _bare(size))
        seconds, steps = _engine(size, "stepped")
        note("stepped", size, seconds)
        note("pct", size // 2, _engine(size // 2, "stepped", "pct")[0])
        note("floor-trio", size // 3, run_trio(_bare_trio, size // 3))
        note("trio", size // 3, _engine(size // 3, "trio")[0])
        if has_peer():
            note("peer", size // 12, _peer(size // 12))
    rate = {name: statistics.median(values) for name, values in times.items()}

    def ratio(above: str, below: str) -> float | None:
        if below not in times:
            return None
        return statistics.median(a / b for a, b in zip(times[above], times[below], strict=True))

    operations = steps / size
    return {
        "type": "bench",
        "what": "engine",
        "python": platform.python_version(),
        "trio": trio.__version__,
        "rounds": rounds,
        "operations_per_execution": operations,
        "executions_per_s": {name: round(value) for name, value in rate.items()},
        "operations_per_s": {name: round(rate[name] * operations) for name in ("stepped", "pct", "trio")},
        "stepped_to_floor": ratio("stepped", "floor"),
        "trio_to_floor": ratio("trio", "floor-trio"),
        "stepped_to_peer": ratio("stepped", "peer"),
        "trio_to_peer": ratio("trio", "peer"),
    }


def render(facts: dict[str, Any]) -> str:
    """The figures as a table."""
    rate = facts["executions_per_s"]
    operations = facts["operations_per_s"]
    rows = [
        ("bare coroutines, no engine", "floor", None, None),
        ("stepped, random walk", "stepped", facts["stepped_to_floor"], facts["stepped_to_peer"]),
        ("stepped, PCT", "pct", None, None),
        ("bare Trio tasks, no model", "floor-trio", None, None),
        ("trio, random walk", "trio", facts["trio_to_floor"], facts["trio_to_peer"]),
        ("detangle, random", "peer", None, None),
    ]
    lines = [
        (
            f"Three threads, three locked sections each; Python {facts['python']}, Trio {facts['trio']}, "
            f"medians of {facts['rounds']} interleaved rounds"
        ),
        f"{'':<28} {'executions/s':>13} {'operations/s':>13} {'to floor':>9} {'to detangle':>12}",
    ]
    for title, name, floor, peer in rows:
        if name not in rate:
            lines.append(f"{title:<28} {'not installed':>13}  (pip install --group bench)")
            continue
        ops = f"{operations[name]:>13,}" if name in operations else f"{'':>13}"
        lines.append(
            f"{title:<28} {rate[name]:>13,} {ops} "
            f"{f'{floor:.2f}' if floor is not None else '':>9} {f'{peer:.1f}x' if peer is not None else '':>12}".rstrip()
        )
    return "\n".join(lines)
