"""The one small protocol that everything which makes choices implements.

An execution asks its strategy at every decision with two or more alternatives, whether it is which thread goes
next, which timer fires or what a data choice yields; so a schedule that is replayed replays all of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from stressvm.kernel.kernel import Kernel


class Strategy(Protocol):
    """Makes the choices of executions. It lives across executions, so that it may learn from a pilot.

    An execution must depend on its number alone (and on the pilot, number 0), never on which executions ran
    before: campaigns are split over processes by number.
    """

    def begin(self, number: int) -> None:
        """Execution `number` of the campaign is about to start; number 0 is the pilot."""

    def pick(self, k: Kernel, mask: int) -> int:
        """The number of the thread that goes next; `mask` has the bits of the candidates, at least two."""

    def choose(self, k: Kernel, n: int) -> int:
        """A data choice: an integer from 0 to n-1, n at least 2."""

    def end(self, k: Kernel) -> None:
        """The execution is over; `k.picks` and `k.trace` are still there to learn from."""


class Prologue:
    """Runs the threads in order of number up to their first announcement, then hands over to the real strategy.

    Nothing visible happens meanwhile, so no choice is made, and what the kernel notes of it is taken back; the
    real strategy never meets a thread whose next operation is unknown. This is why there is no test for
    "announced yet?" in the hot path.
    """

    __slots__ = ("number", "real", "slot")

    def __init__(self, real: Strategy) -> None:
        self.real = real
        self.number = 0
        self.slot = -1

    def begin(self, number: int) -> None:
        """Nothing: the real strategy has been told."""

    def pick(self, k: Kernel, mask: int) -> int:
        """The first thread that has not announced; when there is none, the real strategy's first pick."""
        if self.slot >= 0:
            self.take_back(k)
        pend = k.pend
        for number in range(self.number, len(pend)):
            if pend[number] is None:
                self.number = number + 1
                if mask & (mask - 1):
                    self.slot = len(k.picks)
                return number
        real = k.strategy = self.real
        if k.trace and any(op.obj.number >= 0 for _, op, _ in k.trace):
            return real.pick(k, mask)
        # Nothing has been done yet: no thread has the baton, so nobody can be preempted by the first choice.
        me = k.cur
        k.cur = -1
        try:
            return real.pick(k, mask)
        finally:
            k.cur = me

    def choose(self, k: Kernel, n: int) -> int:
        """Data choices are real from the start."""
        return self.real.choose(k, n)

    def end(self, k: Kernel) -> None:
        """Over before all had announced."""
        if self.slot >= 0:
            self.take_back(k)
        self.real.end(k)

    def take_back(self, k: Kernel) -> None:
        """Remove our last pick from the schedule: it was none."""
        del k.picks[self.slot]
        self.slot = -1
