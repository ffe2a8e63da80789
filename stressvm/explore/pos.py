"""POS: partial order sampling (Yuan, Yang and Gu, CAV 2018).

Every pending event has a priority of its own, drawn when it is announced, and the candidate with the highest one runs.
The priorities of its own next event and of all enabled events that race with it (an object in common, at least one of the
two writing) are then drawn anew; all others keep theirs. What runs next is so decided among racing events only, and
afresh for every race: no bias against long chains of events as with thread priorities, and no parameter to choose.

Events that certainly race with nothing (the start of a thread, the end of one joined) run first. A yield is no such event:
it says that the thread waits for somebody, nobody knows whom. Running one draws everything anew, so a loop that yields
meets each of the others soon.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, ClassVar, Final

from stressvm.explore.sampler import Sampler, conflict, gives_way
from stressvm.kernel.kernel import MEMBERS, members

if TYPE_CHECKING:
    from stressvm.kernel.kernel import Kernel
    from stressvm.kernel.op import Op

#: Added to the priority of what races with nothing.
_FIRST: Final = 0x10000
_LOCAL: Final = frozenset({"start", "join"})


class _Row(dict["Op", bool]):
    """Which pending operations are to be drawn anew once `op` has been done."""

    __slots__ = ("op",)

    def __init__(self, op: Op) -> None:
        super().__init__()
        self.op = op

    def __missing__(self, other: Op) -> bool:
        if len(self) >= Races.REMEMBERED:
            self.clear()
        self[other] = found = gives_way(self.op) or conflict(self.op, other)
        return found


class Races(dict["Op", _Row]):
    """`Races()[op][other]`: does `other`, pending, lose its priority when `op` is done?"""

    #: Operations remembered, of each kind; kernels make new ones where the objects of executions differ.
    REMEMBERED: ClassVar[int] = 1 << 10

    def __missing__(self, op: Op) -> _Row:
        if len(self) >= self.REMEMBERED:
            self.clear()
        self[op] = row = _Row(op)
        return row


class POS(Sampler):
    """See the module.

    Attributes:
        priorities: of the pending event of each thread, from 0; -1 for one to be drawn.

    Args:
        seed: of the campaign.
    """

    PURPOSE = "pos:"

    __slots__ = ("fair_after", "last", "priorities", "races", "seen")

    def __init__(self, seed: int) -> None:
        self.races = Races()
        super().__init__(seed)

    def begin(self, number: int) -> None:
        """See Strategy."""
        super().begin(number)
        self.priorities: list[int] = []
        self.fair_after = sys.maxsize
        #: The thread chosen last, and how long the trace was then.
        self.last = -1
        self.seen = 0

    def pick(self, k: Kernel, mask: int) -> int:
        """See Strategy."""
        priorities = self.priorities
        pend: list[Any] = k.pend
        if len(priorities) != len(pend):
            self._arrivals(k)
        trace = k.trace
        seen = self.seen
        steps = self.seen = len(trace)
        if steps - seen > 1:
            if steps > self.fair_after:
                return self.walk(mask)
            # Who went on without being chosen, for want of others, has announced something new since.
            last = self.last
            for event in trace[seen:]:
                if event[0] != last:
                    priorities[event[0]] = -1
        try:
            among = MEMBERS[mask]
        except KeyError:
            among = members(mask)
        best = chosen = -1
        for t in among:
            priority = priorities[t]
            if priority < 0:
                at = self.at
                self.at = at + 1
                try:
                    priority = self.table[at]
                except IndexError:
                    priority = self.draw(at)
                if not pend[t].accesses and pend[t].kind in _LOCAL:
                    priority += _FIRST
                priorities[t] = priority
            if priority > best:
                best = priority
                chosen = t
        op = pend[chosen]
        row = self.races[op]
        for t in among:
            if row[pend[t]]:
                priorities[t] = -1
        priorities[chosen] = -1
        self.last = chosen
        if best >= _FIRST and op.kind not in _LOCAL:
            # The priority was given to a start that nobody competed with.
            return self.pick(k, mask)
        return chosen

    def _arrivals(self, k: Kernel) -> None:
        """Threads not seen before."""
        self.fair_after = k.max_steps // 2
        self.priorities.extend([-1] * (len(k.pend) - len(self.priorities)))
