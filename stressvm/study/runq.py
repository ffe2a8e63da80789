"""Run queues: which of the threads that could run gets the next CPU."""

from __future__ import annotations

from collections import deque
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from stressvm.study.proc import Proc


class RunQueue(Protocol):
    """The threads that wait for a CPU."""

    def push(self, proc: Proc) -> None:
        """A thread has become runnable, or its quantum is over."""

    def push_front(self, proc: Proc) -> None:
        """A thread was preempted: it goes before those of its like."""

    def pop(self) -> Proc:
        """Who runs next; there is somebody."""

    def __len__(self) -> int:
        """How many wait."""


class FifoQueue:
    """First come, first served."""

    def __init__(self) -> None:
        self.procs: deque[Proc] = deque()
        self.push = self.procs.append
        self.push_front = self.procs.appendleft
        self.pop = self.procs.popleft

    def __len__(self) -> int:
        """How many wait."""
        return len(self.procs)


class PriorityQueue:
    """The most urgent, first come, first served among equals."""

    def __init__(self) -> None:
        self.procs: list[tuple[int, int, Proc]] = []
        self.last = 0
        self.first = 0

    def push(self, proc: Proc) -> None:
        """See RunQueue."""
        self.last += 1
        heappush(self.procs, (-proc.priority, self.last, proc))

    def push_front(self, proc: Proc) -> None:
        """See RunQueue."""
        self.first -= 1
        heappush(self.procs, (-proc.priority, self.first, proc))

    def pop(self) -> Proc:
        """See RunQueue."""
        return heappop(self.procs)[2]

    def __len__(self) -> int:
        """How many wait."""
        return len(self.procs)


#: By the name that a `Machine` gives.
QUEUES: dict[str, Callable[[], RunQueue]] = {"fifo": FifoQueue, "priority": PriorityQueue}
