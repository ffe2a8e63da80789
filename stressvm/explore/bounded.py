"""Iterative bounding: all executions that cost nothing, then all that cost one, two, ...

Preemption bounding (Musuvathi and Qadeer, PLDI 2007): a switch costs one if it takes the baton from a thread that could
have gone on (and not merely by letting its timer fire). Most bugs need one preemption or two, and the number of executions
with at most c of them is polynomial in their length. The first execution found to fail has the fewest preemptions that any
needs.

Delay bounding (Emmi, Qadeer and Rakamaric, POPL 2011): threads run in order of number, round and round, each until it
blocks; passing over the next i threads in that order costs i, whether the current one could have gone on or not. Far fewer
executions for each bound, and hardly fewer bugs.

What a data choice yields and which of several due timers fires costs nothing, and all of it is tried.

Every execution is met once. It goes along a known prefix, takes one other alternative, and from there on the first at every
decision. Alternatives that cost nothing more wait on a stack; those that do are made when their bound comes, from records
of the executions that they turn off from: three bytes for each decision, and nothing for each alternative.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from stressvm.explore.tape import diverged
from stressvm.kernel.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from stressvm.kernel.kernel import Kernel


class _Run(NamedTuple):
    """An execution that others turn off from: its decisions, from `start` on all of them the first alternative."""

    indices: Sequence[int]
    arities: Sequence[int]
    charged: Sequence[int]
    start: int


class _Turn(NamedTuple):
    """An execution to come: as that one, but for this alternative at that decision, and the first ones after it."""

    run: _Run
    at: int
    alternative: int


def _packed(numbers: list[int]) -> Sequence[int]:
    return bytes(numbers) if max(numbers, default=0) < 0x100 else tuple(numbers)


class Bounding:
    """Base of both. It is a search: it takes executions 0, 1, 2, ... one after the other; 0 starts it anew.

    Attributes:
        exhausted: after `end`: there is no further execution within the bounds.
        bounds: what `exhausted` is relative to, in words; "" for nothing.
        level: what executions cost at present; all that cost less have been met.

    Args:
        limit: the greatest cost; None for no limit.
    """

    #: The word for what is counted, for one and for several.
    UNIT = ("", "")

    __slots__ = (
        "arities",
        "at",
        "beyond",
        "bounds",
        "charged",
        "cut",
        "exhausted",
        "indices",
        "level",
        "limit",
        "number",
        "stack",
        "turn",
        "turns",
        "widest",
        "within",
    )

    def __init__(self, limit: int | None = None) -> None:
        if limit is not None and limit < 0:
            raise UsageError(f"a bound of {limit} {self.UNIT[1]}: it is 0 or more")
        self.limit = limit
        self.number = -1
        self._restart()

    def _restart(self) -> None:
        self.level = 0
        self.exhausted = False
        self.bounds = ""
        #: The step budget, if it ended any execution.
        self.cut = 0
        #: The most that any alternative costs; and has any gone beyond the limit?
        self.widest = 0
        self.beyond = False
        #: Executions that cost so much, for those that cost more to turn off from.
        self.within: dict[int, list[_Run]] = {}
        self.stack: list[_Turn] = []
        self.turns: Iterator[_Turn] = iter(())
        self.turn: _Turn | None = None

    def begin(self, number: int) -> None:
        """See Strategy.

        Raises:
            UsageError: `number` is neither 0 nor the one after the last, or the search had come to its end.
        """
        if number == 0:
            self._restart()
        elif number != self.number + 1 or self.exhausted:
            last = f"{self.number}, the last" if self.exhausted else str(self.number)
            raise UsageError(f"a search was asked for execution {number} after {last}: it goes on by ones")
        self.number = number
        self.at = 0
        self.indices: list[int] = []
        self.arities: list[int] = []
        self.charged: list[int] = []

    def pick(self, k: Kernel, mask: int) -> int:
        """See Strategy."""
        candidates, charged = self.order(k, mask)
        return candidates[self._index(k, len(candidates), charged=charged)]

    def choose(self, k: Kernel, n: int) -> int:
        """See Strategy."""
        return self._index(k, n, charged=False)

    def end(self, k: Kernel) -> None:
        """See Strategy. Finds the next execution."""
        if k.fatal is not None:
            return
        turn = self.turn
        if turn is not None and self.at <= turn.at:
            k.abort(_changed(k))
            return
        if k.trouble is not None and k.trouble.kind in ("too-long", "livelock"):
            self.cut = k.max_steps
        run = _Run(
            _packed(self.indices), _packed(self.arities), bytes(self.charged), 0 if turn is None else turn.at + 1
        )
        dearest = max(
            (self.cost(run.arities[at] - 1) for at in range(run.start, len(run.arities)) if run.charged[at]), default=0
        )
        if self.limit is not None and self.level + dearest > self.limit:
            self.beyond = True
        if dearest and self.level != self.limit:
            self.within.setdefault(self.level, []).append(run)
            self.widest = max(self.widest, dearest)
        for at in range(run.start, len(run.arities)):
            if not run.charged[at]:
                self.stack.append(_Turn(run, at, 1))
        self.turn = self._next()
        self.exhausted = self.turn is None

    def order(self, k: Kernel, mask: int) -> tuple[list[int], bool]:
        """The candidates, the one that costs nothing first; do the others cost anything?"""
        raise NotImplementedError

    def cost(self, index: int) -> int:
        """What an alternative costs where any does."""
        raise NotImplementedError

    def _index(self, k: Kernel, arity: int, *, charged: bool) -> int:
        at = self.at
        self.at = at + 1
        index = 0
        turn = self.turn
        if turn is not None and at <= turn.at:
            if turn.run.arities[at] != arity or turn.run.charged[at] != charged:
                raise _changed(k)
            index = turn.run.indices[at] if at < turn.at else turn.alternative
        self.indices.append(index)
        self.arities.append(arity)
        self.charged.append(charged)
        return index

    def _next(self) -> _Turn | None:
        """The next execution of this cost, or the first of the next; None and `bounds` at the end."""
        while True:
            if self.stack:
                turn = self.stack.pop()
                if turn.alternative + 1 < turn.run.arities[turn.at]:
                    self.stack.append(turn._replace(alternative=turn.alternative + 1))
                return turn
            found = next(self.turns, None)
            if found is not None:
                return found
            level = self.level + 1
            for old in [cost for cost in self.within if cost < level - self.widest]:
                del self.within[old]
            if not self.within or self.level == self.limit:
                self._close()
                return None
            self.level = level
            self.turns = self._costing(level)

    def _costing(self, level: int) -> Iterator[_Turn]:
        """What turns off from executions already met and costs that much in all."""
        for cost in sorted(self.within, reverse=True):
            for run in self.within[cost] if cost < level else ():
                for at in range(run.start, len(run.arities)):
                    if run.charged[at]:
                        for index in range(1, run.arities[at]):
                            if cost + self.cost(index) == level:
                                yield _Turn(run, at, index)

    def _close(self) -> None:
        words = []
        if self.beyond:
            words.append(f"at most {self.limit} {self.UNIT[self.limit != 1]}")
        if self.cut:
            words.append(f"at most {self.cut} steps")
        self.bounds = ", ".join(words)


class PreemptionBounding(Bounding):
    """See the module.

    Args:
        limit: the most preemptions; None for no limit.
    """

    UNIT = ("preemption", "preemptions")

    __slots__ = ()

    def order(self, k: Kernel, mask: int) -> tuple[list[int], bool]:
        """See Bounding."""
        candidates = k.candidates(mask)
        return candidates, candidates[0] == k.cur and k.cur not in k.timers

    def cost(self, index: int) -> int:
        """See Bounding."""
        return 1 if index else 0


class DelayBounding(Bounding):
    """See the module.

    Args:
        limit: the most delays; None for no limit.
    """

    UNIT = ("delay", "delays")

    __slots__ = ()

    def order(self, k: Kernel, mask: int) -> tuple[list[int], bool]:
        """See Bounding."""
        candidates = k.candidates(mask)
        timers = k.timers
        ready = [t for t in candidates if t not in timers]
        count = len(k.threads)
        first = max(k.cur, 0)
        ready.sort(key=lambda t: (t - first) % count)
        return ready + candidates[len(ready) :], bool(ready)

    def cost(self, index: int) -> int:
        """See Bounding."""
        return index


def _changed(k: Kernel) -> Exception:
    return diverged(
        k,
        f"the scenario is not deterministic: the same decisions led elsewhere at step {len(k.trace)}. "
        "Something outside the kernel's objects decides: a global, a random number, the order of a set, the clock",
    )
