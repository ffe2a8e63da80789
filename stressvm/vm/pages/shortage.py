"""Injected shortage: allocations that fail although there are pages.

The allocators ask at declared points, one for each call, numbered in the order in which an execution reaches them.
Whether an allocation fails there is a data choice of the schedule, so a strategy explores it and a replay repeats it.
An injected failure looks exactly like a real one: the daemon is told, and the caller waits or gives up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm.kernel.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Collection

    from stressvm.kernel.kernel import Kernel


class Shortage:
    """Decides which allocations fail. One for each world; `no_shortage` and its kin make the usual ones.

    Args:
        at: the numbers of the allocations that may fail, from 1 on; None: any.
        most: how many may fail in one execution; None: any number.
        certain: those that may fail do; nothing is chosen.

    Attributes:
        asked: how many allocations there were.
        struck: how many of them failed by injection.
    """

    __slots__ = ("asked", "at", "certain", "most", "struck")

    def __init__(self, at: Collection[int] | None = None, *, most: int | None = None, certain: bool = False) -> None:
        if at is not None and any(number < 1 for number in at):
            raise UsageError(f"Shortage(at={sorted(at)}): allocations are numbered from 1")
        if most is not None and most < 0:
            raise UsageError(f"Shortage(most={most}): there cannot be fewer than none")
        self.at = None if at is None else frozenset(at)
        self.most = most
        self.certain = certain
        self.asked = 0
        self.struck = 0

    def strikes(self, k: Kernel) -> bool:
        """An allocation is at its declared point: does it fail? A data choice, part of the caller's step."""
        self.asked += 1
        if self.at is not None and self.asked not in self.at:
            return False
        if self.most is not None and self.struck >= self.most:
            return False
        if not self.certain and not k.choose(2):
            return False
        self.struck += 1
        return True


def no_shortage() -> Shortage:
    """Allocations fail only for want of pages; they are still counted."""
    return Shortage(())


def every_allocation() -> Shortage:
    """Any allocation may fail, any number of times."""
    return Shortage()


def nth_allocation(n: int, *, certain: bool = True) -> Shortage:
    """The n-th allocation of an execution fails, or may."""
    return Shortage((n,), certain=certain)


def any_pair() -> Shortage:
    """Any two allocations of an execution may fail, and no more."""
    return Shortage(most=2)
