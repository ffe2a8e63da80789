"""What samplers have in common: draws that depend on (seed, execution number) alone, data choices, a random walk to learn from.

A sampler never looks at what executions before this one did, apart from the pilot (number 0): so execution i is the same
in any process. Strategies by priority are not fair by themselves, so that a program which spins could look like a livelock
that is the strategy's fault: from half of the step budget on, a sampler walks at random.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from stressvm.explore.draws import Draws
from stressvm.kernel.kernel import MEMBERS, members

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stressvm.kernel.kernel import Kernel
    from stressvm.kernel.op import Op


class Sampler:
    """Base of samplers: see the module.

    Attributes:
        number: of the execution under way.
        table: its 16-bit draws; `at` is the next one. Hot paths index it and call `draw` on IndexError.

    Args:
        seed: of the campaign.
    """

    #: Keeps the draws of one sampler apart from those of another with the same seed.
    PURPOSE: ClassVar[str] = ""

    __slots__ = ("at", "draws", "number", "table")

    def __init__(self, seed: int) -> None:
        self.draws = Draws(seed, self.PURPOSE)
        self.table: Sequence[int] = self.draws.table
        self.at = 0
        self.number = 0
        self.begin(0)

    def begin(self, number: int) -> None:
        """See Strategy."""
        self.draws.begin(number)
        self.table = self.draws.table
        self.at = 0
        self.number = number

    def pick(self, k: Kernel, mask: int) -> int:
        """See Strategy."""
        raise NotImplementedError

    def choose(self, k: Kernel, n: int) -> int:  # noqa: ARG002 - see Strategy
        """See Strategy. Uniform."""
        return self.below(n)

    def end(self, k: Kernel) -> None:
        """See Strategy."""

    def walk(self, mask: int) -> int:
        """One candidate, each with the same probability."""
        try:
            among = MEMBERS[mask]
        except KeyError:
            among = members(mask)
        at = self.at
        self.at = at + 1
        return among[self.draw(at) * len(among) >> 16]

    def below(self, n: int) -> int:
        """An integer from 0 to n-1; beyond 4096 from two draws, so that the bias stays below a sixteenth per cent."""
        at = self.at
        if n > 0x1000:
            self.at = at + 2
            return (self.draw(at) << 16 | self.draw(at + 1)) * n >> 32
        self.at = at + 1
        return self.draw(at) * n >> 16

    def draw(self, at: int) -> int:
        """Draw number `at` of this execution, from 0 to 65535."""
        while at >= len(self.table):
            self.draws.more()
            self.table = self.draws.table
        return self.table[at]


def accesses(op: Op) -> dict[int, bool]:
    """What an operation touches: object number, and whether it may write there. Empty for one on nothing."""
    touched: dict[int, bool] = {}
    for number, write in op.accesses:
        if number >= 0:
            touched[number] = touched.get(number, False) or write
    return touched


def conflict(one: Op, other: Op) -> bool:
    """Do two operations touch the same object, at least one of them writing?"""
    touched = accesses(one)
    return any(number in touched and (write or touched[number]) for number, write in accesses(other).items())


#: What a trace notes besides visible operations: it belongs to the step before it.
_NOTES = frozenset({"call", "choose", "record", "return", "spawn", "write"})


def is_step(op: Op) -> bool:
    """Is an event of the trace a visible operation of its own?"""
    return op.kind not in _NOTES and (op.kind != "signal" or op.obj.number >= 0)


def gives_way(op: Op) -> bool:
    """Is it an operation by which a thread says that it waits for others, without sleeping?"""
    return op.kind == "yield" and op.obj.number < 0


class Steps(dict["Op", bool]):
    """`is_step`, remembered."""

    #: Operations remembered; kernels make new ones where the objects of executions differ.
    REMEMBERED: ClassVar[int] = 1 << 14

    def __missing__(self, op: Op) -> bool:
        if len(self) >= self.REMEMBERED:
            self.clear()
        self[op] = found = is_step(op)
        return found
