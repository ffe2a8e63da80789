"""The stacks of threads at given steps of an execution: where a lock was taken, or memory was touched.

Executions keep no stacks, for that would cost more than all the rest. A check that names steps gets them from a repetition
of the execution.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any

from stressvm.explore.execution import Subject, execute
from stressvm.explore.tape import Follow
from stressvm.kernel.thread import frames_of

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from stressvm.kernel.driver import Driver
    from stressvm.kernel.kernel import Kernel
    from stressvm.kernel.op import Event
    from stressvm.kernel.thread import Frame


class _Spying(list["Event"]):
    """A trace that looks at who appends."""

    def __init__(self, k: Kernel, steps: Collection[int]) -> None:
        super().__init__()
        self.k = k
        self.steps = frozenset(steps)
        self.stacks: dict[int, tuple[Frame, ...]] = {}

    def append(self, event: Event) -> None:
        if len(self) in self.steps and event[0] >= 0:
            outermost = self.k.threads[event[0]].coro.cr_frame
            frame = sys._getframe(1)  # noqa: SLF001 - there is no other way to a running coroutine's frames
            chain: TracebackType | None = None
            while frame is not None:
                chain = TracebackType(chain, frame, frame.f_lasti, frame.f_lineno)
                if frame is outermost:
                    break
                frame = frame.f_back  # type: ignore[assignment]  # None ends it
            self.stacks[len(self)] = frames_of(chain)
        super().append(event)


async def stacks_at(
    subject: Subject, driver: Driver, picks: Sequence[int], steps: Collection[int]
) -> dict[int, tuple[Frame, ...]]:
    """The stack of the thread that makes each of these steps, outermost frame first.

    Args:
        subject: what was executed.
        driver: one that nothing runs on at present.
        picks: the raw decisions of the execution (`Kernel.picks`).
        steps: numbers of steps; those that the execution does not come to are left out.

    Raises:
        ReplayDiverged: the scenario is not deterministic.
    """
    build = subject.scenario.build
    spies: list[_Spying] = []

    def spied(kernel: Kernel, /, **params: Any) -> None:
        spies.append(_Spying(kernel, steps))
        kernel.trace = spies[0]
        build(kernel, **params)

    try:
        await execute(Subject(replace(subject.scenario, build=spied), subject.params), driver, Follow(picks))
    finally:
        driver.unwind()
    return spies[0].stacks
