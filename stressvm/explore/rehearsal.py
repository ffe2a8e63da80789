"""An execution for a search to begin with, instead of the one that it would come to by itself.

A portfolio's pilot is an execution like others. A search that repeats it first has nothing to do for the second time: what
it does next already reverses one of the pilot's races.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm.explore.sampler import is_step

if TYPE_CHECKING:
    from stressvm.kernel.kernel import Kernel


class Rehearsal:
    """In which order threads do their visible operations. It is a preference: where it cannot be kept, it is not.

    Args:
        k: has just been through the execution.
    """

    __slots__ = ("done", "order", "seen", "spawns")

    def __init__(self, k: Kernel) -> None:
        self.order = [t for t, op, _ in k.trace if t >= 0 and is_step(op)]
        #: Threads spawned threads. A search begins new threads at once, which is another order, with other numbers.
        self.spawns = any(t >= 0 and op.kind == "spawn" for t, op, _ in k.trace)
        self.begin()

    def begin(self) -> None:
        """From the start."""
        #: How much of the trace has been looked at, and how many visible operations there were.
        self.seen = self.done = 0

    def next(self, k: Kernel, mask: int, otherwise: int) -> int:
        """Whose turn it is.

        Args:
            k: the execution under way.
            mask: the candidates' bits.
            otherwise: the answer where none of them is to go on.
        """
        trace = k.trace
        for t, op, _ in trace[self.seen :]:
            self.done += t >= 0 and is_step(op)
        self.seen = len(trace)
        if self.done < len(self.order) and mask >> self.order[self.done] & 1:
            return self.order[self.done]
        return otherwise
