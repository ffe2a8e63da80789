"""Who gets a lock that becomes free, on the simulated machine: a value of the machine, for all of its locks.

A lock of the kernel's default promise may go to anybody who asks; the machine decides who that is. Under a policy that
hands over, the heir has the lock at once, whether or not it has a CPU: nobody can come in between, a trylock fails. Locks
with a policy of their own (`Mutex(grant=...)`, `NetBSDRwLock`) do as they say, and the machine only runs who has been granted.

A user's own policy is a class with the two methods of `LockGrant`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

#: Spin for a lock as long as its holder is on a CPU, then sleep: what adaptive mutexes do.
ADAPTIVE: Final = -1


@dataclass(frozen=True, slots=True)
class Request:
    """A thread that waits for a lock: its number, whether it wants it alone, its priority, whether it spins."""

    thread: int
    alone: bool
    priority: int
    spins: bool


class LockGrant(Protocol):
    """Decides when a lock is released to waiters, and whether a newcomer must queue behind them.

    Attributes:
        hands_over: the chosen have the lock at once; else they are woken, and the first who comes gets it.
    """

    hands_over: bool

    def chosen(self, waiters: Sequence[Request], /) -> Sequence[int]:
        """Indices of those who get it (or are woken), of those who could have it now: at least one, in order of arrival."""

    def queues(self, newcomer: Request, waiters: Collection[Request], /) -> bool:
        """Must one who could have the lock queue behind those who wait? Asked only if somebody does.

        Of a newcomer it is asked with all who wait; at a release, of a waiter with those before it who cannot have the lock.
        """


def _first(waiters: Sequence[Request]) -> Sequence[int]:
    """The first, and if it shares, all sharers that follow it at once."""
    if waiters[0].alone:
        return (0,)
    sharing = 1
    while sharing < len(waiters) and not waiters[sharing].alone:
        sharing += 1
    return range(sharing)


def _sharers(waiters: Sequence[Request]) -> Sequence[int]:
    return [at for at, one in enumerate(waiters) if not one.alone]


class Barging:
    """A release wakes the longest waiter (of readers, all), but whoever comes first has the lock: the kernels' own habit.

    One that spins has it before one that sleeps.
    """

    hands_over = False

    def chosen(self, waiters: Sequence[Request], /) -> Sequence[int]:
        """A spinner, or the first."""
        for at, one in enumerate(waiters):
            if one.spins:
                return (at,)
        return _first(waiters) if waiters[0].alone else _sharers(waiters)

    def queues(self, _newcomer: Request, _waiters: Collection[Request], /) -> bool:
        """Never."""
        return False


class Fifo:
    """In order of arrival, nobody overtakes: the lock is handed over."""

    hands_over = True

    def chosen(self, waiters: Sequence[Request], /) -> Sequence[int]:
        """The first."""
        return _first(waiters)

    def queues(self, _newcomer: Request, _waiters: Collection[Request], /) -> bool:
        """Always."""
        return True


class HandOff:
    """Handed over to the most urgent waiter; a newcomer may have the lock only when nobody who waits could."""

    hands_over = True

    def chosen(self, waiters: Sequence[Request], /) -> Sequence[int]:
        """The first of the highest priority."""
        return (max(range(len(waiters)), key=lambda at: (waiters[at].priority, -at)),)

    def queues(self, _newcomer: Request, _waiters: Collection[Request], /) -> bool:
        """If the lock could be had, it has been handed over already: what is left may share it."""
        return False


class WriterPreference:
    """Writers first, in order of arrival; a reader queues while a writer waits."""

    hands_over = True

    def chosen(self, waiters: Sequence[Request], /) -> Sequence[int]:
        """The first writer, or all readers."""
        return next(((at,) for at, one in enumerate(waiters) if one.alone), tuple(range(len(waiters))))

    def queues(self, newcomer: Request, waiters: Collection[Request], /) -> bool:
        """A reader behind a writer."""
        return not newcomer.alone and any(one.alone for one in waiters)


class ReaderPreference:
    """All readers that wait, at once; a writer only if there are none. Writers may starve."""

    hands_over = True

    def chosen(self, waiters: Sequence[Request], /) -> Sequence[int]:
        """All readers, or the first writer."""
        return _sharers(waiters) or (0,)

    def queues(self, newcomer: Request, _waiters: Collection[Request], /) -> bool:
        """A writer behind anybody."""
        return newcomer.alone


BARGING: Final = Barging()

#: By name, for tables and command lines.
GRANTS: Final[dict[str, LockGrant]] = {
    "barging": BARGING,
    "fifo": Fifo(),
    "hand-off": HandOff(),
    "writer-preference": WriterPreference(),
    "reader-preference": ReaderPreference(),
}
