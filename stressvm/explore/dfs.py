"""Depth-first search: every execution that there is, each once.

The decisions of an execution (which thread goes next, which timer fires, what a data choice yields) are the digits of an
odometer, each counting through its alternatives in the canonical order: "go on with the current thread" first. The next
execution repeats all digits but the last that can still advance, advances that one, and is new from there on. So the
first execution is that of the simplest schedule, and nothing but the current path is kept.

Source: Godefroid, Model checking for programming languages using VeriSoft (POPL 1997), without the reductions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm.explore.tape import diverged
from stressvm.kernel.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stressvm.kernel.kernel import Kernel


class DFS:
    """See the module. It is a search: it takes executions 0, 1, 2, ... one after the other; 0 starts it anew.

    Attributes:
        exhausted: after `end`: there is no further execution within the bounds.
        bounds: what `exhausted` is relative to, in words; "" for nothing.
        path: the decisions of the current execution.
        kept: how many of them the next execution repeats.
    """

    __slots__ = ("at", "bounds", "exhausted", "kept", "number", "path", "rest", "shapes")

    def __init__(self) -> None:
        self.number = -1
        self._restart()

    def _restart(self) -> None:
        self.path: list[int] = []
        #: What is left to try at each decision.
        self.rest: list[Iterator[int]] = []
        #: What each decision was among: the mask of candidates, or of a data choice the negated number of alternatives.
        self.shapes: list[int] = []
        self.at = 0
        self.kept = 0
        self.exhausted = False
        self.bounds = ""

    def begin(self, number: int) -> None:
        """See Strategy.

        Raises:
            UsageError: `number` is neither 0 nor the one after the last, or the search had come to its end.
        """
        if number == 0:
            self._restart()
        elif number != self.number + 1 or self.exhausted:
            last = f"{self.number}, the last" if self.exhausted else str(self.number)
            raise UsageError(f"a depth-first search was asked for execution {number} after {last}: it goes on by ones")
        self.number = number
        self.at = 0

    def pick(self, k: Kernel, mask: int) -> int:
        """See Strategy."""
        at = self.at
        self.at = at + 1
        if at >= self.kept:
            return self._first(k, mask, iter(k.candidates(mask)))
        if self.shapes[at] != mask:
            raise _changed(k)
        return self.path[at]

    def choose(self, k: Kernel, n: int) -> int:
        """See Strategy."""
        at = self.at
        self.at = at + 1
        if at >= self.kept:
            return self._first(k, -n, iter(range(n)))
        if self.shapes[at] != -n:
            raise _changed(k)
        return self.path[at]

    def _first(self, k: Kernel, shape: int, rest: Iterator[int]) -> int:  # noqa: ARG002 - for subclasses
        """A decision that was not met before: its first alternative."""
        self.shapes.append(shape)
        self.rest.append(rest)
        first = next(rest)
        self.path.append(first)
        return first

    def end(self, k: Kernel) -> None:
        """See Strategy. Moves the odometer on."""
        if self.at < self.kept and k.trouble is None:
            k.abort(_changed(k))
        if k.trouble is not None and k.trouble.kind in ("too-long", "livelock"):
            self.bounds = f"at most {k.max_steps} steps"
        path, rest, shapes = self.path, self.rest, self.shapes
        while path:
            following = next(rest[-1], None)
            if following is not None:
                path[-1] = following
                break
            path.pop()
            rest.pop()
            shapes.pop()
        self.kept = len(path)
        self.exhausted = not path


def _changed(k: Kernel) -> Exception:
    return diverged(
        k,
        f"the scenario is not deterministic: the same decisions led elsewhere at step {len(k.trace)}. "
        "Something outside the kernel's objects decides: a global, a random number, the order of a set, the clock",
    )
