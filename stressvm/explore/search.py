"""What a search is: a strategy that walks the tree of executions in an order of its own."""

from __future__ import annotations

from typing import Protocol

from stressvm.kernel.strategy import Strategy


class Search(Strategy, Protocol):
    """It takes executions 0, 1, 2, ..., one after the other, in one lane of one process."""

    @property
    def exhausted(self) -> bool:
        """After `end`: is there no further execution within the bounds?"""
        raise NotImplementedError

    @property
    def bounds(self) -> str:
        """What `exhausted` is relative to, in words, as "at most 2 preemptions"; "" for nothing."""
        raise NotImplementedError
