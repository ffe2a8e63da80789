"""Optimal partial order reduction piece by piece: in the same order, whoever explores the pieces.

A piece (`subtree.py`) is explored for so many executions; if it has not come to its end then, it falls into further
pieces where it can, the one under way first. Where it is cut depends on nothing but the piece. So a search through all pieces in
order, in one process, does the same executions as workers that are lent pieces, and each has the same number.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final, NamedTuple

from stressvm.explore.dpor import DPOR
from stressvm.explore.stepwise import provided
from stressvm.explore.subtree import Node, Subtree, depend, given, node_of, outcomes
from stressvm.kernel.errors import UsageError
from stressvm.kernel.kernel import members

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stressvm.explore.reorder import Reordered
    from stressvm.explore.wakeup_tree import Label
    from stressvm.kernel.kernel import Kernel

#: A piece that takes more executions is split.
PIECE: Final = 1024


class Rests(NamedTuple):
    """What the claim that all has been explored rests on; those of pieces are added up with `plus`."""

    repeated: int = 0
    untold: bool = False
    varied: bool = False
    cut: int = 0
    differ: bool = False

    def plus(self, other: Rests) -> Rests:
        """That of both."""
        return Rests(
            self.repeated + other.repeated,
            self.untold or other.untold,
            self.varied or other.varied,
            max(self.cut, other.cut),
            self.differ or other.differ,
        )

    @property
    def bounds(self) -> str:
        """See Search."""
        return f"at most {self.cut} steps" if self.cut else ""

    @property
    def provided(self) -> str:
        """See Stepwise."""
        return provided(self.repeated, untold=self.untold, varied=self.varied, differ=self.differ)


class Piece:
    """A strategy that explores one piece, and splits it if it is large.

    Attributes:
        exhausted: it has come to its end, or been split.
        children: what it has been split into, in order.
        vain: the last execution is not to be counted: it explored nothing new.

    Args:
        subtree: the piece; None: the whole tree.
        size: how many executions it may take at most.
    """

    EVERY_STEP: ClassVar[bool] = True

    def __init__(self, subtree: Subtree | None = None, size: int = PIECE) -> None:
        self.search = DPOR(subtree)
        self.size = size
        self.children: list[Subtree] = []
        self.exhausted = False
        self.vain = False
        #: It cannot be split, and is explored to its end.
        self.whole = False
        self.calls = self.blocked = 0
        self.splitting: Iterator[DPOR] | None = None
        self.current = self.search
        self.pick = self.search.pick
        self.choose = self.search.choose

    def begin(self, number: int) -> None:  # noqa: ARG002 - a piece is begun once, and goes on
        """See Strategy."""
        self.current.begin(self.calls if self.current is self.search else 0)
        self.pick = self.current.pick
        self.choose = self.current.choose
        self.blocked = self.search.blocked

    def end(self, k: Kernel) -> None:
        """See Strategy."""
        search, current = self.search, self.current
        current.end(k)
        if k.fatal is not None:
            return
        self.vain = current is not search or search.blocked > self.blocked
        if current is search:
            self.calls += 1
            if search.exhausted:
                self.exhausted = True
                return
            if self.whole or self.calls < self.size:
                return
            depth = self._depth()
            if not depth:
                self.whole = True
                return
            self.splitting = self._split(depth)
        assert self.splitting is not None
        following = next(self.splitting, None)
        if following is not None:
            self.current = following
        else:
            self.exhausted = bool(self.children)
            self.whole = not self.children
            self.current = search

    @property
    def again(self) -> Reordered | None:
        """See Stepwise."""
        return self.search.again if not self.vain else None

    @property
    def rests(self) -> Rests:
        """On what it rests that all of it, but the children, has been explored."""
        search = self.search
        return Rests(search.repeated, search.untold, search.varied, search.cut, search.accesses.vary)

    @property
    def bounds(self) -> str:
        """See Search."""
        return self.rests.bounds

    # ------------------------------------------------------------ splitting

    def _depth(self) -> int:
        """The first state with more than one thing to do; 0 if something has been explored from there already, or none is.

        Data choices made while the world is built are above all states: then nothing is split.
        """
        steps = self.search.steps
        if steps[0].arities:
            return 0
        for index in range(max(1, self.search.base + 1), len(steps) - 1):
            step = steps[index]
            if step.sleep or not step.enabled:
                return 0
            if not self.search.is_born(step) and (step.mask & (step.mask - 1) or step.arities):
                return index
        return 0

    def _split(self, depth: int) -> Iterator[DPOR]:
        """What is under way below a state, and everything else there; nothing, if not all of that depends on each other.

        What each step accesses has to be known: each is done once, as the first execution of a search that is yielded.
        """
        steps = self.search.steps
        here = steps[depth]
        before = given(steps[1:depth])
        explored = [self.search.explored(here)]
        todo: list[tuple[int, Label]] = [(t, ()) for t in members(here.mask & ~(1 << here.thread))]
        todo += [(here.thread, label) for label in outcomes(explored[0])]
        pieces = []
        for t, label in todo:
            piece = Subtree((*before, Node(t, label, [], [], [], None)), depth)
            probe = DPOR(piece)
            yield probe
            branch = probe.explored(probe.steps[depth])
            if not all(depend(branch, other) for other in explored):
                return
            explored.append(branch)
            pieces.append(piece)
            todo += [(t, other) for other in outcomes(branch)]
        top = Node(here.thread, explored[0].label, [], [], here.below, here.branch)
        self.children = [Subtree((*before, top, *(node_of(step) for step in steps[depth + 1 :])), depth), *pieces]


class SplitDPOR:
    """The search through all pieces, in order. Executions 0, 1, 2, ...; 0 starts it anew.

    Attributes:
        exhausted: after `end`: there is no further execution.
        vain: the last execution explored nothing new.
        pieces: how many have been begun.
    """

    EVERY_STEP: ClassVar[bool] = True

    def __init__(self, size: int = PIECE) -> None:
        self.size = size
        self.number = -1
        self._restart()
        self.pick = self.piece.pick
        self.choose = self.piece.choose

    def _restart(self) -> None:
        self.left: list[Subtree] = []
        self.piece = Piece(None, self.size)
        self.exhausted = False
        self.done = Rests()
        self.pieces = 1

    def begin(self, number: int) -> None:
        """See Strategy.

        Raises:
            UsageError: `number` is neither 0 nor the one after the last, or the search had come to its end.
        """
        if number == 0:
            self._restart()
        elif number != self.number + 1 or self.exhausted:
            raise UsageError(f"a search was asked for execution {number} after {self.number}: it goes on by ones")
        self.number = number
        if self.piece.exhausted:
            self.piece = Piece(self.left.pop(), self.size)
            self.pieces += 1
        self.piece.begin(number)
        self.pick = self.piece.pick
        self.choose = self.piece.choose

    def end(self, k: Kernel) -> None:
        """See Strategy."""
        piece = self.piece
        piece.end(k)
        if piece.exhausted and k.fatal is None:
            self.done = self.done.plus(piece.rests)
            self.left.extend(reversed(piece.children))
            self.exhausted = not self.left

    @property
    def vain(self) -> bool:
        """See Piece."""
        return self.piece.vain

    @property
    def again(self) -> Reordered | None:
        """See Stepwise."""
        return self.piece.again

    @property
    def rests(self) -> Rests:
        """What it rests on so far that what has been explored is all of it."""
        return self.done if self.piece.exhausted else self.done.plus(self.piece.rests)

    @property
    def bounds(self) -> str:
        """See Search."""
        return self.rests.bounds

    @property
    def provided(self) -> str:
        """See Stepwise."""
        return self.rests.provided
