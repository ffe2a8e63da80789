"""The wait point of a map: who waits for addresses there, what a policy makes of it, and how it went."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm.study.policies import Space, Waiter

if TYPE_CHECKING:
    from collections.abc import Callable

    from stressvm.kernel.kernel import Kernel
    from stressvm.kernel.waitq import WaitQueue
    from stressvm.study.policies import WakePolicy


class WaitPoint:
    """Bookkeeping of the sleepers for addresses of one map, and its measures.

    Attributes:
        asking: those who have failed and not got their addresses yet, in order of their first failure.
        asleep: of them, who sleeps, in order of going to sleep.
        deciding: who has failed and not gone to sleep yet.
        called: who has been woken by choice, and has not looked again yet.
        reserved: places handed over: by thread, [start, end).
        wakeups: threads woken by choice, in all.
        wasted: of them, who had to sleep again.
        successes: requests that got addresses; `waited` of them after a sleep.
        timeouts: sleeps that ended by the recheck.
        overtakes: for every success, those that had failed before it asked and still wait.
    """

    def __init__(self, k: Kernel, policy: WakePolicy) -> None:
        self.k = k
        self.policy = policy
        self.asking: dict[int, Waiter] = {}
        self.asleep: dict[int, Waiter] = {}
        self.deciding: set[int] = set()
        self.called: set[int] = set()
        self.woken: set[int] = set()
        self.reserved: dict[int, tuple[int, int]] = {}
        self.freed = (0, 0)
        self.wakeups = 0
        self.wasted = 0
        self.successes = 0
        self.waited = 0
        self.timeouts = 0
        self.overtakes = 0

    def fails(self, size: int) -> None:
        """The current thread has found no room, and is about to sleep."""
        k = self.k
        me = k.cur
        self.deciding.add(me)
        if me in self.woken:
            self.woken.discard(me)
            self.wasted += 1
        if me not in self.asking:
            self.asking[me] = Waiter(me, size, k.now, k.threads[me].priority)

    def sleeps(self) -> None:
        """The current thread goes to sleep."""
        me = self.k.cur
        self.deciding.discard(me)
        waiter = self.asking[me]
        waiter.sleeps += 1
        self.asleep[me] = waiter

    def awake(self, *, timed_out: bool) -> None:
        """The current thread sleeps no more."""
        self.asleep.pop(self.k.cur, None)
        self.timeouts += timed_out

    def take_call(self) -> bool:
        """Has the current thread been chosen since it looked last?"""
        me = self.k.cur
        if me in self.called:
            self.called.discard(me)
            return True
        return False

    def over(self, *, got: bool) -> None:
        """The current thread's request is over."""
        me = self.k.cur
        self.deciding.discard(me)
        self.called.discard(me)
        self.woken.discard(me)
        if got:
            self.successes += 1
            self.waited += me in self.asking
            for t in self.asking:
                if t == me:
                    break
                self.overtakes += 1
        self.asking.pop(me, None)

    async def wake(self, queue: WaitQueue, space: Callable[[], Space], place: Callable[[Waiter], int | None]) -> None:
        """Addresses have been freed. Locks: those under which sleepers go to sleep on `queue`. Sleeps: no.

        Args:
            queue: they sleep there.
            space: the map as it is.
            place: where a waiter would fit, and nobody else has a place: for policies that hand over.
        """
        # Who is about to sleep has not seen what was freed: it must look again.
        self.called |= self.deciding
        for t in await queue.wake_these(lambda: self._choose(space(), place)):
            self.wakeups += 1
            self.called.add(t)
            self.woken.add(t)
            self.asleep.pop(t, None)

    def _choose(self, space: Space, place: Callable[[Waiter], int | None]) -> list[int]:
        threads = self.k.threads
        while self.asleep:
            chosen = list(self.policy.chosen(self.asleep.values(), space))
            stale = [one for one in chosen if threads[one.thread].sleep is None]
            if not stale:
                return [one.thread for one in chosen if self._placed(one, place)]
            for one in stale:
                # Its time was over before, it only has not come to say so.
                del self.asleep[one.thread]
        return []

    def _placed(self, one: Waiter, place: Callable[[Waiter], int | None]) -> bool:
        if not self.policy.hands_over:
            return True
        start = place(one)
        if start is None:
            return False
        self.reserved[one.thread] = (start, start + one.size)
        return True

    def own_place(self, size: int) -> int | None:
        """What the current thread has been handed, if it asks for that size; it is taken with that."""
        me = self.k.cur
        place = self.reserved.get(me)
        if place is None or place[1] - place[0] != size:
            return None
        del self.reserved[me]
        return place[0]

    def taken(self, start: int, size: int) -> int | None:
        """The end of a place handed to somebody that this range overlaps, or None."""
        return min((high for low, high in self.reserved.values() if low < start + size and start < high), default=None)
