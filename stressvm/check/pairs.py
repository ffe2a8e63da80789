"""Which two things executions have brought together: what a search has met, in terms of the program.

Two kinds of pairs. Locks: one was held when another was acquired. Meetings: a thread stood before a lock that another
one held, told by the functions that the two run. A hunt that meets no new pairs for long has seen what its program can
do to its locks; two functions that use one lock and never met have not been tried against each other.

Who stood before a lock is told by the trace: from its last step until it gets the lock a thread stands there, and so it
was kept waiting by everybody who gave the lock up in between. At the end those are added that still stand there. What is the
first step of a thread is left out, so there may be more meetings than are told.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final, NamedTuple

from stressvm.check.locks import QUEUES, SHARES, WAITS, Ways, effect_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stressvm.check.locks import Hold
    from stressvm.kernel.kernel import Kernel
    from stressvm.kernel.op import ObjectId

#: A thread is nowhere before its first step: when it starts is not in the trace.
NOT_YET: Final = sys.maxsize

#: Every one of so many first executions is looked at, later ever fewer: which ones, depends on numbers alone.
ALL_OF_FIRST: Final = 128
LATER_EVERY: Final = 64


def is_looked_at(number: int) -> bool:
    """Is that execution looked at for pairs?"""
    return number < ALL_OF_FIRST or not number % LATER_EVERY


class Pair(NamedTuple):
    """Two things that came together.

    Attributes:
        lock: where a thread stood and waited for it; "" for a pair of locks.
        one: the lock that was held; the function of the thread that waited.
        other: the lock that was acquired with it held; the function of the thread that held what was waited for.
    """

    lock: str
    one: str
    other: str


#: No step changes anything any more.
_NO_MORE: Final = (-1, Ways().free, Ways().free)


class Pairs:
    """Looks at one execution after another; nothing but what it takes to do that fast is kept between them."""

    def __init__(self) -> None:
        self.ways = Ways()

    def look(self, k: Kernel) -> frozenset[Pair]:
        """The pairs of an execution that has ended, whose threads have not been unwound."""
        trace = k.trace
        threads = len(k.threads)
        self.ways.seen(trace, threads)
        follow = _Follow([th.coro.__qualname__ for th in k.threads])
        changes = self.ways.walk(trace, threads)
        step, before, after = next(changes, _NO_MORE)
        for at, (t, _, _) in enumerate(trace):
            if at == step:
                follow.changed(t, at, before.holds, after.holds)
                step, before, after = next(changes, _NO_MORE)
            follow.last[t] = at
        for th in k.threads:
            op = k.pend[th.number]
            if not th.done and op is not None and (effect := effect_of(op)) in WAITS | QUEUES:
                follow.stands(th.number, op.obj, shared=effect in SHARES)
        return frozenset(follow.found)


class _Follow:
    """Who holds what, and who gave it up when.

    Attributes:
        found: pairs.
        last: each thread's last step; one more for the builder of the world.
    """

    def __init__(self, functions: list[str]) -> None:
        self.functions = functions
        self.found: set[Pair] = set()
        self.last = [NOT_YET] * (len(functions) + 1)
        #: By lock and thread: whether it is held shared; and when it was given up, and whether it had been shared.
        self.holding: dict[int, dict[int, bool]] = {}
        self.gave: dict[int, dict[int, tuple[int, bool]]] = {}

    def changed(self, t: int, at: int, before: Sequence[Hold], after: Sequence[Hold]) -> None:
        """By its step number `at`, what a thread holds has changed."""
        if len(after) > len(before):
            got = after[-1]
            for hold in before:
                self.found.add(Pair("", hold.lock.name, got.lock.name))
            for other, (when, shared) in self.gave.get(got.lock.number, {}).items():
                if other != t and when > self.last[t] and not (shared and got.shared):
                    self._met(t, got.lock, other)
        held = {hold.lock.number for hold in after}
        for hold in before:
            if hold.lock.number not in held:
                self.holding[hold.lock.number].pop(t, None)
                self.gave.setdefault(hold.lock.number, {})[t] = (at, hold.shared)
        for hold in after:
            self.holding.setdefault(hold.lock.number, {})[t] = hold.shared

    def stands(self, t: int, lock: ObjectId, *, shared: bool) -> None:
        """At the end a thread still stands before a lock."""
        for other, also_shared in self.holding.get(lock.number, {}).items():
            if other != t and not (shared and also_shared):
                self._met(t, lock, other)

    def _met(self, t: int, lock: ObjectId, other: int) -> None:
        if t >= 0 and other >= 0:
            self.found.add(Pair(lock.name, self.functions[t], self.functions[other]))
