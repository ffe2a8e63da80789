"""Is a predicted deadlock possible? A part of the execution, reordered, that ends in it.

The idea (SPDOffline): take every step that the threads of the pattern did before the acquisitions that close the cycle,
and whatever those steps need to happen as they did; nothing else. If none of the acquisitions is among it, then doing
those steps, in the order of the execution, brings all the threads to their acquisitions, and there they wait for each
other. What a step needs (the set is closed under this):

- the steps of its thread before it, the step that started or woke its thread, the end of a thread that it has joined;
- for a load, the store that it read from; a successful compare-and-swap is both;
- of two critical sections of a lock whose acquisitions are both among it and that exclude each other, the end of the
  earlier;
- for a failed try and for queueing, the acquisition that is in its way; for anything done to a queue, a semaphore or an object that is not
  known here, everything that was done to it before.

Steps that virtual time made possible cannot be had in another order: then there is no answer.

This is sound if threads share nothing but the kernel's objects. Plain Python state that is changed under a lock is not
seen here, so a witness is the best first attempt at bringing the deadlock about, and not the proof: that is the execution.

Source: Tunç, Mathur, Pavlogiannis and Viswanathan, Sound dynamic deadlock prediction in linear time (PLDI 2023).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from stressvm.check.locks import ACQUIRES, QUEUES, Effect, Hold, effect_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stressvm.check.locks import Ways
    from stressvm.kernel.op import Event


class _Section(NamedTuple):
    """A critical section: from its first step to its last (endless if it has none), each the number of a step."""

    start: int
    end: float
    shared: bool


class Ideals:
    """What must happen before what, in one execution.

    Args:
        trace: of it.
        threads: how many there were.
        ways: follows what threads hold.
    """

    def __init__(self, trace: Sequence[Event], threads: int, ways: Ways) -> None:
        self.trace = trace
        #: The steps of each thread, in order, and the place of each step among those of its thread.
        self.own: list[list[int]] = [[] for _ in range(threads)]
        self.place: list[int] = []
        for step, (t, _, _) in enumerate(trace):
            self.place.append(len(self.own[t]) if t >= 0 else -1)
            if t >= 0:
                self.own[t].append(step)
        self.needs = _needs(trace, threads, self.own)
        #: The sections of each lock, by its number, in order.
        self.sections = _sections(trace, threads, ways)

    def before(self, acquisitions: Sequence[int]) -> tuple[int, ...] | None:
        """The steps, in order, after which the threads of these acquisitions stand before them; None if there are none.

        Args:
            acquisitions: steps of distinct threads.
        """
        trace = self.trace
        ends = {trace[step][0]: self._before(step) for step in acquisitions}
        taken = [0] * len(self.own)
        todo = list(ends.items())
        while todo:
            while todo:
                t, end = todo.pop()
                if t in ends and end > ends[t]:
                    return None
                while taken[t] < end:
                    step = self.own[t][taken[t]]
                    taken[t] += 1
                    needs = self.needs[step]
                    if needs is None:
                        return None
                    todo.extend((trace[other][0], self.place[other] + 1) for other in needs)
            todo.extend((trace[step][0], self.place[step] + 1) for step in self._releases(taken))
        return tuple(sorted(step for t, own in enumerate(self.own) for step in own[: taken[t]]))

    def _before(self, acquisition: int) -> int:
        """How many steps its thread does before it asks for the lock: to queue is part of the acquisition."""
        t, op, _ = self.trace[acquisition]
        end = self.place[acquisition]
        while end and (earlier := self.trace[self.own[t][end - 1]][1]).obj == op.obj:
            if effect_of(earlier) not in QUEUES:
                break
            end -= 1
        return end

    def _releases(self, taken: list[int]) -> list[int]:
        """Ends of sections that are missing: their lock is acquired once more after them."""
        trace = self.trace
        missing = []
        for sections in self.sections.values():
            entered = [one for one in sections if self.place[one.start] < taken[trace[one.start][0]]]
            for index, one in enumerate(entered):
                # One without an end is the last of its lock, but for those that share it.
                if one.end == math.inf or self.place[int(one.end)] < taken[trace[int(one.end)][0]]:
                    continue
                if any(not (one.shared and other.shared) for other in entered[index + 1 :]):
                    missing.append(int(one.end))
        return missing


def _needs(trace: Sequence[Event], threads: int, own: list[list[int]]) -> list[tuple[int, ...] | None]:
    """What each step needs beside those of its thread before it and ends of sections; None: it cannot be had again."""
    found: list[tuple[int, ...] | None] = []
    #: Steps that the next step of a thread needs.
    owed: list[list[int]] = [[] for _ in range(threads)]
    written: dict[int, int] = {}
    last: dict[int, int] = {}
    #: By lock, who has acquired it last, of those that still have it: for tries that fail.
    holders: dict[int, dict[int, int]] = {}
    for step, (t, op, arg) in enumerate(trace):
        effect = effect_of(op)
        number = op.obj.number
        needs: list[int] = []
        if t >= 0:
            needs, owed[t] = owed[t], []
        if effect is Effect.TIMER:
            found.append(None)
            continue
        if effect in (Effect.READ, Effect.MODIFY) and number in written:
            needs.append(written[number])
        if effect in (Effect.WRITE, Effect.MODIFY):
            written[number] = step
        if effect is Effect.REFUSED or effect in QUEUES:
            needs.extend(at for other, at in holders.get(number, {}).items() if other != t)
        if effect in ACQUIRES:
            holders.setdefault(number, {})[t] = step
        elif effect is Effect.UNLOCK:
            holders.get(number, {}).pop(t, None)
        elif effect is Effect.SLEEP:
            for lock, _ in op.accesses[1:]:
                holders.get(lock, {}).pop(t, None)
        if effect in (Effect.SLEEP, Effect.WAKE, Effect.ORDERED):
            for at, _ in op.accesses[:1] if effect is Effect.SLEEP else op.accesses:
                if at in last:
                    needs.append(last[at])
                last[at] = step
        if effect is Effect.JOIN and arg >= 0:
            needs.extend(other for other in own[arg][-1:] if other < step)
        if effect in (Effect.SPAWN, Effect.POST):
            owed[arg].append(step)
        elif effect is Effect.WAKE:
            for other in arg or ():
                owed[other].append(step)
        found.append(tuple(at for at in needs if trace[at][0] >= 0))
    return found


def _sections(trace: Sequence[Event], threads: int, ways: Ways) -> dict[int, list[_Section]]:
    """The critical sections of each lock, by its number, in order of their beginnings. An upgrade begins another."""
    found: dict[int, list[_Section]] = {}
    opened: dict[tuple[int, int], tuple[int, bool]] = {}
    for step, before, after in ways.walk(trace, threads):
        t = trace[step][0]
        was, now = _modes(before.holds), _modes(after.holds)
        for number in was.keys() | now.keys():
            if was.get(number) == now.get(number):
                continue
            if number in was:
                start, shared = opened.pop((t, number))
                found.setdefault(number, []).append(_Section(start, step, shared))
            if number in now:
                opened[t, number] = (step, now[number])
    for (_, number), (start, shared) in opened.items():
        found.setdefault(number, []).append(_Section(start, math.inf, shared))
    for sections in found.values():
        sections.sort()
    return found


def _modes(holds: tuple[Hold, ...]) -> dict[int, bool]:
    return {hold.lock.number: hold.shared for hold in holds}
