"""Wakeup trees: which sequences of steps a search still has to begin with at a node, so that none of its runs is in vain.

A node of the search is a state before a step. Its tree holds sequences that were found to lead to executions of which
no equivalent has been seen, branch by branch in the order in which they will be explored; what has been explored sleeps.
A sequence is added only where no sleeping thread could as well go first in it (is a *weak initial* of it): whatever
begins with a weak initial is equivalent to something that began with that thread, and has been explored.

Source: Abdulla, Aronis, Jonsson, Sagonas, Source sets: a foundation for optimal dynamic partial order reduction
(J. ACM 64, 2017), section 5.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

#: The outcomes of the data choices in a step, as far as they are not 0: `(0, 2, 0)` is written `(0, 2)`.
Label = tuple[int, ...]


class Item(NamedTuple):
    """A step of a sequence.

    Attributes:
        bit: its own.
        thread, label: who, and with what outcomes.
        touches, writes: what it accesses, as masks.
        after: the bits of the steps of the sequence that have to come before it.
        must: the same, whatever it accesses: that of the last one is only foreseen.
    """

    bit: int
    thread: int
    label: Label
    touches: int
    writes: int
    after: int
    must: int


class Branch:
    """A step that is to be explored, and what is to follow it. It sleeps once that has been done.

    Attributes:
        thread: whose step.
        label: its outcomes.
        touches: what it accesses, or is foreseen to.
        writes: what of that it writes.
        tree: what is to follow.
        taken: the sequences that it was taken to lead to, as items and what was left of them, as far as that depends on what
            it is foreseen to access.
        done: it has been explored, so that what it accesses is known.
        arities: how many alternatives its data choices had, if it has been explored.
    """

    __slots__ = ("arities", "done", "label", "taken", "thread", "touches", "tree", "writes")

    def __init__(
        self, thread: int, label: Label, touches: int, writes: int, tree: list[Branch], *, done: bool = False
    ) -> None:
        self.done = done
        self.arities: tuple[int, ...] = ()
        self.taken: list[tuple[list[Item], int]] = []
        self.thread = thread
        self.label = label
        self.touches = touches
        self.writes = writes
        self.tree = tree


NO: Final = -2
ABSENT: Final = -1


def stripped(values: Sequence[int]) -> Label:
    """Outcomes without the zeros at the end."""
    end = len(values)
    while end and not values[end - 1]:
        end -= 1
    return tuple(values[:end])


def weak_initial(branch: Branch, items: list[Item], left: int) -> int:
    """Could a step go first in a sequence?

    Args:
        branch: the step.
        items: the sequence.
        left: the bits of what is left of it.

    Returns:
        Its index in the sequence; ABSENT if it is not in it and depends on nothing in it; NO.
    """
    thread = branch.thread
    touches = branch.touches
    writes = branch.writes
    for at, item in enumerate(items):
        if item.bit & left:
            if item.thread == thread:
                before = item.must if branch.done else item.after
                return at if item.label == branch.label and not before & left else NO
            if item.touches & writes or item.writes & touches:
                return NO
    return ABSENT


def leads_to(branch: Branch, known: Branch) -> bool:
    """Is all that is left to explore below a branch equivalent to something that begins with an explored step?

    What becomes superfluous is taken out of the branch.
    """
    if branch.thread == known.thread:
        return branch.label == known.label
    if branch.touches & known.writes or branch.writes & known.touches:
        return False
    if branch.tree:
        branch.tree[:] = [other for other in branch.tree if not leads_to(other, known)]
    return not branch.tree


def insert(tree: list[Branch], items: list[Item], left: int) -> bool:
    """Add what is left of a sequence to a tree, unless the tree leads to an equivalent of it already. Was it added?"""
    while True:
        for branch in tree:
            at = weak_initial(branch, items, left)
            if at == NO:
                continue
            if at < 0 or not branch.tree or items[at].bit != left & -left:
                branch.taken.append((items, left))
            if at >= 0:
                left &= ~items[at].bit
            if not branch.tree or not left:
                # Whatever follows is explored there; or all that was wanted is a part of what will be.
                return False
            tree = branch.tree
            break
        else:
            below: list[Branch] = []
            for item in reversed(items):
                if item.bit & left:
                    below = [Branch(item.thread, item.label, item.touches, item.writes, below)]
            tree.extend(below)
            return True
