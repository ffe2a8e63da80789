"""Depth-first search over states: an execution that comes to a state that was met before goes no further.

Whatever can follow a state has followed it when it was met first, or will when the search comes back there. So all final
states are found, and a program whose schedules may go round in circles for ever is searched to its end: a circle leads to
a state on the current path. What counts as a state is for whoever knows the program to say (see state_key.py); a state
that leaves out something that matters makes the search blind, one that has too much in it makes it long.

A decision about data is made within a step, where the threads' places cannot be seen, so states are matched where a
thread is chosen.

Source: Holzmann, Godefroid and Pirottin, Coverage preserving reduction strategies for reachability analysis (PSTV 1992),
section 2, without the reductions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm.explore.dfs import DFS

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator

    from stressvm.kernel.kernel import Kernel


class StateMatching(DFS):
    """See the module. A search; an execution that was cut off where a known state was met has no verdict.

    Args:
        key: names the state that a kernel's execution is in: the same name for the same future.

    Attributes:
        pruned: the last execution was cut off; what it came to means nothing.
        circles: executions that came to a state on their own path: schedules without an end.
        states: how many different ones were met.
    """

    __slots__ = ("circles", "key", "keys", "pruned", "seen")

    def __init__(self, key: Callable[[Kernel], Hashable]) -> None:
        self.key = key
        super().__init__()

    def _restart(self) -> None:
        super()._restart()
        self.seen: set[Hashable] = set()
        #: The states at the decisions of the path; None for a decision about data.
        self.keys: list[Hashable] = []
        self.pruned = False
        self.circles = 0

    @property
    def states(self) -> int:
        """How many different ones were met."""
        return len(self.seen)

    def begin(self, number: int) -> None:
        """See Strategy."""
        super().begin(number)
        self.pruned = False

    def _first(self, k: Kernel, shape: int, rest: Iterator[int]) -> int:
        if self.pruned:
            # The thread that has been chosen goes as far as its next operation; nothing depends on what it meets.
            return next(rest)
        key = self.key(k) if shape > 0 else None
        if key in self.seen:
            self.pruned = True
            self.circles += key in self.keys
            k.abandon()
            return next(rest)
        if key is not None:
            self.seen.add(key)
        self.keys.append(key)
        return super()._first(k, shape, rest)

    def end(self, k: Kernel) -> None:
        """See Strategy."""
        super().end(k)
        del self.keys[self.kept :]
