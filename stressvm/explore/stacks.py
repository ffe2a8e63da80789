"""The stacks of threads at given steps of an execution: where a lock was taken, or memory was touched.

Executions keep no stacks, for that would cost more than all the rest. A check that names steps gets them from a repetition
of the execution.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

from stressvm.explore.subject import execute
from stressvm.explore.tape import Follow
from stressvm.kernel.thread import frames_of

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from stressvm.explore.subject import Subject
    from stressvm.kernel.driver import Driver
    from stressvm.kernel.kernel import Kernel
    from stressvm.kernel.op import Event
    from stressvm.kernel.thread import Frame


class Place(NamedTuple):
    """What a thread did at some point of an execution, and where in the program it was.

    Attributes:
        step: number of the step; of a use of data, of the step that it is a part of or comes before.
        touch: for a use of data, its place in `Kernel.touched`; -1 for a step.
        thread: number of the thread.
        what: what it did, such as "lock kmap" or "write kmap.entries".
        stack: outermost frame first.
    """

    step: int
    touch: int
    thread: int
    what: str
    stack: tuple[Frame, ...]


class _Steps(list["Event"]):
    """A trace that looks at who appends."""

    def __init__(self, k: Kernel, wanted: Collection[int]) -> None:
        super().__init__()
        self.k = k
        self.wanted = frozenset(wanted)
        self.places: list[Place] = []

    def append(self, event: Event) -> None:
        t, op, _ = event
        if len(self) in self.wanted and t >= 0:
            self.places.append(Place(len(self), -1, t, repr(op), _stack(self.k, t)))
        super().append(event)


class _Touches(list[tuple[int, int, int, bool]]):
    """The same of uses of data."""

    def __init__(self, k: Kernel, wanted: Collection[int]) -> None:
        super().__init__()
        self.k = k
        self.wanted = frozenset(wanted)
        self.places: list[Place] = []

    def append(self, touch: tuple[int, int, int, bool]) -> None:
        if len(self) in self.wanted:
            step, t, number, write = touch
            objects = self.k.objects
            name = objects[number].ident.name if 0 <= number < len(objects) else f"number {number}"
            what = f"{'write' if write else 'read'} {name}"
            self.places.append(Place(step, len(self), t, what, _stack(self.k, t)))
        super().append(touch)


def _stack(k: Kernel, t: int) -> tuple[Frame, ...]:
    """The stack of the thread that is running."""
    outermost = k.threads[t].coro.cr_frame
    # Two up: whoever appends.
    frame = sys._getframe(2)  # noqa: SLF001 - there is no other way to a running coroutine's frames
    chain: TracebackType | None = None
    while frame is not None:
        chain = TracebackType(chain, frame, frame.f_lasti, frame.f_lineno)
        if frame is outermost:
            break
        frame = frame.f_back  # type: ignore[assignment]  # None ends it
    return frames_of(chain)


async def places_at(
    subject: Subject, driver: Driver, picks: Sequence[int], steps: Collection[int], touches: Collection[int] = ()
) -> tuple[Place, ...]:
    """Where threads were when they made these steps and used these data, in order.

    Args:
        subject: what was executed.
        driver: one that nothing runs on at present.
        picks: the raw decisions of the execution (`Kernel.picks`).
        steps: numbers of steps; those that the execution does not come to are left out.
        touches: places in `Kernel.touched`; the same.

    Raises:
        ReplayDiverged: the scenario is not deterministic.
    """
    build = subject.scenario.build
    spies: list[_Steps | _Touches] = []

    def spied(kernel: Kernel, /, **params: Any) -> None:
        kernel.trace = done = _Steps(kernel, steps)
        kernel.touched = used = _Touches(kernel, touches)
        spies.extend((done, used))
        build(kernel, **params)

    try:
        await execute(
            replace(subject, scenario=replace(subject.scenario, build=spied), checks=()), driver, Follow(picks)
        )
    finally:
        driver.unwind()
    return tuple(sorted(place for spy in spies for place in spy.places))


async def stacks_at(
    subject: Subject, driver: Driver, picks: Sequence[int], steps: Collection[int]
) -> dict[int, tuple[Frame, ...]]:
    """The stack of the thread that makes each of these steps, outermost frame first; see `places_at`."""
    return {place.step: place.stack for place in await places_at(subject, driver, picks, steps)}
