"""Pieces of a search's tree that can be explored apart from each other: what a search splits into, and what workers are lent.

Optimal partial order reduction finds out on its way what is left to try, near the root as well. So its tree cannot be cut
like that of depth-first search. It can where the next steps of all threads that could go on depend on each other: no
execution that begins with one of them is equivalent to one that begins with another. All of them have to be tried, none
sleeps while another is explored, and what is below each is a search of its own. Threads that contend for a lock stand so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from stressvm.explore.wakeup_tree import stripped

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from stressvm.explore.dependency import Step
    from stressvm.explore.wakeup_tree import Branch, Label


class Node(NamedTuple):
    """A step of the path to where a piece begins, as `Step` has it."""

    thread: int
    label: Label
    sleep: list[Branch]
    tree: list[Branch]
    below: list[Branch]
    branch: Branch | None


class Subtree(NamedTuple):
    """A piece of a tree.

    Attributes:
        path: the steps to where it goes on, from the first decision on.
        base: how many of them are given: at their states everything else is others' affair.
    """

    path: tuple[Node, ...]
    base: int


def node_of(step: Step) -> Node:
    """A step as it stands, with what is left to try."""
    return Node(step.thread, step.label, step.sleep, step.tree, step.below, step.branch)


def given(steps: Sequence[Step]) -> tuple[Node, ...]:
    """Steps at whose states nothing is left to try for the one who is given them."""
    return tuple(Node(step.thread, stripped(step.values) or step.label, [], [], [], None) for step in steps)


def depend(one: Branch, other: Branch) -> bool:
    """Do two explored steps depend on each other?"""
    return one.thread == other.thread or bool(one.touches & other.writes or one.writes & other.touches)


def outcomes(branch: Branch) -> Iterator[Label]:
    """How the data choices of an explored step could have come out otherwise, from the first one that was 0 by default on."""
    arities = branch.arities
    values = branch.label + (0,) * (len(arities) - len(branch.label))
    for at in range(len(branch.label), len(arities)):
        for value in range(1, arities[at]):
            yield stripped((*values[:at], value))
