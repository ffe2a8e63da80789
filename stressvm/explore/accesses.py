"""What steps may access, whatever the order: all that they have ever been seen to.

Code looks at a cell only if a flag is set, and writes to a page only if there was no fault. So a step accesses one thing
here and another there, and a search that knows only what it did here may take two orders to be equivalent that are not.
What a step accesses beyond its operations is therefore remembered, by which step of which thread it is and what the thread
had announced. Wherever the step is met again it counts as accessing all of that. So dependency is the same in all orders,
and never less than it is.

It may be more. Then two executions of one class are two for the search, and both are run.

When a step turns out to access more than was known, executions have been analysed with less. The search goes on with what
is known now. At its end it begins anew with all that has been learnt, until it has gone through everything and learnt
nothing. That suffices: take the first step, in an execution that was not run, that would access more than is known. Up to
there dependency was right, so the same step after the same steps has been run in another execution, and would have shown it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm.explore.dependency import set_footprint
from stressvm.kernel.op import bits

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stressvm.explore.dependency import Step
    from stressvm.kernel.kernel import Kernel
    from stressvm.kernel.op import Op

#: A step, wherever it is met: the thread, which of the thread's steps it is, the kind and the object of what was announced.
Which = tuple[int, int, str, int]


class Accesses:
    """See the module.

    Attributes:
        grown: a step has accessed more than was known, since the search began (anew).
        vary: a step does not access the same in all orders, so that classes may have been executed more than once.
    """

    __slots__ = ("grown", "known", "vary")

    def __init__(self) -> None:
        self.known: dict[Which, frozenset[tuple[int, bool]]] = {}
        self.grown = False
        self.vary = False

    def widen(self, steps: Sequence[Step], k: Kernel) -> None:
        """Let the last of the steps, which has come to its end, access all that it is known to."""
        step = steps[-1]
        own = frozenset((number, write) for _, _, number, write in k.touched[step.mark :])
        step.nth = _nth(steps, len(steps) - 1, step.thread)
        which = (step.thread, step.nth, step.op.kind, step.op.obj.number)
        known = self.known.get(which)
        if known is None:
            self.known[which] = own
        elif own != known:
            self.vary = True
            if not own <= known:
                self.grown = True
                known = self.known[which] = known | own
            if own != known:
                set_footprint(step, (*step.footprint, *sorted(known.difference(step.footprint))))

    def foreseen(self, steps: Sequence[Step], index: int, t: int, op: Op) -> tuple[int, int]:
        """What a thread that has announced an operation would access instead of a step, as masks: touched, and written."""
        touches, writes = op.touches, op.writes
        if self.known:
            for number, write in self.known.get((t, _nth(steps, index, t), op.kind, op.obj.number), ()):
                touches |= bits(number)
                if write:
                    writes |= bits(number)
        return touches, writes


def _nth(steps: Sequence[Step], index: int, t: int) -> int:
    """Which of a thread's steps the one at an index is, or would be."""
    n = 1
    for at in range(index - 1, 0, -1):
        other = steps[at]
        if other.thread == t:
            if other.nth:
                return n + other.nth
            n += 1
    return n
