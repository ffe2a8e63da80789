"""Grant policies: who gets a lock that becomes free. Values, given to a lock; no protocol code branches on them.

Without a policy (`None`, the default) a lock keeps the weakest promise: when it is free, any requester may take
it, a late one too. That admits every grant any kernel makes, so a safety bug possible anywhere is possible here,
and a request is one visible operation: the queue cannot be seen. It does not admit every *refusal*, so freedom
from deadlock and starvation is shown only for the policy that was run. With a policy a contended request is two
operations: the attempt, which queues, and the resumption after the lock was handed over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stressvm.kernel.thread import Thread


class Grant(Protocol):
    """Chooses the heir of a mutex among those that sleep on it; the lock is handed over directly."""

    def heir(self, waiters: Sequence[Thread], /) -> int:
        """The index of the heir in `waiters`, which are in order of arrival and at least one."""


class Fifo:
    """The longest waiter."""

    def heir(self, _waiters: Sequence[Thread], /) -> int:
        """The first."""
        return 0


class Priority:
    """The most urgent, the longest waiter among equals: a turnstile that hands over."""

    def heir(self, waiters: Sequence[Thread], /) -> int:
        """The first of the highest priority."""
        return max(range(len(waiters)), key=lambda i: (waiters[i].priority, -i))
