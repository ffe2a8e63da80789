"""The programs that the engine's speed is measured with: as scenarios, and as the peer writes them.

- p5: three threads of three sections under one lock, the counter a plain attribute: 18 visible operations.
- p5c: the same with the counter a cell of the kernel's, whose loads and stores are visible: 36.
- p3: a bounded buffer of capacity 1 with one mutex and one condition variable, two producers and two consumers of two items
  each, broadcasts.

The peer is detangle (PyPI), which explores interleavings of asyncio tasks. asyncio switches only where something is awaited
that is not ready, so there `sleep(0)` stands before each operation that is to be visible.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import time
from collections import deque
from contextlib import redirect_stdout
from io import StringIO
from typing import TYPE_CHECKING, Any, Final

from stressvm.explore.loading import by_name
from stressvm.explore.scenario import scenario
from stressvm.explore.subject import Subject
from stressvm.kernel.cell import Cell
from stressvm.kernel.condvar import CondVar
from stressvm.kernel.errors import UsageError
from stressvm.kernel.mutex import Mutex

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from stressvm.kernel.kernel import Kernel

PEER: Final = "detangle"
PEER_VERSION: Final = "0.1.0"

ITEMS: Final = 2


@scenario()
def counted_sections(k: Kernel) -> None:
    """Three threads of three sections under one lock; what they count in can be seen."""
    m = Mutex(k, "m")
    counter = Cell(k, 0, "counter")

    async def work() -> None:
        for _ in range(3):
            await m.lock()
            await counter.store(await counter.load() + 1)
            await m.unlock()

    for _ in range(3):
        k.spawn(work)


@scenario()
def small_buffer(k: Kernel) -> None:
    """Two producers and two consumers of two items each, room for one."""
    m = Mutex(k, "m")
    changed = CondVar(k, "changed")
    buffer: deque[int] = deque()

    async def produce() -> None:
        for item in range(ITEMS):
            await m.lock()
            while buffer:
                await changed.wait(m)
            buffer.append(item)
            await changed.broadcast()
            await m.unlock()

    async def consume() -> None:
        for _ in range(ITEMS):
            await m.lock()
            while not buffer:
                await changed.wait(m)
            buffer.popleft()
            await changed.broadcast()
            await m.unlock()

    for body in (produce, produce, consume, consume):
        k.spawn(body)


def programs(checks: tuple[str, ...]) -> dict[str, Subject]:
    """By name, what is executed, with these checks."""
    sections = by_name("locked_sections")
    return {
        "p5": Subject(sections, sections.resolve({}), checks),
        "p5c": Subject(counted_sections, {}, checks),
        "p3": Subject(small_buffer, {}, checks),
    }


# ---------------------------------------------------------------- the peer's


async def _sections(*, visible: bool) -> None:
    lock = asyncio.Lock()
    count = 0

    async def work() -> None:
        nonlocal count
        for _ in range(3):
            await asyncio.sleep(0)
            async with lock:
                if visible:
                    await asyncio.sleep(0)
                before = count
                await asyncio.sleep(0)
                count = before + 1

    await asyncio.gather(work(), work(), work())
    assert count == 9


async def _p5() -> None:
    await _sections(visible=False)


async def _p5c() -> None:
    await _sections(visible=True)


async def _p3() -> None:
    changed = asyncio.Condition()
    buffer: deque[int] = deque()

    async def produce() -> None:
        for item in range(ITEMS):
            await asyncio.sleep(0)
            async with changed:
                while buffer:
                    await changed.wait()
                buffer.append(item)
                changed.notify_all()

    async def consume() -> None:
        for _ in range(ITEMS):
            await asyncio.sleep(0)
            async with changed:
                while not buffer:
                    await changed.wait()
                buffer.popleft()
                changed.notify_all()

    await asyncio.gather(produce(), produce(), consume(), consume())
    assert not buffer


_PEERS: Final[dict[str, Callable[[], Coroutine[Any, Any, None]]]] = {"p5": _p5, "p5c": _p5c, "p3": _p3}


def check_peer(name: str) -> None:
    """Can it be measured?

    Raises:
        UsageError: no such peer is known, or it is not installed; it says what to do.
    """
    if name != PEER:
        raise UsageError(f"--peer {name}: the one that is known is {PEER}")
    if importlib.util.find_spec(PEER) is None:
        raise UsageError(f"--peer {PEER}: it is not installed; `pip install {PEER}=={PEER_VERSION}` does that")


def peer_seconds(program: str, executions: int) -> float:
    """Seconds of the processor that the peer takes for so many executions of a program, with its own random walk."""
    detangle: Any = importlib.import_module(PEER)
    started = time.process_time()
    with redirect_stdout(StringIO()):
        detangle.explore(_PEERS[program], runs=executions, strategy="random", seed=1, database=False, shrink=False)
    return time.process_time() - started
