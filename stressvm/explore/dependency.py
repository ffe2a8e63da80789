"""Which steps depend on each other: what a step accesses, and what else has to come before it.

A step is all that a thread does from when it is chosen to when it announces its next operation (or ends): one visible
operation, and the plain code after it. What a step accesses is what its operations say (`Op.footprint`), together with
what the code said by `k.touch`: cells that are peeked at or poked, queues looked at, objects and threads made. Two steps
*depend* on each other if they are of one thread, or access something in common that at least one of them writes; or if
one made the other possible. For the kernel's objects that comes to this:

- lock, unlock, a successful try, an upgrade, a downgrade write the lock; a failed try reads it. Readers of a
  reader-writer lock write it too: two readers are ordered, although they would not have to be.
- A load or a failed compare-and-swap reads the cell, everything else writes it.
- Going to sleep writes the queue and the interlock. A wakeup writes the queue, also if nobody sleeps there; so does a
  timeout. Getting the interlock back writes the interlock and comes after the wakeup.
- Waiting for a unit of a semaphore and putting one back write it; a failed try reads it.
- A spawned thread's first step comes after the spawn, a join after the end. Two spawns depend on each other, since
  threads are numbered in order; so do two steps that make kernel objects.
- A signal posted to a thread, and the thread's interruptible sleeps, wakeups from them and their timeouts, write what
  the thread knows of signals.
- yield, delay, choose and record access nothing. The outcomes of data choices belong to the step in which they are made.
- Timers (IDLE, NEVER): one fires when nothing else can be done. It comes after all that was done before, and what is done
  later comes after it. Which of several that are due fires first is a choice of its own: all of them are explored.
- Timers under ANYTIME: firing is a step of the sleeper. (Progress, which lets daemons' timers fire anew, depends on them.)
- A step that ends the execution (a panic, a failed assertion) depends on all others: it keeps them from being done.

What is *not* known: plain Python state that threads share and that no lock protects, or a lock that only some of them
hold. Steps that differ only in what they do to such state count as independent. State that is changed under a lock, and
read under it, is covered by the lock. `reorder.py` looks for the rest by running executions again in another order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from stressvm.kernel.op import EVERYTHING, GOES_ON, WRITE, Op, bits

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stressvm.explore.wakeup_tree import Branch, Label
    from stressvm.kernel.kernel import Kernel

#: What a step accesses, as (number, READ or WRITE).
Footprint = tuple[tuple[int, bool], ...]

NOTHING_MORE: Final = bits(GOES_ON)

#: Ends of executions that are no step of anybody's: the budget of steps is used up.
CUT: Final = frozenset({"too-long", "livelock"})


class Step:
    """A step of the execution under way, with the state in which it was chosen.

    Attributes:
        thread: whose it is; -1 for what is done before the first decision.
        label: outcomes of its data choices; `arities` how many alternatives each had, and `values` the outcomes in full.
        mask: who could be chosen.
        nth: which of its thread's steps it is, from 1 on; 0: not counted yet.
        enabled: the same, but 0 where nothing could be done and a timer had to fire.
        current: who had the baton and could have gone on; -1 for nobody.
        pend: what every thread had announced.
        op: what this one had.
        offers: what the operation's object had to offer; `others` the same for one that accesses several, by number.
        start, mark: how long the trace and the list of touches were.
        footprint, touches, writes: what it accesses, also as masks.
        previous: index of the thread's step before.
        since: index of the step after which the thread stood before this one's operation.
        before: the bits of all steps that must come before it, unless because of what both access.
        past: the bits of all steps that come before it, its own included.
        woke: the threads that it made possible.
        spent: preemptions before it.
        sleep: what has been explored from here, or from further up and could as well have come here.
        branch: what the step was taken from, if it was.
        tree: what is to be explored from here, after `below`, which is the rest of what is being explored.
    """

    __slots__ = (
        "arities",
        "before",
        "below",
        "branch",
        "current",
        "enabled",
        "footprint",
        "label",
        "mark",
        "mask",
        "nth",
        "offers",
        "op",
        "others",
        "past",
        "pend",
        "previous",
        "since",
        "sleep",
        "spent",
        "start",
        "thread",
        "touches",
        "tree",
        "values",
        "woke",
        "writes",
    )

    arities: Sequence[int]
    before: int
    below: list[Branch]
    branch: Branch | None
    current: int
    enabled: int
    footprint: Footprint
    label: Label
    mark: int
    mask: int
    nth: int
    offers: int
    op: Op
    others: dict[int, int] | None
    past: int
    pend: list[Op | None]
    previous: int
    since: int
    sleep: list[Branch]
    spent: int
    start: int
    thread: int
    touches: int
    tree: list[Branch]
    values: Sequence[int]
    woke: Sequence[int]
    writes: int


def take_footprint(step: Step, k: Kernel) -> None:
    """Note what a step has accessed that has just come to its end."""
    trace = k.trace
    touched = k.touched
    start = step.start
    if len(trace) == start + 1 and len(touched) == step.mark:
        op = trace[start][1]
        step.footprint = op.footprint
        step.touches = op.touches
        step.writes = op.writes
        return
    if len(trace) == start and len(touched) == step.mark:
        # A thread has started: nothing has been done yet.
        step.footprint = ()
        step.touches = step.writes = 0
        return
    footprint = [access for _, op, _ in trace[start:] for access in op.footprint]
    footprint += [(number, write) for _, _, number, write in touched[step.mark :]]
    set_footprint(step, tuple(dict.fromkeys(footprint)))


def set_footprint(step: Step, footprint: Footprint) -> None:
    """What a step accesses."""
    step.footprint = footprint
    step.touches = NOTHING_MORE
    step.writes = 0
    for number, write in footprint:
        step.touches |= bits(number)
        if write:
            step.writes |= bits(number)


def ends_all(step: Step) -> None:
    """The step has ended the execution: none that was left out of it can be done any more."""
    set_footprint(step, ((EVERYTHING, WRITE),))
